"""Every criterion of fitness that there is, as options of `Cull`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from darwinc.fitness import FITNESS
from darwinc.passes.cull import Cull

CHANCE = ("random",)
SEEDS = (0, 1, 2)
WITHOUT = {
    "darwin without diversity": (0.0, 1.0, 0.25),
    "darwin without contribution": (1.0, 0.0, 0.25),
    "darwin without adaptability": (1.0, 1.0, 0.0),
}
"""Exponents of diversity, contribution and adaptability."""


@dataclass(frozen=True)
class Variant:
    """A criterion, with the options of `darwinc.scoring.Scoring` where they aren't its defaults."""

    name: str
    fitness: str
    scoring: Any = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """What is decided by chance is measured several times."""
        return SEEDS if self.fitness in CHANCE else SEEDS[:1]

    def cull(self, target: str, amount: float, *, align: int = 0, max_share: float = 0.9) -> Cull:
        """The pass that culls by it."""
        made = Cull(target, amount, fitness=self.fitness, align=align, max_share=max_share)
        options = {} if self.scoring is None else {"scoring": self.scoring}
        return replace(made, **options)


def variants(*, factors: bool = True, trajectory: bool = False) -> list[Variant]:
    """All criteria, and the Darwinian Score without each of its `factors`, where it can be told to do without.

    Adaptability takes a trajectory; without one there is nothing to leave out.
    """
    found = [Variant(name, name) for name in FITNESS]
    if not factors or find_spec("darwinc.scoring") is None or "scoring" not in {field.name for field in fields(Cull)}:
        return found
    scoring = import_module("darwinc.scoring").Scoring
    return found + [
        Variant(name, "darwin", scoring(exponents=exponents))
        for name, exponents in WITHOUT.items()
        if trajectory or exponents[2] > 0
    ]
