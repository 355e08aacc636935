"""The reference networks of the field, by name. Importing this imports no torch; the factories do.

`python -m darwinc.models` trains them by their recipes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A network that `darwinc import` brings in and that has a recipe: `factory` is `module:callable`."""

    factory: str
    description: str


NETWORKS: dict[str, Reference] = {
    "lenet_mnist": Reference("darwinc.models.lenet:lenet_mnist", "MatConvNet's CIFAR LeNet, 1 x 32 x 32, 10 classes"),
    "lenet_cifar": Reference("darwinc.models.lenet:lenet_cifar", "MatConvNet's CIFAR LeNet, 3 x 32 x 32, 10 classes"),
    "lenet_caffe": Reference(
        "darwinc.models.lenet_caffe:lenet_caffe", "LeNet-5 as Caffe has it, 1 x 28 x 28, 10 classes"
    ),
    "mlp": Reference("darwinc.models.mlp:mlp", "784-512-256-10 with rectifiers, 1 x 28 x 28, 10 classes"),
    "resnet20": Reference("darwinc.models.cifar_resnet:resnet20", "ResNet-20 of He et al., 3 x 32 x 32, 10 classes"),
    "resnet56": Reference("darwinc.models.cifar_resnet:resnet56", "ResNet-56 of He et al., 3 x 32 x 32, 10 classes"),
    "saliency": Reference(
        "darwinc.models.saliency:saliency", "VGG16 with side stacks, 3 x 128 x 128, salient or not for each pixel"
    ),
}
