"""The report as a Markdown page (`report.md.jinja`); everything that isn't a figure is escaped on its way."""

from __future__ import annotations

import importlib.resources
import shlex

import jinja2

from darwinc.pages.evolution import LEGEND, evolution_page
from darwinc.pages.evolution_tables import table_text
from darwinc.pages.questions import causes_of_death, merge_barriers, most_shrunk, points
from darwinc.pages.texts import (
    STATISTICS,
    bound_text,
    code_text,
    comparison,
    fence_text,
    headline,
    milliseconds_text,
    number_text,
    percent_text,
    plain_text,
    size_text,
)
from darwinc.report_schema import Agreement, Report


def to_markdown(report: Report) -> str:
    """The page a deployment engineer reads: what changed, is it right, what was kept and why, how to do it again."""
    text = importlib.resources.files("darwinc.pages").joinpath("report.md.jinja").read_text(encoding="utf-8")
    template = _environment().from_string(text)
    return template.render(
        report=report,
        evolution=evolution_page(report),
        legend=LEGEND,
        headline=headline(report),
        rows=comparison(report),
        points=points(report.quality) if report.quality else None,
        statistics=STATISTICS.get(report.statistics or ""),
        groups=most_shrunk(report.groups),
        shrunk_count=len(most_shrunk(report.groups, limit=None)),
        causes=causes_of_death(report.groups),
        dying=[group for group in report.groups if group.causes],
        barriers=merge_barriers(report.barriers),
        command=shlex.join(report.command),
        versions=[(name, version) for name, version in report.tool if version is not None],
    )


def _agreement_text(agreement: Agreement) -> str:
    verdict = "passed" if agreement.passed else "**failed**"
    relative, absolute = number_text(agreement.max_rel_error), number_text(agreement.max_abs_error)
    return f"{verdict}, largest error {relative} relative, {absolute} absolute, on {agreement.inputs} inputs"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=jinja2.select_autoescape(default_for_string=False),  # Markdown: escaped by `code` and `text`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "agreement": _agreement_text,
        "bound": bound_text,
        "code": code_text,
        "fence": fence_text,
        "milliseconds": milliseconds_text,
        "number": number_text,
        "percent": percent_text,
        "size": size_text,
        "table": table_text,
        "text": plain_text,
    }
    return environment
