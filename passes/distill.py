"""The original model teaches the smaller one; it takes samples, but no labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from darwinc.console import Stage
from darwinc.passes.repair import Repair
from darwinc.pipeline import Job
from darwinc.training import TRAINING, Training, parse_outputs

if TYPE_CHECKING:
    from darwinc.calibrators.training.objectives import Objective
    from darwinc.calibrators.training.teaching import Lesson


@dataclass(frozen=True)
class Distill(Repair):
    """Train the compressed network to answer like the original, on unlabelled samples.

    Class scores are matched by their softened divergence; other outputs, and values inside the network, by the share
    of their spread that is missed. Kept only where validation samples say that the answers come closer.

    Attributes:
        training: budget, optimiser, precision.
        temperature: softens class scores.
        features: the weight of values inside the network; 0 leaves them out.
        outputs: what outputs are, as NAME=KIND,...; inferred where it isn't said.
    """

    training: Training = TRAINING
    temperature: float = 4.0
    features: float = 1.0
    outputs: str = ""

    def run(self, job: Job, stage: Stage) -> bool:
        # torch takes seconds to import, which only a pass that trains should pay.
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.training.teaching import teach

        calibration = calibration_of(job)
        if calibration.twin is None:
            return self._leave_out(job, stage, calibration.missing)
        told = parse_outputs(self.outputs)
        return teach(job, stage, self.name, self.training, told, self._objective, options=asdict(self)).improved

    def _objective(self, lesson: Lesson) -> Objective:
        from darwinc.calibrators.training.objectives import Objective

        features = lesson.features if self.features > 0 else ()
        return Objective(lesson.endings, features, self.features, self.temperature)
