"""Widths that take a share less time here: chosen on a model of ONNX Runtime's time, measured, and chosen again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from darwinc import graph
from darwinc.benchmark import compare
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import CostModel, Price, count_parameters
from darwinc.data import fitting_batches
from darwinc.errors import DarwincError, Unreachable
from darwinc.fitness import Fitness
from darwinc.passes.cull import Cull
from darwinc.passes.excise import excise
from darwinc.pipeline import Job
from darwinc.report_schema import LatencyModel
from darwinc.runtime import Feed, inputs_of
from darwinc.selection import TOLERANCE, Limits, Path, Selection, allocate, furthest, replay, trace
from darwinc.selection.limits import quantum

MOST_ROUNDS = 5
ROUND_SECONDS = 2.0
LONGER = 3.0
"""A round is measured anew for so many times as long where its interval is wider than what is looked for."""
WITHIN = 0.03
"""Of the share that was asked for: so near to it the search ends."""
MISSED = 0.1
"""Of the share that was asked for: nearest rounds that are further off than this are told."""
PATIENCE = 2
"""Rounds in a row that come no nearer, after which it ends too."""
MARGINS = (TOLERANCE, 2 * TOLERANCE, 4 * TOLERANCE)
"""How far from the share that was asked for the prediction may lie, as a share of the whole; the first that is met."""
COARSER = (8, 16, 32)
"""Multiples that a model which came out slower is compared with."""


class TimeModel(Protocol):
    """What this machine takes for the model, as a function of the widths [groups] of its channel groups."""

    def preferred_multiples(self, channels: Channels, default: int = 1) -> Sequence[int]:
        """The multiple of channels that each group should keep; `default` where it doesn't matter."""

    def price(self) -> Price:
        """The time in milliseconds as a price, with everybody alive."""

    def predict(self, widths: Sequence[int]) -> float:
        """Milliseconds at these widths."""

    def corrected(self, widths: Sequence[int], measured_ms: float) -> TimeModel:
        """The same model, made to agree with what was measured at some widths."""

    def report(self, widths: Sequence[int]) -> LatencyModel:
        """The report's table of what is foreseen for these widths."""


def time_model(job: Job, cull: Cull, threads: int, stage: Stage) -> TimeModel:
    """The latency model of the job's original, measured once.

    Raises:
        InvalidModel: ONNX Runtime can't load, run or profile it.
    """
    if job.timing is None:
        # It draws in scipy's optimisers, which only a question of time should wait for.
        from darwinc import latency

        stage.say("measuring layers")
        asked = latency.Asked(
            threads=threads,
            seed=job.seed,
            eligible=cull.limits(job.channels).eligible,
            feed=feed_of(job),
            progress=stage.at,
        )
        job.timing = latency.LatencyModel.measure(job.original, job.channels, asked)
    return job.timing


def timely(cull: Cull, channels: Channels, timing: TimeModel) -> Limits:
    """The limits of a cull, with the multiples that this machine likes where no alignment was asked for."""
    limits = cull.limits(channels)
    return limits if cull.align else replace(limits, multiples=tuple(timing.preferred_multiples(channels)))


def judge_reach(job: Job, cull: Cull, timing: TimeModel) -> None:
    """Refuse a share of the time that no widths are predicted to save.

    Raises:
        Unreachable: says what can be reached.
    """
    price = timing.price()
    whole, most = price.current(), furthest(job.channels, price, timely(cull, job.channels, timing))
    if cull.amount * whole > most + TOLERANCE * whole:
        found = (
            f"fraction of latency removed can't reach {cull.amount:g}: "
            f"the reachable range, as predicted, is 0 to {most / max(whole, 1e-30):.3f}"
        )
        raise Unreachable(cull.beyond(found, job.channels))


@dataclass(frozen=True)
class FitTime(Cull):
    """Remove channels until ONNX Runtime takes a share less time here, at the least predicted loss.

    Attributes:
        threads: of ONNX Runtime.
        measured: rewrites are measured and the model of their time is corrected; else the prediction stands.
    """

    target: str = "latency"
    threads: int = 1
    measured: bool = True

    def prepare(self, job: Job) -> None:
        self.limits(job.channels)
        with job.terminal.stage("latency model") as stage:
            timing = time_model(job, self, self.threads, stage)
        judge_reach(job, self, timing)

    def choose(self, job: Job, fitness: Fitness, stage: Stage) -> Selection:
        timing = time_model(job, self, self.threads, stage)
        stage.say("choosing channels")
        work, limits = CostModel(job.channels).terms("macs"), timely(self, job.channels, timing)
        path = trace(job.channels, work, fitness.fork(), limits, stage.at)
        removed = _Search(self, job, path, limits, timing).run(stage)
        self._tell(job)
        return replay(job.channels, timing.price(), fitness, limits, path, removed)

    def _tell(self, job: Job) -> None:
        """Warn where no round came near enough."""
        if not job.search:
            return
        nearest = min((row["achieved"] for row in job.search), key=lambda share: abs(share - self.amount))
        if abs(nearest - self.amount) > MISSED * self.amount:
            job.warnings.append(
                f"{100 * self.amount:.3g} % of the latency was asked for, and after {len(job.search)} rounds "
                f"{100 * nearest:.3g} % was the nearest that was measured."
            )


@dataclass
class _Search:
    """Choose, measure, correct, until what is measured is what was asked for.

    `timing` is the model as corrected so far; `whole` milliseconds is what the original takes, whatever becomes of it.
    """

    order: FitTime
    job: Job
    path: Path
    limits: Limits
    timing: TimeModel
    whole: float = field(init=False)

    def __post_init__(self) -> None:
        self.whole = self.timing.predict(full(self.job.channels))

    def run(self, stage: Stage) -> list[int]:
        """The units that each group loses in the round that came nearest."""
        first = self._chosen()
        if first is None:
            raise Unreachable(
                f"No widths were found that are predicted to take {100 * self.order.amount:g} % less time; "
                "ask for less, or for another --align."
            )
        tried, distances, removed = [first], list[float](), first
        while self.order.measured:
            stage.say(f"measuring round {len(tried)}")
            distances.append(self._measure(removed))
            nearest = int(np.argmin(distances))
            if self.job.search[-1]["passed"] or len(tried) == MOST_ROUNDS or len(tried) - nearest > PATIENCE:
                return tried[nearest]
            chosen = self._chosen()
            if chosen is None or chosen in tried:
                return tried[nearest]
            removed = chosen
            tried.append(removed)
        return first

    def _chosen(self) -> list[int] | None:
        """The widths of least loss that are predicted to save what was asked, as nearly as there are any."""
        price, curves = self.timing.price(), self.path.curves()
        need = price.current() - (1 - self.order.amount) * self.whole
        starts = self._starts(need)
        for margin in MARGINS:
            window = (need - margin * self.whole, need + margin * self.whole)
            found = allocate(self.job.channels, price, curves, self.limits, window, starts)
            if found is not None:
                return found
        return None

    def _starts(self, need: float) -> list[list[int]]:
        """The greedy cut by MACs that is predicted to save enough."""
        price, saved = self.timing.price(), 0.0
        for number, step in enumerate(self.path.steps):
            if saved >= need:
                return [self.path.removed(number)]
            saved += price.saved(step.group, len(step.units))
            price.remove(step.group, len(step.units))
        return []

    def _measure(self, removed: Sequence[int]) -> float:
        """How far from what was asked the measured share lies; the model is corrected by it."""
        job, order = self.job, self.order
        rewrite, _ = excise(job.original, job.channels, self.path.dead(job.channels.nobody(), removed))
        widths = [len(group) - count for group, count in zip(job.channels.groups, removed, strict=True)]
        share = 1 - 1 / self._speedup(graph.to_bytes(rewrite))
        distance = abs(share - order.amount)
        job.search.append(
            {
                "removed": 1 - count_parameters(rewrite) / max(count_parameters(job.original), 1),
                "predicted": 1 - self.timing.predict(widths) / self.whole,
                "achieved": share,
                "passed": distance <= WITHIN * order.amount,
            }
        )
        self.timing = self.timing.corrected(widths, (1 - share) * self.whole)
        return distance

    def _speedup(self, rewrite: bytes) -> float:
        """The original's time over the rewrite's, measured side by side; longer where two seconds leave it open."""
        job, original, feed = self.job, graph.to_bytes(self.job.original), feed_of(self.job)
        found, low, high = 1.0, 0.0, np.inf
        for seconds in (ROUND_SECONDS, LONGER * ROUND_SECONDS):
            timing = compare(
                original,
                rewrite,
                threads=self.order.threads,
                seconds=seconds,
                seed=job.seed,
                feeds=None if feed is None else [feed],
            )
            found, (low, high) = timing.speedup or 1.0, timing.ci95 or (1.0, 1.0)
            if 1 / low - 1 / high <= WITHIN * self.order.amount:
                break
        return found


def full(channels: Channels) -> list[int]:
    """The widths of all groups as they came."""
    return [len(group) for group in channels.groups]


def feed_of(job: Job) -> Feed | None:
    """One sample to time on, where there are any."""
    if job.samples is None:
        return None
    return next(fitting_batches(job.samples, inputs_of(job.original), 1)).feed


def foreseen(job: Job) -> dict[str, Any] | None:
    """The report's `latency_model`: what was foreseen for the widths that were chosen, before any correction."""
    if job.timing is None:
        return None
    return job.timing.report(widths_of(job)).model_dump()


def widths_of(job: Job) -> list[int]:
    """The widths of all groups as they are now."""
    return [int(np.count_nonzero(~job.dead[group.units])) for group in job.channels.groups]


def better_widths(job: Job, cull: Cull, threads: int, stage: Stage) -> str:
    """What would be faster than the widths that were chosen, as predicted here: coarser multiples, and how far down."""
    try:
        timing = time_model(job, cull, threads, stage)
    except DarwincError as error:
        return f"what would be faster can't be predicted ({error})"
    widths = widths_of(job)
    whole, present = timing.predict(full(job.channels)), timing.predict(widths)
    found = []
    for align in COARSER:
        rounded = [
            min(len(group), -(-width // quantum(group, align)) * quantum(group, align))
            for group, width in zip(job.channels.groups, widths, strict=True)
        ]
        found.append((timing.predict(rounded), align))
    time, align = min(found)
    limits = replace(cull.limits(job.channels), multiples=tuple(timing.preferred_multiples(job.channels)))
    price = timing.price()
    most = furthest(job.channels, price, limits) / price.current()
    text = f"predicted is {present / whole:.2f} of the input's time"
    if time < present:
        text += f", and {time / whole:.2f} with the widths rounded up to multiples of {align} (--align {align})"
    return f"{text}; --target-latency reaches up to {most:.2f}"
