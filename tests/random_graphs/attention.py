"""Attention on sequences [N, T, D] in the ways that exporters write it, and on windows of maps [N, C, H, W]."""

from __future__ import annotations

import numpy as np

from tests.random_graphs import heads, normalisation, verbs
from tests.random_graphs.builder import Builder
from tests.random_graphs.dense import linear, normal
from tests.random_graphs.heads import Sizes

FAR = -1e4
"""What a mask adds where nobody may look."""


def attend(b: Builder, x: str) -> str:
    """Self-attention with a norm before it and the residual stream around it, or bare."""
    if b.coin():
        return _attend(b, x, x, heads.some_sizes(b), None if b.rarely() else b.number(2, 12))
    inner = normal(b, x)
    return verbs.binary(b, "Add", x, _attend(b, inner, inner, heads.some_sizes(b), b.shapes[x][2]))


def cross(b: Builder, x: str) -> str:
    """Queries of one sequence, keys and values of another."""
    context = b.choose([other for other in b.values if len(b.shapes[other]) == 3])
    return _attend(b, x, context, heads.some_sizes(b), b.shapes[x][2])


def _attend(b: Builder, x: str, context: str, sizes: Sizes, width: int | None, window: int | None = None) -> str:
    """[N, T, width]; without a width, the heads as they are, merged."""
    query, key, value = heads.project(b, x, context, sizes)
    query, key = _placed(b, query, key, sizes)
    key, value = heads.share(b, key, sizes.heads), heads.share(b, value, sizes.heads)
    if b.rarely() and window is None:
        mixed = b.choose((_stacked, _linear))(b, query, key, value)
    else:
        scores = _biased(b, _scores(b, query, key), window)
        mixed = _mixed(b, verbs.softmax(b, scores), value)
    merged = heads.merge_heads(b, mixed)
    return merged if width is None else linear(b, merged, width)


def _placed(b: Builder, query: str, key: str, sizes: Sizes) -> tuple[str, str]:
    """Rotary positions, norms per head, or neither; on both sides alike."""
    way = b.number(0, 5)
    if way == 0 and sizes.key % 2 == 0:
        return heads.rotate(b, query), heads.rotate(b, key)
    if way == 1:
        return normal(b, query), normal(b, key)
    if way == 2:
        return _unit(b, query), _unit(b, key)
    return query, key


def _unit(b: Builder, x: str) -> str:
    """Cosine attention: divided by its length."""
    if b.rarely():
        return b.add("LpNormalization", [x], b.shapes[x], axis=3, p=2)
    length = verbs.reduce(b, "ReduceL2", x, [-1])
    return verbs.binary(b, "Div", x, verbs.binary(b, b.choose(("Max", "Add")), length, b.scalar(0.1)))


def _scores(b: Builder, query: str, key: str) -> str:
    """[N, heads, T, S]: the products, scaled before or after."""
    way = b.number(0, 4)
    if way == 0:
        factor = b.scalar(b.shapes[query][3] ** -0.25)
        query, key = verbs.binary(b, "Mul", query, factor), verbs.binary(b, "Mul", key, factor)
    elif way == 1:
        query = _scaled(b, query, query)
    product = _product(b, query, key)
    return _scaled(b, product, query) if way in (2, 3) else product


def _product(b: Builder, query: str, key: str) -> str:
    if b.opset >= 12 and b.rarely():
        shape = (*b.shapes[query][:3], b.shapes[key][2])
        return b.add("Einsum", [query, key], shape, equation="nhtd,nhsd->nhts")
    return verbs.matmul(b, query, verbs.transpose(b, key, [0, 1, 3, 2]))


def _scaled(b: Builder, x: str, query: str) -> str:
    """By the root of the size of a head, a constant or computed from a shape."""
    size = b.shapes[query][3]
    if b.coin():
        return verbs.binary(b, "Mul", x, b.scalar(size**-0.5))
    if b.coin():
        return verbs.binary(b, "Div", x, b.scalar(size**0.5))
    number = verbs.unary(b, "Cast", verbs.size_at(b, verbs.shape_of(b, query), 3), to=1)
    if b.coin():
        return verbs.binary(b, "Div", x, verbs.unary(b, "Sqrt", number))
    return verbs.binary(b, "Mul", x, verbs.binary(b, "Pow", number, b.constant(np.asarray(-0.5, np.float32))))


def _biased(b: Builder, scores: str, window: int | None) -> str:
    """Masks and biases, some of them one per head."""
    _, count, t, s = b.shapes[scores]
    way = b.number(0, 5) if window is None else 5
    causal = np.tril(np.ones((t, s), np.bool_))
    if way == 0:
        return verbs.binary(b, "Add", scores, b.constant(np.where(causal, 0, FAR).astype(np.float32)[None, None]))
    if way == 1:
        return b.add("Where", [b.constant(causal), scores, b.scalar(FAR)], b.shapes[scores])
    if way == 2:
        return verbs.binary(b, "Mul", scores, b.weight((count, 1, 1), 1))
    if way == 3:
        slopes, distance = b.positive((count, 1, 1)), np.arange(s, dtype=np.float32)[None]
        return verbs.binary(b, "Add", scores, verbs.binary(b, "Mul", slopes, b.constant(-distance)))
    if way == 4:
        return scores
    return verbs.binary(b, "Add", scores, _relative(b, count, t, s, window))


def _relative(b: Builder, count: int, t: int, s: int, window: int | None) -> str:
    """A table [distances, heads], picked at each pair of places, with the heads moved to the front."""
    if window is None:
        distances = np.arange(t)[:, None] - np.arange(s)[None] + s - 1
        reach = t + s - 1
    else:
        places = np.stack(np.divmod(np.arange(t), window))
        apart = places[:, :, None] - places[:, None] + window - 1
        distances, reach = apart[0] * (2 * window - 1) + apart[1], (2 * window - 1) ** 2
    table = b.weight((reach, count), 1)
    if b.coin():
        picked = b.add("Gather", [table, b.integers(distances.ravel().tolist())], (t * s, count), axis=0)
        picked = verbs.reshape(b, picked, (t, s, count), batch=None)
    else:
        picked = b.add("Gather", [table, b.constant(distances)], (t, s, count), axis=0)
    bias = verbs.transpose(b, picked, [2, 0, 1])
    if b.rarely():
        bias = verbs.binary(b, "Mul", verbs.unary(b, "Sigmoid", bias), b.scalar(16))
    return verbs.unsqueeze(b, bias, [0]) if b.coin() else bias


def _mixed(b: Builder, weights: str, value: str) -> str:
    if b.opset >= 12 and b.rarely():
        shape = (*b.shapes[weights][:3], b.shapes[value][3])
        return b.add("Einsum", [weights, value], shape, equation="nhts,nhsd->nhtd")
    return verbs.matmul(b, weights, value)


def _stacked(b: Builder, query: str, key: str, value: str) -> str:
    """torch.bmm: batch and heads in one axis."""
    n, count, t, _ = b.shapes[query]
    query, key, value = (verbs.reshape(b, part, (n * count, *b.shapes[part][2:])) for part in (query, key, value))
    scores = verbs.matmul(b, query, verbs.transpose(b, key, [0, 2, 1]))
    if b.coin():
        size = b.shapes[value][2]
        apart = verbs.reshape(b, scores, (n, count, *b.shapes[scores][1:]))
        masked = verbs.binary(b, "Add", apart, b.scalar(0.1))
        scores = verbs.reshape(b, masked, (n * count, *b.shapes[scores][1:]))
        return verbs.reshape(b, verbs.matmul(b, verbs.softmax(b, scores), value), (n, count, t, size))
    mixed = verbs.matmul(b, verbs.softmax(b, scores), value)
    return verbs.reshape(b, mixed, (n, count, t, b.shapes[mixed][2]))


def _linear(b: Builder, query: str, key: str, value: str) -> str:
    """Linear attention: keys and values are multiplied first."""
    normal_key = verbs.softmax(b, verbs.transpose(b, key, [0, 1, 3, 2]))
    return verbs.matmul(b, query, verbs.matmul(b, normal_key, value))


def channel_attention(b: Builder, x: str) -> str:
    """Restormer, XCA: every channel of a head looks at the others."""
    sizes = heads.some_sizes(b)
    sizes = Sizes(sizes.heads, sizes.heads, sizes.key, sizes.key)
    parts = heads.project(b, x, x, sizes)
    query, key, value = (verbs.transpose(b, part, [0, 1, 3, 2]) for part in parts)
    scores = verbs.binary(b, "Mul", _product(b, _unit(b, query), _unit(b, key)), b.weight((sizes.heads, 1, 1), 1))
    mixed = verbs.transpose(b, verbs.matmul(b, verbs.softmax(b, scores), value), [0, 1, 3, 2])
    return linear(b, heads.merge_heads(b, mixed), b.shapes[x][2])


def windows(b: Builder, x: str) -> str | None:
    """Swin: a map in windows, attention in each with a table of relative positions, and back; rolled or not."""
    n, c, h, w = b.shapes[x]
    side = 2
    if h % side or w % side:
        return None
    rows, columns = h // side, w // side
    last = verbs.transpose(b, x, [0, 2, 3, 1])
    last = _roll(b, last) if b.coin() else last
    wide = verbs.reshape(b, last, (n, rows, side, columns, side, c))
    apart = verbs.transpose(b, wide, [0, 1, 3, 2, 4, 5])
    tokens = verbs.reshape(b, apart, (n * rows * columns, side * side, c))
    sizes = heads.some_sizes(b)
    inner = normalisation.layer_norm(b, tokens) if b.coin() else tokens
    mixed = linear(b, _attend(b, inner, inner, sizes, None, side), c)
    back = verbs.reshape(b, mixed, (n, rows, columns, side, side, c))
    joined = verbs.reshape(b, verbs.transpose(b, back, [0, 1, 3, 2, 4, 5]), (n, h, w, c))
    made = verbs.transpose(b, joined, [0, 3, 1, 2])
    return verbs.binary(b, "Add", x, made) if b.coin() else made


def _roll(b: Builder, x: str) -> str:
    """Pixels [N, H, W, C] moved round by one on both axes."""
    for axis in (1, 2):
        size = b.shapes[x][axis]
        x = verbs.concat(b, [verbs.slice_(b, x, axis, 1, size), verbs.slice_(b, x, axis, 0, 1)], axis)
    return x
