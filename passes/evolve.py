"""Generations of offspring: synthesised from their parents, raised, judged; the fittest survive."""

from __future__ import annotations

from dataclasses import dataclass

from darwinc.console import Stage
from darwinc.evolution_options import EVOLUTION, Evolution
from darwinc.passes.cull import COUNTED, Cull
from darwinc.pipeline import Job, Pass


@dataclass(frozen=True)
class Evolve(Cull):
    """Let generations of ever smaller networks evolve, and keep the fittest that meets the target.

    Attributes:
        evolution: how.
        recovery: what is done to each offspring after its cut: closed forms, and training.
        data, labels, preprocess: of the samples that workers open themselves.
        run_dir: the folder of the lineage; None for one that is deleted in the end.
        resume: go on with the run in that folder.
        threads: of ONNX Runtime, where a run is foreseen.
        foresees: is the latency of every network foreseen?
    """

    evolution: Evolution = EVOLUTION
    recovery: tuple[Pass, ...] = ()
    data: str = ""
    labels: str | None = None
    preprocess: str | None = None
    run_dir: str | None = None
    resume: bool = False
    threads: int = 1
    foresees: bool = True

    @property
    def name(self) -> str:
        return "evolve"

    def prepare(self, job: Job) -> None:
        if self.target in COUNTED:
            super().prepare(job)
        else:
            self.limits(job.channels)

    def run(self, job: Job, stage: Stage) -> bool:
        # torch takes seconds to import, which only a pass that measures should pay.
        from darwinc.evolution.run import evolve

        evolve(job, self, stage)
        return bool(job.dead.any())
