"""Training from end to end: distill and finetune, budgets, selection, checkpoints, Ctrl-C and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from darwinc.calibrators.training import judging, teaching, trainer
from darwinc.calibrators.training.checkpoint import Checkpoint
from darwinc.calibrators.training.optimizing import make_optimizer, set_rate
from darwinc.calibrators.training.stopping import StopRequest
from darwinc.compression import Result, Settings, Target, compress
from darwinc.errors import InputError, Interrupted, InvalidData, OutputError, UsageError
from darwinc.settings import judge
from darwinc.training import Training
from tests.shell import Shell
from tests.small_models import CLASSIFIER, PLAIN, Array, build, images, save, save_data, stored

QUICK = Settings(bench_seconds=0, device="cpu", fitness="l2", align=1)
SHORT = Training(steps=40, batch=32, augment="none", validation=0.2)
HALF_ENDING = """h = Gemm<transB = 1>(f, w3, b3)
    k = Constant<value_float = 30.0>()
    thirty = Cast<to = 10>(k)
    l = Mul(h, thirty)
    y = Softmax<axis = 1>(l)"""
FIXED = CLASSIFIER.replace("[N,", "[1,").replace(
    "f = Flatten(g)", "k = Constant<value = int64[2] {1, 16}>()\n    f = Reshape(g, k)"
)


def trained(
    folder: Path, training: Training = SHORT, *, text: str = CLASSIFIER, recover: str = "distill", **arrays: Array
) -> Result:
    """Nearly half of a small network's channels gone, and the rest trained on noise."""
    model = save(build(text), folder / "model.onnx")
    data = save_data(folder / "data.npz", {"x": images(160, 3, 8, 8), **arrays})
    settings = replace(QUICK, data=str(data), recover=tuple(recover.split(",")))
    settings = settings if recover == "none" else replace(settings, training=training)
    return compress(model, target=Target("sparsity", 0.49), output=folder / "out.onnx", settings=settings)


def recovery(result: Result, name: str) -> Any:
    return next(entry for entry in result.report.recovery if entry.name == name)


def answers(path: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("text", [CLASSIFIER, PLAIN])
def test_distillation_brings_the_answers_closer_to_the_originals(tmp_path: Path, text: str) -> None:
    untrained = trained(tmp_path, text=text, recover="none")
    x, model = images(64, 3, 8, 8, seed=9), tmp_path / "model.onnx"
    wanted, cut = answers(model, x), answers(tmp_path / "out.onnx", x)
    result = trained(tmp_path, text=text)
    found = recovery(result, "distill")
    assert found.accepted
    assert found.error_after < 0.8 * found.error_before
    assert np.square(answers(tmp_path / "out.onnx", x) - wanted).mean() < 0.8 * np.square(cut - wanted).mean()
    assert result.report.verify is not None
    assert result.report.verify.twin is not None
    assert result.report.verify.twin.passed
    assert untrained.report.after == result.report.after
    assert found.training.steps == 40
    assert found.training.ended == "budget"
    assert found.training.validation == 32
    assert found.training.samples == 128
    assert result.report.quality is not None
    assert result.report.quality.split == "validation"


def test_probabilities_in_half_precision_teach_as_others_do(tmp_path: Path) -> None:
    text = CLASSIFIER.replace("float[", "float16[").replace("y = Gemm<transB = 1>(f, w3, b3)", HALF_ENDING)
    model = save(build(text), tmp_path / "model.onnx")
    data = save_data(tmp_path / "data.npz", {"x": images(160, 3, 8, 8).astype(np.float16)})
    settings = replace(QUICK, data=str(data), recover=("distill",), training=SHORT)
    result = compress(model, target=Target("sparsity", 0.5), output=tmp_path / "out.onnx", settings=settings)
    found = recovery(result, "distill")
    assert found.training.ended == "budget"
    assert found.accepted


def test_running_statistics_are_trained_and_given_back(tmp_path: Path) -> None:
    trained(tmp_path, recover="none")
    before = stored(onnx.load(tmp_path / "out.onnx"))
    trained(tmp_path)
    after = stored(onnx.load(tmp_path / "out.onnx"))
    assert before.keys() == after.keys()
    assert all(before[name].shape == after[name].shape for name in before)
    assert all(not np.array_equal(before[name], after[name]) for name in ("mean", "var", "scale", "w1", "w3"))
    assert (after["var"] > 0).all()


def test_labels_teach_too(tmp_path: Path) -> None:
    x = images(160, 3, 8, 8)
    model = save(build(CLASSIFIER), tmp_path / "labels.onnx")
    labels = answers(model, x).argmax(1)
    result = trained(tmp_path, recover="finetune", y=labels)
    found = recovery(result, "finetune")
    assert found.accepted
    assert found.measure == "top-1 error"
    assert found.error_after <= found.error_before
    losses = [row[1] for row in found.training.history]
    assert losses[-1] < losses[0]
    assert result.report.quality is not None
    assert result.report.quality.metric == "top1"


def test_a_batch_of_one_in_the_file_is_freed(tmp_path: Path) -> None:
    found = recovery(trained(tmp_path, text=FIXED), "distill")
    assert found.accepted
    assert found.notes == ["several samples at once, although the file fixes how many it takes"]
    assert onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_samples_that_are_whole_feeds_are_accumulated(tmp_path: Path) -> None:
    text = CLASSIFIER.replace("float[N,3,8,8] x,", "float[N,3,8,8] x, float gain,").replace(
        "y = Gemm<transB = 1>(f, w3, b3)", "h = Mul(f, gain)\n    y = Gemm<transB = 1>(h, w3, b3)"
    )
    model = save(build(text), tmp_path / "model.onnx")
    data = save_data(tmp_path / "data.npz", {"x": images(40, 3, 8, 8), "gain": np.array(1.5, np.float32)})
    settings = replace(QUICK, data=str(data), recover=("distill",), training=replace(SHORT, steps=10, batch=8))
    result = compress(model, target=Target("sparsity", 0.5), output=tmp_path / "out.onnx", settings=settings)
    assert recovery(result, "distill").training.steps == 10


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while this step runs."""
    take = trainer.Trainer._step

    def interrupted(self: trainer.Trainer, portions: Any) -> None:
        if self.progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        take(self, portions)

    monkeypatch.setattr(trainer.Trainer, "_step", interrupted)


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.01), ("sgd", 1e-4)])
def test_a_run_that_was_stopped_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, rate: float
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    training = replace(SHORT, optimizer=optimizer, learning_rate=rate, augment="shift,flip")
    text, x = CLASSIFIER.replace("8,8", "16,16"), images(160, 3, 16, 16)
    trained(whole, training, text=text, x=x)
    training = replace(training, run_dir=str(parts / "run"))
    with monkeypatch.context() as patch:
        stop_at(17, patch)
        with pytest.raises(Interrupted, match=r"step 18.*--resume"):
            trained(parts, training, text=text, x=x)
    assert not (parts / "out.onnx").exists()
    assert recovery(trained(parts, replace(training, resume=True), text=text, x=x), "distill").accepted
    wanted, got = (stored(onnx.load(folder / "out.onnx")) for folder in (whole, parts))
    for name, array in wanted.items():
        assert np.array_equal(array, got[name]), name


def test_ctrl_c_is_given_back_after_the_first() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as request:
        told = [request.asked]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        told.append(request.asked)
        assert told == [False, True]
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_was_killed_goes_on_to_the_same_result(tmp_path: Path) -> None:
    save(build(CLASSIFIER), tmp_path / "model.onnx")
    save_data(tmp_path / "data.npz", {"x": images(160, 3, 8, 8)})
    command = [
        "compress", "model.onnx", "--target-sparsity", "0.5", "--fitness", "l2", "--align", "1", "--data", "data.npz",
        "--recover", "distill", "--steps", "60", "--batch", "32", "--bench-seconds", "0", "--device", "cpu", "--quiet",
    ]  # fmt: skip
    program = [sys.executable, "-m", "darwinc", *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    checkpoint = tmp_path / "run" / "distill.safetensors"
    started = subprocess.Popen([*program, "-o", "a.onnx", "--run-dir", "run"], cwd=tmp_path, env=environment)
    while started.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    started.kill()
    started.wait()
    resumed = [*program, "-o", "a.onnx", "--run-dir", "run", "--resume"]
    for arguments in (resumed, [*program, "-o", "b.onnx"]):
        assert subprocess.run(arguments, cwd=tmp_path, env=environment, check=False).returncode == 0
    wanted, got = (stored(onnx.load(tmp_path / name)) for name in ("b.onnx", "a.onnx"))
    assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    save(build(PLAIN), tmp_path / "model.onnx")
    save_data(tmp_path / "data.npz", {"x": images(160, 3, 8, 8)})
    command = [
        "-m", "darwinc", "compress", "model.onnx", "--target-sparsity", "0.5", "--fitness", "l2", "--align", "1",
        "--data", "data.npz", "--recover", "distill", "--steps", "40", "--batch", "32", "--bench-seconds", "0",
        "--device", "cpu", "--quiet", "--run-dir", "run", "--resume",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    for program, name in ((together, "two.onnx"), ([sys.executable, *command[:-3]], "one.onnx")):
        done = subprocess.run([*program, "-o", name], cwd=tmp_path, env=environment, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "run" / "distill.safetensors").exists()
    trained(tmp_path, text=PLAIN, recover="none")
    cut, one, two = (stored(onnx.load(tmp_path / name)) for name in ("out.onnx", "one.onnx", "two.onnx"))
    for name, array in one.items():
        # Each part of a batch is measured against its own spread, so that the two are not quite the same.
        moved, apart = np.abs(array - cut[name]).max(), np.abs(two[name] - array).max()
        assert moved > 0.005
        assert apart < 0.1 * moved


def test_a_run_that_is_over_goes_nowhere(tmp_path: Path) -> None:
    training = replace(SHORT, steps=400, patience=1, learning_rate=0.5, run_dir=str(tmp_path / "run"))
    first = recovery(trained(tmp_path, training), "distill").training
    wanted = stored(onnx.load(tmp_path / "out.onnx"))
    assert first.ended == "patience"
    again = recovery(trained(tmp_path, replace(training, resume=True)), "distill").training
    assert (again.steps, again.ended, again.history) == (first.steps, "patience", first.history)
    got = stored(onnx.load(tmp_path / "out.onnx"))
    assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    training = replace(SHORT, steps=3, run_dir=str(tmp_path / "run"))
    trained(tmp_path, training)
    with pytest.raises(InputError, match="another model, data or options"):
        trained(tmp_path, replace(training, steps=4, resume=True))
    (tmp_path / "run" / "distill.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(InputError, match="no checkpoint of darwinc"):
        trained(tmp_path, replace(training, resume=True))
    (tmp_path / "run" / "distill.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="can't be read"):
        trained(tmp_path, replace(training, resume=True))


def test_an_old_checkpoint_is_not_overwritten_unasked(tmp_path: Path) -> None:
    training = replace(SHORT, steps=3, run_dir=str(tmp_path / "run"))
    trained(tmp_path, training)
    with pytest.raises(UsageError, match="--resume"):
        trained(tmp_path, training)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file" / "x.safetensors"
    Checkpoint({"w": torch.ones(2)}, notes={"step": 1}).save(path)
    assert Checkpoint.load(path).notes == {"step": 1}
    assert torch.equal(Checkpoint.load(path).weights["w"], torch.ones(2))
    assert [found.name for found in path.parent.iterdir()] == ["x.safetensors"]
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(OutputError, match="can't be written"):
        Checkpoint().save(tmp_path / "plain" / "x.safetensors")


@pytest.mark.parametrize("rate", [1e30, 1e4])
def test_training_that_diverges_stops_with_the_best_state_so_far(tmp_path: Path, rate: float) -> None:
    trained(tmp_path, recover="none")
    cut = stored(onnx.load(tmp_path / "out.onnx"))
    result = trained(tmp_path, replace(SHORT, optimizer="sgd", learning_rate=rate, steps=400))
    found = recovery(result, "distill")
    assert found.training.ended == "divergence"
    assert found.training.steps < 400
    assert not found.accepted
    assert any("diverged" in warning for warning in result.report.warnings)
    assert all(np.array_equal(cut[name], array) for name, array in stored(onnx.load(tmp_path / "out.onnx")).items())


def test_training_that_no_longer_helps_stops(tmp_path: Path) -> None:
    result = trained(tmp_path, replace(SHORT, steps=4000, patience=2, learning_rate=0.5))
    assert recovery(result, "distill").training.ended == "patience"
    assert recovery(result, "distill").training.steps < 4000


def test_minutes_and_epochs_are_budgets(tmp_path: Path) -> None:
    timed = recovery(trained(tmp_path, replace(SHORT, steps=None, minutes=0.02)), "distill").training
    assert timed.seconds >= 1.2
    assert timed.ended == "budget"
    counted = recovery(trained(tmp_path, replace(SHORT, steps=None, epochs=2.5)), "distill").training
    assert counted.steps == 10
    assert counted.epochs == 2.5


def test_steps_are_relative_to_a_tensors_size_and_follow_a_cosine() -> None:
    weights = {
        "small": torch.nn.Parameter(torch.full((4, 4), 2.0**-6)),
        "large": torch.nn.Parameter(torch.full((4, 4), 8.0)),
        "bias": torch.nn.Parameter(torch.full((4,), 8.0)),
        "held": torch.nn.Parameter(torch.ones(4), requires_grad=False),
    }
    optimizer = make_optimizer(weights, Training(learning_rate=0.5, weight_decay=0.1))
    groups = {
        name: group
        for group in optimizer.param_groups
        for name, weight in weights.items()
        if any(weight is member for member in group["params"])
    }
    assert {name: group["initial_lr"] for name, group in groups.items()} == {
        "small": 0.5 * 2.0**-6,
        "large": 4.0,
        "bias": 4.0,
    }
    assert [groups[name]["weight_decay"] for name in ("small", "large", "bias")] == [0.1, 0.1, 0.0]
    set_rate(optimizer, 0.5)
    assert groups["large"]["lr"] == pytest.approx(2.0)
    set_rate(optimizer, 1.0)
    assert groups["large"]["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(recover=("distill",)), "give --data"),
        (
            Settings(training=Training(epochs=3.0)),
            "--strategy cull with a budget takes samples to train on; give --data",
        ),
        (Settings(training=Training(run_dir="run")), "--run-dir was given, but nothing is trained"),
        (Settings(recover=("distill",), data="x.npz", loss="binary"), "distill reads no labels"),
        (Settings(recover=("finetune",), data="x.npz", loss="entropy"), "choose from auto, cross-entropy"),
        (Settings(recover=("finetune",), data="x.npz", loss="no.module:f"), "can't be imported"),
        (Settings(recover=("distill",), data="x.npz", training=Training(augment="rotate")), "rotate"),
        (Settings(recover=("finetune",), data="x.npz", outputs="y"), "NAME=KIND"),
        (Settings(recover=("distill",), data="x.npz", training=Training(epochs=-1.0)), "--epochs"),
        (Settings(recover=("distill", "distill"), data="x.npz", training=Training(run_dir="run")), "distill twice"),
    ],
)
def test_wrong_usage_is_refused_before_the_model_is_read(settings: Settings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge(settings, Target("sparsity", 0.5))


def test_an_output_that_the_model_does_not_make_is_refused_before_any_work(tmp_path: Path) -> None:
    model = save(build(CLASSIFIER), tmp_path / "model.onnx")
    data = save_data(tmp_path / "data.npz", {"x": images(8, 3, 8, 8)})
    settings = replace(QUICK, data=str(data), recover=("distill",), outputs="z=values")
    with pytest.raises(UsageError, match="its outputs are y"):
        compress(model, target=Target("sparsity", 0.5), output=tmp_path / "out.onnx", settings=settings)


def test_finetuning_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--labels"):
        trained(tmp_path, recover="finetune")


def test_the_command_line_trains_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(tmp_path, capsys)
    save_data(tmp_path / "data.npz", {"x": images(160, 3, 8, 8)})
    done = shell(
        "compress", shell.model, "-o", tmp_path / "out.onnx", "--target-sparsity", "0.5", "--fitness", "l2", "--align",
        "1", "--data", shell.data, "--recover", "distill", "--steps", "60", "--batch", "32", "--learning-rate", "0.02",
        "--bench-seconds", "0", "--device", "cpu", "--report", tmp_path / "r.json", "--markdown", tmp_path / "r.md",
    )  # fmt: skip
    assert done.code == 0
    assert "distill: kept, the divergence on validation samples fell from" in done.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["recovery"][0]["training"]["steps"] == 60
    assert "60 steps of" in (tmp_path / "r.md").read_text()


def test_unknown_labels_are_those_of_all_samples(tmp_path: Path) -> None:
    labels = np.arange(160) % 10
    labels[np.random.default_rng(0).permutation(160)[0]] = -1
    result = trained(tmp_path, replace(SHORT, steps=2), recover="finetune", y=labels)
    assert recovery(result, "finetune").training.ended == "budget"


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="A label of 10 was found"):
        trained(tmp_path, replace(SHORT, steps=2), recover="finetune", y=np.arange(160) % 11)


def squared(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return (outputs["y"] - labels).square().mean()


def test_labels_of_a_loss_of_ones_own_need_fit_no_metric(tmp_path: Path) -> None:
    model = save(build(CLASSIFIER), tmp_path / "model.onnx")
    data = save_data(tmp_path / "data.npz", {"x": images(64, 3, 8, 8), "y": images(64, 10)})
    settings = replace(
        QUICK,
        data=str(data),
        recover=("finetune",),
        training=replace(SHORT, steps=4),
        loss=f"{__name__}:squared",
    )
    result = compress(model, target=Target("sparsity", 0.5), output=tmp_path / "out.onnx", settings=settings)
    assert recovery(result, "finetune").measure == "loss"
    assert result.report.quality is not None
    assert result.report.quality.metric == "agreement"
    assert any("measured without labels" in warning for warning in result.report.warnings)


def test_a_weight_may_be_an_output(tmp_path: Path) -> None:
    text = CLASSIFIER.replace("(float[N,10] y)", "(float[N,10] y, float[10] b3)")
    assert recovery(trained(tmp_path, replace(SHORT, steps=2), text=text), "distill").training.endings == {
        "y": "values"
    }


HELD = CLASSIFIER.replace("[N,", "[4,").replace(
    "f = Flatten(g)",
    """rows = Constant<value = int64[2] {1, 64}>()
    back = Constant<value = int64[2] {4, 16}>()
    together = Reshape(g, rows)
    most = ReduceMax<axes = [1]>(together)
    less = Sub(together, most)
    f = Reshape(less, back)""",
)
"""Its four samples are compared with each other, so that it never takes any other number."""


@pytest.mark.parametrize(("samples", "validation"), [(8, 4), (11, 4), (50, 8)])
def test_feeds_are_full_where_the_graph_needs_them_to_be(tmp_path: Path, samples: int, validation: int) -> None:
    found = recovery(trained(tmp_path, replace(SHORT, steps=2), text=HELD, x=images(samples, 3, 8, 8)), "distill")
    assert "gradients accumulated" in found.notes[0]
    assert found.training.validation == validation


def test_too_few_samples_to_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="takes 8 samples at least, 4 of them to select by, but 7 were given"):
        trained(tmp_path, text=HELD, x=images(7, 3, 8, 8))
    with pytest.raises(InvalidData, match="takes 2 samples at least, 1 of them to select by, but 1 were given"):
        trained(tmp_path, x=images(1, 3, 8, 8))


def test_few_samples_are_seen_once_a_step(tmp_path: Path) -> None:
    found = recovery(trained(tmp_path, replace(SHORT, steps=6), x=images(6, 3, 8, 8)), "distill").training
    assert (found.samples, found.batch, found.epochs) == (5, 5, 6.0)


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    training = replace(SHORT, steps=4000, patience=2, learning_rate=0.5, run_dir=str(tmp_path / "run"))
    first = recovery(trained(tmp_path, training), "distill").training
    wanted = stored(onnx.load(tmp_path / "out.onnx"))
    again = recovery(trained(tmp_path, replace(training, resume=True)), "distill").training
    assert (first.ended, first.steps) == (again.ended, again.steps)
    assert first.ended == "patience"
    assert all(np.array_equal(array, wanted[name]) for name, array in stored(onnx.load(tmp_path / "out.onnx")).items())


def test_a_run_with_another_loss_is_another_run(tmp_path: Path) -> None:
    training, labels = replace(SHORT, steps=2, run_dir=str(tmp_path / "run")), np.arange(160) % 10
    trained(tmp_path, training, recover="finetune", y=labels)
    settings = replace(
        QUICK,
        data=str(tmp_path / "data.npz"),
        recover=("finetune",),
        training=replace(training, resume=True),
        outputs="y=classes",
    )
    with pytest.raises(InputError, match="another model, data or options"):
        compress(tmp_path / "model.onnx", target=Target("sparsity", 0.5), settings=settings, output=tmp_path / "o.onnx")


def test_a_place_for_checkpoints_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        training = replace(SHORT, run_dir=str(folder))
        with pytest.raises(OutputError, match="file is a file; give another name"):
            judge(Settings(recover=("distill",), data="x.npz", training=training), Target("sparsity", 0.5))
    judge(
        Settings(recover=("distill",), data="x.npz", training=replace(SHORT, run_dir=str(tmp_path / "a" / "b"))),
        Target("sparsity", 0.5),
    )


def test_ctrl_c_counts_though_patience_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select = trainer.Trainer._select

    def interrupted(self: trainer.Trainer) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        self.progress.best, self.progress.stale = (-1.0, -1.0), 99
        return select(self)

    monkeypatch.setattr(trainer.Trainer, "_select", interrupted)
    with pytest.raises(Interrupted, match="Stopped at step"):
        trained(tmp_path)


def test_one_odd_batch_is_no_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = trainer.Trainer._step

    def odd(self: trainer.Trainer, portions: Any) -> None:
        take(self, portions)
        if self.progress.step == 5:
            self._last = torch.tensor(1e9)

    monkeypatch.setattr(trainer, "SHOW_SECONDS", 0.0)
    monkeypatch.setattr(trainer.Trainer, "_step", odd)
    assert recovery(trained(tmp_path), "distill").training.ended == "budget"


def test_the_teacher_answers_the_validation_samples_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, asked = judging.Judge._expected, list[int]()

    def counted(self: judging.Judge, place: int, portion: Any, names: Any) -> Any:
        asked.append(len(self._answers))
        return expected(self, place, portion, names)

    monkeypatch.setattr(judging.Judge, "_expected", counted)
    trained(tmp_path)
    assert len(asked) > 2
    assert set(asked[1:]) == {1}


def no_number(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return outputs["y"].sum() * float("nan")


def test_a_loss_that_is_no_number_from_the_start_is_no_matter_of_rates(tmp_path: Path) -> None:
    model = save(build(CLASSIFIER), tmp_path / "model.onnx")
    data = save_data(tmp_path / "data.npz", {"x": images(40, 3, 8, 8), "y": np.arange(40) % 10})
    settings = replace(QUICK, data=str(data), recover=("finetune",), training=SHORT, loss=f"{__name__}:no_number")
    result = compress(model, target=Target("sparsity", 0.5), output=tmp_path / "out.onnx", settings=settings)
    assert not recovery(result, "finetune").accepted
    assert any("no number before the first step" in warning for warning in result.report.warnings)


def test_what_a_lesson_was_made_from_is_gone_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, run = teaching._lesson, trainer.Trainer.run
    answers_of: list[weakref.ref[torch.Tensor]] = []

    def noted(*arguments: Any) -> Any:
        lesson = made(*arguments)
        answers_of.append(weakref.ref(lesson.answers["y"]))
        return lesson

    def judged(self: trainer.Trainer) -> Any:
        assert [found() for found in answers_of] == [None]
        return run(self)

    monkeypatch.setattr(teaching, "_lesson", noted)
    monkeypatch.setattr(trainer.Trainer, "run", judged)
    assert recovery(trained(tmp_path, replace(SHORT, steps=2)), "distill").training.steps == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, precision: str) -> None:
    model = save(build(CLASSIFIER), tmp_path / "model.onnx")
    data = save_data(tmp_path / "data.npz", {"x": images(160, 3, 8, 8)})
    training = replace(SHORT, precision=precision)
    settings = replace(QUICK, data=str(data), recover=("distill",), training=training, device="cuda")
    found = recovery(
        compress(model, target=Target("sparsity", 0.5), output=tmp_path / "o.onnx", settings=settings), "distill"
    )
    assert found.accepted
    assert found.training.precision == precision
