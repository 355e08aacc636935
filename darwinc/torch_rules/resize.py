"""Resize and Upsample: torch's interpolation where it is exactly the same, a matrix per axis elsewhere.

Coordinate rules and cubic kernel are those of the ONNX specification (Keys, 1981, with coefficient `cubic_coeff_a`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .call import Call, Operands, Rule

Vector = npt.NDArray[np.float64]

TORCH_MODES = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}


@dataclass(frozen=True)
class Axis:
    """How one axis is resampled: sizes in elements, `scale` = output / input, `crop` the region to read."""

    before: int
    after: int
    scale: float
    crop: tuple[float, float]


@dataclass(frozen=True)
class Sampling:
    """The attributes that say where an output element reads and how it weighs what it reads."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


def resize(call: Call) -> torch.Tensor:
    """x resampled along the axes whose size or scale says so."""
    x = call.first
    axes = tuple(axis % x.ndim for axis in call.listed("axes") or range(x.ndim))
    modern = call.opset >= 11
    scales = call.numbers(2 if modern else 1) if call.has(2 if modern else 1) else call.reals("scales") or ()
    sizes = call.integers(3) if call.has(3) else ()
    crop = call.numbers(1) if modern and call.has(1) else ()
    sampling = Sampling(
        call.text("mode", "nearest"),
        call.text("coordinate_transformation_mode", "half_pixel" if modern else "asymmetric"),
        call.text("nearest_mode", "round_prefer_floor" if modern else "simple"),
        call.real("cubic_coeff_a", -0.75),
        bool(call.integer("exclude_outside", 0)),
        bool(call.integer("antialias", 0)),
        call.real("extrapolation_value", 0.0),
    )
    plan = _plan(x.shape, axes, scales, sizes, call.text("keep_aspect_ratio_policy", "stretch"))
    whole = sampling.coordinates == "tf_crop_and_resize"
    regions = [(crop[i], crop[i + len(axes)]) if whole else (0.0, 1.0) for i in range(len(axes))]
    moved = {
        axis: Axis(x.shape[axis], after, scale, region)
        for axis, (after, scale), region in zip(axes, plan, regions, strict=True)
        if after != x.shape[axis] or scale != 1.0 or region != (0.0, 1.0)
    }
    return _resample(x, moved, sampling)


def _plan(
    shape: torch.Size, axes: tuple[int, ...], scales: tuple[float, ...], sizes: tuple[int, ...], policy: str
) -> list[tuple[int, float]]:
    """The new size and the scale of each axis."""
    before = [shape[axis] for axis in axes]
    if not sizes:
        return [(math.floor(size * scale), scale) for size, scale in zip(before, scales, strict=True)]
    ratios = [after / size for after, size in zip(sizes, before, strict=True)]
    if policy == "stretch":
        return list(zip(sizes, ratios, strict=True))
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [(math.floor(ratio * size + 0.5), ratio) for size in before]


def _resample(x: torch.Tensor, moved: dict[int, Axis], sampling: Sampling) -> torch.Tensor:
    if not moved:
        return x
    if sampling.mode == "nearest":
        return _nearest(x, moved, sampling)
    native = _native_mode(x, moved, sampling)
    if native is not None:
        # align_corners maps corner to corner; otherwise pixels are areas, which is half_pixel.
        size = [moved[axis].after if axis in moved else x.shape[axis] for axis in range(2, x.ndim)]
        return F.interpolate(x, size, mode=native, align_corners=sampling.coordinates == "align_corners")
    outside = torch.zeros((), dtype=torch.bool, device=x.device)
    for axis, change in moved.items():
        matrix = torch.from_numpy(weights_along(change, sampling)).to(x)
        x = torch.tensordot(x, matrix, ([axis], [1])).movedim(-1, axis)
        if sampling.coordinates == "tf_crop_and_resize":
            beyond = torch.from_numpy(_beyond(change)).to(x.device)
            outside = outside | beyond.reshape([-1 if position == axis else 1 for position in range(x.ndim)])
    return torch.where(outside, sampling.extrapolation, x) if outside.ndim else x


def _nearest(x: torch.Tensor, moved: dict[int, Axis], sampling: Sampling) -> torch.Tensor:
    for axis, change in moved.items():
        factor = change.after // change.before
        if change.after == factor * change.before and change.scale == factor and _repeats(sampling):
            continue
        x = x.index_select(axis, torch.from_numpy(nearest_along(change, sampling)).to(x.device))
    whole = {axis: change.after // x.shape[axis] for axis, change in moved.items() if x.shape[axis] != change.after}
    if not whole:
        return x
    if x.ndim in (3, 4, 5) and min(whole) >= 2 and x.is_floating_point():
        return F.interpolate(x, [x.shape[axis] * whole.get(axis, 1) for axis in range(2, x.ndim)], mode="nearest")
    for axis, factor in whole.items():
        x = x.repeat_interleave(factor, axis)
    return x


def _repeats(sampling: Sampling) -> bool:
    """With a whole factor, does each element just repeat?"""
    if sampling.coordinates == "asymmetric":
        return sampling.nearest in ("floor", "simple")
    return sampling.coordinates == "half_pixel" and sampling.nearest == "round_prefer_floor"


def _native_mode(x: torch.Tensor, moved: dict[int, Axis], sampling: Sampling) -> str | None:
    """The torch mode that gives the same numbers, if there is one."""
    if sampling.antialias or sampling.exclude_outside or min(moved) < 2:
        return None
    if sampling.mode == "cubic" and sampling.cubic != -0.75:
        return None
    exact = all(change.after == change.before * change.scale for change in moved.values())
    if sampling.coordinates == "pytorch_half_pixel":
        exact = exact and all(change.after > 1 for change in moved.values())
    elif sampling.coordinates not in ("half_pixel", "align_corners"):
        return None
    return TORCH_MODES.get((sampling.mode, x.ndim - 2)) if exact else None


def source_positions(change: Axis, coordinates: str) -> Vector:
    """Where each output element lies on the input axis [after], in input elements.

    Single precision, as ONNX Runtime computes it: a tie between two neighbours must fall the same way.
    """
    index = np.arange(change.after, dtype=np.float32)
    before, after, scale = np.float32(change.before), np.float32(change.after), np.float32(change.scale)
    half = np.float32(0.5)
    if coordinates == "asymmetric":
        found = index / scale
    elif coordinates == "align_corners":
        found = index * (before - 1) / (after - 1) if change.after > 1 else np.zeros_like(index)
    elif coordinates == "tf_half_pixel_for_nn":
        found = (index + half) / scale
    elif coordinates == "tf_crop_and_resize":
        start, end = np.float32(change.crop[0]), np.float32(change.crop[1])
        step = (end - start) * (before - 1) / (after - 1) if change.after > 1 else np.float32(0)
        found = start * (before - 1) + index * step if change.after > 1 else half * (start + end) * (before - 1) + index
    elif coordinates == "half_pixel_symmetric":
        adjusted = after / (scale * before)
        found = before / 2 * (1 - adjusted) + (index + half) / scale - half
    elif coordinates == "pytorch_half_pixel" and change.after == 1:
        found = np.zeros_like(index)
    else:
        found = (index + half) / scale - half
    return np.asarray(found, np.float64)


@lru_cache(maxsize=256)
def nearest_along(change: Axis, sampling: Sampling) -> npt.NDArray[np.int64]:
    """The input element that each output element copies [after]."""
    position = source_positions(change, sampling.coordinates)
    rounding = sampling.nearest
    if rounding == "floor":
        chosen = np.floor(position)
    elif rounding == "ceil":
        chosen = np.ceil(position)
    elif rounding == "simple":
        chosen = np.ceil(position) if change.scale < 1 else np.trunc(position)
    elif rounding == "round_prefer_ceil":
        chosen = np.floor(position + 0.5)
    else:
        chosen = np.ceil(position - 0.5)
    return np.clip(chosen, 0, change.before - 1).astype(np.int64)


@lru_cache(maxsize=256)
def weights_along(change: Axis, sampling: Sampling) -> Vector:
    """What each output element takes of each input element [after, before]; rows sum to one."""
    position = source_positions(change, sampling.coordinates)
    shrink = min(1.0, change.scale) if sampling.antialias else 1.0
    reach = math.ceil((1 if sampling.mode == "linear" else 2) / shrink)
    taps = np.floor(position)[:, None] + np.arange(1 - reach, reach + 1)[None, :]
    distance = np.abs(position[:, None] - taps) * shrink
    weight = _linear(distance) if sampling.mode == "linear" else _cubic(distance, sampling.cubic)
    if sampling.exclude_outside:
        weight = np.where((taps < 0) | (taps > change.before - 1), 0.0, weight)
    weight = weight / weight.sum(1, keepdims=True)
    matrix = np.zeros((change.after, change.before))
    columns = np.clip(taps, 0, change.before - 1).astype(np.int64)
    np.add.at(matrix, (np.arange(change.after)[:, None], columns), weight)
    return matrix


def _linear(distance: Vector) -> Vector:
    return np.maximum(0.0, 1.0 - distance)


def _cubic(distance: Vector, a: float) -> Vector:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _beyond(change: Axis) -> npt.NDArray[np.bool_]:
    """Which output elements of tf_crop_and_resize fall outside of the input [after]."""
    position = source_positions(change, "tf_crop_and_resize")
    return (position < 0) | (position > change.before - 1)


HOST_OPERANDS: Operands = {"Resize": (1, 2, 3), "Upsample": (1,)}

RULES: dict[str, Rule] = {"Resize": resize, "Upsample": resize}
