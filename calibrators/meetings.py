"""Where two computed tensors meet in a sum (queries and keys): what each position of the summed axis contributes.

There is no weight to read, and nothing to refit. A removed position d takes t_d = sum of x_d times the gradient at x_d
out of the outcome, summed over everything but the sample; so its loss is 1/2 E[t_d^2] to second order (Molchanov et
al., 2017, squared as a Fisher estimate).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from darwinc.axis_record import Contraction, Ids
from darwinc.channels import Channels
from darwinc.fitness.statistics import ReaderStatistics
from darwinc.matching import Blocks, find_blocks
from darwinc.torch_graph import TorchGraph


@dataclass
class Meeting:
    """One contraction under observation.

    Attributes:
        operand: the input that is looked at.
        axis: its axis that is summed over.
        components: of the summed positions [R, P], for each block where there are blocks.
        rows: the axis of blocks (heads), each of which may lose other positions; None where there is none.
        blind: the units of the blocks, about which it says nothing.
    """

    operand: int
    axis: int
    components: Ids
    rows: int | None = None
    blind: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    x: torch.Tensor | None = None
    squares: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor) -> None:
        """A batch's gradient at the operand that was kept."""
        if self.x is None:
            return
        product = self.x.detach() * gradient
        if self.rows is None:
            product = product.movedim(self.axis, -1).unsqueeze(-2)
        else:
            product = product.movedim((self.rows, self.axis), (-2, -1))
        samples = product.shape[0] if product.ndim > 2 and self.rows != 0 else 1
        by_sample = product.reshape(samples, -1, *product.shape[-2:]).sum(1).double()
        squares, sizes = by_sample.square().sum(0), by_sample.abs().sum(0)
        self.squares = squares if self.squares is None else self.squares + squares
        self.sizes = sizes if self.sizes is None else self.sizes + sizes
        self.x = None

    def maps(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, Ids]]:
        """A batch of the operand as feature maps [N, places, P], block by block, and the positions' components [P]."""
        last = (
            x.movedim(self.axis, -1).unsqueeze(0) if self.rows is None else x.movedim((self.rows, self.axis), (0, -1))
        )
        for block, own in zip(last, self.components, strict=True):
            samples = block.shape[0] if block.ndim > 1 and self.rows != 0 else 1
            yield block.reshape(samples, -1, block.shape[-1]), own

    def conclude(self, samples: int) -> list[ReaderStatistics]:
        """As the statistics of a reader whose inputs don't know of each other, block by block."""
        if self.squares is None or self.sizes is None:
            return [alike(own, self.components.size, self.blind) for own in self.components]
        squares, sizes = ((found / samples).cpu().numpy() for found in (self.squares, self.sizes))
        return [
            ReaderStatistics(own, np.eye(len(own)), np.diag(square), own, size, self.blind, fisher=square / 2)
            for own, square, size in zip(self.components, squares, sizes, strict=True)
        ]


def alike(components: Ids, count: int, blind: Ids) -> ReaderStatistics:
    """Where nothing was measured all positions are alike; `count` of them together count like any other reader."""
    weights = np.eye(len(components))
    return ReaderStatistics(components, weights, weights / max(count, 1), components, None, blind)


def find_meetings(twin: TorchGraph, channels: Channels) -> dict[str, Meeting]:
    """The contractions over positions that could be removed, by the name of their output."""
    made = {step.outputs[0] for step in twin.steps}
    blocks = find_blocks(channels)
    met = {str(meeting.node.outputs[0].name): meeting for meeting in prunable(channels)}
    return {name: _meeting(meeting, channels, blocks) for name, meeting in met.items() if name in made}


def prunable(channels: Channels) -> Iterable[Contraction]:
    """The contractions over positions that could be removed."""
    return (meeting for meeting in channels.flow.contractions if channels.component[meeting.ids].any())


def _meeting(found: Contraction, channels: Channels, blocks: Sequence[Blocks]) -> Meeting:
    """With the blocks that the summed positions belong to, where they are on an axis of their own."""
    summed = channels.component[found.ids]
    own = [each for each in blocks if np.isin(summed, each.units).any()]
    operand, axis = found.left
    value = found.node.inputs[operand]
    tracked = channels.flow.values.get(str(value.name)) if value is not None else None
    for place, ids in enumerate(tracked.axes if own and tracked is not None else ()):
        present = None if ids is None else channels.component[ids]
        if place == axis or present is None or not np.isin(own[0].rows, present).all():
            continue
        components = np.tile(summed, (len(present), 1))
        for each in own:
            if np.array_equal(each.rows, own[0].rows):
                components = _cells(each, present, components)
        return Meeting(operand, axis, components, place, own[0].rows)
    return Meeting(operand, axis, summed[None])


def _cells(blocks: Blocks, present: Ids, components: Ids) -> Ids:
    """`components` [R, P], with cells where the row's unit, `present` [R], and the position belong to these blocks."""
    row = np.searchsorted(blocks.rows, present).clip(max=len(blocks.rows) - 1)
    column = np.searchsorted(blocks.units, components).clip(max=len(blocks.units) - 1)
    here = (blocks.rows[row] == present)[:, None] & (blocks.units[column] == components)
    return np.where(here, blocks.table()[row[:, None], column], components)
