"""What selection may do, and what it did: alignment, floors, the outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from darwinc.channels import ChannelGroup, Channels, Mask
from darwinc.cost import Terms
from darwinc.fitness.statistics import Death

TOLERANCE = 0.005
"""How far, as a share of the whole, the outcome may lie beyond the target before a finer cut is looked for."""

SHORTFALL = 0.01
"""How far, as a share of the whole, the outcome may stay behind the target before alignment yields: a width beside the
multiple can cost more time than the last per cent saves. No target that can be met is missed by more."""

DIVISORS = (1, 2, 4, 8, 16, 32)
"""By what the multiples are divided, in turn, where they don't come close enough to the target."""


@dataclass(frozen=True)
class Limits:
    """What selection may do.

    Attributes:
        align: wanted multiple of the channels that stay in a group.
        max_share: the largest share of one group that may die.
        eligible: which groups may lose channels at all.
        strict: alignment may not stay behind the need.
        multiples: the wanted multiple of each group, where it isn't `align` for all of them.
    """

    align: int
    max_share: float
    eligible: Sequence[bool]
    strict: bool = False
    multiples: Sequence[int] | None = None

    def multiple(self, index: int) -> int:
        """The wanted multiple of a group's channels."""
        return self.align if self.multiples is None else self.multiples[index]

    def steps(self, channels: Channels, divisor: int = 1) -> list[int]:
        """In what multiples each group may lose units; of `divisor` times less where it isn't depthwise."""
        whole = [quantum(group, self.multiple(index)) for index, group in enumerate(channels.groups)]
        return [
            step if group.depthwise else max(1, step // divisor)
            for step, group in zip(whole, channels.groups, strict=True)
        ]


@dataclass
class Selection:
    """The outcome: who dies, what was saved, and where alignment had to yield.

    Attributes:
        losses: predicted loss of each group's deaths, by group id.
        deaths: why each died, in order.
        narrow: groups too narrow for the wanted multiple, and the one that they keep instead.
        finer: groups in which only a finer multiple met the target, and which.
    """

    dead: Mask
    align: int
    saved: float = 0
    losses: dict[str, float] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    narrow: dict[str, int] = field(default_factory=dict)
    finer: dict[str, int] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The predicted loss of everything that died."""
        return sum(self.losses.values())


def quantum(group: ChannelGroup, align: int) -> int:
    """The multiple in which a group may lose units: the wanted one; finer on narrow groups, never on depthwise ones."""
    wanted = quantum_of_wide(group, align)
    while not group.depthwise and wanted > 1 and len(group) < 4 * wanted:
        wanted //= 2
    return wanted


def quantum_of_wide(group: ChannelGroup, align: int) -> int:
    """The wanted multiple, in units: fewer where each unit is several channels of an axis."""
    positions = max(1, min(member.multiplicity for member in group.members))
    return max(1, align // math.gcd(align, positions))


def floor(group: ChannelGroup, step: int, max_share: float) -> int:
    """The fewest units that a group must keep: never none, a multiple of `step`, and not less than the stated share."""
    least = max(1, math.ceil(len(group) * (1.0 - max_share) - 1e-9))
    return min(len(group), step * math.ceil(least / step))


def reachable(channels: Channels, terms: Terms, limits: Limits) -> int:
    """The most that could be saved, with alignment yielding wherever it may."""
    cuts = []
    for index, (group, step) in enumerate(zip(channels.groups, limits.steps(channels, DIVISORS[-1]), strict=True)):
        if limits.eligible[index]:
            cuts.append((index, len(group) - floor(group, step, limits.max_share)))
    before = terms.current()
    for index, count in cuts:
        terms.remove(index, count)
    saved = before - terms.current()
    for index, count in cuts:
        terms.remove(index, -count)
    return saved
