"""Elementwise operators, normalisations and everything else that keeps channels apart."""

from __future__ import annotations

import pytest

from tests.axis_cases import Case, check
from tests.surgery import parse, reasons

PER_CHANNEL = [
    Case(
        "normalisations",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6] s, float[6] b, float[6] m, float[6] var, float[6] s2,
            float[6] b2, float[6,1,1] p, float[4,6,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            n = BatchNormalization(a, s, b, m, var)
            i = InstanceNormalization(n, s2, b2)
            r = PRelu(i, p)
            y = Conv(r, v)
        }
        """,
        {"w": [3]},
        {
            "w": "float32[5, 3, 1, 1]",
            "s": "float32[5]",
            "b": "float32[5]",
            "m": "float32[5]",
            "var": "float32[5]",
            "s2": "float32[5]",
            "b2": "float32[5]",
            "p": "float32[5, 1, 1]",
            "v": "float32[4, 5, 1, 1]",
        },
    ),
    Case(
        "broadcasting",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,1,1] s, float[1] t, float[1,6,1,1] u, float[8,8] k,
            float[4,6,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = Mul(a, s)
            c = Add(t, b)
            d = Sub(c, u)
            e = Max(d, k, a)
            y = Conv(e, v)
        }
        """,
        {"w": [3]},
        {"w": "float32[5, 3, 1, 1]", "s": "float32[5, 1, 1]", "u": "float32[1, 5, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "residual",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,6,1,1] u, float[4,6,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = Conv(a, u)
            c = Add(a, b)
            y = Conv(c, v)
        }
        """,
        {"w": [3]},
        {"w": "float32[5, 3, 1, 1]", "u": "float32[5, 5, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "gate",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[2,6,1,1] q, float[6,2,1,1] e, float[4,6,1,1] v) =>
            (float[N,4,8,8] y) {
            a = Conv(x, w)
            p = GlobalAveragePool(a)
            h = Conv(p, q)
            g = Conv(h, e)
            s = Sigmoid(g)
            m = Mul(a, s)
            y = Conv(m, v)
        }
        """,
        {"w": [3]},
        {
            "w": "float32[5, 3, 1, 1]",
            "q": "float32[2, 5, 1, 1]",
            "e": "float32[5, 2, 1, 1]",
            "v": "float32[4, 5, 1, 1]",
        },
    ),
    Case(
        "passing",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float16[N,4,4,4] y) {
            a = Conv(x, w)
            b = MaxPool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(a)
            c = Dropout(b)
            d = Clip(c)
            e = HardSwish(d)
            f = AveragePool<kernel_shape: ints = [1, 1]>(e)
            z = Conv(f, v)
            y = Cast<to: int = 10>(z)
        }
        """,
        {"w": [3]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "reduce_pixels",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,4] v) => (float[N,4] y) {
            a = Conv(x, w)
            b = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(a)
            y = MatMul(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[5, 4]"},
    ),
    Case(
        "reduce_pixels_18",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,1,1] y) <int64[2] k = {-1,-2}>
            {
            a = Conv(x, w)
            b = ReduceMax(a, k)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
        opset=18,
    ),
    Case(
        "softmax_pixels",
        """(float[N,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,4,4] y) {
            a = Conv(x, w)
            b = Softmax<axis: int = 3>(a)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
]


@pytest.mark.parametrize("case", [*PER_CHANNEL], ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


def test_a_gate_is_silent_where_either_side_is() -> None:
    text = """(float[2,5] x, float[5,6] w, float[5,6] u) => (float[2,1] y) <int64[1] k = {-1}> {
        a = MatMul(x, w)
        g = MatMul(x, u)
        b = BitCast<to: int = 6>(g)
        c = BitCast<to: int = 1>(b)
        s = SwiGLU(a, c)
        y = ReduceSum(s, k)
    }"""
    assert reasons(parse(text, 28, 13), "w", 1) is None
