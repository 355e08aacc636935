"""The rivals' scores: one fixed number per channel, from weights, gradients or chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from darwinc import graph
from darwinc.axis_record import is_fixed
from darwinc.channels import Channels
from darwinc.fitness.statistics import Indices, ReaderStatistics


def random_scores(groups: Sequence[Indices], seed: int) -> dict[int, float]:
    """Uniform random numbers."""
    random = np.random.default_rng(seed)
    return {int(unit): float(random.random()) for units in groups for unit in units}


SLAB = 2**20
"""Elements of a weight that are looked at in one go: what fits into a cache."""


def magnitudes(channels: Channels, power: int) -> npt.NDArray[np.float64]:
    """The sum of |w|^power over the weights that make each component [channels.count].

    Those are the rows of matrices, not what reads a channel.
    """
    total = np.zeros(channels.count)
    read = {(reader.node, reader.weight): reader.weight_axis for reader in channels.flow.readers}
    for use in channels.flow.uses:
        made = [
            axis for axis, ids in enumerate(use.axes) if not is_fixed(ids) and read.get((use.node, use.index)) != axis
        ]
        tensor = graph.constant_tensor(use.value)
        if tensor is None or not made or sum(size > 1 for size in tensor.shape.numpy()) < 2:
            continue
        for axis, sums in zip(made, _sums(tensor.numpy(), made, power), strict=True):
            np.add.at(total, channels.component[use.axes[axis]], sums)
    return total


def unit_scores(channels: Channels, scores: npt.NDArray[np.float64]) -> dict[int, float]:
    """The score of every unit, from those of the components [channels.count] that die with it."""
    total = np.zeros(channels.count)
    _add_to_owners(total, channels.owners, scores)
    return {int(unit): float(total[unit]) for group in channels.groups for unit in group.units}


def _sums(weight: npt.NDArray[np.generic], axes: Sequence[int], power: int) -> list[npt.NDArray[np.float64]]:
    """The sums of |w|^power, power 1 or 2, for each position along each of some axes."""
    sums = [np.zeros(weight.shape[axis]) for axis in axes]
    rows = max(1, SLAB // max(1, math.prod(weight.shape[1:])))
    for start in range(0, len(weight), rows):
        slab = np.asarray(weight[start : start + rows], np.float32)
        for axis, found in zip(axes, sums, strict=True):
            place = slice(start, start + len(slab)) if axis == 0 else slice(None)
            found[place] += _sums_of_slab(slab, axis, power)
    return sums


def _sums_of_slab(slab: npt.NDArray[np.float32], axis: int, power: int) -> npt.NDArray[np.float32]:
    """In single precision: what is compared are sums of thousands of positive numbers."""
    before, after = math.prod(slab.shape[:axis]), math.prod(slab.shape[axis + 1 :])
    cube = slab.reshape(before, slab.shape[axis], after)
    if power == 1:
        return np.asarray(np.abs(cube).sum(axis=(0, 2)))
    if before == 1:
        return np.asarray(np.einsum("jk,jk->j", cube[0], cube[0]))
    return np.asarray(np.einsum("ijk,ijk->j", cube, cube))


def _add_to_owners(total: npt.NDArray[np.float64], owners: Indices, amounts: npt.NDArray[np.float64]) -> None:
    for place in range(owners.shape[1]):
        np.add.at(total, owners[:, place], amounts)


def taylor_scores(readers: Iterable[Iterable[ReaderStatistics]], owners: Indices) -> dict[int, float]:
    """E|sum over places of z g| of each channel: the mean over its readers, each of which saw the same gradient.

    A reader comes in parts (groups of a convolution, heads), which add up. `owners` [count, K] are the units that each
    component dies with.
    """
    found: dict[int, list[float]] = {}
    for parts in readers:
        total, touched = np.zeros(len(owners)), np.zeros(len(owners), np.bool_)
        for part in parts:
            if part.taylor is not None:
                judged = part.judged(owners[part.positions])
                _add_to_owners(total, judged, part.taylor)
                touched[judged] = True
        for unit in np.flatnonzero(touched[1:]) + 1:
            found.setdefault(int(unit), []).append(float(total[unit]))
    return {unit: float(np.mean(scores)) for unit, scores in found.items()}
