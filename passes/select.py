"""Channels compete while the network trains: those whose mass goes to zero are extinct."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from darwinc.console import Stage
from darwinc.dynamics_options import DYNAMICS, Dynamics
from darwinc.errors import InvalidData
from darwinc.passes.cull import Cull, tell_of_finer
from darwinc.passes.distill import Distill
from darwinc.passes.finetune import Finetune
from darwinc.pipeline import Job
from darwinc.training import TRAINING, Training, parse_outputs

if TYPE_CHECKING:
    from darwinc.calibrators.populations import Populations
    from darwinc.calibrators.training.course import Course
    from darwinc.calibrators.training.ecology import Demand, Ecology


@dataclass(frozen=True)
class Raised(Cull):
    """A pass that trains the whole network while channels leave it, until the target holds.

    With labels it learns as `finetune` does, without as `distill` does, though from answers alone.

    Attributes:
        training: budget, optimiser, precision.
        dynamics: how channels compete.
        loss: what is minimised where there are labels (`passes.finetune.Finetune`).
        outputs: what outputs are, as NAME=KIND,...; inferred where it isn't said.
    """

    training: Training = TRAINING
    dynamics: Dynamics = DYNAMICS
    loss: str = "auto"
    outputs: str = ""

    @abstractmethod
    def ecology(self, course: Course, populations: Populations, demand: Demand) -> Ecology:
        """How the units compete."""

    def run(self, job: Job, stage: Stage) -> bool:
        # torch takes seconds to import, which only a pass that trains should pay.
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.training.ecology import Demand
        from darwinc.calibrators.training.raising import raise_survivors

        calibration = calibration_of(job)
        if calibration.twin is None:
            raise InvalidData(f"Nothing can be trained: {calibration.missing}; use the train-free --strategy cull.")
        terms, need, limits = self.plan(job.original, job.channels)
        demand = Demand(job.channels, terms, need, limits)
        labelled = job.lessons is not None and job.lessons.labels is not None
        learning = Finetune(self.training, loss=self.loss) if labelled else Distill(self.training, features=0.0)
        raise_survivors(
            job,
            stage,
            self.name,
            self.training,
            parse_outputs(self.outputs),
            learning.objective,
            lambda course, populations: self.ecology(course, populations, demand),
            demand,
            options=asdict(self),
        )
        tell_of_finer(job)
        return bool(job.dead.any())


@dataclass(frozen=True)
class Select(Raised):
    """Let channels compete by selection dynamics while the network trains; survivors' masses become weights."""

    @property
    def name(self) -> str:
        return "select"

    def ecology(self, course: Course, populations: Populations, demand: Demand) -> Ecology:
        from darwinc.calibrators.training.masses import Masses
        from darwinc.calibrators.training.raising import Glance

        gradient = self.dynamics.evidence == "gradient"
        overlap = self.dynamics.dynamic == "lotka-volterra"
        glance = Glance(course, populations, gradients=not gradient, overlap=overlap)
        return Masses(populations, demand, self.dynamics, glance, gradient=gradient)


@dataclass(frozen=True)
class Persist(Raised):
    """Cull channels while the network trains: those that are found unfit again and again leave."""

    def ecology(self, course: Course, populations: Populations, demand: Demand) -> Ecology:
        from darwinc.calibrators.training.persistence import Persistence
        from darwinc.calibrators.training.raising import Measuring

        return Persistence(populations, demand, self.dynamics, Measuring(course, self.scoring))
