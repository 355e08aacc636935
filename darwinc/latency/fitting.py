"""From measured times to a function of widths, layer by layer.

A layer's time is a sum of non-negative multiples of what it does (a constant, MACs, elements read and written), counted
with channels filled up to the multiples in which its kernel works, times a factor where a width falls off the fast
kernel. The coefficients are found by non-negative least squares (Lawson and Hanson 1974), so that more channels never
come out faster on the same kernel.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from darwinc.latency.curves import EXCESS, PLAIN, Curve, Curves
from darwinc.latency.kinds import OTHER, SIDES
from darwinc.latency.layers import Layer, Padding
from darwinc.latency.widths import Widths

Times = npt.NDArray[np.float64]
Sides = tuple[Curve, Curve]
"""The curves of the channels that enter and that leave."""

PADDINGS = (1, 4, 8, 16, 32)
FEWEST = 6
"""Configurations on the fast kernel that it takes to leave the others out of the fit."""

MOST_BENT = 3.0

REWEIGHTED = 2
"""How often outliers are looked for."""

TINY = 1e-3
"""Smaller errors, as shares of about twice a layer's time, are none."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A layer with what was found about its time.

    `bent` is the power of the curves' factors that the layer shows in the graph, where neighbours matter too.
    """

    layer: Layer
    padding: Padding
    coefficients: tuple[float, ...]
    curves: Sides
    bent: float = 1.0
    _known: dict[tuple[int, ...], float] = field(default_factory=dict, repr=False)

    def milliseconds(self, widths: Widths) -> float:
        """What the layer takes at some widths of all groups."""
        key = tuple(widths[group] for group in self.layer.groups)
        if key not in self._known:
            features = self.layer.features(widths, self.padding)
            plain = sum(map(operator.mul, self.coefficients, features))
            self._known[key] = plain * factor(self.layer, self.curves, widths) ** self.bent
        return self._known[key]


def factor(layer: Layer, curves: Sides, widths: Widths) -> float:
    """By how much a layer is slower than with the next multiples."""
    sides = zip((layer.entering, layer.leaving), curves, strict=True)
    return math.prod(curve.factor(axis.at(widths)) for axis, curve in sides if axis is not None)


def fit(layers: Sequence[Layer], configurations: Sequence[Widths], times: Times, curves: Curves) -> list[Fitted]:
    """Functions of widths for all layers, from their times [K, L] in K configurations."""
    by_kind: dict[str, list[int]] = {}
    for place, layer in enumerate(layers):
        by_kind.setdefault(layer.op_type if layer.kind == OTHER else layer.kind, []).append(place)
    found: dict[int, Fitted] = {}
    for places in by_kind.values():
        found |= _fit_kind(layers, places, configurations, times, curves)
    return [found[place] for place in range(len(layers))]


def refit(fitted: Sequence[Fitted], configurations: Sequence[Widths], times: Times) -> list[Fitted]:
    """The same functions with other times [K, L]."""
    return [
        _fit_layer(layer.layer, layer.padding, configurations, times[:, place], layer.curves)[0]
        for place, layer in enumerate(fitted)
    ]


def _fit_kind(
    layers: Sequence[Layer], places: Sequence[int], configurations: Sequence[Widths], times: Times, curves: Curves
) -> dict[int, Fitted]:
    """The layers of one kind, with the multiples of its curves, or else with those that fit all of them best."""
    kind = layers[places[0]].kind
    measured = tuple(curves.get((kind, side)) for side in SIDES)
    own = (measured[0] or PLAIN, measured[1] or PLAIN)
    best: tuple[float, dict[int, Fitted]] = (math.inf, {})
    for padding in _paddings(kind, measured):
        pairs = {place: _fit_layer(layers[place], padding, configurations, times[:, place], own) for place in places}
        error = sum(left for _, left in pairs.values())
        if error < best[0]:
            best = (error, {place: fitted for place, (fitted, _) in pairs.items()})
    return best[1]


def _paddings(kind: str, measured: Iterable[Curve | None]) -> list[Padding]:
    if kind == OTHER:
        return [Padding(multiple, multiple) for multiple in PADDINGS]
    choices = (PADDINGS if curve is None else (curve.multiple,) for curve in measured)
    return [Padding(*pair) for pair in itertools.product(*choices)]


def _fit_layer(
    layer: Layer, padding: Padding, configurations: Sequence[Widths], times: Times, curves: Sides
) -> tuple[Fitted, float]:
    """The function, and its squared error relative to the layer's times."""
    factors = np.array([factor(layer, curves, widths) for widths in configurations])
    features = np.array([layer.features(widths, padding) for widths in configurations])
    weights = 1.0 / (times + np.median(times) + 1e-9)
    fast = np.abs(np.log(factors)) <= EXCESS
    chosen = fast if fast.sum() >= FEWEST else np.ones(len(times), np.bool_)
    rows = features * (factors * weights)[:, None]
    coefficients = _robust(rows[chosen], (times * weights)[chosen])
    bent = _bent(features @ coefficients, times, factors) if fast.sum() >= FEWEST else 1.0
    predicted = features @ coefficients * factors**bent
    fitted = Fitted(layer, padding, tuple(coefficients.tolist()), curves, bent)
    return fitted, float(np.square((predicted - times) * weights).sum())


def _robust(rows: Times, values: Times) -> Times:
    """Non-negative least squares [K, F] on which outliers have little say (reweighted by Cauchy's function)."""
    coefficients, _ = nnls(rows, values)
    for _ in range(REWEIGHTED):
        errors = np.abs(rows @ coefficients - values)
        scale = max(2.0 * float(np.median(errors)), TINY)
        weights = 1.0 / np.sqrt(1.0 + np.square(errors / scale))
        coefficients, _ = nnls(rows * weights[:, None], values * weights)
    return np.asarray(coefficients)


def _bent(fast: Times, times: Times, factors: Times) -> float:
    """The power of the factors that explains times off the fast kernel; 1 where there are none."""
    slow = (np.abs(np.log(factors)) > EXCESS) & (fast > 0) & (times > 0)
    if not slow.any():
        return 1.0
    return float(np.clip(np.median(np.log(times[slow] / fast[slow]) / np.log(factors[slow])), 0.0, MOST_BENT))
