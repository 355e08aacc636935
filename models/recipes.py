"""How each reference network is trained: one table, by the network's name. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Augment = Literal["flip", "shift"]


@dataclass(frozen=True)
class Recipe:
    """A training from random weights, in which nothing is selected: the last epoch counts.

    Attributes:
        epochs: passes over the samples.
        batch: samples per step; the last step of an epoch takes what is left.
        optimizer: adamw, or sgd with Nesterov's momentum of 0.9.
        peak: the learning rate at its highest. It rises over the share `rising` of the steps, then falls along a
            cosine to nearly nothing, while momentum does the opposite (Smith and Topin 2019, *Super-convergence*).
        weight_decay: for matrices and filters only; decoupled with adamw.
        augment: flip mirrors every second image, shift moves each by up to an eighth of its sides.
    """

    epochs: int
    batch: int
    optimizer: Literal["adamw", "sgd"]
    peak: float
    weight_decay: float
    augment: tuple[Augment, ...] = ()
    rising: float = 0.3


RECIPES: dict[str, Recipe] = {
    # MatConvNet's cifar example, which the papers start from: 45 epochs of SGD, batch 100, rates 0.05, 0.005 and
    # 0.0005 for 30, 10 and 5 epochs, decay 1e-4, no augmentation. Their ancestor has 77.1 % on CIFAR-10.
    "lenet_mnist": Recipe(epochs=6, batch=100, optimizer="adamw", peak=3e-3, weight_decay=1e-2, augment=("shift",)),
    "lenet_cifar": Recipe(
        epochs=25, batch=100, optimizer="adamw", peak=3e-3, weight_decay=1e-2, augment=("flip", "shift")
    ),
    # Caffe's own: 10,000 steps of SGD, batch 64, a rate that falls from 0.01, decay 5e-4, no augmentation.
    "lenet_caffe": Recipe(epochs=8, batch=128, optimizer="adamw", peak=2e-3, weight_decay=1e-4, augment=("shift",)),
    # The dense one has about 98 % in *Pruning as Evolution*.
    "mlp": Recipe(epochs=8, batch=128, optimizer="adamw", peak=2e-3, weight_decay=1e-4, augment=("shift",)),
    # The papers' ancestor, of full width, has an F_beta of 0.875.
    "saliency": Recipe(epochs=40, batch=10, optimizer="adamw", peak=5e-4, weight_decay=1e-2, augment=("flip", "shift")),
    # He et al. 2016: 64,000 steps of SGD, batch 128, rate 0.1, a tenth after half and after three quarters of the
    # steps, decay 1e-4, flip and shift: 91.25 and 93.03 %.
    "resnet20": Recipe(
        epochs=60, batch=128, optimizer="sgd", peak=0.4, weight_decay=5e-4, augment=("flip", "shift"), rising=0.25
    ),
    "resnet56": Recipe(
        epochs=60, batch=128, optimizer="sgd", peak=0.4, weight_decay=5e-4, augment=("flip", "shift"), rising=0.25
    ),
}
