"""Operators that make sizes, or are told them: Shape, Gather, Expand, Tile, ConstantOfShape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import Axis, Fill, Flow, Number, fixed, fixed_like

UNKNOWN = "the shape of its input is unknown"


def shape(flow: Flow, node: ir.Node) -> None:
    """The sizes of the axes, which follow them by themselves."""
    axes = flow.axes(node, 0)
    if axes is None:
        flow.barrier(node, UNKNOWN)
        return
    numbers = tuple(Number(None if ids is None else len(ids), None, ids) for ids in axes)
    numbers = numbers[graph.integer(node, "start", 0) : graph.integer(node, "end", len(axes))]
    flow.put(node, (fixed(len(numbers)),), numbers=numbers)


def constant_of_shape(flow: Flow, node: ir.Node) -> None:
    """A filled tensor: a weight where its shape is stored."""
    numbers = flow.numbers(node, 0)
    sizes = flow.shape(node.outputs[0])
    if numbers is None or sizes is None:
        flow.barrier(node, UNKNOWN)
        return
    if graph.constant_source(node.inputs[0]) is not None:
        stored = [flow.fresh(int(number.value or 0)) for number in numbers]
        for number, ids in zip(numbers, stored, strict=True):
            flow.follow(number, ids, node)
        flow.fills.append(Fill(node, tuple(stored)))
        flow.put(node, stored, weight=True)
        return
    axes: list[Axis] = []
    for number, size in zip(numbers, sizes, strict=False):
        if number.axis is None:
            flow.rely([number], node)
        axes.append(number.axis if number.axis is not None else fixed_like((size,))[0])
    flow.put(node, axes)


def gather(flow: Flow, node: ir.Node) -> None:
    """Picks along one axis, which must stay whole; the others pass. Picking from a shape picks its numbers."""
    data, indices = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or indices is None:
        flow.barrier(node, UNKNOWN)
        return
    axis = graph.integer(node, "axis", 0) % max(len(data.axes), 1)
    flow.block(data.axes[axis], node, "picks channels by index")
    flow.block_all(indices.axes, node, "picks channels by index")
    chosen, numbers = flow.known(node, 1), None
    if data.numbers is not None and chosen is not None:
        numbers = tuple(data.numbers[place] for place in chosen)
    elif data.numbers is not None:
        flow.rely(data.numbers, node)
    flow.put(
        node,
        (
            *data.axes[:axis],
            *(None if ids is None else fixed(len(ids)) for ids in indices.axes),
            *data.axes[axis + 1 :],
        ),
        numbers=numbers,
    )


def expand(flow: Flow, node: ir.Node) -> None:
    """Broadcast to a stored or computed shape."""
    data, sizes = flow.tracked(node, 0), flow.shape(node.outputs[0])
    if data is None or sizes is None:
        flow.barrier(node, UNKNOWN)
        return
    flow.rely(data.numbers, node)
    numbers = flow.numbers(node, 1) or ()
    result: list[Axis] = []
    for place in range(-len(sizes), 0):
        ids = data.axes[place] if len(data.axes) >= -place else fixed(1)
        number = numbers[place] if len(numbers) >= -place else None
        result.append(_spread(flow, node, ids, number, sizes[place]))
    flow.put(node, result)


def _spread(flow: Flow, node: ir.Node, ids: Axis, number: Number | None, size: int | None) -> Axis:
    """One axis of Expand: one position becomes `size`, or the axis meets its own size, or 1."""
    if ids is not None and len(ids) == 1 and size != 1:
        if number is not None and number.axis is not None:
            return number.axis
        flow.rely([number] if number is not None else (), node)
        return fixed_like((size,))[0]
    if number is None or number.value != 1:
        flow.follow(number, ids, node)
    return ids


def tile(flow: Flow, node: ir.Node) -> None:
    """Repeats whole axes a stored number of times."""
    axes, repeats = flow.axes(node, 0), flow.known(node, 1)
    if axes is None or repeats is None:
        flow.barrier(node, "repeats a number of times that is computed in the graph")
        return
    flow.put(
        node,
        [
            ids
            if ids is None and count == 1
            else None
            if ids is None
            else np.tile(ids, count)
            if ids.any()
            else fixed(len(ids) * count)
            for ids, count in zip(axes, repeats, strict=True)
        ],
    )
