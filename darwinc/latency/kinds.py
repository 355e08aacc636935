"""Kinds of operators whose time depends on widths in steps, and the axes on which their channels enter and leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from darwinc import graph

POINTWISE, SPATIAL, DEPTHWISE, GROUPED = "pointwise conv", "spatial conv", "depthwise conv", "grouped conv"
PRODUCT = "matrix product"
OTHER = "other"

Side = Literal["in", "out"]
SIDES: tuple[Side, Side] = ("in", "out")


@dataclass(frozen=True)
class Sides:
    """Axes of the weight that hold a node's input and output channels; None where it has none such."""

    entering: int | None
    leaving: int


def kind_of(node: ir.Node) -> str:
    """The kind of an operator, by its attributes and its weight."""
    rule = _KINDS.get(node.op_type) if graph.is_standard(node) else None
    return OTHER if rule is None else rule(node)


def sides_of(node: ir.Node) -> Sides:
    """Where channels enter and leave the weight of a node of a kind other than OTHER."""
    if node.op_type == "Conv":
        return Sides(None if kind_of(node) == DEPTHWISE else 1, 0)
    if node.op_type == "Gemm" and graph.integer(node, "transB", 0):
        return Sides(1, 0)
    return Sides(0, 1)


def channel_axis(node: ir.Node) -> int:
    """The axis of a node's input and output that holds channels."""
    return 1 if node.op_type == "Conv" else -1


def _convolution(node: ir.Node) -> str:
    tensor = graph.constant_tensor(node.inputs[1])
    if tensor is None:
        return OTHER
    sizes = tensor.shape.numpy()
    if graph.integer(node, "group", 1) > 1:
        return DEPTHWISE if sizes[1] == 1 else GROUPED
    return POINTWISE if math.prod(sizes[2:]) == 1 else SPATIAL


def _product(node: ir.Node) -> str:
    tensor = graph.constant_tensor(node.inputs[1])
    if tensor is None or len(tensor.shape) != 2 or graph.integer(node, "transA", 0):
        return OTHER
    return PRODUCT


_KINDS: Mapping[str, Callable[[ir.Node], str]] = {"Conv": _convolution, "Gemm": _product, "MatMul": _product}
