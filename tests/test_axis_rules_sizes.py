"""Sizes that are computed in the graph."""

from __future__ import annotations

import numpy as np
import pytest

from tests.axis_cases import Case, check

SIZES = [
    Case(
        "gather_by_computed_indices",
        """(float[2,5,8] x, float[8,6] w, float[7] table, float[6,3] v, int64 most) => (float[2,5,3] y) {
            a = MatMul(x, w)
            b = Abs(a)
            i = Cast<to: int = 7>(b)
            c = Min(i, most)
            g = Gather<axis: int = 0>(table, c)
            y = MatMul(g, v)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[8, 4]", "v": "float32[4, 3]"},
        given={"most": np.int64(6)},
    ),
    Case(
        "shape_chain",
        """(float[N,3,2,2] x, float[6,3,1,1] w, float[24,4] v) => (float[N,4] y) <int64 z = {0}, int64[1] k =
            {0}, int64[1] m = {24}> {
            a = Conv(x, w)
            s = Shape(a)
            g = Gather(s, z)
            u = Unsqueeze(g, k)
            j = Concat<axis: int = 0>(u, m)
            b = Reshape(a, j)
            y = MatMul(b, v)
        }
        """,
        {"w": [1]},
        {"m": "[20]", "w": "float32[5, 3, 1, 1]", "v": "float32[20, 4]"},
    ),
    Case(
        "shape_chain_channels",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[6,4] v) => (float[2,16,4] y) <int64[2] z = {0,1},
            int64[1] m = {-1}> {
            a = Conv(x, w)
            s = Shape(a)
            g = Gather(s, z)
            j = Concat<axis: int = 0>(g, m)
            b = Reshape(a, j)
            t = Transpose<perm: ints = [0, 2, 1]>(b)
            y = MatMul(t, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[5, 4]"},
    ),
    Case(
        "computed_times_computed",
        """(float[2,7,5] x, float[5,6] w) => (float[2,7,7] y) {
            a = MatMul(x, w)
            t = Transpose<perm: ints = [0, 2, 1]>(a)
            y = MatMul(a, t)
        }
        """,
        {"w:1": [1]},
        {"w": "float32[5, 5]"},
    ),
    Case(
        "strided_slice",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v) => (float[2,4,8,8] y) <int64[1] s = {0},
            int64[1] e = {6}, int64[1] k = {1}, int64[1] t = {2}> {
            a = Conv(x, w)
            b = Slice(a, s, e, k, t)
            y = Conv(b, v)
        }
        """,
        {"w": [2, 3]},
        {"w": "float32[4, 3, 1, 1]", "e": "[4]", "v": "float32[4, 2, 1, 1]"},
    ),
    Case(
        "gather",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) <int64[6] i = {5, 4, 3,
            2, 1, 0}> {
            a = Conv(x, w)
            b = Gather<axis: int = 1>(a, i)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "i": "[4, 3, 2, 1, 0]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "size_as_a_number",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v) => (float[2,7,4] y) <int64 i = {2}> {
            a = MatMul(x, w)
            s = Shape(a)
            g = Gather(s, i)
            f = Cast<to: int = 1>(g)
            r = Sqrt(f)
            d = Div(a, r)
            y = MatMul(d, v)
        }
        """,
        {"w:1": [1]},
        {
            "w": "float32[5, 5]",
            "v": "float32[5, 4]",
            "Cast_3.inputs": "darwinc/Cast_3/input0",
            "darwinc/Cast_3/input0": "6",
        },
    ),
    Case(
        "shared_size_of_two_axes",
        """(float[2,3,6,1] x, float[6,3,1,1] w, float[6,4] v) => (float[2,6,4] y) <int64[1] n = {6}, int64[1] m
            = {-1}> {
            a = Conv(x, w)
            k = Concat<axis: int = 0>(m, n, n)
            b = Reshape(a, k)
            c = Concat<axis: int = 0>(m, n, n)
            d = Transpose<perm: ints = [0, 2, 1]>(b)
            e = Reshape(d, k)
            y = MatMul(e, v)
        }
        """,
        {"w": [1]},
        {
            "w": "float32[5, 3, 1, 1]",
            "v": "float32[5, 4]",
            "Reshape_2.inputs": "a darwinc/Reshape_2/input1",
            "Reshape_5.inputs": "d darwinc/Reshape_5/input1",
            "darwinc/Reshape_2/input1": "[-1, 5, 6]",
            "darwinc/Reshape_5/input1": "[-1, 6, 5]",
        },
    ),
    Case(
        "expand",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,4,4] y) <int64[4] s =
            {1,6,4,4}> {
            a = Conv(x, w)
            p = GlobalMaxPool(a)
            b = Expand(p, s)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"s": "[1, 5, 4, 4]", "w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "expand_to_shape",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[6,1,1] u, float[4,6,1,1] v) => (float[2,4,4,4] y) {
            a = Conv(x, w)
            s = Shape(a)
            b = Expand(u, s)
            c = Mul(a, b)
            y = Conv(c, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "u": "float32[5, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "tile",
        """(float[2,3,4,4] x, float[3,3,1,1] w, float[4,6,1,1] v) => (float[2,4,4,4] y) <int64[4] s =
            {1,2,1,1}> {
            a = Conv(x, w)
            b = Tile(a, s)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[2, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "fill",
        """(float[2,3,4,4] x, float[4,6,1,1] v) => (float[2,4,4,4] y) <int64[4] s = {6,3,1,1}, int64[1] t =
            {6}> {
            w = ConstantOfShape<value: tensor = float[1] {0.5}>(s)
            b = ConstantOfShape(t)
            a = Conv(x, w, b)
            z = Sigmoid(a)
            y = Conv(z, v)
        }
        """,
        {"w": [1]},
        {"s": "[5, 3, 1, 1]", "t": "[5]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "fill_as_reader",
        """(float[2,3,4,4] x, float[6,3,1,1] w) => (float[2,4,4,4] y) <int64[4] s = {4,6,1,1}> {
            v = ConstantOfShape<value: tensor = float[1] {0.5}>(s)
            a = Conv(x, w)
            z = Sigmoid(a)
            y = Conv(z, v)
        }
        """,
        {"w": [1]},
        {"s": "[4, 5, 1, 1]", "w": "float32[5, 3, 1, 1]"},
    ),
]


@pytest.mark.parametrize("case", [*SIZES], ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)
