"""The figures are right for known times, the verdict keeps its promise, and the sessions really are interleaved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser

from darwinc import benchmark
from darwinc.benchmark import Conditions, compare, cpu_flags, cpu_name, judge, ratio, summarise
from darwinc.errors import InvalidModel, UsageError

CONDITIONS = Conditions("CPUExecutionProvider", 1, "all", "1", "a processor", ("avx2",), 1, {"x": [1, 3]})


def model(node: str, inputs: str = "float[N, 8] x") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 17]> agraph ({inputs}) => (float[N, 8] y) {{ {node} }}'
    return bytes(parser.parse_model(text).SerializeToString())


def times(generator: np.random.Generator, scale: float, drift: np.ndarray[Any, Any], noise: float) -> list[list[float]]:
    """Blocks of 5 runs [R][5] around `scale` seconds; each round is slowed by its `drift`."""
    draws = scale * drift[:, None] * np.exp(noise * generator.standard_normal((len(drift), 5)))
    return [list(block) for block in draws]


def test_the_figures_of_known_times() -> None:
    a = [[0.004, 0.004, 0.004], [0.008, 0.008, 0.008], [0.004, 0.004, 0.004]]
    b = [[time / 2 for time in block] for block in a]
    made = summarise([a, a, b, b], ["a.onnx", "b.onnx"], CONDITIONS)
    assert made.speedup == pytest.approx(2)
    assert made.ci95 == pytest.approx((2, 2))
    assert made.noise_floor == pytest.approx(0)
    assert made.verdict == "faster"
    assert made.before.median_ms == pytest.approx(4)
    assert made.before.p90_ms == pytest.approx(8)
    assert made.after is not None
    assert made.after.mean_ms == pytest.approx((2 + 4 + 2) / 3)
    assert made.after.runs == 18


def test_sessions_of_one_model_that_differ_raise_the_noise_floor() -> None:
    """One session of A is 20 % slower than the other for good: a model 5 % faster than their mean proves nothing."""
    blocks = [[[scale] * 3] * 10 for scale in (1.0, 1.2, 1.05, 1.05)]
    made = summarise(blocks, ["a", "b"], CONDITIONS)
    assert made.noise_floor == pytest.approx(0.2)
    assert made.speedup == pytest.approx(2.2 / 2.1)
    assert made.verdict == "indistinguishable"


def test_a_machine_that_slows_down_half_way_does_not_change_the_ratio() -> None:
    generator = np.random.default_rng(0)
    drift = np.repeat([1.0, 3.0], 20)
    blocks = [times(generator, scale, drift, 0.01) for scale in (1.0, 1.0, 0.8, 0.8)]
    made = summarise(blocks, ["a", "b"], CONDITIONS)
    assert made.speedup == pytest.approx(1.25, rel=0.01)
    assert made.verdict == "faster"


def test_equal_models_are_called_different_less_than_once_in_twenty() -> None:
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        drift = np.exp(0.2 * generator.standard_normal(12))
        blocks = [times(generator, 1.0, drift, 0.05) for _ in range(4)]
        wrong += summarise(blocks, ["a", "b"], CONDITIONS).verdict != "indistinguishable"
    assert wrong <= 10


def test_a_difference_of_a_tenth_is_seen_through_noise() -> None:
    generator = np.random.default_rng(2)
    right = 0
    for _ in range(50):
        drift = np.exp(0.2 * generator.standard_normal(30))
        blocks = [times(generator, scale, drift, 0.03) for scale in (1.0, 1.0, 1.1, 1.1)]
        right += summarise(blocks, ["a", "b"], CONDITIONS).verdict == "slower"
    assert right >= 48


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        first, second = np.exp(0.1 * generator.standard_normal((2, 25)))
        _, low, high = ratio(2 * first, second, trial)
        covered += low <= 2 <= high
    assert 180 <= covered <= 200


@pytest.mark.parametrize(
    ("low", "high", "noise", "verdict"),
    [
        (1.06, 1.2, 0.05, "faster"),
        (1.04, 1.2, 0.05, "indistinguishable"),
        (0.8, 0.94, 0.05, "slower"),
        (0.8, 0.96, 0.05, "indistinguishable"),
        (0.9, 1.1, 0.0, "indistinguishable"),
    ],
)
def test_the_verdict_needs_the_whole_interval_beyond_the_noise(
    low: float, high: float, noise: float, verdict: str
) -> None:
    assert judge(low, high, noise) == verdict


def test_the_report_has_the_contracts_keys(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, node in zip(paths, ("y = Relu(x)", "y = Sigmoid(x)"), strict=True):
        path.write_bytes(model(node))
    told: list[float] = []
    made = compare(paths[0], paths[1], seconds=0.1, warmups=2, progress=told.append)
    report = json.loads(json.dumps(made.as_report()))
    named = "before_ms after_ms speedup ci95 noise_floor verdict provider threads optimization_level"
    assert set(named.split()) <= set(report)
    assert report["before_ms"] > 0
    low, high = report["ci95"]
    assert low <= report["speedup"] <= high
    assert report["noise_floor"] >= 0
    assert made.verdict == judge(low, high, made.noise_floor)
    assert (report["inputs"], report["batch"], report["threads"]) == ({"x": [1, 8]}, 1, 1)
    assert told == sorted(told)
    assert told[-1] == 1

    bench = json.loads(json.dumps(made.as_bench()))
    assert bench["schema"] == "darwinc.bench/1"
    assert [timing["path"] for timing in bench["models"]] == [str(path) for path in paths]
    for timing in bench["models"]:
        assert 0 < timing["min_ms"] <= timing["median_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        assert timing["runs"] == 2 * bench["rounds"] * bench["runs_per_block"]


def test_one_model_has_a_time_and_a_noise_floor_but_no_verdict() -> None:
    bench = compare(model("y = Relu(x)"), seconds=0.05, warmups=2, batch=4).as_bench()
    assert len(bench["models"]) == 1
    assert bench["batch"] == 4
    assert bench["noise_floor"] >= 0
    assert (bench["speedup"], bench["ci95"], bench["verdict"]) == (None, None, None)


def test_every_feed_reaches_both_models_equally_often() -> None:
    feeds = [{"x": np.zeros((size, 8), np.float32)} for size in (1, 2, 3)]
    bench = compare(model("y = Relu(x)"), model("y = Tanh(x)"), seconds=0.05, warmups=2, feeds=feeds).as_bench()
    assert bench["runs_per_block"] % 3 == 0
    assert bench["models"][0]["runs"] == bench["models"][1]["runs"]


class FakeSession:
    """Notes who ran, and never takes time."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def run(self, _names: None, _feed: object) -> None:
        self.log.append(self.name)


def test_every_round_runs_every_session_once_and_the_order_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_LONGEST_BLOCK", 1)
    log: list[str] = []
    runners = [benchmark._Runner(FakeSession(name, log), [{}]) for name in "abc"]
    done = benchmark._measure(runners, 1e-9, 4, np.random.default_rng(0), lambda _: None)
    assert (done.rounds, done.runs_per_block) == (benchmark._FEWEST_ROUNDS, 1)
    rounds = [tuple(log[-3 * done.rounds :][start : start + 3]) for start in range(0, 3 * done.rounds, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
    assert all(len(runner.blocks) == done.rounds for runner in runners)


@pytest.mark.parametrize(("seconds", "feeds", "runs"), [(1e-6, 1, 500), (0.005, 1, 3), (2.0, 1, 1), (0.01, 4, 4)])
def test_blocks_last_about_as_long_for_fast_and_slow_models(seconds: float, feeds: int, runs: int) -> None:
    assert benchmark._block_length(seconds, feeds) == runs


def test_a_constant_model_can_be_timed_too() -> None:
    assert compare(model("z = Sub(x, x) y = Exp(z)"), seconds=0.02, warmups=2).before.runs > 0


def test_models_with_different_inputs_cannot_be_compared() -> None:
    with pytest.raises(InvalidModel, match="different inputs"):
        compare(model("y = Relu(x)"), model("y = Relu(z)", inputs="float[N, 8] z"))


def test_feeds_that_do_not_fit_are_refused_before_the_clock_starts() -> None:
    with pytest.raises(InvalidModel, match=r"'x' \[1, 9\]"):
        compare(model("y = Relu(x)"), feeds=[{"x": np.zeros((1, 9), np.float32)}])


def test_options_without_sense_are_wrong_usage() -> None:
    with pytest.raises(UsageError, match="above 0"):
        compare(model("y = Relu(x)"), seconds=0)


def test_the_processor_is_named() -> None:
    assert cpu_name() is not None
    assert all(flag == flag.strip() for flag in cpu_flags())
