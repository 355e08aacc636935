"""Operators that look across an axis: pooling, reductions, softmax and normalisation over positions."""

from __future__ import annotations

import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import Flow, fixed, fixed_like

UNKNOWN = "the shape of its input is unknown"


def pooling(flow: Flow, node: ir.Node) -> None:
    """MaxPool, AveragePool, LpPool and their global forms: batch and channels pass, the rest is pooled."""
    axes = flow.axes(node, 0)
    sizes = flow.shape(node.outputs[0])
    if axes is None or len(axes) < 2:
        flow.barrier(node, UNKNOWN)
        return
    flow.block_all(axes[2:], node, "pools over this axis")
    flow.put(node, (*axes[:2], *(fixed_like(sizes[2:]) if sizes else (None,) * (len(axes) - 2))))
    if len(node.outputs) > 1 and node.outputs[1].uses():
        flow.block(axes[1], node, "hands out indices into the whole tensor")
        flow.put(node, fixed_like(sizes or ()), output=1)


def reduction(flow: Flow, node: ir.Node) -> None:
    """Reduce* and ArgMax/ArgMin: the reduced axes must stay whole, the others pass."""
    axes = flow.axes(node, 0)
    reduced = _reduced_axes(flow, node, len(axes)) if axes is not None else None
    if axes is None or reduced is None:
        flow.barrier(node, "the axes it reduces are unknown" if axes is not None else UNKNOWN)
        return
    keep = graph.integer(node, "keepdims", 1)
    for axis in reduced:
        flow.block(axes[axis], node, "reduces over this axis")
    flow.put(
        node, [fixed(1) if axis in reduced else ids for axis, ids in enumerate(axes) if keep or axis not in reduced]
    )


def _reduced_axes(flow: Flow, node: ir.Node, rank: int) -> set[int] | None:
    if node.op_type in ("ArgMax", "ArgMin"):
        return {graph.integer(node, "axis", 0) % rank}
    given = graph.integers(node, "axes")
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = flow.known(node, 1)
        if given is None:
            return None
    if not given:
        return set() if graph.integer(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in given}


def softmax(flow: Flow, node: ir.Node) -> None:
    """Softmax, LogSoftmax, Hardmax: one axis, or before opset 13 all axes from `axis` on."""
    axes = flow.axes(node, 0)
    if axes is None:
        flow.barrier(node, UNKNOWN)
        return
    since_13 = flow.opset >= 13
    axis = graph.integer(node, "axis", -1 if since_13 else 1) % max(len(axes), 1)
    flow.block_all(axes[axis : axis + 1] if since_13 else axes[axis:], node, "normalises over this axis")
    flow.put(node, axes)


def along_axis(flow: Flow, node: ir.Node) -> None:
    """TopK, CumSum, LpNormalization: elements of one axis depend on each other, the other axes pass."""
    axes = flow.axes(node, 0)
    if axes is None:
        flow.barrier(node, UNKNOWN)
        return
    known = flow.known(node, 1) if node.op_type == "CumSum" else [graph.integer(node, "axis", -1)]
    if known is None:
        flow.barrier(node, "the axis it works along is unknown")
        return
    axis = known[0] % len(axes)
    flow.block(axes[axis], node, "works along this axis")
    for output, value in enumerate(node.outputs):
        sizes = flow.shape(value)
        along = fixed(sizes[axis] or 1) if sizes is not None and sizes[axis] is not None else None
        flow.put(node, (*axes[:axis], along, *axes[axis + 1 :]), output=output)


def whole_channels(flow: Flow, node: ir.Node) -> None:
    """LRN and GroupNormalization look across channels; LayerNormalization across its trailing axes."""
    axes = flow.axes(node, 0)
    if axes is None:
        flow.barrier(node, UNKNOWN)
        return
    first = (
        graph.integer(node, "axis", -1) % len(axes) if node.op_type in ("LayerNormalization", "RMSNormalization") else 1
    )
    flow.block_all(axes[first:], node, "normalises over this axis")
    for output in range(len(node.outputs)):
        flow.put(node, axes if output == 0 else fixed_like(flow.shape(node.outputs[output]) or ()), output=output)
