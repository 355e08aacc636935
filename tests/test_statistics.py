"""Second moments and curvature against closed forms on linear networks."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from scipy.special import log_softmax, softmax

from darwinc.calibrators.statistics import Statistics, class_log_probabilities, gather
from darwinc.calibrators.weights_only import from_weights
from darwinc.channels import analyse
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, IMAGES, Array, Arrays, build, images, split, stored


def statistics(model: onnx.ModelProto, *feeds: Arrays, gradients: bool = True) -> Statistics:
    loaded = ir.from_proto(model)
    return gather(TorchGraph(loaded), analyse(loaded), feeds, rung="data", seed=5, gradients=gradients)


TWO_LAYERS = """(float[N,5] x, float[5,7] m1, float[7] b1, float[7,4] m2) => (float[N,4] y) {
    a = MatMul(x, m1)
    h = Add(a, b1)
    y = MatMul(h, m2)
}
"""
SOFT = TWO_LAYERS.replace("y = MatMul(h, m2)", "z = MatMul(h, m2)\n    y = Softmax(z)")


def test_the_covariance_of_a_linear_network() -> None:
    model, x = build(TWO_LAYERS), images(600, 5)
    (reader,) = statistics(model, *split(x, 4)).readers["y"]
    weights = stored(model)
    hidden = x.astype(np.float64) @ weights["m1"] + weights["b1"]
    np.testing.assert_allclose(reader.covariance, np.cov(hidden.T, bias=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        reader.covariance, weights["m1"].T @ np.cov(x.T, bias=True) @ weights["m1"], rtol=1e-4, atol=1e-5
    )


def test_the_covariance_of_images_is_over_samples_and_positions() -> None:
    model, x = build(IMAGES), images(40, 2, 4, 4)
    (reader,) = statistics(model, *split(x, 3)).readers["y"]
    hidden = np.einsum("nchw,oc->nhwo", x.astype(np.float64), stored(model)["w1"][..., 0, 0]).reshape(-1, 6)
    np.testing.assert_allclose(reader.covariance, np.cov(hidden.T, bias=True), rtol=1e-5, atol=1e-6)


def test_a_kernel_keeps_its_taps_apart() -> None:
    model = build(
        "(float[N,2,4,4] x, float[3,2,1,1] w1, float[2,3,2,2] w2) => (y) { h = Conv(x, w1)\n y = Conv(h, w2)\n }"
    )
    x = images(50, 2, 4, 4)
    (reader,) = statistics(model, {"x": x}).readers["y"]
    hidden = np.einsum("nchw,oc->nohw", x.astype(np.float64), stored(model)["w1"][..., 0, 0])
    windows = (
        np.lib.stride_tricks.sliding_window_view(hidden, (2, 2), (2, 3)).transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    )
    np.testing.assert_allclose(reader.covariance, np.cov(windows.T, bias=True), rtol=1e-5, atol=1e-6)
    assert np.array_equal(reader.units, np.repeat(reader.positions, 4))


def close(found: Array, wanted: Array, share: float) -> bool:
    return bool(np.linalg.norm(found - wanted) < share * np.linalg.norm(wanted))


def test_the_curvature_of_numbers_is_that_of_random_directions() -> None:
    """f = h W: delta = v / rms(f), so that G = I / rms(f)^2 and K = W' G W."""
    model, x = build(TWO_LAYERS), images(30000, 5)
    (reader,) = statistics(model, {"x": x}).readers["y"]
    weights = stored(model)
    answers = (x @ weights["m1"] + weights["b1"]) @ weights["m2"]
    assert close(reader.gram, weights["m2"] @ weights["m2"].T / np.square(answers).mean(), 0.03)


def test_the_curvature_of_images_sums_over_positions() -> None:
    model, x = build(IMAGES), images(2000, 2, 4, 4)
    (reader,) = statistics(model, {"x": x}).readers["y"]
    first, second = (stored(model)[name][..., 0, 0] for name in ("w1", "w2"))
    answers = np.einsum("nchw,kc->nkhw", x, second @ first)
    assert close(reader.gram, 16 * second.T @ second / np.square(answers).mean(), 0.05)


def test_the_curvature_of_class_scores_is_the_true_fisher() -> None:
    """G = E[diag(p) - p p'] at the logits."""
    model, x = build(SOFT), images(30000, 5)
    (reader,) = statistics(model, {"x": x}).readers["z"]
    weights = stored(model)
    p = softmax((x @ weights["m1"] + weights["b1"]) @ weights["m2"], axis=1).astype(np.float64)
    fisher = np.diag(p.mean(0)) - p.T @ p / len(p)
    assert close(reader.gram, weights["m2"] @ fisher @ weights["m2"].T, 0.05)


def test_first_order_taylor_is_the_mean_of_absolute_products() -> None:
    model, x = build(TWO_LAYERS), images(200, 5)
    (reader,) = statistics(model, {"x": x}).readers["y"]
    weights = stored(model)
    hidden = x @ weights["m1"] + weights["b1"]
    answers = hidden @ weights["m2"]
    noise = torch.randn(answers.shape, generator=torch.Generator().manual_seed(5)).numpy()
    wanted = np.abs(hidden * (noise / np.sqrt(np.square(answers).mean()) @ weights["m2"].T)).mean(0)
    assert reader.taylor is not None
    np.testing.assert_allclose(reader.taylor, wanted, rtol=1e-4)


def test_without_labels_every_reader_has_curvature() -> None:
    found = statistics(build(CLASSIFIER), {"x": images(32, 3, 8, 8)})
    assert {"c", "y"} == found.readers.keys()
    for parts in found.readers.values():
        assert all(np.trace(part.gram) > 0 for part in parts)


def test_without_gradients_the_readers_output_has_unit_power() -> None:
    for parts in statistics(build(CLASSIFIER), {"x": images(32, 3, 8, 8)}, gradients=False).readers.values():
        for part in parts:
            assert part.taylor is None
            if part.gram.shape == part.covariance.shape:
                assert np.sum(part.gram * part.covariance) == pytest.approx(1.0)


def test_statistics_of_nothing_say_nothing() -> None:
    assert statistics(build(TWO_LAYERS)) == Statistics({"y": []}, 0, "data")


def test_batches_add_up() -> None:
    x = images(64, 3, 8, 8)
    whole, parts = (statistics(build(CLASSIFIER), *split(x, count), gradients=False) for count in (1, 4))
    assert whole.samples == parts.samples == 64
    np.testing.assert_allclose(whole.readers["y"][0].covariance, parts.readers["y"][0].covariance, rtol=1e-4, atol=1e-6)


def test_weights_alone_take_inputs_to_be_white() -> None:
    channels = analyse(ir.from_proto(build(CLASSIFIER)))
    found = from_weights(channels)
    assert (found.rung, found.samples) == ("weights", 0)
    weight = stored(build(CLASSIFIER))["w3"].astype(np.float64)
    (reader,) = found.readers["y"]
    np.testing.assert_allclose(reader.gram, weight.T @ weight / np.square(weight).sum())
    assert np.array_equal(reader.covariance, np.eye(16))
    grouped = build(
        "(float[2,3,4,4] x, float[8,3,1,1] w, float[4,4,3,3] v) => (y) { a = Conv(x, w)\n y = Conv<group = 2>(a, v)\n }"
    )
    readers = from_weights(analyse(ir.from_proto(grouped))).readers["y"]
    v = stored(grouped)["v"].astype(np.float64)
    for number, part in enumerate(readers):
        rows = v[2 * number : 2 * number + 2].transpose(1, 0, 2, 3).reshape(4, -1)
        np.testing.assert_allclose(part.gram, rows @ rows.T / np.square(rows).sum())


LOGITS = np.random.default_rng(2).standard_normal((64, 5))


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (softmax(LOGITS, 1), log_softmax(LOGITS, 1)),
        (log_softmax(LOGITS, 1), log_softmax(LOGITS, 1)),
        (9 * LOGITS, log_softmax(9 * LOGITS, 1)),
        (LOGITS[:, :2], log_softmax(LOGITS[:, :2], 1)),
        (0.1 * LOGITS, None),
        (LOGITS[:, :1], None),
        (LOGITS[:, :, None], None),
    ],
    ids=["probabilities", "log-probabilities", "peaked", "two", "flat", "one", "sequence"],
)
def test_what_looks_like_class_scores(output: Array, wanted: Array | None) -> None:
    found = class_log_probabilities(torch.from_numpy(output))
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
