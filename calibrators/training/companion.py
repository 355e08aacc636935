"""What a training loop asks of something that changes the weights beside the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

Weights = Mapping[str, torch.Tensor]


class Companion(Protocol):
    """Selection, beside training; until it has settled no state of the network counts as the best one.

    Attributes:
        until: the share of the budget after which it settles at the latest.
        done: it has nothing left to do, and wants to settle.
        settled: it changes nothing more, but keeps what is gone from coming back.
    """

    until: float
    done: bool
    settled: bool

    def observe(self, weights: Weights) -> None:
        """Look at the gradients of a step, which the optimiser is about to take."""

    def advance(self, step: int, share: float, weights: Weights, average: Weights) -> None:
        """After a step: change the weights and their running average, in place.

        `share` is how much of the budget is used up, 0 to 1.
        """

    def settle(self, step: int, weights: Weights, average: Weights) -> None:
        """Decide what is still open."""

    def hold(self, *tensors: Weights) -> None:
        """Keep what is gone from coming back, in place."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and notes from which `restore` goes on; the notes as JSON gives them back."""

    def restore(self, tensors: Weights, notes: Mapping[str, Any]) -> None:
        """Go on from an earlier `state`."""
