"""What feature maps would lose without one of their channels: the change of their nuclear norm.

Source: CHIP, CHannel Independence-based Pruning (Sui et al., 2021): a channel's row of the feature maps [C, places] is
left out, and the nuclear norm falls the more the less the other rows could say the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from darwinc.axis_record import Ids
from darwinc.fitness.statistics import Vector

SAMPLES = 8
"""Samples of each value that are looked at."""
SIDE = 64
"""Places of a sample that are looked at, evenly spaced, where it has more channels and places than this."""
TOGETHER = 2**22
"""Elements of the Gram matrices that are decomposed at once."""


@dataclass
class FeatureMaps:
    """The scores of components [count], summed over what was seen of each."""

    count: int
    total: Vector = field(init=False)
    seen: Vector = field(init=False)
    _samples: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.total, self.seen = np.zeros((2, self.count))

    def see(self, name: str, maps: torch.Tensor, components: Ids) -> None:
        """A batch of the value of this name [N, places, P], whose positions are of these components [P].

        Where there is one place only the batch counts as places.
        """
        if maps.shape[1] == 1:
            maps = maps.transpose(0, 1)
        chosen = maps[: max(0, SAMPLES - self._samples[name])].detach()
        self._samples[name] += len(chosen)
        for sample in chosen:
            found, changes = without_each(sample.T, components)
            self.total[found] += changes
            self.seen[found] += 1

    def scores(self) -> Vector:
        """The mean over samples, and over the values that a component is part of [count]; NaN where it wasn't seen."""
        return np.where(self.seen > 0, self.total / np.maximum(self.seen, 1), np.nan)


def without_each(matrix: torch.Tensor, components: Ids) -> tuple[Ids, Vector]:
    """The components [B] but 0, and by how much the nuclear norm of a matrix [P, S] falls without the rows of each.

    Singular values are roots of the eigenvalues of the Gram matrix of the smaller side, in float64.
    """
    matrix = matrix.double().nan_to_num(0.0, 0.0, 0.0)
    if min(matrix.shape) > SIDE:
        places = torch.linspace(0, matrix.shape[1] - 1, SIDE, dtype=torch.float64).round().long()
        matrix = matrix[:, places.to(matrix.device)]
    found = np.unique(components[components > 0])
    rows = torch.from_numpy(components[None] == found[:, None]).to(matrix.device)
    by_place = matrix.shape[1] <= matrix.shape[0]
    gram = matrix.T @ matrix if by_place else matrix @ matrix.T
    left, size = [], max(1, TOGETHER // max(gram.numel(), 1))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        if by_place:
            dropped = torch.stack([matrix[own].T @ matrix[own] for own in some])
            left.append(_nuclear(gram - dropped))
        else:
            stays = (~some).to(gram.dtype)
            left.append(_nuclear(gram * stays[:, :, None] * stays[:, None, :]))
    return found, (_nuclear(gram) - torch.cat(left)).clamp_min(0.0).cpu().numpy()


def _nuclear(gram: torch.Tensor) -> torch.Tensor:
    """The nuclear norm of matrices of these Gram matrices [..., S, S]."""
    values: torch.Tensor = torch.linalg.eigvalsh(gram)
    return values.clamp_min(0.0).sqrt().sum(-1)
