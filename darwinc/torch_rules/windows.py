"""The sliding window that convolutions and pooling share, with the padding conventions of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .call import Call

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A window over the spatial axes; every field has one entry per axis, in elements."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    explicit: tuple[Sizes, Sizes]
    auto_pad: str

    @classmethod
    def of(cls, call: Call, kernel: Sizes) -> Window:
        """Read the window attributes of a node, with ONNX's defaults."""
        rank = len(kernel)
        ones = (1,) * rank
        pads = call.listed("pads") or (0,) * (2 * rank)
        return cls(
            kernel,
            call.listed("strides") or ones,
            call.listed("dilations") or ones,
            (pads[:rank], pads[rank:]),
            call.text("auto_pad", "NOTSET"),
        )

    @property
    def extents(self) -> Sizes:
        """How far the window reaches on each axis, dilation included."""
        return tuple((kernel - 1) * dilation + 1 for kernel, dilation in zip(self.kernel, self.dilations, strict=True))

    def pads(self, sizes: Sequence[int]) -> tuple[Sizes, Sizes]:
        """Padding before and after each axis, for an input of these sizes."""
        if self.auto_pad in ("NOTSET", ""):
            return self.explicit
        if self.auto_pad == "VALID":
            return (0,) * len(self.kernel), (0,) * len(self.kernel)
        begins, ends = [], []
        for size, stride, extent in zip(sizes, self.strides, self.extents, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + extent - size)
            small = total // 2
            begins.append(total - small if self.auto_pad == "SAME_LOWER" else small)
            ends.append(total - begins[-1])
        return tuple(begins), tuple(ends)

    def overhang(self, sizes: Sequence[int], begins: Sizes, ends: Sizes) -> Sizes:
        """What `ceil_mode` needs beyond the padding, so that the last, partial window fits.

        A window that would start in the padding at the end is dropped, as ONNX Runtime and torch do.
        """
        more = []
        for size, stride, extent, begin, end in zip(sizes, self.strides, self.extents, begins, ends, strict=True):
            steps = -(-(size + begin + end - extent) // stride)
            if steps * stride >= size + begin:
                steps -= 1
            more.append(max(0, steps * stride + extent - (size + begin + end)))
        return tuple(more)


def pad_spatial(x: torch.Tensor, begins: Sequence[int], ends: Sequence[int], value: float) -> torch.Tensor:
    """Pad the last axes of x (negative amounts crop)."""
    if not any(begins) and not any(ends):
        return x
    amounts = [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]
    return F.pad(x, amounts, value=value)
