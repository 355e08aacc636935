"""The cheapest loss for what is saved, until the target holds, under alignment."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from darwinc.channels import Channels
from darwinc.cost import Price
from darwinc.fitness import Fitness
from darwinc.selection.allocation import allocate
from darwinc.selection.limits import DIVISORS, SHORTFALL, TOLERANCE, Limits, Selection, floor
from darwinc.selection.path import Deaths, Path, Survivors, replay

Progress = Callable[[float], None]


def select(
    channels: Channels,
    price: Price,
    fitness: Fitness,
    need: float,
    limits: Limits,
    progress: Progress | None = None,
) -> Selection:
    """Let chunks of channels die, cheapest loss per unit saved first, until `need` is saved.

    Losses and savings are refreshed as neighbours die: a group's entry is recomputed when it comes to the top and its
    state changed. Where single steps are worth more than a per cent of the whole, what fits into the rest may cost far
    more than other widths would, or miss the target: those are looked for as well, and the better ones taken.
    """
    whole = price.current()
    spare = fitness.fork() if _lumpy(channels, price, limits, SHORTFALL * whole) else None
    greedy = _Greedy(channels, price, fitness, need, limits, progress)
    outcome = greedy.run()
    if spare is None:
        return outcome
    most = need + SHORTFALL * whole
    windows = [(need, most)] if limits.strict else [(need, most), (need - SHORTFALL * whole, most)]
    window, removed = windows[-1], greedy.removed()
    greedy.restore()
    path = trace(channels, price, spare.fork(), limits)
    curves = path.curves()
    # A target is met in full where the multiples allow it, before it is missed by a little.
    tries = (allocate(channels, price, curves, limits, each, [removed], [by]) for by in DIVISORS for each in windows)
    found = next((widths for widths in tries if widths is not None), None)
    other = None if found is None else replay(channels, price, spare, limits, path, found)
    if other is not None and _is_better(other, outcome, window):
        return other
    _revive(price, [] if found is None else found)
    for index, count in enumerate(removed):
        price.remove(index, count)
    return outcome


def _is_better(other: Selection, greedy: Selection, window: tuple[float, float]) -> bool:
    """Should other widths be taken? Those that meet the target; then those of coarser multiples, or of less loss."""
    if not window[0] <= greedy.saved <= window[1] or (greedy.finer and not other.finer):
        return True
    return other.loss < greedy.loss and (bool(greedy.finer) or not other.finer)


def _revive(price: Price, removed: Sequence[int]) -> None:
    for index, count in enumerate(removed):
        price.remove(index, -count)


def _lumpy(channels: Channels, price: Price, limits: Limits, most: float) -> bool:
    """May a step save more than `most`, so that none of the steps that are left fits into what is missing?"""
    return any(
        may and price.saved(index, min(step, len(group))) > most
        for index, (may, step, group) in enumerate(
            zip(limits.eligible, limits.steps(channels), channels.groups, strict=True)
        )
    )


def trace(
    channels: Channels,
    price: Price,
    fitness: Fitness,
    limits: Limits,
    progress: Progress | None = None,
) -> Path:
    """The path of greedy elimination down to the floor of every group; `price` is as before in the end.

    `price` has to fall with every death. `fitness` is used up: give a fork of it.
    """
    greedy = _Greedy(channels, price, fitness, float("inf"), limits, progress)
    greedy.explained = False
    greedy.room = sum(
        len(group) - floor(group, step, limits.max_share)
        for group, step, may in zip(channels.groups, greedy.steps, limits.eligible, strict=True)
        if may
    )
    greedy.eliminate(greedy.steps, scaled=True)
    greedy.eliminate(limits.steps(channels, DIVISORS[-1]), scaled=False)
    greedy.restore()
    return Path(tuple(greedy.taken), len(channels.groups))


class _Greedy(Survivors):
    def __init__(
        self,
        channels: Channels,
        price: Price,
        fitness: Fitness,
        need: float,
        limits: Limits,
        progress: Progress | None,
    ) -> None:
        super().__init__(channels, price, fitness, limits)
        self.need, self.progress = need, progress
        self.rated: dict[tuple[int, int], tuple[tuple[int, int], npt.NDArray[np.int64], float]] = {}
        self.taken: list[Deaths] = []
        self.died, self.room = 0, 0
        self.slack = max(1, int(TOLERANCE * price.current()))
        self.short = 0 if limits.strict else int(SHORTFALL * price.current())

    def run(self) -> Selection:
        self.eliminate(self.steps, scaled=True)
        for divisor in DIVISORS:
            self._fine(self.limits.steps(self.channels, divisor))
            if self.outcome.saved >= self.need - self.short:
                break
        if self.outcome.saved < self.need - self.short:
            self._overshoot()
        return self.concluded()

    def _chunk(self, index: int, step: int, *, scaled: bool) -> int:
        """How many units go next: down to the next multiple; wide groups lose several multiples at once."""
        width = len(self.living[index])
        size = step * max(1, len(self.channels.groups[index]) // (64 * step)) if scaled else step
        count = width % size or size
        count = count if (width - count) % step == 0 else width % step or step
        room = width - floor(self.channels.groups[index], step, self.limits.max_share)
        return count if self.limits.eligible[index] and count <= room else 0

    def _rate(self, index: int, count: int) -> tuple[float, npt.NDArray[np.int64], float, float]:
        """Loss per unit saved of a group's next `count` deaths, with the units, the loss and what is saved."""
        state = (len(self.living[index]), self.fitness.age(self.living[index]))
        known = self.rated.get((index, count))
        if known is None or known[0] != state:
            known = (state, *self.fitness.weakest(self.living[index], count))
            self.rated[index, count] = known
        _, units, loss = known
        saved = self.price.saved(index, count)
        return loss / max(saved, 1), units, loss, saved

    def take(self, index: int, units: npt.NDArray[np.int64], loss: float) -> None:
        self.taken.append(Deaths(index, units, loss, self.fitness.age(self.living[index])))
        super().take(index, units, loss)
        self.died += len(units)
        if self.progress is not None:
            done = self.died / self.room if self.room else self.outcome.saved / max(self.need, 1)
            self.progress(min(1.0, done))

    def eliminate(self, steps: Sequence[int], *, scaled: bool) -> None:
        """The bulk of the work; stops where the next chunk would overshoot."""
        clock = 0
        heap: list[tuple[float, int, int]] = []
        for index in range(len(self.living)):
            if self._chunk(index, steps[index], scaled=scaled):
                heap.append((0.0, index, -1))
        heapq.heapify(heap)
        while heap and self.outcome.saved < self.need:
            _, index, seen = heapq.heappop(heap)
            count = self._chunk(index, steps[index], scaled=scaled)
            if not count:
                continue
            rate, units, loss, saved = self._rate(index, count)
            if seen != clock and heap and rate > heap[0][0]:
                heapq.heappush(heap, (rate, index, clock))
                continue
            if self.outcome.saved + saved > self.need + self.slack:
                continue
            self.take(index, units, loss)
            clock += 1
            heapq.heappush(heap, (rate, index, -1))

    def _fine(self, steps: Sequence[int]) -> None:
        """Fill what is left with the cheapest chunks that fit."""
        while self.outcome.saved < self.need:
            options = []
            for index, step in enumerate(steps):
                count = self._chunk(index, step, scaled=False)
                if count and self.price.saved(index, count) <= self.need + self.slack - self.outcome.saved:
                    options.append((*self._rate(index, count), index))
            if not options:
                return
            _, units, loss, _, index = min(options, key=lambda option: option[0])
            self.take(index, units, loss)

    def _overshoot(self) -> None:
        """Nothing fits: take the smallest cut that reaches the target."""
        options = []
        for index, step in enumerate(self.limits.steps(self.channels, DIVISORS[-1])):
            count = self._chunk(index, step, scaled=False)
            if count:
                options.append((self.price.saved(index, count), index, count))
        for saved, index, count in sorted(options):
            if self.outcome.saved + saved >= self.need:
                _, units, loss, _ = self._rate(index, count)
                self.take(index, units, loss)
                return
