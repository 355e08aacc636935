"""The CIFAR LeNet of MatConvNet, the ancestor that the *Mating Rituals* paper evolves."""

from __future__ import annotations

import torch
from torch import nn

SIZE = 32
"""Height and width of the images, in pixels; MNIST's are padded to it."""


class LeNet(nn.Module):
    """Images [N, channels, 32, 32] to logits [N, classes].

    Without the classifier: 143,136 synapses and 7,200 kernels for one channel, 144,736 and 7,264 for three.
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.conv4 = nn.Conv2d(64, 64, 4)
        self.classifier = nn.Conv2d(64, classes, 1)
        # MatConvNet pads one row and one column at bottom and right and doesn't count them. A window of 3 at stride 2
        # in ceil mode hangs over by the same row and column, which torch doesn't count either.
        self.max_pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.average_pool = nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.max_pool(self.conv1(x)))
        x = self.average_pool(torch.relu(self.conv2(x)))
        x = self.average_pool(torch.relu(self.conv3(x)))
        x = torch.relu(self.conv4(x))
        return torch.flatten(self.classifier(x), 1)


def lenet_mnist() -> tuple[LeNet, tuple[torch.Tensor, ...]]:
    """The one-channel network and example inputs [1, 1, 32, 32]."""
    return LeNet(1), (torch.zeros(1, 1, SIZE, SIZE),)


def lenet_cifar() -> tuple[LeNet, tuple[torch.Tensor, ...]]:
    """The three-channel network and example inputs [1, 3, 32, 32]."""
    return LeNet(3), (torch.zeros(1, 3, SIZE, SIZE),)
