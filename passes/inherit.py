"""Survivors inherit what the dead channels did, in closed form."""

from __future__ import annotations

import time
from dataclasses import dataclass

from darwinc.console import Stage
from darwinc.passes.repair import TOO_FEW, TOO_MANY, Repair, entry
from darwinc.pipeline import Job


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
        from darwinc.calibrators.held import silence
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
        silence(twin.weights(), job.silent)
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
            entry("inherit", accepted, before, after, start, [f"{fitted} of {len(refitter.results)} layers refitted"])
        )
        return accepted
