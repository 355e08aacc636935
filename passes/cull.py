"""Decide which channels die: the least fit for what they cost, until the target holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.calibrators.criteria import make_fitness
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import CostModel, Terms, count_parameters
from darwinc.eligibility import eligible, what_holds
from darwinc.errors import Unreachable
from darwinc.fitness import Fitness
from darwinc.pipeline import Job, Pass
from darwinc.scoring import SCORING, Scoring
from darwinc.selection import TOLERANCE, Limits, Selection, reachable, select

COUNTED = {"sparsity": "fraction of parameters", "macs": "fraction of MACs", "bytes": "bytes of the file"}
"""The targets that can be counted on the graph alone, in words."""
AUTO_ALIGN = 8
WHY_FINER = "coarser multiples don't come close enough to the target"
"""Why alignment yielded in a group: what the multiples allow stays behind the target, or goes far beyond it."""
PROVENANCE_BYTES = 512
"""What `metadata_props` may gain (`outcome.stamp`), generously."""


@dataclass(frozen=True)
class Cull(Pass):
    """Remove the channels of lowest fitness until the target holds.

    Attributes:
        target: what is asked: `sparsity`, `macs` (fractions removed) or `bytes` (size of the file at most); others
            are for the searches of `darwinc.searching`.
        amount: how much of it.
        fitness: one of `darwinc.scoring.FITNESS`, or package.module:callable.
        align: channels that stay in a group are a multiple of this where its width allows; 0 takes `multiples`.
        max_share: the largest share of one group that may go.
        protect: patterns of nodes, tensors or groups that must stay whole.
        only: patterns of nodes, tensors or groups that may lose channels; all when empty.
        scoring: options of the `darwin` fitness.
        multiples: the multiple of each group, as this machine likes it; 8 for all where it wasn't measured.
        scoring: options of the Darwinian Score.
    """

    target: str = "sparsity"
    amount: float = 0.5
    fitness: str = "darwin"
    align: int = 0
    max_share: float = 0.9
    protect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    scoring: Scoring = SCORING
    multiples: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Whatever the target."""
        return "cull"

    def prepare(self, job: Job) -> None:
        """Refuse what can't be reached, before any work.

        Raises:
            Unreachable: no channel can go, or not enough of them; says what can be reached and what holds the rest.
            UsageError: a pattern that matches nothing.
        """
        self.plan(job.original, job.channels)

    def plan(self, model: ir.Model, channels: Channels) -> tuple[Terms, int, Limits]:
        """The terms to save on, how much to save, and the limits; raises what `prepare` does."""
        # A size is a limit, a share is met to within a little.
        limit = self.target == "bytes"
        limits = self.limits(channels, strict=limit)
        terms = CostModel(channels).terms(self.target)
        total = terms.current() if self.target == "macs" else count_parameters(model)
        need, most = self._need(model, total), reachable(channels, terms, limits)
        if need <= 0:
            raise Unreachable(f"The file has no more than {self.amount:.0f} bytes as it is; nothing has to go.")
        if need > most + (0 if limit else TOLERANCE * terms.current()):
            raise Unreachable(self._out_of_reach(model, channels, total, most))
        return terms, min(need, most), limits

    def limits(self, channels: Channels, *, strict: bool = False) -> Limits:
        """What selection may do; refuses where no channel may go at all."""
        align = self.align or AUTO_ALIGN
        multiples = self.multiples if self.multiples and not self.align else None
        limits = Limits(align, self.max_share, eligible(channels, self.protect, self.only), strict, multiples)
        if not any(limits.eligible):
            if channels.groups:
                raise Unreachable("No channel can be removed: --protect and --only leave no group that may lose any.")
            raise Unreachable(f"No channel can be removed from this model: {what_holds(channels)}.")
        return limits

    def beyond(self, found: str, channels: Channels) -> str:
        """The message for a target that is out of reach, of what was found."""
        return f"{found}, with at most {100 * self.max_share:g} % of a group removed; {what_holds(channels)}."

    def _need(self, model: ir.Model, total: int) -> int:
        if self.target != "bytes":
            return int(np.ceil(self.amount * total))
        return int(np.ceil(8 * (graph.file_bytes(model) + PROVENANCE_BYTES - self.amount)))

    def _out_of_reach(self, model: ir.Model, channels: Channels, total: int, most: int) -> str:
        if self.target == "bytes":
            least = graph.file_bytes(model) + PROVENANCE_BYTES - most / 8
            found = f"{self.amount:.0f} bytes can't be reached: at least about {least:.0f} bytes stay"
        else:
            range_ = f"the reachable range is 0 to {most / max(total, 1):.3f}"
            found = f"{COUNTED[self.target]} removed can't reach {self.amount:g}: {range_}"
        return self.beyond(found, channels)

    def choose(self, job: Job, fitness: Fitness, stage: Stage) -> Selection:
        """Who dies; the job's channels may be other ones than at `prepare` (`matching`)."""
        terms, need, limits = self.plan(job.original, job.channels)
        return select(job.channels, terms, fitness, need, limits, stage.at)

    def _worth(self, channels: Channels) -> list[float]:
        """What the first death saves in each group [groups], of what the target counts or comes nearest to."""
        terms = CostModel(channels).terms({"latency": "macs"}.get(self.target, self.target))
        return [max(terms.saved(number, 1), 0) for number in range(len(channels.groups))]

    def run(self, job: Job, stage: Stage) -> bool:
        fitness = make_fitness(self.fitness, job, stage, self.scoring, worth=self._worth(job.channels))
        stage.say("choosing channels")
        selection = self.choose(job, fitness, stage)
        job.selection, job.dead = selection, selection.dead
        tell_of_finer(job)
        return bool(selection.dead.any())


def tell_of_finer(job: Job) -> None:
    """Name the groups in which alignment had to yield."""
    if job.selection is None:
        return
    for group, multiple in job.selection.finer.items():
        job.skip(group, f"kept a multiple of {multiple} channels: {WHY_FINER}")
