"""Where the mass of a channel sits: the columns of its readers' weights.

A mass m_i scales what the readers of unit i take in, so it is folded into the columns of their weights at the unit's
positions: the graph needs no extra op. Then -dL/dm_i is minus the sum over those columns of weight times gradient,
over m_i.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from darwinc import graph
from darwinc.axis_record import Reader
from darwinc.channels import Channels
from darwinc.cutting import is_read_only_by
from darwinc.torch_graph import TorchGraph

Indices = npt.NDArray[np.int64]
MEETS = "its channels meet in a product of two computed values, which has no weight to scale"
UNREAD = "no weight reads its channels"
COMPUTED = "the weight that reads it is computed, not stored"
SHARED = "the weight that reads it is read elsewhere too"
FROZEN = "the weight that reads it is not trained"


@dataclass(frozen=True, eq=False)
class Handle:
    """The columns of one weight by the units that they belong to.

    Attributes:
        weight: ONNX name of the tensor.
        axis: its axis along which the columns lie.
        groups: of a grouped convolution, where the axis holds the columns of each group's own rows.
        owners: places of the units [P, K] of every position; the number of units where there is none.
    """

    weight: str
    axis: int
    groups: int
    owners: torch.Tensor

    def spread(self, factors: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A factor per unit [U + 1], the last one 1, as what to multiply the weight by; broadcasts to its shape."""
        by_position = factors[self.owners.to(factors.device)].prod(1).to(like)
        if self.groups == 1:
            return by_position.reshape([-1 if axis == self.axis else 1 for axis in range(like.ndim)])
        rows = by_position.reshape(self.groups, -1).repeat_interleave(like.shape[0] // self.groups, 0)
        return rows.reshape(*rows.shape, *(1,) * (like.ndim - 2))

    def gathered(self, product: torch.Tensor, units: int) -> torch.Tensor:
        """The sums of a tensor of the weight's shape over the columns of each unit [U], in float64."""
        if self.groups == 1:
            others = [axis for axis in range(product.ndim) if axis != self.axis]
            by_position = product.sum(others) if others else product
        else:
            by_position = product.flatten(2).sum(2).reshape(self.groups, -1, product.shape[1]).sum(1).flatten()
        total = torch.zeros(units + 1, dtype=torch.float64, device=product.device)
        for owner in self.owners.to(product.device).T:
            total.index_add_(0, owner, by_position.double())
        return total[:units]


@dataclass(frozen=True, eq=False)
class Populations:
    """The units that compete, group after group, and where their masses sit.

    Attributes:
        numbers: of the groups, in `Channels.groups`.
        units: their components [U], group after group.
        starts: the place of each group's first unit, and the count of all.
        handles: of all of them.
        readers: the nodes that read them, with the owners [P, K] of the positions that each reads.
        skipped: groups that have no handle, and why.
    """

    numbers: Sequence[int]
    units: Indices
    starts: Sequence[int]
    handles: Sequence[Handle]
    readers: Sequence[tuple[Reader, torch.Tensor]]
    skipped: Sequence[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.units)

    def slices(self) -> Iterable[slice]:
        """The places of each group's units."""
        return (slice(start, end) for start, end in zip(self.starts, self.starts[1:], strict=False))

    def scale(self, tensors: Mapping[str, torch.Tensor], factors: npt.NDArray[np.float64]) -> None:
        """Multiply the columns of each unit by its factor [U], in place; `tensors` are the weights by name."""
        with torch.no_grad():
            for handle in self.handles:
                tensor = tensors[handle.weight]
                whole = torch.from_numpy(np.append(factors, 1.0)).to(tensor.device)
                tensor.mul_(handle.spread(whole, tensor))

    def pull(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """-dL/d(log m) of every unit [U]: minus the sum over its columns of weight times gradient."""
        device = next(iter(weights.values())).device
        total = torch.zeros(len(self), dtype=torch.float64, device=device)
        with torch.no_grad():
            for handle in self.handles:
                weight = weights[handle.weight]
                if weight.grad is not None:
                    total -= handle.gathered(weight.detach() * weight.grad, len(self))
        return total


def find_populations(twin: TorchGraph, channels: Channels, eligible: Sequence[bool]) -> Populations:
    """The eligible groups whose channels are read by weights that a twin trains, and by nothing else."""
    found = _Search(twin, channels)
    refused = {number: reason for number, reason in found.refused.items() if eligible[number]}
    numbers = [number for number in range(len(channels.groups)) if eligible[number] and number not in refused]
    units = [channels.groups[number].units for number in numbers]
    starts = np.cumsum([0, *map(len, units)]).tolist()
    places = np.full(channels.count, starts[-1], np.int64)
    for start, own in zip(starts, units, strict=False):
        places[own] = np.arange(start, start + len(own))
    readers, handles = [], dict[tuple[str, int], Handle]()
    for reader in channels.flow.readers:
        owners = places[channels.owners[channels.component[reader.ids]]]
        stored = found.stored(reader)
        if (owners < starts[-1]).any() and stored is not None:
            owned = torch.from_numpy(owners)
            readers.append((reader, owned))
            handles.setdefault(stored, Handle(*stored, 1 if reader.weight_axis == 0 else reader.groups, owned))
    skipped = [(channels.groups[number].id, reason) for number, reason in sorted(refused.items())]
    joined = np.concatenate(units) if units else np.zeros(0, np.int64)
    return Populations(numbers, joined, starts, list(handles.values()), readers, skipped)


class _Search:
    """Which groups can't be scaled by the columns of their readers, and why."""

    def __init__(self, twin: TorchGraph, channels: Channels) -> None:
        self.weights, self.channels = twin.weights(), channels
        self.group_of = np.full(channels.count, -1, np.int64)
        for number, group in enumerate(channels.groups):
            self.group_of[group.units] = number
        self.together: dict[tuple[str, int], list[Reader]] = defaultdict(list)
        for reader in channels.flow.readers:
            if (stored := self.stored(reader)) is not None:
                self.together[stored].append(reader)
        self.refused: dict[int, str] = {}
        self._judge()

    def _judge(self) -> None:
        read: set[int] = set()
        for reader in self.channels.flow.readers:
            groups = self._groups(self._owners(reader.ids))
            read |= groups
            reason = self._reason(reader)
            if reason is not None:
                self.refused.update(dict.fromkeys(groups, reason))
        for meeting in self.channels.flow.contractions:
            owners = self._owners(meeting.ids)
            # A head that dies is read by nobody, though its queries still meet its keys.
            together = owners.shape[1] > 1 and bool((owners[:, 1] > 0).all())
            self.refused.update({group: MEETS for group in self._groups(owners) if not together or group not in read})
        for number in range(len(self.channels.groups)):
            if number not in read:
                self.refused.setdefault(number, UNREAD)

    def _owners(self, ids: Indices) -> Indices:
        return np.asarray(self.channels.owners[self.channels.component[ids]])

    def _groups(self, owners: Indices) -> set[int]:
        return {number for number in np.unique(self.group_of[owners]).tolist() if number >= 0}

    def _reason(self, reader: Reader) -> str | None:
        """Why the columns of a reader's weight can't be scaled, or None."""
        stored = self.stored(reader)
        if stored is None:
            return COMPUTED
        if not self.weights[stored[0]].requires_grad:
            return FROZEN
        same = self.together[stored]
        owners = self._owners(reader.ids)
        alike = all(np.array_equal(self._owners(other.ids), owners) for other in same)
        source = graph.constant_source(reader.node.inputs[reader.weight])
        known = {(other.node, other.weight) for other in same}
        return None if alike and source is not None and is_read_only_by(source, known) else SHARED

    def stored(self, reader: Reader) -> tuple[str, int] | None:
        """The name of the stored tensor that a reader's weight is, and the axis of its columns."""
        source = graph.constant_source(reader.node.inputs[reader.weight])
        name = None if source is None else str(source.name)
        return (name, reader.weight_axis) if name is not None and name in self.weights else None
