"""Networks with redundancy that somebody put there: a benchmark with a known answer.

`plant` widens a trained network without changing its function. A perfect tool, asked for the original size, removes
exactly what was planted, and the answers don't change.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import ConstantUse, Follower, Ids, is_fixed
from darwinc.channels import Channels, Mask, analyse
from darwinc.errors import UsageError
from darwinc.models.planted_rows import Making, Norm, stored, tensor_of
from darwinc.models.planting import KINDS, Bed, Ground, Place, Refused, Role

Array = npt.NDArray[np.float64]
Use = tuple[ir.Node, int]
FACTOR = 0.5, 2.0
"""The range of the factor of a scaled copy."""
SHARED = 0.2, 0.8
"""The range of the share of each weight that a copy's reader takes over."""
MIXED = 0.3, 1.0
"""The range of the coefficients of a mixture, up to their sign."""
MOST_MIXED = 3


@dataclass(frozen=True, eq=False)
class Planting:
    """What was planted in one group of the widened model.

    Attributes:
        group: its id in the analysis of the widened model.
        tensor, axis: a place where its units sit.
        unit: for every position [n] along that axis the unit there, -1 for others; a unit sits there once, or once in
            every block (head).
        kinds: of each unit, one of `KINDS`, or "" for those of the original.
        span: each unit as a combination of the original's units [units, originals]; zero for dead and unread ones.
    """

    group: str
    tensor: str
    axis: int
    unit: Ids
    kinds: tuple[str, ...]
    span: Array

    @property
    def planted(self) -> int:
        """How many units were planted."""
        return sum(kind != "" for kind in self.kinds)

    def found(self, living: Mask) -> float:
        """How many planted units a cut found that leaves the positions `living` [n] of the axis.

        That is how many units went, less the originals' dimensions that can't be had from those that stayed: of two
        twins either may go, of a mixture and its terms any one. Units that go in excess of what was planted count
        against it. Where units sit in blocks, the mean over the blocks.
        """
        return float(np.mean([len(self.kinds) - len(kept) - self._missing(kept) for kept in self._kept(living)]))

    def lost(self, living: Mask) -> float:
        """How many of the original's dimensions can't be had from the units that stayed; of blocks, the mean."""
        return float(np.mean([self._missing(kept) for kept in self._kept(living)]))

    def _missing(self, kept: Ids) -> int:
        rank = int(np.linalg.matrix_rank(self.span[kept])) if len(kept) else 0
        return int(self.span.shape[1]) - rank

    def _kept(self, living: Mask) -> list[Ids]:
        """The units that stayed, of each block of which any did: others went with their block."""
        blocks = np.zeros(len(self.unit), np.int64)
        seen: dict[int, int] = defaultdict(int)
        for position, unit in enumerate(self.unit.tolist()):
            blocks[position] = seen[unit]
            seen[unit] += 1
        ours = self.unit >= 0
        count = int(blocks[ours].max()) + 1
        kept = [self.unit[ours & (blocks == block) & living] for block in range(count)]
        return [units for units in kept if len(units)] or kept[:1]


@dataclass(frozen=True, eq=False)
class Planted:
    """The widened model, what was planted where, and which groups of the original were left alone, and why."""

    model: ir.Model
    plantings: tuple[Planting, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def planted(self) -> int:
        """How many units were planted."""
        return sum(planting.planted for planting in self.plantings)

    def found(self, channels: Channels, dead: Mask) -> float:
        """The share of the planted units that a cut found, from 0 to 1 (`Planting.found`); below 0 where it harms.

        `channels` is an analysis of the widened model, `dead` [channels.count] what went.
        """
        pairs = self._living(channels, dead)
        return sum(planting.found(living) for planting, living in pairs) / self.planted

    def lost(self, channels: Channels, dead: Mask) -> float:
        """How many of the original's dimensions are gone (`Planting.lost`)."""
        return sum(planting.lost(living) for planting, living in self._living(channels, dead))

    def _living(self, channels: Channels, dead: Mask) -> list[tuple[Planting, Mask]]:
        axes = {str(use.value.name): use.axes for use in channels.flow.uses}
        return [(entry, channels.living(axes[entry.tensor][entry.axis], dead)) for entry in self.plantings]


def plant(model: ir.Model, *, share: float, kinds: Sequence[str] = KINDS, seed: int = 0) -> Planted:
    """Widen every group that can be widened by `share` of its units, of kinds that take turns, at random places.

    The function stays what it is, up to rounding. Residual groups are widened at all of their makers and readers alike.
    The model is only read.

    Raises:
        UsageError: a share that isn't positive, a kind that doesn't exist, or no group that can be widened.
    """
    if share <= 0:
        raise UsageError(f"The share {share:g} of planted units isn't positive; give 0.5 for half as many again.")
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"There is no planted redundancy {kind!r}; choose from {', '.join(KINDS)}.")
    wide = graph.embedded(model)
    graph.release_initializer_inputs(wide)
    channels = analyse(wide)
    ground, skipped, crops = Ground(channels), [], list[_Crop]()
    first = channels.count
    for number, group in enumerate(channels.groups):
        try:
            bed = ground.bed(number, kinds)
        except Refused as refusal:
            skipped.append((group.id, str(refusal)))
            continue
        crop = _Crop.chosen(bed, max(1, round(share * len(group))), kinds, first, np.random.default_rng([seed, number]))
        first += len(crop.kinds)
        crops.append(crop)
    if not crops:
        raise UsageError(
            "No group of this model can be widened; `darwinc inspect` lists its groups and what holds them."
        )
    gardener = _Gardener(wide, channels, crops, seed)
    gardener.plant()
    return Planted(wide, tuple(gardener.plantings()), tuple(skipped))


@dataclass(frozen=True, eq=False)
class _Crop:
    """What goes into one bed.

    Attributes:
        units: numbers of the new units [P].
        kinds: [P].
        beside: the unit of the original [P] at whose side each is put, before it or `after` it.
        span: each new unit as a combination of the bed's units [P, U].
    """

    bed: Bed
    units: Ids
    kinds: tuple[str, ...]
    beside: Ids
    after: Mask
    span: Array

    @classmethod
    def chosen(cls, bed: Bed, count: int, kinds: Sequence[str], first: int, random: np.random.Generator) -> _Crop:
        admitted = [kind for kind in kinds if kind in bed.kinds]
        turns = tuple(admitted[place % len(admitted)] for place in range(count))
        width = len(bed.units)
        span = np.zeros((count, width))
        for place, kind in enumerate(turns):
            if kind in ("copy", "scaled"):
                span[place, random.integers(width)] = 1.0 if kind == "copy" else random.uniform(*FACTOR)
            elif kind == "mixture":
                terms = random.choice(width, min(MOST_MIXED, width), replace=False)
                span[place, terms] = random.uniform(*MIXED, len(terms)) * random.choice([-1.0, 1.0], len(terms))
        beside = bed.units[random.integers(width, size=count)]
        return cls(bed, first + np.arange(count), turns, beside, random.random(count) < 0.5, span)


@dataclass(eq=False)
class _Axis:
    """One axis while it grows: the units [n, K] that each position dies with."""

    owners: Ids

    def of(self, unit: int) -> Ids:
        """The positions of a unit."""
        return np.flatnonzero((self.owners == unit).any(axis=1))

    def grow(self, crop: _Crop) -> Ids:
        """Put the crop's units beside those that they stand at; returns the old position of each new one."""
        here = np.where(np.isin(self.owners, crop.bed.units), self.owners, 0).max(axis=1)
        starts = np.flatnonzero(np.r_[True, here[1:] != here[:-1]]) if len(here) else np.zeros(0, np.int64)
        taken, owners = list[Ids](), list[Ids]()
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(here)], strict=True):
            run, unit = np.arange(start, end), int(here[start])
            new = np.flatnonzero(crop.beside == unit) if unit else np.zeros(0, np.int64)
            order = [*crop.units[new[~crop.after[new]]].tolist(), unit, *crop.units[new[crop.after[new]]].tolist()]
            for stands in order:
                taken.append(run)
                owners.append(np.where(self.owners[run] == unit, stands, self.owners[run]))
        self.owners = np.concatenate(owners)
        return np.concatenate(taken)


class _Gardener:
    """Widens constants and the integers that count their positions."""

    def __init__(self, model: ir.Model, channels: Channels, crops: Sequence[_Crop], seed: int) -> None:
        self._model, self._channels, self._crops, self._seed = model, channels, crops, seed
        self._arrays: dict[Use, Array] = {}
        self._axes: dict[tuple[ir.Node, int, int], _Axis] = {}

    def plant(self) -> None:
        """Widen the model in place."""
        for crop in self._crops:
            # All places grow first: what a unit becomes is computed from the weights as they were.
            for place in crop.bed.places:
                self._grow(place, crop)
            for place in crop.bed.places:
                if place.role is not Role.READER:
                    self._make(place, crop)
            for place in crop.bed.places:
                if place.role is Role.READER:
                    self._share(place, crop)
        self._store()
        self._count()
        for value in (output for node in self._model.graph for output in node.outputs if not output.is_graph_output()):
            value.shape = None

    def plantings(self) -> Iterator[Planting]:
        """What was planted, in the words of an analysis of the widened model."""
        channels = analyse(self._model)
        axes = {str(use.value.name): use.axes for use in channels.flow.uses}
        names = {unit: group.id for group in channels.groups for unit in group.units.tolist()}
        for crop in self._crops:
            place = min(crop.bed.places, key=lambda place: len(self._axis(place).owners))
            units = np.concatenate([crop.bed.units, crop.units])
            owners = self._axis(place).owners
            unit = np.full(len(owners), -1, np.int64)
            for number, known in enumerate(units.tolist()):
                unit[(owners == known).any(axis=1)] = number
            tensor = str(place.use.value.name)
            own = channels.owners[channels.component[axes[tensor][place.axis][unit == 0]]]
            group = next(names[number] for number in own[0].tolist() if number and (own == number).any(axis=1).all())
            span = np.concatenate([np.eye(len(crop.bed.units)), crop.span])
            yield Planting(group, tensor, place.axis, unit, ("",) * len(crop.bed.units) + crop.kinds, span)

    # Growing ---------------------------------------------------------------------------------------------------------

    def _axis(self, place: Place) -> _Axis:
        key = (place.use.node, place.use.index, place.axis)
        if key not in self._axes:
            self._axes[key] = _Axis(self._channels.owners[self._channels.component[place.use.axes[place.axis]]])
        return self._axes[key]

    def _grow(self, place: Place, crop: _Crop) -> None:
        key = (place.use.node, place.use.index)
        if key not in self._arrays:
            self._arrays[key] = stored(place.use.value)
        self._arrays[key] = np.take(self._arrays[key], self._axis(place).grow(crop), axis=place.axis)

    def _random(self, place: Place, crop: _Crop) -> np.random.Generator:
        """Readers of one constant draw alike, so that what they share stays shared."""
        source = graph.constant_source(place.use.value)
        name = "" if source is None else str(source.name)
        return np.random.default_rng([self._seed, crop.bed.number, zlib.crc32(name.encode()), place.axis])

    def _rows(self, place: Place) -> Array:
        """A view of the constant with the axis of the units first."""
        return np.moveaxis(self._arrays[place.use.node, place.use.index], place.axis, 0)

    def _make(self, place: Place, crop: _Crop) -> None:
        """What makes the new units: rows of weights, biases, and the numbers of a BatchNormalization."""
        rows, axis, random = self._rows(place), self._axis(place), self._random(place, crop)
        old = np.stack([rows[axis.of(unit)] for unit in crop.bed.units.tolist()])
        made = Making(place, old, Norm.of(place, crop.bed, self._channels))
        for unit, kind, mix in zip(crop.units.tolist(), crop.kinds, crop.span, strict=True):
            rows[axis.of(unit)] = made.row(kind, mix, random)

    def _share(self, place: Place, crop: _Crop) -> None:
        """The readers' weights: what is planted adds nothing to what they make."""
        rows, axis, random = self._rows(place), self._axis(place), self._random(place, crop)
        size = float(np.sqrt(np.square(rows).mean()))
        for unit, kind, mix in zip(crop.units.tolist(), crop.kinds, crop.span, strict=True):
            new = axis.of(unit)
            if kind in ("copy", "scaled"):
                origin = int(np.flatnonzero(mix)[0])
                old = axis.of(int(crop.bed.units[origin]))
                taken = rows[old] * random.uniform(*SHARED, rows[old].shape)
                rows[new] = taken / mix[origin]
                rows[old] -= taken
                continue
            rows[new] = 0.0 if kind == "unread" else size * random.standard_normal(rows[new].shape)
            for origin in np.flatnonzero(mix).tolist():
                rows[axis.of(int(crop.bed.units[origin]))] -= mix[origin] * rows[new]

    # Storing ---------------------------------------------------------------------------------------------------------

    def _store(self) -> None:
        """Write the wide constants; readers of one constant that now differ get a copy each, `<name>__wide<k>`."""
        by_source: dict[ir.Value, list[tuple[ConstantUse, npt.NDArray[np.generic]]]] = defaultdict(list)
        for use in self._channels.flow.uses:
            source, tensor = graph.constant_source(use.value), graph.constant_tensor(use.value)
            if source is not None and tensor is not None:
                grown = self._arrays.get((use.node, use.index))
                by_source[source].append((use, tensor.numpy() if grown is None else grown.astype(tensor.dtype.numpy())))
        for source, wanted in by_source.items():
            if not any((use.node, use.index) in self._arrays for use, _ in wanted):
                continue
            kept = wanted[0][1]
            copies: list[tuple[npt.NDArray[np.generic], ir.Value]] = []
            for use, array in wanted:
                if np.array_equal(array, kept):
                    continue
                value = next((value for other, value in copies if np.array_equal(array, other)), None)
                if value is None:
                    value = self._copy(f"{source.name}__wide{len(copies) + 1}", array)
                    copies.append((array, value))
                use.node.replace_input_with(use.index, value)
            graph.set_constant(source, ir.tensor(kept, name=str(source.name)))

    def _copy(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._model.graph.initializers.add(value)
        return value

    def _count(self) -> None:
        """Integers that count positions count the new ones too."""
        counted: dict[Use, list[Follower]] = defaultdict(list)
        for follower in self._channels.flow.followers:
            if self._extent(follower.ids) == len(follower.ids):
                continue
            if isinstance(follower.place, int):
                counted[follower.node, follower.place].append(follower)
            else:
                number = self._extent(follower.ids) // follower.divisor
                follower.node.attributes[follower.place] = ir.AttrInt64(follower.place, number)
        for (node, index), followers in counted.items():
            value = node.inputs[index]
            array = np.array(tensor_of(value).numpy())
            for follower in followers:
                array.reshape(-1)[int(follower.element or 0)] = self._extent(follower.ids) // follower.divisor
            source = graph.constant_source(value)
            name = f"{'' if source is None else source.name}__wide_{graph.label(node)}"
            node.replace_input_with(index, self._copy(name, array))

    def _extent(self, ids: Ids) -> int:
        """How many positions an axis has, with the new ones."""
        axis = _Axis(self._channels.owners[self._channels.component[ids]])
        for crop in self._crops:
            if not is_fixed(ids) and np.isin(axis.owners, crop.bed.units).any():
                axis.grow(crop)
        return len(axis.owners)


def by_kind(plantings: Iterable[Planting]) -> Mapping[str, int]:
    """How many units of each kind were planted."""
    found: dict[str, int] = defaultdict(int)
    for planting in plantings:
        for kind in planting.kinds:
            if kind:
                found[kind] += 1
    return found
