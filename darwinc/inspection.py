"""What `darwinc inspect` tells of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darwinc import graph
from darwinc.channels import Channels, analyse
from darwinc.cost import Cost, CostModel, measure
from darwinc.outcome import barrier_rows
from darwinc.passes.cull import AUTO_ALIGN
from darwinc.runtime import open_session
from darwinc.selection import Limits, quantum, reachable

MAX_SHARE = 0.9


@dataclass(frozen=True)
class GroupFacts:
    """One group: its channels, the tensors it sits in, and what one channel costs where nothing else is removed."""

    id: str
    channels: int
    multiple: int
    depthwise: bool
    parameters_per_channel: int
    macs_per_channel: int
    tensors: Sequence[str]

    @property
    def remark(self) -> str:
        """In a few words."""
        kind = "depthwise, " if self.depthwise else ""
        cost = f"{self.parameters_per_channel:,} parameters, {self.macs_per_channel:,} MACs"
        return f"{kind}multiple of {self.multiple}; a channel costs {cost}"


@dataclass(frozen=True)
class Inspection:
    """The whole answer. `reachable_*` are the fractions that could be removed with at most 90 % of a group."""

    path: str
    opset: int
    nodes: int
    cost: Cost
    reachable_sparsity: float
    reachable_macs: float
    groups: Sequence[GroupFacts]
    barriers: Sequence[dict[str, str]]

    def headline(self) -> str:
        """Two lines that answer most questions."""
        return (
            f"{self.path}: opset {self.opset}, {self.nodes} nodes, {self.cost.parameters:,} parameters, "
            f"{self.cost.macs:,} MACs\n"
            f"{self.cost.channels:,} channels in {len(self.groups)} groups can be removed: up to "
            f"{self.reachable_sparsity:.0%} of the parameters and {self.reachable_macs:.0%} of the MACs"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"schema": "darwinc.inspect/1", **asdict(self)}


def inspect_model(path: Path) -> Inspection:
    """Analyse a file.

    Raises:
        InvalidModel: it can't be read, or isn't valid for ONNX or for ONNX Runtime.
    """
    model = graph.load_model(path)
    open_session(path, optimization="disabled")
    graph.release_initializer_inputs(model)
    channels = analyse(model)
    cost, costs = measure(model, channels), CostModel(channels)
    limits = Limits(AUTO_ALIGN, MAX_SHARE, [True] * len(channels.groups))
    return Inspection(
        str(path),
        graph.opset(model),
        len(channels.nodes),
        cost,
        reachable(channels, costs.terms("sparsity"), limits) / max(cost.parameters, 1),
        reachable(channels, costs.terms("macs"), limits) / max(cost.macs, 1),
        _facts(channels, costs),
        barrier_rows(channels),
    )


def _facts(channels: Channels, costs: CostModel) -> list[GroupFacts]:
    parameters, macs = costs.terms("sparsity"), costs.terms("macs")
    return [
        GroupFacts(
            group.id,
            len(group),
            quantum(group, AUTO_ALIGN),
            group.depthwise,
            parameters.saved(index, 1),
            macs.saved(index, 1),
            [member.tensor for member in group.members],
        )
        for index, group in enumerate(channels.groups)
    ]
