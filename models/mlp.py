"""The multilayer perceptron of the *Pruning as Evolution* paper: 784-512-256-10 with rectifiers, for MNIST."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

WIDTHS = (784, 512, 256, 10)


def mlp() -> tuple[nn.Sequential, tuple[torch.Tensor, ...]]:
    """The network of 535,818 parameters, images [N, 1, 28, 28] to logits [N, 10], and example inputs.

    Of its 768 hidden units each can go by itself.
    """
    import torch
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()]
    for place, (entering, leaving) in enumerate(pairwise(WIDTHS)):
        layers += [nn.ReLU()] if place else []
        layers.append(nn.Linear(entering, leaving))
    return nn.Sequential(*layers), (torch.zeros(1, 1, 28, 28),)
