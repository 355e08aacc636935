"""What an offspring is drawn from: strengths of clusters and synapses, and who may live at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from darwinc.channels import Channels, Mask
from darwinc.evolution.appraisal import Appraisal, Strengths
from darwinc.evolution.genome import Genome
from darwinc.evolution.mating import Parent, mated_clusters, mated_synapses, needed, shares, votes
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_options import Evolution
from darwinc.fitness.statistics import Vector


@dataclass(frozen=True, eq=False)
class Inheritance:
    """What is passed on.

    Attributes:
        clusters: strengths of every component [count].
        may: which of them may be drawn [count].
        reserve: which others may fill up groups that would fall below their least width [count].
        widths: of the parents' groups [parents][groups].
        strengths: of the synapses of a weight, by name, in the ancestor's shape.
        allowed: which synapses of a weight may live, by name, in the ancestor's shape.
        masked: the weights of which a parent has lost single synapses.
    """

    clusters: Vector
    may: Mask
    reserve: Mask
    widths: Sequence[Sequence[int]]
    strengths: Callable[[str], Strengths]
    allowed: Callable[[str], Mask]
    masked: Sequence[str] = field(default_factory=tuple)


def from_ancestor(appraisal: Appraisal, channels: Channels, wiring: Wiring) -> Inheritance:
    """All of the ancestor may live, by its own strengths."""
    nobody = channels.nobody()

    def strengths(name: str) -> Strengths:
        return _of(appraisal.synapses, name, wiring)

    return Inheritance(appraisal.clusters, ~nobody, nobody, (), strengths, lambda name: wiring.living(name, nobody))


def at_random(channels: Channels, wiring: Wiring, heredity: str, rng: np.random.Generator) -> Inheritance:
    """All of the ancestor may live, by strengths that are uniform between 0 and 1 and mean nothing."""
    clusters, synapses = rng.random(channels.count), {}
    if heredity != "clusters":
        synapses = {name: rng.random(weight.shape, np.float32) for name, weight in wiring.weights.items()}
    return from_ancestor(Appraisal(clusters, synapses), channels, wiring)


def of_random_widths(
    appraisal: Appraisal, channels: Channels, wiring: Wiring, heredity: str, rng: np.random.Generator
) -> Inheritance:
    """All of the ancestor may live. How many of each group is left to chance, and which of them to their strengths.

    A unit has its rank within its group, between 0 and 1, and each group is shifted by a number between -1 and 1. So
    widths are random, and no worse chosen than they have to be: what evolution has to be better than.
    """
    inheritance = at_random(channels, wiring, heredity, rng)
    clusters = np.ones(channels.count)
    for group, shift in zip(channels.groups, rng.uniform(-1.0, 1.0, len(channels.groups)).tolist(), strict=True):
        ranks = np.argsort(np.argsort(appraisal.clusters[group.units], kind="stable"), kind="stable")
        clusters[group.units] = (ranks + 1) / len(group) + shift
    return replace(inheritance, clusters=clusters)


def from_parents(
    parents: Sequence[Parent], channels: Channels, wiring: Wiring, options: Evolution, ancestor: Appraisal | None
) -> Inheritance:
    """What mates pass on together (`mating.mated`); given the ancestor's appraisal, what all have lost may come back.

    Then a cluster's strength is (s + l) / 2: s the mean of its strengths by the shares of the parents in which it
    lives, or the ancestor's where it lives in none; l the sum of these shares. A synapse has the ancestor's strength
    where it lies between clusters that no parent has together.
    """
    clusters = mated_clusters(parents, options.mating, options.quorum, favour=options.favour)
    least = needed(len(parents), options.mating, options.quorum)
    lives = votes(parents)
    may = lives >= least
    if ancestor is not None:
        share = shares([parent.fitness for parent in parents]) @ np.array([~parent.genome.dead for parent in parents])
        strengths = mated_clusters(parents, "sum", favour=options.favour)
        mean = np.divide(strengths, share, out=ancestor.clusters.astype(np.float64), where=(lives > 0) & (share > 0))
        clusters, may = 0.5 * (mean + share), np.ones_like(may)
    census = _Census(parents, wiring, least, strict=options.heredity != "clusters", revive=ancestor is not None)

    def strengths_of(name: str) -> Strengths:
        if any(name in parent.appraisal.synapses for parent in parents):
            found = mated_synapses(name, parents, options.mating, options.quorum)
        else:
            found = np.zeros(wiring.weights[name].shape, np.float32)
        return found if ancestor is None else np.where(census.asked(name), found, _of(ancestor.synapses, name, wiring))

    widths = [parent.genome.widths(channels.groups) for parent in parents]
    masked = sorted(set[str]().union(*(parent.genome.synapses for parent in parents)))
    return Inheritance(clusters, may, (lives > 0) & ~may, widths, strengths_of, census.allowed, masked)


def _of(synapses: Mapping[str, Strengths], name: str, wiring: Wiring) -> Strengths:
    return synapses[name] if name in synapses else np.zeros(wiring.weights[name].shape, np.float32)


@dataclass(frozen=True, eq=False)
class _Census:
    """In how many parents synapses live.

    Attributes:
        least: in so many of them a synapse has to live.
        strict: whether it has to live in a parent where its clusters don't live together in any.
        revive: whether it may come back there.
    """

    parents: Sequence[Parent]
    wiring: Wiring
    least: int
    strict: bool
    revive: bool

    def asked(self, name: str) -> Mask:
        """Where a parent has both clusters of a synapse."""
        return np.asarray(np.any([self.wiring.living(name, parent.genome.dead) for parent in self.parents], axis=0))

    def allowed(self, name: str) -> Mask:
        """Where enough parents have the synapse; parents without its clusters can't tell."""
        shape = self.wiring.weights[name].shape
        lives, tells = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
        for parent in self.parents:
            between = self.wiring.living(name, parent.genome.dead)
            tells += between
            lives += _living(between, parent.genome, name)
        found = np.asarray(lives >= self.least)
        if not self.strict:
            return np.asarray(found | (lives == tells))
        return np.asarray(found | (tells == 0)) if self.revive else found


def _living(between: Mask, genome: Genome, name: str) -> Mask:
    mask = genome.synapses.get(name)
    return between if mask is None else between & mask
