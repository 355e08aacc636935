"""Every float model of torchvision at the smallest input it allows, with random weights, and PyTorch's ways to ONNX.

The list is checked against torchvision's own, so that a model that a later release adds is not passed over in silence.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torchvision import models

from darwinc.models.importers import OneImageDetector
from tests.benchmarks.forked import Missed, in_child

Shape = tuple[int, ...]

EXPORT_SECONDS = 900
ONE_FILE_BYTES = 2_000_000_000
"""Above this the weights go to one file beside the model's; a protobuf message can't hold 2 GiB."""
KEPT_BYTES = 600_000_000
"""Larger exports (over 150 M parameters) are made again when they are needed."""
SETTLING_IMAGES = 16
"""Random images on which batch normalisations find their statistics."""
LEAST_VARIANCE = 0.1
"""Of a layer's mean variance: a channel that is nearly still would have its rounding errors blown up."""
NOT_EXPORTED = "not exported"


@dataclass(frozen=True)
class Exporter:
    """One of PyTorch's two exporters, and the opset it is asked for (None: the one it chooses)."""

    name: str
    dynamo: bool
    opset: int | None


EXPORTERS = {
    exporter.name: exporter
    for exporter in (Exporter("ts17", False, 17), Exporter("dynamo", True, None), Exporter("ts13", False, 13))
}


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

    def at_side(self, side: int) -> Network:
        """The same for square images of this side; networks for clips, pairs and detection stay as they are."""
        if self.detects or len(self.shapes) > 1 or len(self.shapes[0]) != 4:
            return self
        options = {**self.options, "image_size": side} if "image_size" in self.options else self.options
        return replace(self, shapes=((*self.shapes[0][:2], side, side),), options=options, side=side)

    @property
    def detects(self) -> bool:
        return str(models.get_model_builder(self.name).__module__).startswith("torchvision.models.detection")


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


def chosen(patterns: list[str]) -> list[Network]:
    """The networks that the shell patterns match, in the order of the patterns; all without a pattern.

    Raises:
        ValueError: the list and torchvision's differ, or a pattern matches nothing.
    """
    listed, known = {network.name for network in NETWORKS}, _torchvision_names()
    if listed != known:
        raise ValueError(f"torchvision has {sorted(known - listed)} more and {sorted(listed - known)} less than listed")
    matched = {pattern: [n for n in NETWORKS if fnmatchcase(n.name, pattern)] for pattern in patterns or ["*"]}
    empty = [pattern for pattern, networks in matched.items() if not networks]
    if empty:
        raise ValueError(f"no model of torchvision matches {', '.join(empty)}")
    return list({network.name: network for networks in matched.values() for network in networks}.values())


def _torchvision_names() -> set[str]:
    """The quantised variants are the same graphs, and their builders want a quantisation engine."""
    return {name for name in models.list_models() if not name.startswith("quantized_")}


def build(network: Network) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The model in eval mode, and inputs for it; the same at every call."""
    torch.manual_seed(0)
    builder = models.get_model_builder(network.name)
    accepted = inspect.signature(builder).parameters
    without = {key: None for key in ("weights", "weights_backbone") if key in accepted}
    module = builder(**without, **network.options).eval()
    _vary(module)
    _settle(module.backbone if network.detects else module, network.shapes)
    inputs = tuple(torch.randn(shape) for shape in network.shapes)
    return (OneImageDetector(module).eval() if network.detects else module), inputs


def _vary(module: nn.Module) -> None:
    """Redraw parameters and statistics that a fresh network fills with one value, in every second layer.

    Equal elements hide a wrong index, and layer scales of 1e-6 or a head of zeros hide everything before them: what has
    several axes is always redrawn. The other layers stay equal to each other, and exporters let them share constants.
    """
    turn = 0
    for layer in module.modules():
        equal = [tensor for tensor in _own_tensors(layer) if tensor.numel() > 1 and _is_constant(tensor)]
        turn += bool(equal)
        for tensor in equal:
            if tensor.ndim > 1 or turn % 2:
                _redraw(tensor)


def _settle(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
    """Give every batch normalisation the statistics of random images, as training would.

    With those of a fresh network signals die away layer by layer, until answers don't depend on the input.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    if not layers:
        return
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        module(*(torch.randn(SETTLING_IMAGES, *shape[1:]) for shape in shapes))
    module.eval()
    for layer in layers:
        if layer.running_var is not None:
            layer.running_var.clamp_(min=LEAST_VARIANCE * float(layer.running_var.mean()))


def _own_tensors(layer: nn.Module) -> Iterator[torch.Tensor]:
    tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return (tensor.detach() for tensor in tensors if tensor.is_floating_point())


def _is_constant(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())


def _redraw(tensor: torch.Tensor) -> None:
    if float(tensor.flatten()[0]) == 1:
        tensor.uniform_(0.5, 1.5)
    else:
        tensor.normal_(std=0.1)


def obtain(network: Network, exporter: Exporter, keep: Path) -> Path:
    """The exported file, made where it isn't there yet; why there can't be one is kept beside it as text.

    Raises:
        Missed: PyTorch's exporter can't.
    """
    folder = keep / exporter.name
    folder.mkdir(parents=True, exist_ok=True)
    path, failure = folder / f"{network.label}.onnx", folder / f"{network.label}.failed"
    if failure.exists():
        raise Missed(NOT_EXPORTED, failure.read_text())
    if not path.exists():
        try:
            in_child(NOT_EXPORTED, EXPORT_SECONDS, _export, network, exporter, path)
        except Missed as missed:
            failure.write_text(str(missed))
            raise
    return path


def discard_if_large(path: Path) -> None:
    """Remove a file that is cheaper to make again than to keep, with its weights."""
    if stored_bytes(path) > KEPT_BYTES:
        for part in _parts(path):
            part.unlink()


def stored_bytes(path: Path) -> int:
    """Of a model's file, and of the one with its weights if there is one."""
    return sum(part.stat().st_size for part in _parts(path))


def _parts(path: Path) -> list[Path]:
    return [part for part in (_weights_beside(path), path) if part.exists()]


def _weights_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _export(network: Network, exporter: Exporter, destination: Path) -> None:
    """Export into a folder of its own and move the model's file last: one that is there is whole."""
    module, inputs = build(network)
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        path = Path(folder) / destination.name
        write(module, inputs, exporter, path)
        if weights > ONE_FILE_BYTES and not _weights_beside(path).exists():  # TorchScript's: one file for each tensor
            model = onnx.load(path)
            onnx.save_model(model, path, save_as_external_data=True, location=_weights_beside(path).name)
        for part in _parts(path):
            part.rename(destination.with_name(part.name))


def write(module: nn.Module, inputs: tuple[torch.Tensor, ...], exporter: Exporter, destination: Path) -> None:
    """PyTorch's exporter alone, with static shapes and its default settings but for the opset."""
    if not exporter.dynamo:
        torch.onnx.export(module, inputs, str(destination), dynamo=False, opset_version=exporter.opset)
        return
    program = torch.onnx.export(module, inputs, dynamo=True, opset_version=exporter.opset, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    program.save(str(destination))
