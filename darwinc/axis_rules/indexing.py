"""Operators that read or write at computed places: scatter and gather, sampling, regions of interest, windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Picks, fixed, fixed_like, is_fixed
from darwinc.axis_rules.weighted import Places, convolve

INDEXED = "picks positions by index"
WORKS_ALONG = "works along this axis"


def gather_nd(flow: Flow, node: ir.Node) -> None:
    """GatherND: the axes that an index names must stay, those behind them pass."""
    data, indices = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or indices is None or indices.axes[-1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    batch, named = graph.integer(node, "batch_dims", 0), len(indices.axes[-1])
    for one, two in zip(data.axes[:batch], indices.axes[:batch], strict=True):
        flow.tie(one, two, node)
    flow.block_all((*data.axes[batch : batch + named], indices.axes[-1]), node, INDEXED)
    rest, silent = data.axes[batch + named :], data.all_silent()[batch + named :]
    flow.put(node, (*indices.axes[:-1], *rest), silent=(*[False] * (len(indices.axes) - 1), *silent))


def scatter_nd(flow: Flow, node: ir.Node) -> None:
    """ScatterND: the axes that an index names must stay, those behind them pass.

    A stored list of positions of the first axis loses the removed ones, and so do the updates.
    """
    data, indices, updates = (flow.tracked(node, index) for index in range(3))
    if data is None or indices is None or updates is None or indices.axes[-1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    named, leading = len(indices.axes[-1]), len(indices.axes) - 1
    first, listed = data.axes[0], graph.constant_tensor(node.inputs[1])
    silent = [False] * named
    if named == leading == 1 and first is not None and not is_fixed(first) and listed is not None:
        chosen = listed.numpy().astype(np.int64).ravel() % len(first)
        flow.picks.append(Picks(node, 1, chosen, first))
        flow.tie(first[chosen], updates.axes[0], node)
        silent = [data.is_silent(0) and updates.is_silent(0)]
    else:
        flow.block_all((*data.axes[:named], indices.axes[-1]), node, INDEXED)
        for one, two in zip(indices.axes[:-1], updates.axes[:leading], strict=True):
            flow.tie(one, two, node)
    for one, two in zip(data.axes[named:], updates.axes[leading:], strict=True):
        flow.tie(one, two, node)
    pairs = zip(data.all_silent()[named:], updates.all_silent()[leading:], strict=True)
    flow.put(node, data.axes, silent=(*silent, *(one and two for one, two in pairs)))


def scatter_elements(flow: Flow, node: ir.Node) -> None:
    """ScatterElements and Scatter: one axis is written by index, positions of the others are tied."""
    data, indices, updates = (flow.tracked(node, index) for index in range(3))
    if data is None or indices is None or updates is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axis = graph.integer(node, "axis", 0) % max(len(data.axes), 1)
    flow.block_all((data.axes[axis], indices.axes[axis], updates.axes[axis]), node, INDEXED)
    silent = []
    for place, own in enumerate(data.axes):
        if place != axis:
            flow.tie(own, indices.axes[place], node)
            flow.tie(own, updates.axes[place], node)
        silent.append(place != axis and data.is_silent(place) and updates.is_silent(place))
    flow.put(node, data.axes, silent=silent)


def tensor_scatter(flow: Flow, node: ir.Node) -> None:
    """TensorScatter: a cache is written along one axis, for every sample from its own place on."""
    cache, update = flow.tracked(node, 0), flow.tracked(node, 1)
    if cache is None or update is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axis = graph.integer(node, "axis", -2) % len(cache.axes)
    flow.block_all((cache.axes[0], update.axes[0], cache.axes[axis], update.axes[axis]), node, INDEXED)
    silent = []
    for place, (one, two) in enumerate(zip(cache.axes, update.axes, strict=True)):
        if place not in (0, axis):
            flow.tie(one, two, node)
        silent.append(place != axis and cache.is_silent(place) and update.is_silent(place))
    flow.put(node, cache.axes, silent=silent)


def one_hot(flow: Flow, node: ir.Node) -> None:
    """OneHot: the axes of the indices pass, and a new one counts the classes."""
    indices, sizes = flow.axes(node, 0), flow.shape(node.outputs[0])
    if indices is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.rely(flow.numbers(node, 1), node)
    axis = graph.integer(node, "axis", -1) % (len(indices) + 1)
    classes = fixed_like(sizes[axis : axis + 1]) if sizes is not None else (None,)
    flow.put(node, (*indices[:axis], *classes, *indices[axis:]))


def compress(flow: Flow, node: ir.Node) -> None:
    """Compress: positions of one axis are picked by a condition; without an axis, elements of everything."""
    data, sizes = flow.tracked(node, 0), flow.shape(node.outputs[0])
    if data is None or "axis" not in node.attributes:
        flow.barrier(node, UNKNOWN_INPUT if data is None else "picks elements by a condition")
        return
    axis = graph.integer(node, "axis", 0) % len(data.axes)
    _pass_around(flow, node, {axis}, INDEXED, sizes[axis : axis + 1] if sizes is not None else (None,))


def reverse_sequence(flow: Flow, node: ir.Node) -> None:
    """ReverseSequence: order matters in time, and every sample has a length of its own."""
    lengths, batch = flow.axes(node, 1), graph.integer(node, "batch_axis", 1)
    axes = flow.axes(node, 0)
    if axes is not None and lengths is not None:
        flow.tie(axes[batch], lengths[0], node)
    _pass_around(flow, node, {graph.integer(node, "time_axis", 0)}, WORKS_ALONG)


def matrices(flow: Flow, node: ir.Node) -> None:
    """Trilu and Inverse: the two last axes are a matrix, the others pass."""
    _pass_around(flow, node, {-1, -2}, "is an axis of a matrix")


def determinant(flow: Flow, node: ir.Node) -> None:
    """Det: the two last axes go, the others pass."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.block_all(data.axes[-2:], node, "is an axis of a matrix")
    flow.put(node, data.axes[:-2], silent=data.all_silent()[:-2])


def fourier(flow: Flow, node: ir.Node) -> None:
    """DFT: one axis is transformed, the last is real and imaginary; the others pass."""
    data, sizes = flow.axes(node, 0), flow.shape(node.outputs[0])
    known = flow.known(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if data is None or (known is None and len(node.inputs) > 2 and node.inputs[2] is not None):
        flow.barrier(node, "transforms along an axis that is computed in the graph")
        return
    default = 1 if flow.opset < 20 else -2
    axis = (known[0] if known else graph.integer(node, "axis", default)) % len(data)
    flow.rely(flow.numbers(node, 1), node)
    flow.block_all((data[axis], data[-1]), node, WORKS_ALONG)
    made = list(data)
    made[axis], made[-1] = fixed_like((sizes[axis], sizes[-1])) if sizes is not None else (None, None)
    tracked = flow.tracked(node, 0)
    silent = tracked.all_silent() if tracked is not None else ()
    flow.put(node, made, silent=[is_silent and place != axis for place, is_silent in enumerate(silent)])


def _pass_around(
    flow: Flow, node: ir.Node, held: set[int], reason: str, sizes: Sequence[int | None] | None = None
) -> None:
    """Some axes must stay whole, and may have new `sizes`; positions of the others pass."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    places = sorted(place % len(data.axes) for place in held)
    axes, silent = list(data.axes), list(data.all_silent())
    for number, place in enumerate(places):
        flow.block(axes[place], node, reason)
        silent[place] = False
        if sizes is not None:
            axes[place] = fixed_like(sizes[number : number + 1])[0]
    flow.put(node, axes, silent=silent)


# Sampling -----------------------------------------------------------------------------------------------------------


def grid_sample(flow: Flow, node: ir.Node) -> None:
    """GridSample: X [N, C, *spatial] at the places of a grid [N, *places, dimensions]; channels pass."""
    data, grid = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or grid is None or len(data.axes) < 3:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.tie(data.axes[0], grid.axes[0], node)
    flow.block_all((*data.axes[2:], *grid.axes[1:]), node, "is sampled")
    flow.put(node, (*data.axes[:2], *grid.axes[1:-1]), silent=data.all_silent()[:2])


def regions(flow: Flow, node: ir.Node) -> None:
    """RoiAlign, MaxRoiPool and CropAndResize: channels [N, C, H, W] pass into every region [R, 4 or 5]."""
    data, boxes, sizes = flow.tracked(node, 0), flow.tracked(node, 1), flow.shape(node.outputs[0])
    if data is None or boxes is None or len(data.axes) != 4:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.block_all((data.axes[0], *data.axes[2:], *boxes.axes), node, "is cut into regions")
    rest = fixed_like(sizes[2:]) if sizes is not None else (None, None)
    flow.put(node, (boxes.axes[0], data.axes[1], *rest), silent=(False, data.is_silent(1) and _fills_with_zeros(node)))


def _fills_with_zeros(node: ir.Node) -> bool:
    value = node.attributes.get("extrapolation_value")
    return value is None or value.as_float() == 0


def deformable_convolution(flow: Flow, node: ir.Node) -> None:
    """DeformConv: X, weight, offsets, bias, mask; all input channels must share one set of offsets."""
    if graph.integer(node, "offset_group", 1) != 1:
        flow.barrier(node, "moves groups of channels by offsets of their own")
        return
    for index in (2, 4):
        flow.block_all(flow.axes(node, index), node, "says where a kernel samples")
    convolve(flow, node, Places(0, 1, 3, None))


def columns_to_image(flow: Flow, node: ir.Node) -> None:
    """Col2Im: [N, C*block, L] becomes [N, C, *image]; a channel's block goes as a whole."""
    data, sizes, block = flow.tracked(node, 0), flow.shape(node.outputs[0]), flow.known(node, 2)
    flow.rely(flow.numbers(node, 1), node)
    if data is None or data.axes[1] is None or block is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    cells = data.axes[1].reshape(-1, math.prod(block))
    first = np.ascontiguousarray(cells[:, 0])
    flow.tie(np.repeat(first, cells.shape[1] - 1), np.ascontiguousarray(cells[:, 1:]).ravel(), node)
    flow.block(data.axes[2], node, WORKS_ALONG)
    rest: Sequence[Axis] = fixed_like(sizes[2:]) if sizes is not None else (None,) * len(block)
    flow.put(node, (data.axes[0], first, *rest), silent=data.all_silent()[:2])


def center(flow: Flow, node: ir.Node) -> None:
    """CenterCropPad: axes that keep their size pass, and their stored size follows."""
    data, sizes, numbers = flow.tracked(node, 0), flow.shape(node.outputs[0]), flow.numbers(node, 1)
    if data is None or sizes is None or numbers is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    rank = len(data.axes)
    along = [axis % rank for axis in graph.integers(node, "axes") or range(rank)]
    axes = list(data.axes)
    for number, axis in zip(numbers, along, strict=True):
        own = axes[axis]
        if own is not None and len(own) == sizes[axis]:
            flow.follow(number, own, node)
            continue
        flow.block(own, node, "crops or pads this axis")
        flow.rely([number], node)
        axes[axis] = fixed_like(sizes[axis : axis + 1])[0]
    flow.put(node, axes, silent=data.all_silent())


def windows(flow: Flow, node: ir.Node) -> None:
    """STFT: a signal [B, length, 1 or 2] is cut into frames; the batch passes."""
    data, sizes = flow.tracked(node, 0), flow.shape(node.outputs[0])
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.rely(flow.numbers(node, 1), node)
    flow.rely(flow.numbers(node, 3), node)
    flow.block_all(data.axes[1:], node, "is cut into frames")
    flow.block_all(flow.axes(node, 2), node, "is a window")
    made: Sequence[Axis] = fixed_like(sizes[1:]) if sizes is not None else (None, None, fixed(2))
    flow.put(node, (data.axes[0], *made), silent=data.all_silent()[:1])
