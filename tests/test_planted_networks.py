"""Redundancy planted into a network leaves its function alone, and all of it is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwinc import graph
from darwinc.channels import analyse
from darwinc.data import Samples, open_data
from darwinc.errors import UsageError
from darwinc.models.planted import Planted, by_kind, plant
from darwinc.models.planting import KINDS
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import run_passes
from darwinc.runtime import inputs_of
from tests.benchmarks.planting import outcome, planted_job, to_original_size
from tests.small_models import Array, build, images, save_data
from tests.surgery import answers

LENET = """(float[N,3,8,8] x, float[8,3,3,3] w1, float[8] b1, float[12,8,3,3] w2, float[12] b2, float[24,48] w3,
    float[24] b3, float[10,24] w4, float[10] b4) => (float[N,10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = LeakyRelu<alpha = 0.1>(a)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    c = Conv<pads = [1, 1, 1, 1]>(p, w2, b2)
    s = LeakyRelu<alpha = 0.1>(c)
    q = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(s)
    f = Flatten(q)
    h = Gemm<transB = 1>(f, w3, b3)
    t = LeakyRelu<alpha = 0.1>(h)
    y = Gemm<transB = 1>(t, w4, b4)
}"""
"""Leaky rectifiers: no unit is silent by itself, which would go with what is planted."""
RESIDUAL = """(float[N,3,8,8] x, float[8,3,3,3] w0, float[8] scale0, float[8] shift0, float[8] mean0, float[8] var0,
    float[12,8,3,3] w1, float[12] scale1, float[12] shift1, float[12] mean1, float[12] var1, float[8,12,3,3] w2,
    float[8] scale2, float[8] shift2, float[8] mean2, float[8] var2, float[10,8] w3, float[10] b3) => (float[N,10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0)
    b = BatchNormalization(a, scale0, shift0, mean0, var0)
    r = Relu(b)
    c = Conv<pads = [1, 1, 1, 1]>(r, w1)
    d = BatchNormalization(c, scale1, shift1, mean1, var1)
    s = Relu(d)
    e = Conv<pads = [1, 1, 1, 1]>(s, w2)
    f = BatchNormalization(e, scale2, shift2, mean2, var2)
    g = Add(r, f)
    h = Relu(g)
    i = GlobalAveragePool(h)
    j = Flatten(i)
    y = Gemm<transB = 1>(j, w3, b3)
}"""
BOTTLENECK = """(float[N,3,8,8] x, float[6,3,3,3] w0, float[6] scale0, float[6] shift0, float[6] mean0, float[6] var0,
    float[16,6,1,1] w1, float[16] b1, float[16,1,3,3] d1, float[16] scale1, float[16] shift1, float[16] mean1,
    float[16] var1, float[6,16,1,1] w2, float[6] b2, float[10,6] w3) => (float[N,10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0)
    b = BatchNormalization(a, scale0, shift0, mean0, var0)
    c = Conv(b, w1, b1)
    r = Relu(c)
    d = Conv<group = 16, pads = [1, 1, 1, 1]>(r, d1)
    e = BatchNormalization(d, scale1, shift1, mean1, var1)
    s = Relu(e)
    f = Conv(s, w2, b2)
    g = Add(b, f)
    h = GlobalAveragePool(g)
    i = Flatten(h)
    y = Gemm<transB = 1>(i, w3)
}"""
ATTENTION = """(float[N,6,8] x, float[8,12] mq, float[8,12] mk, float[8,12] mv, float[12,8] mo, float[8,16] m1,
    float[16] b1, float[16,8] m2) => (float[N,6,8] y) {
    shape = Constant<value = int64[4] {0, 6, 3, 4}>()
    flat = Constant<value = int64[3] {0, 6, 12}>()
    q = MatMul(x, mq)
    k = MatMul(x, mk)
    v = MatMul(x, mv)
    qs = Reshape(q, shape)
    ks = Reshape(k, shape)
    vs = Reshape(v, shape)
    qh = Transpose<perm = [0, 2, 1, 3]>(qs)
    kh = Transpose<perm = [0, 2, 3, 1]>(ks)
    vh = Transpose<perm = [0, 2, 1, 3]>(vs)
    scores = MatMul(qh, kh)
    weights = Softmax<axis = -1>(scores)
    heads = MatMul(weights, vh)
    back = Transpose<perm = [0, 2, 1, 3]>(heads)
    merged = Reshape(back, flat)
    o = MatMul(merged, mo)
    h = MatMul(o, m1)
    hb = Add(h, b1)
    t = Tanh(hb)
    y = MatMul(t, m2)
}"""
PREACTIVATION = """(float[N,3,8,8] x, float[8,3,3,3] w0, float[8] b0, float[8] scale0, float[8] shift0, float[8] mean0,
    float[8] var0, float[8,8,3,3] w1, float[8,1,1] k1, float[10,8] w3) => (float[N,10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
    b = BatchNormalization(a, scale0, shift0, mean0, var0)
    r = Relu(b)
    c = Conv<pads = [1, 1, 1, 1]>(r, w1)
    d = Add(c, k1)
    e = Add(a, d)
    h = GlobalAveragePool(e)
    i = Flatten(h)
    y = Gemm<transB = 1>(i, w3)
}"""
NETWORKS = {
    "lenet": LENET,
    "residual": RESIDUAL,
    "bottleneck": BOTTLENECK,
    "attention": ATTENTION,
    "preactivation": PREACTIVATION,
}


def grown(text: str, share: float, kinds: tuple[str, ...] = KINDS, seed: int = 0) -> tuple[onnx.ModelProto, Planted]:
    """A network with random weights, and the same with redundancy."""
    model = build(text)
    return model, plant(ir.from_proto(model), share=share, kinds=kinds, seed=seed)


def assert_same_function(one: onnx.ModelProto, planted: Planted) -> None:
    """The wide model is valid, and answers to 1e-5 of the largest answer like the other."""
    wide = ir.to_proto(planted.model)
    onnx.checker.check_model(wide, full_check=True)
    for want, got in zip(answers(one), answers(wide), strict=True):
        assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_kind_leaves_the_function_alone(name: str, kind: str) -> None:
    try:
        model, planted = grown(NETWORKS[name], 0.5, (kind,))
    except UsageError:
        # A mixture takes a linear way: there is none in a network of rectifiers.
        assert (name, kind) in {("lenet", "mixture"), ("residual", "mixture"), ("preactivation", "mixture")}
        return
    assert set(by_kind(planted.plantings)) == {kind}
    assert_same_function(model, planted)


@settings(max_examples=25)
@given(name=st.sampled_from(sorted(NETWORKS)), share=st.floats(0.05, 2.0), seed=st.integers(0, 2**31))
def test_any_share_and_seed_leave_the_function_alone(name: str, share: float, seed: int) -> None:
    model, planted = grown(NETWORKS[name], share, seed=seed)
    assert_same_function(model, planted)
    channels = analyse(planted.model)
    widths = {group.id: len(group) for group in channels.groups}
    after = {name: tensor.shape.numpy() for name, tensor in graph.constants(planted.model).items()}
    for planting in planted.plantings:
        assert len(planting.kinds) == widths[planting.group]
        assert planting.planted == max(1, round(share * (widths[planting.group] - planting.planted)))
        assert len(planting.unit) == after[planting.tensor][planting.axis]
        assert len(set(np.bincount(planting.unit[planting.unit >= 0]).tolist())) == 1
    assert planted.found(channels, channels.nobody()) == 0.0


def test_the_same_seed_plants_the_same() -> None:
    one, two, other = (grown(RESIDUAL, 0.5, seed=seed)[1].model for seed in (3, 3, 4))
    written = [ir.to_proto(model).SerializeToString() for model in (one, two, other)]
    assert written[0] == written[1] != written[2]


def test_either_twin_counts_and_a_lost_original_counts_against() -> None:
    _, planted = grown(LENET, 0.5, ("copy",))
    planting = planted.plantings[0]
    place = {int(unit): position for position, unit in enumerate(planting.unit)}
    twin, origin = 8, int(np.flatnonzero(planting.span[8])[0])
    lonely = next(unit for unit in range(8) if not planting.span[8:, unit].any())
    for gone, found in (([twin], 1), ([origin], 1), ([lonely], 0), ([twin, lonely], 1)):
        living = np.ones(len(planting.unit), np.bool_)
        living[[place[unit] for unit in gone]] = False
        assert planting.found(living) == found


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("few_made_up_samples")
def test_all_that_was_planted_is_found(name: str, with_data: bool, tmp_path: Path) -> None:
    _, planted = grown(NETWORKS[name], 0.4, seed=1)
    shape = (6, 8) if name == "attention" else (3, 8, 8)
    samples = drawn(planted, images(256, *shape, seed=5), tmp_path) if with_data else None
    job = planted_job(planted, samples)
    run_passes([Cull("sparsity", to_original_size(planted, job), align=1), Excise(), Inherit()], job)
    cut = outcome(planted, job, [{"x": images(32, *shape, seed=9)}])
    assert (cut.found, cut.lost) == (1.0, 0.0)
    assert cut.error < 1e-4


@pytest.mark.parametrize(("name", "count"), [("lenet", 52), ("residual", 256)])
def test_layers_with_too_many_inputs_inherit_by_channels(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The LeNet's matrix behind the flattened image has more inputs than there are samples.
    if name == "residual":
        monkeypatch.setattr("darwinc.calibrators.refit.LARGEST", 8)
    _, planted = grown(NETWORKS[name], 0.4, seed=1)
    job = planted_job(planted, drawn(planted, images(count, 3, 8, 8, seed=5), tmp_path))
    run_passes([Cull("sparsity", to_original_size(planted, job), align=1), Excise()], job)
    feeds = [{"x": images(32, 3, 8, 8, seed=9)}]
    assert outcome(planted, job, feeds).error > 0.01
    run_passes([Inherit()], job)
    assert outcome(planted, job, feeds).error < 1e-4
    assert not job.skipped


def drawn(planted: Planted, x: Array, folder: Path) -> Samples:
    """Arrays as calibration data."""
    return open_data(str(save_data(folder / "x.npz", {"x": x})), inputs_of(planted.model))


def test_a_share_or_kind_that_does_not_exist_is_refused() -> None:
    model = ir.from_proto(build(LENET))
    with pytest.raises(UsageError, match="isn't positive"):
        plant(model, share=0.0)
    with pytest.raises(UsageError, match="no planted redundancy 'weak'"):
        plant(model, share=0.5, kinds=("weak",))
