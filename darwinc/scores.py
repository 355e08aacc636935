"""The rivals' scores: one fixed number per channel, from weights, gradients or chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from darwinc import graph
from darwinc.axis_flow import is_fixed
from darwinc.channels import Channels
from darwinc.fitness import Indices, ReaderStatistics

PRODUCERS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""The weight axis along which outputs lie (Gemm's moves with transB)."""


def random_scores(groups: Sequence[Indices], seed: int) -> dict[int, float]:
    """Uniform random numbers."""
    random = np.random.default_rng(seed)
    return {int(unit): float(random.random()) for units in groups for unit in units}


def magnitude_scores(channels: Channels, power: int) -> dict[int, float]:
    """The sum of |w|^power over the filters that make each channel."""
    total = np.zeros(channels.count)
    for use in channels.flow.uses:
        if use.index != 1 or use.node.op_type not in PRODUCERS:
            continue
        tensor = graph.constant_tensor(use.value)
        axis = PRODUCERS[use.node.op_type]
        if use.node.op_type == "Gemm" and graph.integer(use.node, "transB", 0):
            axis = 0
        if tensor is None or axis >= len(use.axes) or is_fixed(use.axes[axis]):
            continue
        weight = np.abs(tensor.numpy().astype(np.float64)) ** power
        np.add.at(
            total,
            channels.component[use.axes[axis]],
            np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).sum(1),
        )
    return {int(unit): float(total[unit]) for group in channels.groups for unit in group.units}


def taylor_scores(readers: Iterable[ReaderStatistics]) -> dict[int, float]:
    """E|sum over places of z g| of each channel: the mean over its readers, each of which saw the same gradient."""
    found: dict[int, list[float]] = {}
    for reader in readers:
        if reader.taylor is None:
            continue
        units, inverse = np.unique(reader.positions, return_inverse=True)
        for unit, score in zip(units.tolist(), np.bincount(inverse, reader.taylor).tolist(), strict=True):
            found.setdefault(unit, []).append(score)
    return {unit: float(np.mean(scores)) for unit, scores in found.items()}
