"""Single synapses: which weights may lose some, how many live, and whom nobody reads any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import Axis, ConstantUse, Ids, is_fixed
from darwinc.channels import Channels, Mask
from darwinc.cost import FLOATS, WEIGHTED, Terms
from darwinc.evolution.genome import Genome
from darwinc.fitness.statistics import Indices, Vector


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that may lose single synapses.

    Attributes:
        shape: the ancestor's.
        axes: position ids of every axis.
        read: the axis along which it reads the channels of its layer's input; None where that isn't known.
    """

    shape: tuple[int, ...]
    axes: tuple[Ids, ...]
    read: int | None


class Wiring:
    """The floating constants of Conv, Gemm and MatMul that one layer alone reads, whole (group 1), by name.

    All that is asked of it takes time in proportion to the number of weights.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        readers = {(reader.node, reader.weight): reader for reader in channels.flow.readers}
        uses = dict(_eligible(channels))
        self.weights: dict[str, Weight] = {}
        for name in sorted(uses):
            use = uses[name]
            reader = readers.get((use.node, use.index))
            shape = tuple(len(ids) for ids in use.axes)
            self.weights[name] = Weight(shape, use.axes, None if reader is None else reader.weight_axis)
        inside = {(use.node, use.index) for use in uses.values()}
        self._only_here = ~_read_elsewhere(channels, inside)

    def terms(self) -> Terms:
        """What the synapses cost where none is dead but those of dead channels, one each."""
        return Terms(self._channels, [(weight.axes, 1) for weight in self.weights.values()])

    def living(self, name: str, dead: Mask) -> Mask:
        """Which synapses of a weight lie between living channels, in its shape, when the units in `dead` don't live."""
        weight = self.weights[name]
        found = np.ones(weight.shape, np.bool_)
        for axis, alive in self._alive(weight, dead):
            found &= alive.reshape([-1 if place == axis else 1 for place in range(len(weight.shape))])
        return found

    def _alive(self, weight: Weight, dead: Mask) -> Iterator[tuple[int, Mask]]:
        """The axes that may lose positions, and which of them live."""
        for axis, ids in enumerate(weight.axes):
            if not is_fixed(ids):
                yield axis, self._channels.living(ids, dead)

    def count(self, genome: Genome) -> int:
        """How many synapses of all these weights live."""
        total = 0
        for name, weight in self.weights.items():
            mask = genome.synapses.get(name)
            if mask is not None:
                total += int(np.count_nonzero(mask & self.living(name, genome.dead)))
                continue
            sizes = list(weight.shape)
            for axis, alive in self._alive(weight, genome.dead):
                sizes[axis] = int(np.count_nonzero(alive))
            total += int(np.prod(sizes, dtype=np.int64))
        return total

    def canonical(self, genome: Genome) -> Genome:
        """The same network in its one way of being written: equal networks have equal digests.

        Synapses of dead channels are False, and masks that kill nothing else, or of no weight here, are left out.
        """
        masks = {}
        for name in sorted(set(genome.synapses) & set(self.weights)):
            living = self.living(name, genome.dead)
            mask = genome.synapses[name] & living
            if not np.array_equal(mask, living):
                masks[name] = mask
        return Genome(genome.dead, masks)

    def orphans(
        self, genome: Genome, widths: Sequence[Indices] | None = None, strengths: Vector | None = None
    ) -> Indices:
        """The units that nobody reads: every synapse of theirs is dead, and so they may go without a difference.

        Who is read by orphans alone is one as well. No group loses its last unit. `widths` are those that each group
        may be left with, ascending: it loses orphans down to one of them; the strongest [count] stay, else the first.
        """
        readings = _Readings(self, genome)
        dead, found = genome.dead.copy(), [np.zeros(0, np.int64)]
        while True:
            going = []
            for number, group in enumerate(self._channels.groups):
                living = group.units[~dead[group.units]]
                unread = living[(readings.counts[living] == 0) & self._only_here[living]]
                if not len(unread):
                    continue
                may = np.array([1]) if widths is None else widths[number]
                room = _room(len(living), len(unread), may, exact=widths is not None)
                order = (
                    np.arange(len(unread))[::-1] if strengths is None else np.argsort(strengths[unread], kind="stable")
                )
                going.append(unread[order[:room]])
            units = np.concatenate(going) if going else np.zeros(0, np.int64)
            if not len(units):
                return np.sort(np.concatenate(found))
            dead[units] = True
            found.append(units)
            readings.refresh(dead, units)

    def read_by(self, name: str, mask: Mask | None, dead: Mask) -> tuple[Indices, Indices]:
        """The units [P, K] that a weight's positions belong to, and by how many living synapses it reads each [P]."""
        weight = self.weights[name]
        if weight.read is None or is_fixed(weight.axes[weight.read]):
            return np.zeros((0, 1), np.int64), np.zeros(0, np.int64)
        living = self.living(name, dead)
        living = living if mask is None else living & mask
        others = tuple(axis for axis in range(living.ndim) if axis != weight.read)
        ids = weight.axes[weight.read]
        return self._channels.owners[self._channels.component[ids]], np.count_nonzero(living, axis=others)

    def touches(self, name: str, units: Indices) -> bool:
        """Does a weight have positions of some of these units?"""
        owners = (self._channels.owners[self._channels.component[ids]] for ids in self.weights[name].axes)
        return any(bool(np.isin(each, units).any()) for each in owners)


class _Readings:
    """How many living synapses read every component [count], kept up to date as units die."""

    def __init__(self, wiring: Wiring, genome: Genome) -> None:
        self._wiring, self._masks = wiring, genome.synapses
        self.counts = np.zeros(len(genome.dead), np.int64)
        self._parts: dict[str, tuple[Indices, Indices]] = {}
        for name in wiring.weights:
            self._read(name, genome.dead)

    def _read(self, name: str, dead: Mask) -> None:
        self._parts[name] = units, numbers = self._wiring.read_by(name, self._masks.get(name), dead)
        np.add.at(self.counts, units, numbers[:, None])

    def refresh(self, dead: Mask, units: Indices) -> None:
        """Look again at the weights that the newly dead have a part in."""
        for name in self._wiring.weights:
            if self._wiring.touches(name, units):
                before, numbers = self._parts[name]
                np.subtract.at(self.counts, before, numbers[:, None])
                self._read(name, dead)


def _room(living: int, unread: int, widths: Indices, *, exact: bool) -> int:
    """How many of the unread may die: down to one of the widths, or to the least of them."""
    least = max(living - unread, int(widths[0]))
    if not exact:
        return living - least
    reached = widths[(widths >= least) & (widths <= living)]
    return living - int(reached[0]) if len(reached) else 0


def _eligible(channels: Channels) -> Iterator[tuple[str, ConstantUse]]:
    readers = Counter(id(graph.constant_source(use.value)) for use in channels.flow.uses)
    for use in channels.flow.uses:
        source, tensor = graph.constant_source(use.value), graph.constant_tensor(use.value)
        if (
            source is not None
            and tensor is not None
            and readers[id(source)] == 1
            and graph.is_standard(use.node)
            and use.node.op_type in WEIGHTED
            and use.index < 2
            and len(use.axes) >= 2
            and tensor.dtype in FLOATS
            and graph.integer(use.node, "group", 1) == 1
        ):
            yield str(source.name), use


def _read_elsewhere(channels: Channels, inside: set[tuple[ir.Node, int]]) -> Mask:
    """Which units [count] are read by something else than these weights, so that no count of synapses tells all.

    Cautious: a head's dimension, what meets another computed value, what a layer of another kind mixes, and
    what is on an input of a node and not on its outputs.
    """
    found = channels.nobody()
    pairs = channels.owners[(channels.owners > 0).sum(axis=1) > 1]
    found[pairs.ravel()] = True
    for ids in _mixed(channels, inside):
        found[_units(channels, ids)] = True
    data = {(r.node, r.data): r.data_axis for r in channels.flow.readers if (r.node, r.weight) in inside}
    for node in channels.nodes:
        kept = [_units(channels, axis) for output in node.outputs for axis in _axes(channels, output)]
        passed = np.unique(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
        for index, value in enumerate(node.inputs):
            for axis, along in enumerate(_axes(channels, value)):
                if data.get((node, index)) != axis:
                    found[np.setdiff1d(_units(channels, along), passed)] = True
    found[0] = True
    return found


def _mixed(channels: Channels, inside: set[tuple[ir.Node, int]]) -> Iterator[Ids]:
    flow = channels.flow
    yield from (reader.ids for reader in flow.readers if (reader.node, reader.weight) not in inside)
    yield from (contraction.ids for contraction in flow.contractions)
    for use in flow.uses:
        loose = [ids for ids in use.axes if not is_fixed(ids)]
        if len(loose) > 1 and (use.node, use.index) not in inside:
            yield from loose


def _axes(channels: Channels, value: ir.Value | None) -> tuple[Axis, ...]:
    tracked = None if value is None else channels.flow.values.get(str(value.name))
    return () if tracked is None else tracked.axes


def _units(channels: Channels, ids: Axis) -> Indices:
    if ids is None or is_fixed(ids):
        return np.zeros(0, np.int64)
    return np.unique(channels.owners[channels.component[ids]])
