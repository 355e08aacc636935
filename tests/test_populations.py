"""Masses folded into the weights that read a unit, against masses on what is read; and what a look at units finds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from darwinc.calibrators.populations import COMPUTED, MEETS, SHARED, Populations, find_populations
from darwinc.calibrators.vitality import look
from darwinc.channels import Channels, analyse
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, PLAIN, Array, build, images

GROUPED = """(float[N,3,8,8] x, float[6,3,1,1] w1, float[6] b1, float[4,3,3,3] w2, float[5,4,1,1] w3)
    => (float[N,5,6,6] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    g = Conv<group = 2>(r, w2)
    s = Relu(g)
    y = Conv(s, w3)
}"""
FLAT = """(float[N,3,4,4] x, float[6,3,3,3] w1, float[24,10] m1, float[10] b1, float[5,10] w2) => (float[N,5] y) {
    a = Conv(x, w1)
    r = Relu(a)
    f = Flatten(r)
    h = Gemm(f, m1, b1)
    s = Relu(h)
    y = Gemm<alpha = 0.5, transB = 1>(s, w2)
}"""
DECONVOLVED = """(float[N,3,4,4] x, float[6,3,1,1] w1, float[6,4,2,2] w2, float[5,4,1,1] w3) => (float[N,5,8,8] y) {
    a = Conv(x, w1)
    r = Relu(a)
    d = ConvTranspose<strides = [2, 2]>(r, w2)
    s = Relu(d)
    y = Conv(s, w3)
}"""
BRANCHES = """(float[N,3,4,4] x, float[6,3,1,1] w1, float[6,6,1,1] w2, float[6,1,3,3] d, float[5,6,1,1] w3)
    => (float[N,5,4,4] y) {
    a = Conv(x, w1)
    r = Relu(a)
    b = Conv(r, w2)
    s = Add(r, b)
    c = Conv<group = 6, pads = [1, 1, 1, 1]>(s, d)
    y = Conv(c, w3)
}"""
ATTENTION = """(float[N,5,8] x, float[8,12] wq, float[8,12] wk, float[8,12] wv, float[12,8] wo) => (float[N,5,8] y) {
    split = Constant<value = int64[4] {0, 0, 3, 4}>()
    merge = Constant<value = int64[3] {0, 0, 12}>()
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    kh = Transpose<perm = [0, 2, 3, 1]>(k4)
    vh = Transpose<perm = [0, 2, 1, 3]>(v4)
    scores = MatMul(qh, kh)
    p = Softmax<axis = 3>(scores)
    m = MatMul(p, vh)
    mt = Transpose<perm = [0, 2, 1, 3]>(m)
    flat = Reshape(mt, merge)
    y = MatMul(flat, wo)
}"""
TRANSPOSED = """(float[N,5] x, float[5,7] m1, float[4,7] w2) => (float[N,4] y) {
    h = MatMul(x, m1)
    m2 = Transpose(w2)
    y = MatMul(h, m2)
}"""
TIED = """(float[N,7] x, float[7,5] m1) => (float[N,7] y) {
    h = MatMul(x, m1)
    y = Gemm<transB = 1>(h, m1)
}"""
INPUTS = {ATTENTION: (4, 5, 8), FLAT: (4, 3, 4, 4), DECONVOLVED: (4, 3, 4, 4), BRANCHES: (4, 3, 4, 4)}


def prepared(text: str) -> tuple[TorchGraph, Channels, Populations]:
    model = ir.from_proto(build(text))
    twin, channels = TorchGraph(model), analyse(model)
    return twin, channels, find_populations(twin, channels, [True] * len(channels.groups))


def scaled_at_inputs(
    twin: TorchGraph, populations: Populations, feed: Mapping[str, Array], factors: Array
) -> torch.Tensor:
    """The output where what every reader takes in is multiplied by the factors of its units."""
    whole = torch.from_numpy(np.append(factors, 1.0)).float()
    readers = {str(reader.node.outputs[0].name): (reader, owners) for reader, owners in populations.readers}
    environment = twin.enter(feed)
    for step in twin.steps:
        local = environment
        if step.outputs[0] in readers:
            reader, owners = readers[step.outputs[0]]
            name = str(step.inputs[reader.data])
            x = environment[name]
            spread = whole[owners].prod(1).reshape([-1 if axis == reader.data_axis else 1 for axis in range(x.ndim)])
            local = {**environment, name: x * spread}
        environment.update(zip(step.outputs, twin.run(step, local), strict=False))
    return environment["y"]


@pytest.mark.parametrize(
    "text", [CLASSIFIER, PLAIN, GROUPED, FLAT, DECONVOLVED, BRANCHES, ATTENTION], ids=lambda text: text[1:20]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_mass_in_the_weights_is_a_mass_on_what_is_read(text: str, seed: int) -> None:
    twin, _, populations = prepared(text)
    assert len(populations)
    feed = {"x": images(*INPUTS.get(text, (4, 3, 8, 8)), seed=seed)}
    factors = np.random.default_rng(seed).uniform(0, 2, len(populations))
    with torch.no_grad():
        wanted = scaled_at_inputs(twin, populations, feed, factors)
        populations.scale(twin.weights(), factors)
        torch.testing.assert_close(twin(feed)["y"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", [CLASSIFIER, GROUPED, FLAT, DECONVOLVED, BRANCHES, ATTENTION])
def test_the_pull_is_the_derivative_by_the_mass(text: str) -> None:
    twin, _, populations = prepared(text)
    twin.double()
    feed = {"x": torch.from_numpy(images(*INPUTS.get(text, (4, 3, 8, 8)))).double()}
    twin._input_types["x"] = torch.float64

    def loss() -> torch.Tensor:
        environment = {"x": feed["x"]}
        for step in twin.steps:
            environment.update(zip(step.outputs, twin.run(step, environment), strict=False))
        return environment["y"].square().sum()

    torch.autograd.backward(loss())
    pull = populations.pull(twin.weights())
    for unit in (0, len(populations) // 2, len(populations) - 1):
        factors, found = np.ones(len(populations)), []
        for factor in (1 + 1e-6, (1 - 1e-6) / (1 + 1e-6)):
            factors[unit] = factor
            populations.scale(twin.weights(), factors)
            found.append(float(loss().detach()))
        factors[unit] = 1 / (1 - 1e-6)
        populations.scale(twin.weights(), factors)
        assert -float(pull[unit]) == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4, abs=1e-4)


def test_what_cannot_be_scaled_is_left_out_and_told() -> None:
    _, channels, populations = prepared(ATTENTION)
    assert {reason for _, reason in populations.skipped} == {MEETS}
    assert len(populations.numbers) + len(populations.skipped) == len(channels.groups)
    assert [reason for _, reason in prepared(TRANSPOSED)[2].skipped] == [COMPUTED]
    assert [reason for _, reason in prepared(TIED)[2].skipped] == [SHARED]


def test_only_the_eligible_compete() -> None:
    model = ir.from_proto(build(CLASSIFIER))
    channels = analyse(model)
    populations = find_populations(TorchGraph(model), channels, [False, True])
    assert populations.numbers == [1]
    assert populations.units.tolist() == channels.groups[1].units.tolist()


def test_curvature_is_that_of_the_answers_own_direction() -> None:
    """On y = m2' diag(m) m1' x the sum of z g of unit i is v . (z_i m2_i) / rms(y), with E v v' = I."""
    text = "(float[N,5] x, float[5,7] m1, float[7,4] m2) => (float[N,4] y) {\n h = MatMul(x, m1)\n y = MatMul(h, m2)\n}"
    model, x = build(text), images(64, 5)
    loaded = ir.from_proto(model)
    channels, twin = analyse(loaded), TorchGraph(loaded)
    populations = find_populations(twin, channels, [True])
    feeds = [{"x": torch.from_numpy(x)}] * 400
    found = look(twin, populations, feeds, seed=0, gradients=True, overlap=True)
    m1, m2 = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer)
    z = x @ m1
    expected = 0.5 * np.square(z).mean(0) * np.square(m2).sum(1) / np.square(z @ m2).mean()
    np.testing.assert_allclose(found.curvature, expected, rtol=0.06)
    np.testing.assert_allclose(found.overlap[0], np.square(np.corrcoef(z.T)), rtol=1e-4, atol=1e-6)


def test_units_of_several_positions_overlap_over_all_of_them() -> None:
    twin, _, populations = prepared(FLAT)
    x = images(32, 3, 4, 4)
    found = look(twin, populations, [{"x": torch.from_numpy(x)}], seed=0, gradients=False, overlap=True)
    with torch.no_grad():
        environment = twin.enter({"x": x})
        for step in twin.steps[:2]:
            environment.update(zip(step.outputs, twin.run(step, environment), strict=False))
    rows = environment["r"].numpy().transpose(0, 2, 3, 1).reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(found.overlap[0], np.square(np.corrcoef(rows.T)), rtol=1e-4, atol=1e-6)
    assert not found.curvature.any()
