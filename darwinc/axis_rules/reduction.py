"""Operators that look across an axis: pooling, reductions, softmax and normalisation over positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Follower, Ids, fixed
from darwinc.axis_rules.windows import spatial_axes

SUMS = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})
"""Zeros add nothing to these."""
CUMULATIVE = frozenset({"CumProd", "CumSum"})
ZERO_OF_ZEROS = SUMS | {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"}


def pooling(flow: Flow, node: ir.Node) -> None:
    """MaxPool, AveragePool, LpPool and their global forms: batch and channels pass, the rest is pooled."""
    data = flow.tracked(node, 0)
    if data is None or len(data.axes) < 2:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axes = data.axes
    flow.block_all(axes[2:], node, "pools over this axis")
    spatial = spatial_axes(flow, node, axes[2:], graph.integers(node, "kernel_shape"))
    flow.put(node, (*axes[:2], *spatial), silent=data.all_silent()[:2])
    if len(node.outputs) > 1 and node.outputs[1].uses():
        flow.block(axes[1], node, "hands out indices into the whole tensor")
        flow.put(node, (*(None if ids is None else fixed(len(ids)) for ids in axes[:2]), *spatial), output=1)


def reduction(flow: Flow, node: ir.Node) -> None:
    """Reduce* and ArgMax/ArgMin: the others pass; the reduced axes must stay whole, but for sums over zeros."""
    data = flow.tracked(node, 0)
    reduced = _reduced_axes(flow, node, len(data.axes)) if data is not None else None
    if data is None or reduced is None:
        flow.barrier(node, "the axes it reduces are unknown" if data is not None else UNKNOWN_INPUT)
        return
    keep = graph.integer(node, "keepdims", 1)
    for axis in reduced:
        if node.op_type not in SUMS or not data.is_silent(axis):
            flow.block(data.axes[axis], node, "reduces over this axis")
    left = [axis for axis in range(len(data.axes)) if keep or axis not in reduced]
    zero = node.op_type in ZERO_OF_ZEROS
    flow.put(
        node,
        [fixed(1) if axis in reduced else data.axes[axis] for axis in left],
        silent=[zero and axis not in reduced and data.is_silent(axis) for axis in left],
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
        flow.barrier(node, UNKNOWN_INPUT)
        return
    since_13 = flow.opset >= 13
    axis = graph.integer(node, "axis", -1 if since_13 else 1) % max(len(axes), 1)
    flow.block_all(axes[axis : axis + 1] if since_13 else axes[axis:], node, "normalises over this axis")
    flow.put(node, axes)


def along_axis(flow: Flow, node: ir.Node) -> None:
    """TopK, CumSum, CumProd, LpNormalization: elements of one axis depend on each other, the other axes pass."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    known = flow.known(node, 1) if node.op_type in CUMULATIVE else [graph.integer(node, "axis", -1)]
    if known is None:
        flow.barrier(node, "the axis it works along is unknown")
        return
    axes = data.axes
    axis = known[0] % len(axes)
    flow.block(axes[axis], node, "works along this axis")
    silent = [node.op_type == "CumSum" and place != axis and data.is_silent(place) for place in range(len(axes))]
    for output, value in enumerate(node.outputs):
        sizes = flow.shape(value)
        along = fixed(sizes[axis] or 1) if sizes is not None and sizes[axis] is not None else None
        flow.put(node, (*axes[:axis], along, *axes[axis + 1 :]), output=output, silent=silent)


def trailing_axes(flow: Flow, node: ir.Node) -> None:
    """LayerNormalization and RMSNormalization normalise over all axes from one on, which must stay whole."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    first = graph.integer(node, "axis", -1) % len(data.axes)
    flow.block_all(data.axes[first:], node, "normalises over this axis")
    for output in range(len(node.outputs)):
        axes = data.axes if output == 0 else (*data.axes[:first], *(fixed(1) for _ in data.axes[first:]))
        flow.put(node, axes, output=output)


def across_channels(flow: Flow, node: ir.Node) -> None:
    """LRN looks across neighbouring channels, MeanVarianceNormalization across the axes it names."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axes = [1] if node.op_type == "LRN" else (graph.integers(node, "axes") or [0, 2, 3])
    for axis in axes:
        flow.block(data.axes[axis], node, "normalises over this axis")
    flow.put(node, data.axes)


def group_normalization(flow: Flow, node: ir.Node) -> None:
    """GroupNormalization: whole groups of channels go. Before opset 21 scale and bias [G] are per group."""
    data = flow.tracked(node, 0)
    groups = graph.integer(node, "num_groups", 1)
    if data is None or len(data.axes) < 2 or data.axes[1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    channels = data.axes[1]
    flow.block_all(data.axes[2:], node, "averages over this axis")
    rows = _tied_groups(flow, node, channels, groups)
    silent = True
    for index in (1, 2):
        parameter = flow.tracked(node, index)
        if parameter is not None:
            flow.tie(parameter.axes[0], rows if flow.opset < 21 else channels, node)
            silent = silent and parameter.is_silent(0)
    flow.put(node, data.axes, silent=(False, silent))


def _tied_groups(flow: Flow, node: ir.Node, channels: Ids, groups: int) -> Ids:
    """The first channel of every group; the others are tied to it, and the number of groups follows."""
    cells = channels.reshape(groups, -1)
    first = np.ascontiguousarray(cells[:, 0])
    if groups == 1:
        flow.block(channels, node, "normalises over this axis")
        return first
    flow.tie(np.repeat(first, cells.shape[1] - 1), np.ascontiguousarray(cells[:, 1:]).ravel(), node)
    flow.followers.append(Follower(node, "num_groups", None, first))
    return first
