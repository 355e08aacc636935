"""What is asked of a planted network, and what became of it: for the benchmark and for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import CostModel, count_parameters
from darwinc.data import Samples
from darwinc.models.planted import Planted
from darwinc.pipeline import Job
from darwinc.runtime import Feed, open_session, run


@dataclass(frozen=True)
class CutBack:
    """What a cut to the original size did.

    Attributes:
        found: the share of the planted units that went (`Planted.found`).
        lost: units of the original that went, and that those which stayed can't make up for.
        error: the largest difference between the answers of the cut and the planted network, as a share of the
            largest answer.
    """

    found: float
    lost: float
    error: float


def planted_job(planted: Planted, samples: Samples | None, seed: int = 0) -> Job:
    """What the passes work on."""
    job = Job(planted.model, analyse(planted.model), Terminal(quiet=True), seed)
    job.samples = samples
    return job


def to_original_size(planted: Planted, job: Job) -> float:
    """The share of parameters that goes when as many units of each group go as were planted there."""
    terms = CostModel(job.channels).terms("sparsity")
    before, numbers = terms.current(), {group.id: number for number, group in enumerate(job.channels.groups)}
    for planting in planted.plantings:
        terms.remove(numbers[planting.group], planting.planted)
    # Half a parameter less: rounding must not ask for one more.
    return (before - terms.current() - 0.5) / count_parameters(planted.model)


def outcome(planted: Planted, job: Job, feeds: Sequence[Feed]) -> CutBack:
    """What became of a job whose channels were culled and excised; answers are compared on `feeds`."""
    wide, narrow = open_session(job.original), open_session(job.model)
    worst = scale = 0.0
    for feed in feeds:
        for want, got in zip(run(wide, feed).values(), run(narrow, feed).values(), strict=True):
            worst = max(worst, float(np.abs(want - got).max()))
            scale = max(scale, float(np.abs(want).max()))
    return CutBack(planted.found(job.channels, job.dead), planted.lost(job.channels, job.dead), worst / scale)
