"""Survivors inherit what the dead channels did, in closed form; statistics are re-estimated where that helps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from darwinc.console import Stage
from darwinc.pipeline import Job, Pass

TOO_FEW = "it takes at least two calibration samples, one to judge by"
TOO_MANY = "the smaller model doesn't take as many samples at once as the original"


class Repair(Pass):
    """A pass that is kept only where the answers come closer to the original's."""

    def _leave_out(self, job: Job, stage: Stage, why: str) -> bool:
        stage.leave_out(why)
        job.warnings.append(f"{self.name} was left out: {why}.")
        return False


@dataclass(frozen=True)
class Inherit(Repair):
    """Refit every layer of the compressed network towards the original's responses, on the compressed prefix.

    Kept only where held-out samples say that the answers come closer to the original's.
    """

    def run(self, job: Job, stage: Stage) -> bool:
        # torch takes seconds to import, which only a pass that trains should pay.
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.divergence import divergence
        from darwinc.calibrators.domain import Domain
        from darwinc.calibrators.lockstep import Lockstep
        from darwinc.calibrators.refit import MOST_ELEMENTS, MOST_SYNTHETIC_ELEMENTS, Refitter

        calibration = calibration_of(job)
        if calibration.twin is None:
            return self._leave_out(job, stage, calibration.missing)
        if len(calibration.batches) < 2:
            return self._leave_out(job, stage, TOO_FEW)
        start = time.perf_counter()
        twin = calibration.twin_of(job.model, job.device)
        if twin is None:
            return self._leave_out(job, stage, TOO_MANY)
        domain = Domain.enter(calibration, twin, job.channels, job.dead)
        judges = calibration.batches[-calibration.holdout :]
        before = divergence(calibration.twin, twin, judges)
        lockstep = Lockstep(calibration.twin, twin, job.channels, job.dead)
        lockstep.enter(calibration.batches)
        elements = MOST_ELEMENTS if calibration.rung == "data" else MOST_SYNTHETIC_ELEMENTS
        refitter = Refitter(lockstep, calibration.holdout, job.seed, elements)
        refitter.run(stage.at)
        after = divergence(calibration.twin, twin, judges)
        for node, reason in refitter.skipped:
            job.skip(node, reason)
        accepted = after < before
        if accepted:
            domain.leave()
            job.model = job.model.clone()
            twin.write_back(job.model)
        fitted = sum(result.ridge is not None for result in refitter.results)
        job.recovery.append(
            _entry("inherit", accepted, before, after, start, [f"{fitted} of {len(refitter.results)} layers refitted"])
        )
        return accepted


@dataclass(frozen=True)
class Recalibrate(Repair):
    """Re-estimate every BatchNormalization's mean and variance, where held-out samples say that it helps."""

    def run(self, job: Job, stage: Stage) -> bool:
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.divergence import divergence
        from darwinc.calibrators.recalibrate import reestimate

        calibration = calibration_of(job)
        if calibration.twin is None:
            stage.leave_out(calibration.missing)  # The calibration has warned that the data isn't used.
            return False
        if calibration.rung != "data":
            return self._leave_out(job, stage, "it takes calibration data; give --data")
        if len(calibration.batches) < 2:
            return self._leave_out(job, stage, TOO_FEW)
        start = time.perf_counter()
        twin = calibration.twin_of(job.model, job.device)
        if twin is None:
            return self._leave_out(job, stage, TOO_MANY)
        judges = calibration.batches[-calibration.holdout :]
        before = divergence(calibration.twin, twin, judges)
        changed = reestimate(twin, calibration.batches[: -calibration.holdout])
        if not changed:
            stage.leave_out("the model has no BatchNormalization with statistics of its own")
            return False
        stage.say("judging on held-out samples")
        after = divergence(calibration.twin, twin, judges)
        if after < before:
            job.model = job.model.clone()
            twin.write_back(job.model)
        job.recovery.append(
            _entry("recalibrate", after < before, before, after, start, [f"{changed} BatchNormalization nodes"])
        )
        return after < before


def _entry(name: str, accepted: bool, before: float, after: float, start: float, notes: list[str]) -> dict[str, Any]:
    """`error_*`: divergence from the original on held-out samples (calibrators.divergence)."""
    return {
        "name": name,
        "accepted": accepted,
        "error_before": before,
        "error_after": after,
        "seconds": time.perf_counter() - start,
        "notes": notes,
    }
