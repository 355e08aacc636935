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
from darwinc.pipeline import Job, Pass
from darwinc.selection import TOLERANCE, Limits, reachable, select

TARGETS = {"sparsity": "fraction of parameters", "macs": "fraction of MACs", "bytes": "bytes of the file"}
AUTO_ALIGN = 8
PROVENANCE_BYTES = 512
"""What `metadata_props` may gain (`outcome.stamp`), generously."""


@dataclass(frozen=True)
class Cull(Pass):
    """Remove the channels of lowest fitness until the target holds.

    Attributes:
        target: what is asked: `sparsity`, `macs` (fractions removed) or `bytes` (size of the file at most).
        amount: how much of it.
        fitness: darwin, taylor, l1, l2 or random.
        align: channels that stay in a group are a multiple of this where its width allows; 0 chooses (8).
        max_share: the largest share of one group that may go.
        protect: patterns of nodes, tensors or groups that must stay whole.
        only: patterns of nodes, tensors or groups that may lose channels; all when empty.
    """

    target: str = "sparsity"
    amount: float = 0.5
    fitness: str = "darwin"
    align: int = 0
    max_share: float = 0.9
    protect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def plan(self, model: ir.Model, channels: Channels) -> tuple[Terms, int, Limits]:
        """The terms to save on, how much to save, and the limits; refuses what can't be reached, before any work.

        Raises:
            Unreachable: no channel can go, or not enough of them; says what can be reached and what holds the rest.
        """
        # A size is a limit, a share is met to within a little.
        limit = self.target == "bytes"
        limits = Limits(self.align or AUTO_ALIGN, self.max_share, eligible(channels, self.protect, self.only), limit)
        terms = CostModel(channels).terms(self.target)
        if not any(limits.eligible):
            if channels.groups:
                raise Unreachable("No channel can be removed: --protect and --only leave no group that may lose any.")
            raise Unreachable(f"No channel can be removed from this model: {what_holds(channels)}.")
        total = terms.current() if self.target == "macs" else count_parameters(model)
        need, most = self._need(model, total), reachable(channels, terms, limits)
        if need <= 0:
            raise Unreachable(f"The file has no more than {self.amount:.0f} bytes as it is; nothing has to go.")
        if need > most + (0 if limit else TOLERANCE * terms.current()):
            raise Unreachable(self._out_of_reach(model, channels, total, most))
        return terms, min(need, most), limits

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
            found = f"{TARGETS[self.target]} removed can't reach {self.amount:g}: {range_}"
        return f"{found}, with at most {100 * self.max_share:g} % of a group removed; {what_holds(channels)}."

    def run(self, job: Job, stage: Stage) -> bool:
        terms, need, limits = self.plan(job.original, job.channels)
        fitness = make_fitness(self.fitness, job, stage)
        stage.say("choosing channels")
        selection = select(job.channels, terms, fitness, need, limits, stage.at)
        job.selection, job.dead = selection, selection.dead
        tell_of_finer(job, limits)
        return bool(selection.dead.any())


def tell_of_finer(job: Job, limits: Limits) -> None:
    """Name the groups in which alignment had to yield."""
    finer = {} if job.selection is None else job.selection.finer
    for group, multiple in finer.items():
        job.skip(group, f"kept a multiple of {multiple} channels: {why_finer(limits.align)}")


def why_finer(align: int) -> str:
    """Why alignment yielded in a group: what the multiples allow stays behind the target, or goes far beyond it."""
    return f"multiples of {align} don't come close enough to the target"
