"""How the sizes of axes follow from the widths of groups, and which widths to time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darwinc.axis_record import Ids
from darwinc.channels import Channels, Mask
from darwinc.cost import Segments
from darwinc.selection import floor, quantum

Widths = Sequence[int]
"""Living units of each group."""
Segment = tuple[tuple[int, ...], float]


@dataclass(frozen=True)
class Extent:
    """The size of an axis: `fixed` positions, and for each segment its share times the widths of its groups."""

    fixed: float
    segments: tuple[Segment, ...]

    def at(self, widths: Widths) -> float:
        """Positions that live."""
        return self.fixed + sum(share * math.prod(widths[group] for group in groups) for groups, share in self.segments)

    def padded(self, widths: Widths, multiple: int) -> float:
        """The next multiple: what a kernel that works in blocks goes through."""
        return multiple * math.ceil(self.at(widths) / multiple - 1e-9)

    @property
    def groups(self) -> frozenset[int]:
        """The groups that it depends on."""
        return frozenset(group for groups, _ in self.segments for group in groups)


class Extents:
    """The extents of a graph's axes."""

    def __init__(self, channels: Channels) -> None:
        self._segments = Segments(channels)
        self._full = full(channels)

    def of(self, ids: Ids) -> Extent:
        """The extent of an axis, at present `len(ids)` long."""
        segments = tuple(self._segments.of(ids))
        return Extent(len(ids) - Extent(0.0, segments).at(self._full), segments)


def full(channels: Channels) -> list[int]:
    """The widths of the graph as it is."""
    return [len(group) for group in channels.groups]


def mask_of(channels: Channels, widths: Widths) -> Mask:
    """A mask that leaves `widths` units of each group alive; which, doesn't matter to time."""
    dead = channels.nobody()
    for group, width in zip(channels.groups, widths, strict=True):
        dead[group.units[width:]] = True
    return dead


def sample(channels: Channels, eligible: Sequence[bool], count: int, align: int, seed: int) -> list[list[int]]:
    """`count` configurations of widths, multiples where alignment has them.

    Half of them leave every group about the same share, half any share: layers' times depend on the widths on both
    sides, and are told apart only where these vary independently.
    """
    generator = np.random.default_rng(seed)
    levels = generator.permutation(np.linspace(0.1, 1.0, count))
    return [
        _configuration(channels, eligible, align, generator, levels[number] if number % 2 else None)
        for number in range(count)
    ]


def _configuration(
    channels: Channels,
    eligible: Sequence[bool],
    align: int,
    generator: np.random.Generator,
    level: float | None,
) -> list[int]:
    widths = []
    for group, may in zip(channels.groups, eligible, strict=True):
        share = generator.uniform(0.05, 1.0) if level is None else level * generator.uniform(0.85, 1.15)
        step = quantum(group, align)
        least = floor(group, step, 0.95)
        chosen = step * round(share * len(group) / step)
        widths.append(int(np.clip(chosen, least, len(group))) if may else len(group))
    return widths
