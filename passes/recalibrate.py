"""Layers get the means and variances back that they had before channels died, where that helps."""

from __future__ import annotations

import time
from dataclasses import dataclass

from darwinc.console import Stage
from darwinc.passes.repair import TOO_FEW, TOO_MANY, Repair, entry
from darwinc.pipeline import Job


@dataclass(frozen=True)
class Recalibrate(Repair):
    """Give every layer the original's mean and variance back, where held-out samples say that it helps.

    BatchNormalization nodes are re-estimated; layers without one are rescaled and shifted per output channel.
    """

    def run(self, job: Job, stage: Stage) -> bool:
        from darwinc.calibrators.calibration import calibration_of
        from darwinc.calibrators.divergence import divergence
        from darwinc.calibrators.lockstep import Lockstep
        from darwinc.calibrators.recalibrate import Recalibrator

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
        lockstep = Lockstep(calibration.twin, twin, job.channels, job.dead)
        lockstep.enter(calibration.batches[: -calibration.holdout])
        recalibrator = Recalibrator(lockstep)
        recalibrator.run(stage.at)
        if not recalibrator.norms and not recalibrator.layers:
            stage.leave_out("no layer's mean or variance has changed")
            return False
        stage.say("judging on held-out samples")
        after = divergence(calibration.twin, twin, judges)
        if after < before:
            job.model = job.model.clone()
            twin.write_back(job.model)
        notes = [f"{recalibrator.norms} BatchNormalization nodes", f"{recalibrator.layers} layers without one"]
        job.recovery.append(entry("recalibrate", after < before, before, after, start, notes))
        return after < before
