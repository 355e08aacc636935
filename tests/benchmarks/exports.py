"""PyTorch's ways to ONNX, and exported files that are made once: what the zoos have in common."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol, TypeVar

import onnx
import torch
from torch import nn

from tests.benchmarks.forked import Missed, in_child

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


class Network(Protocol):
    """A model of a zoo."""

    @property
    def label(self) -> str:
        """What its files are called."""

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The model in eval mode, and inputs for it; the same at every call."""


N = TypeVar("N", bound=Network)


def matching(networks: Sequence[N], patterns: Sequence[str]) -> list[N]:
    """The networks that the shell patterns match, in the order of the patterns; all without a pattern.

    Raises:
        ValueError: a pattern matches nothing.
    """
    matched = {pattern: [n for n in networks if fnmatchcase(n.label, pattern)] for pattern in patterns or ["*"]}
    empty = [pattern for pattern, found in matched.items() if not found]
    if empty:
        raise ValueError(f"no model matches {', '.join(empty)}")
    return list({network.label: network for found in matched.values() for network in found}.values())


def vary(module: nn.Module) -> None:
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


def settle(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
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
    module, inputs = network.build()
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
