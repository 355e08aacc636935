"""The smallest model whose metric falls by no more than so many points, found by bisection over the path of deaths."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from darwinc import graph
from darwinc.console import Stage
from darwinc.cost import CostModel, count_parameters
from darwinc.data import Samples
from darwinc.errors import Unreachable, UsageError
from darwinc.fitness import Fitness
from darwinc.passes.cull import Cull
from darwinc.passes.excise import excise
from darwinc.pipeline import Job, Pass
from darwinc.quality import compare_quality
from darwinc.selection import Limits, Path, Selection, replay, trace
from darwinc.settings import RECOVERIES

PROBES = 7


def drop_of(original: bytes, model: bytes, validation: Samples) -> float:
    """By how many points a model's metric is worse than the original's, below zero where it's better.

    With labels that is their metric, else the agreement of both models; for outputs that are no classes the relative
    error, in per cent.

    Raises:
        InvalidData: labels that don't go with the first output.
    """
    quality, _ = compare_quality(original, model, validation, split="validation")
    fallen = quality["before"] - quality["after"]
    return 100 * float(fallen if quality.get("higher_is_better", True) else -fallen)


@dataclass(frozen=True)
class FitDrop(Cull):
    """Remove as many parameters as the metric allows: no more than `amount` points less on validation samples.

    Attributes:
        recover: the repairs that each cut gets before it's judged.
    """

    target: str = "max-drop"
    recover: tuple[str, ...] = ()

    def prepare(self, job: Job) -> None:
        self.limits(job.channels)

    def choose(self, job: Job, fitness: Fitness, stage: Stage) -> Selection:
        terms, limits = CostModel(job.channels).terms("sparsity"), self.limits(job.channels)
        path = trace(job.channels, terms, fitness.fork(), limits, stage.at)
        removed = _Search(self, job, path, limits, [RECOVERIES[name]() for name in self.recover]).run(stage)
        return replay(job.channels, terms, fitness, limits, path, removed)


@dataclass
class _Search:
    order: FitDrop
    job: Job
    path: Path
    limits: Limits
    recovery: Sequence[Pass]

    def run(self, stage: Stage) -> list[int]:
        """The units that each group loses at the largest cut that passed."""
        saved = self._saved()
        low, high, drop = 0, len(saved), 0.0
        for number in range(PROBES):
            if high - low < 2:
                break
            stage.say(f"probe {number + 1} of at most {PROBES}")
            wanted = 0.5 * (saved[low] + saved[min(high, len(saved) - 1)])
            probe = min(max(bisect_left(saved, wanted), low + 1), high - 1)
            drop = self._probe(probe, stage)
            if drop <= self.order.amount:
                low = probe
            else:
                high = probe
        if low == 0:
            tried = 100 * self.job.search[-1]["removed"]
            raise Unreachable(
                f"--max-drop {self.order.amount:g} can't be reached: the metric falls by {drop:.3g} points where "
                f"{tried:.2g} % of the parameters go, the smallest cut that was tried; allow more, or try another "
                "--recover."
            )
        return self.path.removed(low)

    def _saved(self) -> list[float]:
        """Parameters saved after each step of the path."""
        terms, saved = CostModel(self.job.channels).terms("sparsity"), [0.0]
        for step in self.path.steps:
            saved.append(saved[-1] + terms.saved(step.group, len(step.units)))
            terms.remove(step.group, len(step.units))
        return saved

    def _probe(self, steps: int, stage: Stage) -> float:
        """The drop, in points, after so many steps of the path and the repairs."""
        job = self.job
        if job.validation is None:
            raise UsageError("--max-drop takes samples on which the drop is measured; give --data.")
        trial = Job(job.original, job.channels, job.terminal, job.seed, job.device)
        trial.samples, trial.calibration = job.samples, job.calibration
        trial.dead = self.path.dead(job.channels.nobody(), self.path.removed(steps))
        trial.model, trial.excision = excise(job.original, job.channels, trial.dead)
        for step in self.recovery:
            step.run(trial, stage)
        job.calibration = trial.calibration
        drop = drop_of(graph.to_bytes(job.original), graph.to_bytes(trial.model), job.validation)
        removed = 1 - count_parameters(trial.model) / max(count_parameters(job.original), 1)
        job.search.append({"removed": removed, "achieved": drop, "passed": drop <= self.order.amount})
        return drop
