"""Channels that compete while the network trains, from end to end: selection dynamics, and culling that persists."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from darwinc.calibrators.training import trainer
from darwinc.compression import Result, Settings, Target, compress
from darwinc.dynamics_options import Dynamics
from darwinc.errors import Interrupted, Unreachable, UsageError
from darwinc.report_schema import Report
from darwinc.settings import judge
from darwinc.training import Training
from tests.shell import Shell
from tests.small_models import CLASSIFIER, PLAIN, Array, build, images, save, save_data, stored
from tests.test_training import answers, recovery, stop_at

SHORT = Training(steps=80, batch=32, augment="none", validation=0.2)
SELECT = Settings(bench_seconds=0, device="cpu", align=1, strategy="select", training=SHORT)
CULL = replace(SELECT, strategy="cull", dynamics=Dynamics(windows=8))
FAST = Dynamics(rate=0.5)


def raised(folder: Path, settings: Settings = SELECT, *, text: str = CLASSIFIER, **arrays: Array) -> Result:
    """A small network that loses half its parameters while it trains on noise."""
    model = save(build(text), folder / "model.onnx")
    data = save_data(folder / "data.npz", {"x": images(240, 3, 8, 8), **arrays})
    settings = replace(settings, data=str(data))
    return compress(model, target=Target("sparsity", 0.5), output=folder / "out.onnx", settings=settings)


def labels(text: str = CLASSIFIER) -> Array:
    """What the untrained network itself says of the samples: a labelling that it can learn."""
    session = onnxruntime.InferenceSession(build(text).SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = np.asarray(session.run(None, {"x": images(240, 3, 8, 8)})[0]).argmax(1)
    return found


def check(result: Result, name: str, kind: str) -> Any:
    """What every outcome has to be."""
    report = result.report
    found = recovery(result, name)
    assert result.path is not None
    onnx.checker.check_model(onnx.load(result.path), full_check=True)
    # A channel of this small network is a twentieth of its parameters.
    assert 0.49 <= (report.target.achieved or 0) <= 0.53
    assert report.verify is not None
    assert report.verify.passed
    assert report.verify.twin is None or report.verify.twin.passed
    assert (report.verify.twin is not None) == found.accepted
    assert report.quality is not None
    assert report.quality.split == "validation"
    check_history(report, kind)
    return found


def check_history(report: Report, kind: str) -> None:
    dynamics = report.dynamics
    assert dynamics is not None
    assert dynamics.kind == kind
    assert 1 < len(dynamics.steps) == len(dynamics.alive) <= 51
    assert dynamics.steps == sorted(dynamics.steps)
    for group, history in zip(report.groups, dynamics.groups, strict=True):
        assert history.id == group.id
        assert len(history.masses) == len(dynamics.steps)
        died = [step for step in history.extinct if step is not None]
        assert len(history.extinct) == group.channels_before
        assert len(died) == group.channels_before - group.channels_after
        assert all(0 < step <= dynamics.steps[-1] for step in died)
    assert dynamics.alive[-1] == sum(group.channels_after for group in report.groups)


@pytest.mark.parametrize("kind", ["replicator", "mutator", "lotka-volterra"])
@pytest.mark.parametrize("labelled", [False, True])
def test_selection_ends_in_a_smaller_network(tmp_path: Path, kind: str, labelled: bool) -> None:
    settings = replace(SELECT, dynamics=Dynamics(dynamic=kind))
    found = check(raised(tmp_path, settings, y=labels()) if labelled else raised(tmp_path, settings), "select", kind)
    assert found.training.steps == 80
    assert found.measure == ("top-1 error" if labelled else "divergence")


@pytest.mark.parametrize("labelled", [False, True])
def test_culling_while_training_ends_in_a_smaller_network(tmp_path: Path, labelled: bool) -> None:
    result = raised(tmp_path, CULL, y=labels()) if labelled else raised(tmp_path, CULL)
    found = check(result, "cull", "persistence")
    assert not found.notes[-2].startswith("0 of")
    assert result.report.dynamics is not None
    assert len(set(result.report.dynamics.alive)) > 2


def test_gradients_may_decide(tmp_path: Path) -> None:
    settings = replace(SELECT, dynamics=Dynamics(evidence="gradient"))
    check(raised(tmp_path, settings, y=labels()), "select", "replicator")


def test_networks_without_normalisation_compete_too(tmp_path: Path) -> None:
    check(raised(tmp_path, text=PLAIN), "select", "replicator")


def test_extinct_units_are_gone_and_stay_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Array, int]] = []
    step = trainer.Trainer._show

    def watched(self: trainer.Trainer, share: float) -> None:
        ecology: Any = self.companion
        columns = self.weights["w2"].detach().abs().sum((0, 2, 3)).numpy()
        seen.append((columns[~ecology.alive[:16]], int((~ecology.alive).sum())))
        step(self, share)

    monkeypatch.setattr(trainer.Trainer, "_show", watched)
    raised(tmp_path, replace(SELECT, dynamics=FAST))
    assert all(not columns.any() for columns, _ in seen)
    assert seen[-1][1] > 0
    kept = stored(onnx.load(tmp_path / "out.onnx"))["w2"]
    assert np.abs(kept).sum((0, 2, 3)).all()


def test_what_is_learnt_beats_the_same_target_by_chance(tmp_path: Path) -> None:
    settings = replace(SELECT, strategy="cull", fitness="random", recover=("none",), training=Training())
    x, wanted = images(64, 3, 8, 8, seed=9), None
    errors = {}
    for name, chosen in (("random", settings), ("select", SELECT), ("cull", CULL)):
        raised(tmp_path, chosen)
        wanted = answers(tmp_path / "model.onnx", x)
        errors[name] = float(np.square(answers(tmp_path / "out.onnx", x) - wanted).mean())
    assert errors["select"] < errors["random"]
    assert errors["cull"] < errors["random"]


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        (replace(SELECT, dynamics=replace(FAST, dynamic="lotka-volterra", competition=1.0)), 21),
        (replace(SELECT, dynamics=replace(FAST, evidence="gradient")), 21),
        (SELECT, 70),
        (CULL, 33),
    ],
    ids=["competing", "gradient", "settled", "persistence"],
)
def test_a_competition_that_was_stopped_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, step: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    first = raised(whole, settings)
    training = replace(SHORT, run_dir=str(parts / "run"))
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(Interrupted, match=r"--resume"):
            raised(parts, replace(settings, training=training))
    assert not (parts / "out.onnx").exists()
    second = raised(parts, replace(settings, training=replace(training, resume=True)))
    assert first.report.dynamics == second.report.dynamics
    assert first.report.recovery[0].notes == second.report.recovery[0].notes
    wanted, got = (stored(onnx.load(folder / "out.onnx")) for folder in (whole, parts))
    assert all(np.array_equal(array, got[name]) for name, array in wanted.items())


def test_alignment_holds_where_units_died_of_themselves(tmp_path: Path) -> None:
    result = raised(tmp_path, replace(SELECT, align=4, dynamics=FAST))
    check_history(result.report, "replicator")
    finer = {entry.group for entry in result.report.alignment.finer} if result.report.alignment else set()
    for group in result.report.groups:
        assert group.channels_after % 4 == 0 or group.id in finer


def test_recovery_goes_on_from_what_was_learnt(tmp_path: Path) -> None:
    result = raised(tmp_path, replace(SELECT, recover=("inherit",)))
    assert [entry.name for entry in result.report.recovery] == ["select", "inherit", "recalibrate"]
    names = [step.name for step in result.report.passes]
    assert names == ["select", "excise", "adopt", "inherit", "recalibrate"]


def test_the_command_line_selects_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(tmp_path, capsys)
    save_data(tmp_path / "data.npz", {"x": images(160, 3, 8, 8)})
    common: list[str | Path] = [
        "compress", shell.model, "-o", tmp_path / "out.onnx", "--target-sparsity", "0.5", "--align", "1", "--data",
        shell.data, "--batch", "32", "--bench-seconds", "0", "--device", "cpu", "--report", tmp_path / "r.json",
    ]  # fmt: skip
    done = shell(
        *common, "--strategy", "select", "--dynamic", "mutator", "--mutation", "0.1", "--rate", "0.3", "--steps", "40"
    )
    assert done.code == 0
    assert "select: " in done.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["dynamics"]["kind"] == "mutator"
    assert report["passes"][0]["options"]["dynamics"]["mutation"] == 0.1
    done = shell(*common, "--windows", "5", "--persistence", "2", "--steps", "40")
    assert done.code == 0
    assert json.loads((tmp_path / "r.json").read_text())["dynamics"]["kind"] == "persistence"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(strategy="war"), "There is no strategy 'war'; choose from cull, select"),
        (Settings(strategy="select"), "--strategy select takes samples to train on; give --data"),
        (Settings(training=Training(steps=3)), "--strategy cull with a budget takes samples to train on"),
        (replace(SELECT, data="x.npz", fitness="l2"), "--fitness l2 was given, but channels that compete"),
        (replace(SELECT, data="x.npz", dry_run=True), "--dry-run was given"),
        (replace(SELECT, data="x.npz", dynamics=Dynamics(decay=0.5)), "--decay was given"),
        (replace(CULL, data="x.npz", recover=("distill",)), "--windows was given, but nothing is culled"),
    ],
)
def test_wrong_usage_is_refused(settings: Settings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge(settings, Target("sparsity", 0.5))


def test_a_network_in_which_nothing_can_compete_is_refused(tmp_path: Path) -> None:
    text = """(float[N,3,8,8] x, float[7,192] w1, float[4,7] w2) => (float[N,4] y) {
        f = Flatten(x)
        m1 = Transpose(w1)
        h = MatMul(f, m1)
        m2 = Transpose(w2)
        y = MatMul(h, m2)
    }"""
    with pytest.raises(Unreachable, match="No channels can compete while the network trains"):
        raised(tmp_path, text=text)


def test_loss_may_rise_while_channels_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    run: Callable[[trainer.Trainer], Any] = trainer.Trainer.run

    def noted(self: trainer.Trainer) -> Any:
        outcome = run(self)
        ended.append(outcome.ended)
        return outcome

    monkeypatch.setattr(trainer.Trainer, "run", noted)
    raised(tmp_path, replace(SELECT, dynamics=Dynamics(rate=2.0)))
    assert ended == ["budget"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("settings", [SELECT, CULL], ids=["select", "cull"])
def test_channels_compete_on_a_gpu_too(tmp_path: Path, settings: Settings) -> None:
    name, kind = ("select", "replicator") if settings is SELECT else ("cull", "persistence")
    check(raised(tmp_path, replace(settings, device="cuda")), name, kind)
