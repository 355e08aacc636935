"""What a cut does to one tensor, and who else reads a constant that is to be cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import ConstantUse, Fill, Ids, is_fixed
from darwinc.channels import Channels, Mask

Array = npt.NDArray[Any]
Cuts = dict[int, list[int] | list[list[int]]]
"""The kept indices by axis; on axis 1 of the weight of a grouped convolution there may be a list per group."""


class Cutter:
    """Which indices of constants are kept when the components in `dead` [channels.count] go."""

    def __init__(self, channels: Channels, dead: Mask) -> None:
        self.channels, self.dead = channels, dead
        self._grouped = {
            (reader.node, reader.weight): reader.ids.reshape(reader.groups, -1)
            for reader in channels.flow.readers
            if reader.groups > 1 and reader.weight_axis == 1
        }
        """The inputs of each group of a grouped convolution, by the place of its weight."""

    def along(self, axes: tuple[Ids, ...]) -> Cuts:
        """The indices kept along each axis that loses any."""
        cuts: Cuts = {}
        for axis, ids in enumerate(axes):
            if is_fixed(ids):
                continue
            living = self.channels.living(ids, self.dead)
            if not living.all():
                cuts[axis] = np.flatnonzero(living).tolist()
        return cuts

    def of(self, use: ConstantUse) -> Cuts:
        """The same for a constant: groups of a convolution may have kept other inputs each."""
        cuts = self.along(use.axes)
        if 1 in cuts and (use.node, use.index) in self._grouped:
            living = np.stack([self.channels.living(ids, self.dead) for ids in self._grouped[use.node, use.index]])
            first = living[living.any(axis=1)][0]
            living[~living.any(axis=1)] = first
            alike = (living == first).all()
            cuts[1] = np.flatnonzero(first).tolist() if alike else [np.flatnonzero(row).tolist() for row in living]
        return cuts


def is_read_only_by(source: ir.Value, known: set[tuple[ir.Node, int]]) -> bool:
    """Is every reader of a constant, through Identity too, a known place (node, input)?"""
    values = [source, *aliases(source)]
    known = known | {(node, 0) for alias in values[1:] if (node := alias.producer()) is not None}
    return not any(
        value.is_graph_output() or any((reader, index) not in known for reader, index in value.uses())
        for value in values
    )


def aliases(source: ir.Value) -> list[ir.Value]:
    """The copies of a constant through Identity."""
    found = [source]
    for value in found:
        found.extend(
            reader.outputs[0]
            for reader, _ in value.uses()
            if reader.op_type == "Identity" and graph.is_standard(reader) and reader.graph is source.graph
        )
    return found[1:]


def filled(fill: Fill) -> Array:
    """What a ConstantOfShape makes."""
    value = fill.node.attributes.get("value")
    tensor = ir.tensor(np.zeros(1, np.float32)) if value is None else value.as_tensor()
    return np.full([len(ids) for ids in fill.axes], tensor.numpy().ravel()[0], tensor.numpy().dtype)


def taken(tensor: ir.TensorProtocol, cuts: Cuts) -> Array:
    """What is left of a tensor when only the given indices of some axes are kept."""
    array = tensor.numpy()
    for axis in sorted(cuts, reverse=True):
        indices = np.asarray(cuts[axis])
        if indices.ndim == 1:
            array = np.take(array, indices, axis=axis)
        else:
            by_group = _by_group(array, len(indices))
            index = indices.reshape(len(indices), 1, -1, *(1,) * (array.ndim - 2))
            array = np.take_along_axis(by_group, index, axis=2).reshape(len(array), -1, *array.shape[2:])
    return np.ascontiguousarray(array)


def lengths(cuts: Cuts, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of what is left of a tensor of `shape`."""
    return tuple(int(np.shape(cuts[axis])[-1]) if axis in cuts else size for axis, size in enumerate(shape))


def scattered(array: Array, cuts: Cuts, shape: Sequence[int]) -> Array:
    """What was left of a tensor, back at its positions in the whole [shape], with zeros elsewhere: `taken` undone.

    Of ones it is the mask of what is left.
    """
    for axis in sorted(cuts):
        indices = np.asarray(cuts[axis])
        whole = np.zeros((*array.shape[:axis], shape[axis], *array.shape[axis + 1 :]), array.dtype)
        if indices.ndim == 1:
            whole[(slice(None),) * axis + (indices,)] = array
        else:
            index = indices.reshape(len(indices), 1, -1, *(1,) * (array.ndim - 2))
            np.put_along_axis(_by_group(whole, len(indices)), index, _by_group(array, len(indices)), axis=2)
        array = whole
    return array


def zeroed(tensor: ir.TensorProtocol, cuts: Cuts, zero: Array) -> Array:
    """The tensor with `zero`, broadcast, in place of what is cut."""
    array = tensor.numpy().copy()
    stands_in = np.broadcast_to(zero.astype(array.dtype), array.shape)
    for axis, kept in cuts.items():
        indices = np.asarray(kept)
        if indices.ndim == 1:
            gone = np.ones(array.shape[axis], np.bool_)
            gone[indices] = False
            place = (slice(None),) * axis + (gone,)
            array[place] = stands_in[place]
            continue
        by_group, instead = _by_group(array, len(indices)), _by_group(stands_in, len(indices))
        for group, own in enumerate(indices):
            gone = np.ones(array.shape[1], np.bool_)
            gone[own] = False
            by_group[group][:, gone] = instead[group][:, gone]
    return array


def _by_group(array: Array, groups: int) -> Array:
    """The weight of a grouped convolution [O, I/groups, ...] as [groups, O/groups, I/groups, ...]."""
    return array.reshape(groups, -1, *array.shape[1:])
