"""Axes that merge and split."""

from __future__ import annotations

import pytest

from tests.axis_cases import Case, check

RESHAPING = [
    Case(
        "reshape_zero",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6] v) => (float[N,64,4] y) <int64[3] s = {0,0,-1}> {
            a = Conv(x, w)
            b = Reshape(a, s)
            t = Transpose<perm: ints = [0, 2, 1]>(b)
            k = Transpose(v)
            y = MatMul(t, k)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5]"},
    ),
    Case(
        "reshape_stored",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6] v) => (float[N,64,4] y) <int64[3] s = {-1,6,64}> {
            a = Conv(x, w)
            b = Reshape(a, s)
            t = Transpose<perm: ints = [0, 2, 1]>(b)
            k = Transpose(v)
            y = MatMul(t, k)
        }
        """,
        {"w": [1]},
        {"s": "[-1, 5, 64]", "w": "float32[5, 3, 1, 1]", "v": "float32[4, 5]"},
    ),
    Case(
        "flatten",
        """(float[N,3,2,2] x, float[6,3,1,1] w, float[24,4] v) => (float[N,4] y) {
            a = Conv(x, w)
            b = Flatten(a)
            y = Gemm(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[20, 4]"},
    ),
    Case(
        "reshape_flat",
        """(float[N,3,2,2] x, float[6,3,1,1] w, float[24,4] v) => (float[N,4] y) <int64[2] s = {-1,24}> {
            a = Conv(x, w)
            b = Reshape(a, s)
            y = MatMul(b, v)
        }
        """,
        {"w": [1]},
        {"s": "[-1, 20]", "w": "float32[5, 3, 1, 1]", "v": "float32[20, 4]"},
    ),
    Case(
        "flatten_last",
        """(float[N,3,2,2] x, float[6,3,1,1] w, float[24,4] v) => (float[N,4] y) {
            a = Conv(x, w)
            t = Transpose<perm: ints = [0, 2, 3, 1]>(a)
            b = Flatten(t)
            y = Gemm(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[20, 4]"},
    ),
    Case(
        "shuffle",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,8,8] y) <int64[5] s =
            {0,2,3,8,8}, int64[4] t = {0,6,8,8}> {
            a = Conv(x, w)
            b = Reshape(a, s)
            c = Transpose<perm: ints = [0, 2, 1, 3, 4]>(b)
            d = Reshape(c, t)
            y = Conv(d, v)
        }
        """,
        {"w": [1, 4]},
        {"s": "[0, 2, 2, 8, 8]", "t": "[0, 4, 8, 8]", "w": "float32[4, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "heads",
        """(float[N,7,5] x, float[5,6] q, float[5,6] k, float[5,6] v, float[6,4] o) => (float[N,7,4] y)
            <int64[4] s = {0,0,2,3}, int64[3] t = {0,0,6}> {
            a = MatMul(x, q)
            b = MatMul(x, k)
            c = MatMul(x, v)
            d = Reshape(a, s)
            e = Reshape(b, s)
            f = Reshape(c, s)
            dt = Transpose<perm: ints = [0, 2, 1, 3]>(d)
            et = Transpose<perm: ints = [0, 2, 3, 1]>(e)
            ft = Transpose<perm: ints = [0, 2, 1, 3]>(f)
            m = MatMul(dt, et)
            n = Softmax(m)
            z = MatMul(n, ft)
            zt = Transpose<perm: ints = [0, 2, 1, 3]>(z)
            r = Reshape(zt, t)
            y = MatMul(r, o)
        }
        """,
        {"v:1": [1, 4]},
        {
            "t": "[0, 0, 4]",
            "v": "float32[5, 4]",
            "o": "float32[4, 4]",
            "s__1": "[0, 0, 2, 2]",
            "Reshape_5.inputs": "c s__1",
        },
    ),
    Case(
        "weight_read_through",
        """(float[N,3,8,8] x, float[6,3] w, float[6,4] v) => (float[N,4,8,8] y) <int64[4] s = {6,3,1,1},
            int64[4] t = {4,-1,1,1}> {
            i = Identity(w)
            r = Reshape(i, s)
            a = Conv(x, r)
            vt = Transpose(v)
            q = Reshape(vt, t)
            y = Conv(a, q)
        }
        """,
        {"i": [1, 4]},
        {"s": "[4, 3, 1, 1]", "w": "float32[4, 3]", "v": "float32[4, 4]"},
    ),
    Case(
        "squeeze",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,1,1] y) <int64[2] k = {2,3}> {
            a = Conv(x, w)
            p = GlobalMaxPool(a)
            q = Squeeze(p, k)
            u = Unsqueeze(q, k)
            y = Conv(u, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "squeeze_attribute",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,4] v) => (float[N,4] y) {
            a = Conv(x, w)
            p = GlobalMaxPool(a)
            q = Squeeze<axes: ints = [2, 3]>(p)
            y = MatMul(q, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[5, 4]"},
        opset=11,
    ),
    Case(
        "squeeze_implied",
        """(float[2,3,8,8] x, float[3,3,1,1] w, float[3,4] v) => (float[2,4] y) {
            a = Conv(x, w)
            p = GlobalMaxPool(a)
            q = Squeeze(p)
            y = MatMul(q, v)
        }
        """,
        {"w": [1, 2]},
        {
            "w": "float32[1, 3, 1, 1]",
            "v": "float32[1, 4]",
            "darwinc/Squeeze_2/axes": "[2, 3]",
            "Squeeze_2.inputs": "p darwinc/Squeeze_2/axes",
        },
    ),
    Case(
        "squeeze_implied_11",
        """(float[2,3,8,8] x, float[3,3,1,1] w, float[3,4] v) => (float[2,4] y) {
            a = Conv(x, w)
            p = GlobalMaxPool(a)
            q = Squeeze(p)
            y = MatMul(q, v)
        }
        """,
        {"w": [1, 2]},
        {"w": "float32[1, 3, 1, 1]", "v": "float32[1, 4]", "Squeeze_2.axes": "[2, 3]"},
        opset=11,
    ),
    Case(
        "scaled_weight",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v, float[4,1,1,1] g) => (float[2,4,4,4] y) {
            a = Conv(x, w)
            z = Sigmoid(a)
            u = Mul(v, g)
            y = Conv(z, u)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
]


@pytest.mark.parametrize("case", [*RESHAPING], ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)
