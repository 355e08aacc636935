"""The pictures of an evolution: the family tree, what generations gained and lost, widths, and the Pareto archive."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import MaxNLocator

from darwinc.evolution_schema import Individual
from darwinc.pages.drawing import Drawing, label, legend
from darwinc.pages.evolution_questions import Family, family, fittest, forebears, line_of_descent, outcome, shares
from darwinc.pages.evolution_tables import points_text
from darwinc.pages.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Picture
from darwinc.pages.quality_plots import Scale, pareto, progress, quality_scale
from darwinc.report_schema import Group, Report

FEW = 60
"""Offspring up to which the tree has the lines of all of them."""
SPREAD = 0.56
"""Of a generation's nodes, in generations."""
GOLDEN = (math.sqrt(5) - 1) / 2
MOST_LINES, MOST_ROWS = 12, 48
"""Groups up to which widths are lines, and rows of a heat map."""
SHARES = tuple(place / 10 for place in range(11))
LINES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
Numbers = npt.NDArray[np.float64]


def family_pictures(report: Report) -> list[Picture]:
    """Everything of an evolution that can be drawn, in the order of the page."""
    found = family(report)
    if found is None:
        return []
    drawn = [tree(found), progress(found), widths(found, report.groups), pareto(found)]
    return [picture for picture in drawn if picture is not None]


# The tree -------------------------------------------------------------------------------------------------------------


def tree(found: Family) -> Picture | None:
    """Every network at its generation and quality, with lines to its parents."""
    networks = [network for network in found.networks.values() if outcome(network) is not None]
    if len(networks) < 2:
        return None
    alive, line = found.survivors, forebears(found)
    known = [network for network in networks if network.id in alive or network is found.ancestor]
    scale = quality_scale([one for one in known if not one.collapsed], networks)
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
    return Picture("Family tree", drawing.svg, f"{words}.", _tree_note(found, scale, crowded=crowded))


def _tree_note(found: Family, scale: Scale, *, crowded: bool) -> str:
    side = len(forebears(found)) > len(line_of_descent(found))
    remarks = [
        "Lines lead to parents, and are as wide as the share that the parent had.",
        "Blue ones lead to the winner" + (", dark ones by the parent with the largest share." if side else "."),
        "Networks of a generation are spread sideways to be told apart.",
        "Lines of those that did not survive are left out." if crowded else "",
        "What is worse than the dotted line is drawn on it." if scale.hides else "",
    ]
    return " ".join(filter(None, remarks))


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
    drawn = [edge for edge in edges if edge[0] in spots and edge[1] in spots]
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
    order = np.sort(np.argsort(table[-1], kind="stable")[:MOST_ROWS])
    few = len(whole) <= MOST_LINES
    with Drawing("widths", 3.0 if few else 1.1 + 0.13 * len(order)) as drawing:
        axes = drawing.figure.subplots()
        if few:
            _draw_lines(axes, ats, 100 * table, names)
        else:
            _draw_map(drawing, axes, ats, table[:, order], [names[place] for place in order])
        axes.set_xlabel("generation")
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    least = np.argsort(table[-1], kind="stable")[:MOST_LINES]
    ends = [f"{label(names[place])} {100 * table[-1, place]:.0f} %" for place in least]
    words = f"Channels of {len(order)} groups over the generations, as shares of the ancestor's; in the end "
    words += "there is least of " if len(least) < len(order) else "there is of "
    note = f"The {len(order)} of {len(whole)} groups that lost the largest share." if len(order) < len(whole) else ""
    return Picture("Widths over the generations", drawing.svg, f"{words}{', '.join(ends)}.", note)


def _draw_lines(axes: Axes, ats: Sequence[int], table: Numbers, names: Sequence[str]) -> None:
    """A line for each group [T, G], named in the order in which the lines end."""
    for rank, place in enumerate(np.argsort(-table[-1], kind="stable")):
        style = ("-", "--")[rank // len(LINES)]
        axes.plot(
            ats, table[:, place], style, color=LINES[rank % len(LINES)], marker="o", markersize=2.5, linewidth=1.3,
            label=f"{table[-1, place]:.0f} % {label(names[place], 24)}",
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
