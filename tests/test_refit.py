"""Inheritance layer by layer: what can be repaired is repaired exactly, through whatever follows a layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from darwinc.calibrators.aftermath import Aftermath, find_aftermath, readers_of
from darwinc.calibrators.lockstep import Lockstep, footprint
from darwinc.calibrators.sites import Site, find_sites
from darwinc.torch_graph import TorchGraph
from tests.operation import Surgery
from tests.small_models import CLASSIFIER, IMAGES, Array, build, images, split, stored

MIXED = {
    "own bias": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2, float[4] b2)
        => (float[N,4,3,3] y) {
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
    "add in a sequence": """(float[N,7,5] x, float[5,8] m1, float[8] b1, float[8,4] m2, float[4] b2)
        => (float[N,7,4] y) {
        p = MatMul(x, m1)
        h = Add(p, b1)
        q = MatMul(h, m2)
        y = Add(q, b2)
    }
    """,
    "gemm with alpha and beta": """(float[N,5] x, float[8,5] w1, float[8] b1, float[4,8] w2, float[4] b2)
        => (float[N,4] y) {
        h = Gemm<transB = 1>(x, w1, b1)
        y = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(h, w2, b2)
    }
    """,
    "batch norm after a product": """(float[N,5] x, float[5,8] m1, float[8] b1, float[8,4] m2, float[4] scale,
        float[4] b2,
        float[4] mean, float[4] var) => (float[N,4] y) {
        p = MatMul(x, m1)
        h = Add(p, b1)
        q = MatMul(h, m2)
        y = BatchNormalization(q, scale, b2, mean, var)
    }
    """,
    "groups": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,4,2,2] w2, float[4] b2)
        => (float[N,4,3,3] y) {
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
    "no place for a constant": """(float[N,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,2,2] w2)
        => (float[N,4,3,3] y) {
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
    """A first layer of which every fourth channel is a mix of its neighbours, plus a constant; those are cut."""
    weights = {key: array.astype(np.float64) for key, array in stored(build(text)).items()}
    name = "m1" if "m1" in weights else "w1"
    first, bias = (weights[name] if name == "w1" else weights[name].T), weights["b1"]
    first[[3, 7]] = 0.5 * first[[0, 4]] - 2 * first[[1, 5]] + first[[2, 6]]
    bias[[3, 7]] = 0.5 * bias[[0, 4]] - 2 * bias[[1, 5]] + bias[[2, 6]] + constant
    model = build(text, given={name: weights[name], "b1": bias})
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
    assert float(z.detach().abs().max()) < 1e-5
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
