"""What the axis rules hold, and why."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from tests.axis_cases import Held, check_held
from tests.surgery import parse

HELD = [
    Held(
        "a_slope_of_zero_lets_positive_numbers_through",
        """(float[2,5,3] x, float[3,6] w, float[3,6] v, float[6] slope) => (float[2,5,5] y) {
            a = MatMul(x, w)
            b = Sigmoid(a)
            c = PRelu(b, slope)
            d = MatMul(x, v)
            e = Sigmoid(d)
            t = Transpose<perm: ints = [0, 2, 1]>(e)
            y = MatMul(c, t)
        }
        """,
        "two computed tensors are multiplied along this axis",
        axis=1,
    ),
    Held(
        "weights_standardised_in_the_graph",
        """(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,3,3] v, float[4] gain, float[4] zero, float[4] one)
        => (float[N,4,6,6] y) <int64[3] flat = {1, 4, -1}, int64[4] back = {4, 6, 3, 3}> {
            a = Conv(x, w)
            f = Reshape(v, flat)
            b, mean, var = BatchNormalization<training_mode: int = 1>(f, gain, zero, zero, one)
            k = Reshape(b, back)
            y = Conv(a, k)
        }
        """,
        "averages over this axis",
    ),
    Held(
        "space_to_depth_rearranges_rows",
        """(float[N,3,8] x, float[8,8] w) => (float[N,12,1,1] y) <int64[4] s = {0, 3, 2, 4}> {
            a = MatMul(x, w)
            b = Reshape(a, s)
            d = SpaceToDepth<blocksize: int = 2>(b)
            y = GlobalMaxPool(d)
        }
        """,
        "rearranges this axis",
        axis=1,
    ),
    Held(
        "depth_to_space_rearranges_rows",
        """(float[N,4,8] x, float[8,8] w) => (float[N,1,1,1] y) <int64[4] s = {0, 4, 2, 4}> {
            a = MatMul(x, w)
            b = Reshape(a, s)
            d = DepthToSpace<blocksize: int = 2>(b)
            y = GlobalMaxPool(d)
        }
        """,
        "rearranges this axis",
        axis=1,
    ),
    Held(
        "graph_output",
        """(float[2,3,8,8] x, float[6,3,1,1] w) => (float[2,6,8,8] y) {
            y = Conv(x, w)
        }
        """,
        "reaches a graph output",
    ),
    Held(
        "graph_input",
        """(float[2,3,8,8] x, float[6,3,1,1] w) => (float[2,6,8,8] y) {
            y = Conv(x, w)
        }
        """,
        "is combined with positions that can't be removed",
        axis=1,
    ),
    Held(
        "one_channel",
        """(float[2,3,8,8] x, float[1,3,1,1] w, float[4,1,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            y = Conv(a, v)
        }
        """,
        "",
    ),
    Held(
        "computed_weight",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] xv) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            y = Conv(a, xv)
        }
        """,
        "is combined with positions that can't be removed",
    ),
    Held(
        "weight_plus_scalar",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v, float[1] k) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            s = Sigmoid(a)
            u = Add(v, k)
            y = Conv(s, u)
        }
        """,
        "two computed tensors are multiplied along this axis",
    ),
    Held(
        "weight_through_exponential",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            s = Sigmoid(a)
            u = Exp(v)
            y = Conv(s, u)
        }
        """,
        "two computed tensors are multiplied along this axis",
    ),
    Held(
        "softmax",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            b = Softmax<axis: int = 1>(a)
            y = Conv(b, v)
        }
        """,
        "normalises over this axis",
    ),
    Held(
        "softmax_before_13",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            b = Softmax<axis: int = 0>(a)
            y = Conv(b, v)
        }
        """,
        "normalises over this axis",
        opset=12,
    ),
    Held(
        "log_softmax_default_before_13",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            b = LogSoftmax(a)
            y = Conv(b, v)
        }
        """,
        "normalises over this axis",
        opset=11,
    ),
    Held(
        "lrn",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            b = LRN<size: int = 3>(a)
            y = Conv(b, v)
        }
        """,
        "normalises over this axis",
    ),
    Held(
        "layer_normalisation",
        """(float[2,7,5] x, float[5,6] w, float[6] s, float[6,4] v) => (float[2,7,4] y) {
            a = MatMul(x, w)
            b = LayerNormalization(a, s)
            y = MatMul(b, v)
        }
        """,
        "normalises over this axis",
        axis=1,
    ),
    Held(
        "top_k",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v) => (float[2,7,4] y) <int64[1] k = {6}> {
            a = MatMul(x, w)
            b,
            i = TopK(a, k)
            y = MatMul(b, v)
        }
        """,
        "works along this axis",
        axis=1,
    ),
    Held(
        "cumulative_sum",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) <int64 k = {1}> {
            a = Conv(x, w)
            b = CumSum(a, k)
            y = Conv(b, v)
        }
        """,
        "works along this axis",
    ),
    Held(
        "reduce_channels",
        """(float[2,3,8,8] x, float[6,3,1,1] w) => (float[2,1,8,8] y) {
            a = Conv(x, w)
            y = ReduceMean<axes: ints = [1]>(a)
        }
        """,
        "reduces over this axis",
    ),
    Held(
        "argmax",
        """(float[2,3,8,8] x, float[6,3,1,1] w) => (int64[2,1,8,8] y) {
            a = Conv(x, w)
            y = ArgMax<axis: int = 1>(a)
        }
        """,
        "reduces over this axis",
    ),
    Held(
        "reflected_padding",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,8,1,1] v) => (float[2,4,8,8] y) <int64[8] p = {0, 1, 0,
            0, 0, 1, 0, 0}> {
            a = Conv(x, w)
            b = Pad<mode: string = "reflect">(a, p)
            y = Conv(b, v)
        }
        """,
        "pads this axis",
    ),
    Held(
        "resized_channels",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,12,1,1] v) => (float[2,4,8,8] y) <float[4] s = {1.0,
            2.0, 1.0, 1.0}> {
            a = Conv(x, w)
            b = Resize<mode: string = "nearest">(a, , s)
            y = Conv(b, v)
        }
        """,
        "resizes this axis",
    ),
    Held(
        "unknown_operator",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y) {
            a = Conv(x, w)
            b = EyeLike(a) c = custom.Thing(a)
            y = Conv(c, v)
        }
        """,
        "no axis rule for Thing",
    ),
    Held(
        "size_as_an_output",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v) => (float[2,7,4] y, int64[3] s) {
            a = MatMul(x, w)
            s = Shape(a)
            y = MatMul(a, v)
        }
        """,
        "its size is used as a number",
        axis=1,
    ),
    Held(
        "number_of_elements",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v) => (float[2,7,4] y, int64 s) {
            a = MatMul(x, w)
            s = Size(a)
            y = MatMul(a, v)
        }
        """,
        "reaches a graph output",
        axis=1,
    ),
    Held(
        "maximum_indices",
        """(float[2,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,4,4] y, int64[2,6,4,4] i) {
            a = Conv(x, w)
            b,
            i = MaxPool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(a)
            y = Conv(b, v)
        }
        """,
        "",
    ),
]


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (
            """(float[N,3,8,8] x, float[3,3,3,6] w, float[4,6,1,1] v) => (float[N,4,6,6] y) {
            u = Transpose<perm: ints = [3, 2, 0, 1]>(w)
            a = Conv(x, u)
            y = Conv(a, v)
        }""",
            {("w", 3), ("v", 1)},
        ),
        (
            """(float[2,5,6] x, float[6,8] w, float[1,8] s, float[8,4] v) => (float[2,5,4] y) <int64[1] k = {8}> {
            a = MatMul(x, w)
            r = Reshape(s, k)
            n = LayerNormalization(a, r)
            y = MatMul(n, v)
        }""",
            set(),
        ),
        (
            """(float[2,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[2,4,8,8] y)
            <float[2] one = {1.0, 1.0}, float[2] two = {2.0, 2.0}> {
            a = Conv(x, w)
            s = Concat<axis: int = 0>(one, two)
            b = Resize<mode: string = "nearest">(a, , s)
            y = Conv(b, v)
        }""",
            {("w", 0), ("v", 1)},
        ),
        (
            """(float[2,3,4,4] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[A,B,C,D] y) <int64[1] k = {4}> {
            a = Conv(x, w)
            f = ConstantOfShape<value: tensor = int64[1] {1}>(k)
            e = Expand(a, f)
            y = Conv(e, v)
        }""",
            {("w", 0), ("v", 1)},
        ),
    ],
    ids=["kernel_axes", "scale_of_a_normalisation", "scales_of_a_resize", "shape_that_is_filled"],
)
def test_parameters_that_are_computed_from_constants_have_no_channels_of_their_own(
    text: str, members: set[tuple[str, int]]
) -> None:
    channels = analyse(ir.from_proto(parse(text)))
    assert {(member.tensor, member.axis) for group in channels.groups for member in group.members} == members


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)
