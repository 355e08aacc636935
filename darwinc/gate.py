"""The gate of a deployment pipeline: a budget, what was measured, and a line for each key that says pass or fail.

Everything is held strictly to its limit but latency, which is noisy: it fails only where even the favourable end of
its confidence interval is over the limit, that is where the violation can't be noise.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from darwinc.errors import OutputError, UsageError
from darwinc.pages.questions import points
from darwinc.report_schema import Latency, Quality, Report

LARGEST_RATIO = 10.0
SUMMARY_FILES = ("GITHUB_STEP_SUMMARY", "GITEA_STEP_SUMMARY", "FORGEJO_STEP_SUMMARY")


@dataclass(frozen=True)
class Key:
    """One key of a budget: its kind, what it limits, and where its measurement comes from."""

    kind: Literal["ratio", "error", "points"]
    meaning: str
    needs: str


COSTS = "--against MODEL.onnx, or a report of a finished run"
TIMES = "--against MODEL.onnx, or a report with a benchmark"
LABELS = "--data with labels, or a report with a quality"
SAMPLES = "--against MODEL.onnx with --data, or a report with a parity"
KEYS: dict[str, Key] = {
    "parameters": Key("ratio", "parameters after / before", COSTS),
    "macs": Key("ratio", "MACs after / before", COSTS),
    "bytes": Key("ratio", "file size after / before", COSTS),
    "channels": Key("ratio", "prunable channels after / before", COSTS),
    "kernels": Key("ratio", "non-zero filter planes after / before", COSTS),
    "synapses": Key("ratio", "non-zero weights after / before", COSTS),
    "latency": Key("ratio", "ONNX Runtime latency after / before", TIMES),
    "quality_drop": Key("points", "points that the metric falls by", LABELS),
    "parity": Key("error", "relative error against the original, on samples", SAMPLES),
}
COUNT_KEYS = ("parameters", "macs", "bytes", "channels", "kernels", "synapses")


@dataclass(frozen=True)
class Budget:
    """Limits that must not be exceeded, by key."""

    limits: Mapping[str, float]


@dataclass(frozen=True)
class Measurement:
    """A figure in the unit of its key, with a 95 % interval (low, high) where it's noisy."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class GateLine:
    """One key of the budget against what was measured."""

    key: str
    limit: float
    measured: float
    interval: tuple[float, float] | None
    passed: bool

    def __str__(self) -> str:
        comparison = "is within" if self.passed else "is over"
        interval = f" (95 % interval {self.interval[0]:.4g} to {self.interval[1]:.4g})" if self.interval else ""
        return f"{self.key}: {self.measured:.4g}{interval} {comparison} the limit of {self.limit:.4g}"


@dataclass(frozen=True)
class GateResult:
    """Every line of the gate, in the order of the budget."""

    lines: tuple[GateLine, ...]

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        return not self.violations

    @property
    def violations(self) -> tuple[GateLine, ...]:
        """The lines that failed."""
        return tuple(line for line in self.lines if not line.passed)


class Countable(Protocol):
    """What both `cost.Cost` and the report's `Counts` answer; None where a count couldn't be made."""

    @property
    def parameters(self) -> int | None: ...
    @property
    def macs(self) -> int | None: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def channels(self) -> int | None: ...
    @property
    def kernels(self) -> int | None: ...
    @property
    def synapses(self) -> int | None: ...


def load_budget(path: Path) -> Budget:
    """Read the table `[budget]` of a TOML file. Raises UsageError that names the key and what it should be."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror}); name a TOML file with a table [budget].") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} isn't TOML ({error}); write a table [budget] with `bytes = 0.6` or so.") from error
    for name in document:
        if name != "budget":
            raise UsageError(_misplaced(path, name))
    table = document.get("budget")
    if not isinstance(table, dict) or not table:
        raise UsageError(f"{path} has no limits; write a table [budget] with some of {', '.join(KEYS)}.")
    return Budget({key: _limit(path, key, value) for key, value in table.items()})


def _misplaced(path: Path, name: str) -> str:
    if name in KEYS:
        return f"{path} has {name!r} outside its table; write it under [budget]."
    return f"{path} has {name!r} beside the table [budget], which is all that a budget file holds; remove it."


def _limit(path: Path, key: str, value: object) -> float:
    """The limit as a number, or a UsageError where the key or its value makes no sense."""
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        raise UsageError(f"{path} has the unknown key {key!r}{hint} The keys are {', '.join(KEYS)}.")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{path} has {key} = {value!r}; give a number: {KEYS[key].meaning}.")
    kind = KEYS[key].kind
    if kind == "ratio" and not 0 < value <= LARGEST_RATIO:
        raise UsageError(f"{path} has {key} = {value!r}; give {KEYS[key].meaning} as a ratio, such as 0.5 for half.")
    if kind == "error" and value < 0:
        raise UsageError(f"{path} has {key} = {value!r}; give an error of 0 or more, such as 1e-3.")
    return float(value)


def evaluate(budget: Budget, measurements: Mapping[str, Measurement]) -> GateResult:
    """Hold every limit against its measurement. Raises UsageError where one has none."""
    missing = [key for key in budget.limits if key not in measurements]
    if missing:
        key = missing[0]
        needs = KEYS[key].needs
        raise UsageError(f"The budget limits {key!r}, which wasn't measured; give {needs}, or remove the key.")
    return GateResult(tuple(_judge(key, limit, measurements[key]) for key, limit in budget.limits.items()))


def _judge(key: str, limit: float, measurement: Measurement) -> GateLine:
    """Not-a-number never passes; a limit met to nine digits is met."""
    value, interval = measurement.value, measurement.interval
    decisive = value if interval is None else interval[0]
    within = decisive <= limit or math.isclose(decisive, limit, rel_tol=1e-9)
    finite = all(map(math.isfinite, (value, *(interval or ()))))
    return GateLine(key, limit, value, interval, passed=within and finite)


def measure(budget: Budget, sources: Mapping[str, Callable[[], Mapping[str, Measurement]]]) -> dict[str, Measurement]:
    """Ask only the sources that the budget needs, each once: costs are cheap, a benchmark isn't.

    `sources` names for each key the function that measures it; one function may serve several keys.
    """
    needed = dict.fromkeys(sources[key] for key in budget.limits if key in sources)
    return {key: measurement for source in needed for key, measurement in source().items()}


def cost_measurements(before: Countable, after: Countable) -> dict[str, Measurement]:
    """Ratios after / before of all counts that both sides have."""
    found: dict[str, Measurement] = {}
    for key in COUNT_KEYS:
        old, new = getattr(before, key), getattr(after, key)
        if old is not None and new is not None:
            found[key] = Measurement(_ratio(new, old))
    return found


def _ratio(after: float, before: float) -> float:
    if before:
        return after / before
    return math.inf if after else 1.0


def latency_measurements(latency: Latency) -> dict[str, Measurement]:
    """The ratio after / before, and its interval, from a speed-up (before / after) and its interval."""
    if not latency.speedup:
        return {}
    slowest, fastest = latency.ci95 or (None, None)
    interval = (1 / fastest, 1 / slowest) if slowest and fastest else None
    return {"latency": Measurement(1 / latency.speedup, interval)}


def quality_measurements(quality: Quality) -> dict[str, Measurement]:
    """By how many points the metric fell; negative where it got better."""
    before, after = points(quality)
    if before is None or after is None:
        return {}
    return {"quality_drop": Measurement(before - after if quality.higher_is_better else after - before)}


def relative_error(reference: Iterable[np.ndarray], answer: Iterable[np.ndarray]) -> float:
    """RMS of the difference over the RMS of the reference, the largest of all outputs.

    Not-a-number where an output isn't finite; infinite where a shape differs, or only the reference is all zeros.
    """
    return float(np.max([_error(*pair) for pair in zip(reference, answer, strict=True)], initial=0.0))


def _error(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape:
        return math.inf
    exact, other = expected.astype(np.float64), actual.astype(np.float64)
    if not (np.isfinite(exact).all() and np.isfinite(other).all()):
        return math.nan
    difference, scale = np.linalg.norm(other - exact), np.linalg.norm(exact)
    if scale:
        return float(difference / scale)
    return math.inf if difference else 0.0


def measurements_from_report(report: Report) -> dict[str, Measurement]:
    """Everything that a run measured and a budget can limit."""
    found: dict[str, Measurement] = {}
    if report.after is not None:
        found |= cost_measurements(report.before, report.after)
    if report.latency is not None:
        found |= latency_measurements(report.latency)
    if report.quality is not None:
        found |= quality_measurements(report.quality)
    if report.parity is not None and report.parity.relative_error is not None:
        found["parity"] = Measurement(report.parity.relative_error)
    return found


def to_markdown(result: GateResult) -> str:
    """The gate as a Markdown page: the verdict, then every line, violations first."""
    verdict = "passed" if result.passed else f"failed: {', '.join(line.key for line in result.violations)}"
    rows = [
        f"| {'pass' if line.passed else '**fail**'} | {line.key} | {KEYS[line.key].meaning} "
        f"| {line.measured:.4g} | {interval_text(line.interval)} | {line.limit:.4g} |"
        for line in sorted(result.lines, key=lambda line: line.passed)
    ]
    header = ["| | key | what | measured | 95 % interval | limit |", "| --- | --- | --- | ---: | --- | ---: |"]
    return "\n".join([f"## darwinc gate {verdict}", "", *header, *rows, ""])


def interval_text(interval: tuple[float, float] | None) -> str:
    """ "0.95 to 1.02", or a dash for a figure without noise."""
    return "-" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def append_job_summary(text: str) -> Path | None:
    """Append Markdown to the file that GitHub, Gitea or Forgejo Actions show beside a job; None outside of them.

    Raises OutputError.
    """
    name = next((os.environ[variable] for variable in SUMMARY_FILES if os.environ.get(variable)), None)
    if name is None:
        return None
    path = Path(name)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    except OSError as error:
        raise OutputError(f"The job summary {path} can't be written ({error.strerror}); see to its folder.") from error
    return path
