"""Every row of the axis rules: before in ONNX text, what a cut changes in the file (and nothing else), and the numbers.

`cut` also checks that the rewrite is valid and answers like the original with the removed channels zeroed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from tests.surgery import changes, cut, parse, reasons


@dataclass(frozen=True)
class Case:
    """A graph, the positions that go, and every fact that changes."""

    name: str
    text: str
    removed: Mapping[str, Sequence[int]]
    changed: Mapping[str, str]
    opset: int = 17


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

SIZES = [
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
            "Div_5.inputs": "a darwinc/Div_5/input1",
            "darwinc/Div_5/input1": "float32[]",
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
CASES = [*STORED_OTHERWISE, *CONVOLUTIONS, *MATRICES, *PER_CHANNEL, *MOVING, *RESHAPING, *SIZES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    assert changes(cut(parse(case.text, case.opset), case.removed)) == case.changed


@dataclass(frozen=True)
class Held:
    """A graph whose constant `w` can't lose anything along `axis`, and one of the reasons."""

    name: str
    text: str
    reason: str
    axis: int = 0
    opset: int = 17


HELD = [
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
    found = reasons(parse(held.text, held.opset), "w", held.axis)
    assert found is not None, "positions could be removed"
    assert not held.reason or held.reason in found
