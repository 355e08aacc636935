"""Where two computed tensors meet in a sum (queries and keys): what each position of the summed axis contributes.

There is no weight to read, and nothing to refit. A removed position d takes t_d = sum of x_d times the gradient at x_d
out of the outcome, summed over everything but the sample; so its loss is 1/2 E[t_d^2] to second order (Molchanov et
al., 2017, squared as a Fisher estimate).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from darwinc.axis_record import Contraction
from darwinc.channels import Channels
from darwinc.fitness import ReaderStatistics
from darwinc.torch_graph import TorchGraph


@dataclass
class Meeting:
    """One contraction under observation; `components` [P] are those of the summed positions."""

    operand: int
    axis: int
    components: npt.NDArray[np.int64]
    x: torch.Tensor | None = None
    squares: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor) -> None:
        """A batch's gradient at the operand that was kept."""
        if self.x is None:
            return
        product = (self.x.detach() * gradient).movedim(self.axis, -1)
        by_sample = product.reshape(product.shape[0] if product.ndim > 1 else 1, -1, product.shape[-1]).sum(1).double()
        squares, sizes = by_sample.square().sum(0), by_sample.abs().sum(0)
        self.squares = squares if self.squares is None else self.squares + squares
        self.sizes = sizes if self.sizes is None else self.sizes + sizes
        self.x = None

    def conclude(self, samples: int) -> ReaderStatistics:
        """As the statistics of a reader whose inputs don't know of each other."""
        count = len(self.components)
        if self.squares is None or self.sizes is None:
            return alike(self.components)
        gram = np.diag((self.squares / samples).cpu().numpy())
        taylor = (self.sizes / samples).cpu().numpy()
        return ReaderStatistics(self.components, np.eye(count), gram, self.components, taylor)


def alike(components: npt.NDArray[np.int64]) -> ReaderStatistics:
    """Where nothing was measured all positions are alike; together they count like any other reader."""
    count = len(components)
    return ReaderStatistics(components, np.eye(count), np.eye(count) / max(count, 1), components, None)


def find_meetings(twin: TorchGraph, channels: Channels) -> dict[str, Meeting]:
    """The contractions over positions that could be removed, by the name of their output."""
    made = {step.outputs[0] for step in twin.steps}
    found: dict[str, Meeting] = {}
    for contraction in prunable(channels):
        name = str(contraction.node.outputs[0].name)
        if name in made:
            found[name] = Meeting(*contraction.left, channels.component[contraction.ids])
    return found


def prunable(channels: Channels) -> Iterable[Contraction]:
    """The contractions over positions that could be removed."""
    return (meeting for meeting in channels.flow.contractions if channels.component[meeting.ids].any())
