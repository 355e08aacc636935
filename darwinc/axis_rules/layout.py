"""Operators that move positions without computing: Transpose, Concat, Split, Slice, Pad, Resize and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Follower, Ids, Tracked, fixed, fixed_like, is_fixed

END = np.iinfo(np.int32).max


def transpose(flow: Flow, node: ir.Node) -> None:
    """Axes change places."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    order = graph.integers(node, "perm") or list(range(len(data.axes)))[::-1]
    silent = data.all_silent()
    flow.put(node, [data.axes[axis] for axis in order], silent=[silent[axis] for axis in order])


def concat(flow: Flow, node: ir.Node) -> None:
    """Positions follow each other along one axis and are tied along the others."""
    join(flow, node, range(len(node.inputs)))


def join(flow: Flow, node: ir.Node, places: Sequence[int]) -> None:
    """A Concat of the inputs `places`."""
    operands = [flow.tracked(node, index) for index in places]
    if any(operand is None for operand in operands):
        flow.barrier(node, UNKNOWN_INPUT)
        return
    parts = [operand for operand in operands if operand is not None]
    axis = graph.integer(node, "axis", 1) % max(len(parts[0].axes), 1)
    axes = list(parts[0].axes)
    for part in parts[1:]:
        for other, ids in enumerate(part.axes):
            if other != axis:
                flow.tie(axes[other], ids, node)
                axes[other] = ids if axes[other] is None or is_fixed(axes[other]) else axes[other]
    along = [part.axes[axis] for part in parts]
    if any(ids is None for ids in along):
        flow.block_all(along, node, "is joined with an axis of unknown size")
        axes[axis] = None
    elif all(is_fixed(ids) for ids in along):
        axes[axis] = fixed(sum(len(ids) for ids in along if ids is not None))
    else:
        axes[axis] = np.concatenate([ids for ids in along if ids is not None])
    silent = [all(part.is_silent(place) for part in parts) for place in range(len(axes))]
    flow.put(node, axes, silent=silent)


def split(flow: Flow, node: ir.Node) -> None:
    """One axis is cut into pieces; the stored sizes follow, and are written down where they were implied."""
    data = flow.tracked(node, 0)
    sizes = [flow.shape(output) for output in node.outputs]
    if data is None or any(size is None for size in sizes):
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axis = graph.integer(node, "axis", 0) % len(data.axes)
    ids, silent = data.axes[axis], data.all_silent()
    if ids is None or any(size is None or size[axis] is None for size in sizes):
        flow.block(ids, node, "is split into pieces of unknown size")
        for index, size in enumerate(sizes):
            piece = None if size is None or size[axis] is None else fixed(size[axis] or 0)
            flow.put(node, (*data.axes[:axis], piece, *data.axes[axis + 1 :]), output=index, silent=silent)
        return
    widths = [int(size[axis] or 0) for size in sizes if size is not None]
    pieces = np.split(ids, np.cumsum(widths)[:-1])
    stored = len(node.inputs) > 1 and node.inputs[1] is not None
    numbers = flow.numbers(node, 1) if stored else None
    for index, piece in enumerate(pieces):
        if stored:
            flow.follow(numbers[index] if numbers is not None else None, piece, node)
        elif not is_fixed(ids):
            flow.followers.append(Follower(node, "split", index, piece))
        flow.put(node, (*data.axes[:axis], piece, *data.axes[axis + 1 :]), output=index, silent=silent)


@dataclass(frozen=True)
class _Bounds:
    starts: list[int]
    ends: list[int]
    along: list[int]
    steps: list[int]


def slice_(flow: Flow, node: ir.Node) -> None:
    """Slice; on an axis that may lose channels, starts and ends follow."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    bounds, sizes = _bounds(flow, node, len(data.axes)), flow.shape(node.outputs[0])
    if bounds is None:
        _slice_somewhere(flow, node, data)
        return
    axes = list(data.axes)
    for k, axis in enumerate(bounds.along):
        ids = axes[axis]
        if ids is None:
            axes[axis] = fixed_like(sizes[axis : axis + 1])[0] if sizes is not None else None
        elif is_fixed(ids):
            end = None if bounds.steps[k] < 0 and bounds.ends[k] < -len(ids) else bounds.ends[k]
            axes[axis] = fixed(len(range(*slice(bounds.starts[k], end, bounds.steps[k]).indices(len(ids)))))
        else:
            axes[axis] = _cut(flow, node, ids, k, bounds)
    flow.put(node, axes, silent=data.all_silent())


def _bounds(flow: Flow, node: ir.Node, rank: int) -> _Bounds | None:
    attributes = flow.opset < 10
    starts, ends, along = (
        graph.integers(node, name) if attributes else flow.known(node, index)
        for index, name in ((1, "starts"), (2, "ends"), (3, "axes"))
    )
    steps = flow.known(node, 4) if not attributes and len(node.inputs) > 4 and node.inputs[4] is not None else None
    if starts is None or ends is None:
        return None
    along = [axis % rank for axis in along] if along is not None else list(range(len(starts)))
    return _Bounds(starts, ends, along, steps if steps is not None else [1] * len(starts))


def _slice_somewhere(flow: Flow, node: ir.Node, data: Tracked) -> None:
    """Bounds that are computed in the graph: the axes that they cut must stay, where it is known which those are."""
    along, sizes = flow.known(node, 3), flow.shape(node.outputs[0])
    cut = range(len(data.axes)) if along is None else [axis % len(data.axes) for axis in along]
    axes = list(data.axes)
    for axis in cut:
        flow.block(axes[axis], node, "slices between bounds that are computed in the graph")
        axes[axis] = None if sizes is None else fixed_like(sizes[axis : axis + 1])[0]
    flow.freeze(node, 0, data)
    flow.put(node, axes, silent=data.all_silent())


def _cut(flow: Flow, node: ir.Node, ids: Ids, k: int, bounds: _Bounds) -> Ids:
    start, end, step = bounds.starts[k], bounds.ends[k], bounds.steps[k]
    cut = slice(start, end, step)
    begin, stop, _ = cut.indices(len(ids))
    if step == 1:
        _follow_bound(flow, node, 1, "starts", k, start, ids[:begin], len(ids))
        _follow_bound(flow, node, 2, "ends", k, end, ids[:stop], len(ids))
    elif step > 1 and 0 <= start < step and len(ids) % step == 0 and stop == len(ids):
        # Every n-th channel: whole runs of n go, so that what is left is still every n-th.
        runs = ids.reshape(-1, step)
        flow.tie(np.repeat(runs[:, 0], step - 1), np.ascontiguousarray(runs[:, 1:]).ravel(), node)
        _follow_bound(flow, node, 2, "ends", k, end, ids, len(ids))
    elif step == -1 and start == -1 and end < -len(ids):
        return np.ascontiguousarray(ids[::-1])
    else:
        flow.block(ids, node, "takes every n-th channel")
    return ids[cut]


def _follow_bound(
    flow: Flow, node: ir.Node, index: int, name: str, element: int, bound: int, before: Ids, size: int
) -> None:
    """A start or end is the number of living positions before it."""
    if abs(bound) >= END or (is_fixed(before) and 0 <= bound < size):
        return
    if flow.opset < 10:
        flow.followers.append(Follower(node, name, element, before))
        return
    numbers = flow.numbers(node, index)
    origin = numbers[element].origin if numbers is not None else None
    if origin is None:
        flow.block(before, node, "slices between bounds that are computed in the graph")
    else:
        flow.followers.append(Follower(*origin, before))


def pad(flow: Flow, node: ir.Node) -> None:
    """Pad; padding of the channel axis makes new channels, and their stored number follows."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axes, in_attribute = data.axes, flow.opset < 11
    pads = graph.integers(node, "pads") if in_attribute else flow.known(node, 1)
    along = flow.known(node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(len(axes)))
    if pads is None or along is None:
        _pad_somewhere(flow, node, data)
        return
    result, silent = list(axes), list(data.all_silent())
    with_zeros = _pads_with_zeros(flow, node)
    for k, axis in enumerate(along):
        axis %= len(axes)
        ids, before, after = axes[axis], pads[k], pads[k + len(along)]
        if before == after == 0:
            continue
        silent = [is_silent and (place == axis or with_zeros) for place, is_silent in enumerate(silent)]
        if ids is None or is_fixed(ids) or min(before, after) < 0 or graph.text(node, "mode", "constant") != "constant":
            flow.block(ids, node, "pads this axis")
            result[axis] = None if ids is None else fixed(len(ids) + before + after)
            continue
        ends = [
            _padding(flow, node, k + side * len(along), amount, in_attribute)
            for side, amount in enumerate((before, after))
        ]
        result[axis] = np.concatenate([ends[0], ids, ends[1]])
        silent[axis] = silent[axis] and with_zeros
    flow.put(node, result, silent=silent)


def _pad_somewhere(flow: Flow, node: ir.Node, data: Tracked) -> None:
    """Amounts that are computed in the graph: axes whose size stays pass where those differ from the padded ones."""
    sizes = flow.shape(node.outputs[0])
    if sizes is None:
        flow.barrier(node, "pads by amounts that are computed in the graph")
        return
    numbers = flow.numbers(node, 1) or ()
    axes: list[Axis] = []
    for axis, ids in enumerate(data.axes):
        amounts = [numbers[place].value if place < len(numbers) else None for place in (axis, axis + len(data.axes))]
        if amounts == [0, 0] and not any(numbers[place].varies for place in (axis, axis + len(data.axes))):
            axes.append(ids)
        else:
            flow.block(ids, node, "pads by amounts that are computed in the graph")
            axes.append(fixed_like(sizes[axis : axis + 1])[0])
    flow.put(node, axes)


def _pads_with_zeros(flow: Flow, node: ir.Node) -> bool:
    if graph.text(node, "mode", "constant") != "constant":
        return True
    if flow.opset < 11:
        value = node.attributes.get("value")
        return value is None or value.as_float() == 0
    if len(node.inputs) <= 2 or node.inputs[2] is None:
        return True
    stored = flow.stored(node, 2)
    return stored is not None and not stored.any()


def _padding(flow: Flow, node: ir.Node, element: int, amount: int, in_attribute: bool) -> Ids:
    ids = flow.positions(amount)
    if in_attribute:
        flow.followers.append(Follower(node, "pads", element, ids))
    else:
        numbers = flow.numbers(node, 1)
        flow.follow(numbers[element] if numbers is not None else None, ids, node)
    return ids


def resize(flow: Flow, node: ir.Node) -> None:
    """Resize and Upsample: axes that keep their size pass, and a stored size of theirs follows."""
    data, sizes = flow.tracked(node, 0), flow.shape(node.outputs[0])
    if data is None or sizes is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axes = data.axes
    by_size = len(node.inputs) > 3 and node.inputs[3] is not None
    along = [axis % len(axes) for axis in graph.integers(node, "axes") or range(len(axes))]
    stored = dict(zip(along, flow.numbers(node, 3) or (), strict=False)) if by_size else {}
    result: list[Axis] = []
    for axis, ids in enumerate(axes):
        if ids is not None and sizes[axis] == len(ids):
            if by_size and axis in along:
                flow.follow(stored.get(axis), ids, node)
            result.append(ids)
        else:
            flow.block(ids, node, "resizes this axis")
            flow.rely([stored[axis]] if axis in stored else (), node)
            result.append(fixed_like(sizes[axis : axis + 1])[0])
    crops = graph.text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
    flow.put(node, result, silent=() if crops else data.all_silent())


def depth_to_space(flow: Flow, node: ir.Node) -> None:
    """Each output channel is made of r*r input channels, which live and die together."""
    data, sizes = flow.tracked(node, 0), flow.shape(node.outputs[0])
    block = graph.integer(node, "blocksize", 1)
    if data is None or data.axes[1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    ids = (
        data.axes[1].reshape(block * block, -1)
        if graph.text(node, "mode", "DCR") == "DCR"
        else data.axes[1].reshape(-1, block * block).T
    )
    if ids.shape[1] == 1:
        flow.block(data.axes[1], node, "an axis of one channel can't lose it")
    flow.block_all(data.axes[2:], node, "rearranges this axis")
    flow.tie(np.broadcast_to(ids[0], ids[1:].shape).ravel(), ids[1:].ravel(), node)
    flow.put(
        node,
        (data.axes[0], np.ascontiguousarray(ids[0]), *(fixed_like(sizes[2:]) if sizes else (None, None))),
        silent=data.all_silent()[:2],
    )


def space_to_depth(flow: Flow, node: ir.Node) -> None:
    """Each input channel becomes r*r output channels."""
    data, sizes = flow.tracked(node, 0), flow.shape(node.outputs[0])
    block = graph.integer(node, "blocksize", 1)
    if data is None or data.axes[1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.block_all(data.axes[2:], node, "rearranges this axis")
    flow.put(
        node,
        (data.axes[0], np.tile(data.axes[1], block * block), *(fixed_like(sizes[2:]) if sizes else (None, None))),
        silent=data.all_silent()[:2],
    )


def squeeze(flow: Flow, node: ir.Node) -> None:
    """Axes of size one go."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    given = graph.integers(node, "axes") or (flow.known(node, 1) if len(node.inputs) > 1 else None)
    rank = len(data.axes)
    gone = (
        {axis % rank for axis in given}
        if given is not None
        else {axis for axis, ids in enumerate(data.axes) if ids is not None and len(ids) == 1}
    )
    left = [axis for axis in range(rank) if axis not in gone]
    flow.put(
        node,
        [data.axes[axis] for axis in left],
        silent=[data.is_silent(axis) for axis in left],
    )


def unsqueeze(flow: Flow, node: ir.Node) -> None:
    """Axes of size one come."""
    data = flow.tracked(node, 0)
    given = graph.integers(node, "axes") or (flow.known(node, 1) if len(node.inputs) > 1 else None)
    if data is None or given is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    rank = len(data.axes) + len(given)
    new, old = {axis % rank for axis in given}, iter(zip(data.axes, data.all_silent(), strict=True))
    axes, silent = zip(*((fixed(1), True) if axis in new else next(old) for axis in range(rank)), strict=True)
    flow.put(node, axes, silent=silent)
