"""Which moves there are, and whole models from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.random_graphs import (
    attention,
    blocks,
    control,
    convolution,
    dense,
    fused_attention,
    layout,
    normalisation,
    pointwise,
    quantised,
    recurrent,
    sequences,
    verbs,
)
from tests.random_graphs.builder import BATCH, TALLEST, Builder

OPSETS = (9, 11, 12, 13, 17, 18, 20, 21, 23, 23)
LAST = 4
"""Moves start from one of the last few values, so that graphs become deep."""

Move = Callable[[Builder, str], str | None]
"""Takes a value that is there and makes another; None where it can't."""


class Inapplicable(Exception):
    """A move can't be made where it was asked for."""


MAP_MOVES: tuple[Move, ...] = (
    convolution.convolve, convolution.convolve, convolution.grouped, convolution.grouped_in_a_row,
    convolution.depthwise, convolution.transposed, convolution.fused, convolution.squeeze_and_excite,
    convolution.gated, convolution.computed_kernel,
    normalisation.normalise, normalisation.group_norm, normalisation.channels_last_norm,
    normalisation.across, normalisation.summed, normalisation.ordered,
    dense.dense_last, dense.gemm, attention.windows, quantised.convolve, quantised.rounded, quantised.whole,
    control.choose,
    pointwise.unary, pointwise.clip, pointwise.gelu, pointwise.rectify, pointwise.combine, pointwise.combine,
    pointwise.attend_pixels, pointwise.where, pointwise.detour,
    layout.concat, layout.concat, layout.split, layout.shuffled_halves, layout.slice_, layout.reverse, layout.pick,
    layout.pad, layout.shortcut, layout.shuffle, layout.depth_to_space, layout.space_to_depth, layout.merge_patches,
    layout.pool, layout.reduce, layout.resize, layout.expand, layout.tile, layout.repeat, layout.squeeze,
    layout.channels_last, layout.there_and_back,
    sequences.flatten, sequences.flatten, sequences.patches, sequences.zeros_like,
)  # fmt: skip

SEQUENCE_MOVES: tuple[Move, ...] = (
    attention.attend, attention.attend, attention.cross, attention.channel_attention, fused_attention.attend,
    blocks.mix, blocks.mix,
    recurrent.recur, recurrent.recur,
    dense.project, dense.feed_forward, dense.feed_forward, dense.mix_tokens, dense.convolve_tokens,
    normalisation.layer_norm, normalisation.rms_norm, normalisation.skip_norm, normalisation.summed,
    normalisation.ordered,
    quantised.rounded, quantised.whole,
    control.choose,
    pointwise.unary, pointwise.clip, pointwise.gelu, pointwise.rectify, pointwise.combine, pointwise.combine,
    pointwise.attend_pixels, pointwise.where, pointwise.detour,
    layout.concat, layout.split, layout.shuffled_halves, layout.slice_, layout.reverse, layout.pick, layout.pad,
    layout.shuffle, layout.reduce, layout.expand, layout.tile, layout.repeat, layout.there_and_back,
    sequences.to_map, sequences.class_token, sequences.positions, sequences.zeros_like, sequences.pool_tokens,
    sequences.attend_pool, sequences.roll,
)  # fmt: skip


@st.composite
def random_models(draw: Callable[[st.SearchStrategy[Any]], Any], most: int = 10) -> onnx.ModelProto:
    """A model of up to `most` moves from input `x`: images [2 or N, C, 8, 8], tokens [.., T] or signals [.., T, D]."""
    return build(lambda low, high: int(draw(st.integers(low, high))), most)


def build(number: Callable[[int, int], int], most: int, move: Move | None = None) -> onnx.ModelProto:
    """The model that a source of integers leads to; `move` is made first, as often as it takes to get at it.

    Raises:
        Inapplicable: `move` can't be made here.
    """
    b = Builder(number, OPSETS[number(0, len(OPSETS) - 1)], number(0, 1) == 1, np.random.default_rng(number(0, 2**31)))
    start = b.choose(_STARTS)(b)
    b.values.append(b.values[0] if move is None else _made(b, move))
    for _ in range(b.number(0 if move else 1, most)):
        x = b.choose(b.values[-LAST:])
        if b.coin():
            # Many moves hold the channels that they read: a layer of its own gives the next one channels to lose.
            x = convolution.convolve(b, x) if len(b.shapes[x]) == 4 else dense.project(b, x)
            b.values.append(x)
        made = b.choose(MAP_MOVES if len(b.shapes[x]) == 4 else SEQUENCE_MOVES)(b, x)
        if made is not None:
            b.values.append(made)
    read = {name for node in b.nodes for name in _reads(node)}
    outputs = [_head(b, name) for name in dict.fromkeys(b.values) if name not in read]
    if b.number(0, 9) == 9:
        outputs += [name for name in (b.choose(b.values),) if name in read]
    return b.model([start], outputs)


def _made(b: Builder, move: Move) -> str:
    ranks = [rank for rank, moves in ((4, MAP_MOVES), (3, SEQUENCE_MOVES)) if move in moves]
    x = b.values[0]
    if len(b.shapes[x]) not in ranks:
        x = (sequences.flatten if ranks == [3] else sequences.to_map)(b, x) or x
        b.values.append(x)
    made = move(b, x) if len(b.shapes[x]) in ranks else None
    if made is None:
        raise Inapplicable
    return made


def _reads(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node and of those in its bodies."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return [*node.input, *(name for body in bodies for inner in body.node for name in _reads(inner))]


# Beginnings and ends -------------------------------------------------------------------------------------------------


def _images(b: Builder) -> onnx.ValueInfoProto:
    b.shapes["x"] = (BATCH, b.number(1, 4), TALLEST, TALLEST)
    b.values.append(convolution.convolve(b, "x"))
    return b.tensor("x")


def _signals(b: Builder) -> onnx.ValueInfoProto:
    b.shapes["x"] = (BATCH, b.choose((4, 6, 9)), b.number(2, 6))
    b.values.append(dense.project(b, "x"))
    return b.tensor("x")


def _tokens(b: Builder) -> onnx.ValueInfoProto:
    """Whole numbers, and a table with a row for each."""
    t, d = b.choose((4, 6, 9)), b.number(2, 12)
    b.shapes["x"] = (BATCH, t)
    b.values.append(sequences.positions(b, b.add("Gather", [b.weight((WORDS, d), 1), "x"], (BATCH, t, d))))
    return helper.make_tensor_value_info("x", TensorProto.INT64, ["N" if b.symbolic else BATCH, t])


WORDS = 7
_STARTS = (_images, _images, _signals, _tokens)


def _head(b: Builder, x: str) -> str:
    """Three classes, for pixels or tokens or all together; or words, by the table they came from; or `x` itself."""
    shape = b.shapes[x]
    if b.number(0, 9) == 9:
        return verbs.unary(b, "Identity", x)
    if len(shape) == 4 and b.coin():
        return b.add("Conv", [x, b.weight((3, shape[1], 1, 1), shape[1])], (shape[0], 3, *shape[2:]))
    if len(shape) == 3 and b.coin():
        return verbs.matmul(b, x, b.weight((shape[2], 3), shape[2]))
    if len(shape) == 3 and (WORDS, shape[2]) in b.vectors and b.coin():
        table = b.choose(b.vectors[WORDS, shape[2]])
        return verbs.matmul(b, x, verbs.transpose(b, table, [1, 0]))
    size = int(np.prod(shape[1:]))
    flat = b.add("Flatten", [x], (shape[0], size))
    return b.add("Gemm", [flat, b.weight((size, 3), size), b.vector(3)], (shape[0], 3))
