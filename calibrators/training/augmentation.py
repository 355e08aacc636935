"""Images moved a little while a network is trained: `--augment`.

Shifts are by up to an eighth of each side, as 4 pixels are of CIFAR's 32, and every second image is mirrored (He et al.
2016, "Deep residual learning for image recognition", section 4.2). What moves in is zero *after* normalisation, as
there: the mean's own colour. With one channel it is the edge, repeated: digits and spectrograms have a plain
background, on which zeros would draw a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from darwinc.data_masks import IGNORED
from darwinc.errors import UsageError
from darwinc.runtime import InputSpec
from darwinc.synthetic import channel_axis

Array = np.ndarray[Any, Any]

KINDS = ("flip", "shift")
SHORTEST_SIDE = 16
SHARE = 8
"""A shift is by at most one part in this many of the side."""
IGNORED_SIGNED = -1


def parse_augment(text: str) -> tuple[str, ...] | None:
    """The kinds that `--augment` names, none for `none`, or None for `auto`.

    Raises:
        UsageError: a kind that doesn't exist, or one beside `auto` or `none`.
    """
    kinds = tuple(part.strip() for part in text.split(","))
    if kinds == ("auto",):
        return None
    if kinds == ("none",):
        return ()
    for kind in kinds:
        if kind in ("auto", "none"):
            raise UsageError(f"--augment {text} has {kind!r} beside other words; {kind} stands alone.")
        if kind not in KINDS:
            raise UsageError(f"--augment knows no {kind!r}; give auto, none, or a list of {' and '.join(KINDS)}.")
    return kinds


def ignored_label(labels: Array | None) -> int:
    """What dense labels hold where nothing is known: 255, or -1 where classes go beyond 255 or some are negative."""
    bytes_do = labels is None or not labels.size or (labels.max() <= IGNORED and labels.min() >= 0)
    return IGNORED if bytes_do else IGNORED_SIGNED


@dataclass(frozen=True)
class Moves:
    """What happens to each sample of a batch: `down` and `right` [N] in pixels, `mirrored` [N]."""

    down: Array
    right: Array
    mirrored: Array

    def part(self, chosen: slice) -> Moves:
        """The moves of some of the samples."""
        return Moves(self.down[chosen], self.right[chosen], self.mirrored[chosen])


@dataclass(frozen=True)
class Augmentation:
    """How the images of one input are moved, and their dense labels with them.

    Attributes:
        name: the input.
        channel: the axis of the colours, 1 or 3.
        size: height and width in pixels.
        ignored: what dense labels hold where something moved in.
    """

    name: str
    channel: int
    size: tuple[int, int]
    kinds: tuple[str, ...]
    edge: bool
    dense: bool
    ignored: int

    def draw(self, seed: int, step: int, count: int) -> Moves:
        """The moves of `count` samples, from the seed and the step's number alone."""
        generator = np.random.default_rng((seed, 1, step))
        down, right = (generator.integers(-(side // SHARE), side // SHARE + 1, count) for side in self.size)
        mirrored = generator.random(count) < 0.5
        still = np.zeros(count, np.int64)
        shift, flip = "shift" in self.kinds, "flip" in self.kinds
        return Moves(down if shift else still, right if shift else still, mirrored & flip)

    def images(self, images: torch.Tensor, moves: Moves) -> torch.Tensor:
        """Images [N, C, H, W] or [N, H, W, C], mirrored and then shifted."""
        return _moved(images, moves, 2 if self.channel == 1 else 1, None if self.edge else 0)

    def labels(self, labels: torch.Tensor, moves: Moves) -> torch.Tensor:
        """Dense labels [N, H, W] moved like their images; others as they are."""
        return _moved(labels, moves, 1, self.ignored) if self.dense else labels


def _moved(values: torch.Tensor, moves: Moves, vertical: int, fill: int | None) -> torch.Tensor:
    """Values whose axes `vertical` and the next are rows and columns; `fill` moves in, or the edge where it's None."""
    height, width = values.shape[vertical : vertical + 2]
    rows, rows_known = _sources(height, moves.down, np.zeros_like(moves.mirrored))
    columns, columns_known = _sources(width, moves.right, moves.mirrored)
    shape = [len(values) if axis == 0 else -1 if axis == vertical else 1 for axis in range(values.ndim - 1)]
    places = _grid(rows * width, values.device, rows=True) + _grid(columns, values.device, rows=False)
    flat = values.flatten(vertical, vertical + 1)
    moved = flat.gather(vertical, places.reshape(shape).expand_as(flat))
    if fill is not None:
        known = _grid(rows_known, values.device, rows=True) & _grid(columns_known, values.device, rows=False)
        moved.masked_fill_(~known.reshape(shape), fill)
    return moved.reshape(values.shape)


def _sources(length: int, shifts: Array, mirrored: Array) -> tuple[Array, Array]:
    """Where each place [N, length] takes its value from, and whether that lies inside."""
    wanted = np.arange(length) - shifts[:, np.newaxis]
    known = (wanted >= 0) & (wanted < length)
    inside = wanted.clip(0, length - 1)
    return np.where(mirrored[:, np.newaxis], length - 1 - inside, inside), known


def _grid(array: Array, device: torch.device, *, rows: bool) -> torch.Tensor:
    """[N, height] as [N, height, 1], or [N, width] as [N, 1, width]."""
    return torch.from_numpy(array).to(device).unsqueeze(2 if rows else 1)


def choose(
    asked: tuple[str, ...] | None,
    inputs: Sequence[InputSpec],
    shape: Sequence[int] | None,
    labels: Array | None,
    ignored: int = IGNORED,
) -> Augmentation | None:
    """The augmentation that is asked for, or None. By default (`asked` None) that which can do no harm.

    That is a shift, and a mirror image where there are colours: a mirrored digit, spectrogram or text is another one.
    Labels that say where something is (boxes, points) would no longer hold: then nothing is done. Dense labels
    [N, H, W] of whole numbers move along.

    Args:
        shape: a sample's [C, H, W] or [H, W, C], or None where samples are whole feeds.
        ignored: what dense labels hold where something moved in.

    Raises:
        UsageError: what is asked for can't be done.
    """
    if asked == ():
        return None
    reason = _obstacle(inputs, shape, labels)
    if reason and asked is None:
        return None
    if reason or shape is None:
        raise UsageError(f"--augment {','.join(asked or ())} moves images, but {reason}; give --augment none.")
    axis = channel_axis(inputs[0]) or 1
    size = (shape[1], shape[2]) if axis == 1 else (shape[0], shape[1])
    colours = shape[axis - 1]
    kinds = asked or (("flip", "shift") if colours == 3 else ("shift",))
    dense = labels is not None and labels.shape[1:] == size and labels.dtype.kind in "iub"
    return Augmentation(inputs[0].name, axis, size, kinds, colours == 1, dense, ignored)


def _obstacle(inputs: Sequence[InputSpec], shape: Sequence[int] | None, labels: Array | None) -> str:
    """Why samples can't be moved; empty where they can."""
    if shape is None or len(inputs) != 1:
        return "the model takes several inputs, or whole feeds one at a time"
    axis = channel_axis(inputs[0])
    if axis is None or len(shape) != 3:
        return f"the input {inputs[0]} is no image of 1, 3 or 4 channels"
    size = tuple(shape[1:]) if axis == 1 else tuple(shape[:2])
    if min(size) < SHORTEST_SIDE:
        return f"the images are {size[0]}x{size[1]} pixels and should have {SHORTEST_SIDE} or more on each side"
    if labels is None or _stay_true(labels, size):
        return ""
    return f"labels of shape {list(labels.shape)} and type {labels.dtype} may say where something is"


def _stay_true(labels: Array, size: tuple[int, ...]) -> bool:
    """Do labels hold for a moved image: classes [N], 0/1 or probabilities [N, K], or dense ones that move along?"""
    if labels.ndim == 1:
        return labels.dtype.kind in "iub"
    if labels.ndim == 2:
        return bool(np.isin(labels, (0, 1)).all() or (np.allclose(labels.sum(axis=1), 1) and (labels >= 0).all()))
    return labels.shape[1:] == size and labels.dtype.kind in "iub"
