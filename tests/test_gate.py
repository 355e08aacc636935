"""The gate: budgets, verdicts on exact and on noisy figures, and the job summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from darwinc.errors import OutputError, UsageError
from darwinc.gate import (
    KEYS,
    SUMMARY_FILES,
    Budget,
    Measurement,
    append_job_summary,
    cost_measurements,
    evaluate,
    latency_measurements,
    load_budget,
    measure,
    measurements_from_report,
    quality_measurements,
    relative_error,
    to_markdown,
)
from darwinc.report_schema import Counts, Latency, ModelFile, Parity, Quality, Report, Target, Tool


def budget_file(folder: Path, text: str) -> Path:
    path = folder / "budget.toml"
    path.write_text(text, encoding="utf-8")
    return path


def report() -> Report:
    return Report(
        tool=Tool(python="3.11", device="cpu"),
        command=["darwinc"],
        mode="labelled",
        input=ModelFile(path="in.onnx", sha256="0", bytes=1000),
        target=Target(kind="sparsity", asked=0.5, achieved=0.5),
        before=Counts(parameters=1000, macs=None, bytes=4000, channels=64, kernels=10, synapses=900),
        after=Counts(parameters=500, macs=None, bytes=2100, channels=32, kernels=5, synapses=450),
        quality=Quality(metric="top1", before=0.926, after=0.906),
        latency=Latency(before_ms=2.0, after_ms=1.0, speedup=2.0, ci95=(1.6, 2.5), verdict="faster"),
    )


def test_a_budget_is_read(tmp_path: Path) -> None:
    path = budget_file(tmp_path, "[budget]\nparameters = 0.5\nbytes = 1\nquality_drop = -0.5\nparity = 0\n")
    assert load_budget(path).limits == {"parameters": 0.5, "bytes": 1.0, "quality_drop": -0.5, "parity": 0.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[budget]\nparametres = 0.5", "unknown key 'parametres'; did you mean 'parameters'"),
        ("[budget]\nzzz = 0.5", "The keys are parameters, macs, bytes"),
        ("[budget]\nbytes = '0.5'", "bytes = '0.5'; give a number"),
        ("[budget]\nbytes = true", "bytes = True; give a number"),
        ("[budget]\nbytes = nan", "bytes = nan; give a number"),
        ("[budget]\nbytes = inf", "bytes = inf; give a number"),
        ("[budget]\nbytes = 0", "as a ratio, such as 0.5 for half"),
        ("[budget]\nbytes = 50", "as a ratio, such as 0.5 for half"),
        ("[budget]\nparity = -1e-3", "an error of 0 or more"),
        ("[budget]\n[budget.bytes]\nmost = 1", "give a number"),
        ("[budget]", "no limits"),
        ("", "no limits"),
        ("budget = 3", "no limits"),
        ("bytes = 0.5", "outside its table; write it under"),
        ("[budget]\nbytes = 0.5\n[budgets]\nx = 1", "beside the table"),
        ("[budget\n", "isn't TOML"),
    ],
)
def test_a_budget_that_makes_no_sense_is_wrong_usage(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_budget(budget_file(tmp_path, text))
    assert words in str(caught.value)
    assert "budget.toml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_budget_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_budget(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="isn't TOML"):
        load_budget(tmp_path / "binary.toml")


@given(limit=st.floats(0.01, 10), measured=st.floats(0, 20))
def test_exact_figures_are_held_strictly(limit: float, measured: float) -> None:
    result = evaluate(Budget({"bytes": limit}), {"bytes": Measurement(measured)})
    assert result.passed == (measured <= limit or math.isclose(measured, limit, rel_tol=1e-9))


@pytest.mark.parametrize(
    ("interval", "passed"),
    [((0.9, 1.1), True), ((1.0, 1.2), True), ((1.01, 1.2), False), (None, False), ((math.nan, 1.2), False)],
)
def test_latency_fails_only_where_it_cannot_be_noise(interval: tuple[float, float] | None, passed: bool) -> None:
    result = evaluate(Budget({"latency": 1.0}), {"latency": Measurement(1.05, interval)})
    assert result.passed is passed


def test_a_faster_model_passes_by_its_interval_turned_over() -> None:
    found = latency_measurements(Latency(speedup=2.0, ci95=(1.6, 2.5)))["latency"]
    assert found.value == 0.5
    assert found.interval == pytest.approx((0.4, 0.625))
    assert evaluate(Budget({"latency": 0.41}), {"latency": found}).passed
    assert not evaluate(Budget({"latency": 0.39}), {"latency": found}).passed
    assert latency_measurements(Latency(before_ms=1.0)) == {}


@pytest.mark.parametrize("key", list(KEYS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(key: str, value: float) -> None:
    assert not evaluate(Budget({key: 5.0}), {key: Measurement(value)}).passed


def test_a_limit_met_up_to_rounding_is_met() -> None:
    drop = quality_measurements(Quality(metric="top1", before=0.926, after=0.916))
    assert drop["quality_drop"].value == pytest.approx(1.0)
    assert evaluate(Budget({"quality_drop": 1.0}), drop).passed
    assert not evaluate(Budget({"quality_drop": 0.999}), drop).passed


def test_a_metric_that_should_fall_drops_when_it_rises() -> None:
    error = Quality(metric="error", before=4.0, after=5.5, higher_is_better=False)
    assert quality_measurements(error)["quality_drop"].value == 1.5
    assert quality_measurements(Quality(metric="top1", before=0.9)) == {}


def test_a_key_without_a_measurement_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="limits 'quality_drop', which wasn't measured; give --data with labels"):
        evaluate(Budget({"bytes": 1.0, "quality_drop": 1.0}), {"bytes": Measurement(0.5)})


def test_every_line_is_judged_in_the_order_of_the_budget() -> None:
    figures = {"bytes": Measurement(0.7), "parameters": Measurement(0.5), "latency": Measurement(0.9)}
    result = evaluate(Budget({"parameters": 0.4, "latency": 1.0, "bytes": 0.6}), figures)
    assert [line.key for line in result.lines] == ["parameters", "latency", "bytes"]
    assert [line.key for line in result.violations] == ["parameters", "bytes"]
    assert not result.passed
    assert str(result.violations[1]) == "bytes: 0.7 is over the limit of 0.6"


def test_a_report_gives_what_it_measured_and_no_more() -> None:
    found = measurements_from_report(report())
    assert set(found) == {"parameters", "bytes", "channels", "kernels", "synapses", "quality_drop", "latency"}
    assert found["bytes"].value == 0.525
    assert found["quality_drop"].value == pytest.approx(2.0)
    plan = report().model_copy(update={"after": None, "quality": None, "latency": None})
    assert measurements_from_report(plan) == {}
    with_parity = report().model_copy(update={"parity": Parity(relative_error=0.1)})
    assert measurements_from_report(with_parity)["parity"].value == 0.1


def test_counts_of_zero_have_a_ratio_that_judges_right() -> None:
    none, some = Counts(parameters=0, kernels=0), Counts(parameters=5, kernels=0)
    assert cost_measurements(none, some) == {"parameters": Measurement(math.inf), "kernels": Measurement(1.0)}
    assert cost_measurements(some, none)["parameters"].value == 0.0


def test_only_the_sources_that_a_budget_needs_are_asked_and_each_once() -> None:
    asked: list[str] = []

    def costs() -> Mapping[str, Measurement]:
        asked.append("costs")
        return {"bytes": Measurement(0.5), "parameters": Measurement(0.4)}

    def benchmark() -> Mapping[str, Measurement]:
        asked.append("benchmark")
        return {"latency": Measurement(0.5)}

    sources = {"bytes": costs, "parameters": costs, "latency": benchmark}
    found = measure(Budget({"bytes": 1.0, "parameters": 1.0}), sources)
    assert asked == ["costs"]
    assert set(found) == {"bytes", "parameters"}
    assert set(measure(Budget({"latency": 1.0, "parity": 1.0}), sources)) == {"latency"}


def test_relative_error_against_its_closed_form() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert relative_error([reference], [reference + np.array([0.3, -0.4], np.float32)]) == pytest.approx(0.1, rel=1e-6)
    assert relative_error([reference, reference], [reference, 2 * reference]) == pytest.approx(1.0)
    assert relative_error([np.zeros(2)], [np.zeros(2)]) == 0.0
    assert relative_error([np.zeros(2)], [np.ones(2)]) == math.inf
    assert relative_error([reference], [np.zeros(3)]) == math.inf
    assert math.isnan(relative_error([reference, reference], [reference, np.array([math.nan, 0.0])]))
    assert math.isnan(relative_error([np.array([math.inf])], [np.array([math.inf])]))
    assert relative_error([np.array([60000.0], np.float16)], [np.array([-60000.0], np.float16)]) == pytest.approx(2.0)


def test_the_page_of_the_gate_puts_violations_first() -> None:
    figures = {"bytes": Measurement(0.5), "latency": Measurement(1.2, (1.15, 1.25))}
    page = to_markdown(evaluate(Budget({"bytes": 0.6, "latency": 1.1}), figures))
    lines = page.splitlines()
    assert lines[0] == "## darwinc gate failed: latency"
    assert lines[4] == "| **fail** | latency | ONNX Runtime latency after / before | 1.2 | 1.15 to 1.25 | 1.1 |"
    assert lines[5] == "| pass | bytes | file size after / before | 0.5 | - | 0.6 |"
    assert "table_open" in [token.type for token in MarkdownIt("commonmark").enable("table").parse(page)]
    assert "## darwinc gate passed" in to_markdown(evaluate(Budget({"bytes": 0.6}), figures))


@pytest.mark.parametrize("variable", SUMMARY_FILES)
def test_the_job_summary_is_appended_where_one_is_set(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SUMMARY_FILES:
        monkeypatch.delenv(name, raising=False)
    assert append_job_summary("text") is None
    path = tmp_path / "summary.md"
    path.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv(variable, str(path))
    assert append_job_summary("one") == path
    append_job_summary("two\n")
    assert path.read_text(encoding="utf-8") == "before\none\ntwo\n"
    monkeypatch.setenv(variable, str(tmp_path / "nowhere" / "summary.md"))
    with pytest.raises(OutputError, match="job summary"):
        append_job_summary("text")
