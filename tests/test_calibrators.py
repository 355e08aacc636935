"""What is measured and what is refitted, against closed forms, numpy and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from darwinc.calibrators.aftermath import Aftermath, find_aftermath, readers_of
from darwinc.calibrators.calibration import Calibration, prepare
from darwinc.calibrators.divergence import divergence
from darwinc.calibrators.domain import Domain
from darwinc.calibrators.least_squares import LayerFit, Rows, Solution
from darwinc.calibrators.lockstep import Lockstep, footprint
from darwinc.calibrators.recalibrate import reestimate
from darwinc.calibrators.refit import Refitter
from darwinc.calibrators.sites import Site, find_sites
from darwinc.calibrators.statistics import Statistics, class_log_probabilities, gather
from darwinc.calibrators.weights_only import from_weights
from darwinc.channels import Channels, Mask, analyse
from darwinc.errors import DarwincError
from darwinc.passes.excise import excise
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, Array, Arrays, build, images, stored
from tests.surgery import dead_positions


def statistics(model: onnx.ModelProto, *feeds: Arrays, gradients: bool = True) -> Statistics:
    loaded = ir.from_proto(model)
    return gather(TorchGraph(loaded), analyse(loaded), feeds, rung="data", seed=5, gradients=gradients)


def split(x: Array, parts: int) -> list[dict[str, Array]]:
    return [{"x": part} for part in np.array_split(x, parts)]


LINEAR_MAPS = {
    "1-D": (
        "float[2,4,11] x, float[6,4,3] w, float[6] b",
        "Conv<pads = [2, 0], strides = [2], dilations = [2]>(x, w, b)",
    ),
    "2-D": (
        "float[2,4,9,7] x, float[6,4,3,2] w",
        "Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 3]>(x, w)",
    ),
    "3-D": ("float[2,2,5,4,6] x, float[3,2,2,3,2] w, float[3] b", "Conv<pads = [1, 0, 0, 0, 1, 2]>(x, w, b)"),
    "groups": ("float[2,6,7,7] x, float[4,3,3,3] w", "Conv<group = 2, pads = [1, 1, 1, 1], strides = [3, 2]>(x, w)"),
    "depthwise": ("float[2,4,7,7] x, float[8,1,3,3] w, float[8] b", "Conv<group = 4>(x, w, b)"),
    "same": ("float[2,4,7,7] x, float[6,4,2,3] w", 'Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)'),
    "transposed": ("float[2,4,5,5] x, float[4,3,1,1] w", "ConvTranspose(x, w)"),
    "transposed groups": ("float[2,4,5,5] x, float[4,3,1,1] w", "ConvTranspose<group = 2>(x, w)"),
    "gemm": ("float[5,4] x, float[4,6] w, float[6] b", "Gemm<alpha = 0.5, beta = 2.0>(x, w, b)"),
    "gemm both turned": ("float[4,5] x, float[6,4] w", "Gemm<transA = 1, transB = 1>(x, w)"),
    "gemm weight left": ("float[5,4] x, float[6,4] w", "Gemm<transB = 1>(w, x)"),
    "gemm weight left, turned": ("float[4,5] x, float[4,6] w", "Gemm<transA = 1, alpha = 3.0>(w, x)"),
    "matmul": ("float[2,3,5,4] x, float[4,6] w", "MatMul(x, w)"),
    "matmul weight left": ("float[2,3,4,5] x, float[6,4] w", "MatMul(w, x)"),
}


def linear_map(name: str) -> tuple[TorchGraph, Site, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The twin of one node, its site, its data, its weight, and what it gives without a bias."""
    operands, call = LINEAR_MAPS[name]
    model = build(
        f"({operands}) => (y) {{\n y = {call}\n}}\n", given={"b": np.zeros(1)} if "b" not in operands else None
    )
    zeros = {tensor.name: np.zeros(tuple(tensor.dims)) for tensor in model.graph.initializer if tensor.name == "b"}
    model = build(f"({operands}) => (y) {{\n y = {call}\n}}\n", given=zeros)
    twin = TorchGraph(ir.from_proto(model))
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    x = images(*shape)
    y = twin.detached({"x": x})["y"]
    return twin, find_sites(twin)["y"], torch.from_numpy(x), twin.constant("w").detach(), y


@pytest.mark.parametrize("name", [name for name in LINEAR_MAPS if "transposed" not in name])
def test_a_site_is_the_linear_map_that_torch_computes(name: str) -> None:
    _, site, x, weight, y = linear_map(name)
    matrix = site.matrix(weight)
    assert torch.equal(site.unmatrix(matrix, weight), weight)
    every = torch.arange(site.positions(y))
    for chosen in (every, torch.tensor([0]), every.flip(0)[:3]):
        rows, targets = site.patches(x, weight, y, chosen), site.targets(y, chosen)
        torch.testing.assert_close(rows @ matrix.flatten(2).transpose(1, 2), targets, rtol=1e-5, atol=1e-5)
    flat = site.output_rows(y).reshape(-1, site.groups, matrix.shape[1]).transpose(0, 1)
    taken = site.targets(y, every)
    torch.testing.assert_close(flat.sum(1), taken.sum(1), rtol=1e-5, atol=1e-4)
    assert flat.shape == taken.shape


@pytest.mark.parametrize("name", ["transposed", "transposed groups", "matmul", "gemm both turned", "gemm weight left"])
def test_rows_without_taps_meet_the_matrix(name: str) -> None:
    _, site, x, weight, y = linear_map(name)
    rows = site.input_rows(x).reshape(-1, site.groups, x.numel() // len(site.input_rows(x)) // site.groups)
    made = torch.einsum("rgc,goc->rgo", rows, site.matrix(weight)[..., 0])
    torch.testing.assert_close(made.flatten(1), site.output_rows(y), rtol=1e-5, atol=1e-5)


def test_two_computed_operands_and_two_constants_are_no_sites() -> None:
    model = build(
        "(float[2,3,3] x, float[3,3] m, float[3,3] w) => (y) { a = MatMul(x, x)\n b = MatMul(m, w)\n y = MatMul(a, b)\n }"
    )
    assert list(find_sites(TorchGraph(ir.from_proto(model)))) == ["y"]


TWO_LAYERS = """(float[N,5] x, float[5,7] m1, float[7] b1, float[7,4] m2) => (float[N,4] y) {
    a = MatMul(x, m1)
    h = Add(a, b1)
    y = MatMul(h, m2)
}
"""
SOFT = TWO_LAYERS.replace("y = MatMul(h, m2)", "z = MatMul(h, m2)\n    y = Softmax(z)")
IMAGES = """(float[N,2,4,4] x, float[6,2,1,1] w1, float[3,6,1,1] w2) => (float[N,3,4,4] y) {
    h = Conv(x, w1)
    y = Conv(h, w2)
}
"""


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


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(DarwincError, match="no calibration batch"):
        from darwinc.calibrators.statistics import _Moments

        _Moments().covariance()


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


def rows(seed: int, count: int = 400, *, offset: bool = True, noise: float = 0.0) -> tuple[Rows, Rows, Array, Array]:
    """Rows of a linear map, to fit on and to judge by, with its weights [6, 3] and offset [3]."""
    random = np.random.default_rng(seed)
    weight, constant = random.standard_normal((6, 3)), random.standard_normal(3) if offset else np.zeros(3)
    x = random.standard_normal((1, count, 6)) + 0.5
    t = x @ weight + constant + noise * random.standard_normal((1, count, 3))
    parts = [
        Rows(torch.from_numpy(x[:, part]), torch.from_numpy(t[:, part])) for part in (slice(300), slice(300, None))
    ]
    return parts[0], parts[1], weight, constant


@pytest.mark.parametrize("offset", [True, False])
def test_a_fit_is_numpys_least_squares(offset: bool) -> None:
    seen, held, weight, constant = rows(0, offset=offset, noise=0.3)
    start = torch.from_numpy(weight[None] + 0.5)
    fit = LayerFit(seen, held, start, torch.zeros(1, 3, dtype=torch.float64) if offset else None)
    found = fit.best()
    x, t = seen.x[0].numpy(), seen.t[0].numpy()
    design = np.hstack([x, np.ones((len(x), 1))]) if offset else x
    wanted, *_ = np.linalg.lstsq(design, t, rcond=None)
    assert found.ridge is not None
    assert found.ridge <= 1e-3
    np.testing.assert_allclose(found.weight[0].numpy(), wanted[:6], atol=2e-3)
    if offset:
        assert found.offset is not None
        np.testing.assert_allclose(found.offset[0].numpy(), wanted[6], atol=2e-3)
    residual = held.t[0].numpy() - np.hstack([held.x[0].numpy(), np.ones((100, 1))])[:, : design.shape[1]] @ wanted
    spread = np.square(held.t[0].numpy() - held.t[0].numpy().mean(0)).sum()
    assert found.error == pytest.approx(np.square(residual).sum() / spread, rel=1e-2)


def test_without_noise_the_fit_is_exact() -> None:
    seen, held, weight, constant = rows(1)
    found = LayerFit(
        seen, held, torch.zeros(1, 6, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    ).best()
    np.testing.assert_allclose(found.weight[0].numpy(), weight, atol=1e-5)
    assert found.offset is not None
    np.testing.assert_allclose(found.offset[0].numpy(), constant, atol=1e-5)
    assert found.error < 1e-10


def test_the_ridge_pulls_towards_the_present_weights() -> None:
    """W = W0 + (M + r D)^-1 (X'T / R - M W0), by numpy."""
    seen, held, *_ = rows(2, offset=False, noise=0.5)
    start = np.random.default_rng(9).standard_normal((6, 3))
    fit = LayerFit(seen, held, torch.from_numpy(start)[None], None)
    fit.best()
    x, t = seen.x[0].numpy(), seen.t[0].numpy()
    moment = x.T @ x / len(x)
    for ridge in (1e-3, 1e-1):
        solved = fit._solve(seen.t, ridge)
        assert solved is not None
        step = np.linalg.solve(moment + ridge * np.diag(np.diag(moment)), x.T @ t / len(x) - moment @ start)
        np.testing.assert_allclose(solved.weight[0].numpy(), start + step, rtol=1e-8)


def test_what_is_right_already_is_left_alone() -> None:
    seen, held, weight, constant = rows(3)
    fit = LayerFit(seen, held, torch.from_numpy(weight)[None], torch.from_numpy(constant)[None])
    assert fit.best() is fit.current
    assert fit.best().ridge is None


def rectified(seed: int) -> tuple[LayerFit, Solution]:
    """A fit of three inputs to what five made, with a rectifier behind it."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((1, 400, 5))
    t = x @ random.standard_normal((5, 4)) - 0.7
    low, high = torch.zeros(1, 1, 4, dtype=torch.float64), torch.full((1, 1, 4), torch.inf, dtype=torch.float64)
    seen, held = (
        Rows(torch.from_numpy(x[:, part, :3]), torch.from_numpy(t[:, part]), low, high)
        for part in (slice(300), slice(300, None))
    )
    start = torch.from_numpy(random.standard_normal((1, 3, 4)))
    fit = LayerFit(seen, held, start, torch.zeros(1, 4, dtype=torch.float64))
    return fit, fit.best()


@pytest.mark.parametrize("seed", range(8))
def test_knowing_the_rectifier_is_never_worse_on_held_out_rows(seed: int) -> None:
    fit, best = rectified(seed)
    linear = [fit._solve(fit.seen.t, ridge) for ridge in (1e-7, 1e-3, 1e-2, 1e-1, 1.0)]
    assert best.error <= min(solution.error for solution in linear if solution is not None)
    assert best.error <= fit.current.error
    assert best.weight is not fit.current.weight
    # The reported error is that of the rectified answers.
    assert best.offset is not None
    answer = (fit.held.x @ best.weight + best.offset.unsqueeze(1)).clamp_min(0)
    wanted = fit.held.t.clamp_min(0)
    spread = (wanted - wanted.mean(1, keepdim=True)).square().sum()
    assert best.error == pytest.approx(float((answer - wanted).square().sum() / spread))


def test_knowing_the_rectifier_mostly_helps() -> None:
    better = 0
    for seed in range(8):
        fit, best = rectified(seed)
        linear = fit._solve(fit.seen.t, 1e-3)
        assert linear is not None
        better += best.error < 0.98 * linear.error
    assert better >= 6


def test_a_gain_weighs_outputs_by_what_the_network_makes_of_them() -> None:
    random = np.random.default_rng(4)
    x, t = torch.from_numpy(random.standard_normal((1, 50, 3))), torch.from_numpy(random.standard_normal((1, 50, 2)))
    gain = torch.tensor([[[2.0, 0.5]]], dtype=torch.float64)
    plain, weighed = Rows(x, t), Rows(x, t, gain=gain)
    torch.testing.assert_close(weighed.clipped(t), plain.clipped(t) * gain)


class Surgery:
    """A model, its rewrite without some channels, and both twins on the same batches."""

    def __init__(
        self, model: onnx.ModelProto, removed: Mapping[str, Sequence[int]], batches: list[dict[str, Array]]
    ) -> None:
        self.original = ir.from_proto(model)
        self.channels: Channels = analyse(self.original)
        self.dead: Mask = dead_positions(self.channels, removed)
        self.rewritten, _ = excise(self.original, self.channels, self.dead)
        self.batches = batches
        self.before, self.after = TorchGraph(self.original), TorchGraph(self.rewritten)

    def refit(self) -> Refitter:
        lockstep = Lockstep(self.before, self.after, self.channels, self.dead)
        lockstep.enter(self.batches)
        refitter = Refitter(lockstep, holdout=1)
        refitter.run()
        return refitter

    def error(self, feed: Arrays) -> float:
        """The largest difference of the outputs in ONNX Runtime, over their scale."""
        self.after.write_back(self.rewritten)
        want, got = (answers(model, feed) for model in (self.original, self.rewritten))
        return float(np.abs(want - got).max() / np.abs(want).max())


def answers(model: ir.Model, feed: Arrays) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, dict(feed))[0]
    return found


MIXED = {
    "own bias": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4] b2) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        y = Conv(h, w2, b2)
    }
    """,
    "batch norm": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4] scale, float[4] b2,
        float[4] mean, float[4] var) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        c = Conv(h, w2)
        n = BatchNormalization(c, scale, b2, mean, var)
        y = Relu(n)
    }
    """,
    "add": """(float[N,5] x, float[5,8] m1, float[8] b1, float[8,4] m2, float[4] b2) => (float[N,4] y) {
        p = MatMul(x, m1)
        h = Add(p, b1)
        q = MatMul(h, m2)
        y = Add(b2, q)
    }
    """,
    "add in a sequence": """(float[N,7,5] x, float[5,8] m1, float[8] b1, float[8,4] m2, float[4] b2) => (float[N,7,4] y) {
        p = MatMul(x, m1)
        h = Add(p, b1)
        q = MatMul(h, m2)
        y = Add(q, b2)
    }
    """,
    "gemm with alpha and beta": """(float[N,5] x, float[8,5] w1, float[8] b1, float[4,8] w2, float[4] b2) => (float[N,4] y) {
        h = Gemm<transB = 1>(x, w1, b1)
        y = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(h, w2, b2)
    }
    """,
    "batch norm after a product": """(float[N,5] x, float[5,8] m1, float[8] b1, float[8,4] m2, float[4] scale, float[4] b2,
        float[4] mean, float[4] var) => (float[N,4] y) {
        p = MatMul(x, m1)
        h = Add(p, b1)
        q = MatMul(h, m2)
        y = BatchNormalization(q, scale, b2, mean, var)
    }
    """,
    "groups": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,4,2,2] w2, float[4] b2) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        y = Conv<group = 2>(h, w2, b2)
    }
    """,
    "residual sum and clip": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4] b2,
        float[4,3,4,4] w3) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        c = Conv(h, w2, b2)
        o = Conv(x, w3)
        s = Add(c, o)
        zero = Constant<value = float {0.0}>()
        six = Constant<value = float {6.0}>()
        y = Clip(s, zero, six)
    }
    """,
}
WITHOUT_A_CONSTANT = {
    "no place for a constant": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        y = Conv(h, w2)
    }
    """,
    "a bias that two share": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4,3,4,4] w3,
        float[4] b2) => (float[N,4,3,3] y) {
        h = Conv(x, w1, b1)
        c = Conv(h, w2, b2)
        o = Conv(x, w3, b2)
        y = Add(c, o)
    }
    """,
    "one bias for all": """(float[N,5] x, float[8,5] w1, float[8] b1, float[4,8] w2, float[1] b2) => (float[N,4] y) {
        h = Gemm<transB = 1>(x, w1, b1)
        y = Gemm<transB = 1, beta = 2.0>(h, w2, b2)
    }
    """,
}


def mixed(text: str, constant: float) -> tuple[Surgery, dict[str, Array]]:
    """A first layer whose last channel in every four is a mix of its neighbours, plus a constant; that channel is cut."""
    probe = build(text)
    weights = {
        tensor.name: array.astype(np.float64)
        for tensor, array in zip(probe.graph.initializer, stored(probe).values(), strict=True)
    }
    name = "m1" if "m1" in weights else "w1"
    first = weights[name] if name == "w1" else weights[name].T
    first[[3, 7]] = 0.5 * first[[0, 4]] - 2 * first[[1, 5]] + first[[2, 6]]
    bias = weights["b1"]
    bias[[3, 7]] = 0.5 * bias[[0, 4]] - 2 * bias[[1, 5]] + bias[[2, 6]] + constant
    weights["b2"] = 0.5 + np.arange(weights["b2"].size) if "b2" in weights else np.zeros(0)
    model = build(text, given={name: first if name == "w1" else first.T, "b1": bias, "b2": weights["b2"]})
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim][1:]
    removed = {f"{name}:{int(name == 'm1')}": [3, 7]}
    return Surgery(model, removed, split(images(160, *shape), 4)), {"x": images(16, *shape, seed=7)}


@pytest.mark.parametrize("text", MIXED.values(), ids=MIXED.keys())
def test_a_mix_of_the_living_is_inherited_exactly_bias_included(text: str) -> None:
    surgery, feed = mixed(text, constant=3.0)
    assert surgery.error(feed) > 1e-2
    refitter = surgery.refit()
    assert surgery.error(feed) < 1e-5
    assert any(result.ridge is not None and result.error_after < 1e-9 for result in refitter.results)


@pytest.mark.parametrize("text", WITHOUT_A_CONSTANT.values(), ids=WITHOUT_A_CONSTANT.keys())
def test_where_a_constant_has_no_place_a_mix_without_one_is_inherited(text: str) -> None:
    surgery, feed = mixed(text, constant=0.0)
    shared = dict(surgery.after.weights())
    kept = {name: shared[name].detach().clone() for name in ("b2",) if name in shared}
    assert surgery.error(feed) > 1e-2
    surgery.refit()
    assert surgery.error(feed) < 1e-5
    assert all(torch.equal(surgery.after.weights()[name], value) for name, value in kept.items())


def test_what_is_not_refitted_is_named() -> None:
    text = """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[8,4,2,2] w3) => (y) {
        a = Conv(x, w1)
        b = Conv(a, w2)
        c = Conv(b, w2)
        y = ConvTranspose(c, w3)
    }
    """
    surgery = Surgery(build(text), {"w3": [1]}, split(images(16, 3, 6, 6), 2))
    reasons = dict(surgery.refit().skipped)
    assert reasons["Conv_1"] == reasons["Conv_2"] == "it shares its weight with another layer"
    assert reasons["ConvTranspose_3"] == "its weight is not used as it is stored"
    few = Surgery(build(MIXED["add"]), {"m1:1": [0]}, split(images(4, 5), 2))
    assert dict(few.refit().skipped)["MatMul_2"] == "the samples have 2 rows for its 7 inputs"


def test_errors_from_upstream_are_corrected_downstream() -> None:
    """The target is the original's response: the second cut is repaired on the inputs that the first one left."""
    surgery = Surgery(build(CLASSIFIER), {"w1": [1, 5], "w2": [0, 3]}, split(images(128, 3, 8, 8), 4))
    feed = {"x": images(32, 3, 8, 8, seed=7)}
    before = surgery.error(feed)
    results = {result.node: result for result in surgery.refit().results}
    assert surgery.error(feed) < before / 3
    assert all(result.error_after <= result.error_before for result in results.values())
    # Its own input is whole: there is nothing to repair.
    assert results["Conv_0"].ridge is None


def aftermath_of(text: str, output: str) -> tuple[Surgery, Lockstep, Site, Aftermath]:
    surgery = Surgery(build(text), {}, split(images(4, 3, 6, 6), 1))
    lockstep = Lockstep(surgery.before, surgery.after, surgery.channels, surgery.dead)
    lockstep.enter(surgery.batches)
    for first, second in lockstep.steps():
        lockstep.run_original(first)
        lockstep.run_compressed(second)
        if first.outputs[0] == output:
            break
    site = find_sites(surgery.after)[output]
    return surgery, lockstep, site, find_aftermath(lockstep, site, readers_of(surgery.after.steps))


def test_an_aftermath_is_followed_to_the_rectifier() -> None:
    text = """(float[N,3,6,6] x, float[4,3,3,3] w1, float[4] scale, float[4] b, float[4] mean, float[4] var,
        float[4,4,1,1] w2, float[4,3,3,3] w3) => (float[N,4,4,4] y) {
        o = Conv(x, w3)
        c = Conv(x, w1)
        n = BatchNormalization(c, scale, b, mean, var)
        s = Add(n, o)
        r = Relu(s)
        y = Conv(r, w2)
    }
    """
    surgery, lockstep, site, found = aftermath_of(text, "c")
    assert (found.other, found.bounds) == ("o", (0.0, float("inf")))
    y = lockstep.after[0]["c"]
    at_zero = found.zero(lockstep, y, 0, 0.0)
    weights = {name: value.detach() for name, value in surgery.after.weights().items()}
    scale, shift, mean, variance = (weights[name].reshape(1, -1, 1, 1) for name in ("scale", "b", "mean", "var"))
    z = scale * (at_zero - mean) / (variance + 1e-5).sqrt() + shift + lockstep.after[0]["o"]
    assert float(z.abs().max()) < 1e-5
    # The other branch is as it was, so the layer should give what it gave.
    torch.testing.assert_close(found.target(lockstep, site, 0), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("after", "opset", "bounds"),
    [
        ("Relu(c)", 17, (0.0, float("inf"))),
        ("Clip<min = 0.0, max = 6.0>(c)", 9, (0.0, 6.0)),
        ("Clip<max = 6.0>(c)", 9, None),
        ("Sigmoid(c)", 17, None),
    ],
)
def test_the_bounds_of_a_rectifier(after: str, opset: int, bounds: tuple[float, float] | None) -> None:
    text = f"(float[N,3,6,6] x, float[4,3,3,3] w1) => (float[N,4,4,4] y) {{ c = Conv(x, w1)\n y = {after}\n }}"
    surgery = Surgery(build(text, opset=opset), {}, split(images(4, 3, 6, 6), 1))
    lockstep = Lockstep(surgery.before, surgery.after, surgery.channels, surgery.dead)
    lockstep.enter(surgery.batches)
    lockstep.run_original(surgery.before.steps[0])
    site = find_sites(surgery.after)["c"]
    assert find_aftermath(lockstep, site, readers_of(surgery.after.steps)).bounds == bounds


def test_lockstep_cuts_the_original_to_the_living() -> None:
    surgery = Surgery(build(CLASSIFIER), {"w1": [1, 5]}, split(images(4, 3, 8, 8), 2))
    lockstep = Lockstep(surgery.before, surgery.after, surgery.channels, surgery.dead)
    lockstep.enter(surgery.batches)
    first, second = lockstep.steps()[0]
    lockstep.run_original(first)
    lockstep.run_compressed(second)
    for batch in range(2):
        torch.testing.assert_close(lockstep.wanted("a", batch), lockstep.after[batch]["a"])
    assert lockstep.wanted("a", 0).shape[1] == 14


def test_a_footprint_counts_bytes_per_sample() -> None:
    size = footprint(TorchGraph(ir.from_proto(build(IMAGES))), {"x": images(8, 2, 4, 4)})
    x, h, y = (4 * 16 * channels for channels in (2, 6, 3))
    assert size.total == h + y
    assert size.frontier == max(x + h, h + y)


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
    """On the rung `batchnorm` a normalized channel has mean beta and deviation |gamma|, as on the data it was trained on."""
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
