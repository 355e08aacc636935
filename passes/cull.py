"""Decide which channels die: the least fit for what they cost, until the target holds."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.channels import Channels, barriers
from darwinc.console import Stage
from darwinc.cost import CostModel, Terms, count_parameters
from darwinc.errors import Unreachable, UsageError
from darwinc.fitness import DarwinianScore, Fitness, StaticScore
from darwinc.matching import matched
from darwinc.pipeline import Job, Pass
from darwinc.plain_words import PlainWords
from darwinc.scores import magnitudes, random_scores, taylor_scores, unit_scores
from darwinc.selection import TOLERANCE, Limits, reachable, select

FITNESS = {
    "darwin": "1/2 AGC x NDE, refreshed after each death (Optimal Brain Surgeon on the readers of a channel)",
    "taylor": "first-order Taylor, E|sum of z g| (Molchanov et al., 2017)",
    "l1": "sum of absolute weights of the filters that make a channel (Li et al., 2017)",
    "l2": "sum of squared weights of the filters that make a channel",
    "random": "by chance, for comparison",
}
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
        for group in job.channels.groups:
            if group.id in selection.finer:
                finer = selection.finer[group.id]
                job.skip(group.id, f"kept a multiple of {finer} channels: {why_finer(limits.align)}")
        job.selection, job.dead = selection, selection.dead
        return bool(selection.dead.any())


def why_finer(align: int) -> str:
    """Why alignment yielded in a group: what the multiples allow stays behind the target, or goes far beyond it."""
    return f"multiples of {align} don't come close enough to the target"


def make_fitness(name: str, job: Job, stage: Stage) -> Fitness:
    """The criterion by name; those that need statistics gather them.

    Units of the job's channels come to stand for positions of the same rank in every head or group (`matching`), unless
    chance decides.

    Raises:
        UsageError: no such criterion, or one that needs gradients where there can't be any.
    """
    groups = [group.units for group in job.channels.groups]
    if name == "random":
        return StaticScore(random_scores(groups, job.seed), groups)
    if name in ("l1", "l2"):
        found = magnitudes(job.channels, 1 if name == "l1" else 2)
        job.channels = matched(job.channels, found)
        return StaticScore(unit_scores(job.channels, found), groups)
    if name not in FITNESS:
        raise UsageError(f"There is no fitness {name!r}; choose one of {', '.join(FITNESS)}.")
    # torch takes seconds to import, which only a fitness that measures should pay.
    from darwinc.calibrators.calibration import calibration_of, statistics_of

    statistics = statistics_of(job, stage)
    if name == "darwin":
        parts = [part for parts in statistics.readers.values() for part in parts]
        statistics.readers.clear()
        score = DarwinianScore(parts)
        job.channels = matched(job.channels, score.losses_of_components(job.channels.count))
        score.assign(job.channels.owners)
        return score
    if statistics.rung == "weights":
        raise UsageError(
            f"The taylor fitness needs gradients, but {calibration_of(job).missing}; use darwin, l1 or l2."
        )
    readers = statistics.readers.values()
    alone = taylor_scores(readers, np.arange(job.channels.count)[:, None])
    job.channels = matched(job.channels, np.array([alone.get(unit, 0.0) for unit in range(job.channels.count)]))
    return StaticScore(taylor_scores(readers, job.channels.owners), groups)


def eligible(channels: Channels, protect: Iterable[str], only: Iterable[str]) -> list[bool]:
    """Which groups may lose channels, by patterns of group ids, tensor names and names of the nodes that read them.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    if not tuple(protect) and not tuple(only):
        return [True] * len(channels.groups)
    names = _names(channels)
    protected = _matching(names, tuple(protect), "--protect")
    wanted = _matching(names, tuple(only), "--only") if tuple(only) else [True] * len(names)
    return [may and not must_not for may, must_not in zip(wanted, protected, strict=True)]


def _names(channels: Channels) -> list[set[str]]:
    """What each group answers to: its id, its tensors and the nodes that read them."""
    readers: dict[str, set[str]] = {}
    for use in channels.flow.uses:
        readers.setdefault(str(use.value.name), set()).add(graph.label(use.node))
    found = []
    for group in channels.groups:
        tensors = {member.tensor for member in group.members}
        found.append({group.id} | tensors | {node for tensor in tensors for node in readers.get(tensor, ())})
    return found


def _matching(names: list[set[str]], patterns: tuple[str, ...], option: str) -> list[bool]:
    matched = [False] * len(names)
    for pattern in patterns:
        hits = [any(fnmatch.fnmatchcase(name, pattern) for name in group) for group in names]
        if not any(hits):
            raise UsageError(
                f"{option} {pattern!r} matches no group, tensor or node with channels; `darwinc inspect` lists them."
            )
        matched = [old or new for old, new in zip(matched, hits, strict=True)]
    return matched


def what_holds(channels: Channels) -> str:
    """The barriers in half a sentence, in the words of `darwinc inspect`."""
    reasons: dict[str, list[str]] = {}
    words = PlainWords(channels)
    for barrier in barriers(channels):
        reasons.setdefault(words.why(barrier.node, barrier.reason), []).append(
            f"{barrier.node.op_type} {graph.label(barrier.node)!r}" if barrier.node is not None else "the graph"
        )
    bodies = [node for node in channels.nodes if graph.subgraphs(node)]
    if not reasons and bodies:
        name = f"{bodies[0].op_type} {graph.label(bodies[0])!r}"
        return f"its weights sit in the subgraphs of {name}, which are left as they are"
    if not reasons:
        return "it has no convolution or matrix product with channels of its own"
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))[:3]
    return "channels are held by " + ", ".join(
        f"{nodes[0]} ({reason}{f', and {len(nodes) - 1} more' if len(nodes) > 1 else ''})" for reason, nodes in ranked
    )
