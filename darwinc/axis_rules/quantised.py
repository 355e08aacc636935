"""Operators on quantised numbers: an integer stands for (integer - zero point) * scale, per tensor or per channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Tracked, fixed, fixed_like
from darwinc.axis_rules import layout
from darwinc.axis_rules.elementwise import broadcast
from darwinc.axis_rules.weighted import Places, convolve, multiply, scale_and_add
from darwinc.zeroing import zero_point_axis

RANGE = "its values set the range that all are quantised by"


def dequantise(flow: Flow, node: ir.Node) -> None:
    """DequantizeLinear: integers, also stored ones, become weights or signals; scale and zero point per channel."""
    data = flow.tracked(node, 0, quantised=True)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    _tie_parameters(flow, node, data, (1, 2), zero_point_axis(node, len(data.axes)))
    source = _quantiser(node)
    original = flow.values.get(str(source.inputs[0].name)) if source is not None and source.inputs[0] else None
    if graph.constant_source(node.inputs[0]) is not None or _zero_is_zero(node, 2):
        silent = data.all_silent()
    elif source is not None and _stored_silence(flow, source, original):
        silent = (True,) * len(data.axes)
    else:
        silent = original.all_silent() if original is not None else ()
    flow.put(node, data.axes, silent=silent)


def quantise(flow: Flow, node: ir.Node) -> None:
    """QuantizeLinear: zero becomes the zero point."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    _tie_parameters(flow, node, data, (1, 2), zero_point_axis(node, len(data.axes)))
    flow.put(node, data.axes, silent=data.all_silent() if _zero_is_zero(node, 2) else ())


def _quantiser(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear that made what `node` reads, with the same zero point."""
    value = node.inputs[0]
    source = value.producer() if value is not None else None
    if source is None or source.op_type != "QuantizeLinear":
        return None
    return source if _same(_input(source, 2), _input(node, 2)) else None


def _stored_silence(flow: Flow, source: ir.Node, original: Tracked | None) -> bool:
    """Was a stored weight quantised, whose removed positions are zero?"""
    if original is not None:
        return False
    stored = flow.tracked(source, 0)
    return stored is not None and all(stored.all_silent())


def _same(one: ir.Value | None, two: ir.Value | None) -> bool:
    """Do two inputs hold the same stored numbers, or the same computed ones?"""
    if one is two:
        return True
    first, second = graph.constant_tensor(one), graph.constant_tensor(two)
    return first is not None and second is not None and np.array_equal(first.numpy(), second.numpy())


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _zero_is_zero(node: ir.Node, index: int) -> bool:
    """Is the zero point at an input zero itself?"""
    value = _input(node, index)
    if value is None:
        return True
    tensor = graph.constant_tensor(value)
    return tensor is not None and not tensor.numpy().any()


def _tie_parameters(flow: Flow, node: ir.Node, data: Tracked, places: Sequence[int], axis: int) -> None:
    """Scales and zero points: one for all, one per position of an axis of the data, or one per block along it."""
    in_blocks = graph.integer(node, "block_size", 0) > 0
    for place in places:
        parameter = flow.tracked(node, place, quantised=True)
        if parameter is None or all(ids is not None and len(ids) == 1 for ids in parameter.axes):
            continue
        if len(parameter.axes) == 1:
            flow.tie(data.axes[axis], parameter.axes[0], node)
            continue
        for position, (one, two) in enumerate(zip(data.axes, parameter.axes, strict=True)):
            if in_blocks and position == axis:
                flow.block_all((one, two), node, "is quantised in blocks along this axis")
            elif two is None or len(two) != 1:
                flow.tie(one, two, node)


def dynamic_quantise(flow: Flow, node: ir.Node) -> None:
    """DynamicQuantizeLinear: the range holds zero anyhow, so that zeros may go; anything else may set it."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    _hold_range(flow, node, data)
    flow.put(node, data.axes)
    for output in (1, 2):
        flow.put(node, (), output=output)


def _hold_range(flow: Flow, node: ir.Node, data: Tracked) -> None:
    for axis, ids in enumerate(data.axes):
        if not data.is_silent(axis):
            flow.block(ids, node, RANGE)


# Products and convolutions -------------------------------------------------------------------------------------------


def convolution(flow: Flow, node: ir.Node) -> None:
    """QLinearConv: weight [O, I/g, *kernel] of integers, per-channel scales and zero points [O], int32 bias [O]."""
    _convolve(flow, node, Places(0, 3, 8, None, quantised=True), (4, 5), scaled=True)


def integer_convolution(flow: Flow, node: ir.Node) -> None:
    """ConvInteger: exact integers; a weight at its zero point adds nothing."""
    _convolve(flow, node, Places(0, 1, None, None, quantised=True), (3,), scaled=False)


def _convolve(flow: Flow, node: ir.Node, places: Places, parameters: Sequence[int], *, scaled: bool) -> None:
    for index in (places.weight, *((places.bias,) if places.bias is not None else ())):
        flow.tracked(node, index, quantised=True)
    weight = flow.tracked(node, places.weight)
    convolve(flow, node, places)
    if weight is not None:
        _tie_parameters(flow, node, weight, parameters, 0)
    if scaled:
        _speak_of_no_silence(flow, node, 7)


def _speak_of_no_silence(flow: Flow, node: ir.Node, zero_point: int) -> None:
    """Removed positions of a quantised result hold its zero point, which is zero only where that is."""
    made = flow.values.get(str(node.outputs[0].name))
    if made is not None and not _zero_is_zero(node, zero_point):
        flow.put(node, made.axes)


def product(flow: Flow, node: ir.Node) -> None:
    """QLinearMatMul: both sides with a scale and zero point, per tensor, per row (left) or per column (right)."""
    _multiply(flow, node, (0, 3), ((1, 2), (4, 5)))
    _speak_of_no_silence(flow, node, 7)


def integer_product(flow: Flow, node: ir.Node) -> None:
    """MatMulInteger: zero points per tensor, per row (left) or per column (right)."""
    _multiply(flow, node, (0, 1), ((2,), (3,)))


def product_to_float(flow: Flow, node: ir.Node) -> None:
    """MatMulIntegerToFloat: A, B, their scales, their zero points, and a bias on the columns."""
    _multiply(flow, node, (0, 1), ((2, 4), (3, 5)))
    _add_bias(flow, node, 6)


def dynamic_product(flow: Flow, node: ir.Node) -> None:
    """DynamicQuantizeMatMul: A is quantised on the way, by the range of all its values; B is stored quantised."""
    data = flow.tracked(node, 0)
    if data is not None:
        _hold_range(flow, node, data)
    _multiply(flow, node, (0, 1), ((), (2, 3)))
    _add_bias(flow, node, 4)


def _multiply(
    flow: Flow, node: ir.Node, places: tuple[int, int], parameters: tuple[Sequence[int], Sequence[int]]
) -> None:
    sides = [flow.tracked(node, index, quantised=True) for index in places]
    left, right = sides
    if left is None or right is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    multiply(flow, node, left, right, places=places, quantised=True)
    for side, own, outer in zip((left, right), parameters, (-2, -1), strict=True):
        _tie_parameters(flow, node, side, own, max(outer, -len(side.axes)))


def _add_bias(flow: Flow, node: ir.Node, index: int) -> None:
    bias, made = flow.tracked(node, index), flow.values.get(str(node.outputs[0].name))
    if bias is None or made is None:
        return
    axes = broadcast(flow, node, [made.axes, bias.axes])
    silent = made.all_silent()
    flow.put(node, axes, silent=(*silent[:-1], silent[-1] and bias.is_silent(len(bias.axes) - 1)))


def gemm(flow: Flow, node: ir.Node) -> None:
    """QGemm: A' times B' plus an int32 bias; scales and zero points of B per tensor or per column."""
    for index in (0, 3, 6):
        flow.tracked(node, index, quantised=True)
    scale_and_add(flow, node, Places(0, 3, 6, None, quantised=True))
    weight = flow.tracked(node, 3)
    if weight is not None:
        _tie_parameters(flow, node, weight, (4, 5), 1 - graph.integer(node, "transB", 0))
    flow.put(node, flow.values[str(node.outputs[0].name)].axes)


# Everything else that ONNX Runtime does on quantised numbers ---------------------------------------------------------


def elementwise(flow: Flow, node: ir.Node) -> None:
    """QLinearAdd, QLinearMul, QLinearWhere and activations: scales are per tensor, operands are broadcast."""
    places = {"QLinearAdd": (0, 3), "QLinearMul": (0, 3), "QLinearWhere": (0, 1, 4)}.get(node.op_type, (0,))
    operands = [flow.tracked(node, index, quantised=True) for index in places]
    known = [operand.axes for operand in operands if operand is not None]
    if len(known) < len(places):
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.put(node, broadcast(flow, node, known))


def pooling(flow: Flow, node: ir.Node) -> None:
    """QLinearAveragePool and QLinearGlobalAveragePool: the channels are axis 1, or the last."""
    data = flow.tracked(node, 0)
    if data is None or len(data.axes) < 3:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    last = bool(graph.integer(node, "channels_last", 0))
    channels = data.axes[-1 if last else 1]
    spatial = data.axes[1:-1] if last else data.axes[2:]
    flow.block_all(spatial, node, "pools over this axis")
    sizes = flow.shape(node.outputs[0])
    pooled: Sequence[Axis] = (None,) * len(spatial)
    if "Global" in node.op_type:
        pooled = [fixed(1)] * len(spatial)
    elif sizes is not None:
        pooled = fixed_like(sizes[1:-1] if last else sizes[2:])
    flow.put(node, (data.axes[0], *pooled, channels) if last else (data.axes[0], channels, *pooled))


def concat(flow: Flow, node: ir.Node) -> None:
    """QLinearConcat: after scale and zero point of the result come operand, scale and zero point in turns."""
    layout.join(flow, node, range(2, len(node.inputs), 3))


def reduction_mean(flow: Flow, node: ir.Node) -> None:
    """QLinearReduceMean: the reduced axes must stay whole."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    rank = len(data.axes)
    reduced = {axis % rank for axis in graph.integers(node, "axes") or range(rank)}
    for axis in reduced:
        flow.block(data.axes[axis], node, "reduces over this axis")
    keep = graph.integer(node, "keepdims", 1)
    flow.put(node, [fixed(1) if a in reduced else data.axes[a] for a in range(rank) if keep or a not in reduced])
