"""Windowed and global pooling over the spatial axes of x [N, C, *spatial]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .call import Call, Operands, Result, Rule
from .convolution import CONVOLUTIONS
from .windows import Window, pad_spatial

MAXIMA: dict[int, Callable[..., torch.Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MAXIMA_WITH_INDICES: dict[int, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}
AVERAGES: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(call: Call) -> Window:
    kernel = call.listed("kernel_shape") or ()
    if len(kernel) not in MAXIMA:
        raise call.unsupported(f"{len(kernel)} spatial axes")
    return Window.of(call, kernel)


def _pads(call: Call, window: Window, x: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Padding before and after, and the overhang of ceil_mode."""
    begins, ends = window.pads(x.shape[2:])
    none = (0,) * len(window.kernel)
    return begins, ends, window.overhang(x.shape[2:], begins, ends) if call.integer("ceil_mode", 0) else none


def _native(window: Window, begins: tuple[int, ...], ends: tuple[int, ...], more: tuple[int, ...]) -> bool:
    """Does torch know this padding (even, and at most half a kernel)?"""
    if begins != ends or any(more):
        return False
    return all(2 * begin <= size for begin, size in zip(begins, window.kernel, strict=True))


def max_pool(call: Call) -> Result:
    """The maximum of each window; padding never wins."""
    x, window = call.first, _window(call)
    begins, ends, more = _pads(call, window, x)
    kept = begins
    padded = x
    if not _native(window, begins, ends, more):
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        padded = pad_spatial(x, begins, [end + extra for end, extra in zip(ends, more, strict=True)], lowest)
        kept = (0,) * len(window.kernel)
    rank = len(window.kernel)
    if len(call.step.outputs) == 1:
        return MAXIMA[rank](padded, window.kernel, window.strides, kept, window.dilations)
    values, indices = MAXIMA_WITH_INDICES[rank](padded, window.kernel, window.strides, kept, window.dilations)
    moved = begins if padded is not x else (0,) * rank
    return values, _flat_indices(indices, tuple(padded.shape), tuple(x.shape), moved, call.integer("storage_order", 0))


def _flat_indices(
    indices: torch.Tensor, padded: tuple[int, ...], shape: tuple[int, ...], begins: tuple[int, ...], column_major: int
) -> torch.Tensor:
    """Torch's indices into one padded plane, as ONNX's indices into the whole unpadded tensor."""
    coordinates = []
    for size, begin in zip(reversed(padded[2:]), reversed(begins), strict=True):
        coordinates.append(indices % size - begin)
        indices = indices // size
    sizes = list(reversed(shape[2:]))
    if column_major:
        coordinates.reverse()
        sizes.reverse()
    flat, pace = torch.zeros_like(indices), 1
    for coordinate, size in zip(coordinates, sizes, strict=True):
        flat = flat + coordinate * pace
        pace *= size
    planes = torch.arange(shape[0] * shape[1], device=flat.device) * pace
    return flat + planes.reshape(shape[0], shape[1], *(1,) * len(sizes))


def max_unpool(call: Call) -> torch.Tensor:
    """Zeros, but for the maxima, at the flat positions that MaxPool gave."""
    x, window = call.first, _window(call)
    begins, ends = window.explicit
    shape = list(x.shape[:2]) + [
        stride * (size - 1) + kernel - begin - end
        for size, stride, kernel, begin, end in zip(
            x.shape[2:], window.strides, window.kernel, begins, ends, strict=True
        )
    ]
    shape = list(call.integers_or(2, tuple(shape)) or ())
    empty = x.new_zeros(math.prod(shape))
    return empty.scatter(0, call.tensor(1).reshape(-1), x.reshape(-1)).reshape(shape)


def average_pool(call: Call) -> torch.Tensor:
    """The mean of each window, over what `count_include_pad` says."""
    x, window = call.first, _window(call)
    begins, ends, more = _pads(call, window, x)
    include = bool(call.integer("count_include_pad", 0))
    rank = len(window.kernel)
    if _native(window, begins, ends, more) and set(window.dilations) == {1}:
        return AVERAGES[rank](x, window.kernel, window.strides, begins, False, include)
    after = [end + extra for end, extra in zip(ends, more, strict=True)]
    total = _window_sum(pad_spatial(x, begins, after, 0.0), window)
    counted = x.new_ones(1, 1, *x.shape[2:])
    if include:
        counted = pad_spatial(pad_spatial(counted, begins, ends, 1.0), (0,) * rank, more, 0.0)
    else:
        counted = pad_spatial(counted, begins, after, 0.0)
    return total / _window_sum(counted, window)


def _window_sum(x: torch.Tensor, window: Window) -> torch.Tensor:
    rank = len(window.kernel)
    if set(window.dilations) == {1}:
        return AVERAGES[rank](x, window.kernel, window.strides) * math.prod(window.kernel)
    planes = x.reshape(-1, 1, *x.shape[2:])
    summed = CONVOLUTIONS[rank](planes, x.new_ones(1, 1, *window.kernel), None, window.strides, 0, window.dilations)
    return summed.reshape(*x.shape[:2], *summed.shape[2:])


def lp_pool(call: Call) -> torch.Tensor:
    """The p-norm of each window."""
    x, window = call.first, _window(call)
    begins, ends, more = _pads(call, window, x)
    power = call.integer("p", 2)
    after = [end + extra for end, extra in zip(ends, more, strict=True)]
    return _window_sum(pad_spatial(x.abs().pow(power), begins, after, 0.0), window).pow(1.0 / power)


def _spatial(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def global_average_pool(call: Call) -> torch.Tensor:
    """[N, C, *spatial] to [N, C, 1, ...]."""
    return call.first.mean(_spatial(call.first), keepdim=True)


def global_max_pool(call: Call) -> torch.Tensor:
    """[N, C, *spatial] to [N, C, 1, ...]."""
    return call.first.amax(_spatial(call.first), keepdim=True)


def global_lp_pool(call: Call) -> torch.Tensor:
    """[N, C, *spatial] to [N, C, 1, ...]."""
    power = call.integer("p", 2)
    return call.first.abs().pow(power).sum(_spatial(call.first), keepdim=True).pow(1.0 / power)


HOST_OPERANDS: Operands = {"MaxUnpool": (2,)}

RULES: dict[str, Rule] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "GlobalLpPool": global_lp_pool,
    "MaxUnpool": max_unpool,
}
