"""Label images: the class of every pixel, in a folder of images with the names of those that they belong to.

A pixel's grey value, or its place in the palette, is its class. 255 means that nothing is known there (PASCAL VOC,
Cityscapes), unless no mask holds anything but 0 and 255: then those are the classes 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from darwinc.data_arrays import Array
from darwinc.errors import InvalidData
from darwinc.images import BAD_IMAGE, find_images, listed
from darwinc.preprocess import ImagePlan

IGNORED = 255


def read_masks(folder: Path, names: Sequence[str], plan: ImagePlan) -> tuple[Array, list[int], list[str]]:
    """The masks [N, height, width] of the images named, resized and cut as those are, without mixing classes.

    Bytes, unless there are classes beyond 255; what lies beyond a mask's edge is 255, or -1 where there are. Also the
    positions of the names whose mask could be read, and a sentence about the others where there are any.

    Raises:
        InvalidData: an image has no mask, or none can be read.
    """
    paths = _paired(folder, names)
    masks: list[Array] = []
    read: list[int] = []
    bad: list[str] = []
    for position, path in enumerate(paths):
        try:
            with Image.open(path) as mask:
                masks.append(_small(plan.classes(mask)))
        except BAD_IMAGE as error:
            bad.append(f"{path.name} ({error})")
            continue
        read.append(position)
    if not masks:
        raise InvalidData(
            f"none of the label images in {folder} can be read: {listed(bad)}; give grey or palette images whose "
            "values are classes"
        )
    warnings = [f"{len(bad)} of {len(paths)} label images can't be read and are left out: {listed(bad)}"] if bad else []
    return _classes(np.stack(masks)), read, warnings


def _paired(folder: Path, names: Sequence[str]) -> list[Path]:
    """Each image's mask: the file at the same place below the folder, else that of the same name, without suffixes."""
    found = find_images(folder)
    by_place = {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}
    by_name = {path.stem: path for path in found}
    wanted = [PurePosixPath(name) for name in names]
    paths = [by_place.get(name.with_suffix("").as_posix(), by_name.get(name.stem)) for name in wanted]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise InvalidData(
            f"{folder} has no label image for {len(missing)} of {len(names)} images, such as {missing[0]}: give each "
            "one of the same name"
        )
    return [path for path in paths if path is not None]


def _small(mask: Array) -> Array:
    """The mask in the smallest type that holds it."""
    if mask.min() >= 0 and mask.max() <= IGNORED:
        return mask.astype(np.uint8)
    return mask.astype(np.int16 if mask.max() < 2**15 else np.int32)


def _classes(masks: Array) -> Array:
    largest = masks.max()
    if largest > IGNORED:
        return masks
    if largest == IGNORED and bool(((masks <= 0) | (masks == IGNORED)).all()):
        masks = np.where(masks == IGNORED, np.int16(1), masks)
    return np.where(masks < 0, IGNORED, masks).astype(np.uint8)
