"""Train a reference network by its recipe, on arrays, and write it as ONNX."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from darwinc.calibrators.training.augmentation import Augmentation
from darwinc.console import Stage, Terminal
from darwinc.data_arrays import Array
from darwinc.data_masks import IGNORED
from darwinc.data_sources import load_archive
from darwinc.errors import InvalidData, UsageError
from darwinc.graph import check_writable
from darwinc.models import NETWORKS
from darwinc.models.exporting import Specimen, export
from darwinc.models.recipes import Recipe
from darwinc.user_code import named

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Lessons:
    """Images [N, C, H, W] in float32, preprocessed, and classes [N] or [N, H, W] in int64; 255 counts as unknown."""

    images: torch.Tensor
    labels: torch.Tensor

    def at(self, place: torch.device) -> Lessons:
        """The same on a device: they are small beside what it holds, and moved there once."""
        return Lessons(self.images.to(place), self.labels.to(place))


def train_reference(
    name: str,
    data: Path,
    output: Path,
    recipe: Recipe,
    terminal: Terminal,
    *,
    width: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Build the network `name` with weights from the seed, train it on `data`, and write it whole or not at all.

    Args:
        data: an `.npz` of `x` and `y`, as `Lessons` says.
        output: the ONNX file; its input is `input`, its output `scores`, and the batch axis is free.
        width: the factor on all channels, for networks that take one.
        device: cpu, cuda, or auto: a CUDA GPU where there is one.

    Raises:
        UsageError: no such network, no width for it, or no CUDA GPU.
        InvalidData: the archive can't be read, or doesn't fit the network.
        OutputError: the file can't be written.
    """
    check_writable(output)
    place = _device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, inputs = _build(name, width)
    lessons = read_lessons(data)
    _check(lessons, network, inputs[0], data)
    with terminal.stage(f"training {name}") as stage:
        train(network.to(place), lessons, recipe, seed=seed, stage=stage, tell=terminal.note)
    export(Specimen(f"the trained {name}", network.cpu(), inputs, names=("input", "scores")), output)
    return output


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was given, but there is no CUDA GPU; give cpu or auto.")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def _build(name: str, width: float | None) -> Built:
    if name not in NETWORKS:
        raise UsageError(f"There is no network {name!r}; choose from {', '.join(NETWORKS)}.")
    factory = cast("Callable[..., Built]", named(NETWORKS[name].factory))
    if width is None:
        return factory()
    if "width" not in inspect.signature(factory).parameters:
        raise UsageError(f"--width was given, but {name} has one width only; leave it out.")
    return factory(width=width)


def read_lessons(path: Path) -> Lessons:
    """The arrays `x` and `y` of an archive.

    Raises:
        InvalidData: it can't be read, or holds something else.
    """
    arrays = load_archive(path)
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise InvalidData(f"{path} has no array {missing[0]!r}; give images as x and classes as y.")
    x, y = arrays["x"], arrays["y"]
    if x.dtype != np.float32 or x.ndim != 4 or not np.isfinite(x).all():
        raise InvalidData(f"{path} holds x of {x.dtype} {list(x.shape)}; give finite float32 [N, C, H, W].")
    if not x.size:
        raise InvalidData(f"{path} holds no samples, its x is {list(x.shape)}; give at least one.")
    if y.dtype != np.int64 or y.shape not in (x.shape[:1], (len(x), *x.shape[2:])):
        raise InvalidData(f"{path} holds y of {y.dtype} {list(y.shape)}; give int64 [N] or [N, H, W] as x has them.")
    return Lessons(torch.from_numpy(x), torch.from_numpy(y))


def _check(lessons: Lessons, network: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Do the arrays fit the network, in its answer to one of the images?"""
    if lessons.images.shape[1:] != example.shape[1:]:
        found, wanted = (list(images.shape[1:]) for images in (lessons.images, example))
        raise InvalidData(f"{path} holds images {found}, but the network takes {wanted}; resize or convert them.")
    with torch.no_grad():
        scores = network.eval()(lessons.images[:1])
    if scores.shape[2:] != lessons.labels.shape[1:]:
        axes = ", ".join(map(str, ["N", *scores.shape[2:]]))
        raise InvalidData(f"{path} holds y {list(lessons.labels.shape)}; this network wants [{axes}].")
    known, classes = lessons.labels != IGNORED, scores.shape[1]
    unknown = int((~known.reshape(len(known), -1).any(1)).sum())
    if unknown:
        raise InvalidData(f"{path} holds {unknown} samples whose y is {IGNORED}, not known, throughout; drop them.")
    low, high = int(lessons.labels[known].min()), int(lessons.labels[known].max())
    if low < 0 or high >= classes:
        raise InvalidData(f"{path} holds classes from {low} to {high}; give 0 to {classes - 1}.")


def train(
    network: nn.Module,
    lessons: Lessons,
    recipe: Recipe,
    *,
    seed: int,
    stage: Stage,
    tell: Callable[[str], None],
) -> None:
    """Train in place, on the network's own device; ends in eval mode.

    The seed orders and moves the samples, step by step, the same on every device. Channels lie last meanwhile, which
    is faster.
    """
    lessons = lessons.at(next(network.parameters()).device)
    count, optimizer = len(lessons.labels), _optimizer(network, recipe)
    steps = -(-count // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak, total_steps=recipe.epochs * steps, pct_start=recipe.rising
    )
    augmentation = _augmentation(lessons, recipe)
    stage.progress(recipe.epochs * steps)
    network.to(memory_format=torch.channels_last).train()
    for epoch in range(recipe.epochs):
        order, total = np.random.default_rng((seed, 0, epoch)).permutation(count), 0.0
        for step in range(steps):
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            images, labels = _batch(lessons, rows, augmentation, (seed, epoch * steps + step))
            scores = network(images.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(scores, labels, ignore_index=IGNORED)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
            stage.advance()
        tell(f"epoch {epoch + 1} of {recipe.epochs}: loss {total / count:.4f}")
    network.to(memory_format=torch.contiguous_format).eval()


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = list(network.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.peak)
    return torch.optim.SGD(groups, recipe.peak, momentum=0.9, nesterov=True)


def _augmentation(lessons: Lessons, recipe: Recipe) -> Augmentation | None:
    if not recipe.augment:
        return None
    _, channels, height, width = lessons.images.shape
    dense = lessons.labels.ndim == 3
    return Augmentation("input", 1, (height, width), recipe.augment, channels == 1, dense, IGNORED)


def _batch(
    lessons: Lessons, rows: Array, augmentation: Augmentation | None, draw: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = lessons.images[rows], lessons.labels[rows]
    if augmentation is None:
        return images, labels
    moves = augmentation.draw(*draw, len(rows))
    return augmentation.images(images, moves), augmentation.labels(labels, moves)
