"""MNIST for the benchmarks: images and labels, training a reference network on them, and its accuracy."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from darwinc.runtime import open_session, run

Array = np.ndarray[Any, Any]
MEAN, DEVIATION = 0.1307, 0.3081
PEAK, BATCH, DECAY = 2e-3, 128, 1e-4
SHIFT = 2
"""Pixels that an image is moved in training, at most."""


@dataclass(frozen=True)
class Mnist:
    """Images [N, 1, 28, 28], normalised, and labels [N]; 60,000 to train on, 10,000 to test."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


def load() -> Mnist:
    """From `$DATA/mnist`."""

    def idx(name: str, head: int) -> Array:
        content = gzip.decompress((Path(os.environ["DATA"]) / "mnist" / f"{name}-ubyte.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=head)

    def pixels(name: str) -> Array:
        scaled = idx(name, 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
        return (scaled - np.float32(MEAN)) / np.float32(DEVIATION)

    labels = [idx(f"{part}-labels-idx1", 8).astype(np.int64) for part in ("train", "t10k")]
    return Mnist(pixels("train-images-idx3"), labels[0], pixels("t10k-images-idx3"), labels[1])


def trained(
    factory: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]], path: Path, data: Mnist, *, epochs: int
) -> Path:
    """The network as ONNX at `path`, trained with seed 0 unless it lies there already.

    Nothing is selected: the last epoch counts.
    """
    if path.exists():
        return path
    torch.manual_seed(0)
    network, _ = factory()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=epochs * -(-len(labels) // BATCH))
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(labels), generator=generator), BATCH):
            loss = F.cross_entropy(network(moved(images[rows], generator)), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        print(f"{path.stem}: epoch {epoch + 1} of {epochs}, loss {total / len(labels):.4f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(network, path)
    return path


def moved(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A batch [N, 1, 28, 28], moved by up to `SHIFT` pixels."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    return torch.roll(images, (down, right), (2, 3))


def write(network: nn.Module, path: Path) -> None:
    """The network as ONNX, with a free batch."""
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 1, 28, 28),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes={"input": {0: "N"}, "scores": {0: "N"}},
    )


def accuracy(model: Any, images: Array, labels: Array) -> float:
    """Per cent, in ONNX Runtime, of a file or a model with one input and one output; its batch may be fixed."""
    session = open_session(model)
    entry = session.get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 500
    answers = [
        next(iter(run(session, {entry.name: images[start : start + batch]}).values()))
        for start in range(0, len(images), batch)
    ]
    return float((np.concatenate(answers).reshape(len(images), -1).argmax(1) == labels).mean() * 100)
