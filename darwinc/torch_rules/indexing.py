"""Operators that pick or place elements by position. Negative positions count from the end."""

from __future__ import annotations

import math

import torch

from .call import Call, Operands, Result, Rule

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(call: Call) -> torch.Tensor:
    """Whole slices along one axis; a constant scalar position is a view."""
    x, indices = call.first, call.tensor(1)
    axis = call.integer("axis", 0) % x.ndim
    literal = call.step.literals.get(1)
    if literal is not None and indices.ndim == 0:
        return x.select(axis, int(literal[0]))
    if literal is None or min(literal, default=0) < 0:
        indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1).to(x.device))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(call: Call) -> torch.Tensor:
    x, axis = call.first, call.integer("axis", 0)
    return torch.gather(x, axis, _positive(call.tensor(1), x.shape[axis]))


def gather_nd(call: Call) -> torch.Tensor:
    """indices [..., K] pick slices of x by their first K axes (after the batch axes)."""
    x, indices, batch = call.first, call.tensor(1).long(), call.integer("batch_dims", 0)
    rank = indices.ndim - 1
    grids = [
        torch.arange(x.shape[axis], device=x.device).reshape(-1, *(1,) * (rank - 1 - axis)) for axis in range(batch)
    ]
    return x[(*grids, *indices.unbind(-1))]


def scatter_elements(call: Call) -> torch.Tensor:
    x, updates, axis = call.first, call.tensor(2), call.integer("axis", 0)
    indices = _positive(call.tensor(1), x.shape[axis])
    reduction = call.text("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, REDUCTIONS[reduction])


def scatter_nd(call: Call) -> torch.Tensor:
    """updates replace, or are combined with, the slices of x that indices [..., K] name."""
    x, indices, updates = call.first, call.tensor(1).long(), call.tensor(2)
    reduction = call.text("reduction", "none")
    places = tuple(indices.unbind(-1))
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    depth = indices.shape[-1]
    rows = x.reshape(math.prod(x.shape[:depth]), -1)
    flat = _rows(places, tuple(x.shape)).expand(-1, rows.shape[1])
    combined = rows.scatter_reduce(0, flat, updates.reshape(flat.shape), REDUCTIONS[reduction])
    return combined.reshape(x.shape)


def _rows(places: tuple[torch.Tensor, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """Positions on several leading axes as positions on their product [count, 1]."""
    flat = torch.zeros_like(places[0])
    for place, length in zip(places, shape, strict=False):
        flat = flat * length + _positive(place, length)
    return flat.reshape(-1, 1)


def _positive(indices: torch.Tensor, size: int) -> torch.Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def compress(call: Call) -> torch.Tensor:
    """The slices, or without an axis the elements, whose condition holds."""
    x, condition, axis = call.first, call.tensor(1), call.attributes.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, call.integer("axis", 0))
    return x.index_select(axis, condition.nonzero().reshape(-1))


def non_zero(call: Call) -> torch.Tensor:
    """Positions [rank, count]."""
    return call.first.nonzero().t()


def one_hot(call: Call) -> torch.Tensor:
    """A new axis of length `depth`; positions out of range give a row of off values."""
    indices, depth, values = call.first, int(call.numbers(1)[0]), call.tensor(2)
    axis = call.integer("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    indices = _positive(indices, depth).unsqueeze(axis)
    shape = [1] * indices.ndim
    shape[axis] = depth
    hit = indices == torch.arange(depth, device=indices.device).reshape(shape)
    return torch.where(hit, values[1], values[0])


def triangle(call: Call) -> torch.Tensor:
    keep = torch.triu if call.integer("upper", 1) else torch.tril
    return keep(call.first, call.integers(1)[0] if call.has(1) else 0)


def reverse_sequence(call: Call) -> torch.Tensor:
    """The first lengths[b] steps of each batch entry in reverse order."""
    x, lengths = call.first, call.tensor(1)
    batch, time = call.integer("batch_axis", 1), call.integer("time_axis", 0)
    steps = torch.arange(x.shape[time], device=x.device)
    order = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    order = order if batch < time else order.t()
    order = order.reshape(*order.shape, *(1,) * (x.ndim - 2)).expand(*order.shape, *x.shape[2:])
    return torch.gather(x, time, order)


def tensor_scatter(call: Call) -> torch.Tensor:
    """A cache [N, ...] with updates written along one axis, from a place of its own in each sample."""
    cache, update, start = call.first, call.tensor(1), call.optional(2)
    axis = call.integer("axis", -2) % cache.ndim
    places = torch.arange(update.shape[axis], device=update.device)
    places = places if start is None else places + start[:, None]
    if call.text("mode", "linear") == "circular":
        places = places % cache.shape[axis]
    shape = [1] * cache.ndim
    shape[0], shape[axis] = places.shape[0] if places.ndim > 1 else 1, update.shape[axis]
    return cache.scatter(axis, places.reshape(shape).expand_as(update), update)


def unique(call: Call) -> Result:
    """Distinct values (or slices), where each is met first, which one each element is, and how often it is met."""
    x, axis = call.first, call.attributes.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, call.integer("axis", 0))
    _, which, counts = torch.unique(x.detach(), return_inverse=True, return_counts=True, dim=axis)
    places = torch.arange(len(which), device=x.device)
    first = torch.full_like(counts, len(which)).scatter_reduce(0, which, places, "amin")
    if not call.integer("sorted", 1):
        order = first.argsort()
        first, counts = first[order], counts[order]
        which = order.argsort()[which]
    return x.index_select(axis, first), first, which, counts


HOST_OPERANDS: Operands = {"Gather": (1,), "OneHot": (1,), "Trilu": (1,)}

RULES: dict[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Compress": compress,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "Trilu": triangle,
    "ReverseSequence": reverse_sequence,
    "TensorScatter": tensor_scatter,
    "Unique": unique,
}
