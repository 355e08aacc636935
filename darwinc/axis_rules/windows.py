"""The spatial sizes that convolutions and pooling leave, where shape inference could not tell."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import Flow
from darwinc.axis_record import Axis, fixed_like


def spatial_axes(
    flow: Flow, node: ir.Node, data: Sequence[Axis], kernel: Sequence[int] | None, *, transposed: bool = False
) -> tuple[Axis, ...]:
    """The axes [*spatial] of an output, given those of the input; `kernel` None pools over everything."""
    inferred = flow.shape(node.outputs[0])
    if inferred is not None and None not in inferred[2:]:
        return fixed_like(inferred[2:])
    sizes = [None if ids is None else len(ids) for ids in data]
    if kernel is None:
        return fixed_like([1] * len(sizes))
    return fixed_like([
        None if size is None else (_grown if transposed else _slid)(node, axis, size, kernel[axis], len(sizes))
        for axis, size in enumerate(sizes)
    ])  # fmt: skip


def _slid(node: ir.Node, axis: int, size: int, kernel: int, rank: int) -> int:
    stride, extent = _attribute(node, "strides", axis, 1), _attribute(node, "dilations", axis, 1) * (kernel - 1) + 1
    if graph.text(node, "auto_pad", "NOTSET").startswith("SAME"):
        return -(-size // stride)
    room = size + _attribute(node, "pads", axis, 0) + _attribute(node, "pads", axis + rank, 0) - extent
    return (-(-room // stride) if graph.integer(node, "ceil_mode", 0) else room // stride) + 1


def _grown(node: ir.Node, axis: int, size: int, kernel: int, rank: int) -> int:
    asked = graph.integers(node, "output_shape")
    if asked is not None:
        return asked[axis - rank]
    stride, extent = _attribute(node, "strides", axis, 1), _attribute(node, "dilations", axis, 1) * (kernel - 1) + 1
    if graph.text(node, "auto_pad", "NOTSET").startswith("SAME"):
        return size * stride
    pads = _attribute(node, "pads", axis, 0) + _attribute(node, "pads", axis + rank, 0)
    return stride * (size - 1) + _attribute(node, "output_padding", axis, 0) + extent - pads


def _attribute(node: ir.Node, name: str, place: int, default: int) -> int:
    given = graph.integers(node, name)
    return default if given is None else given[place]
