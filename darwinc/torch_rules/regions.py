"""Operators that read a map x [N, C, H, W] at computed places: grids, boxes, offsets.

torchvision has the kernels for boxes; it is imported where a rule runs, because that takes as long as all other rules.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .call import Call, Operands, Rule
from .windows import Window, pad_spatial

GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def grid_sample(call: Call) -> torch.Tensor:
    """x at places of the grid [N, ..., rank], which are given between -1 and 1, last axis first."""
    mode = call.text("mode", "linear")
    if call.first.ndim not in (4, 5):
        raise call.unsupported(f"{call.first.ndim - 2} spatial axes")
    align = bool(call.integer("align_corners", 0))
    return F.grid_sample(
        call.first, call.tensor(1), GRID_MODES.get(mode, mode), call.text("padding_mode", "zeros"), align
    )


def affine_grid(call: Call) -> torch.Tensor:
    """The grid of an affine map theta [N, rank, rank + 1] for an image of the size given."""
    return F.affine_grid(call.first, list(call.integers(1)), bool(call.integer("align_corners", 0)))


def roi_align(call: Call) -> torch.Tensor:
    """The mean, or the maximum, of bilinear samples in each bin of each box [R, 4]: [R, C, height, width]."""
    # Boxes were not moved by half a pixel before opset 16.
    moved = call.opset >= 16 and call.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    size = (call.integer("output_height", 1), call.integer("output_width", 1))
    ratio, scale = call.integer("sampling_ratio", 0), call.real("spatial_scale", 1.0)
    if call.text("mode", "avg") == "max":
        chosen = zip(call.tensor(1), call.integers(2), strict=True)
        return torch.stack([_greatest(call.first[sample], box * scale, size, ratio, moved) for box, sample in chosen])
    from torchvision.ops import roi_align as align

    boxes = torch.cat([call.tensor(2).to(call.tensor(1).dtype)[:, None], call.tensor(1)], 1)
    out: torch.Tensor = align(call.first, boxes, size, scale, ratio, moved)
    return out


def _greatest(x: torch.Tensor, box: torch.Tensor, size: tuple[int, int], ratio: int, moved: bool) -> torch.Tensor:
    """The greatest share of a pixel in the samples in each bin of a box [4] of the map x [C, H, W].

    The maximum is over weight times pixel, before the four neighbours of a sample are added up, as ONNX and ONNX
    Runtime have it.
    """
    start = box[:2].flip(0) - (0.5 if moved else 0.0)
    extent = (box[2:] - box[:2]).flip(0)
    extent = extent if moved else extent.clamp_min(1.0)
    low, high, weight = [], [], []
    for axis, bins in enumerate(size):
        pace = extent[axis] / bins
        count = ratio or max(1, math.ceil(float(pace.detach())))
        within = (torch.arange(bins * count, device=x.device) + 0.5) / count
        place, last = start[axis] + within * pace, x.shape[axis + 1] - 1
        inside = (place >= -1) & (place <= last + 1)
        place = place.clamp(0, last)
        low.append(place.detach().floor().long().reshape(bins, count))
        high.append((low[-1] + 1).clamp_max(last))
        beyond = place.reshape(bins, count) - low[-1]
        weight.append(torch.stack([1 - beyond, beyond]) * inside.reshape(bins, count))
    shares = []
    for row, vertical in zip((low[0], high[0]), weight[0], strict=True):
        for column, horizontal in zip((low[1], high[1]), weight[1], strict=True):
            pixels = x[:, row[:, :, None, None], column]
            shares.append(pixels * vertical[:, :, None, None] * horizontal)
    return torch.stack(shares).amax((0, 3, 5))


def max_roi_pool(call: Call) -> torch.Tensor:
    """The maximum in each bin of each box [R, 5], whose first column is the sample: [R, C, height, width]."""
    from torchvision.ops import roi_pool

    out: torch.Tensor = roi_pool(
        call.first, call.tensor(1), call.listed("pooled_shape") or (1, 1), call.real("spatial_scale", 1.0)
    )
    return out


def non_max_suppression(call: Call) -> torch.Tensor:
    """Rows (sample, class, box) of the boxes [N, B, 4] that no better one overlaps, by scores [N, classes, B]."""
    from torchvision.ops import nms

    boxes, scores = call.first, call.tensor(1)
    first, last = boxes.chunk(2, -1)
    if call.integer("center_point_box", 0):
        first, last = first - last / 2, first + last / 2
    corners = torch.cat([torch.minimum(first, last), torch.maximum(first, last)], -1)
    most, overlap = int(call.number(2, 0) or 0), call.number(3, 0.0) or 0.0
    least = call.number(4, None)
    chosen = []
    for sample in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            rated = scores[sample, kind]
            candidates = torch.arange(len(rated), device=rated.device)
            candidates = candidates if least is None else candidates[rated > least]
            kept = candidates[nms(corners[sample, candidates], rated[candidates], overlap)][:most]
            place = kept.new_tensor([sample, kind]).expand(len(kept), 2)
            chosen.append(torch.cat([place, kept[:, None]], 1))
    return torch.cat(chosen)


def deform_conv(call: Call) -> torch.Tensor:
    """A convolution whose taps are moved by offsets [N, 2 * groups * taps, H', W'] and weighed by a mask."""
    x, weight, offset = (call.tensor(position) for position in range(3))
    if weight.ndim != 4:
        raise call.unsupported(f"{weight.ndim - 2} spatial axes")
    from torchvision.ops import deform_conv2d

    window = Window.of(call, tuple(weight.shape[2:]))
    padded = pad_spatial(x, *window.pads(x.shape[2:]), 0.0)
    out: torch.Tensor = deform_conv2d(
        padded, offset, weight, call.optional(3), window.strides, (0, 0), window.dilations, call.optional(4)
    )
    return out


HOST_OPERANDS: Operands = {"AffineGrid": (1,), "RoiAlign": (2,), "NonMaxSuppression": (2, 3, 4)}

RULES: dict[str, Rule] = {
    "GridSample": grid_sample,
    "AffineGrid": affine_grid,
    "RoiAlign": roi_align,
    "MaxRoiPool": max_roi_pool,
    "NonMaxSuppression": non_max_suppression,
    "DeformConv": deform_conv,
}
