"""A criterion of fitness by name, with the statistics that it takes."""

from __future__ import annotations

import numpy as np

from darwinc.console import Stage
from darwinc.errors import UsageError
from darwinc.fitness import FITNESS, Fitness
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.rivals import magnitudes, random_scores, taylor_scores, unit_scores
from darwinc.fitness.static import StaticScore
from darwinc.matching import matched
from darwinc.pipeline import Job


def make_fitness(name: str, job: Job, stage: Stage) -> Fitness:
    """The criterion by name; those that need statistics gather them.

    Units of the job's channels come to stand for positions of the same rank in every head or group (`matching`), unless
    chance decides.

    Raises:
        UsageError: no such criterion, or one that needs gradients where there can't be any.
    """
    groups = [group.units for group in job.channels.groups]
    if name == "random":
        return StaticScore(random_scores(groups, job.seed), groups)
    if name in ("l1", "l2"):
        found = magnitudes(job.channels, 1 if name == "l1" else 2)
        job.channels = matched(job.channels, found)
        return StaticScore(unit_scores(job.channels, found), groups)
    if name not in FITNESS:
        raise UsageError(f"There is no fitness {name!r}; choose one of {', '.join(FITNESS)}.")
    # torch takes seconds to import, which only a fitness that measures should pay.
    from darwinc.calibrators.calibration import calibration_of, statistics_of

    statistics = statistics_of(job, stage)
    if name == "darwin":
        parts = [part for parts in statistics.readers.values() for part in parts]
        statistics.readers.clear()
        score = DarwinianScore(parts)
        job.channels = matched(job.channels, score.losses_of_components(job.channels.count))
        score.assign(job.channels.owners)
        return score
    if statistics.rung == "weights":
        raise UsageError(
            f"The taylor fitness needs gradients, but {calibration_of(job).missing}; use darwin, l1 or l2."
        )
    readers = statistics.readers.values()
    alone = taylor_scores(readers, np.arange(job.channels.count)[:, None])
    job.channels = matched(job.channels, np.array([alone.get(unit, 0.0) for unit in range(job.channels.count)]))
    return StaticScore(taylor_scores(readers, job.channels.owners), groups)
