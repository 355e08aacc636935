"""A criterion of fitness by name, with the statistics that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from darwinc.calibrators.trajectories import Trajectory, from_checkpoints
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.errors import UsageError
from darwinc.fitness import Fitness
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.population import Census, Population
from darwinc.fitness.rivals import (
    JUDGES,
    Judge,
    magnitudes,
    random_scores,
    summed_weights,
    unit_scores,
    users_judge,
)
from darwinc.fitness.static import StaticScore
from darwinc.fitness.statistics import Indices, ReaderStatistics, Vector
from darwinc.matching import find_blocks, matched
from darwinc.pipeline import Job
from darwinc.scoring import SCORING, WEIGHTS_TELL, Scoring, judge_fitness

if TYPE_CHECKING:
    from darwinc.calibrators.statistics import Statistics

GRADIENTS = ("taylor", "fisher")
"""The rivals that take gradients."""
ACTIVATIONS = ("chip",)
"""The rivals that take activations alone."""
LOSSES = ("taylor", "fisher")
"""The rivals whose scores are changes of the loss, which can be compared between groups as they are."""


def make_fitness(
    name: str,
    job: Job,
    stage: Stage,
    scoring: Scoring = SCORING,
    *,
    worth: Sequence[float] | None = None,
    trajectory: Trajectory | None = None,
) -> Fitness:
    """The criterion by name, or package.module:callable; those that need statistics gather them.

    `worth` is what the first death in each group saves (`StaticScore`), by which rivals whose scores have no unit are
    ranked alike in all groups. `trajectory` is one that was watched, for adaptability, in place of the checkpoints that
    `scoring` names.

    Units of the job's channels come to stand for positions of the same rank in every head or group (`matching`), unless
    chance decides.

    Raises:
        UsageError: no such criterion, one that needs gradients or activations where there can't be any, one that finds
            nothing in the model to go by, or a function of the user's that can't be found or returns no scores.
        InvalidData: checkpoints of the trajectory can't be read, or don't fit the model.
    """
    judge_fitness(name)
    groups = [group.units for group in job.channels.groups]
    if name == "random":
        return StaticScore(random_scores(groups, job.seed), groups, worth)
    if name in ("l1", "l2"):
        found = magnitudes(job.channels, 1 if name == "l1" else 2)
        job.channels = matched(job.channels, found)
        return StaticScore(unit_scores(job.channels, found), groups, worth)
    if name == "darwin":
        return _darwinian(job, stage, scoring, trajectory)
    judge = JUDGES[name] if name in JUDGES else users_judge(name)
    ballot = _Ballot(judge, None if name in WEIGHTS_TELL else _measured(name, job, stage))
    scores = ballot.scores(job)
    _tell_unjudged(name, job, ballot.unjudged)
    return StaticScore(scores, groups, worth, losses=name in LOSSES)


def _darwinian(job: Job, stage: Stage, scoring: Scoring, trajectory: Trajectory | None) -> DarwinianScore:
    if trajectory is None and scoring.trajectory:
        stage.say("reading checkpoints")
        trajectory = from_checkpoints(job.channels, scoring.trajectory)
    score = measured_score(job, stage, scoring)
    job.channels = matched(job.channels, score.losses_of_components(job.channels.count))
    score.assign(job.channels.owners, kin_of(job.channels))
    if trajectory is not None:
        score.adapt(trajectory.adaptability(job.channels))
    return score


def measured_score(job: Job, stage: Stage, scoring: Scoring = SCORING) -> DarwinianScore:
    """The Darwinian Score of a job's original, with every component a unit of its own until it is told otherwise."""
    # torch takes seconds to import, which only a fitness that measures should pay.
    from darwinc.calibrators.calibration import statistics_of

    statistics = statistics_of(job, stage)
    parts = [part for parts in statistics.readers.values() for part in parts]
    statistics.readers.clear()
    return DarwinianScore(parts, scoring)


def kin_of(channels: Channels) -> Indices:
    """The group of each unit [count]; -1 for what is none."""
    kin = np.full(channels.count, -1)
    for number, group in enumerate(channels.groups):
        kin[group.units] = number
    return kin


def _measured(name: str, job: Job, stage: Stage) -> Statistics:
    """What a rival, or a function of the user's, has to know.

    Raises:
        UsageError: the rung is `weights`, where there is nothing that a rival could go by.
    """
    from darwinc.calibrators.calibration import calibration_of, statistics_of

    extra = {"chip": ("chip",), "taylor": ()}.get(name, ("fisher",))
    statistics = statistics_of(job, stage, gradients=name not in ACTIVATIONS, extra=extra)
    if statistics.rung == "weights" and name in (*GRADIENTS, *ACTIVATIONS):
        needed = "gradients" if name in GRADIENTS else "activations"
        raise UsageError(
            f"The {name} fitness needs {needed}, but {calibration_of(job).missing}; use darwin, fpgm, l1 or l2."
        )
    return statistics


@dataclass
class _Ballot:
    """A judge's scores of all groups of a job; those of which it knows nothing are ranked by L1, and listed."""

    judge: Judge
    statistics: Statistics | None
    unjudged: list[str] = field(default_factory=list)

    def scores(self, job: Job) -> dict[int, float]:
        """The score of every unit. Heads, and groups of a convolution, are put in order first, each by itself."""
        channels = job.channels
        alone = self._census(channels, np.arange(channels.count)[:, None])
        of_component = np.zeros(channels.count)
        for blocks in find_blocks(channels):
            group = next(group for group in channels.groups if group.units[0] in blocks.units)
            for cells in blocks.table():
                of_component[cells] = self._scores(alone.of(group.id, cells))
        job.channels = channels = matched(channels, of_component)
        census = self._census(channels, channels.owners)
        self.unjudged.clear()
        by_group = {group.id: self._scores(census.of(group.id, group.units)) for group in channels.groups}
        judged = [float(scores.mean()) for name, scores in by_group.items() if name not in self.unjudged]
        for name in self.unjudged:
            # Groups that are ranked by something else count like the others on average.
            by_group[name] *= float(np.mean(judged or [1.0])) / (float(by_group[name].mean()) or 1.0)
        return {
            unit: score
            for group in channels.groups
            for unit, score in zip(group.units.tolist(), by_group[group.id].tolist(), strict=True)
        }

    def _census(self, channels: Channels, owners: Indices) -> Census:
        readers: Mapping[str, Sequence[ReaderStatistics]] = {}
        if self.statistics is None:
            return Census(channels, owners, readers)
        measured = self.statistics.rung != "weights"
        return Census(channels, owners, self.statistics.readers, measured=measured, chip=self.statistics.chip)

    def _scores(self, population: Population) -> Vector:
        scores = self.judge(population)
        if scores is None:
            self.unjudged.append(population.id)
            return summed_weights(population)
        return np.maximum(scores, 0.0)


def _tell_unjudged(name: str, job: Job, unjudged: Sequence[str]) -> None:
    """Say which groups a criterion knows nothing about.

    Raises:
        UsageError: all of them.
    """
    if not unjudged:
        return
    lacking = {"bn": "pass through a BatchNormalization"}.get(name, "were measured")
    if len(unjudged) == len(job.channels.groups):
        raise UsageError(f"The {name} fitness has nothing to go by: no channels {lacking}; use darwin, fpgm, l1 or l2.")
    shown = ", ".join(unjudged[:3]) + (f" and {len(unjudged) - 3} more" if len(unjudged) > 3 else "")
    job.warnings.append(f"Groups {shown} are ranked by L1 instead of {name}: none of their channels {lacking}.")
