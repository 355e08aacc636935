"""Linear quantization: y = (x - zero point) * scale and back, per tensor, per axis, or per block of an axis.

The gradient passes straight through the rounding (Bengio et al., 2013, https://arxiv.org/abs/1308.3432) and stops where
a value saturates. Integers can't carry one: while a gradient is recorded, quantized values are whole floats.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from .call import Call, Result, Rule
from .convert import torch_type
from .small_floats import rounded


def dequantize(call: Call) -> torch.Tensor:
    return to_real(call.first, *parameters(call, call.first, 1))


def quantize(call: Call) -> torch.Tensor:
    """Rounds half to even and saturates; with floats as the result there is no zero point but 0."""
    default = ir.DataType(call.integer("output_dtype", 0) or ir.DataType.UINT8)
    dtype = call.onnx_type(2) if call.has(2) else default
    scale, zero = parameters(call, call.first, 1)
    if not dtype.is_integer():
        return rounded(call.first / scale, dtype, bool(call.integer("saturate", 1)))
    return to_quantized(call.first, scale, zero, dtype)


def parameters(call: Call, x: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The scale at this operand and the zero point after it, shaped so that they broadcast with x."""
    zero = call.optional(position + 1)
    return along(call, call.tensor(position), x), None if zero is None else along(call, zero, x)


def along(call: Call, parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A scale or a zero point, shaped so that it broadcasts along the axis it belongs to."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    axis = call.integer("axis", 1) % x.ndim
    block = call.integer("block_size", 0)
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if position == axis else 1 for position in range(x.ndim)])


def centred(x: torch.Tensor, zero: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Quantized values less their zero point, as whole floats."""
    return x.to(dtype) if zero is None else x.to(dtype) - zero.to(dtype)


def to_real(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
    return centred(x, zero, scale.dtype) * scale


def to_quantized(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, dtype: ir.DataType) -> torch.Tensor:
    """x / scale + zero point, rounded half to even and saturated."""
    return saturate(x / scale, zero, dtype)


def saturate(x: torch.Tensor, zero: torch.Tensor | None, dtype: ir.DataType) -> torch.Tensor:
    """x + zero point, rounded half to even and kept within the type."""
    shift = x.new_zeros(()) if zero is None else zero.to(x.dtype)
    x = torch.clamp(x, int(dtype.min) - shift, int(dtype.max) - shift)
    # x - (x - r) is r to the last bit, and has x's gradient.
    return whole(x - (x - x.round()).detach() + shift, dtype)


def result_type(call: Call, *positions: int) -> ir.DataType:
    """The type of the first of these operands that is given and has one of integers: a zero point, or a value."""
    declared = (call.onnx_type(position) for position in positions if call.has(position))
    return next((dtype for dtype in declared if dtype.is_integer()), ir.DataType.UINT8)


def whole(x: torch.Tensor, dtype: ir.DataType) -> torch.Tensor:
    """Whole floats as integers, unless a gradient has to pass."""
    return x if x.requires_grad else x.to(torch_type(dtype, "a quantized value"))


def dynamic_quantize(call: Call) -> Result:
    """Bytes that span the range of x and zero, with the scale and the zero point that were chosen for them."""
    x = call.first
    low, high = x.detach().amin().clamp(max=0.0), x.detach().amax().clamp(min=0.0)
    scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
    zero = (-low / scale).round().clamp(0, 255)
    return to_quantized(x, scale, zero, ir.DataType.UINT8), scale, zero.to(torch.uint8)


RULES: dict[str, Rule] = {
    "DequantizeLinear": dequantize,
    "QuantizeLinear": quantize,
    "DynamicQuantizeLinear": dynamic_quantize,
}
