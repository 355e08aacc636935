"""The main job from Python: what each kind of model and data gets, and that the file which is written is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from darwinc.calibrators.recalibrate import reestimate
from darwinc.compression import Result, Settings, Target, compress
from darwinc.console import Stage
from darwinc.errors import InvalidData, InvalidModel, Unreachable, UsageError, VerificationFailed
from darwinc.passes.excise import Excise
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import Job
from darwinc.runtime import Feed
from darwinc.torch_graph import TorchGraph
from tests.small_models import (
    CLASSIFIER,
    PLAIN,
    Array,
    Arrays,
    build,
    floats_in,
    images,
    save,
    save_data,
    split,
    stored,
)

pytestmark = pytest.mark.usefixtures("few_made_up_samples")

QUICK = Settings(bench_seconds=0, device="cpu")

TWO_INPUTS = """(float[N,3,8,8] x, float[N,5] x2, float[16,3,3,3] w1, float[16] b1, float[5,16] m2, float[10,16] w3)
    => (float[N,10] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    h = MatMul(x2, m2)
    t = Add(f, h)
    y = Gemm<transB = 1>(t, w3)
}
"""
SCALAR_INPUT = """(float x2, float[N,3,8,8] x, float[16,3,3,3] w1, float[16] b1, float[10,16] w3) => (float[N,10] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    t = Mul(f, x2)
    y = Gemm<transB = 1>(t, w3)
}
"""
BOTH_KINDS_OF_OUTPUT = """(float[N,3,8,8] x, float[16,3,3,3] w1, float[16] b1, float[4,16,3,3] w2, float[1] limit)
    => (float[N,4,4,4] y, bool[N,4,4,4] z) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    y = Conv(r, w2)
    z = Greater(y, limit)
}
"""
FIXED_BATCH = CLASSIFIER.replace("[N,", "[4,").replace(
    "f = Flatten(g)", "k = Constant<value = int64[2] {4, -1}>()\n    f = Reshape(g, k)"
)


def squeezed(
    folder: Path, model: onnx.ModelProto, amount: float = 0.4, settings: Settings = QUICK, data: Arrays | None = None
) -> tuple[Result, onnx.ModelProto]:
    """Compress a model, with arrays as data where some are given; the file that was written is valid."""
    if data:
        settings = replace(settings, data=str(save_data(folder / "data.npz", data)))
    output = folder / "out.onnx"
    result = compress(save(model, folder / "in.onnx"), target=amount, output=output, settings=settings)
    assert result.path == output
    onnx.checker.check_model(str(output), full_check=True)
    return result, onnx.load(output)


def answers(model: onnx.ModelProto, **feed: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def recovered(result: Result) -> dict[str, bool]:
    return {entry.name: entry.accepted for entry in result.report.recovery or []}


def settled() -> onnx.ModelProto:
    """The classifier with the statistics that BatchNormalization would have after training on such images."""
    model = ir.from_proto(build(CLASSIFIER))
    twin = TorchGraph(model)
    reestimate(twin, split(images(256, 3, 8, 8, seed=8), 1))
    twin.write_back(model)
    return ir.to_proto(model)


def test_batch_norm_tells_how_to_inherit_where_there_is_no_data(tmp_path: Path) -> None:
    model = settled()
    result, after = squeezed(tmp_path, model)
    report = result.report
    assert (report.mode, report.statistics) == ("data-free", "batchnorm")
    assert recovered(result) == {"inherit": True}
    assert report.before.parameters == floats_in(model)
    assert report.after is not None
    assert report.after.parameters == floats_in(after)
    assert report.target.achieved == pytest.approx(1 - floats_in(after) / floats_in(model))
    assert report.target.achieved == pytest.approx(0.4, abs=0.04)
    x = images(32, 3, 8, 8, seed=9)
    (want,), (got,) = answers(model, x=x), answers(after, x=x)
    none, bare = squeezed(tmp_path, model, settings=replace(QUICK, recover=("none",)))
    assert recovered(none) == {}
    (worse,) = answers(bare, x=x)
    assert np.square(got - want).mean() < 0.25 * np.square(worse - want).mean()


def test_without_batch_norm_or_data_inputs_are_made_up_and_nothing_is_inherited(tmp_path: Path) -> None:
    result, after = squeezed(tmp_path, build(PLAIN))
    assert [entry.name for entry in result.report.passes] == ["cull", "excise"]
    assert (result.report.mode, result.report.statistics) == ("data-free", "white")
    assert recovered(result) == {}
    # What wasn't removed kept its bits.
    before, kept = stored(build(PLAIN)), result.report.kept or {}
    for name, array in stored(after).items():
        wanted = before[name]
        for axis, indices in kept.get(name, {}).items():
            wanted = wanted.take(np.asarray(indices), int(axis))
        assert np.array_equal(array, wanted)


def test_unlabelled_data_is_judged_by_agreement(tmp_path: Path) -> None:
    result, after = squeezed(tmp_path, build(CLASSIFIER), data={"x": images(64, 3, 8, 8)})
    assert (result.report.mode, result.report.statistics) == ("unlabelled", "data")
    quality = result.report.quality
    assert quality is not None
    x = images(64, 3, 8, 8)
    (want,), (got,) = answers(build(CLASSIFIER), x=x), answers(after, x=x)
    assert (quality.metric, quality.before, quality.samples) == ("agreement", 1.0, 64)
    assert quality.after == pytest.approx((want.argmax(1) == got.argmax(1)).mean())
    assert recovered(result)["inherit"]
    (entry, *_) = result.report.recovery or []
    assert entry.error_after is not None
    assert entry.error_before is not None
    assert entry.error_after < entry.error_before


def test_labelled_data_is_judged_by_accuracy(tmp_path: Path) -> None:
    x = images(64, 3, 8, 8)
    (scores,) = answers(build(CLASSIFIER), x=x)
    result, _ = squeezed(tmp_path, build(CLASSIFIER), data={"x": x, "y": scores.argmax(1)})
    assert result.report.mode == "labelled"
    quality = result.report.quality
    assert quality is not None
    assert (quality.metric, quality.before) == ("top1", 1.0)


def test_half_precision_stays_half(tmp_path: Path) -> None:
    model = build(CLASSIFIER.replace("float[", "float16["))
    result, after = squeezed(tmp_path, model, data={"x": images(64, 3, 8, 8)})
    assert {array.dtype for array in stored(after).values()} == {np.dtype(np.float16)}
    assert recovered(result)["inherit"]
    x = images(32, 3, 8, 8, seed=9).astype(np.float16)
    (want,), (got,) = answers(model, x=x), answers(after, x=x)
    assert (want.argmax(1) == got.argmax(1)).mean() > 0.8


@pytest.mark.parametrize("with_data", [False, True])
def test_a_fixed_batch_is_fed_as_it_asks(tmp_path: Path, with_data: bool) -> None:
    data = {"x": images(65, 3, 8, 8)} if with_data else {}
    result, after = squeezed(tmp_path, build(FIXED_BATCH), data=data)
    assert recovered(result)["inherit"]
    assert answers(after, x=images(4, 3, 8, 8))[0].shape == (4, 10)
    if with_data:
        assert result.report.quality is not None
        assert result.report.quality.samples == 64


def test_too_few_samples_for_a_fixed_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="3 samples were given, but the model takes 4 at once"):
        squeezed(tmp_path, build(FIXED_BATCH), data={"x": images(3, 3, 8, 8)})
    assert not (tmp_path / "out.onnx").exists()


def test_a_batch_of_one_is_no_trap(tmp_path: Path) -> None:
    settings = replace(QUICK, bench_seconds=0.05)
    model = build(CLASSIFIER.replace("[N,", "[1,"))
    result, _ = squeezed(tmp_path, model, settings=settings, data={"x": images(64, 3, 8, 8)})
    assert recovered(result)["inherit"]
    assert result.report.latency is not None
    assert result.report.latency.speedup


@pytest.mark.parametrize("with_data", [False, True])
def test_two_inputs(tmp_path: Path, with_data: bool) -> None:
    data = {"x": images(64, 3, 8, 8), "x2": images(64, 5)} if with_data else {}
    result, after = squeezed(tmp_path, build(TWO_INPUTS), data=data)
    assert recovered(result).get("inherit", False) == with_data
    assert answers(after, x=images(3, 3, 8, 8), x2=images(3, 5))[0].shape == (3, 10)


@pytest.mark.parametrize("with_data", [False, True])
def test_an_input_without_axes_comes_first(tmp_path: Path, with_data: bool) -> None:
    data = {"x": images(8, 4, 3, 8, 8), "x2": images(8)} if with_data else {}
    result, _ = squeezed(tmp_path, build(SCALAR_INPUT), data=data)
    assert result.report.statistics == ("data" if with_data else "white")


def test_an_output_that_is_no_number_is_left_out_of_what_is_compared(tmp_path: Path) -> None:
    result, after = squeezed(tmp_path, build(BOTH_KINDS_OF_OUTPUT), data={"x": images(64, 3, 8, 8)})
    assert recovered(result)["inherit"]
    assert answers(after, x=images(2, 3, 8, 8))[1].dtype == np.bool_


def test_free_sides_take_lengths_that_the_model_works_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darwinc.calibrators.calibration.MOST_SYNTHETIC", 16)
    result, after = squeezed(tmp_path, build(CLASSIFIER.replace("[N,3,8,8]", "[N,3,H,W]")))
    assert result.report.statistics == "batchnorm"
    assert answers(after, x=images(2, 3, 11, 9))[0].shape == (2, 10)


def test_one_sample_can_not_judge(tmp_path: Path) -> None:
    result, _ = squeezed(tmp_path, build(CLASSIFIER), data={"x": images(1, 3, 8, 8)})
    assert recovered(result) == {}
    assert "at least two calibration samples" in " ".join(result.report.warnings)


def test_initializers_leave_the_inputs(tmp_path: Path) -> None:
    model = build(CLASSIFIER, opset=8, ir_version=3, keep_inputs=True)
    assert len(model.graph.input) == 10
    settings = replace(QUICK, bench_seconds=0.05)
    result, after = squeezed(tmp_path, model, settings=settings)
    assert [value.name for value in after.graph.input] == ["x"]
    assert after.ir_version >= 4
    assert after.opset_import[0].version == 8
    assert "left the inputs (w1, b1, w2 and 6 more)" in " ".join(result.report.warnings)
    latency = result.report.latency
    assert latency is not None
    assert (latency.model_extra or {})["release_speedup"] > 0


def unknown_to_torch() -> onnx.ModelProto:
    """A classifier that ends in an operator which ONNX Runtime has and torch's twin hasn't."""
    model = build(CLASSIFIER.replace("y = Gemm", "z = Gemm"))
    scaler = helper.make_node("Scaler", ["z"], ["y"], "last", domain="ai.onnx.ml", offset=[0.0], scale=[0.5])
    model.graph.node.append(scaler)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return model


def with_a_branch() -> onnx.ModelProto:
    """A classifier that ends in a control-flow node whose body captures a value."""
    model = build(CLASSIFIER.replace("y = Gemm", "z = Gemm"))
    shape = helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, ["N", 10])
    bodies = {
        branch: helper.make_graph([helper.make_node(op, ["z"], ["o"], f"{branch}_{op}")], branch, [], [shape])
        for branch, op in (("then_branch", "Tanh"), ("else_branch", "Relu"))
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "which"))
    model.graph.node.append(helper.make_node("If", ["which"], ["y"], "last", **bodies))
    return model


@pytest.mark.parametrize("with_data", [False, True])
def test_where_torch_has_no_rule_the_weights_alone_tell(tmp_path: Path, with_data: bool) -> None:
    model, operator = unknown_to_torch(), "ai.onnx.ml::Scaler of node 'last'"
    data = {"x": images(16, 3, 8, 8)} if with_data else {}
    result, after = squeezed(tmp_path, model, data=data)
    assert result.report.statistics == "weights"
    warnings = [text for text in result.report.warnings if f"torch has no rule for the operator {operator}" in text]
    assert [text.partition(":")[0] for text in warnings] == [
        "Fitness is measured on the weights alone" + (" and the data is not used" if with_data else ""),
        "inherit was left out",
    ]
    assert recovered(result) == {}
    assert after.graph.node[-1].SerializeToString() == model.graph.node[-1].SerializeToString()
    with pytest.raises(UsageError, match=f"needs gradients, but torch has no rule for the operator {operator}"):
        squeezed(tmp_path, model, settings=replace(QUICK, fitness="taylor"))


def test_a_branch_is_measured_like_any_operator_and_stays_as_it_is(tmp_path: Path) -> None:
    model = with_a_branch()
    result, after = squeezed(tmp_path, model, data={"x": images(16, 3, 8, 8)})
    assert result.report.statistics == "data"
    assert "inherit" in recovered(result)
    assert after.graph.node[-1].SerializeToString() == model.graph.node[-1].SerializeToString()


def test_a_target_in_macs_or_bytes_counts_what_was_written(tmp_path: Path) -> None:
    path, output = save(build(CLASSIFIER), tmp_path / "in.onnx"), tmp_path / "out.onnx"
    macs = compress(path, target=Target("macs", 0.5), output=output, settings=QUICK).report
    assert macs.after is not None
    assert macs.after.macs is not None
    assert macs.before.macs is not None
    assert macs.target.achieved == pytest.approx(1 - macs.after.macs / macs.before.macs)
    assert macs.target.achieved == pytest.approx(0.5, abs=0.05)
    wanted = 0.6 * path.stat().st_size
    small = compress(path, target=Target("bytes", wanted), output=output, settings=QUICK).report
    assert small.target.achieved == output.stat().st_size
    assert output.stat().st_size <= wanted
    assert small.before.bytes == path.stat().st_size


def test_a_dry_run_plans_what_the_run_does(tmp_path: Path) -> None:
    path = save(build(CLASSIFIER), tmp_path / "in.onnx")
    planned = compress(path, target=0.4, output=tmp_path / "out.onnx", settings=replace(QUICK, dry_run=True))
    assert planned.path is None
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]
    done = compress(path, target=0.4, output=tmp_path / "out.onnx", settings=QUICK)
    assert planned.report.kept == done.report.kept
    assert planned.report.target.achieved == done.report.target.achieved


def test_a_rewrite_that_answers_differently_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Excise.run

    def careless(self: Excise, job: Job, stage: Stage) -> bool:
        changed = honest(self, job, stage)
        bias = job.model.graph.initializers["b3"]
        assert bias.const_value is not None
        bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.01), name="b3")
        return changed

    monkeypatch.setattr(Excise, "run", careless)
    with pytest.raises(VerificationFailed, match="answers differently from the original"):
        squeezed(tmp_path, build(CLASSIFIER))
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


def test_a_recovered_model_that_the_twin_disagrees_with_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TorchGraph.detached

    def off(self: TorchGraph, feed: Feed) -> dict[str, torch.Tensor]:
        return {name: value + 1 for name, value in honest(self, feed).items()}

    def accepted(self: Inherit, job: Job, stage: Stage) -> bool:
        job.recovery.append({"name": "inherit", "accepted": True, "seconds": 0.0, "notes": []})
        return True

    monkeypatch.setattr(TorchGraph, "detached", off)
    monkeypatch.setattr(Inherit, "run", accepted)
    monkeypatch.setattr("darwinc.proving.TWIN_SLACK", 0.0)
    with pytest.raises(VerificationFailed, match="in ONNX Runtime and in torch"):
        squeezed(tmp_path, build(PLAIN), settings=replace(QUICK, recover=("inherit",)))
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_asked_wrongly_is_said_before_the_work(tmp_path: Path) -> None:
    path = save(build(PLAIN), tmp_path / "in.onnx")
    wrong: list[tuple[Settings, str]] = [
        (replace(QUICK, recover=("pray",)), "no recovery 'pray'"),
        (replace(QUICK, recover=("none", "inherit")), "none stands alone"),
        (replace(QUICK, device="toaster"), "no device 'toaster'"),
        (replace(QUICK, device="cuda:99"), "no such CUDA GPU"),
        (replace(QUICK, labels="y.npy"), "without --data"),
        (replace(QUICK, protect=("nothing_like_it",)), "--protect 'nothing_like_it' matches no group"),
        (replace(QUICK, only=("nothing_like_it",)), "--only 'nothing_like_it' matches no group"),
        (replace(QUICK, fitness="height"), "no fitness 'height'"),
    ]
    for settings, message in wrong:
        with pytest.raises(UsageError, match=message):
            compress(path, target=0.4, output=tmp_path / "out.onnx", settings=settings)
    with pytest.raises(UsageError, match="is the model itself"):
        compress(path, target=0.4, output=tmp_path / "." / "in.onnx", settings=QUICK)
    with pytest.raises(Unreachable, match="nothing has to go"):
        compress(path, target=Target("bytes", 1e9), output=tmp_path / "out.onnx", settings=QUICK)
    with pytest.raises(InvalidModel):
        compress(tmp_path / "missing.onnx", target=0.4, output=tmp_path / "out.onnx", settings=QUICK)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (1.5, QUICK, "The target sparsity was given as 1.5; it is between 0 and 1"),
        (Target("bytes", 0), QUICK, "it is more than 0"),
        (Target("weight", 0.5), QUICK, "There is no target 'weight'; choose from sparsity, macs, bytes"),
        (0.5, replace(QUICK, fitness="height"), "There is no fitness 'height'; choose from darwin"),
        (0.5, replace(QUICK, recover=("rest",)), "There is no recovery 'rest'; choose from none, inherit, recalibrate"),
        (0.5, replace(QUICK, device="cuda:x"), "There is no device 'cuda:x'"),
        (0.5, replace(QUICK, device="auto:1"), "There is no device 'auto:1'"),
        (0.5, replace(QUICK, seed=-1), "The seed -1 is negative"),
    ],
)
def test_what_is_wrong_whatever_the_model_is_told_without_it(
    tmp_path: Path, target: Target | float, settings: Settings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        compress(tmp_path / "nowhere.onnx", target=target, settings=settings)


def test_a_test_split_is_measured_and_nothing_else(tmp_path: Path) -> None:
    x = images(96, 3, 8, 8, seed=4)
    (scores,) = answers(build(CLASSIFIER), x=x)
    test = save_data(tmp_path / "test.npz", {"x": x, "y": scores.argmax(1)})
    result, after = squeezed(tmp_path, build(CLASSIFIER), settings=replace(QUICK, test=str(test)))
    quality = result.report.quality
    assert result.report.mode == "data-free"
    assert quality is not None
    assert (quality.metric, quality.split, quality.samples, quality.before) == ("top1", "test", 96, 1.0)
    assert quality.after == pytest.approx((answers(after, x=x)[0].argmax(1) == scores.argmax(1)).mean())
