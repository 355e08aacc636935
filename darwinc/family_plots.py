"""The pictures of an evolution: the family tree, what generations gained and lost, widths, and the Pareto archive."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from darwinc.drawing import Drawing, label, legend
from darwinc.evolution_page import name_text, points_text, times_text
from darwinc.evolution_questions import (
    Family,
    archive,
    family,
    fittest,
    forebears,
    line_of_descent,
    measured,
    outcome,
    over,
    shares,
)
from darwinc.evolution_schema import Individual
from darwinc.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Picture
from darwinc.report_schema import Group, Report

FEW = 60
"""Offspring up to which the tree has the lines of all of them."""
SPREAD = 0.56
"""Of a generation's nodes, in generations."""
GOLDEN = (math.sqrt(5) - 1) / 2
MOST_LINES, MOST_ROWS = 12, 48
"""Groups up to which widths are lines, and rows of a heat map."""
SHARES = tuple(place / 10 for place in range(11))
RATIOS = (
    ("parameters", "parameters", BLUE, "-"),
    ("macs", "MACs", ORANGE, "--"),
    ("kernels", "kernels", GREEN, "-."),
    ("synapses", "synapses", PURPLE, ":"),
)
LINES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
CONTROL_NAMES = {"one-shot": "one-shot cut", "random": "random cut", "scratch": "trained from scratch"}
CONTROL_MARKS = ("s", "D", "^", "v", "P", "X")
Numbers = npt.NDArray[np.float64]


def family_pictures(report: Report) -> list[Picture]:
    """Everything of an evolution that can be drawn, in the order of the page."""
    found = family(report)
    if found is None:
        return []
    drawn = [tree(found), progress(found), widths(found, report.groups), pareto(found)]
    return [picture for picture in drawn if picture is not None]


# Quality on an axis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Points of quality from `low` to `high`; what is worse than `low` is drawn at the edge."""

    low: float
    high: float
    hides: bool

    def place(self, quality: float) -> float:
        """Where a quality between 0 and 1 is drawn."""
        return max(100 * quality, self.low)

    def apply(self, axes: Axes, found: Family, edge: str = "lower") -> None:
        """Set up the axis."""
        room = 0.06 * (self.high - self.low)
        axes.set_ylim(self.low - room, self.high + room)
        axes.set_ylabel(f"{_metric(found)}, points")
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        if self.hides:
            axes.axhline(self.low, color=GREY, linewidth=0.5, linestyle=":")
            axes.annotate(
                edge, (1, self.low), (0, -2), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="top", fontsize=6.5,
            )  # fmt: skip


def _scale(good: Sequence[float], others: Sequence[float], room: float = 0.6) -> Scale:
    """From the good, with room below as a share of their range; collapsed ones would squeeze all that matters."""
    low, high = (100 * find(good or others) for find in (min, max))
    floor = low - max(room * (high - low), 0.5)
    lowest = 100 * min([*good, *others])
    return Scale(max(floor, lowest), max(high, 100 * max([*good, *others])), lowest < floor)


def _metric(found: Family) -> str:
    return label(found.evolution.metric, 24) if found.evolution is not None else "quality"


def _qualities(networks: Sequence[Individual | None]) -> list[float]:
    figures = [outcome(network) for network in networks if network is not None]
    return [figure for figure in figures if figure is not None]


# The tree -------------------------------------------------------------------------------------------------------------


def tree(found: Family) -> Picture | None:
    """Every network at its generation and quality, with lines to its parents."""
    networks = [network for network in found.networks.values() if outcome(network) is not None]
    if len(networks) < 2:
        return None
    alive, line = found.survivors, forebears(found)
    known = [network for network in networks if network.id in alive or network is found.ancestor]
    scale = _scale(_qualities(known), _qualities(networks))
    crowded = len(networks) > FEW
    spots = _spots(networks, scale)
    with Drawing("family tree", 4.4) as drawing:
        axes = drawing.figure.subplots()
        children = [network for network in networks if not crowded or network.id in alive or network.id in line]
        _descent(axes, _edges([child for child in children if child.id not in line]), spots, GREY, 0.4)
        _descent(axes, _edges([child for child in children if child.id in line]), spots, SKY, 0.5 if crowded else 0.8)
        _descent(axes, _main_line(found), spots, BLUE, 1.0)
        _nodes(axes, found, networks, spots, crowded=crowded)
        scale.apply(axes, found, "worse")
        axes.set_xlim(min(at for at, _ in spots.values()) - 0.5, max(at for at, _ in spots.values()) + 0.5)
        axes.set_xlabel("generation")
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
        legend(drawing.figure, axes)
    collapsed = sum(network.collapsed for network in networks)
    words = f"Family tree of {len(networks)} networks in {len(found.generations)} generations by quality: "
    words += f"{len(alive)} survived, {collapsed} collapsed"
    if found.winner is not None:
        words += f", and the winner is {label(found.winner.id)} with {points_text(outcome(found.winner))} points"
    note = (
        "Lines lead to parents, and are as wide as the share that the parent had; light blue ones lead to the winner, "
    )
    note += "dark blue ones by the parent with the largest share."
    note += " Networks of a generation are spread sideways to be told apart."
    note += " Lines of those that did not survive are left out." if crowded else ""
    note += " What is worse than the dotted line is drawn on it." if scale.hides else ""
    return Picture("Family tree", drawing.svg, f"{words}.", note)


def _spots(networks: Sequence[Individual], scale: Scale) -> dict[str, tuple[float, float]]:
    """Where each network is drawn: neighbours in quality are far apart sideways."""
    spots: dict[str, tuple[float, float]] = {}
    for generation in sorted({network.generation for network in networks}):
        born = [network for network in networks if network.generation == generation]
        ranked = sorted(born, key=lambda network: (outcome(network) or 0, network.id))
        for rank, network in enumerate(ranked):
            aside = SPREAD * ((0.5 + rank * GOLDEN) % 1 - 0.5) if len(ranked) > 1 else 0.0
            spots[network.id] = (generation + aside, scale.place(outcome(network) or 0.0))
    return spots


Edge = tuple[str, str, float]
"""A parent, its child, and the share that the parent had."""


def _edges(children: Sequence[Individual]) -> list[Edge]:
    return [(name, child.id, share) for child in children for name, share in shares(child).items()]


def _main_line(found: Family) -> list[Edge]:
    line = line_of_descent(found)
    return [(parent.id, child.id, shares(child)[parent.id]) for child, parent in itertools.pairwise(line)]


def _descent(
    axes: Axes, edges: Sequence[Edge], spots: Mapping[str, tuple[float, float]], colour: str, shade: float
) -> None:
    drawn = [edge for edge in edges if edge[0] in spots]
    lines = [[spots[parent], spots[child]] for parent, child, _ in drawn]
    thick = [0.5 + 2 * min(max(share, 0.0), 1.0) for *_, share in drawn]
    axes.add_collection(LineCollection(lines, linewidths=thick, colors=colour, alpha=shade, zorder=1))


def _nodes(
    axes: Axes,
    found: Family,
    networks: Sequence[Individual],
    spots: Mapping[str, tuple[float, float]],
    *,
    crowded: bool,
) -> None:
    alive, winner = found.survivors, found.winner
    size = 3.0 if crowded else 5.5
    special = {network.id for network in (found.ancestor, winner) if network is not None}
    kinds = (
        ("did not survive", GREY, GREY, [one for one in networks if one.id not in alive and not one.collapsed]),
        ("collapsed", "none", VERMILION, [one for one in networks if one.collapsed]),
        ("survived", BLUE, BLUE, [one for one in networks if one.id in alive and not one.collapsed]),
    )
    for name, fill, edge, members in kinds:
        shown = [spots[one.id] for one in members if one.id not in special]
        if shown:
            axes.plot(
                *zip(*shown, strict=True), "o", color=edge, markerfacecolor=fill, markersize=size,
                label=name, zorder=2, alpha=0.45 if edge == GREY else 0.9, clip_on=False,
            )  # fmt: skip
    for name, mark, colour, network in (("ancestor", "s", GREEN, found.ancestor), ("winner", "*", ORANGE, winner)):
        if network is not None and network.id in spots:
            big = 7 if mark == "s" else 13
            axes.plot(
                *([each] for each in spots[network.id]), mark, color=colour, markersize=big, label=name,
                markeredgecolor=BLUE if mark == "*" else colour, zorder=3, clip_on=False,
            )  # fmt: skip


# Gains and losses -----------------------------------------------------------------------------------------------------


def progress(found: Family) -> Picture | None:
    """How much smaller the fittest survivor is, and how good all offspring are, generation by generation."""
    best = [(row.generation, network) for row in found.generations if (network := fittest(found, row)) is not None]
    series = [(name, colour, style, _ratios(found, best, key)) for key, name, colour, style in RATIOS]
    series = [entry for entry in series if len(entry[3]) > 1]
    offspring = [network for network in found.offspring if outcome(network) is not None]
    panels = [panel for panel, there in (("ratios", series), ("quality", len(offspring) > 1)) if there]
    if not panels:
        return None
    scale, hidden = Scale(0, 1, False), False
    with Drawing("progress", 3.2) as drawing:
        for panel, axes in zip(panels, drawing.figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            if panel == "ratios":
                _draw_ratios(axes, series)
            else:
                scale = _draw_quality(axes, found, offspring, best)
                hidden = scale.hides
            axes.set_xlabel("generation")
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=7, borderaxespad=0.2, columnspacing=1.2,
                handlelength=1.6,
            )  # fmt: skip
    words = "Curves over the generations: "
    parts = [
        f"the fittest survivor ends with {times_text(points[-1][1])} fewer {name}" for name, _, _, points in series
    ]
    if "quality" in panels:
        parts.append(f"the quality of {len(offspring)} offspring as dots, before and after training")
    note = "Ratios are the ancestor's count over that of the generation's fittest survivor." if series else ""
    note += " Offspring that are worse than the dotted line are drawn on it." if hidden else ""
    return Picture("Efficiency and quality by generation", drawing.svg, f"{words}{'; '.join(parts)}.", note.strip())


def _ratios(found: Family, best: Sequence[tuple[int, Individual]], key: str) -> list[tuple[int, float]]:
    known = [(0, found.ancestor), *best] if found.ancestor is not None else []
    return [(at, ratio) for at, network in known if (ratio := over(found.ancestor, network, key)) is not None]


def _draw_ratios(axes: Axes, series: Sequence[tuple[str, str, str, list[tuple[int, float]]]]) -> None:
    axes.set_yscale("log")
    for rank, (name, colour, style, points) in enumerate(series):
        # Curves that lie on each other show as bands: the first is the widest.
        axes.plot(
            *zip(*points, strict=True), style, color=colour, marker="o", markersize=2.5, linewidth=3.0 - 0.6 * rank,
            label=f"{name} {times_text(points[-1][1])}",
        )  # fmt: skip
    _plain_logarithms(axes)
    axes.set_ylabel("ancestor / network")
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)


def _plain_logarithms(axes: Axes, axis: str = "y") -> None:
    """Marks at 1, 2 and 5, as plain numbers."""
    ticks = axes.yaxis if axis == "y" else axes.xaxis
    ticks.set_major_locator(LogLocator(10, (1, 2, 5)))
    ticks.set_major_formatter(FuncFormatter(_short))
    ticks.set_minor_formatter(NullFormatter())


def _short(value: float, _: object = None) -> str:
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _draw_quality(
    axes: Axes, found: Family, offspring: Sequence[Individual], best: Sequence[tuple[int, Individual]]
) -> Scale:
    first = outcome(found.ancestor) if found.ancestor is not None else None
    before = [(one, measured(one.quality_before)) for one in offspring]
    after = [(one, measured(one.quality)) for one in offspring]
    raw = [(one, measured(one.quality_raw)) for one in offspring]
    both = [("before training", ORANGE, -0.15, before), ("after training", BLUE, 0.15, after)]
    shown = [entry for entry in both if any(quality is not None for _, quality in entry[3])]
    shown = shown or [("right after the cut", ORANGE, 0.0, raw)]
    figures = [(one, quality) for *_, rows in shown for one, quality in rows if quality is not None]
    usual = sorted(quality for one, quality in figures if not one.collapsed)
    good = [*usual[len(usual) // 10 :], *_qualities([network for _, network in best])]
    scale = _scale([*good, *([first] if first is not None else [])], [quality for _, quality in figures], 0.05)
    for name, colour, aside, rows in shown:
        points = [(one.generation + aside, scale.place(quality)) for one, quality in rows if quality is not None]
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=2.6, alpha=0.55, label=name, clip_on=False)
    line = [(at, scale.place(quality)) for at, network in best if (quality := outcome(network)) is not None]
    if line:
        axes.plot(*zip(*line, strict=True), color=GREEN, linewidth=1.4, label="fittest survivor")
    if first is not None:
        axes.axhline(100 * first, color=GREY, linewidth=1, linestyle="--", label="ancestor")
    scale.apply(axes, found, "worse")
    return scale


# Widths ---------------------------------------------------------------------------------------------------------------


def widths(found: Family, groups: Sequence[Group]) -> Picture | None:
    """What share of each group's channels the fittest survivor has, generation by generation."""
    whole = found.ancestor.widths if found.ancestor is not None else []
    whole = whole or [group.channels_before for group in groups]
    rows = [(row.generation, one.widths) for row in found.generations if (one := fittest(found, row)) is not None]
    rows = [(at, row) for at, row in rows if len(row) == len(whole)]
    if not rows or not whole:
        return None
    ats = [min(at for at, _ in rows) - 1, *(at for at, _ in rows)]
    table = np.array([whole, *(row for _, row in rows)], float) / np.maximum(np.array(whole, float), 1)
    names = [group.id for group in groups] if len(groups) == len(whole) else [f"group {at}" for at in range(len(whole))]
    order = np.argsort(table[-1], kind="stable")[:MOST_ROWS]
    order = np.sort(order)
    few = len(whole) <= MOST_LINES
    with Drawing("widths", 3.0 if few else 1.1 + 0.13 * len(order)) as drawing:
        axes = drawing.figure.subplots()
        if few:
            _draw_lines(axes, ats, 100 * table, names)
        else:
            _draw_map(drawing, axes, ats, table[:, order], [names[place] for place in order])
        axes.set_xlabel("generation")
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    ends = [f"{label(names[place])} {100 * table[-1, place]:.0f} %" for place in order]
    words = f"Channels of {len(order)} groups over the generations, as shares of the ancestor's; at the end: "
    note = f"The {len(order)} of {len(whole)} groups that lost the largest share." if len(order) < len(whole) else ""
    return Picture("Widths over the generations", drawing.svg, f"{words}{', '.join(ends)}.", note)


def _draw_lines(axes: Axes, ats: Sequence[int], table: Numbers, names: Sequence[str]) -> None:
    """A line for each group [T, G], named in the order in which the lines end."""
    for rank, place in enumerate(np.argsort(-table[-1], kind="stable")):
        style = ("-", "--")[rank // len(LINES)]
        axes.plot(
            ats, table[:, place], style, color=LINES[rank % len(LINES)], marker="o", markersize=2.5, linewidth=1.3,
            label=f"{label(names[place], 24)} {table[-1, place]:.0f} %",
        )  # fmt: skip
    axes.set_ylim(0, 104)
    axes.set_ylabel("channels, % of the ancestor's")
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7.5)


def _draw_map(drawing: Drawing, axes: Axes, ats: Sequence[int], table: Numbers, names: Sequence[str]) -> None:
    """A row for each group [T, G]; drawn as rectangles, since a page may not hold images."""
    edges = np.array([*ats, ats[-1] + 1], float) - 0.5
    norm = BoundaryNorm(SHARES, len(SHARES) - 1)
    colours = matplotlib.colormaps["viridis"].resampled(len(SHARES) - 1)
    mesh = axes.pcolormesh(
        edges, np.arange(len(names) + 1) - 0.5, table.T, norm=norm, cmap=colours, edgecolors="face", linewidth=0.4
    )
    bar = drawing.figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.03, aspect=40)
    bar.set_ticks(list(SHARES[::2]), labels=[f"{100 * share:.0f} %" for share in SHARES[::2]])
    bar.ax.spines["outline"].set_visible(False)
    axes.set_yticks(np.arange(len(names)), [label(name, 24) for name in names], fontsize=6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


# Pareto ---------------------------------------------------------------------------------------------------------------


def pareto(found: Family) -> Picture | None:
    """Quality against what a network costs, of all of them."""
    networks = [network for network in found.offspring if outcome(network) is not None]
    counts = [("parameters", "parameters"), ("macs", "MACs")]
    shown = [(key, name) for key, name in counts if sum(bool(getattr(one, key)) for one in networks) > 1]
    if not shown:
        return None
    kept = archive(found)
    good = [*kept, *found.controls, found.winner, found.ancestor]
    scale = _scale(_qualities([one for one in good if one is not None and not one.collapsed]), _qualities(networks))
    with Drawing("pareto", 3.4) as drawing:
        panels = drawing.figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axes, (key, name) in zip(panels, shown, strict=True):
            _draw_pareto(axes, found, key, scale)
            scale.apply(axes, found, "worse")
            axes.set_xlabel(name)
            _plain_logarithms(axes, "x")
        for axes in panels[1:]:
            axes.set_ylabel("")
        legend(drawing.figure, panels[0])
    words = f"Quality of {len(networks)} offspring against {' and '.join(name for _, name in shown)}: "
    words += f"{len(kept)} are in the Pareto archive; controls: "
    words += (
        ", ".join(f"{label(name_text(one))} {points_text(outcome(one))} points" for one in found.controls) or "none"
    )
    note = "The archive also looks at foreseen latency and at the other count, so that some of it lies behind here."
    return Picture("Quality against cost", drawing.svg, f"{words}.", note)


def _draw_pareto(axes: Axes, found: Family, key: str, scale: Scale) -> None:
    axes.set_xscale("log")
    kept = archive(found)
    names = {network.id for network in kept}
    rest = [network for network in found.offspring if network.id not in names]
    marks: list[tuple[str, str, str, float, list[Individual]]] = [
        ("offspring", "o", GREY, 3, rest),
        ("Pareto archive", "o", BLUE, 5, kept),
        ("ancestor", "s", GREEN, 6, [found.ancestor] if found.ancestor is not None else []),
        ("winner", "*", ORANGE, 13, [found.winner] if found.winner is not None else []),
    ]
    for place, control in enumerate(found.controls):
        mark = CONTROL_MARKS[place % len(CONTROL_MARKS)]
        marks.append(
            (label(CONTROL_NAMES.get(control.name or "", name_text(control)), 22), mark, VERMILION, 6, [control])
        )
    for name, mark, colour, size, members in marks:
        points = [
            (getattr(one, key), scale.place(quality))
            for one in members
            if getattr(one, key) and (quality := outcome(one)) is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), mark, color=colour, markersize=size, label=name, clip_on=False,
                alpha=0.5 if colour == GREY else 0.95, markerfacecolor="none" if colour == VERMILION else colour,
                markeredgecolor=BLUE if mark == "*" else colour,
            )  # fmt: skip
