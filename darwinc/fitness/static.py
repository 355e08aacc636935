"""A criterion that gives every channel one fixed number, whatever becomes of its peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from darwinc.fitness.statistics import Indices, Vector


class StaticScore:
    """A fixed score per unit, divided by the mean over its group, so that groups can be compared."""

    def __init__(self, scores: Mapping[int, float], groups: Sequence[Indices]) -> None:
        self._scores = np.zeros(1 + max((int(group.max()) for group in groups), default=0))
        for group in groups:
            found = np.array([scores.get(unit, 0.0) for unit in group.tolist()])
            self._scores[group] = found / (float(found.mean()) or 1.0)

    def losses(self, units: Indices) -> Vector:
        """The score of each unit [U]."""
        return self._scores[units]

    def weakest(self, units: Indices, count: int) -> tuple[Indices, float]:
        """The lowest scores."""
        losses = self.losses(units)
        order = np.argsort(losses, kind="stable")[:count]
        return units[order], float(losses[order].sum())

    def remove(self, units: Indices) -> None:
        """Nothing to refresh: the score doesn't know about peers."""

    def age(self, units: Indices) -> int:
        """Always the same."""
        del units
        return 0

    def fork(self) -> StaticScore:
        """The same: no death changes it."""
        return self
