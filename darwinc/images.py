"""Image files as calibration samples: found, decoded when asked for, kept decoded within a bound of memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from darwinc.preprocess import ImagePlan
from darwinc.runtime import Feed

Array = np.ndarray[Any, Any]

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))

_CACHE_BYTES = 512 * 2**20
_NAMED = 5
_NO_CLASSES = frozenset(
    ("annotations", "depth", "images", "labels", "masks", "test", "train", "val", "valid", "validation")
)

# What Pillow raises for a damaged file depends on where the damage is.
BAD_IMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def find_images(folder: Path) -> list[Path]:
    """Every image file in the folder and below, sorted; hidden files and folders are passed over."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def class_labels(folder: Path, paths: Sequence[Path]) -> Array | None:
    """Class numbers [N] from `folder/CLASS/image`, or None when the images don't lie so.

    Folder names that are all numbers are the classes; else they are numbered in alphabetical order. Folders that are
    named after parts of a dataset (images, masks, train, ...) are no classes.
    """
    parents = [path.parent for path in paths]
    names = sorted({parent.name for parent in parents})
    if any(parent.parent != folder for parent in parents) or len(names) < 2 or _NO_CLASSES.issuperset(names):
        return None
    numeric = all(name.isdecimal() for name in names)
    number = {name: int(name) if numeric else index for index, name in enumerate(names)}
    return np.array([number[parent.name] for parent in parents], np.int64)


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


@dataclass
class ImageSource:
    """Samples from image files, or from bytes [N, H, W] or [N, H, W, C] in memory, for one input of the model.

    `stated` says that the plan is what somebody asked for, and no guess.
    """

    name: str
    items: Sequence[Path] | Array
    plan: ImagePlan
    warnings: list[str] = field(default_factory=list)
    whole: bool = False
    stated: bool = True
    cache_bytes: int = _CACHE_BYTES
    _cache: dict[int, Array] = field(default_factory=dict, repr=False)
    _bad: dict[int, str] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def probe(self, index: int) -> bool:
        """Whether the item looks like an image from its first bytes; one that doesn't is counted as unreadable."""
        item = self.items[index]
        if not isinstance(item, Path):
            return True
        try:
            with Image.open(item):
                return True
        except BAD_IMAGE:
            self._unreadable(index, item)
            return False

    def read(self, indices: Sequence[int]) -> tuple[Feed, list[int]]:
        """The feed, and the indices that could be read: an image that can't is left out and named in `warnings`."""
        pixels, read = self.pixels(indices)
        return ({self.name: self.plan.numbers(pixels)} if read else {}), read

    def pixels(self, indices: Sequence[int], *, keep: bool = True) -> tuple[Array, list[int]]:
        """Bytes [N, height, width, C] before any arithmetic, and the indices that could be read.

        With `keep` they stay decoded, within `cache_bytes`. Several threads may ask at once.
        """
        decoded = [(index, pixels) for index in indices if (pixels := self._decode(index, keep)) is not None]
        if not decoded:
            return np.empty((0, self.plan.height, self.plan.width, self.plan.channels), np.uint8), []
        return np.stack([pixels for _, pixels in decoded]), [index for index, _ in decoded]

    def _decode(self, index: int, keep: bool) -> Array | None:
        if index in self._bad:
            return None
        if index in self._cache:
            return self._cache[index]
        item = self.items[index]
        try:
            if isinstance(item, Path):
                with Image.open(item) as image:
                    pixels = self.plan.pixels(image)
            else:
                pixels = self.plan.pixels(Image.fromarray(item))
        except BAD_IMAGE:
            self._unreadable(index, item)
            return None
        if keep and (len(self._cache) + 1) * pixels.nbytes <= self.cache_bytes:
            self._cache[index] = pixels
        return pixels

    def _unreadable(self, index: int, item: Any) -> None:
        """Count and name it, in one warning that grows."""
        with self._lock:
            old = self._warning()
            self._bad[index] = item.name if isinstance(item, Path) else f"image {index}"
            if old in self.warnings:
                self.warnings[self.warnings.index(old)] = self._warning()
            else:
                self.warnings.append(self._warning())

    def _warning(self) -> str:
        return f"{len(self._bad)} of {len(self)} images can't be read and are left out: {listed(self._bad.values())}"
