"""Operators that move elements and compute nothing: reshape, transpose, join, cut, pad."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .call import Call, Operands, Result, Rule
from .windows import Window, pad_spatial

PAD_MODES = ("edge", "reflect", "wrap")


def reshape(call: Call) -> torch.Tensor:
    """A 0 copies the input's size, unless `allowzero`; a -1 takes what is left."""
    x = call.first
    shape = call.integers(1) if call.has(1) else call.listed("shape") or ()
    if 0 in shape and not call.integer("allowzero", 0):
        shape = tuple(x.shape[axis] if size == 0 else size for axis, size in enumerate(shape))
    return x.reshape(shape)


def flatten(call: Call) -> torch.Tensor:
    """[A, B, C, ...] to a matrix, split at `axis`."""
    x, axis = call.first, call.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(call: Call) -> torch.Tensor:
    axes = call.integers(1) if call.has(1) else call.listed("axes")
    return call.first.squeeze() if axes is None else call.first.squeeze(axes)


def unsqueeze(call: Call) -> torch.Tensor:
    """Axes count in the result."""
    x = call.first
    axes = call.integers(1) if call.has(1) else call.listed("axes") or ()
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def transpose(call: Call) -> torch.Tensor:
    """By default the axes in reverse order."""
    x = call.first
    return x.permute(call.listed("perm") or tuple(range(x.ndim - 1, -1, -1)))


def concat(call: Call) -> torch.Tensor:
    return torch.cat([tensor for tensor in call.tensors if tensor is not None], call.integer("axis", 1))


def split(call: Call) -> Result:
    """Into the sizes given, or into equal parts of which the last may be smaller (opset 18)."""
    x, axis = call.first, call.integer("axis", 0)
    sizes = call.integers(1) if call.has(1) else call.listed("split")
    if sizes is not None:
        return torch.split(x, list(sizes), axis)
    parts = call.integer("num_outputs", len(call.step.outputs))
    return torch.split(x, -(-x.shape[axis] // parts), axis)


def slice_(call: Call) -> torch.Tensor:
    """Bounds were attributes before opset 10; negative steps run backwards."""
    x = call.first
    as_operands = call.opset >= 10
    starts = call.integers(1) if as_operands else call.listed("starts") or ()
    ends = call.integers(2) if as_operands else call.listed("ends") or ()
    axes = call.integers_or(3, None) if as_operands else call.listed("axes")
    steps = call.integers_or(4, None) if as_operands else None
    axes = axes or tuple(range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(starts), strict=True):
        x = _cut(x, axis % x.ndim, start, end, step)
    return x


def _cut(x: torch.Tensor, axis: int, start: int, end: int, step: int) -> torch.Tensor:
    size = x.shape[axis]
    if step > 0:
        first, last, _ = slice(start, end, step).indices(size)
        return x[(slice(None),) * axis + (slice(first, max(first, last), step),)]
    # ONNX has no None: an end below -size means "to the first element, included".
    first = max(0, min(start + size if start < 0 else start, size - 1))
    last = max(end + size if end < 0 else end, -1)
    count = max(0, -(-(first - last) // -step)) if size else 0
    low = first + step * (count - 1)
    return x[(slice(None),) * axis + (slice(low, first + 1, -step),)].flip(axis) if count else x.narrow(axis, 0, 0)


def pad(call: Call) -> torch.Tensor:
    """Amounts and value were attributes before opset 11; negative amounts crop."""
    x, mode = call.first, call.text("mode", "constant")
    amounts = call.integers(1) if call.opset >= 11 else call.listed("pads") or ()
    axes = call.integers_or(3, None) or tuple(range(x.ndim))
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(axes):
        begins[axis % x.ndim] = amounts[position]
        ends[axis % x.ndim] = amounts[position + len(axes)]
    if mode == "constant":
        value = call.number(2, 0.0) if call.opset >= 11 else call.real("value", 0.0)
        flat = [amount for axis in range(x.ndim - 1, -1, -1) for amount in (begins[axis], ends[axis])]
        return F.pad(x, flat, value=value)
    if mode not in PAD_MODES:
        raise call.unsupported(f"the mode {mode!r}")
    return _pad_by_gathering(x, begins, ends, mode)


def _pad_by_gathering(x: torch.Tensor, begins: list[int], ends: list[int], mode: str) -> torch.Tensor:
    """Any axes, any rank: torch's own modes know only the last few axes."""
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            size = x.shape[axis]
            source = torch.arange(-begin, size + end, device=x.device)
            if mode == "edge":
                source = source.clamp(0, size - 1)
            elif mode == "wrap":
                source = source % size
            else:
                period = max(1, 2 * (size - 1))
                source = source % period
                source = torch.minimum(source, period - source)
            x = x.index_select(axis, source)
    return x


def expand(call: Call) -> torch.Tensor:
    """Broadcasting in both directions: a 1 in the shape keeps the input's size."""
    x, shape = call.first, call.integers(1)
    missing = max(0, x.ndim - len(shape))
    sizes = (*(1,) * missing, *shape)
    kept = (*(1,) * (len(sizes) - x.ndim), *x.shape)
    return x.expand([old if new == 1 else new for old, new in zip(kept, sizes, strict=True)])


def tile(call: Call) -> torch.Tensor:
    return call.first.repeat(call.integers(1))


def depth_to_space(call: Call) -> torch.Tensor:
    """[N, C, H, W] to [N, C / b^2, H b, W b]; DCR takes the block from the outer channels, CRD from the inner ones."""
    x, block = call.first, call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    samples, channels, height, width = x.shape
    blocks = x.reshape(samples, block, block, channels // block**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(samples, channels // block**2, height * block, width * block)


def space_to_depth(call: Call) -> torch.Tensor:
    """[N, C, H, W] to [N, C b^2, H / b, W / b]; DCR makes the block the outer channels, CRD the inner ones."""
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(call.first, call.integer("blocksize", 1))
    x, block = call.first, call.integer("blocksize", 1)
    samples, channels, height, width = x.shape
    blocks = x.reshape(samples, channels, height // block, block, width // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(samples, channels * block**2, height // block, width // block)


def center_crop_pad(call: Call) -> torch.Tensor:
    """Cut or pad with zeros at both ends of each axis; an odd element goes to the end."""
    x, wanted = call.first, call.integers(1)
    axes = call.listed("axes") or tuple(range(x.ndim))
    amounts = [0] * (2 * x.ndim)
    for axis, size in zip(axes, wanted, strict=True):
        missing = size - x.shape[axis]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        # F.pad wants the last axis first.
        place = 2 * (x.ndim - 1 - axis % x.ndim)
        amounts[place : place + 2] = before, missing - before
    return F.pad(x, amounts)


def col2im(call: Call) -> torch.Tensor:
    """The sum of overlapping blocks [N, C * taps, blocks] in an image [N, C, *spatial]."""
    x, image, block = call.first, call.integers(1), call.integers(2)
    window = Window.of(call, block)
    begins, ends = window.pads(image)
    whole = tuple(size + begin + end for size, begin, end in zip(image, begins, ends, strict=True))
    places = torch.arange(math.prod(whole), device=x.device).reshape(whole)
    for axis, (reach, stride, pace) in enumerate(zip(window.extents, window.strides, window.dilations, strict=True)):
        places = places.unfold(axis, reach, stride)[..., ::pace]
    # Now [*blocks, *taps]; the operand has the taps first.
    places = places.reshape(-1, math.prod(block)).t().reshape(-1)
    taps = x.reshape(x.shape[0], -1, len(places))
    out = x.new_zeros(*taps.shape[:2], math.prod(whole)).index_add(2, places, taps).reshape(*taps.shape[:2], *whole)
    return pad_spatial(out, [-begin for begin in begins], [-end for end in ends], 0.0)


def crop(call: Call) -> torch.Tensor:
    """An experimental operator of the first converters.

    Borders (left, top, right, bottom) are cut off, or `scale` says how much stays.
    """
    left, top, right, bottom = call.listed("border") or (0, 0, 0, 0)
    scale = call.listed("scale")
    height, width = call.first.shape[-2:]
    bottom, right = (height - bottom, width - right) if scale is None else (top + scale[0], left + scale[1])
    return call.first[..., top:bottom, left:right]


def identity(call: Call) -> torch.Tensor:
    return call.first


def dropout(call: Call) -> Result:
    """Inference drops nothing, and neither does a ratio of 0; the mask says so."""
    if call.has(2) and call.integers(2)[0] and call.number(1, 0.5) != 0.0:
        raise call.unsupported("training_mode")
    if len(call.step.outputs) == 1:
        return call.first
    return call.first, torch.ones_like(call.first, dtype=torch.bool)


HOST_OPERANDS: Operands = {
    "Reshape": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Split": (1,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 2, 3),
    "Expand": (1,),
    "Tile": (1,),
    "Dropout": (1, 2),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
}

RULES: dict[str, Rule] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "CenterCropPad": center_crop_pad,
    "Col2Im": col2im,
    "Crop": crop,
    "Identity": identity,
    "Dropout": dropout,
}
