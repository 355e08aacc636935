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
from darwinc.calibrators.recalibrate import reestimate
from darwinc.channels import analyse
from darwinc.torch_graph import TorchGraph
from tests.operation import Surgery, answers
from tests.small_models import IMAGES, Array, build, images, split, stored

TWO_NORMS = """(float[N,3,6,6] x, float[4,3,3,3] w1, float[4] scale1, float[4] b1, float[4] mean1, float[4] var1,
    float[5,4,1,1] w2, float[5] scale2, float[5] b2, float[5] mean2, float[5] var2) => (float[N,5,4,4] y) {
    a = Conv(x, w1)
    n = BatchNormalization(a, scale1, b1, mean1, var1)
    r = Relu(n)
    c = Conv(r, w2)
    y = BatchNormalization(c, scale2, b2, mean2, var2)
}
"""


def test_re_estimated_statistics_are_numpys_one_layer_after_the_other() -> None:
    model = build(TWO_NORMS)
    x = images(40, 3, 6, 6)
    twin = TorchGraph(ir.from_proto(model))
    assert reestimate(twin, split(x, 3)) == 2
    weights = {name: value.detach().numpy() for name, value in twin.weights().items()}
    exposed = ir.from_proto(model)
    twin.write_back(exposed)
    for inner, mean, variance in (("a", "mean1", "var1"), ("c", "mean2", "var2")):
        proto = ir.to_proto(exposed)
        proto.graph.output.insert(0, onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
        seen = answers(ir.from_proto(proto), {"x": x}).astype(np.float64)
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
