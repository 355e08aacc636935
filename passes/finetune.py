"""The smaller model learns from labels, with the original beside them as a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from darwinc.errors import UsageError
from darwinc.passes.trained import Trained

if TYPE_CHECKING:
    from darwinc.calibrators.training.objectives import Objective
    from darwinc.calibrators.training.teaching import Lesson


@dataclass(frozen=True)
class Finetune(Trained):
    """Train the compressed network on labelled samples.

    Kept only where it makes fewer mistakes on validation samples, or as many with a smaller loss.

    Attributes:
        loss: auto, cross-entropy, binary, dense, or package.module:function (outputs by name, labels -> a scalar).
        teacher: the share of the loss that matches the original's answers, as `distill` does.
    """

    loss: str = "auto"
    teacher: float = 0.5

    def objective(self, lesson: Lesson) -> Objective:
        from darwinc.calibrators.training.objectives import Objective, supervise

        if lesson.labels is None:
            raise UsageError("--recover finetune takes labels; give --labels, or use distill, which needs none.")
        supervision = supervise(self.loss, lesson.endings, lesson.answers, lesson.labels, lesson.ignored)
        return Objective(lesson.endings, (), 0.0, self.temperature, supervision, self.teacher)
