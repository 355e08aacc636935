"""What a model takes in ONNX Runtime, as a function of the widths of its groups, measured here.

The graph is rewritten at a few dozen configurations of widths, and profiled; each layer's time becomes a function of
the widths that it depends on (`fitting`), and their sum is matched to whole runs without the profiler. Nothing is
assumed of the processor.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from scipy.optimize import least_squares

from darwinc import report_schema
from darwinc.channels import Channels
from darwinc.latency.curves import Curves
from darwinc.latency.fitting import Fitted, Times, fit, refit
from darwinc.latency.layers import Plan
from darwinc.latency.measuring import Asked, curves_of, profiles_of
from darwinc.latency.multiples import by_kind, preferred
from darwinc.latency.store import Measured
from darwinc.latency.widths import Widths, full

SLOPES = (0.5, 2.0)
"""How many times what its layers take in the profiler a whole run may take."""

PROFILER_MS = 0.015
"""The most that noting one layer may take."""

OUTLIER = 0.03
"""Relative errors beyond this count for less."""

FLAT = 1e-3
"""The least that widths have to change, as a share, for a line to be told."""

LEAST_MS = 1e-4


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Milliseconds of a run as a function of the living units of each group.

    Attributes:
        fitted: the layers, in the order of execution.
        slope, offset: a whole run takes `slope` times the layers' sum plus `offset` milliseconds; the offset is mostly
            negative, as the profiler itself takes time.
        scale: a correction by measurements of the real thing.
        full: the widths of the model as it is.
        measured_ms: what that took, per run.
        curves: what each kind of operator makes of widths.
        error: median relative error at the configurations that were measured.
    """

    fitted: tuple[Fitted, ...]
    slope: float
    offset: float
    full: tuple[int, ...]
    measured_ms: float
    curves: Curves
    error: float
    scale: float = 1.0

    @classmethod
    def measure(cls, model: ir.Model, channels: Channels, asked: Asked | None = None) -> LatencyModel:
        """Measure a model, or take up what is kept of an earlier measurement.

        Raises:
            InvalidModel: ONNX Runtime can't load, run or profile it.
            UsageError: another provider than the processor, or a model of over 2 GB.
        """
        asked = asked or Asked()
        curves = curves_of(channels, asked.part(0.0, 0.3))
        measured = profiles_of(model, channels, asked.part(0.3, 1.0))
        return cls.of(channels, measured, curves)

    @classmethod
    def of(cls, channels: Channels, measured: Measured, curves: Curves) -> LatencyModel:
        """The function behind some profiles, the first of which is that of the model as it is."""
        plan = Plan(channels, measured.events[0])
        times = np.array([plan.times(events) for events in measured.events]).reshape(len(measured.events), -1)
        fitted = fit(plan.layers, measured.widths, times, curves)
        levels = _levels(times.sum(axis=1), _sums(fitted, measured.widths), measured.batches)
        fitted = refit(fitted, measured.widths, times / levels[:, None])
        sums, walls = _sums(fitted, measured.widths), np.array(measured.walls)
        slope, offset = _line(sums, walls, len(fitted))
        walls = walls / _levels(walls, slope * sums + offset, measured.batches)
        slope, offset = _line(sums, walls, len(fitted))
        errors = np.abs((slope * sums + offset) / walls - 1)
        whole = full(channels)
        now = [wall for widths, wall in zip(measured.widths, walls.tolist(), strict=True) if list(widths) == whole]
        return cls(tuple(fitted), slope, offset, tuple(whole), float(np.median(now)), curves, float(np.median(errors)))

    def predict(self, widths: Widths) -> float:
        """Milliseconds of a run with some living units of each group."""
        return self.whole(sum(layer.milliseconds(widths) for layer in self.fitted))

    def whole(self, layers: float) -> float:
        """Milliseconds of a run whose layers take so many in the profiler."""
        return self.scale * max(self.slope * layers + self.offset, LEAST_MS)

    def layers(self, widths: Widths) -> list[report_schema.LayerLatency]:
        """What each layer takes in the model as it is and at some widths; both sum up to the whole run's prediction."""
        before, after = ([layer.milliseconds(some) for layer in self.fitted] for some in (self.full, widths))
        parts = [self.whole(sum(times)) / max(sum(times), LEAST_MS) for times in (before, after)]
        return [
            report_schema.LayerLatency(
                node=layer.layer.node,
                op_type=layer.layer.op_type,
                before_ms=first * parts[0],
                after_ms=second * parts[1],
            )
            for layer, first, second in zip(self.fitted, before, after, strict=True)
        ]

    def report(self, widths: Widths) -> report_schema.LatencyModel:
        """The table `latency_model` of the report, for some widths."""
        return report_schema.LatencyModel(
            before_ms=self.predict(self.full),
            after_ms=self.predict(widths),
            multiples=self.multiples,
            layers=self.layers(widths),
        )

    @property
    def multiples(self) -> dict[str, int]:
        """The multiple of channels that each kind of operator likes here, by kind and side."""
        return by_kind(self.curves)

    def preferred_multiples(self, channels: Channels, default: int = 1) -> list[int]:
        """The multiple of channels that each group should keep; `default` where no measured operator cares."""
        return preferred(channels, self.curves, default)

    def corrected(self, widths: Widths, measured_ms: float) -> LatencyModel:
        """The same model, made to agree with what was measured at some widths: milliseconds of the real thing.

        The caller chooses widths, rewrites, measures, corrects and chooses again, until the target is close enough.
        """
        return replace(self, scale=self.scale * measured_ms / self.predict(widths))

    def price(self) -> LatencyPrice:
        """The cost of what lives, in milliseconds, with everybody alive."""
        return LatencyPrice(self)


class LatencyPrice:
    """`cost.Price` in milliseconds: only the layers that a group touches are looked at when it loses units."""

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._living = list(model.full)
        self._times = [layer.milliseconds(self._living) for layer in model.fitted]
        self._sum = math.fsum(self._times)
        self._touched: dict[int, list[int]] = defaultdict(list)
        for place, layer in enumerate(model.fitted):
            for group in layer.layer.groups:
                self._touched[group].append(place)

    def current(self) -> float:
        """Milliseconds of a run with what lives now."""
        return self._model.whole(self._sum)

    def saved(self, group: int, units: int) -> float:
        """By how many milliseconds a run gets shorter when `units` more units of a group die; may be negative."""
        return self.current() - self._model.whole(self._sum - sum(self._changes(group, units).values()))

    def remove(self, group: int, units: int) -> None:
        """Let `units` units of a group die (a negative number brings them back)."""
        for place, change in self._changes(group, units).items():
            self._times[place] -= change
        self._living[group] -= units
        self._sum = math.fsum(self._times)

    def _changes(self, group: int, units: int) -> dict[int, float]:
        """By how much the time of each layer that a group touches falls."""
        widths = self._living.copy()
        widths[group] -= units
        fitted = self._model.fitted
        return {place: self._times[place] - fitted[place].milliseconds(widths) for place in self._touched[group]}


def _sums(fitted: Sequence[Fitted], configurations: Sequence[Widths]) -> Times:
    """What all layers take together [K]."""
    return np.array([sum(layer.milliseconds(widths) for layer in fitted) for widths in configurations])


def _levels(took: Times, expected: Times, batches: Sequence[int]) -> Times:
    """By how much the batch of each configuration was slowed down as a whole [K], 1 for the median of batches."""
    ratios, numbers = took / np.maximum(expected, LEAST_MS), np.array(batches)
    levels = {batch: float(np.median(ratios[numbers == batch])) for batch in set(batches)}
    usual = float(np.median(list(levels.values())))
    return np.array([levels[batch] / usual for batch in batches])


def _line(sums: Times, walls: Times, layers: int) -> tuple[float, float]:
    """The line through sums and whole runs [K], by relative error, on which outliers have little say.

    The profiler takes a few microseconds for each of the layers.
    """
    if np.ptp(sums) < FLAT * sums.max():
        return float(np.median(walls / sums)), 0.0
    found = least_squares(
        lambda line: (line[0] * sums + line[1]) / walls - 1,
        (1.0, 0.0),
        bounds=((SLOPES[0], -PROFILER_MS * layers), (SLOPES[1], 0.5 * float(walls.min()))),
        loss="soft_l1",
        f_scale=OUTLIER,
    )
    return float(found.x[0]), float(found.x[1])
