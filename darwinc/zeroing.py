"""Which stored constants the reference model sets to zero where channels are removed.

The rewrite is proven against the original with the removed channels zeroed. Divisors, variances, bounds, exponents and
the like keep their values there: what they make of a removed channel is read through a zero weight. A quantised weight
becomes its zero point, which stands for zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph

ANY = frozenset(range(1024))
DATA, LEFT_OR_RIGHT, WEIGHT_AND_BIAS = frozenset({0}), frozenset({0, 1}), frozenset({1, 2})
RECURRENT = frozenset({1, 2, 3, 5, 6, 7})

MOVERS: dict[str, frozenset[int]] = {
    **dict.fromkeys(
        (
            "Cast", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "Neg", "QuantizeLinear", "Reshape",
            "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
        ),
        DATA,
    ),
    "Concat": ANY,
}  # fmt: skip
"""Operators that only move values or change how they are stored: what reads their results decides."""

STANDARD: dict[str, frozenset[int]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization"), WEIGHT_AND_BIAS),
    **dict.fromkeys(("GroupNormalization", "LayerNormalization"), WEIGHT_AND_BIAS),
    **dict.fromkeys(("MatMul", "Add", "Sub", "Mul"), LEFT_OR_RIGHT),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), RECURRENT),
    "Attention": WEIGHT_AND_BIAS,
    "Einsum": frozenset({0, 1, 2}),
    "Gemm": frozenset({0, 1, 2}),
    "PRelu": frozenset({1}),
    "RMSNormalization": frozenset({1}),
    "Sum": ANY,
}

FUSED: dict[str, frozenset[int]] = {
    "Attention": WEIGHT_AND_BIAS,
    "BiasGelu": frozenset({1}),
    "FastGelu": frozenset({1}),
    "FusedConv": WEIGHT_AND_BIAS,
    "FusedGemm": frozenset({0, 1, 2}),
    "FusedMatMul": LEFT_OR_RIGHT,
    "SkipLayerNormalization": frozenset({2, 3, 4}),
}
"""ONNX Runtime's own operators (com.microsoft)."""

INTEGER: dict[str, dict[int, int | None]] = {"DequantizeLinear": {0: 2}}
"""Operators that read quantised weights: for each weight the input with its zero point. What operators on integers
(QLinearConv and its kin) read stays as it is: checkers know removed weights there only as they were."""


def is_zeroed(node: ir.Node, index: int) -> bool:
    """Does the reference model set removed positions of a constant to zero where `node` reads it as input `index`?

    Takes time linear in the number of nodes that only move what the constant holds.
    """
    pending, seen = [(node, index)], {(node, index)}
    while pending:
        reader, place = pending.pop()
        if not (graph.is_standard(reader) and place in MOVERS.get(reader.op_type, ())):
            if not _zeroes(reader, place):
                return False
            continue
        reached = {(user, at) for output in reader.outputs for user, at in output.uses()}
        if not reached or any(output.is_graph_output() for output in reader.outputs):
            return False
        pending.extend(reached - seen)
        seen |= reached
    return not is_integer(node.inputs[index]) or index in INTEGER.get(node.op_type, {})


def _zeroes(node: ir.Node, index: int) -> bool:
    """The same for a node that does more than move values."""
    table = STANDARD if graph.is_standard(node) else FUSED
    return index in table.get(node.op_type, ()) or index in INTEGER.get(node.op_type, {})


def is_integer(value: ir.Value | None) -> bool:
    """Does a constant hold integers?"""
    tensor = graph.constant_tensor(value)
    return tensor is not None and tensor.dtype.is_integer()


def zero_of(node: ir.Node, index: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """What stands for zero in a constant [shape] that `node` reads as input `index`; broadcasts to that shape."""
    place = INTEGER.get(node.op_type, {}).get(index)
    value = node.inputs[place] if place is not None and place < len(node.inputs) else None
    tensor = graph.constant_tensor(value)
    if tensor is None:
        return np.zeros(())
    stored = tensor.numpy()
    if stored.size == 1:
        return stored.reshape(())
    if stored.ndim > 1:
        return _unblocked(node, stored, shape)
    axis = zero_point_axis(node, len(shape))
    return stored.reshape([-1 if place == axis else 1 for place in range(len(shape))])


def zero_point_axis(node: ir.Node, rank: int) -> int:
    """The axis of a tensor along which the scales and zero points [C] of Quantize- or DequantizeLinear lie."""
    return graph.integer(node, "axis", 1) % max(rank, 1)


def _unblocked(node: ir.Node, stored: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Zero points of blocks along one axis, or with an axis for each axis of the weight."""
    block = graph.integer(node, "block_size", 0)
    if block == 0:
        return stored
    axis = graph.integer(node, "axis", 1) % len(shape)
    return np.repeat(stored, block, axis=axis)[tuple(slice(size) for size in shape)]
