"""Batches for training, again and again, without the device waiting for them.

    feeding = Feeding(samples, inputs, device="cuda", batch=128, seed=0)
    for step, batch in zip(range(start, stop), feeding.batches(start)):
        loss = criterion(twin(batch.feed), batch.labels)

What step number `s` sees follows from the seed and `s` alone, so that a training that is resumed goes on as if it had
never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import TypeVar

import numpy as np
import torch

from darwinc.calibrators.training.augmentation import Array, Moves, choose, ignored_label, parse_augment
from darwinc.calibrators.training.feed_store import (
    FromSource,
    Rows,
    first_sample,
    hold,
    in_background,
    nothing_to_read,
    numbers,
)
from darwinc.data import Samples
from darwinc.errors import InvalidData, UsageError
from darwinc.runtime import InputSpec

Item = TypeVar("Item")


@dataclass(frozen=True)
class TensorBatch:
    """A feed on the device, and the labels of its samples where there are any.

    Attributes:
        labels: int64 for classes [N], for 0/1 [N, K] that came as whole numbers and for dense ones [N, H, W]; else
            float32.
        samples: how many there are.
    """

    feed: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    samples: int


@dataclass(frozen=True)
class _Loaded:
    positions: list[int]
    rows: Rows
    moves: Moves | None


class Feeding:
    """Samples as batches of tensors on a device.

    They are decoded once and kept, on the device or in the host's memory, where they are small; else threads decode
    the next batches while the device works. A batch is the same either way.

    The order within an epoch is a permutation drawn from the seed and the epoch's number. An epoch's last batch, if
    short, is dropped; where there are fewer samples than a batch, a batch is all of them. A sample that can't be read
    is left out, and named in `samples.warnings`; in training the next one in the epoch's order takes its place. Labels
    keep to their samples.

    Args:
        batch: samples at each step, of all ranks together; 1 for each rank where a sample is a whole feed.
        ignored: see the attribute; by default it follows from the samples' labels.
        augment: `auto`, `none`, or a list of `flip` and `shift` (`darwinc.calibrators.training.augmentation`).
        rank, world: this process gets part number `rank` of `world` equal parts of each batch. All parts together are
            what one process alone would see.
        most_bytes: what kept samples may take, instead of the default (`darwinc.calibrators.training.feed_store.hold`).

    Attributes:
        ignored: what dense labels hold where nothing is known: 255, or -1 where classes go beyond 255 or below 0.
        augmentation: what is done to images, or None.

    Raises:
        InvalidData: no sample can be read, or one doesn't fit its input.
        UsageError: an augmentation that doesn't exist or can't be done, or a batch that `world` doesn't divide.
    """

    def __init__(
        self,
        samples: Samples,
        inputs: Sequence[InputSpec],
        *,
        device: torch.device | str,
        batch: int,
        seed: int,
        augment: str = "auto",
        ignored: int | None = None,
        rank: int = 0,
        world: int = 1,
        most_bytes: int | None = None,
    ) -> None:
        asked = parse_augment(augment)
        self.device = torch.device(device)
        self.seed, self.rank, self.world = seed, rank, world
        self.samples = samples
        self.batch = _batch(samples, batch, world)
        source = FromSource(samples)
        self._plan = source.plan
        first = first_sample(source)
        shape = None if samples.source.whole else tuple(next(iter(self._finished(first).values())).shape[1:])
        self.ignored = ignored_label(samples.labels) if ignored is None else ignored
        self.augmentation = choose(asked, inputs, shape, samples.labels, self.ignored)
        self._store = hold(source, first, self.device, most_bytes)
        self._unreadable: set[int] = set()
        self._order = lru_cache(maxsize=2)(partial(_permutation, seed, len(samples)))

    @property
    def steps_per_epoch(self) -> int:
        """How many steps go over the samples once."""
        return len(self.samples) // self.batch

    def __getitem__(self, step: int) -> TensorBatch:
        """The batch of step number `step`, counted from 0 over all epochs."""
        return self._finish(self._training(step))

    def batches(self, start: int = 0) -> Generator[TensorBatch]:
        """The batches of the steps from `start` on, without end; close the iterator to stop its threads."""
        return self._made(self._training, count(start))

    def validation(self) -> Generator[TensorBatch]:
        """Every sample of this rank once, in order and unmoved; the last batch may be short."""
        mine = range(self.rank, len(self.samples), self.world)
        share = self.batch // self.world
        parts = (mine[start : start + share] for start in range(0, len(mine), share))
        return self._made(self._in_order, parts)

    def _made(self, load: Callable[[Item], _Loaded], items: Iterable[Item]) -> Generator[TensorBatch]:
        loaded = in_background(load, items) if self._store.slow else (load(item) for item in items)
        with closing(loaded):
            for part in loaded:
                if part.positions:
                    yield self._finish(part)

    def _training(self, step: int) -> _Loaded:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        share = self.batch // self.world
        part = slice(self.rank * share, (self.rank + 1) * share)
        moves = None if self.augmentation is None else self.augmentation.draw(self.seed, step, self.batch).part(part)
        slots = range(place * self.batch, (place + 1) * self.batch)[part]
        while True:
            positions = [self._readable(order, slot) for slot in slots]
            rows, read = self._store.fetch(positions)
            if len(read) == len(positions):
                return _Loaded(positions, self._pinned(rows), moves)
            self._unreadable.update(set(positions).difference(read))

    def _readable(self, order: Array, slot: int) -> int:
        """The position at a place of the epoch's order, or at the next place whose sample can be read."""
        for place in range(slot, slot + len(order)):
            position = int(order[place % len(order)])
            if position not in self._unreadable:
                return position
        raise nothing_to_read(self.samples)

    def _in_order(self, positions: Sequence[int]) -> _Loaded:
        rows, read = self._store.fetch(positions)
        return _Loaded(read, self._pinned(rows), None)

    def _pinned(self, rows: Rows) -> Rows:
        """Rows from which a GPU copies while the program goes on."""
        if self.device.type != "cuda":
            return rows
        return {name: tensor if tensor.is_cuda else tensor.pin_memory() for name, tensor in rows.items()}

    def _finish(self, loaded: _Loaded) -> TensorBatch:
        feed = self._finished({name: rows.to(self.device, non_blocking=True) for name, rows in loaded.rows.items()})
        labels = self._labels(loaded.positions)
        if self.augmentation is not None and loaded.moves is not None:
            name = self.augmentation.name
            feed[name] = self.augmentation.images(feed[name], loaded.moves)
            labels = None if labels is None else self.augmentation.labels(labels, loaded.moves)
        return TensorBatch(feed, labels, len(loaded.positions))

    def _finished(self, rows: Rows) -> Rows:
        return rows if self._plan is None else {name: numbers(self._plan, pixels) for name, pixels in rows.items()}

    def _labels(self, positions: list[int]) -> torch.Tensor | None:
        if self.samples.labels is None:
            return None
        chosen = self.samples.labels[positions]
        return torch.from_numpy(chosen.astype(np.float32 if chosen.dtype.kind == "f" else np.int64)).to(self.device)


def _batch(samples: Samples, batch: int, world: int) -> int:
    """How many samples all ranks together take at each step: no more than there are."""
    if batch < 1 or batch % world:
        raise UsageError(f"A batch of {batch} samples was asked for {world} processes; give a multiple of {world}.")
    wanted = world if samples.source.whole else batch
    size = min(wanted, len(samples) // world * world)
    if size < 1:
        raise InvalidData(f"There are {len(samples)} samples for {world} processes; give each at least one.")
    return size


def _permutation(seed: int, size: int, epoch: int) -> Array:
    """The order of one epoch; the middle number keeps its draws apart from those that move images."""
    return np.random.default_rng((seed, 0, epoch)).permutation(size)
