"""Attention in one node: heads and their dimensions, of the standard and of ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from darwinc.cost import CostModel
from tests.axis_cases import Case, Held, check, check_held
from tests.surgery import parse

PROJECTIONS = "float[2,7,5] x, float[5,12] w, float[5,12] k, float[5,12] u, float[12,4] o"
PROJECT = """q = MatMul(x, w)
            t = MatMul(x, k)
            v = MatMul(x, u)
            """

CASES = [
    Case(
        "whole_heads",
        f"""({PROJECTIONS}) => (float[2,7,4] y) {{
            {PROJECT}
            a = Attention<q_num_heads: int = 3, kv_num_heads: int = 3>(q, t, v)
            y = MatMul(a, o)
        }}
        """,
        {"w:1": [4, 5, 6, 7]},
        {
            "w": "float32[5, 8]",
            "k": "float32[5, 8]",
            "u": "float32[5, 8]",
            "o": "float32[8, 4]",
            "Attention_3.q_num_heads": "2",
            "Attention_3.kv_num_heads": "2",
        },
        opset=23,
    ),
    Case(
        "dimensions_of_heads",
        f"""({PROJECTIONS}, float[7,7] m) => (float[2,7,4] y) {{
            {PROJECT}
            a = Attention<q_num_heads: int = 3, kv_num_heads: int = 3>(q, t, v, m)
            y = MatMul(a, o)
        }}
        """,
        {"w:1": [1, 5, 9], "u:1": [0, 2, 4, 6, 8, 10]},
        {
            "w": "float32[5, 9]",
            "k": "float32[5, 9]",
            "u": "float32[5, 6]",
            "o": "float32[6, 4]",
            "Attention_3.scale": "0.5",
        },
        opset=23,
    ),
    Case(
        "a_scale_of_its_own_stays",
        f"""({PROJECTIONS}) => (float[2,7,4] y) {{
            {PROJECT}
            a = Attention<q_num_heads: int = 3, kv_num_heads: int = 3, scale: float = 0.25, is_causal: int = 1>(q, t, v)
            y = MatMul(a, o)
        }}
        """,
        {"w:1": [1, 5, 9]},
        {"w": "float32[5, 9]", "k": "float32[5, 9]"},
        opset=23,
    ),
    Case(
        "grouped_queries",
        """(float[2,7,5] x, float[5,16] w, float[5,8] k, float[5,6] u, float[12,4] o) => (float[2,7,4] y) {
            q = MatMul(x, w)
            t = MatMul(x, k)
            v = MatMul(x, u)
            a = Attention<q_num_heads: int = 4, kv_num_heads: int = 2>(q, t, v)
            y = MatMul(a, o)
        }
        """,
        {"k:1": [4, 5, 6, 7]},
        {
            "w": "float32[5, 8]",
            "k": "float32[5, 4]",
            "u": "float32[5, 3]",
            "o": "float32[6, 4]",
            "Attention_3.q_num_heads": "2",
            "Attention_3.kv_num_heads": "1",
        },
        opset=23,
    ),
    Case(
        "one_query_of_every_group",
        """(float[2,7,5] x, float[5,16] w, float[5,8] k, float[5,6] u, float[12,4] o) => (float[2,7,4] y) {
            q = MatMul(x, w)
            t = MatMul(x, k)
            v = MatMul(x, u)
            a = Attention<q_num_heads: int = 4, kv_num_heads: int = 2>(q, t, v)
            y = MatMul(a, o)
        }
        """,
        {"w:1": [0, 1, 2, 3, 8, 9, 10, 11], "u:1": [1, 4]},
        {
            "w": "float32[5, 8]",
            "u": "float32[5, 4]",
            "o": "float32[4, 4]",
            "Attention_3.q_num_heads": "2",
        },
        opset=23,
    ),
    Case(
        "stacked_heads",
        """(float[2,3,5] x, float[12,3,1] w, float[12,3,1] k, float[12,3,1] u, float[4,12,1] o) => (float[2,4,5] y)
            <int64[4] s = {2, 3, 4, 5}, int64[3] f = {2, 12, 5}> {
            qf = Conv(x, w)
            tf = Conv(x, k)
            vf = Conv(x, u)
            qs = Reshape(qf, s)
            ts = Reshape(tf, s)
            vs = Reshape(vf, s)
            q = Transpose<perm: ints = [0, 1, 3, 2]>(qs)
            t = Transpose<perm: ints = [0, 1, 3, 2]>(ts)
            v = Transpose<perm: ints = [0, 1, 3, 2]>(vs)
            a = Attention(q, t, v)
            b = Transpose<perm: ints = [0, 1, 3, 2]>(a)
            c = Reshape(b, f)
            y = Conv(c, o)
        }
        """,
        {"w": [0, 4, 8, 1, 2, 3]},
        {
            "w": "float32[6, 3, 1]",
            "k": "float32[6, 3, 1]",
            "u": "float32[8, 3, 1]",
            "o": "float32[4, 8, 1]",
            "f": "[2, 8, 5]",
            "Reshape_3.inputs": "qf s__1",
            "Reshape_4.inputs": "tf s__1",
            "Reshape_5.inputs": "vf s__2",
            "s__1": "[2, 2, 3, 5]",
            "s__2": "[2, 2, 4, 5]",
            "Attention_9.scale": "0.5",
        },
        opset=23,
    ),
    Case(
        "rotary",
        """(float[2,7,5] x, float[5,12] w, float[5,12] k, float[5,12] u, float[12,4] o, float[7,2] c, float[7,2] s) =>
            (float[2,7,4] y) <int64[2,7] p = {0,1,2,3,4,5,6,0,1,2,3,4,5,6}> {
            q = MatMul(x, w)
            t = MatMul(x, k)
            v = MatMul(x, u)
            qr = RotaryEmbedding<num_heads: int = 3>(q, c, s, p)
            tr = RotaryEmbedding<num_heads: int = 3>(t, c, s, p)
            a = Attention<q_num_heads: int = 3, kv_num_heads: int = 3>(qr, tr, v)
            y = MatMul(a, o)
        }
        """,
        {"w:1": [0, 2, 4, 6, 8, 9, 10, 11]},
        {
            "w": "float32[5, 4]",
            "k": "float32[5, 4]",
            "u": "float32[5, 8]",
            "o": "float32[8, 4]",
            "c": "float32[7, 1]",
            "s": "float32[7, 1]",
            "RotaryEmbedding_3.num_heads": "2",
            "RotaryEmbedding_4.num_heads": "2",
            "Attention_5.q_num_heads": "2",
            "Attention_5.kv_num_heads": "2",
            "Attention_5.scale": "0.5",
        },
        opset=23,
    ),
    Case(
        "partly_rotary_interleaved",
        """(float[2,7,5] x, float[5,12] w, float[12,4] o, float[7,2] c, float[7,2] s) => (float[2,7,4] y)
            <int64[2,7] p = {0,1,2,3,4,5,6,0,1,2,3,4,5,6}> {
            q = MatMul(x, w)
            r = RotaryEmbedding<num_heads: int = 2, rotary_embedding_dim: int = 4, interleaved: int = 1>(q, c, s, p)
            y = MatMul(r, o)
        }
        """,
        {"w:1": [2, 3, 4, 8, 9, 10]},
        {
            "w": "float32[5, 6]",
            "o": "float32[6, 4]",
            "c": "float32[7, 1]",
            "s": "float32[7, 1]",
            "RotaryEmbedding_1.rotary_embedding_dim": "2",
        },
        opset=23,
    ),
    Case(
        "projected",
        """(float[2,7,5] x, float[5,6] e, float[6,36] w, float[36] b, float[12,4] o) => (float[2,7,4] y) {
            h = MatMul(x, e)
            a = com.microsoft.Attention<num_heads: int = 3>(h, w, b)
            y = MatMul(a, o)
        }
        """,
        {"e:1": [2], "w:1": [3, 4, 5, 6, 7, 11, 15, 16, 17, 18, 19, 23, 27, 28, 29, 30, 31, 35]},
        {
            "e": "float32[5, 5]",
            "w": "float32[5, 18]",
            "b": "float32[18]",
            "o": "float32[6, 4]",
            "Attention_1.num_heads": "2",
            "Attention_1.scale": "0.5",
        },
    ),
    Case(
        "projected_with_sizes",
        """(float[2,7,5] x, float[5,28] w, float[28] b, float[4,4] o) => (float[2,7,4] y) {
            a = com.microsoft.Attention<num_heads: int = 2, qkv_hidden_sizes: ints = [12, 12, 4]>(x, w, b)
            y = MatMul(a, o)
        }
        """,
        {"w:1": [1, 7, 13, 19], "o": [0, 2]},
        {
            "w": "float32[5, 22]",
            "b": "float32[22]",
            "o": "float32[2, 4]",
            "Attention_0.qkv_hidden_sizes": "[10, 10, 2]",
            "Attention_0.scale": "0.40824830532073975",
        },
    ),
    Case(
        "multi_head",
        f"""({PROJECTIONS}) => (float[2,7,4] y) {{
            {PROJECT}
            a = com.microsoft.MultiHeadAttention<num_heads: int = 3>(q, t, v)
            y = MatMul(a, o)
        }}
        """,
        {"w:1": [4, 5, 6, 7, 3, 11], "u:1": [0, 4, 8]},
        {
            "w": "float32[5, 6]",
            "k": "float32[5, 6]",
            "u": "float32[5, 6]",
            "o": "float32[6, 4]",
            "MultiHeadAttention_3.num_heads": "2",
            "MultiHeadAttention_3.scale": "0.5",
        },
    ),
    Case(
        "multi_head_with_bias",
        f"""({PROJECTIONS}, float[36] b, float[1,3,7,7] m) => (float[2,7,4] y) {{
            {PROJECT}
            a = com.microsoft.MultiHeadAttention<num_heads: int = 3>(q, t, v, b, , m)
            y = MatMul(a, o)
        }}
        """,
        {"w:1": [4, 5, 6, 7]},
        {
            "w": "float32[5, 8]",
            "k": "float32[5, 8]",
            "u": "float32[5, 8]",
            "b": "float32[24]",
            "m": "float32[1, 2, 7, 7]",
            "o": "float32[8, 4]",
            "MultiHeadAttention_3.num_heads": "2",
        },
    ),
    Case(
        "grouped_queries_of_the_runtime",
        """(float[2,7,5] x, float[5,32] w, float[5,16] k, float[5,16] u, float[32,4] o) => (float[2,7,4] y)
            <int32[2] n = {6, 6}, int32 t = {7}> {
            q = MatMul(x, w)
            p = MatMul(x, k)
            v = MatMul(x, u)
            a, pk, pv = com.microsoft.GroupQueryAttention<num_heads: int = 4, kv_num_heads: int = 2>(q, p, v, , , n, t)
            y = MatMul(a, o)
        }
        """,
        {"k:1": [0, 1, 2, 3, 4, 5, 6, 7]},
        {
            "w": "float32[5, 16]",
            "k": "float32[5, 8]",
            "u": "float32[5, 8]",
            "o": "float32[16, 4]",
            "GroupQueryAttention_3.num_heads": "2",
            "GroupQueryAttention_3.kv_num_heads": "1",
        },
    ),
    Case(
        "grouped_queries_packed",
        """(float[2,7,5] x, float[5,64] w, float[32,4] o) => (float[2,7,4] y) <int32[2] n = {6, 6}, int32 t = {7}> {
            q = MatMul(x, w)
            a, pk, pv = com.microsoft.GroupQueryAttention<num_heads: int = 4, kv_num_heads: int = 2>(q, , , , , n, t)
            y = MatMul(a, o)
        }
        """,
        {"w:1": [*range(8), *range(16, 24)]},
        {"w": "float32[5, 48]", "o": "float32[16, 4]", "GroupQueryAttention_1.num_heads": "2"},
    ),
]

HELD = [
    Held(
        "bias_between_queries_and_keys",
        f"""({PROJECTIONS}, float[12] b) => (float[2,7,4] y) {{
            {PROJECT}
            qb = Add(q, b)
            e = Sigmoid(qb)
            d = Sigmoid(t)
            a = Attention<q_num_heads: int = 1, kv_num_heads: int = 1>(e, d, v)
            y = MatMul(a, o)
        }}
        """,
        "queries meet keys along this axis, and neither is zero there",
        axis=1,
        opset=23,
    ),
    Held(
        "cache_from_outside",
        f"""({PROJECTIONS}, float[2,3,2,4] xk, float[2,3,2,4] xv) => (float[2,7,4] y) {{
            {PROJECT}
            a, pk, pv = Attention<q_num_heads: int = 3, kv_num_heads: int = 3>(q, t, v, , xk, xv)
            y = MatMul(a, o)
        }}
        """,
        "is combined with positions that can't be removed",
        axis=1,
        opset=23,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)


def test_scores_and_weighted_sums_are_counted() -> None:
    channels = analyse(ir.from_proto(parse(CASES[0].text, 23, 10)))
    positions, hidden = 7, 12
    projections = 3 * 2 * positions * 5 * hidden + 2 * positions * hidden * 4
    assert CostModel(channels).macs(channels.nobody()) == projections + 2 * 2 * positions * positions * hidden
