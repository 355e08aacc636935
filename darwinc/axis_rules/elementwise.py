"""Operators that treat every channel alone: elementwise with broadcasting, and normalisation by stored statistics."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from darwinc.axis_flow import Axis, Flow, fixed, is_fixed

LINEAR = frozenset({"Identity", "Neg", "Mul", "Add", "Sub", "Cast", "CastLike"})
"""Elementwise operators that keep weights weights: what is zero in every operand stays zero."""

ADDING = frozenset({"Add", "Sub"})
"""Of those, the ones where what is broadcast (and so isn't zero anywhere) would spoil the zeros."""


def elementwise(flow: Flow, node: ir.Node) -> None:
    """Any number of operands, broadcast against each other as numpy does."""
    inputs = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
    operands = [flow.tracked(node, index) for index, value in enumerate(inputs) if value is not None]
    if not operands or any(operand is None for operand in operands):
        flow.barrier(node, "the shape of its input is unknown")
        return
    tracked = [operand for operand in operands if operand is not None]
    numbers = tracked[0].numbers if node.op_type in ("Identity", "Cast") else None
    axes = broadcast(flow, node, [operand.axes for operand in tracked])
    weight = node.op_type in LINEAR and all(operand.weight for operand in tracked)
    if node.op_type in ADDING:
        weight = weight and all(_lengths(operand.axes) == _lengths(axes) for operand in tracked)
    for output in range(len(node.outputs)):
        flow.put(node, axes, output=output, weight=weight, numbers=numbers)


def first_only(flow: Flow, node: ir.Node) -> None:
    """Like its first input; further inputs are scalars (Dropout, Clip before and after opset 11)."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, "the shape of its input is unknown")
        return
    for output in range(len(node.outputs)):
        flow.put(node, data.axes, output=output)


def broadcast(flow: Flow, node: ir.Node, operands: Sequence[Sequence[Axis]]) -> tuple[Axis, ...]:
    """Align axes from the right, tie those that meet, and return the axes of the result."""
    rank = max((len(axes) for axes in operands), default=0)
    result: list[Axis] = []
    for place in range(-rank, 0):
        meeting = [axes[place] for axes in operands if len(axes) >= -place]
        result.append(_merge(flow, node, meeting))
    return tuple(result)


def _lengths(axes: Sequence[Axis]) -> list[int | None]:
    return [None if ids is None else len(ids) for ids in axes]


def _merge(flow: Flow, node: ir.Node, meeting: Sequence[Axis]) -> Axis:
    wide = [axis for axis in meeting if axis is None or len(axis) != 1]
    if not wide:
        return fixed(1)
    sized = [axis for axis in wide if axis is not None]
    if not sized:
        return None
    first = next((axis for axis in sized if not is_fixed(axis)), sized[0])
    for axis in wide:
        if axis is not first:
            flow.tie(first, axis, node)
    return first


def per_channel(flow: Flow, node: ir.Node) -> None:
    """BatchNormalization and InstanceNormalization: every parameter [C] belongs to axis 1 of the data."""
    data = flow.tracked(node, 0)
    if data is None or len(data.axes) < 2:
        flow.barrier(node, "the shape of its input is unknown")
        return
    for index in range(1, len(node.inputs)):
        parameter = flow.axes(node, index)
        if parameter is not None:
            flow.tie(parameter[0], data.axes[1], node)
    if node.op_type == "InstanceNormalization":
        flow.block_all(data.axes[2:], node, "averages over this axis")
    flow.put(node, data.axes)
