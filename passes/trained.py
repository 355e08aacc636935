"""What the passes share that train the compressed network beside the original."""

from __future__ import annotations

from abc import abstractmethod
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
class Trained(Repair):
    """A pass that trains, and is kept only where validation samples say that it helps.

    Attributes:
        training: budget, optimiser, precision.
        temperature: softens the original's class scores.
        outputs: what outputs are, as NAME=KIND,...; inferred where it isn't said.
    """

    training: Training = TRAINING
    temperature: float = 4.0
    outputs: str = ""

    @abstractmethod
    def objective(self, lesson: Lesson) -> Objective:
        """What training minimises, and what selects."""

    def run(self, job: Job, stage: Stage) -> bool:
        # torch takes seconds to import, which only a pass that trains should pay.
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.training.teaching import teach

        calibration = calibration_of(job)
        if calibration.twin is None:
            return self._leave_out(job, stage, calibration.missing)
        told = parse_outputs(self.outputs)
        return teach(job, stage, self.name, self.training, told, self.objective, options=asdict(self)).improved
