"""LeNet-5 as Caffe has it, 20-50-800-500, on which Bayesian compression is measured (Louizos et al., 2017).

Rectifiers follow every layer but the last, as in that paper's code; Caffe's own has one, behind the 500 units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES = 10
SIDE = 28


def lenet_caffe() -> tuple[nn.Sequential, tuple[torch.Tensor, ...]]:
    """The network of 431,080 parameters, images [N, 1, 28, 28] to logits [N, 10], and example inputs."""
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, CLASSES),
    )
    return network, (torch.zeros(1, 1, SIDE, SIDE),)


def parameters_kept(first: int, second: int, inputs: int, hidden: int) -> int:
    """Parameters, biases included, of the network that keeps so many filters, inputs of the first matrix, and units.

    5-10-76-16, what Louizos et al. keep at 99.0 %, has 2,792.
    """
    convolutions = first * (25 + 1) + second * (25 * first + 1)
    return convolutions + hidden * (inputs + 1) + CLASSES * (hidden + 1)
