"""The page for a browser: whole in one file, nothing runs in it, and what it draws follows the report."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from darwinc.cli import main
from darwinc.pages.drawing import label
from darwinc.pages.html import to_html
from darwinc.pages.plots import MOST_LINES, MOST_PANELS, pictures
from darwinc.pages.questions import causes_of_death, lost_most
from darwinc.pages.texts import guarantee_lines, latency_text, recovery_lines, target_text
from darwinc.report import Report, build_report, to_markdown, write_json
from darwinc.report_schema import Latency, Target
from tests.test_report import full, smallest

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}{$",
    "--><svg onload=alert(1)>",
    "]]></style><b>",
    "a\x00b\x1b[31m",
    "{{ 7 * 7 }}",
    "_hidden",
    "",
    "层归一化",
)
VOID = {"meta", "br"}


def made(count: int = 5, *, name: str = "", steps: int = 40) -> Report:
    """A report of everything that can be drawn, about so many groups."""
    random = np.random.default_rng(0)
    groups = [
        {
            "id": f"g{place}{name}",
            "channels_before": 32,
            "channels_after": 8 + 8 * (place % 4),
            "members": [{"tensor": f"{name}layer{place}.weight", "axis": 0}],
            "causes": {"redundant": 20 - 8 * (place % 4), "collapsed": 4} if place % 4 < 3 else {},
        }
        for place in range(count)
    ]
    histories = [
        {
            "id": group["id"],
            "masses": random.uniform(0, 2, (steps, 32)),
            "extinct": [10 if unit >= int(str(group["channels_after"])) else None for unit in range(32)],
        }
        for group in groups
    ]
    if histories:
        histories[0] |= {"masses": np.sort(random.uniform(0, 9, (steps, 5))), "summarised": True}
        histories[-1] |= {"masses": random.uniform(0, 2, (steps, MOST_LINES + 1))}
    rows = [
        {"node": f"{name}conv", "output": "t", "bound": 2.0, "measured": 0.5, "scale": 4.0, "ratio": 4.0},
        {"node": "deep", "output": "u", "bound": 900.0, "measured": 0.5, "scale": 4.0, "ratio": 1800, "vacuous": True},
    ]
    end = {"output": "y", "measured": 0.25, "scale": 1.0, "vacuous": True, "unbounded": f"{name}norm"}
    training = {
        "steps": 90, "epochs": 1.5, "seconds": 9.0, "ended": "budget", "samples": 60, "validation": 6, "batch": 8,
        "optimizer": "adamw", "device": "cpu", "precision": "float32",
        "history": [[0, None, 0.9], [30, 0.5, 0.4], [60, 0.4, 0.3], [90, 0.3, 0.25]],
    }  # fmt: skip
    values: dict[str, Any] = full() | {
        "groups": groups,
        "dynamics": {
            "kind": f"replicator{name}",
            "steps": list(range(steps)),
            "alive": list(range(200, 200 - steps, -1)),
            "groups": histories,
        },
        "latency_model": {
            "before_ms": 3.0,
            "after_ms": 2.0,
            "multiples": {"Conv": 8},
            "layers": [{"node": f"{name}conv", "op_type": "Conv", "before_ms": 3.0, "after_ms": 2.0}],
        },
        "guarantee": {"samples": 256, "layers": rows, "outputs": [end]},
        "warnings": [name or "one input was made up"],
        "barriers": [{"node": name, "op_type": name, "reason": f"because {name}"}],
        "command": ["darwinc", name],
    }
    values["recovery"] = [{"name": f"distill{name}", "accepted": True, "measure": f"divergence{name}"}]
    values["recovery"][0]["training"] = training
    return build_report(values)


@functools.cache
def page_of(name: str = "") -> str:
    return to_html(made(name=name))


class Reader(HTMLParser):
    """Every tag with its attributes, and the text; raises where tags don't close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("p", "li") or self.open[-1] == tag:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def drawings(page: str) -> Iterator[ElementTree.Element]:
    for text in re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL):
        yield ElementTree.fromstring(text)


def test_the_page_answers_what_an_engineer_asks() -> None:
    words = " ".join(" ".join(Reader(page_of()).text).split())
    for found in (
        "50.3 % of the parameters removed",
        "50 % asked; 4.0 kB to 2.1 kB",
        "2 times as fast (95 % interval 1.9 to 2.1, noise floor 0.01)",
        "Right? verified",
        "97 of 100 points",
        "parameters 1.00 k 497 0.497",
        "none: vacuous from norm on",
        "4 times the error",
        "1.8e+03 times the error, vacuous",
        "20 redundant, 4 collapsed",
        "Causes of death",
        "Units alive over time",
        "Training: distill",
        "because",
        "darwinc ''",
    ):
        assert found in words, found


def test_every_picture_has_its_words_and_is_well_formed() -> None:
    page, report = page_of(), made()
    found = [(tag, facts) for tag, facts in Reader(page).tags if tag == "figure"]
    assert len(found) == len(pictures(report)) == len(list(drawings(page))) == 7
    assert all(facts["role"] == "img" and facts["aria-label"] for _, facts in found)
    ids = re.findall(r' id="([^"]*)"', page)
    assert all(f"#{name}" in page for name in ids)


def test_a_report_of_little_has_a_page_without_pictures() -> None:
    page = to_html(build_report(smallest()))
    assert list(drawings(page)) == []
    words = " ".join(" ".join(Reader(page).text).split())
    assert "nothing was written" in words
    assert "not verified" in words
    assert "None" not in words
    assert "nan" not in words


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_a_model_are_only_names(name: str) -> None:
    page, tame = Reader(page_of(name)), Reader(page_of("tame"))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in tame.tags}
    assert "script" not in {tag for tag, _ in page.tags}
    for _, facts in page.tags:
        assert not [key for key in facts if key.startswith("on") or key in ("src", "action")]
        assert all(str(value).startswith("#") for key, value in facts.items() if key in ("href", "xlink:href"))
    assert len(list(drawings(page_of(name)))) == 7
    assert f"because {name}" in "".join(page.text).replace("\ufffd", "\x00")


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs() -> None:
    page = page_of()
    [policy] = [facts["content"] for tag, facts in Reader(page).tags if facts.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    without_names = page.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert "http" not in without_names.replace("http-equiv", "")
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_the_page_is_the_same_every_time() -> None:
    assert to_html(made()) == page_of()


def test_two_hundred_groups_stay_readable_and_small() -> None:
    report = made(200)
    page = to_html(report)
    assert len(page.encode()) < 10**6
    words = {text for drawing in drawings(page) for text in drawing.itertext()}
    assert {f"g{place}" for place in range(200)} <= {word.strip() for word in words}


@pytest.mark.parametrize("bound", [1e-9, 1e57, 1e300, None])
def test_bounds_of_any_size_can_be_drawn(bound: float | None) -> None:
    row = {"node": "conv", "bound": bound, "measured": 0.1, "scale": 1.0}
    values = smallest() | {"guarantee": {"layers": [row, row | {"measured": None, "scale": None}]}}
    [picture] = pictures(build_report(values))
    ElementTree.fromstring(picture.svg)


def test_the_groups_that_lost_most_are_shown() -> None:
    report = made(20)
    assert report.dynamics is not None
    shown = lost_most(report.dynamics, report.groups)
    assert [history.id for history in shown[:5]] == ["g0", "g4", "g8", "g12", "g16"]
    [masses] = [picture for picture in pictures(report) if picture.title.startswith("Masses")]
    assert masses.svg.count(" extinct<") == MOST_PANELS
    assert causes_of_death(report.groups) == {"redundant": 180, "collapsed": 60}


def test_a_name_in_a_picture_is_short_and_printable() -> None:
    assert label("a\nb\x00c\ud800") == "a b\ufffdc\ufffd"
    assert label("x" * 50 + "end", 10) == "\u2026xxxxxxend"


def test_markdown_says_what_the_pictures_show() -> None:
    page = to_markdown(made())
    for words in (
        "- redundant: 56",
        "| `g0` | 24 | 20 redundant, 4 collapsed |",
        "replicator: 200 units alive at first, 161 at the end, 39 steps.",
        "- `g0`: 24 of 32 extinct, the first at step 10, the last at step 10",
        "| `conv` | 0.5 | 4 | 2 | 4 times the error |",
        "| output `y` | 0.25 | 1 | none | none: vacuous from norm on |",
        "3 ms before, 2 ms predicted after, over 1 nodes; widths that run well here are multiples of 8 (Conv).",
        "| `conv` | Conv | 3 ms | 2 ms |",
    ):
        assert words in page, words


def test_outcomes_as_words() -> None:
    assert guarantee_lines(made()) == ["error of output 'y': 0.25 measured, bound none: vacuous from norm on"]
    slow = Latency(verdict="slower", speedup=0.8, ci95=(0.7, 0.9), noise_floor=0.02)
    assert latency_text(slow) == "slower, 0.8 times as fast (95 % interval 0.7 to 0.9, noise floor 0.02)"
    target = Target(kind="max-drop", asked=1, achieved=0.4)
    report = build_report(smallest() | {"target": target.model_dump()})
    assert target_text(report) == ("the metric fell by 0.4 points", "a drop of at most 1 points")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    write_json(made(), tmp_path / "report.json")
    done = CliRunner().invoke(main, ["report", str(tmp_path), "--html", str(tmp_path / "page.html")])
    assert (done.exit_code, done.output) == (0, "")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of()


def test_only_a_page_with_pictures_imports_matplotlib(tmp_path: Path) -> None:
    write_json(made(), tmp_path / "report.json")
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom darwinc.cli import main\n"
        "import darwinc.compression, darwinc.commands.compress\n"
        f"done = CliRunner().invoke(main, ['report', {str(tmp_path)!r}, '--markdown', {str(tmp_path / 'page.md')!r}])\n"
        "assert done.exit_code == 0, done.output\nassert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_competition_left_is_told_like_any_recovery() -> None:
    grown = {"name": "select", "accepted": True, "error_before": 0.5, "error_after": 0.25, "notes": ["2 of 3 died"]}
    report = build_report(smallest() | {"recovery": [grown]})
    (line,) = recovery_lines(report)
    assert line.startswith("select: kept")
    assert "fell from 0.5 to 0.25" in line
    assert recovery_lines(build_report(smallest())) == ["no recovery: what stays keeps its values"]
