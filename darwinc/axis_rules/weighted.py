"""Operators that mix channels through a weight: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Contraction, Follower, Ids, Reader, Tracked, is_fixed
from darwinc.axis_rules.elementwise import broadcast
from darwinc.axis_rules.windows import spatial_axes

COMPUTED = "two computed tensors are multiplied along this axis"
INTEGERS = "sums over this axis with integer weights, which are left as they are"
KEEP_ZERO = frozenset({"", "Relu", "LeakyRelu", "Tanh", "Selu", "Elu"})
"""Activations of ONNX Runtime's fused operators that leave zeros zero."""


@dataclass(frozen=True)
class Places:
    """Where an operator takes its operands: input numbers, None for what it doesn't take.

    `quantised` says that the operator works on quantised numbers.
    """

    data: int = 0
    weight: int = 1
    bias: int | None = 2
    residual: int | None = 3
    quantised: bool = False


def convolution(flow: Flow, node: ir.Node) -> None:
    """Conv, weight [O, I/g, *kernel]: the outputs are the weight's rows.

    FusedConv adds an activation and a residual.
    """
    convolve(flow, node, Places())


def transposed_convolution(flow: Flow, node: ir.Node) -> None:
    """ConvTranspose, weight [I, O/g, *kernel]."""
    convolve(flow, node, Places(), transposed=True)


def convolve(flow: Flow, node: ir.Node, places: Places, *, transposed: bool = False) -> None:
    """A convolution whose operands are at `places`."""
    data, weight = flow.tracked(node, places.data), flow.tracked(node, places.weight)
    if data is None or weight is None or len(data.axes) < 3 or len(weight.axes) < 3:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    groups = graph.integer(node, "group", 1)
    channels, (rows, columns, *kernel) = data.axes[1], weight.axes
    if channels is None or rows is None or columns is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.block_all(data.axes[2:], node, "slides over this axis")
    flow.pin(kernel)
    if groups == 1:
        inputs, outputs = (rows, columns) if transposed else (columns, rows)
        _contract(flow, node, data, weight, inputs, int(not transposed), places)
    else:
        outputs = _grouped(flow, node, data, weight, groups, places, transposed=transposed)
    bias = _optional(flow, node, places.bias)
    if bias is not None:
        flow.tie(bias.axes[0], outputs, node)
    silent = weight.is_silent(int(transposed)) and (bias is None or bias.is_silent(0)) and _keeps_zero(node)
    extents = [len(ids) if ids is not None else 1 for ids in kernel]
    axes = (data.axes[0], outputs, *spatial_axes(flow, node, data.axes[2:], extents, transposed=transposed))
    residual = _optional(flow, node, places.residual)
    if residual is not None:
        axes = broadcast(flow, node, [axes, residual.axes])
        silent = silent and residual.is_silent(1)
    flow.put(node, axes, silent=(False, silent))
    swept = data.axes if transposed else axes
    flow.multiply(node, weight.axes, flow.extent((swept[0], *swept[2:])))


def _optional(flow: Flow, node: ir.Node, index: int | None) -> Tracked | None:
    return None if index is None else flow.tracked(node, index)


def _keeps_zero(node: ir.Node) -> bool:
    return graph.text(node, "activation", "") in KEEP_ZERO


def _grouped(
    flow: Flow, node: ir.Node, data: Tracked, weight: Tracked, groups: int, places: Places, *, transposed: bool
) -> Ids:
    """Groups x channels of a group: whole groups may go, or the same places in every group. The outputs."""
    channels, rows, columns = data.axes[1], weight.axes[0], weight.axes[1]
    if channels is None or rows is None or columns is None:
        raise ValueError("a grouped convolution over axes of unknown size")
    if len(channels) == groups:
        return _depthwise(flow, node, channels, rows, columns, transposed=transposed)
    whole = flow.positions(groups)
    flow.followers.append(Follower(node, "group", None, whole))
    inputs, outputs = (rows, columns) if transposed else (columns, rows)
    if transposed:
        flow.tie(channels, inputs, node)
        local = flow.positions(len(rows) // groups)
        made = flow.positions(groups * len(outputs))
        flow.product(whole, outputs, made.reshape(groups, -1), node)
        outputs = made
    else:
        local = inputs
        flow.product(whole, flow.positions(len(rows) // groups), outputs.reshape(groups, -1), node)
    flow.product(whole, local, channels.reshape(groups, -1), node)
    reader = Reader(node, places.data, 1, places.weight, int(not transposed), groups, channels)
    _read(flow, node, data, weight, reader, quantised=places.quantised)
    return outputs


def _depthwise(flow: Flow, node: ir.Node, channels: Ids, rows: Ids, columns: Ids, *, transposed: bool) -> Ids:
    """One input channel and its outputs, of which there may be several, are one group of the convolution."""
    flow.followers.append(Follower(node, "group", None, channels))
    flow.depthwise.append(channels)
    if transposed:
        flow.tie(channels, rows, node)
        flow.block(columns, node, "is shared by all groups")
        return np.repeat(channels, len(columns))
    for column in rows.reshape(len(channels), -1).T:
        flow.tie(channels, np.ascontiguousarray(column), node)
    return rows


def _contract(
    flow: Flow, node: ir.Node, data: Tracked, weight: Tracked, inputs: Ids, axis: int, places: Places
) -> None:
    channels = data.axes[1]
    if channels is None:
        raise ValueError("a convolution over an axis of unknown size")
    flow.tie(channels, inputs, node)
    reader = Reader(node, places.data, 1, places.weight, axis, 1, channels)
    _read(flow, node, data, weight, reader, quantised=places.quantised)


def _read(flow: Flow, node: ir.Node, data: Tracked, weight: Tracked, reader: Reader, *, quantised: bool) -> None:
    axis = reader.weight_axis
    if weight.constant and weight.is_silent(axis):
        flow.readers.append(reader)
    elif weight.is_silent(axis) or data.is_silent(1):
        flow.contractions.append(Contraction(node, (reader.data, 1), (reader.weight, axis), reader.ids))
    else:
        flow.block(reader.ids, node, _why_whole(data, weight, quantised=quantised))


def _why_whole(left: Tracked, right: Tracked, *, quantised: bool) -> str:
    """Why an axis that is summed over stays: neither side is zero where positions were removed."""
    return INTEGERS if quantised and (left.constant or right.constant) else COMPUTED


@dataclass(frozen=True)
class Operand:
    """One side of a matrix product, and the axis that the product sums over."""

    index: int
    tracked: Tracked
    axis: int

    @property
    def inner(self) -> Axis:
        """The positions that meet in the sum."""
        return self.tracked.axes[self.axis]

    @property
    def is_silent(self) -> bool:
        """Does the sum lose nothing with a removed position?"""
        return self.tracked.is_silent(self.axis)


def gemm(flow: Flow, node: ir.Node) -> None:
    """Gemm: A' [M, K] times B' [K, N] plus C, broadcast. FusedGemm adds an activation."""
    scale_and_add(flow, node, Places())


def scale_and_add(flow: Flow, node: ir.Node, places: Places) -> None:
    """A Gemm whose operands are at `places`."""
    left, right = flow.tracked(node, places.data), flow.tracked(node, places.weight)
    if left is None or right is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    across, down = graph.integer(node, "transA", 0), graph.integer(node, "transB", 0)
    rows, columns = left.axes[across], right.axes[1 - down]
    sides = Operand(places.data, left, 1 - across), Operand(places.weight, right, down)
    meet(flow, node, *sides, quantised=places.quantised)
    bias = _optional(flow, node, places.bias)
    silent = [left.is_silent(across), right.is_silent(1 - down)]
    if bias is not None:
        broadcast(flow, node, [(rows, columns), bias.axes])
        added = _silent_of_bias(bias, (rows, columns))
        silent = [one and two for one, two in zip(silent, added, strict=True)]
    if not _keeps_zero(node):
        silent = [False, False]
    flow.put(node, (rows, columns), silent=silent)
    _multiply(flow, node, (rows, columns), (left.axes[1 - across], right.axes[down]))


def _silent_of_bias(bias: Tracked, axes: Sequence[Axis]) -> list[bool]:
    silent = []
    for place in range(-len(axes), 0):
        own, whole = (bias.axes[place] if len(bias.axes) >= -place else None), axes[place]
        alike = own is not None and whole is not None and len(own) == len(whole)
        silent.append(alike and bias.is_silent(len(bias.axes) + place))
    return silent


def matmul(flow: Flow, node: ir.Node) -> None:
    """MatMul, with numpy's broadcasting of the leading axes and its rule for vectors."""
    left, right = flow.tracked(node, 0), flow.tracked(node, 1)
    if left is None or right is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    multiply(flow, node, left, right)


def fused_matmul(flow: Flow, node: ir.Node) -> None:
    """FusedMatMul: a MatMul whose operands may be transposed."""
    left, right = flow.tracked(node, 0), flow.tracked(node, 1)
    batch = any(graph.integer(node, name, 0) for name in ("transBatchA", "transBatchB"))
    if left is None or right is None or batch or min(len(left.axes), len(right.axes)) < 2:
        flow.barrier(node, UNKNOWN_INPUT if left is None or right is None else "transposes the batch")
        return
    multiply(
        flow,
        node,
        left,
        right,
        turned=(bool(graph.integer(node, "transA", 0)), bool(graph.integer(node, "transB", 0))),
    )


def multiply(
    flow: Flow,
    node: ir.Node,
    left: Tracked,
    right: Tracked,
    turned: tuple[bool, bool] = (False, False),
    places: tuple[int, int] = (0, 1),
    quantised: bool = False,
) -> None:
    """Put the product of two stacks of matrices, each `turned` or not, which are inputs `places`."""
    rows, summed = _matrix_axes(len(left.axes), turned=turned[0], left=True)
    columns, down = _matrix_axes(len(right.axes), turned=turned[1], left=False)
    a, b = left.axes, right.axes
    meet(flow, node, Operand(places[0], left, summed), Operand(places[1], right, down), quantised=quantised)
    batch = broadcast(flow, node, [a[:-2], b[:-2]])
    result = [*batch]
    silent = [
        any(_silent_in_batch(side, place, axis) for side in (left, right))
        for place, axis in zip(range(-len(batch), 0), batch, strict=True)
    ]
    for tracked, axis in ((left, rows), (right, columns)):
        if axis is not None:
            result.append(tracked.axes[axis])
            silent.append(tracked.is_silent(axis))
    flow.put(node, result, silent=silent)
    _multiply(flow, node, result, (a[summed], b[down]))


def _matrix_axes(rank: int, *, turned: bool, left: bool) -> tuple[int | None, int]:
    """The axis that stays and the one that is summed over; a vector has only the latter."""
    if rank == 1:
        return None, 0
    last = left != turned
    return (rank - 2, rank - 1) if last else (rank - 1, rank - 2)


def _silent_in_batch(side: Tracked, place: int, axis: Axis) -> bool:
    """A stack of products is zero where either stack is; `place` counts from the end of the batch axes."""
    own = len(side.axes) - 2 + place
    if own < 0 or axis is None:
        return False
    ids = side.axes[own]
    return ids is not None and len(ids) == len(axis) and side.is_silent(own)


def _multiply(flow: Flow, node: ir.Node, result: Sequence[Axis], summed: tuple[Axis, Axis]) -> None:
    """One MAC for every element of the result and every position of the axes that meet in the sum."""
    inner = summed[0] if summed[0] is not None else summed[1]
    sizes = flow.shape(node.outputs[0]) or (1,) * len(result)
    unknown = [size or 1 for size, ids in zip(sizes, result, strict=True) if ids is None]
    flow.multiply(node, (*result, inner), math.prod(unknown))


def meet(flow: Flow, node: ir.Node, left: Operand, right: Operand, *, quantised: bool = False) -> None:
    """The axes that a matrix product sums over: exact when one side is zero where positions were removed."""
    flow.tie(left.inner, right.inner, node)
    if not (left.is_silent or right.is_silent):
        why = _why_whole(left.tracked, right.tracked, quantised=quantised)
        flow.block_all((left.inner, right.inner), node, why)
        return
    data, weight = (left, right) if right.tracked.constant else (right, left)
    if data.inner is None or data.tracked.constant or is_fixed(data.inner):
        return
    if weight.tracked.constant and weight.is_silent:
        flow.readers.append(Reader(node, data.index, data.axis, weight.index, weight.axis, 1, data.inner))
    else:
        flow.contractions.append(Contraction(node, (left.index, left.axis), (right.index, right.axis), data.inner))
