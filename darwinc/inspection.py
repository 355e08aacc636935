"""What `darwinc inspect` tells of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import is_fixed
from darwinc.channels import Channels, analyse, barriers
from darwinc.cost import Cost, CostModel, Terms, measure
from darwinc.eligibility import eligible, what_holds
from darwinc.holdings import Holdings, Kind, holdings
from darwinc.passes.cull import AUTO_ALIGN
from darwinc.plain_words import PlainWords
from darwinc.runtime import open_session
from darwinc.selection import Limits, quantum, reachable

MAX_SHARE = 0.9
BY_NATURE = "numbers and kernels on no axis of channels"
IN_BODIES = "read only inside the bodies of If, Loop or Scan, or by nothing"
UNREAD = "read only where an operator keeps its parameters whole, or by nothing"


@dataclass(frozen=True)
class NodeName:
    """A node by its name (its first output where it has none) and its operator."""

    node: str
    op_type: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op_type})"


@dataclass(frozen=True)
class GroupFacts:
    """One group: its channels, the nodes and tensors it sits in, what one channel costs where nothing else is removed.

    `parameters` and `macs` are what all its channels cost together, `*_share` the same as fractions of the model.
    """

    id: str
    channels: int
    multiple: int
    depthwise: bool
    may_lose: bool
    parameters_per_channel: int
    macs_per_channel: int
    parameters: int
    macs: int
    parameters_share: float
    macs_share: float
    nodes: Sequence[NodeName]
    tensors: Sequence[str]


@dataclass(frozen=True)
class BarrierFacts:
    """One node that keeps positions of a stored constant, and why.

    `parameters` can't go because of it (others may hold the same ones), `parameters_alone` could go if it gave way.
    """

    node: str
    op_type: str
    reason: str
    why: str
    parameters: int
    parameters_alone: int


@dataclass(frozen=True)
class Holder:
    """Everything that keeps parameters for one reason and with one operator; a parameter counts once.

    `op_type` is empty where no node is to blame; `example` is one of `nodes` nodes.
    """

    op_type: str
    why: str
    nodes: int
    example: str
    parameters: int
    parameters_alone: int


@dataclass(frozen=True)
class Inspection:
    """The whole answer. Fractions are of the model's parameters or MACs.

    Attributes:
        reachable_sparsity, reachable_macs: what `compress` could remove, with at most 90 % of a group.
        prunable_sparsity: removable if every group kept one channel only.
        prunable_share: parameters that lie on a channel that can be removed; the others are `held_parameters`.
        held: who holds those, by operator and reason, the most first; their sum counts some twice.
        nothing: why there is no group, where there is none.
    """

    path: str
    opset: int
    nodes: int
    cost: Cost
    reachable_sparsity: float
    reachable_macs: float
    prunable_sparsity: float
    prunable_share: float
    held_parameters: int
    groups: Sequence[GroupFacts]
    held: Sequence[Holder]
    barriers: Sequence[BarrierFacts]
    nothing: str | None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"schema": "darwinc.inspect/1", **asdict(self)}


def inspect_model(path: Path, protect: Sequence[str] = (), only: Sequence[str] = ()) -> Inspection:
    """Analyse a file; groups that `protect` matches, or that `only` doesn't, count as ones that stay whole.

    Raises:
        InvalidModel: it can't be read, or isn't valid for ONNX or for ONNX Runtime.
        UsageError: a pattern that matches nothing.
    """
    model = graph.load_model(path)
    open_session(model, optimization="disabled", label=str(path))
    graph.release_initializer_inputs(model)
    channels = analyse(model)
    may_lose = eligible(channels, protect, only) if protect or only else [True] * len(channels.groups)
    cost, costs = measure(model, channels), CostModel(channels)
    parameters, macs = costs.terms("sparsity"), costs.terms("macs")
    usual, utmost = Limits(AUTO_ALIGN, MAX_SHARE, may_lose), Limits(1, 1.0, may_lose)
    words = PlainWords(channels)
    found, unseen = holdings(channels, may_lose, words), cost.parameters - parameters.current()
    held = found.parameters + unseen
    return Inspection(
        str(path),
        graph.opset(model),
        len(channels.nodes),
        cost,
        reachable(channels, parameters, usual) / max(cost.parameters, 1),
        reachable(channels, macs, usual) / max(cost.macs, 1),
        reachable(channels, parameters, utmost) / max(cost.parameters, 1),
        1 - held / max(cost.parameters, 1),
        held,
        _groups(channels, cost, parameters, macs, may_lose),
        _holders(channels, found, words, unseen),
        _barriers(channels, found, words),
        None if channels.groups else what_holds(channels),
    )


def _groups(
    channels: Channels, cost: Cost, parameters: Terms, macs: Terms, may_lose: Sequence[bool]
) -> list[GroupFacts]:
    facts = []
    for index, (group, nodes) in enumerate(zip(channels.groups, _contents(channels), strict=True)):
        all_parameters, all_macs = parameters.saved(index, len(group)), macs.saved(index, len(group))
        facts.append(
            GroupFacts(
                id=group.id,
                channels=len(group),
                multiple=quantum(group, AUTO_ALIGN),
                depthwise=group.depthwise,
                may_lose=may_lose[index],
                parameters_per_channel=parameters.saved(index, 1),
                macs_per_channel=macs.saved(index, 1),
                parameters=all_parameters,
                macs=all_macs,
                parameters_share=all_parameters / max(cost.parameters, 1),
                macs_share=all_macs / max(cost.macs, 1),
                nodes=[NodeName(graph.label(node), node.op_type) for node in nodes],
                tensors=[member.tensor for member in group.members],
            )
        )
    return facts


def _contents(channels: Channels) -> list[list[ir.Node]]:
    """Per group, the nodes that read a constant on its channels, in the order of the graph."""
    group_of = np.full(channels.count, -1, np.int64)
    for number, group in enumerate(channels.groups):
        group_of[group.units] = number
    found: list[dict[ir.Node, None]] = [{} for _ in channels.groups]
    for use in channels.flow.uses:
        for ids in use.axes:
            if is_fixed(ids):
                continue
            for number in np.unique(group_of[channels.owners[channels.component[ids]]]).tolist():
                if number >= 0:
                    found[number][use.node] = None
    return [list(nodes) for nodes in found]


def _holders(channels: Channels, found: Holdings, words: PlainWords, unseen: int) -> list[Holder]:
    nodes: dict[Kind, dict[ir.Node, None]] = {}
    for (node, reason), count in found.by_barrier.items():
        if node is not None and count.parameters:
            nodes.setdefault((node.op_type, words.why(node, reason)), {})[node] = None
    rows = []
    for (op_type, why), count in found.by_kind.items():
        examples = list(nodes.get((op_type, why), ()))
        rows.append(
            Holder(
                op_type,
                why,
                len(examples),
                graph.label(examples[0]) if examples else "",
                count.parameters,
                count.alone,
            )
        )
    elsewhere = IN_BODIES if any(graph.subgraphs(node) for node in channels.nodes) else UNREAD
    rows += [Holder("", why, 0, "", count, count) for why, count in ((BY_NATURE, found.by_nature), (elsewhere, unseen))]
    return sorted((row for row in rows if row.parameters), key=_most)


def _barriers(channels: Channels, found: Holdings, words: PlainWords) -> list[BarrierFacts]:
    """Those that keep anything stored, also where the other axis of the constant can lose positions."""
    rows = []
    for barrier in barriers(channels):
        count, node = found.by_barrier[barrier.node, barrier.reason], barrier.node
        name, op_type = ("", "") if node is None else (graph.label(node), node.op_type)
        why = words.why(node, barrier.reason)
        rows.append(BarrierFacts(name, op_type, barrier.reason, why, count.parameters, count.alone))
    return sorted(rows, key=_most)


def _most(row: Holder | BarrierFacts) -> tuple[int, int]:
    return -row.parameters, -row.parameters_alone
