"""Operators that treat every channel alone: elementwise with broadcasting, and normalisation by stored statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Tracked, fixed, is_fixed

NOT_AT_ZERO = "isn't defined for the zeros of removed channels"

KEEPS_ZERO = frozenset({
    "Abs", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "Cast", "CastLike", "Ceil", "Celu", "Elu", "Erf", "Floor",
    "Gelu", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Shrink", "Sign", "Sin",
    "Sinh", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    "Dropout", "QuickGelu", "FastGelu", "BiasGelu", "BiasAdd",
})  # fmt: skip
"""Of one operand: f(0) = 0."""

ADDING = frozenset({"Add", "Sub", "Sum", "Mean", "Max", "Min", "Or", "Xor", "Where", "BiasGelu", "FastGelu", "BiasAdd"})
"""Zero where all operands are."""

FACTORS = frozenset({"Mul", "And", "SwiGLU"})
"""Zero where any operand is."""

UNDEFINED_AT_ZERO = frozenset({"Log", "Reciprocal"})


def elementwise(flow: Flow, node: ir.Node) -> None:
    """Any number of operands, broadcast against each other as numpy does."""
    inputs = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
    places = [index for index, value in enumerate(inputs) if value is not None]
    operands = [flow.tracked(node, index) for index in places]
    tracked = [operand for operand in operands if operand is not None]
    if not tracked or len(tracked) < len(operands):
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axes = broadcast(flow, node, [operand.axes for operand in tracked])
    silent = _silence(flow, node, tracked, axes)
    for output in range(len(node.outputs)):
        flow.put(node, axes, output=output, silent=silent)


def _silence(flow: Flow, node: ir.Node, operands: Sequence[Tracked], axes: Sequence[Axis]) -> list[bool]:
    """On which axes removed positions are zero in the result, given where they are in the operands."""
    silent = []
    for place in range(-len(axes), 0):
        found = [_silent_at(operand, place, axes[place]) for operand in operands]
        silent.append(_combined(flow, node, found, axes[place]))
    return silent


def _silent_at(operand: Tracked, place: int, axis: Axis) -> bool:
    """Is an operand zero at removed positions of an axis of the result? What is broadcast along it isn't."""
    if len(operand.axes) < -place or axis is None:
        return False
    own = operand.axes[place]
    return own is not None and len(own) == len(axis) and operand.is_silent(len(operand.axes) + place)


def _combined(flow: Flow, node: ir.Node, found: Sequence[bool], axis: Axis) -> bool:
    op_type = node.op_type
    if op_type == "Div":
        if found[1] and not is_fixed(axis):
            flow.block(axis, node, NOT_AT_ZERO)
        return found[0]
    if op_type in UNDEFINED_AT_ZERO:
        if found[0] and not is_fixed(axis):
            flow.block(axis, node, NOT_AT_ZERO)
        return False
    if op_type == "PRelu":
        return found[0]
    if op_type == "Pow":
        return _raised(flow, node, found[0], axis)
    if op_type == "Where":
        return found[1] and found[2]
    if op_type in ADDING:
        return all(found)
    return any(found) if op_type in FACTORS else op_type in KEEPS_ZERO and all(found)


def _raised(flow: Flow, node: ir.Node, silent: bool, axis: Axis) -> bool:
    exponent = flow.stored(node, 1)
    if silent and (exponent is None or bool((exponent <= 0).any())) and not is_fixed(axis):
        flow.block(axis, node, NOT_AT_ZERO)
    return silent


def clip(flow: Flow, node: ir.Node) -> None:
    """Like its first input; zeros stay where they lie between the bounds, which are scalars."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    silent = data.all_silent() if _clips_around_zero(flow, node) else ()
    flow.put(node, data.axes, silent=silent)


def _clips_around_zero(flow: Flow, node: ir.Node) -> bool:
    if flow.opset < 11:
        low, high = (node.attributes.get(name) for name in ("min", "max"))
        return (low is None or low.as_float() <= 0) and (high is None or high.as_float() >= 0)
    return _bound(flow, node, 1, lambda low: low <= 0) and _bound(flow, node, 2, lambda high: high >= 0)


def _bound(flow: Flow, node: ir.Node, index: int, holds: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]) -> bool:
    if len(node.inputs) <= index or node.inputs[index] is None:
        return True
    stored = flow.stored(node, index)
    return stored is not None and bool(np.all(holds(stored)))


def first_only(flow: Flow, node: ir.Node) -> None:
    """Like its first input; further inputs are scalars (Dropout)."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    for output in range(len(node.outputs)):
        flow.put(node, data.axes, output=output, silent=data.all_silent())


def broadcast(flow: Flow, node: ir.Node, operands: Sequence[Sequence[Axis]]) -> tuple[Axis, ...]:
    """Align axes from the right, tie those that meet, and return the axes of the result."""
    rank = max((len(axes) for axes in operands), default=0)
    result: list[Axis] = []
    for place in range(-rank, 0):
        meeting = [axes[place] for axes in operands if len(axes) >= -place]
        result.append(_merge(flow, node, meeting))
    return tuple(result)


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
    """BatchNormalization and InstanceNormalization: every parameter [C] belongs to axis 1 of the data.

    In training mode a BatchNormalization averages over all other axes, too.
    """
    data = flow.tracked(node, 0)
    if data is None or len(data.axes) < 2:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    silent = True
    for index in range(1, len(node.inputs)):
        parameter = flow.tracked(node, index)
        if parameter is not None:
            flow.tie(parameter.axes[0], data.axes[1], node)
            silent = silent and (index > 2 or parameter.is_silent(0))
    if node.op_type == "InstanceNormalization":
        flow.block_all(data.axes[2:], node, "averages over this axis")
    if is_training(flow, node):
        flow.block_all((data.axes[0], *data.axes[2:]), node, "averages over this axis")
        for output in range(1, len(node.outputs)):
            flow.put(node, data.axes[1:2], output=output)
    flow.put(node, data.axes, silent=(False, silent))


def is_training(flow: Flow, node: ir.Node) -> bool:
    """Is a BatchNormalization in training mode? Before opset 14 it is where it gives statistics, too."""
    if node.op_type != "BatchNormalization":
        return False
    told = graph.integer(node, "training_mode", 0) if flow.opset >= 14 else len(node.outputs) > 1
    return bool(told) or (flow.opset < 7 and not graph.integer(node, "is_test", 0))
