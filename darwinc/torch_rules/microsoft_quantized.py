"""ONNX Runtime's operators on quantized values (domain com.microsoft).

Those named QLinear compute in real numbers between a dequantization and a quantization; `quantized` has the products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .activations import leaky_relu
from .call import Call, Rule
from .pooling import average_pool, global_average_pool
from .quantization import centred, dequantize, dynamic_quantize, quantize, result_type, saturate, to_quantized, to_real
from .quantized import qlinear_conv

Function = Callable[[Call], torch.Tensor]


def _real(call: Call, position: int) -> torch.Tensor:
    """The numbers that values, scale and zero point from this operand on stand for."""
    return to_real(call.tensor(position), call.tensor(position + 1), call.optional(position + 2))


def _result(call: Call, x: torch.Tensor, position: int, like: int = 0) -> torch.Tensor:
    """x in bytes, by the scale and zero point from this operand on; in the type of another where there is no zero."""
    dtype = result_type(call, position + 1, like)
    return to_quantized(x, call.tensor(position), call.optional(position + 1), dtype)


def _between(function: Function) -> Function:
    """A rule on real numbers for one on bytes: x, its scale and zero point, the result's scale and zero point."""
    return lambda call: _result(call, function(call.on(_real(call, 0))), 3)


def _channels_last(function: Function) -> Function:
    """The same for x [N, *spatial, C] where the node says so."""

    def rule(call: Call) -> torch.Tensor:
        if not call.integer("channels_last", 0):
            return function(call)
        moved = (call.first.movedim(-1, 1), *call.tensors[1:])
        return function(call.on(*moved)).movedim(1, -1)

    return rule


def add(call: Call) -> torch.Tensor:
    return _result(call, _real(call, 0) + _real(call, 3), 6)


def multiply(call: Call) -> torch.Tensor:
    """By one factor, as ONNX Runtime does."""
    product = centred(call.first, call.optional(2)) * centred(call.tensor(3), call.optional(5))
    factor = call.tensor(1) * call.tensor(4) / call.tensor(6)
    return saturate(product * factor, call.optional(7), result_type(call, 7, 0, 3))


def concat(call: Call) -> torch.Tensor:
    """The result's scale and zero point come first, then the parts in threes."""
    parts = [_real(call, position) for position in range(2, len(call.tensors), 3)]
    return _result(call, torch.cat(parts, call.integer("axis", 1)), 0, like=2)


def where(call: Call) -> torch.Tensor:
    return _result(call, torch.where(call.first, _real(call, 1), _real(call, 4)), 7, like=1)


def _softmax(call: Call) -> torch.Tensor:
    axis = call.integer("axis", -1)
    if call.integer("opset", 13) >= 13:
        return F.softmax(call.first, axis)
    axis = axis % call.first.ndim
    return F.softmax(call.first.flatten(axis), axis).reshape(call.first.shape)


def _mean(call: Call) -> torch.Tensor:
    return call.first.mean(call.listed("axes") or (), bool(call.integer("keepdims", 1)))


def gemm(call: Call) -> torch.Tensor:
    """alpha * A' B' + C; without a scale of the result this is real."""
    left, right = centred(call.first, call.optional(2)), call.tensor(3)
    zero, scale = call.optional(5), call.tensor(4)
    left = left.t() if call.integer("transA", 0) else left
    right = right.t() if call.integer("transB", 0) else right
    factor = call.real("alpha", 1.0) * call.tensor(1) * scale
    total = left @ centred(right, zero)
    total = total if call.optional(6) is None else total + call.tensor(6)
    if not call.has(7):
        return total * factor
    return saturate(total * (factor / call.tensor(7)), call.optional(8), result_type(call, 8, 0))


def integer_product(call: Call) -> torch.Tensor:
    """A B as real numbers: operands A, B, their scales, their zero points, a bias."""
    product = centred(call.first, call.optional(4)) @ centred(call.tensor(1), call.optional(5))
    product = product * (call.tensor(2) * call.tensor(3))
    return product if call.optional(6) is None else product + call.tensor(6)


def dynamic_product(call: Call) -> torch.Tensor:
    """A B, where A is quantized by its own range first: operands A, B, B's scale and zero point, a bias."""
    bytes_, scale, zero = dynamic_quantize(call)
    product = centred(bytes_, zero) @ centred(call.tensor(1), call.optional(3)) * (scale * call.tensor(2))
    return product if call.optional(4) is None else product + call.tensor(4)


def packed_product(call: Call) -> torch.Tensor:
    """A [..., K] times the transpose of weights [N, blocks, bytes of a block], with a scale per block [N, blocks]."""
    bits, size = call.integer("bits", 4), call.integer("block_size", 32)
    weight = unpack(call.tensor(1), bits).to(call.first.dtype)
    rows, blocks, _ = weight.shape
    zero = call.optional(3)
    if zero is None:
        weight = weight - 2 ** (bits - 1)
    else:
        zero = zero if zero.is_floating_point() else unpack(zero.reshape(rows, -1), bits)[:, :blocks]
        weight = weight - zero.reshape(rows, blocks, 1)
    weight = (weight[:, :, :size] * call.tensor(2).reshape(rows, blocks, 1)).flatten(1)
    return F.linear(call.first, weight[:, : call.integer("K", 0)], call.optional(5))


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Bytes of the last axis as the 8 / bits numbers that each holds, the lowest bits first."""
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    spread: torch.Tensor = (packed.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return spread.flatten(-2)


RULES: dict[str, Rule] = {
    "DequantizeLinear": dequantize,
    "DynamicQuantizeMatMul": dynamic_product,
    "MatMulIntegerToFloat": integer_product,
    "MatMulNBits": packed_product,
    "QGemm": gemm,
    "QLinearAdd": add,
    "QLinearAveragePool": _channels_last(_between(average_pool)),
    "QLinearConcat": concat,
    "QLinearConv": _channels_last(qlinear_conv),
    "QLinearGlobalAveragePool": _channels_last(_between(global_average_pool)),
    "QLinearLeakyRelu": _between(leaky_relu),
    "QLinearMul": multiply,
    "QLinearReduceMean": _between(_mean),
    "QLinearSigmoid": _between(lambda call: torch.sigmoid(call.first)),
    "QLinearSoftmax": _between(_softmax),
    "QLinearWhere": where,
    "QuantizeLinear": quantize,
}
