"""Every float model of torchvision at the smallest input it allows, with random weights.

The list is checked against torchvision's own, so that a model that a later release adds is not passed over in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torchvision import models

from darwinc.models.importers import OneImageDetector
from tests.benchmarks.exports import matching, settle, vary

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A model by torchvision's name, the shapes of its inputs, and what its builder is told."""

    name: str
    shapes: tuple[Shape, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None

    @property
    def label(self) -> str:
        return self.name if self.side is None else f"{self.name}@{self.side}"

    @property
    def detects(self) -> bool:
        return str(models.get_model_builder(self.name).__module__).startswith("torchvision.models.detection")

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The model in eval mode, and inputs for it; the same at every call."""
        torch.manual_seed(0)
        builder = models.get_model_builder(self.name)
        accepted = inspect.signature(builder).parameters
        without = {key: None for key in ("weights", "weights_backbone") if key in accepted}
        module = builder(**without, **self.options).eval()
        vary(module)
        settle(module.backbone if self.detects else module, self.shapes)
        inputs = tuple(torch.randn(shape) for shape in self.shapes)
        return (OneImageDetector(module).eval() if self.detects else module), inputs


IMAGE: Shape = (1, 3, 32, 32)
CLIP: Shape = (1, 3, 4, 32, 32)
SMALL_IMAGE = {"image_size": 32}
UNRESIZED = {"min_size": 64, "max_size": 64}
ONE_STAGE = UNRESIZED | {"score_thresh": 0.0, "topk_candidates": 16, "detections_per_img": 16}
TWO_STAGES = UNRESIZED | {"box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 16, "box_detections_per_img": 16}

FAMILIES: tuple[tuple[str, tuple[Shape, ...], Mapping[str, Any]], ...] = (
    ("resnet18 resnet34 resnet50 resnet101 resnet152", (IMAGE,), {}),
    ("mobilenet_v2 mobilenet_v3_small mobilenet_v3_large", (IMAGE,), {}),
    ("shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0", (IMAGE,), {}),
    ("densenet121 densenet161 densenet169 densenet201", (IMAGE,), {}),
    ("googlenet", (IMAGE,), {"init_weights": True}),
    ("squeezenet1_0 squeezenet1_1", (IMAGE,), {}),
    ("vit_b_16 vit_b_32 vit_l_16 vit_l_32", (IMAGE,), SMALL_IMAGE),
    ("vit_h_14", ((1, 3, 28, 28),), {"image_size": 28}),
    ("swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b", (IMAGE,), {}),
    ("maxvit_t", ((1, 3, 224, 224),), {}),
    ("convnext_tiny convnext_small convnext_base convnext_large", (IMAGE,), {}),
    ("efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4", (IMAGE,), {}),
    ("efficientnet_b5 efficientnet_b6 efficientnet_b7", (IMAGE,), {}),
    ("efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l", (IMAGE,), {}),
    ("regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf", (IMAGE,), {}),
    ("regnet_y_32gf regnet_y_128gf", (IMAGE,), {}),
    ("regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf", (IMAGE,), {}),
    ("regnet_x_32gf", (IMAGE,), {}),
    ("mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3", (IMAGE,), {}),
    ("inception_v3", ((1, 3, 75, 75),), {"init_weights": True}),
    # TorchScript's exporter can't write an adaptive pooling that enlarges.
    ("alexnet", ((1, 3, 224, 224),), {}),
    ("vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn", ((1, 3, 224, 224),), {}),
    ("resnext50_32x4d resnext101_32x8d resnext101_64x4d wide_resnet50_2 wide_resnet101_2", (IMAGE,), {}),
    ("lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101", (IMAGE,), {}),
    ("fcn_resnet50 fcn_resnet101", (IMAGE,), {}),
    ("fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn", ((1, 3, 64, 64),), TWO_STAGES),
    ("fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2", ((1, 3, 64, 64),), TWO_STAGES),
    ("retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn", ((1, 3, 64, 64),), ONE_STAGE),
    ("maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 keypointrcnn_resnet50_fpn", ((1, 3, 64, 64),), TWO_STAGES),
    ("ssd300_vgg16", ((1, 3, 300, 300),), {}),
    ("ssdlite320_mobilenet_v3_large", ((1, 3, 320, 320),), {}),
    ("r3d_18 mc3_18 r2plus1d_18", (CLIP,), {}),
    ("mvit_v1_b mvit_v2_s", ((1, 3, 16, 224, 224),), {}),
    ("s3d", ((1, 3, 13, 209, 209),), {}),
    ("swin3d_t swin3d_s swin3d_b", (CLIP,), {}),
    ("raft_small raft_large", ((1, 3, 128, 128),) * 2, {}),
)
"""(names, input shapes, builder's options). Sides are the smallest that every layer allows; a detector scales its input
to `min_size` before anything else, and without a threshold it always finds something that can be compared."""

NETWORKS = tuple(Network(name, shapes, options) for names, shapes, options in FAMILIES for name in names.split())


def chosen(patterns: Sequence[str]) -> list[Network]:
    """The networks that the shell patterns match; all without a pattern.

    Raises:
        ValueError: the list and torchvision's differ, or a pattern matches nothing.
    """
    listed, known = {network.name for network in NETWORKS}, _torchvision_names()
    if listed != known:
        raise ValueError(f"torchvision has {sorted(known - listed)} more and {sorted(listed - known)} less than listed")
    return matching(NETWORKS, patterns)


def at_side(network: Network, side: int) -> Network:
    """The same for square images of this side; networks for clips, pairs and detection stay as they are."""
    if network.detects or len(network.shapes) > 1 or len(network.shapes[0]) != 4:
        return network
    options = {**network.options, "image_size": side} if "image_size" in network.options else network.options
    return replace(network, shapes=((*network.shapes[0][:2], side, side),), options=options, side=side)


def _torchvision_names() -> set[str]:
    """The quantised variants are the same graphs, and their builders want a quantisation engine."""
    return {name for name in models.list_models() if not name.startswith("quantized_")}
