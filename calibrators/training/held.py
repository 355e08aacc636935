"""Synapses that are gone stay zero while the others are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from darwinc.calibrators.held import Masks, silence
from darwinc.calibrators.training.companion import Weights


class Held:
    """A `Companion` that decides nothing: it only keeps what is gone from coming back.

    Args:
        living: which weights live, by name, each mask in its tensor's shape.
        weights: the network's tensors, for their devices.
    """

    until = 0.0
    done = True
    settled = True

    def __init__(self, living: Masks, weights: Weights) -> None:
        self._living = {name: torch.from_numpy(mask).to(weights[name].device) for name, mask in living.items()}
        self.hold(weights)

    def observe(self, weights: Weights) -> None:
        """Gradients are nobody's business."""

    def advance(self, step: int, share: float, weights: Weights, average: Weights) -> None:
        del step, share
        self.hold(weights, average)

    def settle(self, step: int, weights: Weights, average: Weights) -> None:
        del step
        self.hold(weights, average)

    def hold(self, *tensors: Weights) -> None:
        for some in tensors:
            silence(some, self._living)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {}

    def restore(self, tensors: Weights, notes: Mapping[str, Any]) -> None:
        del tensors, notes
