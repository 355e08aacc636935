"""Operators that make a tensor from a shape or from numbers.

Sizes stay in host memory, so that reading them never waits for a device.
"""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from .call import Call, Operands, Rule


def shape(call: Call) -> torch.Tensor:
    """The sizes from `start` to `end` (opset 15)."""
    sizes = list(call.first.shape)
    end = call.integer("end", len(sizes))
    return torch.tensor(sizes[call.integer("start", 0) : end], dtype=torch.int64)


def size(call: Call) -> torch.Tensor:
    return torch.tensor(call.first.numel(), dtype=torch.int64)


def constant_of_shape(call: Call) -> torch.Tensor:
    """One value, by default a float 0, everywhere."""
    value = call.attributes.get("value")
    if not isinstance(value, torch.Tensor):
        return torch.zeros(call.integers(0), device=call.device)
    target = call.device if value.is_floating_point() else value.device
    return value.reshape(()).to(target).expand(call.integers(0))


def range_(call: Call) -> torch.Tensor:
    """start, start + delta, ... up to limit, which is left out."""
    start, limit = call.numbers(0)[0], call.numbers(1)[0]
    # ONNX Runtime's own Range may leave delta out.
    delta = call.numbers(2)[0] if call.has(2) else 1
    count = max(0, math.ceil((limit - start) / delta))
    return torch.arange(count).to(call.first.dtype) * delta + start


def eye_like(call: Call) -> torch.Tensor:
    x = call.first
    dtype = call.data_type("dtype", ir.DataType.FLOAT) if "dtype" in call.attributes else x.dtype
    offset = call.integer("k", 0)
    return torch.triu(torch.tril(torch.ones(x.shape, dtype=dtype, device=x.device), offset), offset)


HOST_OPERANDS: Operands = {"ConstantOfShape": (0,), "Range": (0, 1, 2)}

RULES: dict[str, Rule] = {
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "EyeLike": eye_like,
}
