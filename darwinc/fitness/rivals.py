"""The rivals' scores: one fixed number per channel, from weights, activations, gradients or chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc.channels import Channels
from darwinc.errors import UsageError
from darwinc.fitness.population import Population, makers
from darwinc.fitness.statistics import Indices, Vector
from darwinc.user_code import current_folder_importable, named

Judge = Callable[[Population], Vector | None]
"""Scores [U] of a group's units, of which higher is fitter; None where it knows nothing about them."""


def random_scores(groups: Sequence[Indices], seed: int) -> dict[int, float]:
    """Uniform random numbers."""
    random = np.random.default_rng(seed)
    return {int(unit): float(random.random()) for units in groups for unit in units}


def geometric_median(population: Population) -> Vector:
    """The sum of the distances of each filter to the others: who is close to all of them can be replaced by them.

    Source: FPGM, Filter Pruning via Geometric Median (He et al., 2019).
    """
    filters = population.filters.astype(np.float64)
    lengths = np.einsum("uk,uk->u", filters, filters)
    total = np.zeros(len(filters), np.float64)
    for start in range(0, len(filters), ROWS):
        rows = slice(start, start + ROWS)
        both = lengths[rows, None] + lengths
        squares = both - 2 * filters[rows] @ filters.T
        # What is left of the distance of a filter to itself, or to its twin, is rounding.
        total[rows] = np.sqrt(np.where(squares > 1e-12 * both, squares, 0.0)).sum(axis=1)
    return total


ROWS = 256
"""Filters whose distances to all others are held at once."""

JUDGES: Mapping[str, Judge] = {
    "taylor": lambda population: population.taylor,
    "fisher": lambda population: population.fisher,
    "chip": lambda population: population.chip,
    "fpgm": geometric_median,
    "bn": lambda population: population.bn,
}
"""The static criteria that are functions of a population; their sources are in `darwinc.scoring.FITNESS`."""


def summed_weights(population: Population) -> Vector:
    """L1 of each unit's filters, for groups about which another criterion knows nothing."""
    sums: Vector = np.abs(population.filters).sum(axis=1, dtype=np.float64)
    return sums


def users_judge(spec: str) -> Judge:
    """The user's function that `package.module:callable` names; modules in the current folder are found too.

    Raises:
        UsageError: there is none. Called, it raises one where the scores aren't one number of 0 or more for each unit.
    """
    try:
        with current_folder_importable():
            found = named(spec)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--fitness {spec} can't be imported ({error}); give package.module:callable.") from error
    if not callable(found):
        raise UsageError(
            f"--fitness {spec} is no function; name one that takes a darwinc.fitness.population.Population."
        )
    function = found

    def judge(population: Population) -> Vector:
        try:
            with current_folder_importable():
                returned = function(population)
        except Exception as error:
            raise UsageError(
                f"--fitness {spec} failed for group {population.id} with {type(error).__name__} ({error}); correct it."
            ) from error
        count = len(population)
        try:
            scores = np.asarray(returned, np.float64)
        except (TypeError, ValueError):
            raise UsageError(
                f"--fitness {spec} returned a {type(returned).__name__} for group {population.id}; return {count} "
                "scores."
            ) from None
        if scores.shape != (count,):
            raise UsageError(
                f"--fitness {spec} returned the shape {list(scores.shape)} for group {population.id}; return one score "
                f"for each of its {count} units."
            )
        if not (np.isfinite(scores).all() and (scores >= 0).all()):
            raise UsageError(
                f"--fitness {spec} returned scores for group {population.id} that are negative or no numbers; return "
                "numbers of 0 or more, because groups are compared by their scores over the mean."
            )
        return scores

    return judge


SLAB = 2**20
"""Elements of a weight that are looked at in one go: what fits into a cache."""


def magnitudes(channels: Channels, power: int) -> npt.NDArray[np.float64]:
    """The sum of |w|^power over the weights that make each component [channels.count].

    Those are the rows of matrices, not what reads a channel.
    """
    total = np.zeros(channels.count)
    for use, weight, made in makers(channels):
        for axis, sums in zip(made, _sums(weight, made, power), strict=True):
            np.add.at(total, channels.component[use.axes[axis]], sums)
    return total


WEAK = 0.1
"""The share of its layer's largest weight below which a synapse counts as weak."""


def cluster_strengths(channels: Channels, model: ir.Model | None = None) -> npt.NDArray[np.float64]:
    """sum_i trunc(|w_i|) / Z over the weights that make each component [channels.count], Z the largest of a layer.

    Weak synapses are truncated to zero. The weights are those of the analysed model, or of another one of the same
    nodes. Source: Shafiee and Wong, "Evolutionary Synthesis of Deep Neural Networks via Synaptic Cluster-driven
    Genetic Encoding" (2016), with |w| for w.
    """
    total = np.zeros(channels.count)
    for use, weight, made in makers(channels, model):
        strengths = np.abs(np.asarray(weight, np.float32))
        strengths /= max(float(strengths.max(initial=0.0)), 1e-30)
        strengths[strengths < WEAK] = 0.0
        for axis, sums in zip(made, _sums(strengths, made, 1), strict=True):
            np.add.at(total, channels.component[use.axes[axis]], sums)
    return total


def unit_scores(channels: Channels, scores: npt.NDArray[np.float64]) -> dict[int, float]:
    """The score of every unit, from those of the components [channels.count] that die with it."""
    total = np.zeros(channels.count)
    for column in channels.owners.T:
        np.add.at(total, column, scores)
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
