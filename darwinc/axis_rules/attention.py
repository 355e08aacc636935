"""Attention in one node: heads and their dimensions are the two factors of the hidden axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Contraction, Follower, Ids, Implied, Tracked, fixed, fixed_like
from darwinc.axis_rules.elementwise import broadcast
from darwinc.axis_rules.weighted import Operand, meet

NOT_SILENT = "queries meet keys along this axis, and neither is zero there"
POSITIONS = "attends over this axis"
PACKED = "takes queries, keys and values in a layout that isn't followed"


@dataclass(frozen=True, eq=False)
class Heads:
    """The factors of the hidden axes: query heads, key heads, and the dimensions of each, of queries and of values.

    `shared` query heads use one key head; where that is 1, both are the same heads.
    """

    queries: Ids
    keys: Ids
    dims: Ids
    values: Ids

    @property
    def shared(self) -> int:
        """Query heads per key head."""
        return len(self.queries) // len(self.keys)


def _heads(flow: Flow, node: ir.Node, counts: tuple[int, int], dims: Ids, values: Ids) -> Heads:
    """Factors for (query, key) heads: with grouped queries whole groups go, or the same places of all groups."""
    keys = flow.fresh(counts[1])
    if counts[0] == counts[1]:
        return Heads(keys, keys, dims, values)
    if counts[1] < 1 or counts[0] % counts[1]:
        raise ValueError("query heads that don't share key heads evenly")
    queries = flow.positions(counts[0])
    flow.product(keys, flow.fresh(counts[0] // counts[1]), queries.reshape(counts[1], -1), node)
    return Heads(queries, keys, dims, values)


def _split(flow: Flow, node: ir.Node, hidden: Axis, heads: Ids, dims: Ids) -> None:
    """A hidden axis is heads x dimensions."""
    if hidden is None:
        raise ValueError("a hidden axis of unknown size")
    flow.product(heads, dims, hidden.reshape(len(heads), len(dims)), node)


def _follow(flow: Flow, node: ir.Node, **counts: Ids) -> None:
    """Attributes that say how many heads there are."""
    for name, ids in counts.items():
        if name in node.attributes:
            flow.followers.append(Follower(node, name, None, ids))


def _keep_scale(flow: Flow, node: ir.Node, dims: Ids) -> None:
    """Scores are divided by the root of the number of dimensions, unless an attribute says otherwise."""
    scale = node.attributes.get("scale")
    if scale is None or (scale.as_float() == 0 and not graph.is_standard(node)):
        flow.implied.append(Implied(node, "scale", 1 / math.sqrt(len(dims)), dims))


def attention(flow: Flow, node: ir.Node) -> None:
    """Attention of the standard: Q [B, S, Hq*D] or [B, Hq, S, D], keys and values alike, a mask and a cache."""
    sides = [flow.tracked(node, index) for index in range(3)]
    known = [side for side in sides if side is not None]
    if len(known) < 3 or len({len(side.axes) for side in known}) > 1:
        flow.barrier(node, UNKNOWN_INPUT if len(known) < 3 else PACKED)
        return
    flat = len(known[0].axes) == 3
    heads = _flat_heads(flow, node, known) if flat else _stacked_heads(flow, node, known)
    _follow(flow, node, q_num_heads=heads.queries, kv_num_heads=heads.keys)
    query, _, value = known
    positions = -2 if not flat else 1
    made = _attend(flow, node, heads, known, [side.axes[positions] for side in known], mask=3, cache=(4, 5))
    output = _hidden_out(flow, node, heads, value.axes[-1]) if flat else heads.values
    silent = heads.shared == 1 and value.is_silent(len(value.axes) - 1)
    if flat:
        flow.put(node, (query.axes[0], made, output), silent=(False, False, silent and _cache_is_silent(flow, node, 5)))
    else:
        by_head = heads.shared == 1 and value.is_silent(1) and _cache_is_silent(flow, node, 5)
        by_dim = value.is_silent(3) and _cache_is_silent(flow, node, 5)
        flow.put(node, (query.axes[0], heads.queries, made, output), silent=(False, by_head, False, by_dim))
    _put_cache(flow, node, heads, query.axes[0], first=1)
    sizes = flow.shape(node.outputs[3] if len(node.outputs) > 3 else None)
    flow.put(node, (query.axes[0], heads.queries, made, *fixed_like(sizes[3:] if sizes else (None,))), output=3)
    _count(flow, node, query, known[1].axes[positions])


def _flat_heads(flow: Flow, node: ir.Node, sides: Sequence[Tracked]) -> Heads:
    counts = graph.integer(node, "q_num_heads", 0), graph.integer(node, "kv_num_heads", 0)
    hidden = [side.axes[2] for side in sides]
    query, value = hidden[0], hidden[2]
    if query is None or value is None or 0 in counts:
        raise ValueError("heads of unknown size")
    dims, values = flow.fresh(len(query) // counts[0]), flow.fresh(len(value) // counts[1])
    heads = _heads(flow, node, counts, dims, values)
    for ids, rows, columns in zip(hidden, (heads.queries, heads.keys, heads.keys), (dims, dims, values), strict=True):
        _split(flow, node, ids, rows, columns)
    return heads


def _stacked_heads(flow: Flow, node: ir.Node, sides: Sequence[Tracked]) -> Heads:
    query, key, value = sides
    rows, columns, dims, values = query.axes[1], key.axes[1], query.axes[3], value.axes[3]
    if rows is None or columns is None or dims is None or values is None:
        raise ValueError("heads of unknown size")
    heads = _heads(flow, node, (len(rows), len(columns)), dims, values)
    for one, two in ((heads.queries, rows), (heads.keys, columns), (heads.keys, value.axes[1]), (dims, key.axes[3])):
        flow.tie(one, two, node)
    return heads


def _attend(
    flow: Flow,
    node: ir.Node,
    heads: Heads,
    sides: Sequence[Tracked],
    positions: Sequence[Axis],
    *,
    mask: int,
    cache: tuple[int, int],
) -> Axis:
    """What queries, keys and values have to do with each other, whatever their layout; the axis of query positions."""
    query, key, value = sides
    own, *others = positions
    flow.block_all(others, node, POSITIONS)
    if graph.integer(node, "is_causal", 0) or graph.integer(node, "unidirectional", 0):
        flow.block(own, node, POSITIONS)
    flow.tie(query.axes[0], key.axes[0], node)
    flow.tie(query.axes[0], value.axes[0], node)
    last, met = len(query.axes) - 1, query.axes[-1]
    if not (query.is_silent(last) or (key.is_silent(last) and _cache_is_silent(flow, node, cache[0]))):
        flow.block(heads.dims, node, NOT_SILENT)
    elif met is not None:
        flow.contractions.append(Contraction(node, (0, last), (1, last), met))
    _keep_scale(flow, node, heads.dims)
    bias = flow.tracked(node, mask)
    if bias is not None:
        flow.block(bias.axes[-1], node, POSITIONS)
        scores = (query.axes[0], heads.queries, own, bias.axes[-1])
        broadcast(flow, node, [scores, bias.axes])
    for index, dims in zip(cache, (heads.dims, heads.values), strict=True):
        past = flow.tracked(node, index)
        if past is not None:
            for one, two in zip((query.axes[0], heads.keys, dims), (past.axes[a] for a in (0, 1, 3)), strict=True):
                flow.tie(one, two, node)
            flow.block(past.axes[2], node, POSITIONS)
    return own


def _count(flow: Flow, node: ir.Node, query: Tracked, keys: Axis) -> None:
    """MACs of scores and of weighted sums: every query meets every key."""
    number = len(keys) if keys is not None else 1
    flow.multiply(node, query.axes, number)
    flow.multiply(node, flow.values[str(node.outputs[0].name)].axes, number)


def _cache_is_silent(flow: Flow, node: ir.Node, index: int) -> bool:
    past = flow.tracked(node, index)
    return past is None or (past.is_silent(1) and past.is_silent(3))


def _hidden_out(flow: Flow, node: ir.Node, heads: Heads, value: Axis) -> Axis:
    """The hidden axis of the result: that of the values, unless query heads outnumber key heads."""
    if heads.shared == 1:
        return value
    made = flow.positions(len(heads.queries) * len(heads.values))
    flow.product(heads.queries, heads.values, made.reshape(len(heads.queries), -1), node)
    return made


def _put_cache(flow: Flow, node: ir.Node, heads: Heads, batch: Axis, first: int) -> None:
    for output, dims in ((first, heads.dims), (first + 1, heads.values)):
        sizes = flow.shape(node.outputs[output] if output < len(node.outputs) else None)
        flow.put(node, (batch, heads.keys, *fixed_like(sizes[2:3] if sizes else (None,)), dims), output=output)


def multi_head(flow: Flow, node: ir.Node) -> None:
    """com.microsoft MultiHeadAttention: query, key, value [B, S, H*D], a bias [3*H*D], key mask, bias of scores."""
    sides = [flow.tracked(node, index) for index in range(3)]
    known = [side for side in sides if side is not None]
    if len(known) < 3 or any(len(side.axes) != 3 for side in known):
        flow.barrier(node, PACKED)
        return
    number = graph.integer(node, "num_heads", 1)
    query, _, value = known
    hidden = [side.axes[2] for side in known]
    if hidden[0] is None or hidden[2] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    dims, values = flow.fresh(len(hidden[0]) // number), flow.fresh(len(hidden[2]) // number)
    heads = _heads(flow, node, (number, number), dims, values)
    for ids, columns in zip(hidden, (dims, dims, values), strict=True):
        _split(flow, node, ids, heads.keys, columns)
    _follow(flow, node, num_heads=heads.keys)
    bias, silent = flow.tracked(node, 3), True
    if bias is not None:
        _tie_bias(flow, node, bias, hidden)
        silent = bias.is_silent(0)
        if not silent:
            flow.block(dims, node, "adds a bias to what queries and keys are compared by")
    _attend(flow, node, heads, known, [side.axes[1] for side in known], mask=5, cache=(6, 7))
    silent = silent and value.is_silent(2) and _cache_is_silent(flow, node, 7)
    flow.put(node, (query.axes[0], query.axes[1], value.axes[2]), silent=(False, False, silent))
    _count(flow, node, query, known[1].axes[1])
    _put_cache(flow, node, heads, query.axes[0], first=1)


def _tie_bias(flow: Flow, node: ir.Node, bias: Tracked, parts: Sequence[Axis]) -> None:
    sizes = [len(ids) for ids in parts if ids is not None]
    if bias.axes[0] is None or len(sizes) < len(parts):
        raise ValueError("a bias of unknown size")
    for ids, own in zip(parts, np.split(bias.axes[0], np.cumsum(sizes)[:-1]), strict=True):
        flow.tie(ids, own, node)


def grouped_query(flow: Flow, node: ir.Node) -> None:
    """com.microsoft GroupQueryAttention: heads go; the kernels want dimensions in multiples of eight."""
    counts = graph.integer(node, "num_heads", 0), graph.integer(node, "kv_num_heads", 0)
    query, key, value = (flow.tracked(node, index) for index in range(3))
    if query is None or query.axes[-1] is None or 0 in counts or len(node.inputs) > 12:
        flow.barrier(node, PACKED)
        return
    parts: list[Axis] = [query.axes[2]]
    if key is None or value is None:
        size = len(query.axes[-1]) // (counts[0] + 2 * counts[1])
        parts = list(np.split(query.axes[-1], [counts[0] * size, (counts[0] + counts[1]) * size]))
    else:
        parts = [query.axes[2], key.axes[2], value.axes[2]]
    first = parts[0]
    dims = flow.fresh(len(first) // counts[0]) if first is not None else None
    if dims is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.block(dims, node, "wants dimensions of heads in multiples of eight")
    heads = _heads(flow, node, counts, dims, dims)
    for ids, rows in zip(parts, (heads.queries, heads.keys, heads.keys), strict=True):
        _split(flow, node, ids, rows, dims)
    _follow(flow, node, num_heads=heads.queries, kv_num_heads=heads.keys)
    for index in (3, 4):
        past = flow.tracked(node, index)
        if past is not None:
            flow.tie(heads.keys, past.axes[1], node)
            flow.block_all((past.axes[0], *past.axes[2:]), node, POSITIONS)
    bias, sink = flow.tracked(node, 10), flow.tracked(node, 11)
    if bias is not None:
        broadcast(flow, node, [(query.axes[0], heads.queries, query.axes[1], bias.axes[3]), bias.axes])
    if sink is not None:
        flow.tie(heads.queries, sink.axes[0], node)
    flow.block_all(query.axes[:2], node, POSITIONS)
    hidden = _hidden_out(flow, node, heads, parts[2])
    flow.put(node, (*query.axes[:2], hidden))
    _put_cache(flow, node, heads, query.axes[0], first=1)


def projected(flow: Flow, node: ir.Node) -> None:
    """com.microsoft Attention: input [B, S, I] times weights [I, H*D + H*D + H*V] plus bias, then attention."""
    data, weight, bias = (flow.tracked(node, index) for index in range(3))
    if data is None or weight is None or weight.axes[1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    number, sizes = graph.integer(node, "num_heads", 1), graph.integers(node, "qkv_hidden_sizes")
    widths = sizes or [len(weight.axes[1]) // 3] * 3
    query, key, value = np.split(weight.axes[1], np.cumsum(widths)[:-1])
    dims = flow.fresh(len(query) // number)
    values = flow.fresh(len(value) // number) if sizes else dims
    heads = _heads(flow, node, (number, number), dims, values)
    for ids, columns in ((query, dims), (key, dims), (value, values)):
        _split(flow, node, ids, heads.keys, columns)
    for element, ids in enumerate((query, key, value) if sizes else ()):
        flow.followers.append(Follower(node, "qkv_hidden_sizes", element, ids))
    _follow(flow, node, num_heads=heads.keys)
    meet(flow, node, Operand(0, data, 2), Operand(1, weight, 0))
    silent = weight.is_silent(1)
    if bias is not None:
        flow.tie(weight.axes[1], bias.axes[0], node)
        silent = silent and bias.is_silent(0)
    if not silent:
        flow.block(dims, node, NOT_SILENT)
    if graph.integer(node, "do_rotary", 0):
        flow.block(dims, node, "rotates pairs of dimensions")
    _keep_scale(flow, node, dims)
    _tie_projected_extras(flow, node, heads, data)
    flow.put(node, (data.axes[0], data.axes[1], value), silent=(False, False, silent))
    whole = flow.shape(node.outputs[1] if len(node.outputs) > 1 else None)
    length = fixed_like(whole[3:4] if whole else (None,))
    flow.put(node, (fixed(2), data.axes[0], heads.keys, *length, dims), output=1)
    flow.multiply(node, weight.axes, flow.extent(data.axes[:2]))
    positions = len(data.axes[1]) if data.axes[1] is not None else 1
    for ids in (query, value):
        flow.multiply(node, (data.axes[0], data.axes[1], ids), positions)


def _tie_projected_extras(flow: Flow, node: ir.Node, heads: Heads, data: Tracked) -> None:
    """The cache [2, B, H, P, D] and the bias of scores [B, H, S, T] of com.microsoft Attention."""
    flow.block(data.axes[1], node, POSITIONS)
    past, bias = flow.tracked(node, 4), flow.tracked(node, 5)
    if past is not None:
        flow.tie(heads.keys, past.axes[2], node)
        flow.block_all((*past.axes[:2], past.axes[3]), node, POSITIONS)
        flow.block_all((past.axes[4], heads.dims), node, "meets a cache")
    if bias is not None:
        broadcast(flow, node, [(data.axes[0], heads.keys, data.axes[1], bias.axes[3]), bias.axes])


def rotary(flow: Flow, node: ir.Node) -> None:
    """RotaryEmbedding: heads pass; the two dimensions of a pair, and their sine and cosine, go together.

    X is [B, H, S, D] or [B, S, H*D]; the caches are [positions, D/2] or [B, S, D/2].
    """
    data = flow.tracked(node, 0)
    caches = (1, 2) if graph.is_standard(node) else (2, 3)
    tables = [flow.tracked(node, index) for index in caches]
    if data is None or tables[0] is None or tables[1] is None or len(data.axes) not in (3, 4):
        flow.barrier(node, UNKNOWN_INPUT)
        return
    last, pairs = data.axes[-1], tables[0].axes[-1]
    if last is None or pairs is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    dims = last
    rotated = graph.integer(node, "rotary_embedding_dim", 0)
    if len(data.axes) == 3:
        number = graph.integer(node, "num_heads", 0) or len(last) // (2 * len(pairs))
        heads, dims = flow.fresh(number), flow.fresh(len(last) // number)
        _split(flow, node, last, heads, dims)
        _follow(flow, node, num_heads=heads)
    turning = dims[: rotated or len(dims)]
    halves = turning.reshape(-1, 2).T if graph.integer(node, "interleaved", 0) else turning.reshape(2, -1)
    first, second = (np.ascontiguousarray(half) for half in halves)
    flow.tie(first, second, node)
    for table in tables:
        if table is not None:
            flow.tie(first, table.axes[-1], node)
            flow.block_all(table.axes[:-1], node, "is a table of positions")
    if rotated:
        flow.followers.append(Follower(node, "rotary_embedding_dim", None, turning))
    flow.block(data.axes[1 if len(data.axes) == 3 else 2], node, "is rotated by its place")
    flow.put(node, data.axes, silent=data.all_silent())
