"""A latency model finds out what a machine does, its price is consistent, and what it measured is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from darwinc import graph
from darwinc.channels import Channels, analyse
from darwinc.cost import Price
from darwinc.errors import UsageError
from darwinc.latency import Asked, LatencyModel, times_of
from darwinc.latency.measuring import profiles_of
from darwinc.latency.profiles import Subject
from darwinc.latency.store import FOLDER, default_folder
from darwinc.latency.widths import full, mask_of, sample
from darwinc.passes.excise import excise
from tests.made_up_machine import MadeUpMachine
from tests.surgery import parse

NETWORK = """(float[N,3,16,16] x, float[64,3,3,3] w0, float[96,64,1,1] w1, float[96,1,3,3] d, float[128,96,1,1] w2,
    float[128,128,3,3] w3, float[40,128] f) => (float[N,40] y) {
    a = Conv<strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]>(x, w0)
    b = Relu(a)
    c = Conv(b, w1)
    r = Relu(c)
    e = Conv<group: int = 96, pads: ints = [1, 1, 1, 1]>(r, d)
    g = Conv(e, w2)
    h = Conv<pads: ints = [1, 1, 1, 1]>(g, w3)
    s = Add(g, h)
    q = GlobalAveragePool(s)
    v = Flatten(q)
    y = Gemm<transB: int = 1>(v, f)
}"""
FEED = {"x": np.zeros((1, 3, 16, 16), np.float32)}


def network() -> tuple[ir.Model, Channels]:
    model = ir.from_proto(parse(NETWORK))
    return model, analyse(model)


def asked(machine: MadeUpMachine, cache: Path | None = None, **options: Any) -> Asked:
    return Asked(timer=machine, feed=FEED, cache=cache, **options)


def wall(machine: MadeUpMachine, model: ir.Model, channels: Channels, widths: list[int]) -> float:
    """What a run really takes on the machine."""
    rewritten, _ = excise(model, channels, mask_of(channels, widths))
    return replace(machine, slow_batches=(1.0,)).profile([Subject(graph.to_bytes(rewritten), FEED)])[0].wall_ms


@pytest.mark.parametrize("steps", [(16, 16), (4, 8), (1, 16)])
def test_widths_that_were_not_measured_are_foreseen(steps: tuple[int, int]) -> None:
    model, channels = network()
    machine = MadeUpMachine(*steps)
    found = LatencyModel.measure(model, channels, asked(machine))
    assert found.predict(full(channels)) == pytest.approx(wall(machine, model, channels, full(channels)), rel=1e-3)
    for widths in sample(channels, [True] * len(channels.groups), 8, 4, seed=5):
        assert found.predict(widths) == pytest.approx(wall(machine, model, channels, widths), rel=1e-2)


def test_a_width_off_the_fast_kernel_is_known_to_be_slow() -> None:
    model, channels = network()
    machine = MadeUpMachine()
    found = LatencyModel.measure(model, channels, asked(machine))
    widths = full(channels)
    widths[1] = 94
    assert wall(machine, model, channels, widths) > 1.04 * wall(machine, model, channels, full(channels))
    assert found.predict(widths) == pytest.approx(wall(machine, model, channels, widths), rel=2e-2)


def test_batches_that_are_slowed_down_as_a_whole_do_not_mislead() -> None:
    model, channels = network()
    machine = MadeUpMachine(slow_batches=(1.0, 1.4, 1.0))
    measured = profiles_of(model, channels, asked(machine))
    curves = LatencyModel.measure(model, channels, asked(MadeUpMachine())).curves
    found = LatencyModel.of(channels, measured, curves)
    for widths in sample(channels, [True] * len(channels.groups), 8, 8, seed=5):
        assert found.predict(widths) == pytest.approx(wall(machine, model, channels, widths), rel=2e-2)


def test_a_price_is_what_is_predicted_of_what_lives() -> None:
    model, channels = network()
    found = LatencyModel.measure(model, channels, asked(MadeUpMachine()))
    price: Price = found.price()
    assert price.current() == pytest.approx(found.predict(full(channels)), rel=1e-12)
    generator, widths = np.random.default_rng(0), full(channels)
    for _ in range(50):
        group = int(generator.integers(len(widths)))
        units = int(generator.integers(0, widths[group]))
        before, saved = price.current(), price.saved(group, units)
        price.remove(group, units)
        widths[group] -= units
        assert before - price.current() == pytest.approx(saved, abs=1e-12)
        assert price.current() == pytest.approx(found.predict(widths), rel=1e-9)
        if generator.uniform() < 0.7:
            price.remove(group, -units)
            widths[group] += units
            assert price.current() == pytest.approx(before, rel=1e-12)


def test_a_layers_times_sum_up_to_the_run() -> None:
    model, channels = network()
    found = LatencyModel.measure(model, channels, asked(MadeUpMachine()))
    widths = [16 * max(1, width // 32) for width in full(channels)]
    report = found.report(widths)
    assert sum(row.before_ms for row in report.layers) == pytest.approx(report.before_ms)
    assert sum(row.after_ms for row in report.layers) == pytest.approx(report.after_ms)
    kinds = ["Conv"] * 5 + ["Add", "GlobalAveragePool", "Flatten", "Gemm"]
    assert [row.op_type for row in report.layers] == kinds
    assert all(row.after_ms < row.before_ms for row in report.layers if row.op_type == "Conv")


def test_a_correction_makes_it_agree_with_what_was_measured() -> None:
    model, channels = network()
    found = LatencyModel.measure(model, channels, asked(MadeUpMachine()))
    widths = [width // 2 for width in full(channels)]
    corrected = found.corrected(widths, 7.0)
    assert corrected.predict(widths) == pytest.approx(7.0)
    ratio = found.predict(full(channels)) / found.predict(widths)
    assert corrected.price().current() == pytest.approx(7.0 * ratio)


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    model, channels = network()
    machine = MadeUpMachine()
    first = LatencyModel.measure(model, channels, asked(machine, tmp_path))
    counted = len(machine.asked)
    second = LatencyModel.measure(model, channels, asked(machine, tmp_path))
    assert len(machine.asked) == counted
    widths = [width // 2 for width in full(channels)]
    assert second.predict(widths) == first.predict(widths)
    assert second.multiples == first.multiples


@pytest.mark.parametrize("other", [{"threads": 2}, {"seed": 1}, {"align": 4}, {"eligible": [True, False, True]}])
def test_other_conditions_are_measured_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    model, channels = network()
    machine = MadeUpMachine()
    LatencyModel.measure(model, channels, asked(machine, tmp_path))
    counted = len(machine.asked)
    LatencyModel.measure(model, channels, asked(machine, tmp_path, **other))
    assert len(machine.asked) > counted


def _damages() -> list[tuple[str, Any]]:
    return [
        ("text", "{"),
        ("text", "[" * 10**5),
        ("whole", []),
        ("whole", {"format": 99}),
        ("models", {"walls": ["1"]}),
        ("models", {"walls": [-1.0]}),
        ("models", {"events": [[["a", "Conv", "slow"]]]}),
        ("models", {"events": [[["a", "Conv", None]]]}),
        ("models", {"batches": [0.5]}),
        ("models", {"widths": [[10**9, 1, 1]]}),
        ("conditions", {"cpu": "another"}),
    ]


@pytest.mark.parametrize(("where", "damage"), _damages())
def test_a_damaged_or_foreign_file_counts_as_absent(tmp_path: Path, where: str, damage: Any) -> None:
    model, channels = network()
    machine = MadeUpMachine()
    first = LatencyModel.measure(model, channels, asked(machine, tmp_path))
    counted = len(machine.asked)
    (path,) = tmp_path.glob("latency-*.json")
    content = json.loads(path.read_text())
    if where == "models":
        for entry in content["models"].values():
            for name, value in damage.items():
                entry[name] = value + entry[name][1:]
    elif where == "conditions":
        content["conditions"] |= damage
    path.write_text(damage if where == "text" else json.dumps(damage if where == "whole" else content))
    second = LatencyModel.measure(model, channels, asked(machine, tmp_path))
    assert len(machine.asked) > counted
    assert second.predict(full(channels)) == pytest.approx(first.predict(full(channels)))


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    model, channels = network()
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = LatencyModel.measure(model, channels, asked(MadeUpMachine(), blocked / "folder"))
    assert found.predict(full(channels)) > 0


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.setenv(FOLDER, "")
    assert default_folder() is None
    monkeypatch.delenv(FOLDER)
    assert default_folder() is not None


def test_with_nothing_eligible_the_model_is_still_timed() -> None:
    model, channels = network()
    machine = MadeUpMachine()
    found = LatencyModel.measure(model, channels, asked(machine, eligible=[False] * len(channels.groups)))
    assert found.predict(full(channels)) == pytest.approx(wall(machine, model, channels, full(channels)), rel=1e-6)


def test_progress_goes_from_nothing_to_all() -> None:
    model, channels = network()
    told: list[float] = []
    LatencyModel.measure(model, channels, asked(MadeUpMachine(), progress=told.append))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


def test_chosen_widths_are_rewritten_and_timed() -> None:
    model, channels = network()
    machine = MadeUpMachine()
    halved = [width // 2 for width in full(channels)]
    expected = [wall(machine, model, channels, widths) for widths in (full(channels), halved)]
    assert times_of(model, channels, [halved], asked(machine)) == pytest.approx(expected)


def test_what_the_profiler_cannot_tell_is_refused() -> None:
    model, channels = network()
    with pytest.raises(UsageError, match="CPUExecutionProvider"):
        LatencyModel.measure(model, channels, Asked(providers=("CUDAExecutionProvider",), feed=FEED, cache=None))


def test_onnx_runtime_is_measured(tmp_path: Path) -> None:
    model, channels = network()
    found = LatencyModel.measure(model, channels, Asked(configurations=3, cache=tmp_path))
    halved = [width // 2 for width in full(channels)]
    assert found.measured_ms > 0
    assert 0 < found.predict(halved) < 10 * found.measured_ms
    assert {row.op_type for row in found.layers(halved)} >= {"Conv", "Gemm"}
