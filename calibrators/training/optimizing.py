"""The optimiser and its schedule: steps relative to each tensor's size, a short warm-up, a cosine to zero."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from darwinc.training import Training

WARM_UP = 0.05
"""The share of the budget over which the learning rate rises."""
RATES = {"adamw": 0.01, "sgd": 0.005}
DECAYS = {"adamw": 0.01, "sgd": 5e-4}
LEAST_SCALE = 1e-3
"""The root mean square that a tensor counts as having at least (Noam Shazeer and Mitchell Stern, *Adafactor*, 2018)."""


def make_optimizer(weights: Mapping[str, torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """An optimiser over the weights that require gradients; `initial_lr` of each group is its peak.

    AdamW's steps are relative to the root mean square of each tensor, rounded to a power of two so that few groups are
    needed. Vectors (biases, normalisations) don't decay.
    """
    rate = RATES[training.optimizer] if training.learning_rate is None else training.learning_rate
    decay = DECAYS[training.optimizer] if training.weight_decay is None else training.weight_decay
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for weight in weights.values():
        if weight.requires_grad:
            power = _power(weight) if training.optimizer == "adamw" else 0
            groups.setdefault((power, weight.ndim > 1), []).append(weight)
    parameters = [
        {"params": members, "lr": rate * 2.0**power, "weight_decay": decay if decays else 0.0}
        for (power, decays), members in groups.items()
    ]
    made: torch.optim.Optimizer
    if training.optimizer == "adamw":
        made = torch.optim.AdamW(parameters)
    else:
        made = torch.optim.SGD(parameters, momentum=0.9, nesterov=True)
    for group in made.param_groups:
        group["initial_lr"] = group["lr"]
    return made


def _power(weight: torch.Tensor) -> int:
    size = float(weight.detach().float().square().mean().sqrt()) if weight.numel() else 0.0
    return round(math.log2(max(size, LEAST_SCALE))) if math.isfinite(size) else 0


def set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """The learning rate at this share of the budget, 0 to 1."""
    warm = min(1.0, (progress + 1e-3) / WARM_UP)
    factor = warm * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimiser's state by `KEY/NAME`."""
    return {
        f"{key}/{name}": value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        for name, weight in weights.items()
        for key, value in optimizer.state.get(weight, {}).items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Give the optimiser the state that `optimizer_tensors` took."""
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        optimizer.state[weights[name]][kind] = value.cpu() if kind == "step" else value.to(weights[name].device)
