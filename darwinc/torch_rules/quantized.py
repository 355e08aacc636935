"""Products of quantized values: sums of whole floats, which are the integers' as long as these are small enough.

Operands come in threes: values, scale, zero point. One that quantizes its result multiplies by one factor, as ONNX
Runtime does: scale of x times scale of w over scale of y.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from .call import Call, Rule
from .convolution import conv
from .quantization import centred, result_type, saturate, whole

INT32 = ir.DataType.INT32


def qlinear_conv(call: Call) -> torch.Tensor:
    """Weights [M, C / group, *kernel] with one scale and zero point, or one per output channel."""
    x, weight = centred(call.first, call.optional(2)), call.tensor(3)
    rank = weight.ndim
    shape = (-1, *(1,) * (rank - 1))
    zero = call.optional(5)
    bias = call.optional(8)
    weight = centred(weight, None if zero is None else zero.reshape(shape))
    total = conv(call.on(x, weight, None if bias is None else bias.to(x.dtype)))
    factor = (call.tensor(1) * call.tensor(4) / call.tensor(6)).reshape(shape[:-1])
    return saturate(total * factor, call.optional(7), result_type(call, 7, 0))


def qlinear_matmul(call: Call) -> torch.Tensor:
    """A with one scale or one per row, B with one or one per column."""
    left, right = _centred_rows(call, torch.float32), centred(call.tensor(3), call.optional(5))
    factor = _rows(call.tensor(1)) * call.tensor(4) / call.tensor(6)
    return saturate(left @ right * factor, call.optional(7), result_type(call, 7, 0))


def conv_integer(call: Call) -> torch.Tensor:
    x, weight, zero = call.first, call.tensor(1), call.optional(3)
    zero = None if zero is None else zero.reshape(-1, *(1,) * (weight.ndim - 1))
    exact = torch.float64
    return whole(conv(call.on(centred(x, call.optional(2), exact), centred(weight, zero, exact), None)), INT32)


def matmul_integer(call: Call) -> torch.Tensor:
    left = _centred_rows(call, torch.float64)
    return whole(left @ centred(call.tensor(1), call.optional(3), torch.float64), INT32)


def _centred_rows(call: Call, dtype: torch.dtype) -> torch.Tensor:
    """The first operand less operand 2, one number or one per row."""
    zero = call.optional(2)
    return centred(call.first, None if zero is None else _rows(zero), dtype)


def _rows(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter per row, as a column; one number stays one."""
    return parameter[:, None] if parameter.ndim == 1 and len(parameter) > 1 else parameter


RULES: dict[str, Rule] = {
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
}
