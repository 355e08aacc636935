"""What the passes share that move weights: they are kept only where the answers come closer to the original's."""

from __future__ import annotations

import time
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


def entry(name: str, accepted: bool, before: float, after: float, start: float, notes: list[str]) -> dict[str, Any]:
    """What the report says of a repair that began at `start` (`time.perf_counter`).

    `error_*`: divergence from the original on held-out samples (calibrators.divergence).
    """
    return {
        "name": name,
        "accepted": accepted,
        "error_before": before,
        "error_after": after,
        "seconds": time.perf_counter() - start,
        "notes": notes,
    }
