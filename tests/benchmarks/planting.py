"""Cut a planted network back to its original size, and see what went: for the benchmark and for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darwinc.calibrators.calibration import Calibration
from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import CostModel, count_parameters
from darwinc.data import Samples
from darwinc.models.planted import Planted
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.runtime import Feed, open_session, run


@dataclass(frozen=True)
class Regrown:
    """What a cut to the original size did.

    Attributes:
        found: the share of the planted units that went (`Planted.found`).
        error: the largest difference between the answers of the cut and the planted network, as a share of the
            largest answer.
        job: with which it was done.
    """

    found: float
    error: float
    job: Job


def excess(planted: Planted, job: Job) -> int:
    """Parameters that go when as many units of each group go as were planted there."""
    terms = CostModel(job.channels).terms("sparsity")
    before, numbers = terms.current(), {group.id: number for number, group in enumerate(job.channels.groups)}
    for planting in planted.plantings:
        terms.remove(numbers[planting.group], planting.planted)
    return before - terms.current()


def cut_back(
    planted: Planted,
    recovery: Sequence[Pass],
    feeds: Sequence[Feed],
    *,
    fitness: str = "darwin",
    samples: Samples | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Regrown:
    """Compress to the original number of parameters, one channel at a time; `feeds` are what answers are compared on."""
    job = Job(planted.model, analyse(planted.model), Terminal(quiet=True), seed)
    job.samples, job.calibration = samples, calibration
    # Half a parameter less: rounding must not ask for one more.
    amount = (excess(planted, job) - 0.5) / count_parameters(planted.model)
    run_passes([Cull("sparsity", amount, fitness=fitness, align=1), Excise(), *recovery], job)
    wide, narrow = open_session(job.original), open_session(job.model)
    worst = scale = 0.0
    for feed in feeds:
        for want, got in zip(run(wide, feed).values(), run(narrow, feed).values(), strict=True):
            worst = max(worst, float(np.abs(want - got).max()))
            scale = max(scale, float(np.abs(want).max()))
    return Regrown(planted.found(job.channels, job.dead), worst / scale, job)
