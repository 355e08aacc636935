"""Widths for all groups at once: the least predicted loss for what has to be saved, on curves of loss by width.

A knapsack with a choice per group whose costs hang together: removing from one group changes what its neighbours'
channels cost, and time falls in steps, not always downwards. So the sum of losses minus a multiplier times what is
saved is minimised group after group over every width that alignment allows (coordinate descent), the multiplier is
found by bisection, and a local search on single groups and on pairs ends exactly within the window that was asked for
(Everett, "Generalized Lagrange Multiplier Method", 1963, for why each multiplier's optimum is one of the knapsack).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from darwinc.channels import Channels
from darwinc.cost import Price
from darwinc.fitness.statistics import Indices, Vector
from darwinc.selection.limits import DIVISORS, Limits
from darwinc.selection.path import options

Window = tuple[float, float]
Key = tuple[float, float]

MOST_COMBINATIONS = 20_000
"""So many combinations of widths are all tried."""
MOST_PAIRED = 24
"""So many moves of single groups are tried in pairs, so that the work grows with the graph and not with its square."""
MOST_SWEEPS = 12
MOST_HALVINGS = 30
MOST_MOVES = 400
NARROWEST = 1.02
"""The ratio of the multiplier's bounds at which bisection ends."""


def allocate(
    channels: Channels,
    price: Price,
    curves: Sequence[Vector],
    limits: Limits,
    window: Window,
    starts: Sequence[Sequence[int]] = (),
    divisors: Sequence[int] = DIVISORS,
) -> list[int] | None:
    """How many units each group loses, so that what is saved lies in the window, at the least loss that is found.

    `curves` are the losses by number of deaths (`path.Path.curves`), `starts` are further widths to search from, as
    units removed. Multiples are made finer, by these divisors in turn, only where those before meet nothing; None where
    none do. `price` may fall in steps, or rise; afterwards it is as it was.
    """
    for divisor in divisors:
        table = _Table(price, options(channels, limits, divisor), curves)
        few = math.prod(len(choice) for choice in table.options) <= MOST_COMBINATIONS
        found = table.best_of_all(window) if few else table.cheapest(window, starts)
        table.revive()
        if found is not None:
            return found
    return None


def furthest(channels: Channels, price: Price, limits: Limits) -> float:
    """The most that a price that may also rise can be brought down by at aligned widths, as far as a search finds."""
    choices = options(channels, limits, 1)
    table = _Table(price, choices, [np.zeros(1 + int(choice[-1])) for choice in choices])
    most = 0.0
    for place in (0, -1):
        table.place_all([int(choice[place]) for choice in choices])
        table.descend(1.0)
        most = max(most, table.saved)
    table.revive()
    return most


class _Table:
    """Widths of all groups, as places in `options` (units removed), with what is saved and lost there."""

    def __init__(self, price: Price, choices: Sequence[Indices], curves: Sequence[Vector]) -> None:
        self.price, self.options = price, choices
        self.losses = [curve[choice] for curve, choice in zip(curves, choices, strict=True)]
        self.places = [0] * len(choices)
        self.movable = [index for index, choice in enumerate(choices) if len(choice) > 1]
        self.saved = 0.0

    @property
    def loss(self) -> float:
        return sum(float(losses[place]) for losses, place in zip(self.losses, self.places, strict=True))

    def removed(self) -> list[int]:
        return [int(choice[place]) for choice, place in zip(self.options, self.places, strict=True)]

    def savings(self, group: int, places: Sequence[int]) -> Vector:
        """By how much what is saved would grow if a group went to these places, the others staying."""
        here = int(self.options[group][self.places[group]])
        self.price.remove(group, -here)
        base = self.price.saved(group, here) if here else 0.0
        found = [self.price.saved(group, int(self.options[group][place])) if place else 0.0 for place in places]
        self.price.remove(group, here)
        return np.array(found) - base

    def go(self, group: int, place: int) -> None:
        """Put one group elsewhere."""
        if place != self.places[group]:
            self.saved += float(self.savings(group, [place])[0])
            self.price.remove(group, int(self.options[group][place] - self.options[group][self.places[group]]))
            self.places[group] = place

    def place_all(self, removed: Sequence[int]) -> None:
        """Put every group where at most so many units are removed."""
        for group, count in enumerate(removed):
            self.go(group, int(np.searchsorted(self.options[group], count, side="right")) - 1)

    def revive(self) -> None:
        """Bring everybody back to life, so that the price is as it was."""
        self.place_all([0] * len(self.places))

    def descend(self, multiplier: float) -> None:
        """Minimise loss - multiplier * saved group after group, until nothing changes."""
        for _ in range(MOST_SWEEPS):
            changed = False
            for group in self.movable:
                values = self.losses[group] - multiplier * self.savings(group, range(len(self.options[group])))
                place, here = int(values.argmin()), self.places[group]
                if values[place] < values[here] - 1e-12 * abs(values[here]):
                    self.go(group, place)
                    changed = True
            if not changed:
                return

    def cheapest(self, window: Window, starts: Sequence[Sequence[int]]) -> list[int] | None:
        """The widths of least loss in the window, searched from nobody removed, everybody, and the starts."""
        ends = [[int(choice[place]) for choice in self.options] for place in (0, -1)]
        best: tuple[float, list[int]] | None = None
        for start in (*ends, *starts):
            for candidate in self._bracket(window, start):
                found = self.nearest(window, candidate)
                if found is not None and (best is None or self.loss < best[0]):
                    best = self.loss, found
        return None if best is None else best[1]

    def _bracket(self, window: Window, start: Sequence[int]) -> list[list[int]]:
        """The start itself, and the widths on either side of the window between which no multiplier finds others."""
        self.place_all(start)
        everything = sum(float(losses[-1]) for losses in self.losses)
        multiplier = max(everything, 1e-30) / max(self.price.current() + self.saved, 1e-30)
        low, high = 0.0, math.inf
        below, above = list(start), list(start)
        for _ in range(MOST_HALVINGS):
            self.descend(multiplier)
            if self.saved < window[0]:
                low, below = multiplier, self.removed()
                multiplier = 4 * low if math.isinf(high) else math.sqrt(low * high)
            else:
                high, above = multiplier, self.removed()
                multiplier = high / 4 if low == 0 else math.sqrt(low * high)
            if low and high / low < NARROWEST:
                break
        return [list(start), below, above]

    def nearest(self, window: Window, start: Sequence[int]) -> list[int] | None:
        """Into the window by the moves that cost least for the way, then to less loss within it; None if not in."""
        self.place_all(start)
        for _ in range(MOST_MOVES):
            moves = [(group, place) for group in self.movable for place in self._near(group)]
            move = self._best(window, moves)
            if move is None:
                break
            for group, place in move:
                self.go(group, place)
        return self.removed() if _outside(self.saved, window) == 0 else None

    def _near(self, group: int) -> list[int]:
        here = self.places[group]
        return [place for place in range(here - 2, here + 3) if place != here and 0 <= place < len(self.options[group])]

    def _best(self, window: Window, moves: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
        """The one move, or pair of them, that leads nearest to the window, or inside it to the least loss."""
        rated = list(self._rated(moves))
        distance = _outside(self.saved, window)
        nearer: list[tuple[float, tuple[int, int]]] = []
        for move, saved, loss in rated:
            left = _outside(self.saved + saved, window)
            if distance > 0 and left < distance:
                nearer.append((loss / (distance - left), move))
            elif distance == 0 and left == 0 and loss < 0:
                nearer.append((loss, move))
        if distance > 0 and nearer:
            return [min(nearer)[1]]
        pair = self._best_pair(window, rated)
        if nearer and (pair is None or min(nearer)[0] <= pair[0][1]):
            return [min(nearer)[1]]
        return None if pair is None else pair[1]

    def _rated(self, moves: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], float, float]]:
        """Each move with what it saves and loses more than now."""
        for group in dict.fromkeys(group for group, _ in moves):
            places = [place for other, place in moves if other == group]
            losses = self.losses[group][places] - self.losses[group][self.places[group]]
            for place, saved, loss in zip(places, self.savings(group, places), losses, strict=True):
                yield (group, place), float(saved), float(loss)

    def _best_pair(
        self, window: Window, rated: Sequence[tuple[tuple[int, int], float, float]]
    ) -> tuple[Key, list[tuple[int, int]]] | None:
        """A group that gives back and one that gives more: what lies nearest to the window, then at the least loss."""
        back = sorted((entry for entry in rated if entry[1] < 0), key=lambda entry: entry[2] / -entry[1])[:MOST_PAIRED]
        more = sorted((entry for entry in rated if entry[1] > 0), key=lambda entry: entry[2] / entry[1])[:MOST_PAIRED]
        here: Key = (_outside(self.saved, window), 0.0)
        best: tuple[Key, list[tuple[int, int]]] | None = None
        for one, _, loss in back:
            before = self.places[one[0]]
            self.go(*one)
            for two, _, further in more:
                if two[0] == one[0]:
                    continue
                gain = float(self.savings(two[0], [two[1]])[0])
                key = (_outside(self.saved + gain, window), loss + further)
                if key < here and (best is None or key < best[0]):
                    best = key, [one, two]
            self.go(one[0], before)
        return best

    def best_of_all(self, window: Window) -> list[int] | None:
        """The widths of least loss in the window, of all that there are."""
        best: tuple[float, list[int]] | None = None
        for _ in self._everywhere(self.movable):
            if _outside(self.saved, window) == 0 and (best is None or self.loss < best[0]):
                best = self.loss, self.removed()
        return None if best is None else best[1]

    def _everywhere(self, groups: Sequence[int]) -> Iterator[None]:
        """Go through all combinations of places of these groups."""
        if not groups:
            yield
            return
        for place in range(len(self.options[groups[0]])):
            self.go(groups[0], place)
            yield from self._everywhere(groups[1:])


def _outside(saved: float, window: Window) -> float:
    """How far what is saved lies outside of the window."""
    return max(window[0] - saved, saved - window[1], 0.0)
