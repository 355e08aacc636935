"""Every criterion of fitness that there is, as options of `Cull`."""

from __future__ import annotations

from dataclasses import dataclass

from darwinc.fitness import FITNESS
from darwinc.passes.cull import Cull
from darwinc.scoring import SCORING, Scoring

CHANCE = ("random",)
SEEDS = (0, 1, 2)
WITHOUT = {
    "darwin without diversity": (0.0, 1.0, 0.25),
    "darwin without contribution": (1.0, 0.0, 0.25),
}
"""Exponents of diversity, contribution and adaptability, of which the last needs a trajectory."""


@dataclass(frozen=True)
class Variant:
    """A criterion, with the options of the Darwinian Score."""

    name: str
    fitness: str
    scoring: Scoring = SCORING

    @property
    def seeds(self) -> tuple[int, ...]:
        """What is decided by chance is measured several times."""
        return SEEDS if self.fitness in CHANCE else SEEDS[:1]

    def cull(self, target: str, amount: float, *, align: int = 0, max_share: float = 0.9) -> Cull:
        """The pass that culls by it."""
        return Cull(target, amount, fitness=self.fitness, align=align, max_share=max_share, scoring=self.scoring)


def variants(*, factors: bool = True) -> list[Variant]:
    """All criteria; with `factors` also the Darwinian Score without each, and relative to the layer."""
    found = [Variant(name, name) for name in FITNESS]
    if not factors:
        return found
    found.insert(1, Variant("darwin by layer", "darwin", Scoring(normalise="layer")))
    return found + [Variant(name, "darwin", Scoring(exponents=exponents)) for name, exponents in WITHOUT.items()]
