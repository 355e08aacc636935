"""Searches for time and for a drop of the metric: what they find, what they refuse, and what they say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from darwinc import Settings, Target, compress, compression
from darwinc.channels import Channels
from darwinc.cost import CostModel, Price, Terms, measure
from darwinc.data import InputSpec, open_data
from darwinc.errors import Unreachable, UsageError
from darwinc.pipeline import Job
from darwinc.report_schema import LatencyModel
from darwinc.sampling import MOST_VALIDATION, hold_out
from darwinc.searching import drop, latency
from darwinc.searching.drop import PROBES, drop_of
from darwinc.searching.latency import MOST_ROUNDS, ROUND_SECONDS, WITHIN
from tests.shell import Shell
from tests.small_models import CLASSIFIER, build, images, save, save_data

QUICK = Settings(bench_seconds=0, device="cpu", recover=("none",), fitness="l2")
MULTIPLES = {"Conv": 2}


@dataclass
class Milliseconds:
    """Counted work as time: an overhead of a tenth, and the rest in proportion."""

    terms: Terms
    factor: float
    overhead: float

    def current(self) -> float:
        return self.overhead + self.factor * self.terms.current()

    def saved(self, group: int, units: int) -> float:
        return self.factor * self.terms.saved(group, units)

    def remove(self, group: int, units: int) -> None:
        self.terms.remove(group, units)


@dataclass(frozen=True)
class Clock:
    """A latency model that thinks that `share` of a millisecond goes with MACs, and is told how much really does."""

    channels: Channels
    share: float = 0.95

    def preferred_multiples(self, channels: Channels, default: int = 1) -> Sequence[int]:
        return [default] * len(channels.groups)

    def price(self) -> Price:
        terms = CostModel(self.channels).terms("macs")
        return Milliseconds(terms, self.share / terms.current(), 1 - self.share)

    def predict(self, widths: Sequence[int]) -> float:
        price = self.price()
        for index, (group, width) in enumerate(zip(self.channels.groups, widths, strict=True)):
            price.remove(index, len(group) - width)
        return price.current()

    def corrected(self, widths: Sequence[int], measured_ms: float) -> Clock:
        return replace(self, share=self.share * (1 - measured_ms) / (1 - self.predict(widths)))

    def report(self, widths: Sequence[int]) -> LatencyModel:
        return LatencyModel(before_ms=1.0, after_ms=self.predict(widths), multiples=MULTIPLES)


@dataclass(frozen=True)
class Measured:
    speedup: float
    ci95: tuple[float, float]


class Machine:
    """Stands in for ONNX Runtime's clock: `share` of the time goes with MACs. Remembers how often it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch, share: float) -> None:
        self.share, self.rounds, self.longer, self.noise = share, 0, 0, 0.0
        patch.setattr(latency, "compare", self.compare)
        patch.setattr(latency, "time_model", self.model)

    def compare(self, before: bytes, after: bytes, *, seconds: float, **_: object) -> Measured:
        self.rounds += seconds == ROUND_SECONDS
        self.longer += seconds > ROUND_SECONDS
        macs = [measure(ir.from_proto(onnx.load_model_from_string(model))).macs for model in (before, after)]
        speedup = 1 / (1 - self.share + self.share * macs[1] / macs[0])
        width = self.noise / float(seconds)
        return Measured(speedup, (speedup * (1 - width), speedup * (1 + width)))

    def model(self, job: Job, *_: object) -> Clock:
        job.timing = job.timing or Clock(job.channels)
        assert isinstance(job.timing, Clock)
        return job.timing


@pytest.mark.parametrize("share", [0.95, 0.7])
def test_widths_are_chosen_again_until_the_measured_time_is_what_was_asked(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, model = Machine(monkeypatch, share), save(build(CLASSIFIER), tmp_path / "in.onnx")
    output = tmp_path / "out.onnx"
    report = compress(model, target=Target("latency", 0.4), output=output, settings=QUICK).report
    assert report.after is not None
    assert report.after.macs is not None
    assert report.before.macs is not None
    true = share * (1 - report.after.macs / report.before.macs)
    assert report.target.kind == "latency"
    assert report.target.achieved == pytest.approx(true, rel=1e-9)
    assert abs(true - 0.4) <= WITHIN * 0.4
    assert len(report.search) == machine.rounds <= MOST_ROUNDS
    assert (machine.rounds == 1) == (share == 0.95), "the model is right, or it has to be corrected"
    assert [probe.passed for probe in report.search] == [False] * (machine.rounds - 1) + [True]
    assert report.search[-1].predicted == pytest.approx(report.search[-1].achieved, abs=0.02)
    assert report.search[-1].removed == pytest.approx(1 - report.after.parameters / report.before.parameters)
    assert report.latency_model is not None
    assert report.latency_model.before_ms == 1
    assert report.latency_model.after_ms == pytest.approx(1 - true * 0.95 / share), "as foreseen, before any correction"
    assert report.latency_model.multiples == MULTIPLES
    stamped = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert stamped["darwinc.target"] == "latency=0.4"
    assert [entry.name for entry in report.passes] == ["cull", "excise"]


def test_a_machine_that_can_not_be_as_fast_gives_what_comes_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model promises half; the machine hardly gains by anything. What was measured is what is told."""
    machine, model = Machine(monkeypatch, 0.2), save(build(CLASSIFIER), tmp_path / "in.onnx")
    report = compress(model, target=Target("latency", 0.5), output=tmp_path / "out.onnx", settings=QUICK).report
    assert machine.rounds <= MOST_ROUNDS
    assert report.target.achieved is not None
    assert report.target.achieved < 0.2
    assert report.target.achieved == pytest.approx(max(probe.achieved or 0 for probe in report.search))
    assert not any(probe.passed for probe in report.search)
    assert any("of the latency was asked for" in warning for warning in report.warnings)


def test_what_two_seconds_leave_open_is_measured_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, model = Machine(monkeypatch, 0.95), save(build(CLASSIFIER), tmp_path / "in.onnx")
    compress(model, target=Target("latency", 0.4), output=tmp_path / "out.onnx", settings=QUICK)
    assert machine.longer == 0
    machine.noise = 0.1
    compress(model, target=Target("latency", 0.4), output=tmp_path / "out.onnx", settings=QUICK)
    assert machine.longer == 1


def test_a_time_out_of_reach_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, model = Machine(monkeypatch, 0.95), save(build(CLASSIFIER), tmp_path / "in.onnx")
    with pytest.raises(Unreachable, match=r"the reachable range, as predicted, is 0 to 0\.\d+, with at most") as told:
        compress(model, target=Target("latency", 0.93), output=tmp_path / "out.onnx", settings=QUICK)
    assert "channels are held by" in str(told.value)
    assert machine.rounds == 0
    with pytest.raises(Unreachable, match="leave no group"):
        compress(model, target=Target("latency", 0.3), settings=replace(QUICK, protect=("*",)))


def test_a_plan_for_time_is_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, model = Machine(monkeypatch, 0.7), save(build(CLASSIFIER), tmp_path / "in.onnx")
    report = compress(model, target=Target("latency", 0.4), settings=replace(QUICK, dry_run=True)).report
    assert machine.rounds == 0
    assert report.target.achieved is None
    assert report.latency_model is not None
    assert 1 - report.latency_model.after_ms / report.latency_model.before_ms == pytest.approx(0.4, abs=0.01)
    assert report.search == []


def test_a_slower_model_is_said_with_what_would_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 0.95)

    @dataclass(frozen=True)
    class Slower:
        verdict: str = "slower"
        speedup: float = 0.5

        def as_report(self) -> dict[str, Any]:
            return {"before_ms": 1.0, "after_ms": 2.0, "speedup": 0.5, "verdict": "slower"}

    class Blocks(Clock):
        """Takes longest off multiples of 4, which is what groups as narrow as these keep to at --align 8."""

        def predict(self, widths: Sequence[int]) -> float:
            return 1.0 if list(widths) == [16, 16] else 0.9 if all(width % 4 == 0 for width in widths) else 2.0

    monkeypatch.setattr(latency, "time_model", lambda job, *_: Blocks(job.channels))
    monkeypatch.setattr(compression, "compare_latency", lambda *_, **__: Slower())
    model = save(build(CLASSIFIER), tmp_path / "in.onnx")
    settings = replace(QUICK, bench_seconds=1, align=1)
    report = compress(model, target=Target("sparsity", 0.4), output=tmp_path / "out.onnx", settings=settings).report
    (told,) = (warning for warning in report.warnings if "slower than the input" in warning)
    assert "predicted is 2.00 of the input's time" in told
    assert "0.90 with the widths rounded up to multiples of 8 (--align 8)" in told
    assert "--target-latency reaches up to 0." in told


# The drop of the metric ---------------------------------------------------------------------------------------------


def labelled(folder: Path, count: int = 160) -> str:
    """Images with the classes that the model sees in them."""
    session = onnxruntime.InferenceSession(build(CLASSIFIER).SerializeToString(), providers=["CPUExecutionProvider"])
    x = images(count, 3, 8, 8, seed=5)
    classes = session.run(None, {"x": x})[0].argmax(1)
    return str(save_data(folder / "data.npz", {"x": x, "y": classes.astype(np.int64)}))


@pytest.mark.parametrize("recover", [("none",), ("inherit",)], ids=["none", "inherit"])
def test_the_metric_falls_by_no_more_than_was_allowed(recover: tuple[str, ...], tmp_path: Path) -> None:
    model, data = save(build(CLASSIFIER), tmp_path / "in.onnx"), labelled(tmp_path)
    settings = replace(QUICK, data=data, recover=recover, fitness="darwin")
    result = compress(model, target=Target("max-drop", 6), output=tmp_path / "out.onnx", settings=settings)
    report = result.report
    assert report.quality is not None
    assert report.quality.before is not None
    assert report.quality.after is not None
    assert (report.quality.metric, report.quality.split) == ("top1", "validation")
    fallen = 100 * (report.quality.before - report.quality.after)
    assert report.target.achieved == pytest.approx(fallen)
    assert fallen <= 6
    assert 1 <= len(report.search) <= PROBES
    passed = [probe for probe in report.search if probe.passed]
    assert report.after is not None
    removed = 1 - report.after.parameters / report.before.parameters
    assert removed == pytest.approx(max(probe.removed for probe in passed))
    assert all(probe.removed > removed for probe in report.search if not probe.passed)
    stamped = {entry.key: entry.value for entry in onnx.load(str(result.path)).metadata_props}
    assert stamped["darwinc.target"] == "max-drop=6"


def test_bisection_ends_at_the_largest_cut_that_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a metric that falls by a point for each per cent of the parameters that goes."""
    whole = measure(ir.from_proto(build(CLASSIFIER))).parameters

    def fallen(_: bytes, model: bytes, __: object) -> float:
        return 100 * (1 - measure(ir.from_proto(onnx.load_model_from_string(model))).parameters / whole)

    monkeypatch.setattr(drop, "drop_of", fallen)
    model, data = save(build(CLASSIFIER), tmp_path / "in.onnx"), labelled(tmp_path)
    settings = replace(QUICK, data=data, align=1, dry_run=True)
    report = compress(model, target=Target("max-drop", 37), settings=settings).report
    assert report.after is not None
    removed = 100 * (1 - report.after.parameters / whole)
    assert 37 - 4 <= removed <= 37, "within a channel, which is up to 4 per cent here"
    assert report.target.achieved == pytest.approx(removed), "as the search found it: a plan recovers nothing"
    assert len(report.search) <= PROBES
    assert report.output is None


def test_a_drop_that_no_cut_keeps_to_is_refused_with_the_smallest_one_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "drop_of", lambda *_: 3.25)
    model, data = save(build(CLASSIFIER), tmp_path / "in.onnx"), labelled(tmp_path)
    with pytest.raises(Unreachable, match=r"falls by 3\.25 points where [\d.]+ % of the parameters go, the smallest"):
        compress(
            model,
            target=Target("max-drop", 0.5),
            output=tmp_path / "out.onnx",
            settings=replace(QUICK, data=data),
        )
    assert not (tmp_path / "out.onnx").exists()


def test_what_judges_is_never_calibrated_on(tmp_path: Path) -> None:
    data = save_data(tmp_path / "data.npz", {"x": images(3600, 1, 2, 2)})
    samples = open_data(str(data), [InputSpec("x", np.dtype(np.float32), ("N", 1, 2, 2))])
    for count, held in ((3600, MOST_VALIDATION), (90, 30)):
        judges, rest = hold_out(samples.take(slice(0, count)), seed=3)
        again, _ = hold_out(samples.take(slice(0, count)), seed=3)
        other, _ = hold_out(samples.take(slice(0, count)), seed=4)
        assert len(judges) == held
        assert sorted([*judges.indices, *rest.indices]) == list(range(count))
        assert list(judges.indices) == list(again.indices) != list(other.indices)
    with pytest.raises(UsageError, match="11 samples were found; give at least 12"):
        hold_out(samples.take(slice(0, 11)), seed=0)


def test_the_test_samples_are_not_for_the_search(tmp_path: Path) -> None:
    model, data = save(build(CLASSIFIER), tmp_path / "in.onnx"), labelled(tmp_path)
    test = save_data(tmp_path / "test.npz", {"x": images(40, 3, 8, 8, seed=77), "y": np.zeros(40, np.int64)})
    settings = replace(QUICK, data=data)
    one = compress(model, target=Target("max-drop", 10), output=tmp_path / "a.onnx", settings=settings).report
    two = compress(
        model, target=Target("max-drop", 10), output=tmp_path / "b.onnx", settings=replace(settings, test=str(test))
    ).report
    assert two.quality is not None
    assert (two.quality.split, two.quality.samples) == ("test", 40)
    assert one.search == two.search
    assert one.target.achieved == two.target.achieved


def test_without_labels_the_original_judges(tmp_path: Path) -> None:
    """Against itself nothing falls; against another network the share of samples on which they differ does."""
    inputs = {"x": images(40, 3, 8, 8)}
    data = save_data(tmp_path / "data.npz", inputs)
    samples = open_data(str(data), [InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))])
    one, two = build(CLASSIFIER).SerializeToString(), build(CLASSIFIER, seed=1).SerializeToString()
    assert drop_of(one, one, samples) == 0
    sessions = [onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]) for model in (one, two)]
    chosen = [session.run(None, inputs)[0].argmax(1) for session in sessions]
    assert drop_of(one, two, samples) == pytest.approx(100 * float((chosen[0] != chosen[1]).mean()))


# The command line ---------------------------------------------------------------------------------------------------


def test_a_drop_from_the_command_line(shell: Shell) -> None:
    options = ("--data", "data.npz", "--bench-seconds", "0", "--device", "cpu", "--recover", "none", "--seed", "1")
    done = shell("compress", "model.onnx", "-o", "out.onnx", "--max-drop", "60", *options)
    assert done.code == 0
    assert "target: the metric fell by" in done.err
    assert "(a drop of at most 60 points)" in done.err
    alone = shell("compress", "model.onnx", "-o", "out.onnx", "--max-drop", "1")
    assert alone.code == 2
    assert "--max-drop takes samples on which the drop is measured; give --data" in alone.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--max-drop", "1", "--target-latency", "0.5"), "exactly one target: --target-sparsity"),
        (("--target-latency", "1"), "1.0 is not in the range"),
        (("--max-drop", "0"), "0.0 is not in the range"),
        (("--max-drop", "100"), "100.0 is not in the range"),
    ],
)
def test_wrong_targets_are_2(options: tuple[str, ...], told: str, shell: Shell) -> None:
    done = shell("compress", "model.onnx", "-o", "out.onnx", "--data", "data.npz", *options)
    assert done.code == 2
    assert told in done.err


def test_time_out_of_reach_is_4(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 0.95)
    done = shell("compress", "model.onnx", "-o", "out.onnx", "--target-latency", "0.95", "--bench-seconds", "0")
    assert done.code == 4
    assert "fraction of latency removed can't reach 0.95" in done.err
