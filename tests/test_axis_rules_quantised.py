"""Quantised operators: integers that stand for weights, with scales and zero points per tensor or per channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from darwinc.axis_rules.weighted import COMPUTED, INTEGERS
from darwinc.channels import analyse, barriers
from darwinc.passes.excise import excise
from darwinc.plain_words import PlainWords
from tests.axis_cases import Case, Held, build, check, check_held
from tests.surgery import dead_positions

Array = npt.NDArray[Any]


def codes(*sizes: int) -> Array:
    """Made-up integers around 128."""
    return np.random.default_rng(len(sizes)).integers(90, 170, sizes)


SCALES: Mapping[str, npt.ArrayLike] = {
    "s": np.float32(0.05),
    "z": np.uint8(100),
    "o": np.float32(0.1),
    "oz": np.uint8(120),
}
"""Of what goes in and of what comes out of an operator."""
DYNAMIC: Mapping[str, npt.ArrayLike] = {
    "w": codes(5, 6),
    "wz": np.array([128, 120, 130, 100, 90, 140]),
    "v": codes(6, 4),
    "vz": np.uint8(120),
}
PER_CHANNEL: Mapping[str, npt.ArrayLike] = {
    "ws": np.linspace(0.01, 0.02, 6),
    "wz": np.array([128, 120, 130, 100, 90, 140]),
}

CASES = [
    Case(
        "fake_quantised_convolutions",
        """(float[2,3,4,4] x, uint8[6,3,1,1] w, float[6] ws, uint8[6] wz, int32[6] b, float[6] bs, uint8[4,6,1,1] v,
            float[4] vs, float s, uint8 z) => (float[2,4,4,4] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear<axis: int = 0>(w, ws, wz)
            bd = DequantizeLinear<axis: int = 0>(b, bs)
            a = Conv(d, wd, bd)
            r = Relu(a)
            rq = QuantizeLinear(r, s, z)
            rd = DequantizeLinear(rq, s, z)
            vd = DequantizeLinear<axis: int = 0>(v, vs)
            y = Conv(rd, vd)
        }
        """,
        {"w": [1, 4]},
        {
            "w": "uint8[4, 3, 1, 1]",
            "ws": "float32[4]",
            "wz": "uint8[4]",
            "b": "[5, 7, 8, 10]",
            "bs": "float32[4]",
            "v": "uint8[4, 4, 1, 1]",
        },
        given={
            **SCALES,
            **PER_CHANNEL,
            "w": codes(6, 3, 1, 1),
            "v": codes(4, 6, 1, 1),
            "b": np.arange(5, 11),
            "bs": np.full(6, 0.01),
        },
    ),
    Case(
        "zero_point_beside_the_weight_axis",
        """(float[2,3,4,4] x, float[6,3,1,1] w, uint8[4,6,1,1] v, float[6] vs, uint8[6] wz) => (float[2,4,4,4] y) {
            a = Conv(x, w)
            e = Sigmoid(a)
            vd = DequantizeLinear(v, vs, wz)
            y = Conv(e, vd)
        }
        """,
        {"w": [1, 4]},
        {"w": "float32[4, 3, 1, 1]", "v": "uint8[4, 4, 1, 1]", "vs": "float32[4]", "wz": "uint8[4]"},
        given={"v": codes(4, 6, 1, 1), "vs": np.linspace(0.01, 0.02, 6), "wz": PER_CHANNEL["wz"]},
    ),
    Case(
        "silence_goes_through_a_pair",
        """(float[2,7,5] x, float[5,6] w, float s, uint8 z) => (float[2,7,7] y) {
            a = MatMul(x, w)
            q = QuantizeLinear(a, s, z)
            d = DequantizeLinear(q, s, z)
            t = Transpose<perm: ints = [0, 2, 1]>(d)
            y = MatMul(d, t)
        }
        """,
        {"w:1": [1]},
        {"w": "float32[5, 5]"},
        given=SCALES,
    ),
    Case(
        "float_weight_quantised_in_the_graph",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v, float s, uint8 z) => (float[2,7,4] y) {
            a = MatMul(x, w)
            e = Sigmoid(a)
            q = QuantizeLinear(v, s, z)
            d = DequantizeLinear(q, s, z)
            y = MatMul(e, d)
        }
        """,
        {"w:1": [1]},
        {"w": "float32[5, 5]", "v": "float32[5, 4]"},
        given=SCALES,
    ),
    Case(
        "integers_then_floats",
        """(float[2,3,4,4] x, uint8[6,3,1,1] w, float[6] ws, uint8[6] wz, int32[6] b, float[4,6,1,1] v, float s,
            uint8 z, float o, uint8 oz) => (float[2,4,4,4] y) {
            q = QuantizeLinear(x, s, z)
            a = QLinearConv(q, s, z, w, ws, wz, o, oz, b)
            d = DequantizeLinear(a, o, oz)
            y = Conv(d, v)
        }
        """,
        {"w": [1, 4]},
        {
            "w": "uint8[4, 3, 1, 1]",
            "ws": "float32[4]",
            "wz": "uint8[4]",
            "b": "[5, 7, 8, 10]",
            "v": "float32[4, 4, 1, 1]",
        },
        given={**SCALES, **PER_CHANNEL, "w": codes(6, 3, 1, 1), "b": np.arange(5, 11)},
    ),
    Case(
        "blocks",
        """(float[2,7,4] x, uint8[4,6] w, float[2,6] ws, uint8[2,6] wz, float[6,3] v) => (float[2,7,3] y) {
            d = DequantizeLinear<axis: int = 0, block_size: int = 2>(w, ws, wz)
            a = MatMul(x, d)
            y = MatMul(a, v)
        }
        """,
        {"w:1": [1, 2]},
        {"w": "uint8[4, 4]", "ws": "float32[2, 4]", "wz": "uint8[2, 4]", "v": "float32[4, 3]"},
        opset=21,
        given={"w": codes(4, 6), "ws": np.full((2, 6), 0.02), "wz": codes(2, 6)},
    ),
]

ON_INTEGERS = [
    Case(
        "operators_on_integers",
        """(float[2,3,4,4] x, uint8[6,3,1,1] w, float[6] ws, uint8[6] wz, int32[6] b, uint8[4,6,1,1] v, float s,
            uint8 z, float o, uint8 oz) => (float[2,4,4,4] y) {
            q = QuantizeLinear(x, s, z)
            a = QLinearConv(q, s, z, w, ws, wz, o, oz, b)
            p = MaxPool<kernel_shape: ints = [1, 1]>(a)
            c = QLinearConv(p, o, oz, v, s, z, o, oz)
            y = DequantizeLinear(c, o, oz)
        }
        """,
        {"w": [1, 4]},
        {
            "w": "uint8[4, 3, 1, 1]",
            "ws": "float32[4]",
            "wz": "uint8[4]",
            "b": "[5, 7, 8, 10]",
            "v": "uint8[4, 4, 1, 1]",
        },
        given={
            **SCALES,
            **PER_CHANNEL,
            "w": codes(6, 3, 1, 1),
            "v": codes(4, 6, 1, 1),
            "b": np.arange(5, 11),
        },
    ),
    Case(
        "grouped_on_integers",
        """(float[2,4,4,4] x, uint8[6,4,1,1] w, uint8[6,1,3,3] d, float[6] ws, uint8[6] wz, uint8[4,6,1,1] v, float s,
            uint8 z, float o, uint8 oz) => (float[2,4,2,2] y) {
            q = QuantizeLinear(x, s, z)
            a = QLinearConv(q, s, z, w, s, z, o, oz)
            c = QLinearConv<group: int = 6>(a, o, oz, d, ws, wz, o, oz)
            e = QLinearConv(c, o, oz, v, s, z, o, oz)
            y = DequantizeLinear(e, o, oz)
        }
        """,
        {"w": [1, 4]},
        {
            "w": "uint8[4, 4, 1, 1]",
            "d": "uint8[4, 1, 3, 3]",
            "ws": "float32[4]",
            "wz": "uint8[4]",
            "v": "uint8[4, 4, 1, 1]",
            "QLinearConv_2.group": "4",
        },
        given={
            **SCALES,
            **PER_CHANNEL,
            "w": codes(6, 4, 1, 1),
            "d": codes(6, 1, 3, 3),
            "v": codes(4, 6, 1, 1),
        },
    ),
    Case(
        "products_on_integers",
        """(float[2,7,5] x, uint8[5,6] w, float[6] ws, uint8[6] wz, uint8[6,4] v, float s, uint8 z,
            float o, uint8 oz) => (float[2,7,4] y) {
            q = QuantizeLinear(x, s, z)
            a = QLinearMatMul(q, s, z, w, ws, wz, o, oz)
            c = QLinearMatMul(a, o, oz, v, s, z, o, oz)
            y = DequantizeLinear(c, o, oz)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "uint8[5, 4]", "ws": "float32[4]", "wz": "uint8[4]", "v": "uint8[4, 4]"},
        given={**SCALES, **PER_CHANNEL, "w": codes(5, 6), "v": codes(6, 4)},
    ),
    Case(
        "dynamically_quantised_products",
        """(float[2,7,5] x, uint8[5,6] w, uint8[6] wz, float[6] b, uint8[6,4] v, uint8 vz, float[6] ws) =>
            (float[2,7,4] y) {
            q, s, z = DynamicQuantizeLinear(x)
            i = MatMulInteger(q, w, z, wz)
            f = Cast<to: int = 1>(i)
            k = Mul(s, ws)
            a = Mul(f, k)
            e = Add(a, b)
            r = Relu(e)
            q2, s2, z2 = DynamicQuantizeLinear(r)
            j = MatMulInteger(q2, v, z2, vz)
            g = Cast<to: int = 1>(j)
            y = Mul(g, s2)
        }
        """,
        {"w:1": [1, 4]},
        {
            "w": "uint8[5, 4]",
            "wz": "uint8[4]",
            "ws": "float32[4]",
            "b": "float32[4]",
            "v": "uint8[4, 4]",
        },
        given={**DYNAMIC, "ws": np.linspace(0.01, 0.02, 6)},
    ),
    Case(
        "integer_convolutions",
        """(float[2,3,4,4] x, uint8[6,3,3,3] w, uint8 wz, uint8[4,6,1,1] v) => (float[2,4,4,4] y) {
            q, s, z = DynamicQuantizeLinear(x)
            i = ConvInteger<pads: ints = [1, 1, 1, 1]>(q, w, z, wz)
            f = Cast<to: int = 1>(i)
            r = LeakyRelu(f)
            q2, s2, z2 = DynamicQuantizeLinear(r)
            j = ConvInteger(q2, v, z2, wz)
            y = Cast<to: int = 1>(j)
        }
        """,
        {"w": [1, 4]},
        {"w": "uint8[4, 3, 3, 3]", "v": "uint8[4, 4, 1, 1]"},
        given={"w": codes(6, 3, 3, 3), "wz": np.uint8(128), "v": codes(4, 6, 1, 1)},
    ),
    Case(
        "products_with_a_float_result",
        """(float[2,7,5] x, uint8[5,6] w, float[6] ws, uint8[6] wz, uint8[6,4] v, uint8 vz, float s, float[4] b) =>
            (float[2,7,4] y) {
            q, qs, qz = DynamicQuantizeLinear(x)
            a = com.microsoft.MatMulIntegerToFloat(q, w, qs, ws, qz, wz)
            y = com.microsoft.DynamicQuantizeMatMul(a, v, s, vz, b)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "uint8[5, 4]", "ws": "float32[4]", "wz": "uint8[4]", "v": "uint8[4, 4]"},
        given={**DYNAMIC, "ws": np.linspace(0.01, 0.02, 6), "s": np.float32(0.05)},
    ),
    Case(
        "products_with_a_bias",
        """(float[2,7,5] x, uint8[5,6] w, float[6] ws, uint8[6] wz, float[6] b, uint8[6,4] v, uint8 vz, float s) =>
            (float[2,7,4] y) {
            a = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz, b)
            q = QuantizeLinear(a, s, vz)
            y = com.microsoft.MatMulIntegerToFloat(q, v, s, s, vz, vz)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "uint8[5, 4]", "ws": "float32[4]", "wz": "uint8[4]", "b": "float32[4]", "v": "uint8[4, 4]"},
        given={**DYNAMIC, "ws": np.linspace(0.01, 0.02, 6), "s": np.float32(0.05)},
    ),
    Case(
        "classifier_on_integers",
        """(float[2,5] x, uint8[6,5] w, float[6] ws, uint8[6] wz, int32[6] b, uint8[6,4] v, float s, uint8 z, float o,
            uint8 oz) => (float[2,4] y) {
            q = QuantizeLinear(x, s, z)
            a = com.microsoft.QGemm<transB: int = 1>(q, s, z, w, ws, wz, b, o, oz)
            y = com.microsoft.QGemm(a, o, oz, v, s, z, )
        }
        """,
        {"w": [1, 4]},
        {"w": "uint8[4, 5]", "ws": "float32[4]", "wz": "uint8[4]", "b": "[5, 7, 8, 10]", "v": "uint8[4, 4]"},
        given={**SCALES, **PER_CHANNEL, "w": codes(6, 5), "v": codes(6, 4), "b": np.arange(5, 11)},
    ),
    Case(
        "elementwise_on_integers",
        """(float[2,3,4,4] x, uint8[6,3,1,1] w, uint8[6,3,1,1] u, uint8[6,1,1] k, uint8[4,18,1,1] v, float s, uint8 z,
            float o, uint8 oz) => (float[2,4,1,1] y) {
            q = QuantizeLinear(x, s, z)
            a = QLinearConv(q, s, z, w, s, z, o, oz)
            c = QLinearConv(q, s, z, u, s, z, o, oz)
            t = com.microsoft.QLinearAdd(a, o, oz, c, o, oz, o, oz)
            m = com.microsoft.QLinearMul(t, o, oz, k, s, z, o, oz)
            l = com.microsoft.QLinearLeakyRelu(m, o, oz, o, oz)
            g = com.microsoft.QLinearSigmoid(l, o, oz, o, oz)
            p = com.microsoft.QLinearAveragePool<kernel_shape: ints = [2, 2]>(g, o, oz, o, oz)
            j = com.microsoft.QLinearConcat<axis: int = 1>(o, oz, p, o, oz, p, o, oz, p, o, oz)
            h = com.microsoft.QLinearGlobalAveragePool<channels_last: int = 0>(j, o, oz, o, oz)
            e = QLinearConv(h, o, oz, v, s, z, o, oz)
            y = DequantizeLinear(e, o, oz)
        }
        """,
        {"w": [1, 4]},
        {
            "w": "uint8[4, 3, 1, 1]",
            "u": "uint8[4, 3, 1, 1]",
            "k": "uint8[4, 1, 1]",
            "v": "uint8[4, 12, 1, 1]",
        },
        given={
            **SCALES,
            "w": codes(6, 3, 1, 1),
            "u": codes(6, 3, 1, 1),
            "k": codes(6, 1, 1),
            "v": codes(4, 18, 1, 1),
        },
    ),
]

HELD = [
    Held(
        "range_of_what_is_not_zero",
        """(float[2,7,5] x, float[5,6] w, uint8[6,4] v) => (float[2,7,4] y) {
            a = MatMul(x, w)
            e = Sigmoid(a)
            q, s, z = DynamicQuantizeLinear(e)
            j = MatMulInteger(q, v, z)
            y = Cast<to: int = 1>(j)
        }
        """,
        "its values set the range that all are quantised by",
        axis=1,
    ),
    Held(
        "range_of_a_product",
        """(float[2,7,5] x, float[5,6] w, uint8[6,4] v, float s) => (float[2,7,4] y) {
            a = MatMul(x, w)
            e = Sigmoid(a)
            y = com.microsoft.DynamicQuantizeMatMul(e, v, s)
        }
        """,
        "its values set the range that all are quantised by",
        axis=1,
    ),
    Held(
        "product_of_two_computed_sides",
        """(float[2,7,5] x, float[5,6] w, float s, uint8 z) => (float[2,7,7] y) {
            a = MatMul(x, w)
            e = Sigmoid(a)
            q = QuantizeLinear(e, s, z)
            t = Transpose<perm: ints = [0, 2, 1]>(q)
            c = QLinearMatMul(q, s, z, t, s, z, s, z)
            y = DequantizeLinear(c, s, z)
        }
        """,
        "two computed tensors are multiplied along this axis",
        axis=1,
    ),
    Held(
        "axis_of_blocks",
        """(float[2,7,3] x, float[3,4] w, uint8[4,6] v, float[2,6] vs) => (float[2,7,6] y) {
            a = MatMul(x, w)
            d = DequantizeLinear<axis: int = 0, block_size: int = 2>(v, vs)
            y = MatMul(a, d)
        }
        """,
        "is quantised in blocks along this axis",
        axis=1,
        opset=21,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)


@pytest.mark.parametrize("case", ON_INTEGERS, ids=lambda case: case.name)
def test_weights_that_operators_read_as_integers_stay_whole(case: Case) -> None:
    """What removed ones would be there, no checker of ours or others' could tell."""
    channels = analyse(ir.from_proto(build(case)))
    weights = {place.partition(":")[0] for place in case.removed}
    assert not weights & {member.tensor for group in channels.groups for member in group.members}
    held = barriers(channels)
    assert COMPUTED not in {barrier.reason for barrier in held}
    [why] = {PlainWords(channels).why(barrier.node, INTEGERS) for barrier in held if barrier.reason == INTEGERS}
    assert why.startswith("works on quantised numbers: integer weights")


def test_a_removed_weight_becomes_its_zero_point() -> None:
    model = ir.from_proto(build(CASES[0]))
    channels = analyse(model)
    zeroed, _ = excise(model, channels, dead_positions(channels, {"w": [1, 4]}), zero=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in ir.to_proto(zeroed).graph.initializer}
    wanted = codes(6, 3, 1, 1)
    wanted[[1, 4]] = np.array([120, 90])[:, None, None, None]
    np.testing.assert_array_equal(stored["w"], wanted)
    np.testing.assert_array_equal(stored["b"], [5, 0, 7, 8, 0, 10])
