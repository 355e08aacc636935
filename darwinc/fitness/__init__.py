"""How fit a channel is: the criteria, and what selection asks of each."""

from __future__ import annotations

from typing import Protocol

from darwinc.fitness.statistics import Indices, Vector

FITNESS = {
    "darwin": "1/2 AGC x NDE, refreshed after each death (Optimal Brain Surgeon on the readers of a channel)",
    "taylor": "first-order Taylor, E|sum of z g| (Molchanov et al., 2017)",
    "l1": "sum of absolute weights of the filters that make a channel (Li et al., 2017)",
    "l2": "sum of squared weights of the filters that make a channel",
    "random": "by chance, for comparison",
}


class Fitness(Protocol):
    """What selection asks of a criterion. Losses are comparable between groups."""

    def losses(self, units: Indices) -> Vector:
        """What the death of each unit alone would cost now."""

    def weakest(self, units: Indices, count: int) -> tuple[Indices, float]:
        """The `count` units that cost least together, and what they cost."""

    def remove(self, units: Indices) -> None:
        """Let these units die, and refresh what their peers are worth."""

    def age(self, units: Indices) -> int:
        """A number that changes whenever a death has changed what these units are worth."""

    def fork(self) -> Fitness:
        """The same criterion at its present state, on which deaths can be tried; what no death changes is shared."""
