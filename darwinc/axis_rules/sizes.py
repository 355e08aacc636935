"""Operators that make sizes, or are told them: Shape, Gather, Expand, Tile, ConstantOfShape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Fill, Picks, Tracked, fixed, fixed_like, is_fixed
from darwinc.shape_numbers import Number

INT64 = np.dtype(np.int64)


def shape(flow: Flow, node: ir.Node) -> None:
    """The sizes of the axes, which follow them by themselves."""
    axes, value = flow.axes(node, 0), node.inputs[0]
    if axes is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    numbers = tuple(
        Number(None if ids is None else len(ids), axis=ids, varies=flow.varies(value, place))
        for place, ids in enumerate(axes)
    )
    numbers = numbers[graph.integer(node, "start", 0) : graph.integer(node, "end", len(axes))]
    flow.put(node, (fixed(len(numbers)),), numbers=numbers, dtype=INT64)


def size(flow: Flow, node: ir.Node) -> None:
    """The number of elements."""
    axes, value = flow.axes(node, 0), node.inputs[0]
    if axes is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    known = [len(ids) for ids in axes if ids is not None]
    varies = any(flow.varies(value, place) for place in range(len(axes)))
    total = math.prod(known) if len(known) == len(axes) else None
    flow.put(node, (), numbers=(Number(total, roots=axes, varies=varies),), dtype=INT64)


def constant_of_shape(flow: Flow, node: ir.Node) -> None:
    """A filled tensor: a weight where its shape is stored."""
    numbers = flow.numbers(node, 0)
    if numbers is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    if graph.constant_source(node.inputs[0]) is not None:
        stored = [flow.fresh(int(number.value or 0)) for number in numbers]
        for number, ids in zip(numbers, stored, strict=True):
            flow.follow(number, ids, node)
        flow.fills.append(Fill(node, tuple(stored)))
        flow.put(node, stored, silent=(True,) * len(stored))
        return
    axes = [_made_axis(flow, node, number) for number in numbers]
    value = node.attributes.get("value")
    flow.put(node, axes, silent=(value is None or not value.as_tensor().numpy().any(),) * len(axes))


def _made_axis(flow: Flow, node: ir.Node, number: Number) -> Axis:
    """An axis of a tensor whose shape is computed: another's size, or a number that follows where it can be stored."""
    if number.axis is not None and (number.origin is None or is_fixed(number.axis)):
        return number.axis
    if number.origin is None or number.value is None:
        flow.rely([number], node)
        return None if number.value is None else fixed(int(number.value))
    ids = flow.fresh(int(number.value))
    flow.follow(number, ids, node)
    return ids


def gather(flow: Flow, node: ir.Node) -> None:
    """Picks along one axis, by stored indices where channels may go from it; the other axes pass."""
    data, indices = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or indices is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axis = graph.integer(node, "axis", 0) % max(len(data.axes), 1)
    picked, silent = _picked(flow, node, data.axes[axis], indices), data.all_silent()
    # What lies at a removed position of the indices is no zero, but some entry of the table.
    own = silent[axis] and all(is_fixed(ids) for ids in indices.axes)
    flow.put(
        node,
        (*data.axes[:axis], *picked, *data.axes[axis + 1 :]),
        silent=(*silent[:axis], *[own] * len(picked), *silent[axis + 1 :]),
    )


def _picked(flow: Flow, node: ir.Node, ids: Axis, indices: Tracked) -> list[Axis]:
    """The axes that stand in the place of the one that was picked from: parts of it, or those of the indices."""
    sizes = [None if axis is None else len(axis) for axis in indices.axes]
    tensor = graph.constant_tensor(node.inputs[1])
    if ids is None or is_fixed(ids):
        flow.freeze(node, 1, indices)
        return list(indices.axes)
    if tensor is None or sum(size != 1 for size in tensor.shape.numpy()) > 1:
        flow.block(ids, node, "picks channels by computed indices" if tensor is None else "picks channels by a table")
        flow.freeze(node, 1, indices)
        return list(indices.axes)
    chosen = tensor.numpy().astype(np.int64).ravel() % len(ids)
    flow.picks.append(Picks(node, 1, chosen, ids))
    if not sizes:
        flow.block(ids[chosen], node, "picks a single channel")
        return []
    long = next((place for place, size in enumerate(sizes) if size != 1), 0)
    return [ids[chosen] if place == long else fixed(1) for place in range(len(sizes))]


def gather_elements(flow: Flow, node: ir.Node) -> None:
    """GatherElements and the like: positions along one axis are picked one by one; the axes around are tied."""
    data, indices = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or indices is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axis = graph.integer(node, "axis", 0) % max(len(data.axes), 1)
    flow.block(data.axes[axis], node, "picks positions by index")
    for place, (one, two) in enumerate(zip(data.axes, indices.axes, strict=True)):
        if place != axis:
            flow.tie(one, two, node)
    flow.put(node, indices.axes)


def expand(flow: Flow, node: ir.Node) -> None:
    """Broadcast to a stored or computed shape."""
    data, numbers = flow.tracked(node, 0), flow.numbers(node, 1) or ()
    sizes = _broadcast_sizes(flow, node, data, numbers)
    if data is None or sizes is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.freeze(node, 0, data)
    result: list[Axis] = []
    silent: list[bool] = []
    for place in range(-len(sizes), 0):
        ids = data.axes[place] if len(data.axes) >= -place else fixed(1)
        number = numbers[place] if len(numbers) >= -place else None
        result.append(_spread(flow, node, ids, number, sizes[place]))
        silent.append(result[-1] is ids and data.is_silent(place + len(data.axes)) if ids is not None else False)
    flow.put(node, result, silent=silent)


def _broadcast_sizes(
    flow: Flow, node: ir.Node, data: Tracked | None, numbers: Sequence[Number]
) -> tuple[int | None, ...] | None:
    """The shape of the result: as inferred, or where inference gave up from the numbers that ask for it."""
    inferred = flow.shape(node.outputs[0])
    if data is None or not numbers or (inferred is not None and None not in inferred):
        return inferred
    own = [None if ids is None else len(ids) for ids in data.axes]
    asked = [None if number.value is None else int(number.value) for number in numbers]
    rank = max(len(own), len(asked))
    pairs = zip([1] * (rank - len(own)) + own, [1] * (rank - len(asked)) + asked, strict=True)
    return tuple(None if one is None or two is None else one if two in (1, -1) else two for one, two in pairs)


def _spread(flow: Flow, node: ir.Node, ids: Axis, number: Number | None, size: int | None) -> Axis:
    """One axis of Expand: one position becomes `size`, or the axis meets its own size, or 1."""
    if ids is not None and len(ids) == 1 and size != 1:
        if number is None:
            return fixed_like((size,))[0]
        if number.origin is not None and size is not None:
            axis = flow.positions(size)
            flow.follow(number, axis, node)
            return axis
        if number.axis is not None:
            return number.axis
        flow.rely([number], node)
        return fixed_like((size,))[0]
    if number is None or number.value not in (1, -1):
        flow.follow(number, ids, node)
    return ids


def tile(flow: Flow, node: ir.Node) -> None:
    """Repeats whole axes a stored number of times."""
    data, repeats, sizes = flow.tracked(node, 0), flow.numbers(node, 1), flow.shape(node.outputs[0])
    if data is None or repeats is None or len(repeats) != len(data.axes):
        flow.barrier(node, "repeats a number of times that is computed in the graph")
        return
    flow.rely(repeats, node)
    axes: list[Axis] = []
    for place, (ids, number) in enumerate(zip(data.axes, repeats, strict=True)):
        if ids is None or number.value is None or is_fixed(ids):
            flow.block(ids, node, "repeats a number of times that is computed in the graph")
            size = sizes[place] if sizes is not None else None
            axes.append(fixed_like((size,))[0])
        else:
            axes.append(ids if number.value == 1 else np.tile(ids, int(number.value)))
    flow.put(node, axes, silent=data.all_silent())
