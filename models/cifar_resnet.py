"""ResNet-20 and ResNet-56 for images of 32 x 32 pixels (He et al., *Deep Residual Learning*, 2016).

The shortcuts are option A of the paper: where a stage halves the image, its input is subsampled and padded with zero
channels, so no shortcut has weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SIZE = 32
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: [N, entering, H, W] to [N, leaving, H / stride, W / stride]."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(leaving)
        self.stride, self.missing = stride, leaving - entering

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:
            before = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return torch.relu(x + y)


class CifarResNet(nn.Module):
    """Images [N, 3, 32, 32] to logits [N, classes]; `depth` is 6 n + 2 for n blocks a stage."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        blocks, entering = [], WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for number in range((depth - 2) // 6):
                blocks.append(Block(entering, width, 2 if stage and not number else 1))
                entering = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(entering, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(torch.relu(self.norm(self.conv(x))))
        scores: torch.Tensor = self.classifier(x.mean((2, 3)))
        return scores


def resnet20() -> tuple[CifarResNet, tuple[torch.Tensor, ...]]:
    """The network of 272,474 parameters and example inputs [1, 3, 32, 32]."""
    return CifarResNet(20), (torch.zeros(1, 3, SIZE, SIZE),)


def resnet56() -> tuple[CifarResNet, tuple[torch.Tensor, ...]]:
    """The network of 855,770 parameters and example inputs [1, 3, 32, 32]."""
    return CifarResNet(56), (torch.zeros(1, 3, SIZE, SIZE),)
