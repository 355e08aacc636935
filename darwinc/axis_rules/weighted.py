"""Operators that mix channels through a weight: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import Axis, Flow, Follower, Ids, Reader, Tracked, fixed_like
from darwinc.axis_rules.elementwise import broadcast

COMPUTED = "two computed tensors are multiplied along this axis"
UNKNOWN = "the shape of its input is unknown"


def convolution(flow: Flow, node: ir.Node) -> None:
    """Conv, weight [O, I/g, *kernel]: the outputs are the weight's rows."""
    _convolve(flow, node, transposed=False)


def transposed_convolution(flow: Flow, node: ir.Node) -> None:
    """ConvTranspose, weight [I, O/g, *kernel]."""
    _convolve(flow, node, transposed=True)


def _convolve(flow: Flow, node: ir.Node, *, transposed: bool) -> None:
    data, weight = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or weight is None or len(data.axes) < 3 or len(weight.axes) < 3:
        flow.barrier(node, UNKNOWN)
        return
    groups = graph.integer(node, "group", 1)
    channels, (rows, columns, *kernel) = data.axes[1], weight.axes
    if channels is None or rows is None or columns is None:
        flow.barrier(node, UNKNOWN)
        return
    flow.block_all(data.axes[2:], node, "slides over this axis")
    flow.pin(kernel)
    inputs, outputs = (rows, columns) if transposed else (columns, rows)
    if groups > 1 and len(channels) == groups:
        outputs = _whole_groups(flow, node, channels, inputs, outputs, transposed=transposed)
    else:
        _contract(
            flow,
            node,
            weight,
            channels,
            inputs if transposed else np.tile(inputs, groups),
            groups,
            axis=0 if transposed else 1,
        )
        _balance(flow, node, (channels, rows), groups)
        outputs = np.tile(outputs, groups) if transposed else outputs
    bias = flow.axes(node, 2)
    if bias is not None:
        flow.tie(bias[0], outputs, node)
    sizes = flow.shape(node.outputs[0])
    flow.put(node, (data.axes[0], outputs, *(fixed_like(sizes[2:]) if sizes else (None,) * len(kernel))))
    flow.multiply(node, weight.axes, flow.extent(node.inputs[0] if transposed else node.outputs[0]))


def _whole_groups(flow: Flow, node: ir.Node, channels: Ids, inputs: Ids, outputs: Ids, *, transposed: bool) -> Ids:
    """Depthwise, with any multiplier: one input channel and its outputs are one group of the convolution."""
    flow.followers.append(Follower(node, "group", None, channels))
    if transposed:
        flow.tie(channels, inputs, node)
        flow.block(outputs, node, "is shared by all groups")
        return np.repeat(channels, len(outputs))
    for column in outputs.reshape(len(channels), -1).T:
        flow.tie(channels, column, node)
    return outputs


def _contract(
    flow: Flow, node: ir.Node, weight: Tracked, channels: Ids, columns: Ids, groups: int, *, axis: int
) -> None:
    flow.tie(channels, columns, node)
    if weight.weight:
        flow.readers.append(Reader(node, 0, 1, 1, axis, groups, channels))
    else:
        flow.block(channels, node, COMPUTED)


def _balance(flow: Flow, node: ir.Node, axes: Sequence[Ids], groups: int) -> None:
    """Every group must lose as many as the others; the same local positions go from each."""
    for ids in axes if groups > 1 else ():
        local = ids.reshape(groups, -1)
        flow.tie(np.broadcast_to(local[0], local[1:].shape).ravel(), local[1:].ravel(), node)


@dataclass(frozen=True)
class _Operand:
    index: int
    tracked: Tracked
    axis: int

    @property
    def inner(self) -> Axis:
        return self.tracked.axes[self.axis]


def gemm(flow: Flow, node: ir.Node) -> None:
    """Gemm: A' [M, K] times B' [K, N] plus C, broadcast."""
    left, right = flow.tracked(node, 0), flow.tracked(node, 1)
    if left is None or right is None:
        flow.barrier(node, UNKNOWN)
        return
    across, down = graph.integer(node, "transA", 0), graph.integer(node, "transB", 0)
    rows, columns = left.axes[across], right.axes[1 - down]
    _meet(flow, node, _Operand(0, left, 1 - across), _Operand(1, right, down))
    bias = flow.axes(node, 2)
    if bias is not None:
        broadcast(flow, node, [(rows, columns), bias])
    flow.put(node, (rows, columns))
    _multiply(flow, node, (rows, columns), (left.axes[1 - across], right.axes[down]))


def matmul(flow: Flow, node: ir.Node) -> None:
    """MatMul, with numpy's broadcasting of the leading axes and its rule for vectors."""
    left, right = flow.tracked(node, 0), flow.tracked(node, 1)
    if left is None or right is None:
        flow.barrier(node, UNKNOWN)
        return
    a, b = left.axes, right.axes
    _meet(flow, node, _Operand(0, left, len(a) - 1), _Operand(1, right, max(len(b) - 2, 0)))
    batch = broadcast(flow, node, [a[:-2], b[:-2]])
    result = (*batch, *a[-2:-1], *b[-1:][: len(b) - 1])
    flow.put(node, result)
    _multiply(flow, node, result, (a[-1], b[max(len(b) - 2, 0)]))


def _multiply(flow: Flow, node: ir.Node, result: Sequence[Axis], summed: tuple[Axis, Axis]) -> None:
    """One MAC for every element of the result and every position of the axes that meet in the sum."""
    inner = summed[0] if summed[0] is not None else summed[1]
    sizes = flow.shapes.assumed.get(str(node.outputs[0].name), (1,) * len(result))
    unknown = [size or 1 for size, ids in zip(sizes, result, strict=True) if ids is None]
    flow.multiply(node, (*result, inner), math.prod(unknown))


def _meet(flow: Flow, node: ir.Node, left: _Operand, right: _Operand) -> None:
    """The axes that a matrix product sums over: exact when one side is a weight, whose removed part is zero."""
    flow.tie(left.inner, right.inner, node)
    if left.tracked.weight == right.tracked.weight:
        flow.block_all((left.inner, right.inner), node, COMPUTED)
        return
    data, weight = (left, right) if right.tracked.weight else (right, left)
    if data.inner is not None:
        flow.readers.append(Reader(node, data.index, data.axis, weight.index, weight.axis, 1, data.inner))
