"""Convolutions and matrix products."""

from __future__ import annotations

import pytest

from tests.axis_cases import Case, check

STORED_OTHERWISE = [
    Case(
        "kernel_last",
        """(float[N,3,8,8] x, float[3,3,3,6] w, float[1,6] b, float[4,6,1,1] v) => (float[N,4,6,6] y)
            <int64[1] s = {6}> {
            u = Transpose<perm: ints = [3, 2, 0, 1]>(w)
            i = Identity(s)
            r = Reshape(b, i)
            a = Conv(x, u, r)
            y = Conv(a, v)
        }
        """,
        {"w:3": [1]},
        {"w": "float32[3, 3, 3, 5]", "b": "float32[1, 5]", "s": "[5]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "kernel_filled",
        """(float[N,3,8,8] x, float[4,6,1,1] v) => (float[N,4,6,6] y) <int64[4] s = {6, 3, 3, 3}> {
            w = ConstantOfShape<value: tensor = float[1] {0.5}>(s)
            a = Conv(x, w)
            y = Conv(a, v)
        }
        """,
        {"w": [1]},
        {"s": "[5, 3, 3, 3]", "v": "float32[4, 5, 1, 1]"},
    ),
]

CONVOLUTIONS = [
    Case(
        "conv",
        """(float[N,3,8,8] x, float[6,3,3,3] w, float[6] b, float[4,6,1,1] v) => (float[N,4,8,8] y) {
            a = Conv<pads: ints = [1, 1, 1, 1]>(x, w, b)
            r = Relu(a)
            y = Conv(r, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 3, 3]", "b": "float32[4]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "conv_1d",
        """(float[N,3,8] x, float[6,3,3] w, float[4,6,1] v) => (float[N,4,6] y) {
            a = Conv(x, w)
            y = Conv(a, v)
        }
        """,
        {"w": [0]},
        {"w": "float32[5, 3, 3]", "v": "float32[4, 5, 1]"},
    ),
    Case(
        "conv_3d",
        """(float[N,2,4,4,4] x, float[6,2,1,3,3] w, float[4,6,2,1,1] v) => (float[N,4,3,2,2] y) {
            a = Conv(x, w)
            y = Conv(a, v)
        }
        """,
        {"w": [5]},
        {"w": "float32[5, 2, 1, 3, 3]", "v": "float32[4, 5, 2, 1, 1]"},
    ),
    Case(
        "depthwise",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,1,3,3] d, float[6] b, float[4,6,1,1] v) =>
            (float[N,4,6,6] y) {
            a = Conv(x, w)
            e = Conv<group: int = 6>(a, d, b)
            y = Conv(e, v)
        }
        """,
        {"d": [0, 1]},
        {
            "w": "float32[4, 3, 1, 1]",
            "d": "float32[4, 1, 3, 3]",
            "b": "float32[4]",
            "v": "float32[4, 4, 1, 1]",
            "Conv_1.group": "4",
        },
    ),
    Case(
        "depthwise_multiplier",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[8,1,3,3] d, float[4,8,1,1] v) => (float[N,4,6,6] y) {
            a = Conv(x, w)
            e = Conv<group: int = 4>(a, d)
            y = Conv(e, v)
        }
        """,
        {"w": [2]},
        {"w": "float32[3, 3, 1, 1]", "d": "float32[6, 1, 3, 3]", "v": "float32[4, 6, 1, 1]", "Conv_1.group": "3"},
    ),
    Case(
        "grouped",
        """(float[N,3,8,8] x, float[8,3,1,1] w, float[6,4,3,3] d, float[4,6,1,1] v) => (float[N,4,6,6] y) {
            a = Conv(x, w)
            e = Conv<group: int = 2>(a, d)
            y = Conv(e, v)
        }
        """,
        {"w": [1, 5], "d": [0, 3]},
        {"w": "float32[6, 3, 1, 1]", "d": "float32[4, 3, 3, 3]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "grouped_whole_group",
        """(float[N,3,8,8] x, float[9,3,1,1] w, float[6,3,3,3] d, float[4,6,1,1] v) => (float[N,4,6,6] y) {
            a = Conv(x, w)
            e = Conv<group: int = 3>(a, d)
            y = Conv(e, v)
        }
        """,
        {"d": [2, 3]},
        {"w": "float32[6, 3, 1, 1]", "d": "float32[4, 3, 3, 3]", "v": "float32[4, 4, 1, 1]", "Conv_1.group": "2"},
    ),
    Case(
        "transposed",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,5,2,2] d, float[5] b, float[4,5,1,1] v) =>
            (float[N,4,9,9] y) {
            a = Conv(x, w)
            e = ConvTranspose(a, d, b)
            y = Conv(e, v)
        }
        """,
        {"d": [3], "d:1": [0, 4]},
        {"w": "float32[5, 3, 1, 1]", "d": "float32[5, 3, 2, 2]", "b": "float32[3]", "v": "float32[4, 3, 1, 1]"},
    ),
    Case(
        "transposed_grouped",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,4,2,2] d, float[4,8,1,1] v) => (float[N,4,9,9] y) {
            a = Conv(x, w)
            e = ConvTranspose<group: int = 2>(a, d)
            y = Conv(e, v)
        }
        """,
        {"d": [0, 3], "d:1": [3]},
        {"w": "float32[4, 3, 1, 1]", "d": "float32[4, 3, 2, 2]", "v": "float32[4, 6, 1, 1]"},
    ),
    Case(
        "transposed_depthwise",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[6,1,2,2] d, float[4,6,1,1] v) => (float[N,4,9,9] y) {
            a = Conv(x, w)
            e = ConvTranspose<group: int = 6>(a, d)
            y = Conv(e, v)
        }
        """,
        {"d": [3]},
        {
            "w": "float32[5, 3, 1, 1]",
            "d": "float32[5, 1, 2, 2]",
            "v": "float32[4, 5, 1, 1]",
            "ConvTranspose_1.group": "5",
        },
    ),
]

MATRICES = [
    Case(
        "gemm",
        """(float[N,5] x, float[5,6] w, float[6] b, float[3,6] v, float[1] u) => (float[N,3] y) {
            a = Gemm(x, w, b)
            y = Gemm<transB: int = 1>(a, v, u)
        }
        """,
        {"w:1": [0, 5]},
        {"w": "float32[5, 4]", "b": "float32[4]", "v": "float32[3, 4]"},
    ),
    Case(
        "gemm_transposed_left",
        """(float[5,4] x, float[5,6] w, float[6,1] b, float[6,3] v) => (float[4,3] y) {
            a = Gemm<transA: int = 1>(w, x, b)
            y = Gemm<transA: int = 1>(a, v)
        }
        """,
        {"w:1": [2]},
        {"w": "float32[5, 5]", "b": "float32[5, 1]", "v": "float32[5, 3]"},
    ),
    Case(
        "matmul_constant_left",
        """(float[2,5,4] x, float[6,5] w, float[3,6] v) => (float[2,3,4] y) {
            a = MatMul(w, x)
            y = MatMul(v, a)
        }
        """,
        {"w": [2]},
        {"w": "float32[5, 5]", "v": "float32[3, 5]"},
    ),
    Case(
        "matmul_right",
        """(float[2,7,5] x, float[5,6] w, float[6] b, float[6,3] v) => (float[2,7,3] y) {
            a = MatMul(x, w)
            s = Add(a, b)
            y = MatMul(s, v)
        }
        """,
        {"w:1": [2, 3]},
        {"w": "float32[5, 4]", "b": "float32[4]", "v": "float32[4, 3]"},
    ),
    Case(
        "matmul_batched_weight",
        """(float[2,3,7,5] x, float[3,5,6] w, float[3,6,4] v) => (float[2,3,7,4] y) {
            a = MatMul(x, w)
            y = MatMul(a, v)
        }
        """,
        {"w:2": [2, 3]},
        {"w": "float32[3, 5, 4]", "v": "float32[3, 4, 4]"},
    ),
    Case(
        "matmul_vector",
        """(float[2,5] x, float[5,6] w, float[6] v) => (float[2] y) {
            a = MatMul(x, w)
            y = MatMul(a, v)
        }
        """,
        {"w:1": [2, 3]},
        {"w": "float32[5, 4]", "v": "float32[4]"},
    ),
    Case(
        "matmul_vector_left",
        """(float[5] x, float[5,6] w, float[6,2] v) => (float[2] y) {
            a = MatMul(x, w)
            y = MatMul(a, v)
        }
        """,
        {"w:1": [0]},
        {"w": "float32[5, 5]", "v": "float32[5, 2]"},
    ),
]


@pytest.mark.parametrize("case", [*STORED_OTHERWISE, *CONVOLUTIONS, *MATRICES], ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)
