"""How much a loss would rise without a unit, and how much units say the same: one look at a few batches.

Every reader's input is multiplied by ones, one for each sample and position; the gradient at a one is the sum of z g at
that reader alone, so that readers of one value aren't taken for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from darwinc.calibrators.populations import Populations
from darwinc.calibrators.statistics import curvature_objective
from darwinc.fitness.statistics import Matrix, Vector
from darwinc.torch_graph import TorchGraph

ROWS = 4096
"""Positions of a batch that enter correlations, at most."""


@dataclass
class Vitality:
    """What a look at a network finds.

    Attributes:
        curvature: 1/2 E(sum of z g)^2 of every unit [U], with the gradient of a label-free curvature objective; zero
            where no gradient was asked for.
        overlap: squared correlations [U, U] of the units of each group, mean over its readers.
    """

    curvature: Vector
    overlap: list[Matrix]


@dataclass
class _Look:
    """One reader in one batch: its units, a one for each sample and position, and its input's positions as rows."""

    reader: str
    owners: torch.Tensor
    ones: torch.Tensor
    rows: torch.Tensor


def look(
    twin: TorchGraph,
    populations: Populations,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    seed: int,
    gradients: bool,
    overlap: bool,
) -> Vitality:
    """Run a few batches through a twin in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    units, samples = len(populations), 0
    squares = torch.zeros(units, dtype=torch.float64)
    correlations = _Correlations(populations)
    for feed in batches:
        with torch.set_grad_enabled(gradients):
            looks, outputs = _forward(twin, populations, feed)
        if gradients:
            squares += _squared_pulls(looks, outputs, units, generator)
            samples += max((len(each.ones) for each in looks), default=0)
        for each in looks if overlap else ():
            correlations.add(each)
    return Vitality((0.5 * squares / max(samples, 1)).numpy(), correlations.squared() if overlap else [])


def _forward(
    twin: TorchGraph, populations: Populations, feed: Mapping[str, torch.Tensor]
) -> tuple[list[_Look], list[torch.Tensor]]:
    readers = {str(reader.node.outputs[0].name): (reader, owners) for reader, owners in populations.readers}
    environment, looks = twin.enter(feed), []
    for step in twin.steps:
        local = environment
        if (found := readers.get(step.outputs[0])) is not None:
            reader, owners = found
            name = str(step.inputs[reader.data])
            x = twin.value(name, environment)
            axis = reader.data_axis % x.ndim
            sizes = [size if place in (0, axis) else 1 for place, size in enumerate(x.shape)]
            ones = torch.ones(sizes, dtype=x.dtype, device=x.device, requires_grad=torch.is_grad_enabled())
            local = {**environment, name: x * ones}
            looks.append(_Look(step.outputs[0], owners, ones, x.detach().movedim(axis, -1).flatten(0, -2)))
        environment.update(zip(step.outputs, twin.run(step, local), strict=False))
        for gone in step.release:
            environment.pop(gone, None)
    return looks, list(twin.leave(environment).values())


def _squared_pulls(
    looks: list[_Look], outputs: list[torch.Tensor], units: int, generator: torch.Generator
) -> torch.Tensor:
    """The sum over samples of (sum of z g)^2 [U]."""
    objective = curvature_objective(outputs, generator)
    if objective is None or not looks:
        return torch.zeros(units, dtype=torch.float64)
    found = torch.autograd.grad(objective, [each.ones for each in looks], allow_unused=True)
    samples = max(len(each.ones) for each in looks)
    pulls = torch.zeros(samples, units + 1, dtype=torch.float64)
    for each, gradient in zip(looks, found, strict=True):
        if gradient is not None and len(gradient) == samples:
            by_position = gradient.reshape(samples, -1).double().cpu()
            for owner in each.owners.T:
                pulls.index_add_(1, owner, by_position)
    return pulls[:, :units].square().sum(0)


class _Correlations:
    """Moments of what the units of each group say, reader by reader."""

    def __init__(self, populations: Populations) -> None:
        self.slices = list(populations.slices())
        self.moments: dict[tuple[int, str], torch.Tensor] = {}

    def add(self, look: _Look) -> None:
        """The rows of a reader in one batch: a unit's several positions count as rows of their own."""
        rows = look.rows[:: max(1, -(-len(look.rows) // ROWS))]
        for number, place in enumerate(self.slices):
            mine = ((look.owners >= place.start) & (look.owners < place.stop)).any(1)
            if not mine.any():
                continue
            owner = look.owners[mine].clamp(max=place.stop)
            unit = torch.where(owner < place.start, place.stop, owner).min(1).values
            counts = torch.bincount(unit - place.start, minlength=place.stop - place.start)
            if int(counts.min()) != int(counts.max()):
                continue
            order = torch.argsort(unit, stable=True)
            values = rows[:, torch.nonzero(mine).flatten()[order].to(rows.device)]
            values = values.reshape(len(rows), len(counts), -1).transpose(1, 2).flatten(0, 1).double().cpu()
            first = torch.cat([torch.ones(len(values), 1, dtype=torch.float64), values], 1)
            key = (number, look.reader)
            self.moments[key] = first.T @ first + self.moments.get(key, 0.0)

    def squared(self) -> list[Matrix]:
        """Squared correlations [U, U] of each group; the identity where nothing is known."""
        found: list[list[Matrix]] = [[] for _ in self.slices]
        for (number, _), moment in self.moments.items():
            count, mean = moment[0, 0], moment[0, 1:] / moment[0, 0]
            covariance = (moment[1:, 1:] / count - mean[:, None] * mean[None, :]).numpy()
            scale = np.sqrt(np.maximum(np.diag(covariance), 1e-12 * float(np.diag(covariance).mean()) + 1e-30))
            squared = np.square(np.clip(covariance / scale[:, None] / scale[None, :], -1, 1))
            np.fill_diagonal(squared, 1.0)
            found[number].append(squared)
        return [
            np.mean(matrices, axis=0) if matrices else np.eye(place.stop - place.start)
            for matrices, place in zip(found, self.slices, strict=True)
        ]
