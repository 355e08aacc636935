"""Which single synapses live, among those between living clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darwinc.channels import Mask
from darwinc.evolution.genome import Genome
from darwinc.evolution.heredity import perturbed
from darwinc.evolution.inheritance import Inheritance
from darwinc.evolution.wiring import Wiring
from darwinc.fitness.statistics import Indices, Vector


def wire(
    wiring: Wiring,
    inheritance: Inheritance,
    dead: Mask,
    budget: float | None,
    widths: Sequence[Indices],
    strengths: Vector,
    noise: tuple[float, float],
    rng: np.random.Generator,
) -> Genome:
    """The genome in which at most `budget` synapses live (None: all that may), the strongest after a draw.

    `noise` is the temperature, and the drift of whole weights. Every weight keeps its strongest, so that no layer is
    cut off. Then the clusters that nobody reads any more die, down to one of their group's `widths`, the weakest by
    `strengths` [count] first; what that spares of the budget goes to other synapses.
    """
    candidates = [_candidates(wiring, inheritance, name, dead, noise, rng) for name in wiring.weights]
    genome = Genome(dead, _strongest(wiring, candidates, dead, budget))
    orphans = wiring.orphans(genome, widths, strengths)
    if len(orphans):
        dead = dead.copy()
        dead[orphans] = True
        genome = Genome(dead, _strongest(wiring, candidates, dead, budget))
    return wiring.canonical(genome)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The synapses of one weight that may live, in its shape, and their perturbed strengths in that order [N]."""

    name: str
    may: Mask
    values: np.ndarray[tuple[int], np.dtype[np.float32]]


def _candidates(
    wiring: Wiring,
    inheritance: Inheritance,
    name: str,
    dead: Mask,
    noise: tuple[float, float],
    rng: np.random.Generator,
) -> _Candidates:
    temperature, drift = noise
    may = inheritance.allowed(name) & wiring.living(name, dead)
    shift = drift * float(rng.standard_normal())
    values = perturbed(inheritance.strengths(name)[may].astype(np.float64) + shift, temperature, rng).astype(np.float32)
    return _Candidates(name, may, values)


def _strongest(wiring: Wiring, candidates: Sequence[_Candidates], dead: Mask, budget: float | None) -> dict[str, Mask]:
    """Masks of the strongest candidates that still lie between living clusters; of equals, the first."""
    left = [wiring.living(each.name, dead)[each.may] for each in candidates]
    values = [np.where(alive, each.values, -np.inf) for each, alive in zip(candidates, left, strict=True)]
    for weight in values:
        if len(weight):
            weight[weight.argmax()] = np.inf if weight.max() > -np.inf else -np.inf
    together = np.concatenate(values) if values else np.zeros(0)
    lives = together > -np.inf
    total = int(np.count_nonzero(lives))
    if budget is not None and total > budget:
        lives = _first(together, max(int(budget), 0))
    masks, start = {}, 0
    for each in candidates:
        mask = each.may.copy()
        mask[each.may] = lives[start : start + len(each.values)]
        masks[each.name] = mask
        start += len(each.values)
    return masks


def _first(values: np.ndarray[tuple[int], np.dtype[np.float64]], count: int) -> Mask:
    """The `count` largest of some values [N], the first of equals; `count` is less than N."""
    least = np.partition(values, len(values) - count)[len(values) - count] if count else np.inf
    found = np.asarray(values > least)
    ties = np.flatnonzero(values == least)[: count - int(np.count_nonzero(found))]
    found[ties] = True
    return found
