"""Widths that every limit allows, near those that were drawn: the weakest go first, the strongest come back first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from darwinc.channels import Channels, Mask
from darwinc.errors import Unreachable
from darwinc.evolution.resources import Ledger
from darwinc.fitness.statistics import Indices, Vector
from darwinc.selection import SHORTFALL, TOLERANCE, Limits, floor
from darwinc.selection.limits import DIVISORS

EQUAL = 1e-9
"""Costs that differ by this share are equal."""
Widths = Sequence[Indices]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Who of each group lives, at every width.

    Attributes:
        orders: the units of each group that may live [N_g], the first to live first. Those who may only fill a group up
            to its least width come last.
        drawn: how many of them may be drawn.
        heights: sums of the perturbed strengths of the first 0, 1, ... of them [N_g + 1].
    """

    orders: Sequence[Indices]
    drawn: Sequence[int]
    heights: Sequence[Vector]

    def dead(self, nobody: Mask, groups: Sequence[Indices], widths: Sequence[int]) -> Mask:
        """Who of the groups' units doesn't live at these widths [count]; `nobody` is all False."""
        dead = nobody.copy()
        for units, order, width in zip(groups, self.orders, widths, strict=True):
            dead[units] = True
            dead[order[:width]] = False
        return dead


def rank(channels: Channels, strengths: Vector, may: Mask, reserve: Mask) -> Ranking:
    """Order the units of every group by perturbed strengths [count]: those that may live, then the reserve [count]."""
    span = float(np.ptp(strengths)) + 1.0 if len(strengths) else 1.0
    orders, drawn, heights = [], [], []
    for group in channels.groups:
        units = group.units[may[group.units] | reserve[group.units]]
        values = strengths[units] - span * ~may[units]
        order = np.argsort(-values, kind="stable")
        orders.append(units[order])
        drawn.append(int(np.count_nonzero(may[units])))
        heights.append(np.concatenate([[0.0], np.cumsum(values[order])]))
    return Ranking(orders, drawn, heights)


def choices(
    channels: Channels, limits: Limits, ranking: Ranking, parents: Sequence[Sequence[int]], divisor: int
) -> list[Indices]:
    """The widths that each group may have, ascending and never none: what `limits` allows with multiples finer by a
    divisor, the group's own width, and its parents' [parents][groups]; groups that aren't eligible keep all they have.
    """
    found = []
    for number, (group, step) in enumerate(zip(channels.groups, limits.steps(channels, divisor), strict=True)):
        cap, whole = ranking.drawn[number], len(ranking.orders[number])
        if not limits.eligible[number]:
            found.append(np.array([cap or whole]))
            continue
        least, bottom = floor(group, step, limits.max_share), floor(group, 1, limits.max_share)
        multiples = np.arange(step * -(-least // step), cap + 1, step)
        others = {len(group), *(widths[number] for widths in parents)}
        widths = np.union1d(multiples, [width for width in others if bottom <= width <= cap]).astype(np.int64)
        found.append(widths if len(widths) else np.array([min(least, whole)]))
    return found


class Repair:
    """Widths as places in their choices, with what they cost; the ledger's owner brings it back."""

    def __init__(self, ledger: Ledger, ranking: Ranking, sizes: Sequence[int], bounds: Mapping[str, float]) -> None:
        self._ledger, self._ranking, self._sizes = ledger, ranking, sizes
        self._bounds = {name: bounds[name] for name in sorted(bounds)}
        self._choices: Widths = []
        self._places: list[int] = []
        self._costs: dict[str, float] = {}

    @property
    def widths(self) -> list[int]:
        """Living units of each group."""
        return [int(choice[place]) for choice, place in zip(self._choices, self._places, strict=True)]

    def run(
        self,
        drawn: Sequence[int],
        choices: Callable[[int], Widths],
        *,
        strict: bool,
    ) -> int:
        """Go from the widths that were drawn to such as meet every bound and come near to one of them.

        `choices` gives the widths for a divisor of multiples. Multiples are made finer only where bounds can't be met,
        or all are missed by more than `SHORTFALL` of themselves. The divisor that these widths need.

        Raises:
            Unreachable: even at the least widths something costs more than its bound.
        """
        widths = list(drawn)
        for divisor in DIVISORS:
            self._place(widths, choices(divisor))
            if self._shrink():
                self._grow(fine=divisor > 1)
                if self._is_near():
                    break
            widths = self.widths
        over = self._exceeded(0.0 if strict else TOLERANCE)
        if over:
            name = over[0]
            raise Unreachable(
                f"No offspring fits its environment: it may have {self._bounds[name]:g} of {name}, and at least "
                f"{self._costs[name]:g} stay; let the environment fall more slowly, or more of a group go."
            )
        return self._needed(choices)

    def _needed(self, choices: Callable[[int], Widths]) -> int:
        """The least divisor with which all widths are among the choices."""
        for divisor in DIVISORS[:-1]:
            if all(width in choice for width, choice in zip(self.widths, choices(divisor), strict=True)):
                return divisor
        return DIVISORS[-1]

    def _place(self, widths: Sequence[int], choices: Widths) -> None:
        """Take other choices, at those nearest to some widths."""
        self._choices, self._places = choices, []
        for choice, width in zip(choices, widths, strict=True):
            self._places.append(int(np.abs(choice - width).argmin()))
        self._ledger.put([size - width for size, width in zip(self._sizes, self.widths, strict=True)])
        self._costs = self._ledger.costs()

    def _mean(self, group: int, place: int) -> float:
        """The mean perturbed strength of those who live at the next place, and not at this one."""
        low, high = int(self._choices[group][place]), int(self._choices[group][place + 1])
        heights = self._ranking.heights[group]
        return float(heights[high] - heights[low]) / (high - low)

    def _saved(self, group: int, place: int) -> dict[str, float]:
        """What is saved where a group goes to another place."""
        choice, here = self._choices[group], self._places[group]
        return self._ledger.saved(group, int(choice[here] - choice[place]))

    def _go(self, group: int, place: int, saved: Mapping[str, float]) -> None:
        self._places[group] = place
        self._ledger.go(group, self._sizes[group] - int(self._choices[group][place]))
        for name, amount in saved.items():
            self._costs[name] -= amount

    def _exceeded(self, tolerance: float = 0.0) -> list[str]:
        return [
            name
            for name, bound in self._bounds.items()
            if self._costs[name] > bound + EQUAL * abs(bound) + tolerance * self._ledger.whole[name]
        ]

    def _is_near(self) -> bool:
        return any(self._costs[name] >= (1.0 - SHORTFALL) * bound for name, bound in self._bounds.items())

    def _shrink(self) -> bool:
        """Let the weakest go until every bound is met; those whose deaths save nothing of it come last."""
        heap = [(self._mean(group, place - 1), group) for group, place in enumerate(self._places) if place > 0]
        heapq.heapify(heap)
        aside: list[tuple[float, int]] = []
        careful = True
        while over := self._exceeded():
            if not heap and not aside:
                return False
            if not heap:
                heap, aside, careful = aside, [], False
                heapq.heapify(heap)
            mean, group = heapq.heappop(heap)
            place = self._places[group] - 1
            saved = self._saved(group, place)
            if careful and not any(saved[name] > 0 for name in over):
                aside.append((mean, group))
                continue
            self._go(group, place, saved)
            if place > 0:
                heapq.heappush(heap, (self._mean(group, place - 1), group))
        return True

    def _grow(self, *, fine: bool) -> None:
        """Let the strongest of the dead come back while every bound holds; `fine` ends as soon as one is near."""
        heap = [
            (-self._mean(group, place), group)
            for group, place in enumerate(self._places)
            if place + 1 < len(self._choices[group])
        ]
        heapq.heapify(heap)
        while heap and not (fine and self._is_near()):
            _, group = heapq.heappop(heap)
            place = self._places[group] + 1
            saved = self._saved(group, place)
            if any(self._costs[name] - saved[name] > bound for name, bound in self._bounds.items()):
                continue
            self._go(group, place, saved)
            if place + 1 < len(self._choices[group]):
                heapq.heappush(heap, (-self._mean(group, place), group))
