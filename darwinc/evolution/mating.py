"""Who mates with whom, and what the strengths of several parents are together.

Sources: Chung, Shafiee, Fieguth, Wong, "The Mating Rituals of Deep Neural Networks: Learning Compact Feature
Representations through Sexual Evolutionary Synthesis" (2017) for two parents; Chung, Fieguth, Wong, "Polyploidism in
Deep Neural Networks: m-Parent Evolutionary Synthesis of Deep Neural Networks in Varying Population Sizes" (2017) for
more; "Mitigating Architectural Mismatch During the Evolutionary Synthesis of Deep Neural Networks" (2018) for genes
that are tagged. Who mates with whom, and whose clusters are favoured, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darwinc.evolution.appraisal import Appraisal, Strengths
from darwinc.evolution.genome import Genome
from darwinc.fitness.statistics import Matrix, Vector

LEAST_CHANCE = 1e-6
"""Nobody's chance to mate is less than this share of the best one's, so that enough mates can always be drawn."""

Votes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Parent:
    """A raised network that may have offspring: its id, who lives in it, how strong they are, and its fitness."""

    id: str
    genome: Genome
    appraisal: Appraisal
    fitness: float


def shares(fitnesses: Sequence[float]) -> Vector:
    """The parents' weights, which sum to 1: their fitness over the sum of all; negative ones count as 0.

    Alike where that leaves nothing; a fitness that isn't finite counts as 0.
    """
    found = np.array([fitness if np.isfinite(fitness) else 0.0 for fitness in fitnesses]).clip(0.0)
    total = float(found.sum())
    return found / total if total > 0 else np.full(len(found), 1.0 / max(len(found), 1))


def distance(one: Genome, other: Genome) -> float:
    """The share of clusters, plus that of synapses in weights where one of both lost some, that live in one alone."""
    found = float(np.mean(one.dead != other.dead)) if len(one.dead) else 0.0
    differing = size = 0
    for name in sorted(set(one.synapses) | set(other.synapses)):
        first, second = one.synapses.get(name), other.synapses.get(name)
        masks = [mask for mask in (first, second) if mask is not None]
        differing += int(np.count_nonzero(masks[0] != masks[1] if len(masks) == 2 else ~masks[0]))
        size += masks[0].size
    return found + (differing / size if size else 0.0)


def choose_mates(pool: Sequence[Parent], count: int, how: str, rng: np.random.Generator) -> list[Parent]:
    """Draw `count` different parents from a pool; all of a smaller one.

    `fitness` draws by `shares` of the fitness, `uniform` all alike. `distant` draws the first by fitness, and every
    other one by its fitness times its least `distance` to those drawn before (by fitness alone, where all are alike).
    They come in the order in which they were drawn.
    """
    left, chosen = list(pool), list[Parent]()
    while left and len(chosen) < count:
        chances = np.ones(len(left)) if how == "uniform" else shares([parent.fitness for parent in left])
        if how == "distant" and chosen:
            far = [min(distance(parent.genome, mate.genome) for mate in chosen) for parent in left]
            chances = chances * np.array(far) if any(far) else chances
        chances = np.maximum(chances, LEAST_CHANCE * chances.max()) if chances.max() > 0 else np.ones(len(left))
        reached = np.cumsum(chances)
        chosen.append(left.pop(int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))))
    return chosen


def votes(parents: Sequence[Parent]) -> Votes:
    """In how many parents every component lives [count]."""
    return np.asarray(np.sum([~parent.genome.dead for parent in parents], axis=0, dtype=np.int64))


def needed(parents: int, how: str, quorum: int) -> int:
    """In how many parents something has to live so that it may live in their offspring."""
    return {"sum": 1, "product": parents, "quorum": min(quorum, parents)}[how]


def merits(parents: Sequence[Parent]) -> list[Vector | float]:
    """For each parent the factors of its clusters by what they are good for [count]; 1 where nothing is known of it.

    f_k[u] = sum_j q_k[u, j] merit_k[j] / mean_i merit_i[j], where q_k[u, j] = credit_k[u, j] / sum_j credit_k[u, j] is
    how what hangs on cluster u is spread over the outputs j. A cluster whose parent is as good as its mates at all that
    hangs on it has 1; one that serves a class at which its parent is twice as good as they are on average has 2.
    """
    outputs = {len(parent.appraisal.merit) for parent in parents}
    if len(outputs) != 1 or outputs == {0} or any(parent.appraisal.credit.size == 0 for parent in parents):
        return [1.0] * len(parents)
    table: Matrix = np.array([parent.appraisal.merit for parent in parents])
    mean = table.mean(axis=0)
    relative = np.divide(table, mean, out=np.ones_like(table), where=mean > 0)
    found: list[Vector | float] = []
    for parent, row in zip(parents, relative, strict=True):
        credit = np.maximum(parent.appraisal.credit, 0.0)
        sums = credit.sum(axis=1)
        found.append(np.divide(credit @ row, sums, out=np.ones_like(sums), where=sums > 0))
    return found


def mated(
    parents: Sequence[Parent], how: str, quorum: int = 1, *, favour: bool = False
) -> tuple[Vector, dict[str, Strengths]]:
    """The strengths of the parents' offspring: of every component [count], and of synapses by name.

    With a_k the parents' `shares`, `sum` is M = sum_k a_k W_k over the parents in which the tagged cluster or synapse
    lives (as in "Mating Rituals" and "Polyploidism"); `quorum` the same where it lives in enough of
    them, and 0 elsewhere. `product` is prod_k W_k^a_k where it lives in all, and 0 elsewhere: the paper's constant
    factors would weigh everything alike, so shares are exponents. With `favour`, W_k of clusters comes with the factor
    of `merits`.
    """
    names = sorted(set[str]().union(*(parent.appraisal.synapses for parent in parents)))
    synapses = {name: mated_synapses(name, parents, how, quorum) for name in names}
    return mated_clusters(parents, how, quorum, favour=favour), synapses


def mated_clusters(parents: Sequence[Parent], how: str, quorum: int = 1, *, favour: bool = False) -> Vector:
    """Of `mated`, the strengths of components [count]."""
    factors = merits(parents) if favour else [1.0] * len(parents)
    clusters = [
        np.where(parent.genome.dead, 0.0, parent.appraisal.clusters * factor)
        for parent, factor in zip(parents, factors, strict=True)
    ]
    together = _together(clusters, shares([parent.fitness for parent in parents]), how).astype(np.float64)
    together[votes(parents) < needed(len(parents), how, quorum)] = 0.0
    return together


def mated_synapses(name: str, parents: Sequence[Parent], how: str, quorum: int = 1) -> Strengths:
    """Of `mated`, the strengths of one weight's synapses, which at least one of the parents has appraised."""
    shape = next(parent.appraisal.synapses[name].shape for parent in parents if name in parent.appraisal.synapses)
    found, lives = [], np.zeros(shape, np.int64 if len(parents) > 255 else np.uint8)
    for parent in parents:
        strengths = parent.appraisal.synapses.get(name, np.zeros(shape, np.float32))
        mask = parent.genome.synapses.get(name)
        found.append(strengths if mask is None else np.where(mask, strengths, np.float32(0)))
        lives += np.uint8(1) if mask is None else mask
    together = _together(found, shares([parent.fitness for parent in parents]), how)
    together[lives < needed(len(parents), how, quorum)] = 0.0
    return together.astype(np.float32)


def _together(strengths: Sequence[npt.NDArray[np.floating]], weights: Vector, how: str) -> npt.NDArray[np.floating]:
    together = np.ones(strengths[0].shape, strengths[0].dtype) if how == "product" else np.zeros_like(strengths[0])
    for values, weight in zip(strengths, weights.tolist(), strict=True):
        if how == "product":
            together *= np.maximum(values, 0) ** weight
        else:
            together += weight * values
    return together
