"""Operators that read or write at computed places, and what they hold."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import defs

from darwinc.axis_rules import FUSED, KEEPS_NUMBERS, RULES, STANDARD, barriers
from darwinc.channels import analyse
from tests.axis_cases import Case, Held, check, check_held
from tests.surgery import parse

CONTROL_FLOW = {"Constant", "If", "Loop", "Scan"}
"""What the analysis sees to before any rule."""

CASES = [
    Case(
        "gather_nd",
        """(float[2,5,3] x, float[3,6] w, float[6,4] v) => (float[2,2,4] y) <int64[2,2,1] i = {0, 3, 1, 1}> {
            a = MatMul(x, w)
            g = GatherND<batch_dims: int = 1>(a, i)
            y = MatMul(g, v)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[3, 4]", "v": "float32[4, 4]"},
    ),
    Case(
        "scatter_nd_keeps_silence",
        """(float[2,5,3] x, float[3,6] w, float[2,3] x2, float[3,6] w2) => (float[2,5,1] y)
            <int64[2,2] i = {0, 3, 1, 1}, int64[1] k = {-1}> {
            a = MatMul(x, w)
            u = MatMul(x2, w2)
            s = ScatterND(a, i, u)
            y = ReduceSum(s, k)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[3, 4]", "w2": "float32[3, 4]"},
    ),
    Case(
        "scatter_on_listed_positions",
        """(float[2,4,3] x, float[3,6] w, float[6] b, float[6,5] v) => (float[2,4,5] y)
            <int64[3,1] i = {1, 4, 5}, float[1] k = {0}, int64[1] n = {3}> {
            e = Expand(k, n)
            s = ScatterND(b, i, e)
            a = MatMul(x, w)
            c = Add(a, s)
            y = MatMul(c, v)
        }
        """,
        {"w:1": [0, 4]},
        {"w": "float32[3, 4]", "b": "float32[4]", "v": "float32[4, 5]", "i": "[[0], [3]]", "n": "[2]"},
    ),
    Case(
        "scatter_elements",
        """(float[2,3,5] x, float[6,3,1] w, float[6,3,1] w2, float[4,6,1] v, int64[2,6,5] xi) => (float[2,4,5] y) {
            a = Conv(x, w)
            u = Conv(x, w2)
            h = Abs(u)
            n = Sign(h)
            i = Cast<to: int = 7>(n)
            s = ScatterElements<axis: int = 2, reduction: string = "add">(a, i, u)
            y = Conv(s, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1]", "w2": "float32[4, 3, 1]", "v": "float32[4, 4, 1]"},
        opset=18,
    ),
    Case(
        "one_hot",
        """(float[2,3,4] x, float[6,3,1] w, float[4,6,4,5] v) => (float[2,4,4,5] y)
            <int64 d = {5}, float[2] q = {0.0, 1.0}> {
            a = Conv(x, w)
            i = ArgMax<axis: int = 2, keepdims: int = 0>(a)
            h = OneHot(i, d, q)
            n = Transpose<perm: ints = [0, 2, 1]>(h)
            y = Einsum<equation: string = "nkc,fcwk->nfwk">(n, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1]", "v": "float32[4, 4, 4, 5]"},
    ),
    Case(
        "compress",
        """(float[2,3,4] x, float[6,3,1] w, float[4,6,1] v) => (float[2,4,2] y) <bool[4] k = {1, 0, 0, 1}> {
            a = Conv(x, w)
            c = Compress<axis: int = 2>(a, k)
            y = Conv(c, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1]", "v": "float32[4, 4, 1]"},
    ),
    Case(
        "reversed_triangles",
        """(float[5,2,3] x, float[3,6] w, float[6,4] v) => (float[5,2,4] y) <int64[2] n = {5, 3}> {
            a = MatMul(x, w)
            r = ReverseSequence(a, n)
            t = Transpose<perm: ints = [2, 0, 1]>(r)
            u = Trilu(t)
            s = Transpose<perm: ints = [1, 2, 0]>(u)
            y = MatMul(s, v)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[3, 4]", "v": "float32[4, 4]"},
    ),
    Case(
        "determinants",
        """(float[2,3,4,4] x, float[6,3,1,1] w, float[6,5] v) => (float[2,5] y) {
            a = Conv(x, w)
            d = Det(a)
            y = MatMul(d, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 5]"},
    ),
    Case(
        "fourier",
        """(float[2,3,8] x, float[6,3,1] w, float[4,6,1,1] v) => (float[2,4,5,2] y) <int64[1] k = {3}> {
            a = Conv(x, w)
            u = Unsqueeze(a, k)
            f = DFT<axis: int = 2, onesided: int = 1>(u)
            y = Conv(f, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "samples_of_an_image",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v, float[2,5,5,2] g) => (float[2,4,5,5] y) {
            a = Conv(x, w)
            s = GridSample(a, g)
            y = Conv(s, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "regions_of_interest",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[3,4,2,2] y, float[2,4,2,2] z)
            <float[3,4] r = {0.0, 0.0, 4.0, 4.0, 1.0, 2.0, 6.0, 7.0, 2.0, 2.0, 5.0, 5.0}, int64[3] i = {0, 1, 0},
            float[2,5] q = {0.0, 0.0, 0.0, 4.0, 4.0, 1.0, 1.0, 2.0, 6.0, 7.0}> {
            a = Conv(x, w)
            s = RoiAlign<output_height: int = 2, output_width: int = 2>(a, r, i)
            m = MaxRoiPool<pooled_shape: ints = [2, 2]>(a, q)
            y = Conv(s, v)
            z = Conv(m, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "v": "float32[4, 4, 1, 1]"},
    ),
    Case(
        "deformed",
        """(float[2,3,6,6] x, float[6,3,1,1] w, float[5,6,3,3] d, float[18,3,3,3] f, float[5] b, float[4,5,1,1] v) =>
            (float[2,4,4,4] y) {
            a = Conv(x, w)
            o = Conv(x, f)
            c = DeformConv(a, d, o, b)
            y = Conv(c, v)
        }
        """,
        {"w": [1, 4], "d": [0]},
        {
            "w": "float32[4, 3, 1, 1]",
            "d": "float32[4, 4, 3, 3]",
            "b": "float32[4]",
            "v": "float32[4, 4, 1, 1]",
        },
        opset=19,
    ),
    Case(
        "columns_to_an_image",
        """(float[2,3,9] x, float[12,3,1] w, float[4,3,1,1] v) => (float[2,4,4,4] y)
            <int64[2] i = {4, 4}, int64[2] k = {2, 2}> {
            a = Conv(x, w)
            c = Col2Im(a, i, k)
            y = Conv(c, v)
        }
        """,
        {"w": [4]},
        {"w": "float32[8, 3, 1]", "v": "float32[4, 2, 1, 1]"},
        opset=18,
    ),
    Case(
        "cache_that_is_written",
        """(float[2,1,3] x, float[3,6] w, float[2,5,6] c, float[6,4] v) => (float[2,5,4] y) <int64[2] i = {1, 3}> {
            a = MatMul(x, w)
            t = TensorScatter<axis: int = 1>(c, a, i)
            y = MatMul(t, v)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[3, 4]", "c": "float32[2, 5, 4]", "v": "float32[4, 4]"},
        opset=24,
    ),
    Case(
        "centre",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,6,10] y) <int64[3] s = {6, 6, 10}> {
            a = Conv(x, w)
            c = CenterCropPad<axes: ints = [1, 2, 3]>(a, s)
            y = Conv(c, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "s": "[4, 6, 10]", "v": "float32[4, 4, 1, 1]"},
        opset=18,
    ),
]

HELD = [
    Held(
        "indexed_axis",
        """(float[2,3,4] x, float[6,3,1] w, float[2,4] v) => (float[2,4] y) <int64[2,2] i = {0, 3, 1, 5}> {
            a = Conv(x, w)
            y = GatherND(a, i)
        }
        """,
        "picks positions by index",
    ),
    Held(
        "scattered_axis",
        """(float[2,3,4] x, float[6,3,1] w, float[2,2,4] u, float[4,6,1] v) => (float[2,4,4] y)
            <int64[2,2,4] i = {0,1,2,3, 1,2,3,4, 5,4,3,2, 0,0,0,0}> {
            a = Conv(x, w)
            s = ScatterElements<axis: int = 1>(a, i, u)
            y = Conv(s, v)
        }
        """,
        "picks positions by index",
    ),
    Held(
        "offsets_by_group",
        """(float[2,3,6,6] x, float[6,3,1,1] w, float[5,6,3,3] d, float[36,3,3,3] f) => (float[2,5,4,4] y) {
            a = Conv(x, w)
            o = Conv(x, f)
            y = DeformConv<offset_group: int = 2>(a, d, o)
        }
        """,
        "moves groups of channels by offsets of their own",
        opset=19,
    ),
    Held(
        "unpooling",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            p, i = MaxPool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(a)
            u = MaxUnpool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(p, i)
            y = Conv(u, v)
        }
        """,
        "places values by indices into the whole tensor",
    ),
    Held(
        "cropped_channels",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,4,1,1] v) => (float[2,4,8,8] y) <int64[1] s = {4}> {
            a = Conv(x, w)
            c = CenterCropPad<axes: ints = [1]>(a, s)
            y = Conv(c, v)
        }
        """,
        "crops or pads this axis",
        opset=18,
    ),
    Held(
        "random_numbers",
        """(float[2,5] x, float[5,6] w, float[6,4] v) => (float[2,4] y) {
            a = MatMul(x, w)
            n = RandomNormalLike(a)
            y = MatMul(n, v)
        }
        """,
        "draws random numbers, of which others would fall with fewer channels",
        axis=1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)


def test_frames_of_a_signal_hold_it() -> None:
    text = """(float[2,8,1] x, float[1,8] m, float[4] w) => (float[2,3,3,2] y) <int64 s = {2}, int64 n = {4}> {
        y = STFT(x, s, w, n)
    }"""
    assert not analyse(ir.from_proto(parse(text))).groups


def test_every_operator_of_the_standard_has_a_row() -> None:
    names = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    assert names - CONTROL_FLOW <= {op_type for domain, op_type in RULES if domain == ""}


def test_no_operator_is_both_followed_and_deliberately_held() -> None:
    assert not barriers.STANDARD.keys() & STANDARD.keys()
    assert not barriers.FUSED.keys() & FUSED.keys()
    assert STANDARD.keys() >= KEEPS_NUMBERS
