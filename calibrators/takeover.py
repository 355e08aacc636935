"""Inheritance for a layer that has more inputs than there are rows to fit it on: by channels, not by weights.

Every channel that the original layer reads is written as a combination of the channels that the compressed one still
gets, by least squares over all positions; the weights follow, W <- B W with B [living, channels]. A matrix behind a
flattened image has one row a sample but as many rows a channel as the image has pixels, so few samples do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from darwinc.axis_record import Ids
from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.sites import Site
from darwinc.channels import Channels, Mask

RIDGE = 1e-6
POSITIONS = 64
"""Positions of each sample that enter, of a layer whose inputs are maps."""


@dataclass(frozen=True, eq=False)
class Takeover:
    """The weight [1, O, living, T] as `Site.matrix` gives it, and what is added to the outputs' offset [1, O]."""

    matrix: torch.Tensor
    moved: torch.Tensor


def take_over(
    lockstep: Lockstep, site: Site, name: str, holdout: int, generator: torch.Generator, *, centred: bool
) -> Takeover | None:
    """What the compressed layer's weight, called `name`, becomes; None where there are too few rows for that too.

    `centred` says that the layer has an offset that can move.
    """
    data = str(site.step.inputs[site.data])
    original = lockstep.original.weights().get(name)
    before = _order(lockstep.channels, data, site)
    if site.groups > 1 or original is None or before is None:
        return None
    living = before.living(lockstep)
    alive = living[before.positions[:, 0]]
    rank = torch.from_numpy(np.cumsum(living) - 1)
    after = rank[torch.from_numpy(before.positions[alive])]
    wide, narrow = [], []
    for one, two in list(zip(lockstep.before, lockstep.after, strict=True))[:-holdout]:
        chosen = None
        if site.convolution:
            available = site.input_positions(one[data])
            chosen = torch.randperm(available, generator=generator)[: POSITIONS * one[data].shape[0]]
        wide.append(_rows(site.input_rows(one[data], chosen), torch.from_numpy(before.positions)))
        narrow.append(_rows(site.input_rows(two[data], chosen), after))
    wanted, given = torch.cat(wide).double(), torch.cat(narrow).double()
    if len(given) < given.shape[1]:
        return None
    means = (wanted.mean(0), given.mean(0)) if centred else (torch.zeros(1), torch.zeros(1))
    wanted, given = wanted - means[0].to(wanted), given - means[1].to(given)
    moment = given.T @ given / len(given)
    scale = moment.diagonal().clamp_min(1e-8 * float(moment.diagonal().mean()) + 1e-30)
    # The ridge pulls towards the channels as they are: whoever lives stands for itself.
    present = torch.eye(len(alive), dtype=torch.float64)[torch.from_numpy(alive)].to(given)
    error = given.T @ (wanted - given @ present) / len(given)
    mixing = present + torch.linalg.solve(moment + torch.diag(scale * RIDGE), error)
    weight = _living_outputs(lockstep, site, site.matrix(original)[0]).double().flatten(1)
    taps = weight.shape[1] // before.positions.size
    by_channel = weight.reshape(len(weight), -1, taps)[:, torch.from_numpy(before.positions)]
    made = torch.einsum("lc,ocpt->olpt", mixing, by_channel)
    matrix = torch.zeros((len(weight), after.numel(), taps), dtype=torch.float64, device=made.device)
    matrix[:, after.flatten()] = made.flatten(1, 2)
    rest = means[0].to(mixing) - means[1].to(mixing) @ mixing if centred else torch.zeros(len(alive)).to(mixing)
    return Takeover(matrix[None], torch.einsum("c,ocpt->o", rest, by_channel)[None])


def _living_outputs(lockstep: Lockstep, site: Site, matrix: torch.Tensor) -> torch.Tensor:
    """The rows of a weight [O, ...] that the compressed layer still has."""
    tracked = lockstep.channels.flow.values.get(site.output)
    ids = None if tracked is None else tracked.axes[site.output_axis]
    return matrix if ids is None else matrix[torch.from_numpy(lockstep.channels.living(ids, lockstep.dead))]


@dataclass(frozen=True, eq=False)
class _Order:
    """The positions [C, P] of each channel along a layer's input axis, and the ids of that axis."""

    positions: Ids
    ids: Ids
    channels: Channels

    def living(self, lockstep: Lockstep) -> Mask:
        """Which positions the compressed network still has."""
        return self.channels.living(self.ids, lockstep.dead)


def _order(channels: Channels, data: str, site: Site) -> _Order | None:
    """Where each channel lies: at one position, or at as many as a flattened image has pixels."""
    tracked = channels.flow.values.get(data)
    axis = 1 if site.convolution else -1
    ids = None if tracked is None or not (site.convolution or site.data == 0) else tracked.axes[axis]
    if ids is None:
        return None
    owners = channels.owners[channels.component[ids]]
    units = owners[:, 0]
    distinct, counts = np.unique(units, return_counts=True)
    if site.convolution or (owners[:, 1:] > 0).any() or distinct[0] == 0 or (counts != counts[0]).any():
        return _Order(np.arange(len(ids))[:, None], ids, channels)
    return _Order(np.argsort(units, kind="stable").reshape(len(distinct), -1), ids, channels)


def _rows(rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows [R, n] as rows of channels [R * P, C]."""
    return rows[:, positions.to(rows.device)].transpose(1, 2).flatten(0, 1)
