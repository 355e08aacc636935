"""What a kernel makes of widths: the multiples that it likes, and by how much others are slower."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from darwinc.latency.kinds import Side

CANDIDATES = (1, 2, 4, 8, 16, 32)
"""Multiples that are told apart, the coarsest last."""

EXCESS = 0.05
"""How far the widths of a multiple may lie above the envelope of times, on average, and it still be fast."""

NARROW = 16
"""Narrower widths may have kernels of their own, and don't count when multiples are told apart."""

LEAST_HEIGHT = 0.1
"""Of an envelope below its narrowest width, as a share of its height there."""


@dataclass(frozen=True)
class Curve:
    """How time depends on the width of one side of an operator.

    Attributes:
        multiple: the smallest multiple whose widths are fast.
        exact: of the widths that were timed, time over what the next multiple takes.
        classes: the same for all others, by the largest candidate that divides a width.
    """

    multiple: int
    exact: Mapping[int, float] = field(default_factory=dict)
    classes: Mapping[int, float] = field(default_factory=dict)

    def factor(self, width: float) -> float:
        """How much slower a width is than the next multiple above it."""
        whole = round(width)
        known = self.exact.get(whole)
        return self.classes.get(math.gcd(whole, CANDIDATES[-1]), 1.0) if known is None else known


Curves = Mapping[tuple[str, Side], Curve]
"""By kind of operator and side."""

PLAIN = Curve(1)


def read(times: Mapping[int, float]) -> Curve:
    """The curve behind some widths' milliseconds.

    The envelope is the lower convex hull of time over width: fast widths lie on it, and others, filled up to the next
    multiple, above it.
    """
    envelope = _hull({width: time for width, time in times.items() if width >= NARROW})
    excess = {width: time / _at(envelope, width) - 1 for width, time in times.items() if width >= NARROW}
    fast = itertools.takewhile(lambda candidate: _mean(excess, candidate) <= EXCESS, CANDIDATES[-2::-1])
    multiple = min(fast, default=CANDIDATES[-1])
    ratios = {width: time / _at(envelope, multiple * math.ceil(width / multiple)) for width, time in times.items()}
    exact = {width: ratio for width, ratio in ratios.items() if abs(math.log(ratio)) > EXCESS}
    classes: dict[int, list[float]] = {}
    for width, ratio in ratios.items():
        if width >= NARROW and width % multiple:
            classes.setdefault(math.gcd(width, CANDIDATES[-1]), []).append(max(1.0, ratio))
    medians = {divisor: sorted(found)[len(found) // 2] for divisor, found in sorted(classes.items())}
    exact |= {width: 1.0 for width in ratios if width not in exact and (width < NARROW or width % multiple)}
    return Curve(multiple, exact, {divisor: ratio for divisor, ratio in medians.items() if ratio > 1 + EXCESS})


def _mean(excess: Mapping[int, float], candidate: int) -> float:
    """The mean excess of the widths that a candidate divides, and no coarser one."""
    found = [value for width, value in excess.items() if math.gcd(width, CANDIDATES[-1]) == candidate]
    return sum(found) / max(len(found), 1)


def _hull(times: Mapping[int, float]) -> list[tuple[int, float]]:
    """The lower convex hull of points (width, time), by width (Andrew's monotone chain, 1979)."""
    hull: list[tuple[int, float]] = []
    for point in sorted(times.items()):
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_up(first: tuple[int, float], second: tuple[int, float], third: tuple[int, float]) -> bool:
    """Does the second of three points lie on or above the line between the others?"""
    return (second[1] - first[1]) * (third[0] - first[0]) >= (third[1] - first[1]) * (second[0] - first[0])


def _at(hull: list[tuple[int, float]], width: int) -> float:
    """The hull's height, by linear interpolation; below its narrowest width its first line goes on, but not to zero."""
    for (left, low), (right, high) in itertools.pairwise(hull):
        if width <= right:
            return max(low + (high - low) * (width - left) / (right - left), LEAST_HEIGHT * low)
    return hull[-1][1]
