"""The report as one HTML page with pictures (`report.html.jinja`): nothing is loaded from elsewhere, nothing runs.

Names come from models that strangers made: the template escapes everything but the pictures, which escape for
themselves (`plots`), and a Content-Security-Policy forbids scripts and requests should something slip through.
"""

from __future__ import annotations

import importlib.resources
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from darwinc.pages.evolution import LEGEND, evolution_page
from darwinc.pages.family_plots import family_pictures
from darwinc.pages.plots import Picture, pictures
from darwinc.pages.questions import causes_of_death, merge_barriers, points
from darwinc.pages.texts import (
    STATISTICS,
    bound_text,
    comparison,
    latency_text,
    milliseconds_text,
    number_text,
    percent_text,
    recovery_lines,
    size_text,
    target_text,
)
from darwinc.report_schema import Agreement, Report


@dataclass(frozen=True)
class Verdict:
    """One of the questions that a reader comes with, its answer, and what it rests on; `tone` is good, bad or open."""

    question: str
    answer: str
    because: str
    tone: str


def to_html(report: Report) -> str:
    """The page as text in UTF-8, the same for the same report."""
    text = importlib.resources.files("darwinc.pages").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = (
        _environment()
        .from_string(text)
        .render(
            report=report,
            verdicts=[_smaller(report), _faster(report), _right(report), _good(report)],
            rows=comparison(report),
            evolution=evolution_page(report),
            legend=LEGEND,
            family_pictures=_marked(family_pictures(report)),
            pictures=_marked(pictures(report)),
            statistics=STATISTICS.get(report.statistics or ""),
            recovery=recovery_lines(report) if report.output is not None else [],
            causes=causes_of_death(report.groups),
            barriers=merge_barriers(report.barriers),
            command=shlex.join(report.command),
            versions=[(name, version) for name, version in report.tool if version is not None],
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def _marked(found: Sequence[Picture]) -> list[tuple[Picture, Markup]]:
    """Pictures, and what goes into the page as it is."""
    return [(picture, Markup(picture.svg)) for picture in found]  # noqa: S704


def _smaller(report: Report) -> Verdict:
    achieved, asked = target_text(report)
    tone = "open" if report.output is None else "good"
    return Verdict("Smaller?", achieved, "; ".join(filter(None, (asked, _written(report)))), tone)


def _written(report: Report) -> str:
    if report.output is None:
        return "nothing was written"
    return f"{size_text(report.input.bytes)} to {size_text(report.output.bytes)}"


def _faster(report: Report) -> Verdict:
    if report.latency is None:
        return Verdict("Faster?", "not measured", "", "open")
    tones = {"faster": "good", "slower": "bad"}
    words = latency_text(report.latency)
    answer, _, because = words.partition(", ")
    return Verdict("Faster?", answer, because, tones.get(report.latency.verdict or "", "open"))


def _right(report: Report) -> Verdict:
    if report.verify is None:
        return Verdict("Right?", "not verified", "", "open")
    proofs = [report.verify, *([report.verify.twin] if report.verify.twin is not None else [])]
    passed = all(proof.passed for proof in proofs)
    return Verdict(
        "Right?",
        "verified" if passed else "verification failed",
        "; ".join(map(_agreement, proofs)),
        "good" if passed else "bad",
    )


def _agreement(proof: Agreement) -> str:
    return f"largest error {number_text(proof.max_rel_error)} of the output's scale on {proof.inputs} inputs"


def _good(report: Report) -> Verdict:
    if report.quality is None:
        missing = "no data was given" if report.mode == "data-free" else ""
        return Verdict("As good?", "not measured", missing, "open")
    before, after = points(report.quality)
    where = f"{report.quality.metric} on {report.quality.samples or 'some'} samples"
    split = f" ({report.quality.split})" if report.quality.split else ""
    return Verdict("As good?", f"{number_text(after, 4)} of {number_text(before, 4)} points", where + split, "open")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "bound": bound_text,
        "milliseconds": milliseconds_text,
        "number": number_text,
        "percent": percent_text,
        "size": size_text,
    }
    return environment
