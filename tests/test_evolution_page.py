"""What the pages and the terminal say of an evolution: every offspring, the controls, and nothing that isn't so."""

from __future__ import annotations

import functools
import io
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from darwinc.commands.compress import show
from darwinc.console import Terminal
from darwinc.pages.evolution import EvolutionPage, evolution_lines, evolution_page
from darwinc.pages.evolution_questions import family
from darwinc.pages.evolution_tables import SHORT, Column, Table, points_text, table_text, times_text
from darwinc.pages.family_plots import family_pictures
from darwinc.pages.html import to_html
from darwinc.report import Report, build_report, to_markdown
from tests.made_up_family import ANCESTOR, MadeUpFamily
from tests.test_report import smallest
from tests.test_report_html import HOSTILE, Reader, drawings

PARSER = MarkdownIt("commonmark").enable("table")
RUNS = {
    "two parents": MadeUpFamily(),
    "one parent": MadeUpFamily(8, parents=1, survivors=1),
    "without training": MadeUpFamily(trained=False),
    "synapses": MadeUpFamily(culled=True),
    "without controls": MadeUpFamily(controls=()),
}


def page_of(report: Report) -> EvolutionPage:
    found = evolution_page(report)
    assert found is not None
    return found


def unfinished() -> Report:
    values = smallest() | MadeUpFamily().values()
    del values["evolution"]
    return build_report(values)


def hostile(name: str) -> Report:
    values: dict[str, Any] = smallest() | MadeUpFamily(generations=3, name=name).values()
    values["evolution"]["controls"][0]["name"] = name
    for row in values["generations"]:
        for one in row["offspring"]:
            one["notes"] = [f"note {name}"]
    return build_report(values)


@functools.cache
def html_of(name: str) -> str:
    return to_html(hostile(name))


def words_of(page: str) -> str:
    return " ".join(" ".join(Reader(page).text).split())


@pytest.mark.parametrize("made", RUNS.values(), ids=RUNS)
def test_every_offspring_is_listed_in_both_pages(made: MadeUpFamily) -> None:
    report = made.report()
    markdown, html = to_markdown(report), words_of(to_html(report))
    found = family(report)
    assert found is not None
    assert len(found.offspring) == made.generations * made.population
    for one in found.offspring:
        assert f"| `{one.id}` | `{one.genome[:SHORT]}` |" in markdown
        assert f"{one.id} {one.genome[:SHORT]}" in html
    for page in (markdown, html):
        assert not re.search(r"\b(nan|None|inf)\b", page)


def test_a_row_says_whose_child_it_is_and_what_became_of_it() -> None:
    report = MadeUpFamily().report()
    found = family(report)
    assert found is not None
    table = page_of(report).generations[-1]
    heads = [column.head for column in table.columns]
    assert heads == [
        "network", "genome", "parents", "distance", "parameters", "kernels", "synapses", "fewer MACs", "cut",
        "inherited", "trained", "fitness", "survived",
    ]  # fmt: skip
    assert found.winner is not None
    row = dict(zip(heads, next(row for row in table.rows if row[0] == found.winner.id), strict=True))
    for name, share in zip(found.winner.parents, found.winner.shares, strict=True):
        assert f"{found.networks[name].genome[:SHORT]} {100 * share:.0f} %" in row["parents"]
    assert row["trained"] == points_text(found.winner.quality)
    assert row["cut"] == points_text(found.winner.quality_raw)
    assert row["survived"] == "winner"
    fates = {cell for shown in page_of(report).generations for *_, cell in shown.rows}
    assert fates == {"winner", "collapsed", "yes", "no"}


def test_what_was_not_measured_has_no_column() -> None:
    heads = [column.head for column in page_of(MadeUpFamily(trained=False).report()).generations[0].columns]
    assert "trained" not in heads
    assert "inherited" in heads


def test_the_summary_says_how_it_ended_and_who_won() -> None:
    report = MadeUpFamily().report(ended="collapse")
    course, winner = page_of(report).summary
    assert course.startswith("5 generations, 30 offspring, of which ")
    assert course.endswith(" collapsed; it ended because every offspring of a generation had collapsed.")
    assert report.evolution is not None
    assert winner.startswith(f"The winner is {report.evolution.winner} of generation 5 (parents ")
    assert "fewer parameters" in winner
    assert winner.endswith("of the ancestor's 98.90 points on 1,000 validation samples.")


def test_the_ancestor_may_win() -> None:
    page = page_of(MadeUpFamily().report(winner=ANCESTOR))
    assert page.summary[1] == "The winner is the ancestor itself: no offspring was fitter."


def test_a_run_that_is_not_finished_says_so_and_invents_nothing() -> None:
    report = unfinished()
    page = page_of(report)
    assert len(page.summary) == 1
    assert page.summary[0].endswith("; not finished.")
    assert (page.controls, page.pareto, page.synapses, page.contests) == (None, None, "", [])
    assert len(evolution_lines(report)) == 1
    assert "not finished" in words_of(to_html(report))
    assert "not finished" in to_markdown(report)


def test_each_control_gets_a_sentence_also_when_the_winner_is_not_better() -> None:
    report = MadeUpFamily().report()
    assert report.evolution is not None
    found = family(report)
    assert found is not None
    assert found.winner is not None
    found.winner.quality = 0.95
    one, other, last = report.evolution.controls
    one.quality, other.quality, last.quality = 0.99, 0.90, 0.951
    sentences = page_of(report).contests
    assert [sentence.partition(" (")[0] for sentence in sentences] == [
        "The winner is worse than the one-shot cut",
        "The winner is better than the random cut",
        "The winner is not shown to be better than the same shape trained from scratch: the samples show no difference",
    ]
    assert "95.00 against 99.00 points, standard error of the difference 0.7" in sentences[0]
    for page in (to_markdown(report), words_of(to_html(report))):
        assert "worse than the one-shot cut" in page
    lines = evolution_lines(report)
    assert "worse than the one-shot cut (-4.00, standard error 0.7" in lines[2]


def test_controls_that_are_missing_are_named() -> None:
    [sentence] = page_of(MadeUpFamily(controls=()).report()).contests
    assert sentence.startswith("Not raised: the one-shot cut, the random cut, the same shape trained from scratch;")
    assert page_of(MadeUpFamily(controls=()).report()).controls is None
    first, second = page_of(MadeUpFamily(controls=["scratch"]).report()).contests
    assert "trained from scratch" in first
    assert second.startswith("Not raised: the one-shot cut, the random cut;")


def test_a_control_that_was_not_measured_and_samples_that_are_unknown() -> None:
    report = MadeUpFamily(controls=["random"]).report(samples=0)
    assert report.evolution is not None
    assert "neither is called better" in page_of(report).contests[0]
    assert "undecided against the random cut" in evolution_lines(report)[2]
    [control] = report.evolution.controls
    control.quality = control.quality_before = control.quality_raw = None
    assert page_of(report).contests[0] == "The random cut was not measured beside the winner."
    assert "not comparable with the random cut, which was not measured" in evolution_lines(report)[2]


def test_the_controls_stand_beside_the_winner_at_their_own_size() -> None:
    report = MadeUpFamily().report()
    table = page_of(report).controls
    assert table is not None
    assert [row[0] for row in table.rows] == [
        "the winner", "the one-shot cut", "the random cut", "the same shape trained from scratch", "the ancestor",
    ]  # fmt: skip
    assert "steps of training" in [column.head for column in table.columns]


def test_an_evolution_that_was_theatre_is_told() -> None:
    report = MadeUpFamily(parents=1).report(options={"parents": 2})
    found = family(report)
    assert found is not None
    assert report.evolution is not None
    assert found.winner is not None
    report.evolution.controls[0].genome = found.offspring[0].genome = found.winner.genome
    told = (
        "The winner has the genome of the one-shot cut: evolution found nothing else.",
        "No survivor has two different parents, though offspring were to have several.",
        "1 offspring has the genome of another one.",
    )
    assert tuple(page_of(report).remarks) == told
    assert evolution_lines(report)[-3:] == [line[0].lower() + line[1:-1] for line in told]


def test_zeros_are_not_sold_as_speed() -> None:
    assert page_of(MadeUpFamily().report()).synapses == ""
    report = MadeUpFamily(culled=True).report()
    for page in (to_markdown(report), words_of(to_html(report)), " ".join(evolution_lines(report))):
        assert re.search(r"[Ss]ynaptic efficiency: \d+(\.\d+)?x fewer synapses than the ancestor, but only ", page)
        assert "they make nothing faster, and the file no smaller" in page


def test_the_terminal_gets_a_few_lines() -> None:
    assert evolution_lines(build_report(smallest())) == []
    results, progress = io.StringIO(), io.StringIO()
    show(Terminal(results=results, progress=progress), MadeUpFamily(culled=True).report(), dry_run=False)
    lines = progress.getvalue().splitlines()
    starts = ("evolution: 5 generations", "winner: g", "controls: the winner is ", "synaptic efficiency: ")
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)


def test_long_tables_are_folded_and_short_ones_stand_open() -> None:
    assert "<details>" not in to_markdown(MadeUpFamily(2, 6).report())
    page = to_markdown(MadeUpFamily(3, 6).report())
    assert page.count("<details>") == page.count("</details>") == page.count("<summary>Generation ") == 3
    tokens = PARSER.parse(page)
    assert sum(token.type == "html_block" for token in tokens) == 6
    tables = [token.type for token in tokens].count("table_open")
    assert tables == [token.type for token in PARSER.parse(page.replace("details>", "p>"))].count("table_open") >= 5


def test_a_page_of_a_thousand_networks_is_whole_and_not_huge() -> None:
    report = MadeUpFamily(20, 50, survivors=10, widths=[16] * 20 + [32] * 36, culled=True, efficiency=60).report()
    page = to_html(report)
    assert len(page.encode()) < 1.8e6
    assert page.count("<details>") > 20
    assert len([tag for tag, _ in Reader(page).tags if tag == "tr"]) > 1000


def test_every_picture_of_the_family_is_on_the_page() -> None:
    report = MadeUpFamily().report()
    page = to_html(report)
    found = [facts for tag, facts in Reader(page).tags if tag == "figure"]
    drawn = family_pictures(report)
    assert len(drawn) == 4
    assert [facts["aria-label"] for facts in found][:4] == [picture.alternative for picture in drawn]
    assert len(list(drawings(page))) == len(found)
    ids = re.findall(r' id="([^"]*)"', page)
    assert all(f"#{name}" in page for name in ids)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_names_in_html(name: str) -> None:
    page, tame = Reader(html_of(name)), Reader(html_of("tame"))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in tame.tags}
    for kind in ("h2", "li", "table", "td", "code", "details", "figure", "text"):
        assert sum(tag == kind for tag, _ in page.tags) == sum(tag == kind for tag, _ in tame.tags), kind
    for _, facts in page.tags:
        assert not [key for key in facts if key.startswith("on") or key in ("src", "action")]
        assert all(str(value).startswith("#") for key, value in facts.items() if key in ("href", "xlink:href"))
    assert f"note {name}".strip() in "".join(page.text).replace("\ufffd", "\x00")


@pytest.mark.parametrize("name", [*HOSTILE, "a|b", "a`b``c", "[x](http://y)", "a\n\n# b", "*a*_b_\\", "</details>"])
def test_names_are_only_names_in_markdown(name: str) -> None:
    tokens, tame = PARSER.parse(to_markdown(hostile(name))), PARSER.parse(to_markdown(hostile("tame")))
    kinds = ("heading_open", "table_open", "td_open", "fence", "list_item_open", "html_block")
    assert [one.type for one in tokens if one.type in kinds] == [one.type for one in tame if one.type in kinds]
    assert {one.content for one in tokens if one.type == "html_block"} == {
        one.content for one in tame if one.type == "html_block"
    }
    children = [child.type for token in tokens for child in token.children or ()]
    assert not {"html_inline", "link_open", "em_open"} & set(children)


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = html_of("tame").replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert "http" not in page.replace("http-equiv", "")
    assert "data:" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_tables_as_markdown() -> None:
    table = Table("t", [Column("name", "name"), Column("figure", "figure"), Column("words")], [["a|b", "1", "*x*"]])
    assert table_text(table) == "| name | figure | words |\n| --- | ---: | --- |\n| `a\\|b` | 1 | \\*x\\* |"


@pytest.mark.parametrize(
    ("ratio", "text"), [(None, "-"), (1.0, "1x"), (139.24, "139x"), (999.4, "999x"), (12345.6, "12,346x")]
)
def test_ratios_as_text(ratio: float | None, text: str) -> None:
    assert times_text(ratio) == text
