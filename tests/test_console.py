"""What the terminal shows: tables on stdout, stages on stderr, plain lines where nobody watches."""

from __future__ import annotations

import io
import time

import pytest

from darwinc.console import (
    GroupRow,
    Terminal,
    bench_table,
    gate_table,
    groups_table,
    printable,
    summary_table,
)
from darwinc.gate import Budget, evaluate, measurements_from_report
from darwinc.report import build_report

REPORT = build_report(
    {
        "tool": {"python": "3.11", "device": "cpu"},
        "command": ["darwinc"],
        "mode": "data-free",
        "input": {"path": "in.onnx", "sha256": "0", "bytes": 4000},
        "target": {"kind": "sparsity", "asked": 0.5, "achieved": 0.5},
        "before": {"parameters": 1000, "bytes": 4000},
        "after": {"parameters": 500, "bytes": 2100},
        "latency": {"before_ms": 2.0, "after_ms": 1.0, "speedup": 2.0, "ci95": [1.6, 2.5], "verdict": "faster"},
    }
)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose themselves whether they draw on a terminal, whatever the environment says."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def terminal(**options: bool | float) -> tuple[Terminal, io.StringIO, io.StringIO]:
    results, log = io.StringIO(), io.StringIO()
    quiet, verbose = bool(options.get("quiet")), bool(options.get("verbose"))
    heartbeat = float(options.get("heartbeat_seconds", 10.0))
    drawn = Terminal(quiet, verbose, results=results, progress=log, heartbeat_seconds=heartbeat)
    return drawn, results, log


def test_tables_go_to_the_results_with_names_taken_literally() -> None:
    drawn, results, log = terminal()
    drawn.show(
        summary_table(REPORT),
        groups_table([GroupRow("[bold]g", 64, 32, ["a", "b", "c", "d"], "\x1b[31mred"), GroupRow("h", 8, 8, [])]),
        gate_table(evaluate(Budget({"bytes": 0.6, "latency": 0.1}), measurements_from_report(REPORT))),
    )
    text = results.getvalue()
    for words in ("0.525", "[bold]g", "a, b, c and 1 more", "?[31mred", "0.4 to 0.625", "FAIL"):
        assert words in text
    assert "\x1b" not in text
    assert log.getvalue() == ""
    assert printable("a\x07b\nc") == "a?b\nc"


def test_the_table_of_a_benchmark_ends_in_its_verdict() -> None:
    models = [{"path": name, "median_ms": 1.5, "p90_ms": 2.0, "p99_ms": 3.0, "runs": 7} for name in ("a.onnx", None)]
    ratio = {"speedup": 1.25, "ci95": [1.2, 1.3], "noise_floor": 0.013, "verdict": "faster"}
    drawn, results, _ = terminal()
    drawn.show(bench_table({"models": models, **ratio}), bench_table({"models": models[:1], "noise_floor": 0.02}))
    text = results.getvalue()
    assert "faster: 1.25 times as fast, 95 % interval 1.2 to 1.3, noise floor 1.3 %" in text
    assert "(in memory)" in text
    assert "1.5 ms" in text


def test_a_stage_is_one_plain_line_off_a_terminal() -> None:
    drawn, results, log = terminal()
    with drawn.stage("calibrate", total=4) as stage:
        stage.advance()
        stage.say("batch 1")
        assert str(stage) == "25 %, batch 1"
        stage.at(0.5)
        assert stage.done == 2
    [line] = log.getvalue().splitlines()
    assert line.startswith("calibrate: done in ")
    assert results.getvalue() == ""


def test_a_stage_that_is_left_out_says_why() -> None:
    drawn, _, log = terminal()
    with drawn.stage("calibrate") as stage:
        stage.leave_out("no data")
    assert log.getvalue() == "calibrate: left out (no data)\n"


def test_a_long_stage_says_that_it_lives_and_a_failed_one_that_it_failed() -> None:
    drawn, _, log = terminal(heartbeat_seconds=0.01)

    def work() -> None:
        with drawn.stage("slow") as stage:
            stage.at(0.25)
            deadline = time.monotonic() + 5
            while "so far" not in log.getvalue() and time.monotonic() < deadline:
                time.sleep(0.005)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    lines = log.getvalue().splitlines()
    assert lines[0].startswith("slow: 25 %, ")
    assert lines[-1].startswith("slow: failed after ")


def test_quiet_leaves_warnings_and_verbose_adds_details() -> None:
    drawn, _, log = terminal(quiet=True)
    with drawn.stage("calibrate") as stage:
        stage.progress(2)
        drawn.note("remark")
        drawn.detail("detail")
        drawn.warn("careful [x]")
        drawn.error("stopped")
    assert log.getvalue() == "warning: careful [x]\nerror: stopped\n"
    drawn, _, log = terminal(verbose=True)
    drawn.detail("detail")
    assert log.getvalue() == "detail\n"


def test_bars_on_a_terminal_nest_and_leave_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    drawn, _, log = terminal()
    assert drawn.log.is_terminal
    with drawn.stage("outer") as outer:
        outer.at(0.5)
        with drawn.stage("[inner]", total=2) as inner:
            inner.advance()
    text = log.getvalue()
    assert text.index("[inner]: done in") < text.index("outer: done in")
