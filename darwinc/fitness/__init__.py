"""How fit a channel is: the criteria, and what selection asks of each."""

from __future__ import annotations

from typing import Protocol

from darwinc.fitness.statistics import Death, Indices, Vector
from darwinc.scoring import FITNESS

__all__ = ["FITNESS", "Fitness"]


class Fitness(Protocol):
    """What selection asks of a criterion. Losses are comparable between groups."""

    def losses(self, units: Indices) -> Vector:
        """What the death of each unit alone would cost now."""

    def weakest(self, units: Indices, count: int) -> tuple[Indices, float]:
        """The `count` units that cost least together, and what they cost."""

    def explain(self, units: Indices) -> list[Death]:
        """Why these units of one group die together now; asked just before `remove`."""

    def remove(self, units: Indices) -> None:
        """Let these units die, and refresh what their peers are worth."""

    def age(self, units: Indices) -> int:
        """A number that changes whenever a death has changed what these units are worth."""

    def fork(self) -> Fitness:
        """The same criterion at its present state, on which deaths can be tried; what no death changes is shared."""
