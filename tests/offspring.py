"""Small ancestors to draw offspring from, and what has to hold of every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from darwinc.channels import Channels, analyse
from darwinc.cost import Price
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.environment import Environment
from darwinc.evolution.genome import Genome
from darwinc.evolution.mating import Parent
from darwinc.evolution.resources import costs_of, prices
from darwinc.evolution.synthesis import Offspring, synthesise
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_options import Evolution
from darwinc.selection import TOLERANCE, Limits, floor
from tests.small_models import CLASSIFIER, build
from tests.test_selection import DEPTHWISE, WIDE
from tests.test_wiring import RESIDUAL, SHARED

ATTENTION = """(float[N,6,8] x, float[8,16] m1, float[8,16] m2, float[8,16] m3, float[16,8] m4) => (float[N,6,8] y) {
    q = MatMul(x, m1)
    k = MatMul(x, m2)
    v = MatMul(x, m3)
    a = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)
    y = MatMul(a, m4)
}
"""
TEXTS = {
    "classifier": CLASSIFIER,
    "wide": WIDE,
    "depthwise": DEPTHWISE,
    "residual": RESIDUAL,
    "shared": SHARED,
    "attention": ATTENTION,
}


@dataclass(frozen=True, eq=False)
class World:
    """One ancestor, and what offspring are drawn with."""

    channels: Channels
    wiring: Wiring
    prices: Mapping[str, Price]
    whole: Mapping[str, float]

    def limits(self, align: int = 1, max_share: float = 0.9) -> Limits:
        return Limits(align, max_share, [True] * len(self.channels.groups))

    def appraisal(self, seed: int) -> Appraisal:
        random = np.random.default_rng(seed)
        synapses = {name: random.random(weight.shape, np.float32) for name, weight in self.wiring.weights.items()}
        return Appraisal(random.random(self.channels.count), synapses)

    def ancestor(self, seed: int = 0) -> Parent:
        return Parent("ancestor", Genome(self.channels.nobody()), self.appraisal(seed), 1.0)

    def parent(self, name: str, genome: Genome, seed: int, fitness: float = 1.0) -> Parent:
        return Parent(name, genome, self.appraisal(seed), fitness)

    def offspring(
        self,
        pool: list[Parent],
        limits: Limits,
        habitat: Environment,
        options: Evolution,
        seed: int,
        *known: Genome,
        ancestor: Appraisal | None = None,
    ) -> Offspring:
        random, digests = np.random.default_rng(seed), {genome.digest for genome in known}
        shared = (self.channels, self.prices, limits, habitat, options, self.wiring, random, digests)
        return synthesise(pool, *shared, ancestor=ancestor)

    def costs(self, genome: Genome) -> dict[str, float]:
        return costs_of([genome], self.channels, self.prices, self.wiring)[0]

    def halves(self) -> list[Parent]:
        """Two networks with half of every group each, and nothing in common."""
        found = []
        for place in (0, 1):
            dead = self.channels.nobody()
            for group in self.channels.groups:
                dead[group.units[place::2]] = True
            found.append(self.parent(f"half{place}", Genome(dead), place))
        return found


@cache
def world(name: str) -> World:
    channels = analyse(ir.from_proto(build(TEXTS[name])))
    wiring, priced = Wiring(channels), prices(channels)
    return World(channels, wiring, priced, costs_of([Genome(channels.nobody())], channels, priced, wiring)[0])


def check(place: World, child: Offspring, limits: Limits, pool: list[Parent]) -> None:
    """What holds of every offspring."""
    costs = place.costs(child.genome)
    for name, bound in child.limits.items():
        assert costs[name] <= bound * (1 + 1e-9) + TOLERANCE * place.whole[name], name
    widths = child.genome.widths(place.channels.groups)
    known = [parent.genome.widths(place.channels.groups) for parent in pool]
    for number, (group, step) in enumerate(
        zip(place.channels.groups, limits.steps(place.channels, child.divisor), strict=True)
    ):
        width = widths[number]
        assert width >= floor(group, 1, limits.max_share)
        assert width % step == 0 or width in {len(group), *(each[number] for each in known)}
        assert limits.eligible[number] or width == len(group)
    units = np.concatenate([group.units for group in place.channels.groups])
    assert np.isin(np.flatnonzero(child.genome.dead), units).all()
    assert place.wiring.canonical(child.genome).digest == child.genome.digest
    assert place.costs(Genome(place.channels.nobody())) == place.whole
