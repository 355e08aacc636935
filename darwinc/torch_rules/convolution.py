"""Conv and ConvTranspose over one to three spatial axes: x [N, C, *spatial], weight [M, C / group, *kernel]."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .call import Call, Result, Rule
from .windows import Window, pad_spatial

CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def conv(call: Call) -> torch.Tensor:
    """Cross-correlation; uneven padding is made explicit, even padding is torch's own."""
    x, weight = call.first, call.tensor(1)
    rank = _rank(call, weight)
    window = Window.of(call, tuple(weight.shape[2:]))
    begins, ends = window.pads(x.shape[2:])
    if begins != ends:
        x = pad_spatial(x, begins, ends, 0.0)
        begins = (0,) * rank
    group = call.integer("group", 1)
    return CONVOLUTIONS[rank](x, weight, call.optional(2), window.strides, begins, window.dilations, group)


def conv_transpose(call: Call) -> torch.Tensor:
    """The transposed convolution: whole output first where padding is uneven, then cropped at both ends."""
    x, weight, bias = call.first, call.tensor(1), call.optional(2)
    rank = _rank(call, weight)
    window = Window.of(call, tuple(weight.shape[2:]))
    extra = call.listed("output_padding") or (0,) * rank
    begins, ends = _transposed_pads(call, window, tuple(x.shape[2:]), extra)
    group = call.integer("group", 1)
    transposed = TRANSPOSED[rank]
    limits = map(max, window.strides, window.dilations)
    fits = all(more < limit for more, limit in zip(extra, limits, strict=True))
    if begins == ends and min(begins) >= 0 and fits:
        return transposed(x, weight, bias, window.strides, begins, extra, group, window.dilations)
    whole = transposed(x, weight, None, window.strides, 0, 0, group, window.dilations)
    trimmed = [more - end for more, end in zip(extra, ends, strict=True)]
    whole = pad_spatial(whole, tuple(-begin for begin in begins), tuple(trimmed), 0.0)
    return whole if bias is None else whole + bias.reshape(-1, *(1,) * rank)


def causal_conv(call: Call) -> Result:
    """A depthwise convolution of x [N, C, L] that looks back only, and the last steps [N, C, K - 1] to go on from."""
    x, weight, past = call.first, call.tensor(1), call.optional(3)
    kept = weight.shape[2] - 1
    x = F.pad(x, (kept, 0)) if past is None else torch.cat([past, x], 2)
    out = F.conv1d(x, weight, call.optional(2), groups=x.shape[1])
    out = out if call.text("activation", "none") == "none" else F.silu(out)
    return out, x.narrow(2, x.shape[2] - kept, kept)


def _transposed_pads(
    call: Call, window: Window, sizes: Sequence[int], extra: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    wanted = call.listed("output_shape")
    same = window.auto_pad.startswith("SAME")
    if wanted is None and not same:
        return window.pads(sizes)
    # An output_shape may be written with or without the batch and channel axes.
    targets = tuple(map(operator.mul, sizes, window.strides)) if wanted is None else wanted[-len(sizes) :]
    begins, ends = [], []
    for size, stride, reach, more, target in zip(sizes, window.strides, window.extents, extra, targets, strict=True):
        excess = stride * (size - 1) + more + reach - target
        total = max(0, excess)
        begins.append(total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2)
        ends.append((total if wanted is None else excess) - begins[-1])
    return tuple(begins), tuple(ends)


def _rank(call: Call, weight: torch.Tensor) -> int:
    rank = weight.ndim - 2
    if rank not in CONVOLUTIONS:
        raise call.unsupported(f"{rank} spatial axes")
    return rank


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose, "CausalConvWithState": causal_conv}
