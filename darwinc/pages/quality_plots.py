"""The pictures of an evolution that show quality against generations and costs, and the axis that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from darwinc.evolution_schema import Individual
from darwinc.pages.drawing import Drawing, label, legend
from darwinc.pages.evolution_questions import Family, archive, fittest, measured, outcome, over
from darwinc.pages.evolution_tables import name_text, points_text, times_text
from darwinc.pages.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, Picture

RATIOS = (
    ("parameters", "parameters", BLUE, "-"),
    ("macs", "MACs", ORANGE, "--"),
    ("kernels", "kernels", GREEN, "-."),
    ("synapses", "synapses", PURPLE, ":"),
)
CONTROL_NAMES = {"one-shot": "one-shot cut", "random": "random cut", "scratch": "trained from scratch"}
CONTROL_MARKS = ("s", "D", "^", "v", "P", "X")


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
        room = 0.06 * max(self.high - self.low, 0.5)
        axes.set_ylim(self.low - room, self.high + room)
        axes.set_ylabel(f"{_metric(found)}, points")
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        if self.hides:
            axes.axhline(self.low, color=GREY, linewidth=0.5, linestyle=":")
            axes.annotate(
                edge, (1, self.low), (0, -2), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="top", fontsize=6.5,
            )  # fmt: skip


def scale_of(good: Sequence[float], others: Sequence[float], failed: Sequence[float] = ()) -> Scale:
    """An axis that shows all the good, and the others but for their worst tenth and those that failed.

    Collapsed networks would squeeze all that matters.
    """
    usual = sorted(others)[len(others) // 10 :]
    everything = [*good, *others, *failed]
    low, high = (100 * find([*good, *usual] or everything) for find in (min, max))
    floor = low - max(0.05 * (high - low), 0.2)
    lowest = 100 * min(everything)
    return Scale(max(floor, lowest), max(high, 100 * max(everything)), lowest < floor)


def quality_scale(good: Sequence[Individual], networks: Sequence[Individual]) -> Scale:
    """An axis for the outcomes of networks."""
    return scale_of(
        qualities(good),
        qualities([one for one in networks if not one.collapsed]),
        qualities([one for one in networks if one.collapsed]),
    )


def _metric(found: Family) -> str:
    return label(found.evolution.metric, 24) if found.evolution is not None else "quality"


def qualities(networks: Sequence[Individual | None]) -> list[float]:
    """Those that were measured."""
    figures = [outcome(network) for network in networks if network is not None]
    return [figure for figure in figures if figure is not None]


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
    hides = False
    with Drawing("progress", 3.2) as drawing:
        for panel, axes in zip(panels, drawing.figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            if panel == "ratios":
                _draw_ratios(axes, series)
            else:
                hides = _draw_quality(axes, found, offspring, best).hides
            axes.set_xlabel("generation")
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=7, borderaxespad=0.2, columnspacing=1.2,
                handlelength=1.6,
            )  # fmt: skip
    words = "Curves over the generations: "
    ends = ", ".join(f"{times_text(points[-1][1])} fewer {name}" for name, _, _, points in series)
    parts = [f"the fittest survivor ends with {ends}"] if series else []
    if "quality" in panels:
        parts.append(f"the quality of {len(offspring)} offspring as dots")
    note = "Ratios are the ancestor's count over that of the generation's fittest survivor." if series else ""
    note += " Offspring that are worse than the dotted line are drawn on it." if hides else ""
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
    if len(shown) < 2:
        shown = [("offspring", BLUE, 0.0, shown[0][3] if shown else raw)]
    figures = [(one, quality) for *_, rows in shown for one, quality in rows if quality is not None]
    scale = scale_of(
        [*qualities([network for _, network in best]), *([first] if first is not None else [])],
        [quality for one, quality in figures if not one.collapsed],
        [quality for one, quality in figures if one.collapsed],
    )
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


# Pareto ---------------------------------------------------------------------------------------------------------------


def pareto(found: Family) -> Picture | None:
    """Quality against what a network costs, of all of them."""
    networks = [network for network in found.offspring if outcome(network) is not None]
    counts = [("parameters", "parameters"), ("macs", "MACs")]
    shown = [(key, name) for key, name in counts if sum((getattr(one, key) or 0) > 0 for one in networks) > 1]
    if not shown:
        return None
    kept = archive(found)
    good = [one for one in (*kept, *found.controls, found.winner, found.ancestor) if one is not None]
    scale = quality_scale([one for one in good if not one.collapsed], networks)
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
        ", ".join(f"{label(name_text(one), 60)} {points_text(outcome(one))} points" for one in found.controls) or "none"
    )
    note = "The archive also looks at foreseen latency and at the other count, so that some of it lies behind here."
    note += " What is worse than the dotted line is drawn on it." if scale.hides else ""
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
        # matplotlib leaves names out of a legend that begin with an underscore.
        name = CONTROL_NAMES.get(control.name or "", f"control {label(name_text(control), 22)}")
        marks.append((name, mark, VERMILION, 6, [control]))
    for name, mark, colour, size, members in marks:
        points = [
            (getattr(one, key), scale.place(quality))
            for one in members
            if (getattr(one, key) or 0) > 0 and (quality := outcome(one)) is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), mark, color=colour, markersize=size, label=name, clip_on=False,
                alpha=0.5 if colour == GREY else 0.95, markerfacecolor="none" if colour == VERMILION else colour,
                markeredgecolor=BLUE if mark == "*" else colour,
            )  # fmt: skip
