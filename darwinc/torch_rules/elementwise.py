"""Arithmetic, comparison and logic, element by element with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import onnx_ir as ir
import torch

from .call import Call, Operands, Rule
from .convert import STORED_TYPES, torch_type
from .small_floats import power_of_two, rounded


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Rule:
    return lambda call: function(call.first)


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Rule:
    return lambda call: function(call.first, call.tensor(1))


def _variadic(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Rule:
    return lambda call: reduce(function, [tensor for tensor in call.tensors if tensor is not None])


def divide(call: Call) -> torch.Tensor:
    """Integers are divided towards zero."""
    if call.first.is_floating_point():
        return torch.div(call.first, call.tensor(1))
    return torch.div(call.first, call.tensor(1), rounding_mode="trunc")


def power(call: Call) -> torch.Tensor:
    """The base's type wins; a constant exponent is a plain number, so that squares are squares."""
    base = call.first
    literal = call.step.literals.get(1)
    if literal is None or len(literal) > 1 or call.tensor(1).ndim > base.ndim:
        return torch.pow(base, call.tensor(1)).to(base.dtype)
    return torch.pow(base, literal[0]).to(base.dtype)


def modulo(call: Call) -> torch.Tensor:
    """The sign of the divisor, or of the dividend where fmod is set."""
    return (torch.fmod if call.integer("fmod", 0) else torch.remainder)(call.first, call.tensor(1))


def mean(call: Call) -> torch.Tensor:
    return reduce(torch.add, [tensor for tensor in call.tensors if tensor is not None]) / len(call.tensors)


def clip(call: Call) -> torch.Tensor:
    """Bounds were attributes before opset 11; where they cross, the upper one wins."""
    x = call.first
    if call.opset >= 11:
        low, high = call.number(1, None), call.number(2, None)
    else:
        low, high = (call.real(name, bound) for name, bound in (("min", -math.inf), ("max", math.inf)))
    return x if low is None and high is None else torch.clamp(x, low, high)


def where(call: Call) -> torch.Tensor:
    return torch.where(call.first, call.tensor(1), call.tensor(2))


def cast(call: Call) -> torch.Tensor:
    return _convert(call, ir.DataType(call.integer("to", int(ir.DataType.FLOAT))))


def cast_like(call: Call) -> torch.Tensor:
    return _convert(call, call.onnx_type(1))


def _convert(call: Call, dtype: ir.DataType) -> torch.Tensor:
    """Floats of two bytes stay in float32 unrounded; smaller ones are rounded to what they can hold.

    Integers of less than a byte keep their lowest bits.
    """
    x = call.first
    wanted = torch_type(dtype, f"the result of node {call.step.name!r}")
    if dtype.is_integer() and dtype.bitwidth < 8:
        first = int(dtype.min)
        return (torch.remainder(x.long() - first, 2**dtype.bitwidth) + first).to(wanted)
    x = x if x.dtype == wanted else x.to(wanted)
    if dtype == ir.DataType.FLOAT8E8M0:
        return power_of_two(x, call.text("round_mode", "up"))
    return rounded(x, dtype, bool(call.integer("saturate", 1)))


def bit_cast(call: Call) -> torch.Tensor:
    """The same bits as another type of the same size."""
    before, after = call.onnx_type(0), ir.DataType(call.integer("to", int(ir.DataType.FLOAT)))
    if before not in STORED_TYPES or after not in STORED_TYPES:
        raise call.unsupported(f"a conversion from {before.name} to {after.name}")
    bits = call.first.detach().to(STORED_TYPES[before]).view(STORED_TYPES[after])
    return bits.to(torch_type(after, f"the result of node {call.step.name!r}"))


def bit_shift(call: Call) -> torch.Tensor:
    shift = torch.bitwise_left_shift if call.text("direction", "LEFT") == "LEFT" else torch.bitwise_right_shift
    return shift(call.first, call.tensor(1))


def is_infinite(call: Call) -> torch.Tensor:
    x = call.first
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.integer("detect_positive", 1):
        found = found | torch.isposinf(x)
    return found | torch.isneginf(x) if call.integer("detect_negative", 1) else found


def image_scaler(call: Call) -> torch.Tensor:
    """An experimental operator of the first converters: x * scale + bias per channel."""
    bias = torch.tensor(call.reals("bias") or (0.0,), dtype=call.first.dtype, device=call.first.device)
    return call.first * call.real("scale", 1.0) + bias.reshape(-1, 1, 1)


def affine(call: Call) -> torch.Tensor:
    """An experimental operator of the first converters: alpha * x + beta."""
    return call.first * call.real("alpha", 1.0) + call.real("beta", 0.0)


HOST_OPERANDS: Operands = {"Clip": (1, 2), "Pow": (1,)}

RULES: dict[str, Rule] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "Affine": affine,
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitCast": bit_cast,
    "BitShift": bit_shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _unary(torch.bitwise_not),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": _unary(torch.ceil),
    "Clip": clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": divide,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "ImageScaler": image_scaler,
    "IsInf": is_infinite,
    "IsNaN": _unary(torch.isnan),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": mean,
    "Min": _variadic(torch.minimum),
    "Mod": modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": power,
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": _unary(torch.tan),
    "Where": where,
    "Xor": _binary(torch.logical_xor),
}
