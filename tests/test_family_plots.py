"""Pictures of an evolution: what is drawn, in what scale, and of families of any size and kind."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from darwinc.evolution_schema import Individual
from darwinc.pages.evolution_questions import Family, family, forebears, line_of_descent
from darwinc.pages.family_plots import FEW, MOST_LINES, MOST_ROWS, family_pictures, tree, widths
from darwinc.pages.plots import BLUE, GREY, SKY, Picture
from darwinc.pages.quality_plots import pareto, progress, quality_scale, scale_of
from darwinc.report import Report, build_report
from tests.made_up_family import MadeUpFamily
from tests.test_report import smallest
from tests.test_report_html import HOSTILE

TITLES = [
    "Family tree",
    "Efficiency and quality by generation",
    "Widths over the generations",
    "Quality against cost",
]
LARGE = MadeUpFamily(20, 50, survivors=10, widths=[16] * 20 + [32] * 18 + [64] * 18, culled=True, efficiency=60)
RUNS = {
    "two parents": MadeUpFamily(),
    "one parent": MadeUpFamily(8, parents=1, survivors=1),
    "three parents": MadeUpFamily(parents=3),
    "without training": MadeUpFamily(trained=False),
    "synapses": MadeUpFamily(culled=True),
    "without controls": MadeUpFamily(controls=()),
    "one generation": MadeUpFamily(1, 2),
}


@functools.cache
def drawn(name: str) -> list[Picture]:
    return family_pictures(MadeUpFamily(name=name).report())


@functools.cache
def drawn_large() -> list[Picture]:
    return family_pictures(LARGE.report())


def family_of(report: Report) -> Family:
    found = family(report)
    assert found is not None
    return found


def text_of(picture: Picture) -> set[str]:
    drawing = ElementTree.fromstring(picture.svg)
    return {word.strip() for word in drawing.itertext() if word.strip()}


def strokes(picture: Picture, colour: str) -> int:
    """Lines of two points in a colour."""
    lines = re.findall(r'<path d="M [^"A-KN-Z]*L [^"A-KN-Z]*"[^>]*>', picture.svg)
    return sum(f"stroke: {colour.lower()}" in line for line in lines)


@pytest.mark.parametrize("made", RUNS.values(), ids=RUNS)
def test_every_kind_of_run_has_its_pictures(made: MadeUpFamily) -> None:
    found = family_pictures(made.report())
    assert [picture.title for picture in found] == TITLES
    for picture in found:
        ElementTree.fromstring(picture.svg)
        assert picture.alternative.endswith(".")
        words = " ".join([picture.alternative, picture.note, *text_of(picture)])
        assert not re.search(r"\b(nan|None|inf)\b", words), words


def test_nothing_is_drawn_of_nothing() -> None:
    assert family_pictures(build_report(smallest())) == []
    empty = smallest() | {"generations": [{"generation": 1}]}
    assert family_pictures(build_report(empty)) == []


def test_an_unfinished_run_is_drawn_as_far_as_it_went() -> None:
    values = smallest() | MadeUpFamily().values()
    del values["evolution"]
    report = build_report(values)
    assert report.after is None
    assert [picture.title for picture in family_pictures(report)] == TITLES


def test_every_network_is_a_node_and_every_share_a_line() -> None:
    report = MadeUpFamily().report()
    found = family_of(report)
    picture = tree(found)
    assert picture is not None
    assert "31 networks in 5 generations" in picture.alternative
    line, descent = forebears(found), line_of_descent(found)
    edges = sum(len(set(found.networks[name].parents)) for name in line)
    # The main line is drawn over the light one; the markers of legend and axes are no lines of two points.
    assert strokes(picture, SKY) == edges
    assert strokes(picture, BLUE) == len(descent) - 1
    assert {"did not survive", "collapsed", "survived", "ancestor", "winner"} <= text_of(picture)


def test_lines_of_those_that_did_not_survive_are_left_out_of_a_large_tree() -> None:
    found = family_of(LARGE.report())
    assert len(found.offspring) > FEW
    picture = drawn_large()[0]
    children = found.survivors | forebears(found)
    edges = sum(len(set(found.networks[name].parents)) for name in children)
    assert strokes(picture, SKY) + strokes(picture, f"{GREY}; stroke-opacity: 0.4") == edges
    assert "Lines of those that did not survive are left out." in picture.note


def test_pictures_of_a_thousand_networks_stay_small() -> None:
    assert [picture.title for picture in drawn_large()] == TITLES
    assert sum(len(picture.svg.encode()) for picture in drawn_large()) < 1.2e6


def test_the_scale_shows_the_good_and_moves_the_failed_to_its_edge() -> None:
    scale = scale_of([0.97, 0.99], [0.96, 0.965, 0.98], [0.1])
    assert scale.hides
    assert 95.5 < scale.low < 96
    assert scale.high == pytest.approx(99)
    assert (scale.place(0.1), scale.place(0.98)) == (scale.low, 98)
    alone = scale_of([], [], [0.1, 0.2])
    assert [alone.low, alone.high] == pytest.approx([10, 20])
    assert not alone.hides


def test_the_worst_tenth_of_the_others_may_be_at_the_edge_but_none_of_the_good() -> None:
    scale = scale_of([0.5], [0.1, *([0.9] * 10)])
    assert scale.low == pytest.approx(48)
    assert scale.hides
    assert not scale_of([0.5], [0.6] * 10).hides


def test_the_scale_of_a_family_has_all_survivors() -> None:
    found = family_of(MadeUpFamily(seed=3).report())
    alive = [found.networks[name] for name in found.survivors]
    scale = quality_scale(alive, found.offspring)
    assert all(scale.low <= 100 * (one.quality or 0) <= scale.high for one in alive)


def test_ratios_in_the_legend_are_the_last_survivors() -> None:
    report = MadeUpFamily().report()
    found = family_of(report)
    picture = progress(found)
    assert picture is not None
    last = found.networks[str(found.generations[-1].survivor)]
    assert found.ancestor is not None
    ratio = (found.ancestor.parameters or 0) / (last.parameters or 1)
    assert f"parameters {ratio:.3g}x" in text_of(picture)
    assert {"before training", "after training", "fittest survivor", "ancestor"} <= text_of(picture)


def test_without_training_there_is_one_kind_of_dot() -> None:
    picture = progress(family_of(MadeUpFamily(trained=False).report()))
    assert picture is not None
    assert {"offspring"} <= text_of(picture)
    assert not {"before training", "after training"} & text_of(picture)


@pytest.mark.parametrize("count", [1, MOST_LINES, MOST_LINES + 1, 200])
def test_few_groups_are_lines_and_many_a_map(count: int) -> None:
    report = MadeUpFamily(widths=[32] * count).report()
    picture = widths(family_of(report), report.groups)
    assert picture is not None
    shown = {word.split()[-1] for word in text_of(picture) if re.search(r"\bg\d+$", word)}
    assert len(shown) == min(count, MOST_ROWS)
    assert ("of 200 groups" in picture.note) == (count == 200)
    assert "data:" not in picture.svg
    assert "<image" not in picture.svg


def test_widths_are_shares_of_the_ancestors() -> None:
    report = MadeUpFamily().report()
    found = family_of(report)
    picture = widths(found, report.groups)
    assert picture is not None
    last = found.networks[str(found.generations[-1].survivor)]
    assert found.ancestor is not None
    for group, left, whole in zip(report.groups, last.widths, found.ancestor.widths, strict=True):
        assert f"{100 * left / whole:.0f} % {group.id}" in text_of(picture)


def test_widths_that_do_not_fit_the_ancestor_are_not_drawn() -> None:
    report = MadeUpFamily().report()
    found = family_of(report)
    for one in found.offspring:
        one.widths = [1, 2]
    assert widths(found, report.groups) is None


def test_controls_have_marks_with_names() -> None:
    picture = pareto(family_of(MadeUpFamily().report()))
    assert picture is not None
    names = {"one-shot cut", "random cut", "trained from scratch", "Pareto archive", "winner", "ancestor", "offspring"}
    assert names <= text_of(picture)
    assert {"parameters", "MACs"} <= text_of(picture)
    assert "the random cut" in picture.alternative


def nothing(one: Individual) -> None:
    one.quality = one.quality_before = one.quality_raw = one.fitness = None
    one.parameters = one.macs = one.kernels = one.synapses = None
    one.widths, one.distance, one.shares = [], [], []


def no_numbers(one: Individual) -> None:
    one.quality = one.quality_before = one.quality_raw = one.fitness = math.nan
    one.shares = [math.inf] * len(one.parents)


def worthless(one: Individual) -> None:
    one.quality = one.quality_before = one.quality_raw = 0.0
    one.parameters, one.macs, one.kernels, one.synapses = 0, -1, 0, 0


@pytest.mark.parametrize("spoil", [nothing, no_numbers, worthless])
@pytest.mark.parametrize("which", ["all", "some"])
def test_figures_that_are_missing_are_left_out(spoil: Callable[[Individual], None], which: str) -> None:
    report = MadeUpFamily().report()
    assert report.evolution is not None
    for one in [report.evolution.ancestor, *report.evolution.controls, *family_of(report).offspring]:
        if which == "all" or one.id.endswith(("1", "2", "5", "m")):
            spoil(one)
    for picture in family_pictures(report):
        ElementTree.fromstring(picture.svg)
        assert not re.search(r"\b(nan|None|inf)\b", " ".join([picture.alternative, *text_of(picture)]))
        assert not re.search(r'="[^"]*\bnan\b', picture.svg)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_names(name: str) -> None:
    values: dict[str, Any] = smallest() | MadeUpFamily(name=name).values()
    values["evolution"]["controls"][0]["name"] = name
    for picture, other in zip(family_pictures(build_report(values)), drawn("tame"), strict=True):
        tags = [element.tag for element in ElementTree.fromstring(picture.svg).iter()]
        assert set(tags) == {element.tag for element in ElementTree.fromstring(other.svg).iter()}


def test_the_same_family_gives_the_same_pictures() -> None:
    assert family_pictures(MadeUpFamily(name="tame").report()) == drawn("tame")
