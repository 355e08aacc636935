"""Linear quantization, per tensor or per axis: y = (x - zero point) * scale and back."""

from __future__ import annotations

import onnx_ir as ir
import torch

from .call import Call, Rule


def dequantize(call: Call) -> torch.Tensor:
    scale = _along(call, call.tensor(1), call.first)
    x = call.first.to(scale.dtype)
    zero = call.optional(2)
    return (x if zero is None else x - _along(call, zero, x)) * scale


def quantize(call: Call) -> torch.Tensor:
    """Rounds half to even and saturates."""
    x, zero = call.first, call.optional(2)
    dtype = call.data_type("output_dtype", ir.DataType.UINT8) if zero is None else zero.dtype
    limits = torch.iinfo(dtype)
    moved = torch.round(x / _along(call, call.tensor(1), x))
    moved = moved if zero is None else moved + _along(call, zero, x)
    return moved.clamp(limits.min, limits.max).to(dtype)


def _along(call: Call, parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A scale or a zero point, shaped so that it broadcasts along the axis it belongs to."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.ndim != 1 or call.integer("block_size", 0):
        raise call.unsupported("blocked quantization")
    axis = call.integer("axis", 1) % x.ndim
    return parameter.reshape([-1 if position == axis else 1 for position in range(x.ndim)])


RULES: dict[str, Rule] = {"DequantizeLinear": dequantize, "QuantizeLinear": quantize}
