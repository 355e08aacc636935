"""Reductions over axes, which were an attribute and became an operand (ReduceSum at opset 13, the others at 18)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .call import Call, Operands, Result, Rule

Reduction = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _over_axes(function: Reduction) -> Rule:
    """A rule that finds the axes and whether they stay as ones."""

    def rule(call: Call) -> torch.Tensor:
        x = call.first
        axes = call.integers(1) if call.has(1) else call.listed("axes")
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return _elementwise(function, x)
            axes = tuple(range(x.ndim))
        return function(x, axes, bool(call.integer("keepdims", 1)))

    return rule


def _elementwise(function: Reduction, x: torch.Tensor) -> torch.Tensor:
    """With no axes each element is a group of its own: sums of squares still square."""
    return function(x.unsqueeze(-1), (-1,), False)


def _product(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _integer_safe(function: Reduction) -> Reduction:
    """Sums keep integer types, where torch widens them."""
    return lambda x, axes, keep: function(x, axes, keep).to(x.dtype)


def _mean(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.mean(x if x.is_floating_point() else x.double(), axes, keepdim=keep)


def _maximum(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    """Of nothing, the lowest value of the type."""
    return torch.amax(_filled(x, axes, -math.inf), axes, keepdim=keep)


def _minimum(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    """Of nothing, the highest value of the type."""
    return torch.amin(_filled(x, axes, math.inf), axes, keepdim=keep)


def _filled(x: torch.Tensor, axes: tuple[int, ...], neutral: float) -> torch.Tensor:
    """x with one neutral element along every reduced axis that has none."""
    if all(x.shape[axis] for axis in axes):
        return x
    sizes = list(x.shape)
    for axis in axes:
        sizes[axis] = max(1, sizes[axis])
    if x.dtype == torch.bool:
        return x.new_full(sizes, neutral > 0)
    if x.is_floating_point():
        return x.new_full(sizes, neutral)
    limits = torch.iinfo(x.dtype)
    return x.new_full(sizes, limits.max if neutral > 0 else limits.min)


def _sum(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.sum(x, axes, keepdim=keep)


def arg_max(call: Call) -> torch.Tensor:
    return _position(call, torch.argmax)


def arg_min(call: Call) -> torch.Tensor:
    return _position(call, torch.argmin)


def _position(call: Call, function: Callable[[torch.Tensor, int, bool], torch.Tensor]) -> torch.Tensor:
    x, axis, keep = call.first, call.integer("axis", 0), bool(call.integer("keepdims", 1))
    if call.integer("select_last_index", 0):
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
    return function(x, axis, keep)


def top_k(call: Call) -> Result:
    """Values and positions; of equal values the first wins, as in ONNX Runtime."""
    x, axis = call.first, call.integer("axis", -1)
    count = call.integers(1)[0] if call.has(1) else call.integer("k", 1)
    values, positions = torch.sort(x, dim=axis, descending=bool(call.integer("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), positions.narrow(axis, 0, count)


def _cumulative(function: Callable[..., torch.Tensor], neutral: float) -> Rule:
    """Running totals, of the elements before only where `exclusive`, from the end where `reverse`."""

    def rule(call: Call) -> torch.Tensor:
        x, axis = call.first, call.integers(1)[0]
        backwards = bool(call.integer("reverse", 0))
        x = x.flip(axis) if backwards else x
        if call.integer("exclusive", 0):
            size = x.shape[axis]
            start = torch.full_like(x.narrow(axis, 0, min(size, 1)), neutral)
            x = torch.cat([start, x.narrow(axis, 0, max(size - 1, 0))], axis)
        out = function(x, axis, dtype=x.dtype)
        return out.flip(axis) if backwards else out

    return rule


RULES: dict[str, Rule] = {
    "ReduceL1": _over_axes(_integer_safe(lambda x, axes, keep: _sum(x.abs(), axes, keep))),
    "ReduceL2": _over_axes(_integer_safe(lambda x, axes, keep: _sum(x.square(), axes, keep).sqrt())),
    "ReduceLogSum": _over_axes(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _over_axes(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceMax": _over_axes(_maximum),
    "ReduceMean": _over_axes(_integer_safe(_mean)),
    "ReduceMin": _over_axes(_minimum),
    "ReduceProd": _over_axes(_integer_safe(_product)),
    "ReduceSum": _over_axes(_integer_safe(_sum)),
    "ReduceSumSquare": _over_axes(_integer_safe(lambda x, axes, keep: _sum(x.square(), axes, keep))),
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "TopK": top_k,
    "CumSum": _cumulative(torch.cumsum, 0.0),
    "CumProd": _cumulative(torch.cumprod, 1.0),
}
HOST_OPERANDS: Operands = {name: (1,) for name in RULES if not name.startswith("Arg")}
