"""The original model teaches the smaller one; it takes samples, but no labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from darwinc.passes.trained import Trained

if TYPE_CHECKING:
    from darwinc.calibrators.training.objectives import Objective
    from darwinc.calibrators.training.teaching import Lesson


@dataclass(frozen=True)
class Distill(Trained):
    """Train the compressed network to answer like the original, on unlabelled samples.

    Class scores are matched by their softened divergence; other outputs, and values inside the network, by the share
    of their spread that is missed. Kept only where validation samples say that the answers come closer.

    Attributes:
        features: the weight of values inside the network; 0 leaves them out.
    """

    features: float = 1.0

    def objective(self, lesson: Lesson) -> Objective:
        from darwinc.calibrators.training.objectives import Objective

        features = lesson.features if self.features > 0 else ()
        return Objective(lesson.endings, features, self.features, self.temperature)
