"""Operators that move positions."""

from __future__ import annotations

import pytest

from tests.axis_cases import Case, check

MOVING = [
    Case(
        "concat",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[6,3,1,1] u, float[4,10,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = Conv(x, u)
            c = Concat<axis: int = 1>(a, b)
            y = Conv(c, v)
        }
        """,
        {"w": [0], "u": [5]},
        {"w": "float32[3, 3, 1, 1]", "u": "float32[5, 3, 1, 1]", "v": "float32[4, 8, 1, 1]"},
    ),
    Case(
        "split_attribute",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,2,1,1] v, float[4,4,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 , split: ints = [2, 4]>(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [0, 3]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 1, 1, 1]", "u": "float32[4, 3, 1, 1]", "Split_1.split": "[1, 3]"},
        opset=11,
    ),
    Case(
        "split_input",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,2,1,1] v, float[4,4,1,1] u) => (float[N,4,8,8] y)
            <int64[2] s = {2,4}> {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 >(a, s)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [0, 3]},
        {"s": "[1, 3]", "w": "float32[4, 3, 1, 1]", "v": "float32[4, 1, 1, 1]", "u": "float32[4, 3, 1, 1]"},
        opset=13,
    ),
    Case(
        "split_equal_11",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v, float[4,3,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 >(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [0, 3]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 2, 1, 1]", "u": "float32[4, 2, 1, 1]"},
        opset=11,
    ),
    Case(
        "split_unequal_11",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v, float[4,3,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 >(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [3]},
        {"w": "float32[5, 3, 1, 1]", "u": "float32[4, 2, 1, 1]", "Split_1.split": "[3, 2]"},
        opset=11,
    ),
    Case(
        "split_equal_13",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v, float[4,3,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 >(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [0, 3]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 2, 1, 1]", "u": "float32[4, 2, 1, 1]"},
        opset=13,
    ),
    Case(
        "split_unequal_13",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v, float[4,3,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 >(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [3]},
        {
            "w": "float32[5, 3, 1, 1]",
            "u": "float32[4, 2, 1, 1]",
            "darwinc/Split_1/split": "[3, 2]",
            "Split_1.inputs": "a darwinc/Split_1/split",
        },
        opset=13,
    ),
    Case(
        "split_equal_18",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v, float[4,3,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 , num_outputs: int = 2>(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [0, 3]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 2, 1, 1]", "u": "float32[4, 2, 1, 1]"},
        opset=18,
    ),
    Case(
        "split_unequal_18",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v, float[4,3,1,1] u) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b,
            c = Split<axis: int = 1 , num_outputs: int = 2>(a)
            d = Conv(b, v)
            e = Conv(c, u)
            y = Add(d, e)
        }
        """,
        {"w": [3]},
        {
            "Split_1.num_outputs": "gone",
            "w": "float32[5, 3, 1, 1]",
            "u": "float32[4, 2, 1, 1]",
            "darwinc/Split_1/split": "[3, 2]",
            "Split_1.inputs": "a darwinc/Split_1/split",
        },
        opset=18,
    ),
    Case(
        "slice_attributes",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = Slice<starts: ints = [1], ends: ints = [4], axes: ints = [1]>(a)
            y = Conv(b, v)
        }
        """,
        {"w": [0, 2, 5]},
        {"w": "float32[3, 3, 1, 1]", "v": "float32[4, 2, 1, 1]", "Slice_1.starts": "[0]", "Slice_1.ends": "[2]"},
        opset=9,
    ),
    Case(
        "slice_inputs",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v) => (float[N,4,8,8] y) <int64[2] s = {1,0},
            int64[2] e = {4,8}, int64[2] k = {1,3}> {
            a = Conv(x, w)
            b = Slice(a, s, e, k)
            y = Conv(b, v)
        }
        """,
        {"w": [0, 2, 5]},
        {"s": "[0, 0]", "e": "[2, 8]", "w": "float32[3, 3, 1, 1]", "v": "float32[4, 2, 1, 1]"},
    ),
    Case(
        "slice_negative",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v) => (float[N,4,8,8] y) <int64[1] s = {-5},
            int64[1] e = {-2}, int64[1] k = {-3}> {
            a = Conv(x, w)
            b = Slice(a, s, e, k)
            y = Conv(b, v)
        }
        """,
        {"w": [0, 2, 5]},
        {"s": "[0]", "e": "[2]", "w": "float32[3, 3, 1, 1]", "v": "float32[4, 2, 1, 1]"},
    ),
    Case(
        "slice_to_the_end",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,3,1,1] v) => (float[N,4,8,8] y) <int64[1] s = {3},
            int64[1] e = {9223372036854775807}, int64[1] k = {1}> {
            a = Conv(x, w)
            b = Slice(a, s, e, k)
            y = Conv(b, v)
        }
        """,
        {"w": [0, 5]},
        {"s": "[2]", "w": "float32[4, 3, 1, 1]", "v": "float32[4, 2, 1, 1]"},
    ),
    Case(
        "pad_attribute",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[8,3,1,1] u, float[4,8,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = Pad<pads: ints = [0, 2, 0, 0, 0, 2, 0, 0]>(a)
            c = Conv(x, u)
            d = Add(b, c)
            y = Conv(d, v)
        }
        """,
        {"w": [0], "u": [0, 1, 7]},
        {
            "w": "float32[3, 3, 1, 1]",
            "u": "float32[4, 3, 1, 1]",
            "v": "float32[4, 4, 1, 1]",
            "Pad_1.pads": "[0, 0, 0, 0, 0, 1, 0, 0]",
        },
        opset=10,
    ),
    Case(
        "pad_input",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[8,3,1,1] u, float[4,8,1,1] v) => (float[N,4,8,8] y)
            <int64[8] p = {0,2,0,0,0,2,0,0}> {
            a = Conv(x, w)
            b = Pad(a, p)
            c = Conv(x, u)
            d = Add(b, c)
            y = Conv(d, v)
        }
        """,
        {"w": [0], "u": [0, 7]},
        {
            "p": "[0, 1, 0, 0, 0, 1, 0, 0]",
            "w": "float32[3, 3, 1, 1]",
            "u": "float32[5, 3, 1, 1]",
            "v": "float32[4, 5, 1, 1]",
        },
        opset=11,
    ),
    Case(
        "pad_axes",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[8,3,1,1] u, float[4,8,1,1] v) => (float[N,4,8,8] y)
            <int64[2] p = {2,2}, int64[1] k = {1}, float f = {0.5}> {
            a = Conv(x, w)
            b = Pad(a, p, f, k)
            c = Conv(x, u)
            d = Add(b, c)
            y = Conv(d, v)
        }
        """,
        {"w": [0], "u": [0, 7, 6]},
        {"p": "[1, 0]", "w": "float32[3, 3, 1, 1]", "u": "float32[4, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
        opset=18,
    ),
    Case(
        "channels_last",
        """(float[N,8,8,3] x, float[6,3,1,1] w, float[6] b, float[4,6,1,1] v) => (float[N,8,8,4] y) {
            t = Transpose<perm: ints = [0, 3, 1, 2]>(x)
            a = Conv(t, w)
            l = Transpose<perm: ints = [0, 2, 3, 1]>(a)
            m = Add(l, b)
            f = Transpose<perm: ints = [0, 3, 1, 2]>(m)
            z = Conv(f, v)
            y = Transpose<perm: ints = [0, 2, 3, 1]>(z)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "b": "float32[5]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "resize_scales",
        """(float[N,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,8,8] y) <float[4] s =
            {1.0,1.0,2.0,2.0}> {
            a = Conv(x, w)
            b = Resize<mode: string = "nearest">(a,, s)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "resize_sizes",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) <int64[4] s =
            {2,6,8,8}> {
            a = Conv(x, w)
            b = Resize<mode: string = "linear">(a,,, s)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"s": "[2, 5, 8, 8]", "w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
    ),
    Case(
        "upsample",
        """(float[N,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,8,8] y) <float[4] s =
            {1.0,1.0,2.0,2.0}> {
            a = Conv(x, w)
            b = Upsample<mode: string = "nearest">(a, s)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[4, 5, 1, 1]"},
        opset=9,
    ),
    Case(
        "depth_to_space_dcr",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[4,2,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = DepthToSpace<blocksize: int = 2, mode: string = "DCR">(a)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 1, 1, 1]"},
    ),
    Case(
        "depth_to_space_crd",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[4,2,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = DepthToSpace<blocksize: int = 2, mode: string = "CRD">(a)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 1, 1, 1]"},
    ),
    Case(
        "space_to_depth",
        """(float[N,3,4,4] x, float[3,3,1,1] w, float[4,12,1,1] v) => (float[N,4,2,2] y) {
            a = Conv(x, w)
            b = SpaceToDepth<blocksize: int = 2>(a)
            y = Conv(b, v)
        }
        """,
        {"w": [1]},
        {"w": "float32[2, 3, 1, 1]", "v": "float32[4, 8, 1, 1]"},
    ),
]


@pytest.mark.parametrize("case", [*MOVING], ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)
