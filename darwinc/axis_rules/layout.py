"""Operators that move positions without computing: Transpose, Concat, Split, Slice, Pad, Resize and their kin."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import Axis, Flow, Follower, Ids, Number, Tracked, fixed, fixed_like, is_fixed

UNKNOWN = "the shape of its input is unknown"
END = np.iinfo(np.int32).max


def transpose(flow: Flow, node: ir.Node) -> None:
    """Axes change places."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN)
        return
    order = graph.integers(node, "perm") or list(range(len(data.axes)))[::-1]
    flow.put(node, [data.axes[axis] for axis in order], weight=data.weight)


def concat(flow: Flow, node: ir.Node) -> None:
    """Positions follow each other along one axis and are tied along the others."""
    operands = [flow.tracked(node, index) for index in range(len(node.inputs))]
    if any(operand is None for operand in operands):
        flow.barrier(node, UNKNOWN)
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
    else:
        axes[axis] = np.concatenate([ids for ids in along if ids is not None])
    flow.put(node, axes, weight=all(part.weight for part in parts), numbers=_joined(flow, node, parts))


def _joined(flow: Flow, node: ir.Node, parts: list[Tracked]) -> tuple[Number, ...] | None:
    """Numbers that follow each other; what isn't known of one part leaves gaps, not silence about the others."""
    joined: list[Number] = []
    for part in parts:
        length = part.axes[0] if len(part.axes) == 1 else None
        if part.numbers is None and length is None:
            flow.rely((number for other in parts for number in other.numbers or ()), node)
            return None
        joined.extend(
            part.numbers if part.numbers is not None else [Number(None)] * len(length if length is not None else ())
        )
    return tuple(joined) if any(part.numbers is not None for part in parts) else None


def split(flow: Flow, node: ir.Node) -> None:
    """One axis is cut into pieces; the stored sizes follow, and are written down where they were implied."""
    data = flow.tracked(node, 0)
    sizes = [flow.shape(output) for output in node.outputs]
    if data is None or any(size is None for size in sizes):
        flow.barrier(node, UNKNOWN)
        return
    axis = graph.integer(node, "axis", 0) % len(data.axes)
    ids = data.axes[axis]
    if ids is None or any(size is None or size[axis] is None for size in sizes):
        flow.block(ids, node, "is split into pieces of unknown size")
        for index, size in enumerate(sizes):
            flow.put(
                node,
                (
                    *data.axes[:axis],
                    None if size is None or size[axis] is None else fixed(size[axis] or 0),
                    *data.axes[axis + 1 :],
                ),
                output=index,
            )
        return
    widths = [int(size[axis] or 0) for size in sizes if size is not None]
    pieces = np.split(ids, np.cumsum(widths)[:-1])
    numbers = flow.numbers(node, 1) if len(node.inputs) > 1 else None
    for index, piece in enumerate(pieces):
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            flow.follow(numbers[index] if numbers is not None else None, piece, node)
        elif not is_fixed(ids):
            flow.followers.append(Follower(node, "split", index, piece))
        flow.put(node, (*data.axes[:axis], piece, *data.axes[axis + 1 :]), output=index, weight=data.weight)


def slice_(flow: Flow, node: ir.Node) -> None:
    """Slice; on an axis that may lose channels, stored starts and ends follow."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN)
        return
    attributes = flow.opset < 10
    given = [
        graph.integers(node, name) if attributes else flow.known(node, index)
        for index, name in ((1, "starts"), (2, "ends"), (3, "axes"))
    ]
    starts, ends, along = given
    steps = flow.known(node, 4) if not attributes and len(node.inputs) > 4 and node.inputs[4] is not None else None
    if starts is None or ends is None:
        flow.barrier(node, "slices between bounds that are computed in the graph")
        return
    along = [axis % len(data.axes) for axis in along] if along is not None else list(range(len(starts)))
    axes = list(data.axes)
    sizes = flow.shape(node.outputs[0])
    for k, axis in enumerate(along):
        ids, step = axes[axis], steps[k] if steps else 1
        if ids is None or is_fixed(ids):
            axes[axis] = fixed(int(sizes[axis] or 0)) if sizes is not None and sizes[axis] is not None else None
            continue
        cut = slice(starts[k], ends[k], step)
        begin, stop, _ = cut.indices(len(ids))
        axes[axis] = ids[cut]
        if step != 1:
            flow.block(ids, node, "takes every n-th channel")
            continue
        _follow_bound(flow, node, 1, "starts", k, starts[k], ids[:begin], len(ids))
        _follow_bound(flow, node, 2, "ends", k, ends[k], ids[:stop], len(ids))
    flow.put(node, axes, weight=data.weight, numbers=_sliced(flow, node, data.numbers, starts, ends, steps))


def _follow_bound(
    flow: Flow, node: ir.Node, index: int, name: str, element: int, bound: int, before: Ids, size: int
) -> None:
    """A stored start or end is the number of living positions before it."""
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


def _sliced(
    flow: Flow,
    node: ir.Node,
    numbers: tuple[Number, ...] | None,
    starts: list[int],
    ends: list[int],
    steps: list[int] | None,
) -> tuple[Number, ...] | None:
    if numbers is None or len(starts) != 1:
        flow.rely(numbers, node)
        return None
    return numbers[slice(starts[0], ends[0], steps[0] if steps else 1)]


def pad(flow: Flow, node: ir.Node) -> None:
    """Pad; padding of the channel axis makes new channels, and their stored number follows."""
    axes = flow.axes(node, 0)
    if axes is None:
        flow.barrier(node, UNKNOWN)
        return
    in_attribute = flow.opset < 11
    pads = graph.integers(node, "pads") if in_attribute else flow.known(node, 1)
    along = flow.known(node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(len(axes)))
    if pads is None or along is None:
        flow.barrier(node, "pads by amounts that are computed in the graph")
        return
    result, sizes = list(axes), flow.shape(node.outputs[0])
    for k, axis in enumerate(along):
        axis %= len(axes)
        ids, before, after = axes[axis], pads[k], pads[k + len(along)]
        if before == after == 0:
            continue
        if ids is None or is_fixed(ids) or min(before, after) < 0 or graph.text(node, "mode", "constant") != "constant":
            flow.block(ids, node, "pads this axis")
            result[axis] = fixed(int(sizes[axis] or 0)) if sizes is not None and sizes[axis] is not None else None
            continue
        ends = [
            _padding(flow, node, k + side * len(along), amount, in_attribute)
            for side, amount in enumerate((before, after))
        ]
        result[axis] = np.concatenate([ends[0], ids, ends[1]])
    flow.put(node, result)


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
    axes, sizes = flow.axes(node, 0), flow.shape(node.outputs[0])
    if axes is None or sizes is None:
        flow.barrier(node, UNKNOWN)
        return
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
    flow.put(node, result)


def depth_to_space(flow: Flow, node: ir.Node) -> None:
    """Each output channel is made of r*r input channels, which live and die together."""
    axes, sizes = flow.axes(node, 0), flow.shape(node.outputs[0])
    block = graph.integer(node, "blocksize", 1)
    if axes is None or axes[1] is None:
        flow.barrier(node, UNKNOWN)
        return
    ids = (
        axes[1].reshape(block * block, -1)
        if graph.text(node, "mode", "DCR") == "DCR"
        else axes[1].reshape(-1, block * block).T
    )
    if ids.shape[1] == 1:
        flow.block(axes[1], node, "an axis of one channel can't lose it")
    flow.tie(np.broadcast_to(ids[0], ids[1:].shape).ravel(), ids[1:].ravel(), node)
    flow.put(node, (axes[0], np.ascontiguousarray(ids[0]), *(fixed_like(sizes[2:]) if sizes else (None, None))))


def space_to_depth(flow: Flow, node: ir.Node) -> None:
    """Each input channel becomes r*r output channels."""
    axes, sizes = flow.axes(node, 0), flow.shape(node.outputs[0])
    block = graph.integer(node, "blocksize", 1)
    if axes is None or axes[1] is None:
        flow.barrier(node, UNKNOWN)
        return
    flow.put(node, (axes[0], np.tile(axes[1], block * block), *(fixed_like(sizes[2:]) if sizes else (None, None))))


def squeeze(flow: Flow, node: ir.Node) -> None:
    """Axes of size one go."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN)
        return
    given = graph.integers(node, "axes") or (flow.known(node, 1) if len(node.inputs) > 1 else None)
    rank = len(data.axes)
    gone = (
        {axis % rank for axis in given}
        if given is not None
        else {axis for axis, ids in enumerate(data.axes) if ids is not None and len(ids) == 1}
    )
    flow.put(
        node, [ids for axis, ids in enumerate(data.axes) if axis not in gone], weight=data.weight, numbers=data.numbers
    )


def unsqueeze(flow: Flow, node: ir.Node) -> None:
    """Axes of size one come."""
    data = flow.tracked(node, 0)
    given = graph.integers(node, "axes") or (flow.known(node, 1) if len(node.inputs) > 1 else None)
    if data is None or given is None:
        flow.barrier(node, UNKNOWN)
        return
    rank = len(data.axes) + len(given)
    new, old = {axis % rank for axis in given}, iter(data.axes)
    flow.put(
        node, [fixed(1) if axis in new else next(old) for axis in range(rank)], weight=data.weight, numbers=data.numbers
    )
