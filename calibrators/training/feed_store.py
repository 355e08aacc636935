"""Where the samples of a training wait: in memory, decoded once, or at their source, decoded again in the background.

Images are kept as bytes [N, height, width, C]; the arithmetic that makes numbers of them is done on the device.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from darwinc.data import Samples
from darwinc.errors import InvalidData
from darwinc.images import ImageSource
from darwinc.preprocess import ImagePlan

Array = np.ndarray[Any, Any]
Rows = dict[str, torch.Tensor]
Item = TypeVar("Item")
Result = TypeVar("Result")

HOST_BYTES = 2 * 2**30
DEVICE_SHARE = 0.25
"""How much of a GPU's free memory samples may take; the network and its training need the rest."""
MOST_WORKERS = 16
CHUNK = 64


class Store(Protocol):
    """Samples by position. `slow` says that fetching is best done ahead, in the background."""

    @property
    def slow(self) -> bool: ...

    def fetch(self, positions: Sequence[int]) -> tuple[Rows, list[int]]:
        """The samples, and the positions that they have: those that can't be read are missing from both."""


def workers() -> int:
    """How many threads decode: Pillow and NumPy let others run while they work."""
    return max(1, min(MOST_WORKERS, os.cpu_count() or 1))


def in_background(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """The function's results in order, a few of them made ahead by threads."""
    count = workers()
    pool = ThreadPoolExecutor(count)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class FromSource:
    """Samples read from their source each time."""

    samples: Samples
    slow: bool = True

    @property
    def plan(self) -> ImagePlan | None:
        """How bytes become numbers, for images."""
        return self.samples.source.plan if isinstance(self.samples.source, ImageSource) else None

    def fetch(self, positions: Sequence[int]) -> tuple[Rows, list[int]]:
        source = self.samples.source
        indices = [int(self.samples.indices[position]) for position in positions]
        if isinstance(source, ImageSource):
            pixels, read = source.pixels(indices, keep=False)
            feed = {source.name: pixels}
        else:
            feed, read = source.read(indices)
        present = set(read)
        rows = {name: _tensor(array, name) for name, array in feed.items()}
        return rows, [position for position, index in zip(positions, indices, strict=True) if index in present]


def _tensor(array: Array, name: str) -> torch.Tensor:
    if array.dtype.kind not in "fiub":
        raise InvalidData(f"Input '{name}' takes {array.dtype} values; torch trains on numbers alone.")
    return torch.from_numpy(array if array.flags.writeable else array.copy())


@dataclass
class InMemory:
    """All samples, read once; `unreadable` are the positions that couldn't be."""

    rows: Rows
    unreadable: frozenset[int]
    slow: bool

    def fetch(self, positions: Sequence[int]) -> tuple[Rows, list[int]]:
        read = [position for position in positions if position not in self.unreadable]
        return {name: tensor[torch.tensor(read, device=tensor.device)] for name, tensor in self.rows.items()}, read


@dataclass
class WholeFeeds:
    """Samples that are whole feeds, of any shapes: kept on the device once they are read, within `most_bytes`."""

    source: FromSource
    device: torch.device
    most_bytes: int
    slow: bool = False
    kept: dict[int, Rows] = field(default_factory=dict)

    def fetch(self, positions: Sequence[int]) -> tuple[Rows, list[int]]:
        (position,) = positions
        if position in self.kept:
            return self.kept[position], [position]
        rows, read = self.source.fetch([position])
        rows = {name: tensor.to(self.device) for name, tensor in rows.items()}
        self.most_bytes -= _bytes(rows)
        if read and self.most_bytes >= 0:
            self.kept[position] = rows
        return rows, read


def _bytes(rows: Rows) -> int:
    return sum(tensor.nbytes for tensor in rows.values())


def first_sample(source: FromSource) -> Rows:
    """One sample, with its batch axis, as it's kept.

    Raises:
        InvalidData: there is none that can be read.
    """
    for position in range(len(source.samples)):
        rows, read = source.fetch([position])
        if read:
            return rows
    raise nothing_to_read(source.samples)


def nothing_to_read(samples: Samples) -> InvalidData:
    """What is wrong when no sample can be read."""
    return InvalidData("none of the samples can be read: " + "; ".join(samples.warnings or ["there are none"]))


def hold(source: FromSource, first: Rows, device: torch.device, most_bytes: int | None) -> Store:
    """Keep the samples on the device where they are small, in the host's memory up to a bound, or not at all.

    `most_bytes` is both bounds in one; by default a share of a GPU's free memory, and 2 GiB of the host's.
    """
    on_device = on_host = HOST_BYTES if most_bytes is None else most_bytes
    if most_bytes is None and device.type == "cuda":
        on_device = int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE)
    if source.samples.source.whole:
        return WholeFeeds(source, device, on_device)
    size = _bytes(first) * len(source.samples)
    if size > max(on_device, on_host):
        return source
    return _filled(source, first, device if size <= on_device else torch.device("cpu"), device)


def _filled(source: FromSource, first: Rows, place: torch.device, device: torch.device) -> InMemory:
    count = len(source.samples)
    rows = {
        name: torch.zeros((count, *tensor.shape[1:]), dtype=tensor.dtype, device=place)
        for name, tensor in first.items()
    }
    found: set[int] = set()
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    for part, read in in_background(source.fetch, chunks):
        if read:
            for name, tensor in part.items():
                rows[name][torch.tensor(read, device=place)] = tensor.to(place)
        found.update(read)
    if not found:
        raise nothing_to_read(source.samples)
    return InMemory(rows, frozenset(range(count)) - found, slow=place != device)


def numbers(plan: ImagePlan, pixels: torch.Tensor) -> torch.Tensor:
    """Bytes [N, height, width, C] -> what the input is fed, [N, *shape]: `ImagePlan.numbers`, on the device."""
    steps = plan.steps
    if steps.order == "bgr":
        pixels = pixels.flip(-1)
    # Planes first: arithmetic on rows of three numbers takes a CPU several times as long.
    planes = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32)
    values = planes.mul_(float(np.float32((steps.high - steps.low) / 255))).add_(float(np.float32(steps.low)))
    if steps.mean:
        values.sub_(_per_channel(steps.mean, values))
    if steps.std:
        values.div_(_per_channel(steps.std, values))
    if plan.dtype.kind in "iu":
        values.round_().clamp_(np.iinfo(plan.dtype).min, np.iinfo(plan.dtype).max)
    if not plan.channels_first:
        values = values.permute(0, 2, 3, 1)
    wanted = torch.from_numpy(np.empty(0, plan.dtype)).dtype
    return values.to(wanted).reshape(len(values), *plan.shape).contiguous()


def _per_channel(amounts: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(amounts, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
