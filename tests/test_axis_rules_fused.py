"""ONNX Runtime's fused operators."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from tests.axis_cases import Case, Held, check, check_held
from tests.surgery import parse

CASES = [
    Case(
        "activations",
        """(float[2,7,5] x, float[5,6] w, float[6] b, float[6] b2, float[6,4] v) => (float[2,7,4] y) {
            a = MatMul(x, w)
            c = com.microsoft.BiasGelu(a, b)
            d = com.microsoft.FastGelu(c, b2)
            e = com.microsoft.Gelu(d)
            f = com.microsoft.QuickGelu(e)
            y = MatMul(f, v)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[5, 4]", "b": "float32[4]", "b2": "float32[4]", "v": "float32[4, 4]"},
    ),
    Case(
        "products",
        """(float[2,5] x, float[6,5] w, float[6] b, float[6,4] v) => (float[2,4] y) {
            a = com.microsoft.FusedGemm<transB: int = 1, activation: string = "Relu">(x, w, b)
            y = com.microsoft.FusedMatMul<alpha: float = 0.5>(a, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 5]", "b": "float32[4]", "v": "float32[4, 4]"},
    ),
    Case(
        "transposed_product_of_computed",
        """(float[2,7,5] x, float[5,6] w) => (float[2,7,7] y) {
            a = MatMul(x, w)
            y = com.microsoft.FusedMatMul<transB: int = 1>(a, a)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[5, 4]"},
    ),
    Case(
        "convolution_with_residual",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[6,3,1,1] u, float[6] b, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            c = com.microsoft.FusedConv<activation: string = "Relu">(x, u, b, a)
            y = com.microsoft.FusedConv(c, v)
        }
        """,
        {"w": [1, 4]},
        {
            "w": "float32[4, 3, 1, 1]",
            "u": "float32[4, 3, 1, 1]",
            "b": "float32[4]",
            "v": "float32[4, 4, 1, 1]",
        },
    ),
    Case(
        "after_a_normalised_sum",
        """(float[2,7,5] x, float[5] g, float[5] h, float[5] b, float[5,6] w, float[6,5] v, float[5] k) =>
            (float[2,7,5] y) {
            n, m, i, s = com.microsoft.SkipLayerNormalization(x, x, g, h, b)
            a = MatMul(n, w)
            r = Relu(a)
            c = MatMul(r, v)
            y = com.microsoft.SkipSimplifiedLayerNormalization(c, s, k)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[5, 4]", "v": "float32[4, 5]"},
    ),
    Case(
        "distances_lose_zeros",
        """(float[7,5] x, float[3,5] x2, float[5,6] w, float[5,6] w2) => (float[7,3] y) {
            a = MatMul(x, w)
            b = MatMul(x2, w2)
            y = com.microsoft.CDist<metric: string = "sqeuclidean">(a, b)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[5, 4]", "w2": "float32[5, 4]"},
    ),
    Case(
        "inverse_of_every_channel",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,4,4] y) {
            e = Exp(x)
            i = com.microsoft.Inverse(e)
            a = Conv(i, w)
            t = com.microsoft.Trilu(a)
            y = Conv(t, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "crops",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,3,3] y)
            <float[2,4] r = {0.1, 0.1, 0.8, 0.9, 0.0, 0.2, 0.5, 0.7}, int32[2] i = {0, 1}, int32[2] s = {3, 3}> {
            a = Conv(x, w)
            c = com.microsoft.CropAndResize(a, r, i, s)
            y = Conv(c, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
]

HELD = [
    Held(
        "normalised_sum",
        """(float[2,7,5] x, float[5,6] w, float[6] g, float[6,4] v) => (float[2,7,4] y) {
            a = MatMul(x, w)
            n = com.microsoft.SkipSimplifiedLayerNormalization(a, a, g)
            y = MatMul(n, v)
        }
        """,
        "normalises over this axis",
        axis=1,
    ),
    Held(
        "distances_of_what_is_not_zero",
        """(float[7,5] x, float[5,6] w) => (float[7,7] y) {
            a = MatMul(x, w)
            e = Sigmoid(a)
            y = com.microsoft.CDist(e, e)
        }
        """,
        "two computed tensors are multiplied along this axis",
        axis=1,
    ),
    Held(
        "packed_weight",
        """(float[2,7,5] x, float[5,32] w, uint8[4,1,16] v, float[4] s) => (float[2,7,4] y) {
            a = MatMul(x, w)
            y = com.microsoft.MatMulNBits<K: int = 32, N: int = 4, bits: int = 4, block_size: int = 32>(a, v, s)
        }
        """,
        "packs its weight in blocks",
        axis=1,
    ),
    Held(
        "softmax_with_bias",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v) => (float[2,7,4] y) {
            a = MatMul(x, w)
            s = com.microsoft.BiasSoftmax<axis: int = 2, is_inner_broadcast: int = 0>(a, a)
            y = MatMul(s, v)
        }
        """,
        "normalises over this axis",
        axis=1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)


def members(text: str) -> set[tuple[str, int]]:
    channels = analyse(ir.from_proto(parse(text)))
    return {(member.tensor, member.axis) for group in channels.groups for member in group.members}


def test_both_halves_of_a_gate_go_together() -> None:
    text = """(float[2,7,5] x, float[5,12] w, float[12] b, float[6,4] v) => (float[2,7,4] y) {
        a = MatMul(x, w)
        g = com.microsoft.BiasSplitGelu(a, b)
        y = MatMul(g, v)
    }"""
    assert members(text) == {("w", 1), ("b", 0), ("v", 0)}
    (group,) = analyse(ir.from_proto(parse(text))).groups
    assert len(group) == 6


def test_what_follows_an_embedding_is_understood() -> None:
    text = """(int32[2,7] x, float[9,8] e, float[7,8] p, float[8] g, float[8] h, float[8,6] w, float[6,4] v) =>
        (float[2,7,4] y) {
        a, m = com.microsoft.EmbedLayerNormalization(x, , e, p, , g, h)
        b = MatMul(a, w)
        c = Relu(b)
        y = MatMul(c, v)
    }"""
    assert members(text) == {("w", 1), ("v", 0)}
