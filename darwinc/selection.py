"""Which channels die: the cheapest loss for what is saved, until the target holds, under alignment."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from darwinc.channels import ChannelGroup, Channels, Mask
from darwinc.cost import Terms
from darwinc.fitness import Fitness
from darwinc.fitness.statistics import Death

TOLERANCE = 0.005
"""How far, as a share of the whole, the outcome may lie beyond the target before a finer cut is looked for."""

SHORTFALL = 0.01
"""How far, as a share of the whole, the outcome may stay behind the target before alignment yields: a width beside the
multiple can cost more time than the last per cent saves."""


@dataclass(frozen=True)
class Limits:
    """What selection may do.

    Attributes:
        align: wanted multiple of the channels that stay in a group.
        max_share: the largest share of one group that may die.
        eligible: which groups may lose channels at all.
        strict: alignment may not stay behind the need.
        multiples: the wanted multiple of each group, where they differ; `align` for all otherwise.
    """

    align: int
    max_share: float
    eligible: Sequence[bool]
    strict: bool = False
    multiples: Sequence[int] | None = None

    def multiple(self, index: int) -> int:
        """The wanted multiple of the channels that stay in a group."""
        return self.align if self.multiples is None else self.multiples[index]


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
    saved: int = 0
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
    for index, group in enumerate(channels.groups):
        if limits.eligible[index]:
            step = quantum(group, limits.multiple(index)) if group.depthwise else 1
            cuts.append((index, len(group) - floor(group, step, limits.max_share)))
    before = terms.current()
    for index, count in cuts:
        terms.remove(index, count)
    saved = before - terms.current()
    for index, count in cuts:
        terms.remove(index, -count)
    return saved


def select(
    channels: Channels,
    terms: Terms,
    fitness: Fitness,
    need: int,
    limits: Limits,
    progress: Callable[[float], None] | None = None,
) -> Selection:
    """Let chunks of channels die, cheapest loss per unit saved first, until `need` is saved.

    Losses and savings are refreshed as neighbours die: a group's entry is recomputed when it comes to the top and its
    state changed.
    """
    return _Greedy(channels, terms, fitness, need, limits, progress).run()


class _Greedy:
    def __init__(
        self,
        channels: Channels,
        terms: Terms,
        fitness: Fitness,
        need: int,
        limits: Limits,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.channels, self.terms, self.fitness, self.need, self.limits = channels, terms, fitness, need, limits
        self.progress = progress
        self.steps = [quantum(group, limits.multiple(index)) for index, group in enumerate(channels.groups)]
        self.living: list[npt.NDArray[np.int64]] = [group.units for group in channels.groups]
        self.outcome = Selection(channels.nobody(), limits.align)
        self.rated: dict[tuple[int, int], tuple[tuple[int, int], npt.NDArray[np.int64], float]] = {}
        self.slack = max(1, int(TOLERANCE * terms.current()))
        self.short = 0 if limits.strict else int(SHORTFALL * terms.current())

    def run(self) -> Selection:
        self._coarse()
        self._fine(self.steps)
        for divisor in (2, 4, 8, 16, 32):
            if self.outcome.saved >= self.need - self.short:
                break
            finer = [
                step if group.depthwise else max(1, step // divisor)
                for step, group in zip(self.steps, self.channels.groups, strict=True)
            ]
            self._fine(finer)
        if self.outcome.saved < self.need - self.short:
            self._overshoot()
        self.outcome.finer = self._finer()
        return self.outcome

    def _finer(self) -> dict[str, int]:
        """The groups that were left with a finer multiple than their width allows, and with which."""
        finer = {}
        for group, living, step in zip(self.channels.groups, self.living, self.steps, strict=True):
            if len(living) < len(group) and len(living) % step:
                finer[group.id] = math.gcd(len(living), step)
        return finer

    def _chunk(self, index: int, step: int, *, scaled: bool) -> int:
        """How many units go next: down to the next multiple; wide groups lose several multiples at once."""
        width = len(self.living[index])
        size = step * max(1, len(self.channels.groups[index]) // (64 * step)) if scaled else step
        count = width % size or size
        count = count if (width - count) % step == 0 else width % step or step
        room = width - floor(self.channels.groups[index], step, self.limits.max_share)
        return count if self.limits.eligible[index] and count <= room else 0

    def _rate(self, index: int, count: int) -> tuple[float, npt.NDArray[np.int64], float, int]:
        """Loss per unit saved of a group's next `count` deaths, with the units, the loss and what is saved."""
        state = (len(self.living[index]), self.fitness.age(self.living[index]))
        known = self.rated.get((index, count))
        if known is None or known[0] != state:
            known = (state, *self.fitness.weakest(self.living[index], count))
            self.rated[index, count] = known
        _, units, loss = known
        saved = self.terms.saved(index, count)
        return loss / max(saved, 1), units, loss, saved

    def _take(self, index: int, units: npt.NDArray[np.int64], loss: float, saved: int) -> None:
        self.outcome.deaths += self.fitness.explain(units)
        self.fitness.remove(units)
        self.terms.remove(index, len(units))
        self.living[index] = self.living[index][~np.isin(self.living[index], units)]
        self.outcome.dead[units] = True
        self.outcome.saved += saved
        group = self.channels.groups[index].id
        self.outcome.losses[group] = self.outcome.losses.get(group, 0.0) + loss
        if self.steps[index] < quantum_of_wide(self.channels.groups[index], self.limits.multiple(index)):
            self.outcome.narrow[group] = self.steps[index]
        if self.progress is not None:
            self.progress(min(1.0, self.outcome.saved / max(self.need, 1)))

    def _coarse(self) -> None:
        """The bulk of the work; stops where the next chunk would overshoot."""
        clock = 0
        heap: list[tuple[float, int, int]] = []
        for index in range(len(self.living)):
            if self._chunk(index, self.steps[index], scaled=True):
                heap.append((0.0, index, -1))
        heapq.heapify(heap)
        while heap and self.outcome.saved < self.need:
            _, index, seen = heapq.heappop(heap)
            count = self._chunk(index, self.steps[index], scaled=True)
            if not count:
                continue
            rate, units, loss, saved = self._rate(index, count)
            if seen != clock and heap and rate > heap[0][0]:
                heapq.heappush(heap, (rate, index, clock))
                continue
            if self.outcome.saved + saved > self.need + self.slack:
                continue
            self._take(index, units, loss, saved)
            clock += 1
            heapq.heappush(heap, (rate, index, -1))

    def _fine(self, steps: Sequence[int]) -> None:
        """Fill what is left with the cheapest chunks that fit."""
        while self.outcome.saved < self.need:
            options = []
            for index, step in enumerate(steps):
                count = self._chunk(index, step, scaled=False)
                if count and self.terms.saved(index, count) <= self.need + self.slack - self.outcome.saved:
                    options.append((*self._rate(index, count), index))
            if not options:
                return
            _, units, loss, saved, index = min(options, key=lambda option: option[0])
            self._take(index, units, loss, saved)

    def _overshoot(self) -> None:
        """Nothing fits: take the smallest cut that reaches the target."""
        options = []
        for index, group in enumerate(self.channels.groups):
            step = self.steps[index] if group.depthwise else 1
            count = self._chunk(index, step, scaled=False)
            if count:
                options.append((self.terms.saved(index, count), index, count))
        for saved, index, count in sorted(options):
            if self.outcome.saved + saved >= self.need:
                _, units, loss, _ = self._rate(index, count)
                self._take(index, units, loss, saved)
                return
