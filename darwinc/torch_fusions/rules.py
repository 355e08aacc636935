"""The rules of fused steps, and of those that write into their first operand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from darwinc.torch_rules import Call, Rule
from darwinc.torch_rules.convolution import CONVOLUTIONS

from .scene import prefixed


def convolution(call: Call) -> torch.Tensor:
    """Cross-correlation with even padding."""
    known, weight = call.attributes, call.tensor(1)
    function = CONVOLUTIONS[weight.ndim - 2]
    strides, padding, dilations, group = known["strides"], known["padding"], known["dilations"], known["group"]
    return function(call.tensors[0], weight, call.optional(2), strides, padding, dilations, group)


def linear(call: Call) -> torch.Tensor:
    """x W + bias with W [in, out], or [out, in] where it isn't `turned`; the parameter is read through a view."""
    weight = call.tensor(1)
    return F.linear(call.first, weight.t() if call.integer("turned", 0) else weight, call.tensor(2))


def attention(call: Call) -> torch.Tensor:
    """softmax(scale * q k + mask) v; torch wants k as [.., S, D] and four axes."""
    query, key, value, mask = call.first, call.tensor(1).transpose(-1, -2), call.tensor(2), call.optional(3)
    if mask is not None:
        mask = mask.expand(*query.shape[:-1], key.shape[-2])
    scale = call.real("scale", 1.0)
    if query.ndim == 4:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    mask = mask if mask is None else mask.unsqueeze(0)
    query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale).squeeze(0)


def layer_normalization(call: Call) -> torch.Tensor:
    """Over the last `axes` axes."""
    x = call.first
    normal = x.shape[x.ndim - call.integer("axes", 1) :]
    return F.layer_norm(x, normal, call.tensor(1), call.tensor(2), call.real("epsilon", 1e-5))


def gelu(call: Call) -> torch.Tensor:
    return F.gelu(call.first, approximate=call.text("approximate", "none"))


def hard_tanh(call: Call) -> torch.Tensor:
    return F.hardtanh(call.first, call.real("low", -1.0), call.real("high", 1.0))


def hard_tanh_into(call: Call) -> torch.Tensor:
    return F.hardtanh(call.first, call.real("low", -1.0), call.real("high", 1.0), inplace=True)


def add_into(call: Call) -> torch.Tensor:
    """The sum in the first operand's memory, unless it is of a wider type than that, as autocast has it."""
    first, second = call.first, call.tensor(1)
    return first.add_(second) if first.dtype == second.dtype else first + second


def _of(function: Callable[..., torch.Tensor], *, inplace: bool = False) -> Rule:
    if inplace:
        return lambda call: function(call.first, inplace=True)
    return lambda call: function(call.first)


FUSED_RULES: dict[str, Rule] = {
    prefixed("Conv"): convolution,
    prefixed("Linear"): linear,
    prefixed("Attention"): attention,
    prefixed("LayerNormalization"): layer_normalization,
    prefixed("Silu"): _of(F.silu),
    prefixed("HardSwish"): _of(F.hardswish),
    prefixed("HardSigmoid"): _of(F.hardsigmoid),
    prefixed("Mish"): _of(F.mish),
    prefixed("Gelu"): gelu,
    prefixed("HardTanh"): hard_tanh,
    prefixed("HardTanhInto"): hard_tanh_into,
    prefixed("ReluInto"): _of(F.relu, inplace=True),
    prefixed("AddInto"): add_into,
}

INTO = {
    "Relu": prefixed("ReluInto"),
    prefixed("HardTanh"): prefixed("HardTanhInto"),
    "Add": prefixed("AddInto"),
}
"""The variant of an operator that writes into its first operand."""

COMMUTATIVE = frozenset(("Add",))
