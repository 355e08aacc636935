"""The pictures of a report: channels, causes of death, masses, training, latency and bounds.

Colours are those of Okabe and Ito, which colour-blind eyes tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from darwinc.pages.drawing import Drawing, label, legend
from darwinc.pages.questions import lost_most, training_steps
from darwinc.report_schema import Bound, Dynamics, Group, PopulationHistory, Recovery, Report

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C8C",
)  # fmt: skip
CAUSES = {
    "collapsed": GREY,
    "redundant": BLUE,
    "no_influence": ORANGE,
    "stagnant": GREEN,
    "low_score": PURPLE,
}
OTHER = SKY
ROW, NARROW_ROW = 0.24, 0.155
"""Inches."""
ROWS_PER_COLUMN = 50
MOST_PANELS, PANELS_IN_A_ROW = 12, 3
MOST_LAYERS = 60
MOST_STEPS, MOST_POINTS = 150, 1600
"""Points of a line, and of all lines of a panel; histories that are longer are thinned."""
FURTHEST = 1e4
"""Times the largest error; bounds beyond it would squeeze everything else."""
LINEAR_UP_TO = 4
"""Masses are 1 on average; an axis that reaches further is logarithmic above 1."""
MOST_LINES = 64
"""Units above which a panel shows bands."""
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A drawing: its title, the SVG, what it shows in words, and what a reader should know about it."""

    title: str
    svg: str
    alternative: str
    note: str = ""


def pictures(report: Report) -> list[Picture]:
    """Everything of a report that can be drawn, in the order of the page."""
    drawn: list[Picture | None] = [channels(report.groups), causes(report.groups)]
    if report.dynamics is not None:
        drawn += [alive(report.dynamics), masses(report.dynamics, report.groups)]
    drawn += [training(step) for step in training_steps(report.recovery)]
    drawn += [latency(report), guarantee(report)]
    return [picture for picture in drawn if picture is not None]


# Groups ---------------------------------------------------------------------------------------------------------------


def channels(groups: Sequence[Group]) -> Picture | None:
    """Channels of every group before and after."""
    if not groups:
        return None

    def draw(axes: Axes, part: Sequence[Group], *, narrow: bool) -> None:
        places = np.arange(len(part))
        axes.barh(places, [group.channels_before for group in part], 0.76, color=GREY, alpha=0.35, label="before")
        axes.barh(places, [group.channels_after for group in part], 0.76, color=BLUE, label="after")
        for place, group in zip(places, part, strict=True):
            axes.annotate(
                f"{group.channels_after} of {group.channels_before}",
                (group.channels_before, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=5.5 if narrow else 7,
            )
        axes.margins(x=0.3 if narrow else 0.12)

    shrunk = sum(group.channels_after < group.channels_before for group in groups)
    words = f"Bars of the channels of {len(groups)} groups before and after; {shrunk} of them lost channels."
    return Picture("Channels before and after", _by_group("channels", groups, draw, "channels"), words)


def causes(groups: Sequence[Group]) -> Picture | None:
    """How many channels of every group died of what."""
    dying = [group for group in groups if any(group.causes.values())]
    if not dying:
        return None
    known = [cause for cause in CAUSES if any(group.causes.get(cause) for group in dying)]
    others = sorted({cause for group in dying for cause in group.causes} - CAUSES.keys())

    def draw(axes: Axes, part: Sequence[Group], *, narrow: bool) -> None:
        del narrow
        places, start = np.arange(len(part)), np.zeros(len(part))
        for cause in [*known, *others]:
            counts = np.array([group.causes.get(cause, 0) for group in part], float)
            some, colour = counts > 0, CAUSES.get(cause, OTHER)
            axes.barh(places[some], counts[some], 0.76, start[some], color=colour, label=label(cause.replace("_", " ")))
            start += counts

    total = {cause: sum(group.causes.get(cause, 0) for group in dying) for cause in [*known, *others]}
    words = f"Stacked bars of {sum(total.values())} deaths in {len(dying)} groups: "
    words += ", ".join(f"{count} {cause.replace('_', ' ')}" for cause, count in total.items())
    return Picture("Causes of death", _by_group("causes", dying, draw, "channels that died"), f"{words}.")


def _by_group(name: str, groups: Sequence[Group], draw: Callable[..., None], axis: str) -> str:
    """A row for each group, in as many columns as keep the page short."""
    columns = min(4, -(-len(groups) // ROWS_PER_COLUMN))
    rows = -(-len(groups) // columns)
    narrow = columns > 1
    limit = {1: 44, 2: 22}.get(columns, 12)
    with Drawing(name, 0.9 + rows * (NARROW_ROW if narrow else ROW)) as drawing:
        found = drawing.figure.subplots(1, columns, squeeze=False, sharex=True)[0]
        for column, axes in enumerate(found):
            part = groups[column * rows : (column + 1) * rows]
            draw(axes, part, narrow=narrow)
            _rows(axes, [_group_name(group, limit) for group in part], 5.5 if narrow else 7.5, rows)
            axes.set_xlabel(axis)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        legend(drawing.figure, found[0])
    return drawing.svg


def _group_name(group: Group, limit: int) -> str:
    first = f"  {group.members[0].tensor}" if group.members else ""
    room = limit - len(group.id) - 2
    return label(group.id, limit) + (f"  {label(first, room)}" if first and room > 8 else "")


def _rows(axes: Axes, names: Sequence[str], size: float, rows: int) -> None:
    axes.set_yticks(np.arange(len(names)), names, fontsize=size)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


# Selection over time --------------------------------------------------------------------------------------------------


def alive(dynamics: Dynamics) -> Picture | None:
    """How many units lived at every recorded step."""
    count = min(len(dynamics.steps), len(dynamics.alive))
    if count < 2:
        return None
    with Drawing("alive", 2.2) as drawing:
        axes = drawing.figure.subplots()
        chosen = _thinned(count)
        axes.step(
            [dynamics.steps[at] for at in chosen], [dynamics.alive[at] for at in chosen], where="post", color=BLUE
        )
        axes.set_ylim(0)
        axes.set_xlabel("step")
        axes.set_ylabel("units alive")
    words = f"Units alive over the steps: {dynamics.alive[0]} at first, {dynamics.alive[count - 1]} at the end."
    return Picture("Units alive over time", drawing.svg, words)


def masses(dynamics: Dynamics, groups: Sequence[Group]) -> Picture | None:
    """The masses of the groups that lost most."""
    shown = lost_most(dynamics, groups)[:MOST_PANELS]
    if not shown:
        return None
    columns = min(PANELS_IN_A_ROW, len(shown))
    rows = -(-len(shown) // columns)
    with Drawing("masses", 0.5 + 1.75 * rows) as drawing:
        found = drawing.figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
        for axes, history in zip(found, shown, strict=False):
            _history(axes, history, dynamics.steps)
        for axes in found[len(shown) :]:
            axes.set_visible(False)
    words = f"Masses of the units of {len(shown)} groups over the steps; " + ", ".join(
        f"{label(history.id)}: {_extinct(history)} extinct" for history in shown
    )
    note = (
        "Blue units live at the end. Vermilion ones became extinct, at the cross. Where there are many, bands show all "
        "units, the middle half of them and the median, and crosses below when some became extinct."
    )
    return Picture("Masses of the groups that lost most", drawing.svg, f"{words}.", note)


def _extinct(history: PopulationHistory) -> int:
    return sum(step is not None for step in history.extinct)


def _history(axes: Axes, history: PopulationHistory, steps: Sequence[int]) -> None:
    width = min((len(row) for row in history.masses), default=0)
    count = min(len(history.masses), len(steps))
    banded = history.summarised or width > MOST_LINES
    chosen = _thinned(count, MOST_STEPS if banded else min(MOST_STEPS, MOST_POINTS // max(width, 1)))
    table = np.array([history.masses[at][:width] for at in chosen], float).reshape(len(chosen), width)
    at = np.array([steps[place] for place in chosen], float)
    died = sorted(step for step in history.extinct if step is not None)
    if banded and width:
        _bands(axes, at, table if history.summarised else np.quantile(table, (0, 0.25, 0.5, 0.75, 1), axis=1).T)
        axes.plot(died, np.zeros(len(died)), "x", color=VERMILION, markersize=3, alpha=0.6)
    else:
        _lines(axes, at, table, history.extinct)
    if table.size and float(np.nanmax(table)) > LINEAR_UP_TO:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(f"{label(history.id, 24)}: {len(died)} of {len(history.extinct) or width} extinct")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _bands(axes: Axes, at: Numbers, table: Numbers) -> None:
    """Of the minimum, the quartiles and the maximum [T, 5]."""
    width = table.shape[1]
    for edge, shade in ((0, 0.18), (1, 0.35)):
        axes.fill_between(at, table[:, edge], table[:, width - 1 - edge], color=BLUE, alpha=shade, linewidth=0)
    axes.plot(at, table[:, width // 2], color=BLUE, linewidth=1.2)


def _lines(axes: Axes, at: Numbers, table: Numbers, extinct: Sequence[int | None]) -> None:
    """Of every unit [T, U], those of a kind as one path with gaps."""
    dates = [extinct[unit] if unit < len(extinct) else None for unit in range(table.shape[1])]
    for died, colour in ((False, BLUE), (True, VERMILION)):
        units = [unit for unit, date in enumerate(dates) if (date is not None) == died]
        gap = np.full((1, len(units)), np.nan)
        lines = np.concatenate([table[:, units], gap]).T.ravel()
        axes.plot(np.tile([*at, np.nan], len(units)), lines, color=colour, linewidth=0.7, alpha=0.75)
    marks = [(date, np.interp(date, at, table[:, unit])) for unit, date in enumerate(dates) if date is not None]
    if marks and len(at):
        axes.plot(*zip(*marks, strict=True), "x", color=VERMILION, markersize=3.5)


def _thinned(count: int, most: int = MOST_STEPS) -> list[int]:
    """Places of the first, the last, and some between."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, max(most, 2))})


# Training, latency, guarantee -----------------------------------------------------------------------------------------


def training(step: Recovery) -> Picture | None:
    """The loss and the score of a training."""
    history = step.training.history if step.training is not None else []
    rows = [[*row, None, None, None][:3] for row in history if row and row[0] is not None]
    series = [(1, "training loss", ORANGE), (2, label(step.measure), BLUE)]
    shown = [(place, name, colour) for place, name, colour in series if sum(row[place] is not None for row in rows) > 1]
    if not shown:
        return None
    with Drawing(f"training {label(step.name)}", 2.3) as drawing:
        for axes, (place, name, colour) in zip(
            drawing.figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            points = [(row[0], row[place]) for row in rows if row[place] is not None]
            points = [points[at] for at in _thinned(len(points))]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=2.5, linewidth=1.2)
            axes.set_xlabel("step")
            axes.set_ylabel(name)
    words = f"Curves of {step.name}: {' and '.join(name for _, name, _ in shown)} at {len(rows)} evaluations."
    return Picture(f"Training: {label(step.name)}", drawing.svg, words)


def latency(report: Report) -> Picture | None:
    """Milliseconds of every node before, and as the model predicts them."""
    layers = report.latency_model.layers if report.latency_model is not None else []
    shown = sorted(layers, key=lambda layer: -layer.before_ms)[:MOST_LAYERS]
    shown = [layer for layer in layers if layer in shown][:MOST_LAYERS]
    if not shown:
        return None
    with Drawing("latency", 0.9 + ROW * len(shown)) as drawing:
        axes, places = drawing.figure.subplots(), np.arange(len(shown))
        axes.barh(places, [layer.before_ms for layer in shown], 0.76, color=GREY, alpha=0.35, label="measured before")
        axes.barh(places, [layer.after_ms for layer in shown], 0.4, color=GREEN, label="predicted after")
        _rows(axes, [f"{label(layer.node)}  {label(layer.op_type, 16)}" for layer in shown], 7.5, len(shown))
        axes.set_xlabel("milliseconds")
        legend(drawing.figure, axes)
    before, after = (sum(getattr(layer, key) for layer in layers) for key in ("before_ms", "after_ms"))
    words = (
        f"Bars of {len(shown)} nodes: {before:.3g} ms measured before, {after:.3g} ms predicted after, all together."
    )
    note = f"The slowest {len(shown)} of {len(layers)} nodes." if len(shown) < len(layers) else ""
    return Picture("Latency, node by node", drawing.svg, words, note)


def guarantee(report: Report) -> Picture | None:
    """The predicted bound of the error beside the measured one, relative to the size of what is bounded."""
    if report.guarantee is None:
        return None
    rows = [*report.guarantee.layers, *report.guarantee.outputs][-MOST_LAYERS:]
    if not any(row.measured for row in rows):
        return None
    with Drawing("guarantee", 1.0 + ROW * len(rows)) as drawing:
        axes = drawing.figure.subplots()
        axes.set_xscale("log")
        _bounds(axes, rows)
        low, high = axes.get_xlim()
        axes.set_xlim(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))
        names = [f"output {label(row.output)}" if row.node is None else label(row.node) for row in rows]
        _rows(axes, names, 7.5, len(rows))
        axes.set_xlabel("error, relative to the value" if all(row.scale for row in rows) else "error")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.5)
        legend(drawing.figure, axes)
    vacuous = sum(row.vacuous for row in rows)
    words = f"Measured error and predicted bound at {len(rows)} layers and outputs, on a logarithmic scale; "
    words += f"{vacuous} of the bounds are vacuous."
    note = (
        "The bound is that of a network whose layers inherit, on these samples; the one that was written is compared "
        "with it. Above 100 times the measured error it is vacuous: it says nothing. So is one that doesn't exist. "
        "Bounds that lie further out are drawn at the right edge."
    )
    return Picture("Predicted bound and measured error", drawing.svg, words, note)


def _bounds(axes: Axes, rows: Sequence[Bound]) -> None:
    def relative(value: float | None, row: Bound) -> float:
        size = row.scale if all(other.scale for other in rows) else 1.0
        return value / size if value and size else math.nan

    measured = [relative(row.measured, row) for row in rows]
    edge = FURTHEST * max(filter(math.isfinite, measured))
    for name, vacuous, colour, fill in (("predicted bound", False, ORANGE, ORANGE), ("vacuous", True, GREY, "none")):
        places = [place for place, row in enumerate(rows) if row.vacuous == vacuous and row.bound]
        if places:
            found = [min(relative(rows[place].bound, rows[place]), edge) for place in places]
            axes.plot(found, places, ">", color=colour, markerfacecolor=fill, markersize=5, label=name)
            axes.hlines(places, [measured[place] for place in places], found, color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(measured, np.arange(len(rows)), "o", color=BLUE, markersize=4, label="measured")
    for place, row in enumerate(rows):
        if row.bound is None:
            words = f"no bound: {label(row.unbounded, 24)}" if row.unbounded else "no bound"
            at = measured[place] if math.isfinite(measured[place]) else axes.get_xlim()[0]
            axes.annotate(words, (at, place), (7, 0), textcoords="offset points", va="center", fontsize=7, color=GREY)
