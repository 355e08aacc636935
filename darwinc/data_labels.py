"""Labels of calibration data: from a file, or as arrays that come with the data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darwinc.data_arrays import Array
from darwinc.data_sources import load_array
from darwinc.errors import InvalidData


def read_labels(path: Path, names: Sequence[str] | None = None) -> Array:
    """Labels [N, ...] in the samples' order, from `.npy`, `.txt` (one per line) or `.csv`.

    With `names` (the images' paths below their folder) lines may also say `image label` in any order. Labels that
    aren't numbers are classes, numbered in alphabetical order. Raises InvalidData for a file that can't be read, or
    that has no label for an image.
    """
    if path.suffix.lower() == ".npy":
        return tidy(np.array(load_array(path)))
    rows = _rows(path)
    if not rows:
        raise InvalidData(f"{path} holds no labels: give one for each sample")
    width = max(len(row) for row in rows)
    if width == 1:
        return tidy(_numbers([row[0] for row in rows]))
    if width != 2 or any(len(row) != 2 for row in rows):
        raise InvalidData(f"{path} has rows of up to {width} columns: give a label, or an image and a label, in each")
    if names is None:
        raise InvalidData(f"{path} names images, but the data are arrays: give one label per line, in their order")
    return tidy(_numbers(_by_name(rows, names, path)))


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"labels {path} can't be read as .npy, .txt or .csv: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix.lower() == ".csv":
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        return rows[1:] if rows and rows[0][-1].lower() in ("label", "labels", "class", "y", "target") else rows
    return [line.rsplit(maxsplit=1) for line in lines]


def _by_name(rows: Sequence[Sequence[str]], names: Sequence[str], path: Path) -> list[str]:
    """Each image's label, found by its path, else by its file name, else by that without suffix."""
    table = {row[0]: row[1] for row in rows}
    found = [_lookup(table, Path(name)) for name in names]
    missing = [name for name, label in zip(names, found, strict=True) if label is None]
    if missing:
        raise InvalidData(f"{path} has no label for {len(missing)} images, such as {missing[0]}: add them")
    return [label for label in found if label is not None]


def _lookup(table: dict[str, str], name: Path) -> str | None:
    return next((table[key] for key in (name.as_posix(), name.name, name.stem) if key in table), None)


def _numbers(texts: Sequence[str]) -> Array:
    try:
        return np.array([float(text) for text in texts])
    except ValueError:
        classes = {name: index for index, name in enumerate(sorted(set(texts)))}
        return np.array([classes[text] for text in texts], np.int64)


def tidy(labels: Array) -> Array:
    """Class numbers as int64 [N]: from whole floats, a column [N, 1] or one-hot rows [N, C]; others stay as they are.

    Raises InvalidData for labels that are neither numbers nor text.
    """
    if labels.dtype.kind in "US":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(labels.shape)
    if labels.dtype.kind not in "fiub":
        raise InvalidData(f"labels are {labels.dtype} values: give class numbers")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all():
        return np.asarray(labels.argmax(axis=1), np.int64)
    whole = labels.dtype.kind != "f" or bool(np.isfinite(labels).all() and (labels == np.rint(labels)).all())
    return labels.astype(np.int64) if labels.ndim == 1 and whole else labels
