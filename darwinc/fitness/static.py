"""A criterion that gives every channel one fixed number, whatever becomes of its peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from darwinc.fitness.statistics import Death, Indices, Vector


class StaticScore:
    """A fixed score per unit, made comparable between groups."""

    def __init__(
        self,
        scores: Mapping[int, float],
        groups: Sequence[Indices],
        worth: Sequence[float] | None = None,
        *,
        losses: bool = False,
    ) -> None:
        """Scores that are `losses` can be compared as they are; others are divided by the mean over their group.

        Selection asks what a death costs for what it saves. `worth` is what a death in each group saves at first: times
        that, scores over the mean are ranked as they stand, over all groups alike, as their authors have it. Without it
        groups whose units are large would go first whatever their scores.
        """
        self._scores = np.zeros(1 + max((int(group.max()) for group in groups), default=0))
        for number, group in enumerate(groups):
            found = np.array([scores.get(unit, 0.0) for unit in group.tolist()])
            if not losses:
                found *= (1.0 if worth is None else worth[number]) / (float(found.mean()) or 1.0)
            self._scores[group] = found

    def losses(self, units: Indices) -> Vector:
        """The score of each unit [U]."""
        return self._scores[units]

    def weakest(self, units: Indices, count: int) -> tuple[Indices, float]:
        """The lowest scores."""
        losses = self.losses(units)
        order = np.argsort(losses, kind="stable")[:count]
        return units[order], float(losses[order].sum())

    def explain(self, units: Indices) -> list[Death]:
        """A low score is all that it knows."""
        return [Death(unit, "low_score") for unit in units.tolist()]

    def remove(self, units: Indices) -> None:
        """Nothing to refresh: the score doesn't know about peers."""

    def age(self, units: Indices) -> int:
        """Always the same."""
        del units
        return 0

    def fork(self) -> StaticScore:
        """The same: no death changes it."""
        return self
