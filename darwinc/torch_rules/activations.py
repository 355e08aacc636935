"""Activations: one tensor in, one of the same shape out (PRelu has a slope as well)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
import torch.nn.functional as F

from .call import Call, Rule

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class _AxisFunction(Protocol):
    def __call__(self, x: torch.Tensor, dim: int, /) -> torch.Tensor: ...


def prelu(call: Call) -> torch.Tensor:
    """max(x, 0) + slope * min(x, 0), the slope broadcast from the right."""
    x = call.first
    return torch.where(x < 0, call.tensor(1) * x, x)


def leaky_relu(call: Call) -> torch.Tensor:
    return F.leaky_relu(call.first, call.real("alpha", 0.01))


def thresholded_relu(call: Call) -> torch.Tensor:
    return F.threshold(call.first, call.real("alpha", 1.0), 0.0)


def elu(call: Call) -> torch.Tensor:
    return F.elu(call.first, call.real("alpha", 1.0))


def celu(call: Call) -> torch.Tensor:
    return F.celu(call.first, call.real("alpha", 1.0))


def selu(call: Call) -> torch.Tensor:
    alpha, gamma = call.real("alpha", 1.67326319217681884765625), call.real("gamma", 1.05070102214813232421875)
    return gamma * F.elu(call.first, alpha)


def hard_sigmoid(call: Call) -> torch.Tensor:
    return (call.first * call.real("alpha", 0.2) + call.real("beta", 0.5)).clamp(0.0, 1.0)


def swish(call: Call) -> torch.Tensor:
    return call.first * torch.sigmoid(call.first * call.real("alpha", 1.0))


def swish_gate(call: Call) -> torch.Tensor:
    """The swish of the first operand times the second."""
    return swish(call) * call.tensor(1)


def gelu(call: Call) -> torch.Tensor:
    return F.gelu(call.first, approximate=call.text("approximate", "none"))


def shrink(call: Call) -> torch.Tensor:
    """x moved towards zero by `bias` outside of [-lambd, lambd], zero inside."""
    x, limit, bias = call.first, call.real("lambd", 0.5), call.real("bias", 0.0)
    moved = x - torch.sign(x) * bias
    return torch.where(x.abs() > limit, moved, torch.zeros_like(x))


def softmax(call: Call) -> torch.Tensor:
    return _over_axis(call, F.softmax)


def log_softmax(call: Call) -> torch.Tensor:
    return _over_axis(call, F.log_softmax)


def hardmax(call: Call) -> torch.Tensor:
    return _over_axis(call, _one_at_maximum)


def _one_at_maximum(x: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.zeros_like(x).scatter_(dim, x.argmax(dim, keepdim=True), 1.0)


def _over_axis(call: Call, function: _AxisFunction) -> torch.Tensor:
    """Before opset 13 the axis split the tensor into a matrix, whose rows were normalized."""
    x = call.first
    if call.opset >= 13:
        return function(x, call.integer("axis", -1))
    axis = call.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


class Named(NamedTuple):
    """An activation that another operator names in an attribute: the defaults of its parameters, and the function."""

    defaults: tuple[float, ...]
    function: Callable[..., torch.Tensor]


NAMED: dict[str, Named] = {
    "Affine": Named((1.0, 0.0), lambda x, alpha, beta: alpha * x + beta),
    "Clip": Named((-math.inf, math.inf), torch.clamp),
    "Elu": Named((1.0,), F.elu),
    "HardSigmoid": Named((0.2, 0.5), lambda x, alpha, beta: (alpha * x + beta).clamp(0.0, 1.0)),
    "LeakyRelu": Named((0.01,), F.leaky_relu),
    "Relu": Named((), F.relu),
    "ScaledTanh": Named((1.0, 1.0), lambda x, alpha, beta: alpha * torch.tanh(beta * x)),
    "Sigmoid": Named((), torch.sigmoid),
    "Softplus": Named((), F.softplus),
    "Softsign": Named((), F.softsign),
    "Tanh": Named((), torch.tanh),
    "ThresholdedRelu": Named((1.0,), lambda x, alpha: F.threshold(x, alpha, 0.0)),
}


def named(call: Call, name: str, parameters: Sequence[float]) -> Activation:
    """The activation of this name with these parameters, as far as they are given.

    Raises:
        UnsupportedOperator: there is none of this name.
    """
    found = NAMED.get(name)
    if found is None:
        raise call.unsupported(f"the activation {name}")
    values = (*parameters, *found.defaults[len(parameters) :])
    return lambda x: found.function(x, *values)


RULES: dict[str, Rule] = {
    "Relu": lambda call: F.relu(call.first),
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "ThresholdedRelu": thresholded_relu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Sigmoid": lambda call: torch.sigmoid(call.first),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": lambda call: F.hardswish(call.first),
    "Swish": swish,
    "SwiGLU": swish_gate,
    "Tanh": lambda call: torch.tanh(call.first),
    "Gelu": gelu,
    "Mish": lambda call: F.mish(call.first),
    "Softplus": lambda call: torch.logaddexp(call.first, call.first.new_zeros(())),
    "Softsign": lambda call: F.softsign(call.first),
    "Shrink": shrink,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "Hardmax": hardmax,
}
