"""The smaller model learns from labels, with the original beside them as a teacher."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from darwinc.console import Stage
from darwinc.errors import UsageError
from darwinc.passes.repair import Repair
from darwinc.pipeline import Job
from darwinc.training import TRAINING, Training, parse_outputs

if TYPE_CHECKING:
    from darwinc.calibrators.training.objectives import Objective
    from darwinc.calibrators.training.teaching import Lesson


@dataclass(frozen=True)
class Finetune(Repair):
    """Train the compressed network on labelled samples.

    Kept only where it makes fewer mistakes on validation samples.

    Attributes:
        training: budget, optimiser, precision.
        loss: auto, cross-entropy, binary, dense, or package.module:function (outputs by name, labels -> a scalar).
        teacher: the share of the loss that matches the original's answers, as `distill` does.
        temperature: softens the original's class scores.
        outputs: what outputs are, as NAME=KIND,...; inferred where it isn't said.
    """

    training: Training = TRAINING
    loss: str = "auto"
    teacher: float = 0.5
    temperature: float = 4.0
    outputs: str = ""

    def run(self, job: Job, stage: Stage) -> bool:
        # torch takes seconds to import, which only a pass that trains should pay.
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.training.teaching import teach

        if job.lessons is not None and job.lessons.labels is None:
            raise UsageError("--recover finetune takes labels; give --labels, or use distill, which needs none.")
        calibration = calibration_of(job)
        if calibration.twin is None:
            return self._leave_out(job, stage, calibration.missing)
        told = parse_outputs(self.outputs)
        return teach(job, stage, self.name, self.training, told, self._objective, options=asdict(self)).improved

    def _objective(self, lesson: Lesson) -> Objective:
        from darwinc.calibrators.training.objectives import Objective, supervise

        if lesson.labels is None:
            raise UsageError("--recover finetune takes labels; give --labels, or use distill, which needs none.")
        supervision = supervise(self.loss, lesson.endings, lesson.answers, lesson.labels, lesson.ignored)
        return Objective(lesson.endings, (), 0.0, self.temperature, supervision, self.teacher)
