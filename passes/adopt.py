"""What survivors learnt while others died is handed over to the smaller model."""

from __future__ import annotations

from dataclasses import dataclass

from darwinc.console import Stage
from darwinc.pipeline import Job, Pass


@dataclass(frozen=True)
class Adopt(Pass):
    """Take the model that was trained while channels died, cut as the original was.

    Kept only where validation samples say that they do better than the original's own, cut alike. The winner of an
    evolution is always kept: what it was judged by are the weights that it has.
    """

    def run(self, job: Job, stage: Stage) -> bool:
        if job.grown is None:
            return False
        stage.say("handing over weights")
        accepted = bool(job.grown.entry["accepted"])
        if accepted:
            job.model = job.grown.model
        job.recovery.append(job.grown.entry)
        job.grown = None
        return accepted
