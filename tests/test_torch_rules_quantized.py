"""Torch rules on quantized values: linear quantization, the products of bytes, ONNX Runtime's QLinear operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from darwinc.torch_graph import TorchGraph
from tests.operator_cases import (
    POSITIVE,
    WIDE,
    Array,
    Case,
    answers,
    check,
    noise,
    scalar,
    ways,
)


def signed(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def unsigned(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def zero(value: int, dtype: type[np.generic] = np.uint8) -> Array:
    return np.array(value, dtype)


def whole_scales(*shape: int) -> Array:
    """Powers of two: no rounding before the last one."""
    return (2.0 ** np.random.default_rng(1).integers(-6, -3, shape)).astype(np.float32)


SCALING = [
    Case("QuantizeLinear", [WIDE, scalar(0.05), zero(3)]),
    Case("QuantizeLinear", [WIDE, POSITIVE[0], np.zeros(4, np.int8)], {"axis": 1}),
    Case("QuantizeLinear", [WIDE, scalar(0.05)], opset=10),
    Case("QuantizeLinear", [WIDE, scalar(0.0005), zero(9, np.uint16)], opset=21),
    Case("QuantizeLinear", [WIDE, scalar(0.05)], {"output_dtype": onnx.TensorProto.INT8}, opset=21),
    Case("QuantizeLinear", [WIDE, POSITIVE[:, :2], np.zeros((3, 2), np.int8)], {"axis": 1, "block_size": 2}, opset=21),
    Case("QuantizeLinear", [WIDE, POSITIVE[:2], np.full((2, 4), 7, np.uint8)], {"axis": 0, "block_size": 2}, opset=21),
    Case("DequantizeLinear", [signed(3, 4), scalar(0.05), zero(3, np.int8)]),
    Case("DequantizeLinear", [signed(3, 4), POSITIVE[:, 0], np.array([1, 2, 3], np.int8)], {"axis": 0}),
    Case("DequantizeLinear", [signed(3, 4).astype(np.int32), scalar(0.05)]),
    Case("DequantizeLinear", [signed(3, 4), POSITIVE[:, :2]], {"axis": -1, "block_size": 2}, opset=21),
    Case("DequantizeLinear", [signed(5, 4), POSITIVE], {"axis": 0, "block_size": 2}, opset=21),
    Case("DynamicQuantizeLinear", [WIDE], outputs=3),
    Case("DynamicQuantizeLinear", [POSITIVE], outputs=3),
    Case("DynamicQuantizeLinear", [np.zeros((2, 3), np.float32)], outputs=3),
    Case("com.microsoft::QuantizeLinear", [WIDE, scalar(0.05), zero(3)]),
    Case("com.microsoft::QuantizeLinear", [WIDE, POSITIVE[0], np.zeros(4, np.uint8)], {"axis": 1}),
    Case("com.microsoft::DequantizeLinear", [signed(3, 4), scalar(0.05), zero(3, np.int8)]),
    Case("com.microsoft::DequantizeLinear", [unsigned(3, 4).astype(np.uint16) * 9, scalar(0.05), zero(700, np.uint16)]),
]

MAP = [unsigned(2, 4, 7, 6), scalar(0.0625), zero(120)]
KERNEL = [signed(6, 4, 3, 3), whole_scales(6), np.zeros(6, np.int8)]
RESULT = [scalar(4.0), zero(128)]
BIAS = np.random.default_rng(2).integers(-900, 900, 6).astype(np.int32)
ROWS = [unsigned(3, 4), scalar(0.0625), zero(120)]
COLUMNS = [signed(4, 5), whole_scales(5), np.zeros(5, np.int8)]
PRODUCTS = [
    Case("QLinearConv", [*MAP, *KERNEL, *RESULT, BIAS], {"pads": [1, 1, 1, 1]}),
    Case("QLinearConv", [*MAP, signed(6, 2, 2, 3), scalar(0.25), zero(0, np.int8), *RESULT], {"group": 2}, opset=10),
    Case("QLinearConv", [*MAP, unsigned(6, 4, 3, 3), scalar(0.25), zero(99), *RESULT], {"auto_pad": "SAME_UPPER"}),
    Case("com.microsoft::QLinearConv", [unsigned(2, 7, 6, 4), *MAP[1:], *KERNEL, *RESULT, BIAS], {"channels_last": 1}),
    Case("QLinearMatMul", [*ROWS, signed(4, 5), scalar(0.25), zero(3, np.int8), scalar(4.0), zero(99)]),
    Case("QLinearMatMul", [*ROWS, *COLUMNS, scalar(4.0), zero(99)], opset=10),
    Case("QLinearMatMul", [unsigned(2, 3, 4), *ROWS[1:], unsigned(2, 4, 5), *ROWS[1:], scalar(4.0), zero(99)]),
    Case("ConvInteger", [MAP[0], unsigned(6, 4, 3, 3), zero(120), zero(7)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    Case("ConvInteger", [MAP[0], unsigned(6, 2, 3, 3)], {"group": 2}),
    Case("MatMulInteger", [unsigned(2, 3, 4), signed(4, 5), zero(120), zero(3, np.int8)]),
    Case("MatMulInteger", [unsigned(3, 4), signed(4, 5)]),
    Case("MatMulInteger", [unsigned(3, 4), signed(4, 5), zero(9), np.array([1, 2, 3, 4, 5], np.int8)]),
]

A = [unsigned(3, 4), scalar(0.05), zero(120)]
B = [unsigned(1, 4, seed=1), scalar(0.03), zero(90)]
PLANES = [unsigned(2, 3, 6, 5), scalar(0.05), zero(120)]
LAST = [unsigned(2, 6, 5, 3), scalar(0.05), zero(120)]
SIGNED = [signed(3, 4), scalar(0.05), zero(3, np.int8)]
TO = [scalar(0.04), zero(100)]


def real(values: Array, scale: Array, point: Array) -> Array:
    return (values.astype(np.float32) - point) * scale


def into(values: Array, scale: Array, point: Array) -> tuple[Array, ...]:
    return (np.clip(np.round(values / scale) + point, 0, 255).astype(np.uint8),)


def nbits(bits: int, size: int, columns: int, rows: int) -> list[Array]:
    blocks = -(-rows // size)
    return [unsigned(columns, blocks, size * bits // 8), noise(columns, blocks, low=0.01, high=0.1)]


QLINEAR = [
    *(Case(f"com.microsoft::QLinear{op}", [*A, *B, *TO], slack=float(op == "Add")) for op in ("Add", "Mul")),
    *(Case(f"com.microsoft::QLinear{op}", [*SIGNED, *SIGNED, scalar(0.1), zero(-3, np.int8)]) for op in ("Add", "Mul")),
    *(Case(f"com.microsoft::QLinear{op}", [*A, scalar(0.01), zero(9)]) for op in ("Sigmoid", "LeakyRelu")),
    Case("com.microsoft::QLinearLeakyRelu", [*A, *TO], {"alpha": 0.3}),
    *(
        Case("com.microsoft::QLinearSoftmax", [*A, scalar(1 / 256), zero(0)], {"axis": axis, "opset": opset})
        for axis, opset in ((-1, 13), (0, 13), (0, 11))
    ),
    Case("com.microsoft::QLinearAveragePool", [*PLANES, *TO], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}, slack=1),
    Case("com.microsoft::QLinearAveragePool", [*LAST, *TO], {"kernel_shape": [2, 2], "channels_last": 1}, slack=1),
    *(
        Case("com.microsoft::QLinearGlobalAveragePool", [*operands, *TO], {"channels_last": last})
        for operands, last in ((PLANES, 0), (LAST, 1))
    ),
    Case("com.microsoft::QLinearConcat", [*TO, *A, *A], {"axis": 1}),
    Case("com.microsoft::QLinearWhere", [np.eye(3, 4, dtype=bool), *A, *B, *TO]),
    Case(
        "com.microsoft::QLinearReduceMean",
        [*PLANES, *TO],
        {"axes": [2, 3], "keepdims": 0},
        closed=lambda x, scale, point, to, shift: into(real(x, scale, point).mean((2, 3)), to, shift),
    ),
    Case("com.microsoft::QGemm", [*ROWS, *COLUMNS, BIAS[:5], *RESULT]),
    Case("com.microsoft::QGemm", [*ROWS, signed(5, 4), *COLUMNS[1:], BIAS[:5]], {"transB": 1, "alpha": 0.5}),
    Case(
        "com.microsoft::MatMulIntegerToFloat",
        [unsigned(2, 3, 4), signed(4, 5), scalar(0.1), scalar(0.2), zero(99), zero(3, np.int8), noise(5)],
    ),
    Case("com.microsoft::MatMulIntegerToFloat", [unsigned(3, 4), signed(4, 5), scalar(0.1), whole_scales(5)]),
    Case("com.microsoft::DynamicQuantizeMatMul", [WIDE, signed(4, 5), scalar(0.1), zero(3, np.int8), noise(5)]),
    Case("com.microsoft::DynamicQuantizeMatMul", [WIDE, signed(4, 5), whole_scales(5)]),
    *(
        Case(
            "com.microsoft::MatMulNBits",
            [noise(2, 3, 40), *nbits(bits, 32, 6, 40), *more],
            {"K": 40, "N": 6, "bits": bits, "block_size": 32},
        )
        for bits, more in (
            (4, []),
            (8, []),
            (4, [unsigned(6, 1)]),
            (8, [unsigned(6, 2)]),
            (4, [noise(6, 2), None, noise(6)]),
        )
    ),
]

TOKENS, WEIGHTS = unsigned(2, 5, 7), signed(7, 24)
SCALES = [noise(24), scalar(0.01), scalar(0.01)]
POINTS = [zero(120), zero(3, np.int8)]
ATTENTION = [
    Case("com.microsoft::QAttention", [TOKENS, WEIGHTS, *SCALES, None, *POINTS], {"num_heads": 2}),
    Case(
        "com.microsoft::QAttention",
        [TOKENS, WEIGHTS, *SCALES, np.array([3, 5], np.int32), *POINTS],
        {"num_heads": 2},
    ),
    Case(
        "com.microsoft::QAttention",
        [TOKENS, WEIGHTS, *SCALES, None, *POINTS, noise(2, 2, 2, 3, 4)],
        {"num_heads": 2, "unidirectional": 1},
        outputs=2,
    ),
]

CASES = [*SCALING, *PRODUCTS, *QLINEAR, *ATTENTION]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)


NARROW = """
    <ir_version: 10, opset_import: ["" : 21]>
    narrow (float[3, 4] x) => (float[3, 2] y)
    <float scale = {0.5}, int4 point, int4[4, 2] w, float[2] scales = {0.5, 0.25}>
    {
        packed = QuantizeLinear(x, scale, point)
        back = DequantizeLinear(packed, scale, point)
        weight = DequantizeLinear<axis = 1>(w, scales)
        y = MatMul(back, weight)
    }
"""


def test_numbers_of_four_bits_answer_like_onnx_runtime() -> None:
    model = onnx.parser.parse_model(NARROW)
    for name, shape, values in (("point", [], [1]), ("w", [4, 2], [-8, 7, 1, 0, 2, -3, 5, -1])):
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT4, shape, values))
    (wanted,) = run(model, {"x": WIDE})
    found = TorchGraph(ir.from_proto(model)).detached({"x": WIDE})["y"].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


FAKE = """
    <ir_version: 10, opset_import: ["" : 17]>
    fake (float[2, 4] x) => (float[2, 5] y)
    <float s = {0.05}, uint8 p = {100}, int8[4, 5] w, float[5] ws, float t = {0.25}, uint8 q = {128}>
    {
        a = QuantizeLinear(x, s, p)
        c = MatMulInteger(a, w, p)
        d = Cast<to = 1>(c)
        e = Mul(d, s)
        f = Mul(e, ws)
        g = QuantizeLinear(f, t, q)
        y = DequantizeLinear(g, t, q)
    }
"""


def test_a_gradient_passes_through_quantization() -> None:
    """It is that of the real product, but nothing comes back from where a value saturates."""
    model = onnx.parser.parse_model(FAKE)
    weight, scales = signed(4, 5), noise(5, low=0.01, high=0.02)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in (("w", weight), ("ws", scales)))
    x = torch.tensor([[0.5, -0.3, 0.2, 1.0], [0.1, 99.0, -99.0, 0.0]], requires_grad=True)
    y = TorchGraph(ir.from_proto(model))({"x": x})["y"]
    np.testing.assert_allclose(y.detach(), run(model, {"x": x.detach().numpy()})[0], rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(y[:, 2].sum(), x)
    wanted = torch.from_numpy(weight[:, 2] * scales[2]).expand(2, 4).clone()
    wanted[1, 1:3] = 0
    torch.testing.assert_close(gradient, wanted)


CHAIN = """
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    chain (float[2, 4] x) => (uint8[2, 8] y)
    <float s = {0.02}, uint8 p = {100}>
    {
        a = QuantizeLinear(x, s, p)
        b = com.microsoft.QLinearAdd(a, s, p, a, s, p, s, p)
        c = com.microsoft.QLinearMul(a, s, p, b, s, p, s)
        d = com.microsoft.QLinearSigmoid(c, s, p, s, p)
        y = com.microsoft.QLinearConcat<axis = 1>(s, p, d, s, p, c, s, p)
    }
"""


def test_recording_a_gradient_changes_no_answer() -> None:
    """Not even where a value is a float meanwhile and nothing but its zero point tells which bytes it stands for."""
    model = onnx.parser.parse_model(CHAIN)
    x = torch.from_numpy(WIDE[:2] / 3).requires_grad_()
    twin = TorchGraph(ir.from_proto(model))
    y = twin({"x": x})["y"]
    assert y.dtype == torch.uint8
    assert torch.equal(y, twin.detached({"x": x})["y"])
    np.testing.assert_array_equal(y.numpy(), run(model, {"x": x.detach().numpy()})[0])


def run(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    return answers(Case("", []), model, feed)
