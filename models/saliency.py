"""The saliency network that *Deep Learning with Darwin* and its sequel evolve: VGG16 with side stacks at three depths.

The papers publish no kernel sizes for the side stacks; these are reconstructed, and give exactly the published count of
63,767,232 synapses.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

SIZE = 128
"""Height and width of the example images, in pixels; any multiple of `COARSEST` will do."""
COARSEST = 16
"""The stride of the deepest features."""
TRUNK = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions; a pool lies between the stages."""
CLASSES = 2


def scaled(channels: int, width: float) -> int:
    """So many channels of a network of this width, at least one."""
    return max(1, round(channels * width))


def convolution(entering: int, leaving: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps height and width, and its rectifier."""
    return nn.Sequential(nn.Conv2d(entering, leaving, kernel, padding=kernel // 2), nn.ReLU())


class Saliency(nn.Module):
    """Images [N, 3, H, W] to scores [N, 2, H, W] of background and salient object.

    The scores are found at a quarter of height and width, and enlarged, which takes no weights.

    Args:
        width: the factor on all channels but the colours, the two maps and the two classes.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_stages(width))
        _, _, third, fourth, fifth = (scaled(stage[-1], width) for stage in TRUNK)
        side, large = scaled(384, width), scaled(512, width)
        self.c6 = convolution(third, scaled(256, width), 1)
        self.c7 = convolution(fourth, large, 5)
        self.c8 = convolution(fifth, large, 5)
        self.d1 = nn.ConvTranspose2d(large, 1, 16, stride=2, padding=7)
        self.d2 = nn.ConvTranspose2d(large, 1, 16, stride=4, padding=6)
        self.c9 = convolution(scaled(256, width) + 2, side, 1)
        self.c10 = nn.Sequential(convolution(fifth, large, 7), convolution(large, side, 5))
        self.c11 = nn.Sequential(convolution(fifth, large, 7), convolution(large, side, 5))
        self.classifier = nn.Conv2d(3 * side, CLASSES, 1)
        self.apply(_start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = []
        for number, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if number else x)
            features.append(x)
        _, _, third, fourth, fifth = features
        maps = (self.c6(third), self.d1(self.c7(fourth)), self.d2(self.c8(fifth)))
        deep = (_enlarged(self.c10(fifth)), _enlarged(self.c11(fifth)))
        return _enlarged(self.classifier(torch.cat((self.c9(torch.cat(maps, 1)), *deep), 1)))


def _stages(width: float) -> list[nn.Sequential]:
    stages, entering = [], 3
    for widths in TRUNK:
        channels = [entering, *(scaled(leaving, width) for leaving in widths)]
        stages.append(nn.Sequential(*(convolution(*pair, 3) for pair in pairwise(channels))))
        entering = channels[-1]
    return stages


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    """Four times as high and wide."""
    return F.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)


def _start(module: nn.Module) -> None:
    """Weights that keep a signal's variance through rectifiers (He et al. 2015, *Delving Deep into Rectifiers*)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        taps = math.prod(module.kernel_size) / (math.prod(module.stride) if module.transposed else 1)
        nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * taps)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def saliency(width: float = 1.0) -> tuple[Saliency, tuple[torch.Tensor, ...]]:
    """The network of 63,767,232 synapses, or a narrower one, and example inputs [1, 3, 128, 128]."""
    return Saliency(width), (torch.zeros(1, 3, SIZE, SIZE),)
