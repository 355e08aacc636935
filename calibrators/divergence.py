"""How far one network's answers lie from another's: what repairs are judged by, and what the report calls quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from darwinc.calibrators.endings import differentiable_endings
from darwinc.calibrators.statistics import class_log_probabilities
from darwinc.torch_graph import TorchGraph

Feed = Mapping[str, npt.NDArray[np.generic]]
Tensors = Mapping[str, torch.Tensor]


def divergence(reference: TorchGraph, other: TorchGraph, batches: Sequence[Feed]) -> float:
    """Mean over batches and floating outputs: KL divergence (nats) of class scores, else squared error / variance.

    Outputs behind a choice (the boxes that NonMaxSuppression leaves) can't be compared; what it is made from can.
    """
    names = differentiable_endings(reference) or list(reference.outputs)
    found: list[float] = []
    for feed in batches:
        with torch.no_grad():
            wanted, got = (twin(feed, also=names) for twin in (reference, other))
        found.extend(
            _output(wanted[name], got[name])
            for name in names
            if wanted[name].is_floating_point() and wanted[name].numel() and _comparable(name, reference, wanted, got)
        )
    return float(np.mean(found)) if found else 0.0


def _comparable(name: str, reference: TorchGraph, wanted: Tensors, got: Tensors) -> bool:
    """Outputs always are; a value inside the graph may have lost channels."""
    return name in reference.outputs or wanted[name].shape == got[name].shape


def _output(wanted: torch.Tensor, got: torch.Tensor) -> float:
    if wanted.shape != got.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    scores = class_log_probabilities(wanted)
    if scores is not None:
        others = _same_kind(wanted, got)
        return float((scores.exp() * (scores - others)).sum(1).mean())
    spread = (wanted - wanted.mean()).double().square().mean()
    return float((got.double() - wanted.double()).square().mean() / spread.clamp_min(1e-30))


def _same_kind(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """The other network's log-probabilities, read as the reference's were."""
    if bool((wanted >= 0).all()) and bool(((wanted.sum(1) - 1).abs() < 1e-3).all()):
        return (got + 1e-12).log()
    return got.log_softmax(1)
