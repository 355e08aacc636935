"""Statistics that are re-estimated, the world of made-up samples, and how far answers lie apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from scipy.special import rel_entr, softmax

from darwinc.calibrators.calibration import Calibration, prepare
from darwinc.calibrators.divergence import divergence
from darwinc.calibrators.domain import Domain
from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.recalibrate import GAINS, Recalibrator, reestimate
from darwinc.channels import analyse
from darwinc.torch_graph import TorchGraph
from tests.operation import Surgery, answers
from tests.small_models import CLASSIFIER, IMAGES, Array, build, images, split, stored

TWO_NORMS = """(float[N,3,6,6] x, float[4,3,3,3] w1, float[4] scale1, float[4] b1, float[4] mean1, float[4] var1,
    float[5,4,1,1] w2, float[5] scale2, float[5] b2, float[5] mean2, float[5] var2) => (float[N,5,4,4] y) {
    a = Conv(x, w1)
    n = BatchNormalization(a, scale1, b1, mean1, var1)
    r = Relu(n)
    c = Conv(r, w2)
    y = BatchNormalization(c, scale2, b2, mean2, var2)
}
"""


def inside(model: ir.Model, name: str, x: Array) -> Array:
    """What ONNX Runtime computes for a value inside the graph, in float64."""
    proto = ir.to_proto(model)
    if name not in {output.name for output in proto.graph.output}:
        proto.graph.output.insert(0, onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return np.asarray(answers(ir.from_proto(proto), {"x": x}), np.float64)


def test_re_estimated_statistics_are_numpys_one_layer_after_the_other() -> None:
    model = build(TWO_NORMS)
    x = images(40, 3, 6, 6)
    twin = TorchGraph(ir.from_proto(model))
    assert reestimate(twin, split(x, 3)) == 2
    weights = {name: value.detach().numpy() for name, value in twin.weights().items()}
    written = ir.from_proto(model)
    twin.write_back(written)
    for inner, mean, variance in (("a", "mean1", "var1"), ("c", "mean2", "var2")):
        seen = inside(written, inner, x)
        np.testing.assert_allclose(weights[mean], seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(weights[variance], seen.var((0, 2, 3)), rtol=1e-4)


def test_statistics_that_others_share_are_left_alone() -> None:
    text = TWO_NORMS.replace("float[5] mean2", "float[5] spare").replace("float[5,4,1,1]", "float[4,4,1,1]")
    text = (
        text.replace("float[5]", "float[4]")
        .replace("N,5,4,4", "N,4,4,4")
        .replace("b2, mean2, var2)\n", "b2, mean1, var2)\n")
    )
    twin = TorchGraph(ir.from_proto(build(text)))
    before = {name: value.detach().clone() for name, value in twin.weights().items()}
    assert reestimate(twin, split(images(8, 3, 6, 6), 2)) == 0
    assert all(torch.equal(before[name], value) for name, value in twin.weights().items())


CORRECTED = {
    "conv": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4] b2)
        => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        r = Relu(h)
        y = Conv(r, w2, b2)
    }
    """,
    "groups": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,4,2,2] w2, float[4] b2)
        => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        r = Relu(h)
        y = Conv<group = 2>(r, w2, b2)
    }
    """,
    "transposed groups": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[8,3,2,2] w2, float[6] b2)
        => (float[N,6,5,5] y) {
        h = Conv(x, w1, b1)
        r = Relu(h)
        y = ConvTranspose<group = 2>(r, w2, b2)
    }
    """,
    "gemm with alpha and beta": """(float[N,5] x, float[8,5] w1, float[8] b1, float[4,8] w2, float[4] b2)
        => (float[N,4] y) {
        h = Gemm<transB = 1>(x, w1, b1)
        r = Relu(h)
        y = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(r, w2, b2)
    }
    """,
    "add in a sequence": """(float[N,7,5] x, float[5,8] m1, float[8] b1, float[8,4] m2, float[4] b2)
        => (float[N,7,4] y) {
        p = MatMul(x, m1)
        h = Add(p, b1)
        r = Relu(h)
        q = MatMul(r, m2)
        y = Add(b2, q)
    }
    """,
}
WITHOUT_A_CONSTANT = {
    "no bias": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        r = Relu(h)
        y = Conv(r, w2)
    }
    """,
    "a bias that two share": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4,3,4,4] w3,
        float[4] b2) => (float[N,4,3,3] o, float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        r = Relu(h)
        y = Conv(r, w2, b2)
        o = Conv(x, w3, b2)
    }
    """,
    "a matrix on the left": """(float[N,5,6] x, float[4,5] w1, float[3,4] w2) => (float[N,3,6] y) {
        h = MatMul(w1, x)
        r = Relu(h)
        y = MatMul(w2, r)
    }
    """,
}


def cut(text: str) -> tuple[Surgery, Array]:
    """A network whose first layer loses channels, corrected on samples."""
    model = build(text)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = images(200, *shape)
    name = "m1" if "m1" in stored(model) else "w1"
    removed = {f"{name}:{int(name == 'm1')}": [3, 7] if "[8" in text else [3]}
    return Surgery(model, removed, split(x, 3)), x


def correct(surgery: Surgery) -> Recalibrator:
    lockstep = Lockstep(surgery.before, surgery.after, surgery.channels, surgery.dead)
    lockstep.enter(surgery.batches)
    recalibrator = Recalibrator(lockstep)
    recalibrator.run()
    surgery.after.write_back(surgery.rewritten)
    return recalibrator


def moments(model: ir.Model, name: str, x: Array, axis: int) -> tuple[Array, Array]:
    """Mean and deviation per channel, by numpy from ONNX Runtime's answers."""
    rows = np.moveaxis(inside(model, name, x), axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.mean(0), rows.std(0)


@pytest.mark.parametrize("text", CORRECTED.values(), ids=CORRECTED.keys())
def test_a_corrected_layer_has_the_originals_mean_and_deviation(text: str) -> None:
    surgery, x = cut(text)
    axis = 1 if "Conv" in text else -1
    wanted = moments(surgery.original, "y", x, axis)
    assert not np.allclose(moments(surgery.rewritten, "y", x, axis), wanted, rtol=1e-2, atol=1e-2)
    assert correct(surgery).layers == 1
    np.testing.assert_allclose(moments(surgery.rewritten, "y", x, axis), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", WITHOUT_A_CONSTANT.values(), ids=WITHOUT_A_CONSTANT.keys())
def test_without_a_constant_of_its_own_a_layer_gets_the_deviation_alone(text: str) -> None:
    surgery, x = cut(text)
    before = {name: value.detach().clone() for name, value in surgery.after.weights().items()}
    assert correct(surgery).layers == 1
    (_, wanted), (_, found) = (moments(model, "y", x, 1) for model in (surgery.original, surgery.rewritten))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in surgery.after.weights().items() if name != "w2")


def test_layers_are_corrected_on_the_corrected_prefix() -> None:
    """A BatchNormalization is re-estimated, the layers around it are corrected, and each sees the others."""
    surgery = Surgery(build(CLASSIFIER), {"w1": [1, 5], "w2": [0, 3]}, split(images(256, 3, 8, 8), 4))
    found = correct(surgery)
    assert (found.norms, found.layers) == (1, 1)
    x = np.concatenate([feed["x"] for feed in surgery.batches])
    weights = surgery.after.weights()
    np.testing.assert_allclose(weights["mean"].detach(), moments(surgery.rewritten, "c", x, 1)[0], rtol=1e-4, atol=1e-5)
    wanted, got = (moments(model, "y", x, 1) for model in (surgery.original, surgery.rewritten))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_whole_keeps_its_bits() -> None:
    surgery = Surgery(build(CORRECTED["conv"]), {}, split(images(64, 3, 6, 6), 2))
    before = {name: value.detach().clone() for name, value in surgery.after.weights().items()}
    assert (found := correct(surgery)).norms == found.layers == 0
    assert all(torch.equal(value, before[name]) for name, value in surgery.after.weights().items())


def test_a_weight_that_others_share_is_left_alone() -> None:
    text = """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[4,8,1,1] w3)
        => (float[N,4,4,4] y) {
        h = Conv(x, w1)
        a = Conv(h, w2)
        w = Identity(w2)
        b = Conv(a, w)
        y = Conv(b, w3)
    }
    """
    surgery = Surgery(build(text), {"w1": [3]}, split(images(64, 3, 6, 6), 2))
    before = surgery.after.weights()["w2"].detach().clone()
    assert correct(surgery).layers == 1
    assert torch.equal(surgery.after.weights()["w2"], before)


def test_gains_are_bounded_and_a_flat_channel_is_only_shifted() -> None:
    """The first output lives off what goes, the second is next to constant in the original."""
    text = CORRECTED["conv"].replace("8,2,2]", "8,1,1]").replace("N,4,3,3", "N,4,4,4")
    w2 = stored(build(text))["w2"].copy()
    w2[0, :] = 0.01
    w2[0, [3, 7]] = 3.0
    w2[1, :] = 1e-5
    surgery = Surgery(build(text, given={"w2": w2}), {"w1": [3, 7]}, split(images(200, 3, 6, 6), 3))
    before = surgery.after.weights()["w2"].detach().clone()
    correct(surgery)
    gains = (surgery.after.weights()["w2"].detach() / before)[:, 0, 0, 0]
    np.testing.assert_allclose(gains[:2], [GAINS[1], 1.0], rtol=1e-6)
    x = np.concatenate([feed["x"] for feed in surgery.batches])
    (wanted, _), (found, _) = (moments(model, "y", x, 1) for model in (surgery.original, surgery.rewritten))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def made_up() -> tuple[Surgery, Calibration]:
    surgery = Surgery(build(TWO_NORMS), {"w1": [1]}, [])
    calibration = prepare(surgery.original, surgery.channels, None, device="cpu", seed=0)
    assert calibration.rung == "batchnorm"
    return surgery, calibration


def test_the_world_of_made_up_samples_is_entered_and_left() -> None:
    surgery, calibration = made_up()
    real = {name: value.detach().clone() for name, value in surgery.after.weights().items()}
    domain = Domain.enter(calibration, surgery.after, surgery.channels, surgery.dead)
    inside = surgery.after.weights()
    assert calibration.twin is not None
    living = [0, 2, 3]
    torch.testing.assert_close(inside["mean1"], calibration.twin.constant("mean1")[living], rtol=0, atol=0)
    torch.testing.assert_close(inside["var2"], calibration.twin.constant("var2"), rtol=0, atol=0)
    assert not torch.equal(inside["mean1"], real["mean1"])
    assert torch.equal(inside["w1"], real["w1"])
    domain.leave()
    assert all(torch.equal(value, real[name]) for name, value in surgery.after.weights().items())


def test_what_a_refit_moved_stays_moved() -> None:
    surgery, calibration = made_up()
    real = surgery.after.weights()["mean1"].detach().clone()
    domain = Domain.enter(calibration, surgery.after, surgery.channels, surgery.dead)
    surgery.after.weights()["mean1"].data += 0.25
    domain.leave()
    torch.testing.assert_close(surgery.after.weights()["mean1"], real + 0.25, rtol=0, atol=1e-6)


def test_real_data_needs_no_other_world() -> None:
    surgery, calibration = made_up()
    real = Calibration("data", calibration.twin, calibration.batches)
    assert Domain.enter(real, surgery.after, surgery.channels, surgery.dead).statistics == []


def test_made_up_samples_see_the_stored_statistics() -> None:
    """On the rung `batchnorm` a normalized channel has mean beta and deviation |gamma|, as on its training data."""
    model = build(TWO_NORMS)
    loaded = ir.from_proto(model)
    calibration = prepare(loaded, analyse(loaded), None, device="cpu", seed=0)
    assert calibration.twin is not None
    outputs = torch.cat([calibration.twin.detached(feed)["y"] for feed in calibration.batches])
    weights = stored(model)
    np.testing.assert_allclose(outputs.mean((0, 2, 3)), weights["b2"], atol=1e-4)
    np.testing.assert_allclose(outputs.std((0, 2, 3), correction=0), np.abs(weights["scale2"]), rtol=1e-3)


def scorer(bias: Array) -> TorchGraph:
    text = "(float[N,4] x, float[4,5] m1, float[5] b1) => (float[N,5] y) { h = MatMul(x, m1)\n y = Add(h, b1)\n }"
    return TorchGraph(ir.from_proto(build(text, given={"b1": bias, "m1": 5 * np.eye(4, 5)})))


def test_the_divergence_of_class_scores_is_kullback_leiblers() -> None:
    x = images(30, 4)
    one, two = scorer(np.zeros(5)), scorer(np.linspace(0, 2, 5))
    assert divergence(one, one, split(x, 3)) == pytest.approx(0, abs=1e-7)
    p, q = (softmax(twin.detached({"x": x})["y"].numpy(), axis=1) for twin in (one, two))
    assert divergence(one, two, split(x, 3)) == pytest.approx(rel_entr(p, q).sum(1).mean(), rel=1e-4)
    assert divergence(one, scorer(np.full(5, np.nan)), split(x, 1)) == float("inf")


def test_the_divergence_of_numbers_is_the_unexplained_variance() -> None:
    model = build(IMAGES)
    x = images(10, 2, 4, 4)
    other = build(IMAGES, given={"w1": stored(model)["w1"] * 1.1})
    one, two = (TorchGraph(ir.from_proto(proto)) for proto in (model, other))
    want, got = (twin.detached({"x": x})["y"].numpy() for twin in (one, two))
    assert divergence(one, two, split(x, 1)) == pytest.approx(np.square(got - want).mean() / want.var(), rel=1e-4)
