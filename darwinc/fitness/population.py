"""What static criteria are told: one group of units at a time, as plain arrays; also what users' functions get."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import ConstantUse, is_fixed
from darwinc.channels import Channels
from darwinc.fitness.statistics import Indices, Matrix, ReaderStatistics, Vector

Filters = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Population:
    """What is known of the U units of one group; what was not measured is None.

    A function of the user's gets one of these for each group, and returns scores [U] of 0 or more, of which higher is
    fitter. Where each head, or each group of a convolution, may lose positions of its own, it is asked about the
    positions of each of them first, to put them in order, with `id` that of their group.

    Attributes:
        id: of the group, as `darwinc inspect` lists it.
        filters: the weights [U, K] that make each unit: rows of matrices and filters, not what reads it.
        covariance: of the units' activations [U, U], over samples and places, at the first reader; the mean over its
            kernel taps and groups. Zero between units that it doesn't mix.
        mean: of the units' activations [U], at the same reader.
        contribution: tr(W' G W) Var(z) of each unit [U], summed over its readers: twice the loss that its variance is
            worth. Of white inputs where activations can't be measured.
        taylor: E|sum over places of z g| [U], with g the gradient of a divergence from the model itself.
        fisher: 1/2 E(sum over places of z g)^2 [U], with the same g.
        chip: change [U] of the nuclear norm of the feature maps [C, places] when the unit's rows are left out, the
            mean over samples; measured only for the criterion of that name.
        bn: |scale| [U] of the BatchNormalizations that the unit passes through, their mean where there are several.
    """

    id: str
    filters: Filters
    covariance: Matrix | None = None
    mean: Vector | None = None
    contribution: Vector | None = None
    taylor: Vector | None = None
    fisher: Vector | None = None
    chip: Vector | None = None
    bn: Vector | None = None

    def __len__(self) -> int:
        return len(self.filters)


def makers(
    channels: Channels, model: ir.Model | None = None
) -> Iterable[tuple[ConstantUse, npt.NDArray[np.generic], list[int]]]:
    """The weights that make channels, with the axes on which these lie: rows of matrices and filters, no vectors.

    They are those of the analysed model, or of another one with the same nodes in the same order.
    """
    stands_for = channels.counterparts(model)
    read = {(reader.node, reader.weight): reader.weight_axis for reader in channels.flow.readers}
    for use in channels.flow.uses:
        made = [
            axis for axis, ids in enumerate(use.axes) if not is_fixed(ids) and read.get((use.node, use.index)) != axis
        ]
        tensor = graph.constant_tensor(stands_for[use.node].inputs[use.index])
        if tensor is not None and made and sum(size > 1 for size in tensor.shape.numpy()) > 1:
            yield use, tensor.numpy(), made


class Census:
    """Counts what is known of units, as `owners` [count, K] has them: those of the channels, or components alone."""

    def __init__(
        self,
        channels: Channels,
        owners: Indices,
        readers: Mapping[str, Sequence[ReaderStatistics]],
        *,
        measured: bool = False,
        chip: Vector | None = None,
    ) -> None:
        """`measured` says whether activations were seen; `chip` [count] is the score of each component."""
        self._channels, self._owners, self._measured = channels, owners, measured
        self._makers: dict[int, list[tuple[npt.NDArray[np.generic], int, Indices]]] = defaultdict(list)
        for use, weight, made in makers(channels):
            for axis in made:
                of = owners[channels.component[use.axes[axis]]]
                for unit in np.unique(of[of > 0]).tolist():
                    self._makers[unit].append((weight, axis, of))
        self._parts: dict[int, dict[str, list[ReaderStatistics]]] = defaultdict(dict)
        for name, parts in readers.items():
            for part in parts:
                of = part.judged(owners[part.units])
                for unit in np.unique(of[of > 0]).tolist():
                    self._parts[unit].setdefault(name, []).append(part)
        self._taylor = _over_readers(readers, owners, [[part.taylor for part in parts] for parts in readers.values()])
        self._fisher = _over_readers(readers, owners, [[part.fisher for part in parts] for parts in readers.values()])
        self._chip = None if chip is None else _summed(owners, chip)
        self._bn = _scales(channels, owners)

    def of(self, name: str, units: Indices) -> Population:
        """The units [U] of one group, which all sit on the same axes."""
        by_reader = self._by_reader(units)
        covariance, mean = self._activations(units, by_reader[0]) if self._measured and by_reader else (None, None)
        return Population(
            name,
            self._filters(units),
            covariance,
            mean,
            self._contribution(units, by_reader) if by_reader else None,
            _known(self._taylor, units),
            _known(self._fisher, units),
            _known(self._chip, units),
            _known(self._bn, units),
        )

    def _by_reader(self, units: Indices) -> list[list[ReaderStatistics]]:
        """The parts that read any of the units, reader by reader."""
        found: dict[str, dict[int, ReaderStatistics]] = {}
        for unit in units.tolist():
            for name, parts in self._parts[unit].items():
                found.setdefault(name, {}).update({id(part): part for part in parts})
        return [list(parts.values()) for parts in found.values()]

    def _filters(self, units: Indices) -> Filters:
        rows = [np.zeros((len(units), 0), np.float32)]
        for weight, axis, of in self._makers[int(units[0])]:
            flat = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
            places = _places(of, units)
            made = flat[places.clip(min=0)].astype(np.float32)
            made[places < 0] = 0
            rows.append(made.reshape(len(units), -1))
        return np.concatenate(rows, axis=1)

    def _activations(
        self, units: Indices, parts: Sequence[ReaderStatistics]
    ) -> tuple[Matrix, Vector] | tuple[None, None]:
        """Covariance and mean; None where two computed values meet, whose covariance is not measured."""
        total, seen = np.zeros((2, len(units), len(units)))
        mean, slots_of = np.zeros((2, len(units)))
        for part in parts:
            if part.mean is None:
                return None, None
            for slots in _places(part.judged(self._owners[part.units]), units).T:
                here = np.flatnonzero(slots >= 0)
                across = np.ix_(here, here)
                total[across] += part.covariance[np.ix_(slots[here], slots[here])]
                seen[across] += 1
                mean[here] += part.mean[slots[here]]
                slots_of[here] += 1
        return total / np.maximum(seen, 1), mean / np.maximum(slots_of, 1)

    def _contribution(self, units: Indices, by_reader: Iterable[Iterable[ReaderStatistics]]) -> Vector:
        total = np.zeros(len(self._owners))
        for part in (part for parts in by_reader for part in parts):
            of = part.judged(self._owners[part.units])
            own = np.diag(part.gram) * np.diag(part.covariance)
            for column in of.T:
                np.add.at(total, column, own)
        return total[units]


def _places(of: Indices, units: Indices) -> Indices:
    """Where each unit [U] is among owners `of` [S, K]: places [U, M], padded with -1."""
    flat = of.ravel()
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], units)
    counts = np.searchsorted(flat[order], units, side="right") - first
    wide = np.arange(int(counts.max(initial=0)))
    places = order[(first[:, None] + wide).clip(max=len(order) - 1)] // of.shape[1]
    return np.where(wide < counts[:, None], places, -1)


def _over_readers(
    readers: Mapping[str, Sequence[ReaderStatistics]], owners: Indices, shares: Sequence[Sequence[Vector | None]]
) -> Vector:
    """A score of each unit [count]: what positions have of it adds up in each reader, and is averaged over readers,
    each of which saw the same gradient. NaN where nothing was measured."""
    total, seen = np.zeros(len(owners)), np.zeros(len(owners))
    for parts, by_part in zip(readers.values(), shares, strict=True):
        own, touched = np.zeros(len(owners)), np.zeros(len(owners))
        for part, share in zip(parts, by_part, strict=True):
            if share is not None:
                for column in part.judged(owners[part.positions]).T:
                    np.add.at(own, column, share)
                    touched[column] = 1
        total += own
        seen += touched
    return _mean(total, seen)


def _summed(owners: Indices, scores: Vector) -> Vector:
    """A score of each unit [count], the sum over the components [count] that die with it; NaN where none has one."""
    total, seen = np.zeros(len(owners)), np.zeros(len(owners))
    known = np.flatnonzero(~np.isnan(scores))
    for column in owners[known].T:
        np.add.at(total, column, scores[known])
        seen[column] = 1
    return np.where(seen > 0, total, np.nan)


def _scales(channels: Channels, owners: Indices) -> Vector:
    """|scale| of the BatchNormalizations of each unit [count], their mean; NaN where there is none."""
    total, seen = np.zeros(len(owners)), np.zeros(len(owners))
    for use in channels.flow.uses:
        tensor = graph.constant_tensor(use.value)
        if use.node.op_type != "BatchNormalization" or use.index != 1 or tensor is None:
            continue
        sizes = np.abs(tensor.numpy().astype(np.float64))
        for column in owners[channels.component[use.axes[0]]].T:
            np.add.at(total, column, sizes)
            np.add.at(seen, column, 1)
    return _mean(total, seen)


def _mean(total: Vector, seen: Vector) -> Vector:
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan)


def _known(scores: Vector | None, units: Indices) -> Vector | None:
    """The scores of the units [U]; None where one of them has none."""
    if scores is None or np.isnan(scores[units]).any():
        return None
    return scores[units]
