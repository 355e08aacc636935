"""Time models in ONNX Runtime, so that a difference is reported only where there is one.

Each model has two sessions, all built first, in one process. After warm-ups, rounds follow: in each, every session runs
one block, in random order. Figures come from whole rounds, because runs of one block aren't independent: `speedup` is
the median over rounds of (A's block medians / B's), which cancels what slows a whole round down, and its interval is a
bootstrap over rounds. How far the two sessions of one model seem apart by the same reckoning is the noise floor. The
verdict is `faster` or `slower` only when the speedup's interval lies wholly beyond the noise floor.
"""

from __future__ import annotations

import gc
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from darwinc.errors import InvalidModel, UsageError
from darwinc.runtime import CPU, Demand, Feed, Optimization, input_specs, open_session, run, usable_feed

Verdict = Literal["faster", "slower", "indistinguishable"]
Progress = Callable[[float], None]
Rounds = np.ndarray[Any, np.dtype[np.float64]]

_BLOCK_SECONDS = 0.015
_LONGEST_BLOCK = 500
_FEWEST_ROUNDS = 8
_MOST_ROUNDS = 1000
_FEWEST_WARMUPS = 2
_RESAMPLES = 2000

_SIMD_FLAGS = (
    "sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 "
    "asimd asimdhp asimddp i8mm bf16 sve sve2"
)


@dataclass(frozen=True)
class Timing:
    """What one model took per run, in milliseconds, over `runs` timed runs."""

    path: str | None
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float


@dataclass(frozen=True)
class Conditions:
    """Under what the figures hold."""

    provider: str
    threads: int
    optimization_level: Optimization
    onnxruntime: str
    cpu: str
    cpu_flags: tuple[str, ...]
    batch: int | None
    inputs: dict[str, list[int]]
    warmups: int = 0
    rounds: int = 0
    runs_per_block: int = 0


@dataclass(frozen=True)
class Comparison:
    """One model's latency, or two models' and their ratio; `speedup` is before / after, above 1 where B is faster.

    `noise_floor` is a fraction: the largest difference that either model's two sessions showed, at 95 %.
    """

    before: Timing
    after: Timing | None
    speedup: float | None
    ci95: tuple[float, float] | None
    noise_floor: float
    verdict: Verdict | None
    conditions: Conditions

    def as_report(self) -> dict[str, Any]:
        """The `latency` table of report.json."""
        return {
            "before_ms": self.before.median_ms,
            "after_ms": self.after.median_ms if self.after else None,
            "before_p90_ms": self.before.p90_ms,
            "after_p90_ms": self.after.p90_ms if self.after else None,
            **self._ratio(),
            **_plain(asdict(self.conditions)),
        }

    def as_bench(self) -> dict[str, Any]:
        """What `bench --json` writes; with one model, all that needs two is null."""
        models = [asdict(timing) for timing in (self.before, self.after) if timing]
        conditions = _plain(asdict(self.conditions))
        return {"schema": "darwinc.bench/1", "models": models, **self._ratio(), **conditions}

    def _ratio(self) -> dict[str, Any]:
        return {
            "speedup": self.speedup,
            "ci95": list(self.ci95) if self.ci95 else None,
            "noise_floor": self.noise_floor,
            "verdict": self.verdict,
        }


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


@dataclass
class _Runner:
    """One session, the feeds it gets in turn, and the seconds that each timed run took, block by block."""

    session: onnxruntime.InferenceSession
    feeds: Sequence[Feed]
    blocks: list[list[float]] = field(default_factory=list)

    def block(self, runs: int) -> list[float]:
        """Seconds of `runs` runs. The first of a block pays for the caches that another session filled: it's redone."""
        if runs > 1:
            self.session.run(None, self.feeds[0])
        return [self._time(self.feeds[index % len(self.feeds)]) for index in range(runs)]

    def warm_up(self, most: int, seconds: float) -> list[float]:
        """Up to `most` runs that don't count; a slow model stops after `seconds`, but not before the second run."""
        took: list[float] = []
        while len(took) < most and (len(took) < _FEWEST_WARMUPS or sum(took) < seconds):
            took.append(self._time(self.feeds[len(took) % len(self.feeds)]))
        return took

    def _time(self, feed: Feed) -> float:
        start = time.perf_counter()
        self.session.run(None, feed)
        return time.perf_counter() - start


def compare(
    before: Path | bytes,
    after: Path | bytes | None = None,
    *,
    threads: int = 1,
    seconds: float = 5.0,
    warmups: int = 10,
    seed: int = 0,
    batch: int = 1,
    feeds: Sequence[Feed] | None = None,
    providers: Sequence[str] = CPU,
    optimization: Optimization = "all",
    progress: Progress | None = None,
) -> Comparison:
    """Time one model, or two side by side on the same feeds, for about `seconds` (more where one run takes long).

    Without `feeds` one is made up, with free first axes `batch` long. `progress` is told the fraction done. Raises
    InvalidModel when a model can't be loaded or run, or when the two take different inputs; UsageError for options
    that make no sense.
    """
    if threads < 1 or seconds <= 0 or warmups < 1 or batch < 1:
        raise UsageError(
            f"threads {threads}, seconds {seconds}, warm-ups {warmups} and batch {batch} were asked for: "
            "all of them have to be above 0"
        )
    sources = [before, before] if after is None else [before, before, after, after]
    sessions = [
        open_session(model, threads=threads, providers=providers, optimization=optimization) for model in sources
    ]
    chosen = list(feeds) if feeds else [made_up(sessions[0], seed, batch)]
    _require_same_inputs(sessions[0], sessions[-1])
    for session in sessions:
        for feed in chosen:
            run(session, feed)
    runners = [_Runner(session, chosen) for session in sessions]
    with _no_garbage_collection():
        done = _measure(runners, seconds, warmups, np.random.default_rng(seed), progress or (lambda _: None))
    paths = [str(model) if isinstance(model, Path) else None for model in (before, after)]
    conditions = _conditions(sessions[0], threads, optimization, chosen[0], done)
    return summarise([runner.blocks for runner in runners], paths, conditions, seed)


def made_up(session: onnxruntime.InferenceSession, seed: int, batch: int) -> Feed:
    """The feed that asks most of the model; time hardly depends on the numbers, so less will do."""
    demands: tuple[Demand, ...] = ("varies", "finite")
    for demand in demands:
        try:
            return usable_feed(session, seed=seed, batches=(batch,), demand=demand)
        except InvalidModel:
            continue
    return usable_feed(session, seed=seed, batches=(batch,), demand="runs")


def _require_same_inputs(before: onnxruntime.InferenceSession, after: onnxruntime.InferenceSession) -> None:
    first, second = ({spec.name: spec for spec in input_specs(session)} for session in (before, after))
    if {name: spec.dtype for name, spec in first.items()} == {name: spec.dtype for name, spec in second.items()}:
        return
    raise InvalidModel(
        f"the two models take different inputs ({', '.join(map(str, first.values()))} and "
        f"{', '.join(map(str, second.values()))}): only models with the same inputs can be compared"
    )


@dataclass(frozen=True)
class _Done:
    warmups: int
    rounds: int
    runs_per_block: int


def _measure(
    runners: Sequence[_Runner], seconds: float, warmups: int, generator: np.random.Generator, progress: Progress
) -> _Done:
    """Fill the runners' blocks: warm-ups, then rounds of one block each in random order, until the time is up."""
    warm = [runner.warm_up(warmups, seconds / len(runners)) for runner in runners]
    runs = _block_length(max(float(np.median(took[len(took) // 2 :])) for took in warm), len(runners[0].feeds))
    start = time.perf_counter()
    rounds = 0
    while rounds < _FEWEST_ROUNDS or (rounds < _MOST_ROUNDS and time.perf_counter() - start < seconds):
        for index in generator.permutation(len(runners)):
            runners[index].blocks.append(runners[index].block(runs))
        rounds += 1
        progress(min(1.0, rounds / _FEWEST_ROUNDS, max((time.perf_counter() - start) / seconds, rounds / _MOST_ROUNDS)))
    progress(1.0)
    return _Done(min(len(took) for took in warm), rounds, runs)


def _block_length(seconds_per_run: float, feeds: int) -> int:
    """Runs per block, the same for every model so that all see the same mix of feeds: always whole turns of them."""
    turns = round(_BLOCK_SECONDS / max(seconds_per_run, 1e-9) / feeds)
    return feeds * min(max(1, turns), max(1, _LONGEST_BLOCK // feeds))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def summarise(
    blocks: Sequence[Sequence[Sequence[float]]], paths: Sequence[str | None], conditions: Conditions, seed: int = 0
) -> Comparison:
    """Seconds of [A, A again] or [A, A again, B, B again] as [session][round][run] -> the figures and the verdict."""
    medians = np.array([[np.median(block) for block in session] for session in blocks])  # [sessions, rounds]
    controls = [ratio(medians[index], medians[index + 1], seed) for index in range(0, len(blocks), 2)]
    noise = max(max(high, 1 / low) - 1 for _, low, high in controls)
    first = _timing(paths[0], [*blocks[0], *blocks[1]])
    if len(blocks) == 2:
        return Comparison(first, None, None, None, noise, None, conditions)
    speedup, low, high = ratio(medians[:2].sum(axis=0), medians[2:].sum(axis=0), seed)
    second = _timing(paths[1], [*blocks[2], *blocks[3]])
    return Comparison(first, second, speedup, (low, high), noise, judge(low, high, noise), conditions)


def ratio(first: Rounds, second: Rounds, seed: int = 0) -> tuple[float, float, float]:
    """Median of first / second over rounds [R], and its 95 % percentile-bootstrap interval."""
    ratios = first / second
    chosen = np.random.default_rng(seed).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def judge(low: float, high: float, noise_floor: float) -> Verdict:
    """`faster` or `slower` when the whole interval of the speedup lies beyond the noise floor."""
    if low > 1 + noise_floor:
        return "faster"
    if high < 1 / (1 + noise_floor):
        return "slower"
    return "indistinguishable"


def _timing(path: str | None, blocks: Sequence[Sequence[float]]) -> Timing:
    times = np.concatenate([np.asarray(block) for block in blocks]) * 1e3
    median, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Timing(path, len(times), median, p90, p99, float(times.mean()), float(times.min()))


def _conditions(
    session: onnxruntime.InferenceSession, threads: int, optimization: Optimization, feed: Feed, done: _Done
) -> Conditions:
    shapes = {name: list(array.shape) for name, array in feed.items()}
    first = next(iter(feed.values()), None)
    return Conditions(
        provider=session.get_providers()[0],
        threads=threads,
        optimization_level=optimization,
        onnxruntime=onnxruntime.__version__,
        cpu=cpu_name(),
        cpu_flags=cpu_flags(),
        batch=first.shape[0] if first is not None and first.ndim else None,
        inputs=shapes,
        warmups=done.warmups,
        rounds=done.rounds,
        runs_per_block=done.runs_per_block,
    )


def cpu_name() -> str:
    """The processor's name as the system gives it, else its architecture."""
    name = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", _cpu_table(), re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...]:
    """The vector extensions that ONNX Runtime's kernels choose by; empty where the system doesn't list them."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpu_table(), re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return tuple(flag for flag in _SIMD_FLAGS.split() if flag in present)


def _cpu_table() -> str:
    table = Path("/proc/cpuinfo")
    return table.read_text(errors="replace") if table.is_file() else ""
