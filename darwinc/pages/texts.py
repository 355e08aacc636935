"""The report as words: figures as text, rows of a comparison, and what Markdown takes for plain text.

Names come from models that strangers made, so everything that isn't a figure is escaped on its way into Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import rich.filesize

from darwinc.pages.questions import causes_of_death, points
from darwinc.report_schema import Bound, Latency, Recovery, Report

MISSING = "not measured"
MET_WITHIN = 0.01
"""`selection.SHORTFALL`, which a page shouldn't take a second to import; a test keeps the two equal."""
FRACTIONS_REMOVED = {
    "sparsity": "parameters",
    "macs": "MACs",
    "bytes": "bytes",
    "latency": "latency",
    "synapses": "non-zero weights",
}
REPAIRS = ("inherit", "recalibrate", "distill", "finetune")
STATISTICS = {
    "data": "calibration data",
    "batchnorm": "BatchNorm",
    "white": "assumed white inputs",
    "weights": "the weights alone",
}


@dataclass(frozen=True)
class Row:
    """One line of a before/after table, as text."""

    name: str
    before: str
    after: str
    ratio: str


def count_text(count: float | None) -> str:
    """1234567 -> "1.23 M"; None -> "not measured"."""
    if count is None:
        return MISSING
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:g}"


def size_text(size: int | None) -> str:
    """1234567 (bytes) -> "1.2 MB"; None -> "not measured"."""
    return MISSING if size is None else rich.filesize.decimal(size)


def percent_text(fraction: float | None) -> str:
    """0.503 -> "50.3 %"; None -> "not measured"."""
    return MISSING if fraction is None else f"{100 * fraction:.3g} %"


def number_text(number: float | None, digits: int = 3) -> str:
    """A figure to some significant digits; None -> "not measured"."""
    return MISSING if number is None else f"{number:.{digits}g}"


def milliseconds_text(milliseconds: float | None) -> str:
    """1.2345 -> "1.23 ms"; None -> "not measured"."""
    return MISSING if milliseconds is None else f"{milliseconds:.3g} ms"


def ratio_text(before: float | None, after: float | None) -> str:
    """After / before to three digits, or a dash where it doesn't exist."""
    return f"{after / before:.3g}" if before and after is not None else "-"


COUNTS: tuple[tuple[str, str, Callable[[int | None], str]], ...] = (
    ("parameters", "parameters", count_text),
    ("macs", "MACs", count_text),
    ("bytes", "bytes", size_text),
    ("channels", "channels", count_text),
    ("kernels", "kernels", count_text),
    ("synapses", "synapses", count_text),
)


def code_text(text: object) -> str:
    """A name from a model as a Markdown code span that stays inside its table cell."""
    plain = _one_line(text).replace("|", "\\|")
    if not plain:
        return "(no name)"
    fence = "`" * (1 + _longest_fence(plain))
    return f"{fence} {plain} {fence}" if len(fence) > 1 else f"`{plain}`"


def plain_text(text: object) -> str:
    """Words from a model or a log as Markdown that means only itself, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", _one_line(text))


def fence_text(text: str) -> str:
    """Lines as a Markdown code block, whatever is in them."""
    fence = "`" * max(3, 1 + _longest_fence(text))
    return f"{fence}\n{text}\n{fence}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _longest_fence(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def comparison(report: Report) -> list[Row]:
    """Sizes, latency and quality before and after, as text; a count that wasn't made gets no row."""
    rows = []
    for key, name, show in COUNTS:
        old, new = getattr(report.before, key), getattr(report.after, key, None)
        if old is not None:
            rows.append(Row(name, show(old), show(new), ratio_text(old, new)))
    if report.latency is not None:
        slow, fast = report.latency.before_ms, report.latency.after_ms
        rows.append(Row("latency", milliseconds_text(slow), milliseconds_text(fast), ratio_text(slow, fast)))
    if report.quality is not None:
        good, better = points(report.quality)
        rows.append(Row(report.quality.metric, number_text(good, 4), number_text(better, 4), ratio_text(good, better)))
    return rows


def headline(report: Report) -> str:
    """One sentence of Markdown: what was asked, what came out, is it faster, is it right."""
    achieved, asked = target_text(report)
    parts = [f"**{plain_text(achieved)}**" + (f" ({asked})" if asked else "")]
    if report.latency is not None and report.latency.verdict is not None:
        speedup = report.latency.speedup
        times = f" ({speedup:.3g}x)" if speedup is not None else ""
        parts.append(f"**{report.latency.verdict}** in ONNX Runtime{times}")
    if report.verify is not None:
        parts.append("verified" if report.verify.passed else "**not right: verification failed**")
    if report.output is None:
        parts.append("nothing written")
    return f"{', '.join(parts)}. Made from {code_text(report.input.path)}."


def target_text(report: Report) -> tuple[str, str]:
    """What was achieved, and of what: "49.3 % of the parameters removed", "50 % asked, met to within 1 %"."""
    target = report.target
    removed = FRACTIONS_REMOVED.get(target.kind)
    if target.kind == "bytes":
        asked = size_text(int(target.asked))
        if target.achieved is None:
            return f"a file of {asked} asked for", ""
        return f"a file of {size_text(int(target.achieved))}", f"{asked} asked"
    if target.kind == "max-drop":
        allowed = f"a drop of at most {number_text(target.asked)} points"
        if target.achieved is None:
            return f"{allowed} asked for", ""
        return f"the metric {'rose' if target.achieved < 0 else 'fell'} by {abs(target.achieved):.3g} points", allowed
    if removed is None or target.asked > 1:
        return f"{target.kind}: {number_text(target.achieved, 4)}", f"{number_text(target.asked, 4)} asked"
    asked = percent_text(target.asked)
    if target.achieved is None:
        return f"{asked} of the {removed} asked for", ""
    achieved = percent_text(target.achieved)
    behind = target.asked - target.achieved
    met = f", met to within {percent_text(MET_WITHIN)}" if 0 < behind <= MET_WITHIN and achieved != asked else ""
    return f"{achieved} of the {removed} removed", f"{asked} asked{met}"


CAUSES = {
    "collapsed": "collapsed",
    "redundant": "redundant",
    "no_influence": "without influence",
    "stagnant": "stagnant",
    "low_score": "of low score",
}


def causes_text(report: Report) -> str:
    """How many channels died of what: "45 redundant, 13 collapsed"; empty where none died."""
    return ", ".join(
        f"{count} {CAUSES.get(cause, cause)}" for cause, count in causes_of_death(report.groups).items() if count
    )


def latency_text(latency: Latency) -> str:
    """The verdict and what it rests on: "faster, 1.22 times as fast (95 % interval 1.2 to 1.25, noise floor 0.01)"."""
    parts = [latency.verdict or "no verdict", f"{number_text(latency.speedup)} times as fast"]
    doubts = []
    if latency.ci95 is not None:
        doubts.append(f"95 % interval {number_text(latency.ci95[0])} to {number_text(latency.ci95[1])}")
    if latency.noise_floor is not None:
        doubts.append(f"noise floor {number_text(latency.noise_floor)}")
    return ", ".join(parts) + (f" ({', '.join(doubts)})" if doubts else "")


def bound_text(bound: Bound) -> str:
    """How a predicted bound stands to the measured error."""
    if bound.bound is None:
        return f"none: vacuous from {bound.unbounded} on" if bound.unbounded else "none: vacuous"
    times = "the error is rounding" if bound.ratio is None else f"{number_text(bound.ratio)} times the error"
    return f"{times}, vacuous" if bound.vacuous else times


def guarantee_lines(report: Report) -> list[str]:
    """What bounds the error of every output, a line each."""
    outputs = report.guarantee.outputs if report.guarantee is not None else []
    return [
        f"error of output {row.output!r}: {number_text(row.measured)} measured, bound "
        f"{'' if row.bound is None else number_text(row.bound) + ', '}{bound_text(row)}"
        for row in outputs
    ]


def recovery_lines(report: Report) -> list[str]:
    """What became of each repair, a line each; and a line where there was none. Offspring have lines of their own."""
    if report.evolution is not None:
        return []
    if not report.recovery and not any(entry.name in REPAIRS for entry in report.passes):
        return ["no recovery: what stays keeps its values"]
    samples = "made-up" if report.mode == "data-free" else "held-out"
    return [_recovery_line(step, samples) for step in report.recovery]


def _recovery_line(step: Recovery, samples: str) -> str:
    before, after = number_text(step.error_before), number_text(step.error_after)
    verdict = "kept" if step.accepted else "dropped"
    if step.training is None:
        error = f"the error against the original on {samples} samples"
        return f"{step.name}: {verdict}, {error} {'fell' if step.accepted else 'would go'} from {before} to {after}"
    ends = {"patience": ", stopped early", "divergence": ", stopped because it diverged"}
    how = f"after {step.training.steps} steps ({step.training.seconds:.0f} s){ends.get(step.training.ended, '')}"
    moved = f"{'fell' if step.accepted else 'would go'} from {before} to {after}"
    if step.error_before == step.error_after:
        moved = f"stayed {before}" + (", and its loss fell" if step.accepted else "")
    return "; ".join([f"{step.name}: {verdict}, the {step.measure} on validation samples {moved} {how}", *step.notes])
