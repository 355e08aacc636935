"""Losses by class: scores [N, C, *D] against labels [N, *D], with an optional weight [C] for each class."""

from __future__ import annotations

import torch

from .call import Call, Result, Rule


def negative_log_likelihood(call: Call) -> torch.Tensor:
    """Minus the logarithm of the probability of each label, which the first operand holds."""
    return _loss(call, call.first)


def softmax_cross_entropy(call: Call) -> Result:
    """The same of the softmax over the classes, whose logarithm is the second output."""
    logarithms = torch.log_softmax(call.first, 1)
    return _loss(call, logarithms), logarithms


def _loss(call: Call, logarithms: torch.Tensor) -> torch.Tensor:
    """Labels that are `ignore_index` cost nothing, and count for nothing in the mean."""
    labels, weights = call.tensor(1).long(), call.optional(2)
    counted = torch.ones_like(labels, dtype=torch.bool)
    if "ignore_index" in call.attributes:
        counted = labels != call.integer("ignore_index", 0)
    labels = torch.where(counted, labels, 0)
    weight = counted.to(logarithms.dtype) if weights is None else torch.where(counted, weights[labels], 0.0)
    picked = -logarithms.gather(1, labels.unsqueeze(1)).squeeze(1) * weight
    reduction = call.text("reduction", "mean")
    if reduction == "none":
        return picked
    return picked.sum() if reduction == "sum" else picked.sum() / weight.sum()


RULES: dict[str, Rule] = {
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
}
