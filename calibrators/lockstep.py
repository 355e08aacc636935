"""Original and compressed network side by side, one node at a time over all samples.

Each node is run for every batch before the next node starts, so a weight can be refitted on the already compressed
prefix and the rest of the network sees the refitted values: one forward pass of each network in all. Memory holds what
is alive between two nodes, for all samples; `footprint` says how much that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from darwinc.channels import Channels, Mask
from darwinc.data import samples_in
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

Feed = Mapping[str, npt.NDArray[np.generic]]


@dataclass
class Lockstep:
    """The two networks' values at the frontier, batch by batch.

    Attributes:
        original, compressed: twins of the model and of its rewrite; the compressed one's weights may be changed between
            steps.
        before, after: environments, one per batch.
    """

    original: TorchGraph
    compressed: TorchGraph
    channels: Channels
    dead: Mask
    before: list[dict[str, torch.Tensor]] = field(default_factory=list)
    after: list[dict[str, torch.Tensor]] = field(default_factory=list)
    _living: dict[str, list[tuple[int, torch.Tensor]]] = field(default_factory=dict)

    def enter(self, batches: Sequence[Feed]) -> None:
        """Load the samples."""
        self.before = [self.original.enter(feed) for feed in batches]
        self.after = [self.compressed.enter(feed) for feed in batches]

    def steps(self) -> list[tuple[Step, Step]]:
        """The steps of both networks, paired by what they make."""
        pairs = {step.outputs[0]: step for step in self.compressed.steps}
        return [(step, pairs[step.outputs[0]]) for step in self.original.steps if step.outputs[0] in pairs]

    def run_original(self, step: Step) -> None:
        """Evaluate a step of the original for every batch."""
        for environment in self.before:
            environment.update(zip(step.outputs, self.original.run(step, environment), strict=False))

    def run_compressed(self, step: Step) -> None:
        """Evaluate a step of the compressed network for every batch."""
        for environment in self.after:
            environment.update(zip(step.outputs, self.compressed.run(step, environment), strict=False))

    def release(self, first: Step, second: Step) -> None:
        """Forget what nobody reads any more."""
        for environments, step in ((self.before, first), (self.after, second)):
            for environment in environments:
                for name in step.release:
                    environment.pop(name, None)

    def wanted(self, name: str, batch: int) -> torch.Tensor:
        """A value of the original, cut to the channels that live."""
        value = self.before[batch][name]
        if name not in self._living:
            self._living[name] = living_cuts(self.channels, self.dead, name, value.device)
        for axis, index in self._living[name]:
            value = value.index_select(axis, index)
        return value


def living_cuts(channels: Channels, dead: Mask, name: str, device: torch.device) -> list[tuple[int, torch.Tensor]]:
    """Axes of the original's value that lost channels, and the positions [K] that live."""
    tracked = channels.flow.values.get(name)
    cuts = []
    for axis, ids in enumerate(tracked.axes if tracked is not None else ()):
        if ids is None:
            continue
        living = channels.living(ids, dead)
        if not living.all():
            cuts.append((axis, torch.from_numpy(np.flatnonzero(living)).to(device)))
    return cuts


@dataclass(frozen=True)
class Footprint:
    """Bytes per sample: the most that is alive between two nodes, and all that is ever made (for a way back)."""

    frontier: int
    total: int


def footprint(twin: TorchGraph, feed: Feed) -> Footprint:
    """Found by running one batch."""
    environment = twin.enter(feed)
    samples = max(samples_in(feed), 1)
    most = total = 0
    with torch.no_grad():
        for step in twin.steps:
            made = twin.run(step, environment)
            environment.update(zip(step.outputs, made, strict=False))
            total += _bytes(made)
            most = max(most, _bytes(environment.values()))
            for name in step.release:
                environment.pop(name, None)
    return Footprint(most // samples, total // samples)


def _bytes(values: Iterable[torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)
