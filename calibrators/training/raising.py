"""Training the whole original while its channels compete: from a job to its survivors and their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from darwinc.calibrators.populations import Populations, find_populations
from darwinc.calibrators.statistics import gather
from darwinc.calibrators.training.course import Course
from darwinc.calibrators.training.ecology import Demand, Ecology
from darwinc.calibrators.training.objectives import Objective
from darwinc.calibrators.training.teaching import Lesson, enrol
from darwinc.calibrators.vitality import Vitality, look
from darwinc.channels import Mask
from darwinc.console import Stage
from darwinc.errors import Unreachable
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.passes.excise import excise
from darwinc.pipeline import Grown, Job
from darwinc.scoring import Scoring
from darwinc.torch_graph import TorchGraph
from darwinc.training import Training

BATCHES = 2
"""How many batches of the training samples one look takes."""
SCORED = 512
"""How many samples the score is measured on in a window."""

Found = TypeVar("Found")


def raise_survivors(
    job: Job,
    stage: Stage,
    name: str,
    training: Training,
    told: Mapping[str, str],
    make_objective: Callable[[Lesson], Objective],
    make_ecology: Callable[[Course, Populations], Ecology],
    demand: Demand,
    *,
    options: Mapping[str, Any],
) -> None:
    """Train the original while `make_ecology` lets its units compete; the job then knows who died, and what was learnt.

    Whether the weights are any better than the original's, both cut alike, the validation samples say.

    Raises:
        Interrupted: the user or a signal stopped it.
        Unreachable: no group of channels has masses.
    """
    course = enrol(job, stage, name, training, told, make_objective, options=options, dead=_anyone(demand))
    populations = find_populations(course.student, job.channels, demand.limits.eligible)
    for group, reason in populations.skipped:
        job.skip(group, f"takes no part in the competition: {reason}")
    if not populations.numbers:
        reasons = ", ".join(dict.fromkeys(reason for _, reason in populations.skipped))
        raise Unreachable(f"No channels can compete while the network trains ({reasons}); use the train-free cull.")
    ecology = make_ecology(course, populations)
    trainer = course.trainer(stage, ecology)
    outcome = trainer.run()
    if ecology.selection is None:
        raise RuntimeError("training ended before the competition was settled")
    job.held_out, job.selection, job.dead = course.held_out, ecology.selection, ecology.selection.dead
    job.dynamics = ecology.history()
    model = job.original.clone()
    course.student.write_back(model)
    course.warn(trainer, outcome)
    cut, raised = (excise(each, job.channels, job.dead)[0] for each in (job.original, model))
    scores = [trainer.judge.score(course.twin(each)) for each in (cut, raised)]
    entry = course.entry(trainer, outcome)
    died = int(np.count_nonzero(ecology.extinct >= 0))
    entry["notes"] = [
        *entry["notes"],
        f"{ecology.died_alone} of {died} channels died while the network trained, {died - ecology.died_alone} were "
        "culled in the end",
        "survivors trained on from "
        + ("the original's weights" if trainer.progress.began_anew else "the weights that competition left"),
    ]
    entry |= {"error_before": scores[0][0], "error_after": scores[1][0], "accepted": scores[1] < scores[0]}
    job.grown = Grown(raised, entry)


def _anyone(demand: Demand) -> Mask:
    """Every component that may go."""
    dead = demand.channels.nobody()
    for group, eligible in zip(demand.channels.groups, demand.limits.eligible, strict=True):
        dead[group.units] = eligible
    return dead


class _Mirror:
    """A twin of which every value can be seen, with the weights that the student has now.

    It runs on a few batches of what the student learns from; every process sees what the first one does.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.twin = TorchGraph(course.model, device=course.job.device)

    def follow(self) -> None:
        """Take over the student's weights."""
        weights = self.course.student.weights()
        with torch.no_grad():
            for name, weight in self.twin.weights().items():
                weight.copy_(weights[name])

    def feeds(self, number: int, count: int) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of look `number`."""
        return (self.course.lessons[count * number + place].feed for place in range(count))

    def agreed(self, found: Found) -> Found:
        """What the first process found."""
        fabric = self.course.fabric
        return fabric.broadcast(found) if fabric.world_size > 1 else found


class Glance(_Mirror):
    """Looks at what units are worth and how much they say the same, by the number of the look."""

    def __init__(self, course: Course, populations: Populations, *, gradients: bool, overlap: bool) -> None:
        super().__init__(course)
        self.populations, self.gradients, self.overlap = populations, gradients, overlap

    def __call__(self, number: int) -> Vitality:
        self.follow()
        feeds, seed = self.feeds(number, BATCHES), self.course.job.seed + number
        return self.agreed(
            look(self.twin, self.populations, feeds, seed=seed, gradients=self.gradients, overlap=self.overlap)
        )


class Measuring(_Mirror):
    """The Darwinian Score of the student as it is, by the number of the window."""

    def __init__(self, course: Course, scoring: Scoring) -> None:
        super().__init__(course)
        self.scoring = scoring

    def __call__(self, number: int) -> DarwinianScore:
        self.follow()
        course = self.course
        count = max(1, min(-(-SCORED // course.lessons.batch), course.lessons.steps_per_epoch))
        channels, seed = course.job.channels, course.job.seed + number
        feeds = ({name: tensor.cpu().numpy() for name, tensor in feed.items()} for feed in self.feeds(number, count))
        found = gather(self.twin, channels, feeds, rung="data", seed=seed)
        score = DarwinianScore(self.agreed([part for parts in found.readers.values() for part in parts]), self.scoring)
        score.assign(channels.owners)
        return score
