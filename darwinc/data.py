"""Samples: `--data`, `--labels` and `--preprocess`, or made-up ones where there is no data.

samples = open_data("images/", input_specs(session), preprocess="imagenet", limit=512)
for batch in samples.batches(32):
    session.run(None, batch.feed)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from darwinc.data_arrays import LABEL_NAMES, Array, Source, batchable, by_input, from_arrays, from_feeds
from darwinc.data_labels import read_labels, tidy
from darwinc.data_masks import read_masks
from darwinc.data_sources import (
    DATASET,
    call,
    load_archive,
    load_array,
    load_dataset,
    load_tensors,
    rooted_dataset,
    tensor_folders,
)
from darwinc.errors import InvalidData
from darwinc.images import ImageSource, class_labels, find_images
from darwinc.preprocess import ImagePlan
from darwinc.preprocess_notes import FROM_MODEL, read_spec, stated_plan
from darwinc.runtime import Feed, InputSpec
from darwinc.synthetic import Colour, SyntheticSource

__all__ = [
    "Batch",
    "InputSpec",
    "Samples",
    "fitting_batches",
    "fixed_batch",
    "open_data",
    "rooted",
    "samples_in",
    "synthetic",
]

Indices = np.ndarray[Any, np.dtype[np.intp]]
Selection = slice | Sequence[int] | Array

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Batch:
    """A feed, and the labels of its samples where there are any."""

    feed: Feed
    labels: Array | None


@dataclass(frozen=True)
class Samples:
    """Calibration samples in order; `labels` has one entry for each, or is None.

    An image that turns out to be damaged when it's decoded is missing from its batch, and named in `warnings`: pair
    outputs with the labels of their Batch.
    """

    source: Source
    indices: Indices
    labels: Array | None
    warnings: list[str]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def preprocess(self) -> str | None:
        """How images are prepared, as a spec that `--preprocess` takes; None for arrays, and where it's a guess."""
        source = self.source
        return str(source.plan.steps) if isinstance(source, ImageSource) and source.stated else None

    def batches(self, size: int) -> Iterator[Batch]:
        """Feeds of up to `size` samples; of one, where a sample is a whole feed. The last may be smaller.

        Raises InvalidData when no sample can be read, or when one doesn't fit its input's type.
        """
        step = 1 if self.source.whole else max(1, size)
        none_yet = True
        for start in range(0, len(self), step):
            wanted = [int(index) for index in self.indices[start : start + step]]
            feed, read = self.source.read(wanted)
            if not read:
                continue
            none_yet = False
            yield Batch(feed, self._labels_of(start, wanted, read))
        if none_yet:
            raise InvalidData("none of the calibration samples can be read: " + "; ".join(self.warnings or ["no data"]))

    def _labels_of(self, start: int, wanted: list[int], read: list[int]) -> Array | None:
        if self.labels is None:
            return None
        present = set(read)
        return self.labels[[start + position for position, index in enumerate(wanted) if index in present]]

    def take(self, selection: Selection) -> Samples:
        """The samples that a slice, indices or a boolean mask choose, in that order."""
        chosen = selection if isinstance(selection, slice) else np.asarray(selection)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, indices=self.indices[chosen], labels=labels)

    def split(self, fraction: float, seed: int) -> tuple[Samples, Samples]:
        """Two random parts, both in order: `fraction` of the samples, and the rest."""
        order = np.random.default_rng(seed).permutation(len(self))
        first = round(fraction * len(self))
        return self.take(np.sort(order[:first])), self.take(np.sort(order[first:]))


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """How many samples a feed has to hold, where the first axes of the inputs say so."""
    sizes = [spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)]
    return min(sizes) if sizes and batchable(inputs) else None


def samples_in(feed: Mapping[str, Array]) -> int:
    """How many samples a feed holds: the longest first axis."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def fitting_batches(samples: Samples, inputs: Sequence[InputSpec], size: int) -> Iterator[Batch]:
    """Batches of as many samples as the inputs fix, a shorter rest left out; of up to `size` where they fix nothing.

    Raises InvalidData when the samples don't fill one batch.
    """
    fixed = None if samples.source.whole else fixed_batch(inputs)
    if fixed is None:
        yield from samples.batches(size)
        return
    if len(samples) < fixed:
        raise InvalidData(f"{len(samples)} samples were given, but the model takes {fixed} at once: give more")
    yield from samples.take(slice(0, len(samples) // fixed * fixed)).batches(fixed)


def open_data(
    spec: str,
    inputs: Sequence[InputSpec],
    *,
    labels: str | None = None,
    preprocess: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    option: str = "--data",
    metadata: Mapping[str, str] | None = None,
) -> Samples:
    """Open what `--data` names: a folder, an `.npz` or `.npy`, `torchvision:NAME` or `package.module:callable`.

    `labels` is a file, or a folder of label images where the data are a folder of images. `preprocess` is a spec, a
    JSON file of Hugging Face or timm, or `model` for what the model's `metadata` say, which is the default where they
    say something. With `limit` a random choice of that many samples, in order. `option` is where the spec came from,
    for messages. Raises InvalidData when the data or the labels can't be read or don't fit the model's inputs,
    UsageError for a `preprocess` that can't be parsed.
    """
    if not inputs:
        raise InvalidData("the model has no inputs: there is nothing to give data to")
    if limit is not None and limit < 1:
        raise InvalidData(f"a limit of {limit} samples was asked for: give at least 1")
    if preprocess not in (None, FROM_MODEL):
        read_spec(str(preprocess))
    source, own, names = _open(spec, inputs, partial(stated_plan, preprocess, metadata or {}), limit, option)
    if preprocess and not isinstance(source, ImageSource):
        source.warnings.append(f"--preprocess is for images: the arrays of {spec} are taken as they are")
    path = None if labels is None else _existing(labels, "labels")
    dense = path is not None and path.is_dir()
    known = own if path is None or dense else read_labels(path, names)
    known = None if known is None or dense else tidy(known)
    if known is not None and len(known) != len(source):
        raise InvalidData(f"{labels or spec} has {len(known)} labels for {len(source)} samples: give one for each")
    samples = Samples(source, np.arange(len(source)), known, source.warnings)
    samples = samples.take(_chosen(source, limit, seed, spec))
    return samples if path is None or not dense else _with_masks(samples, path, names, spec)


def rooted(spec: str) -> str:
    """The same `--data` or `--labels` from any working directory: paths are absolute."""
    path = Path(spec).expanduser()
    if path.exists():
        return str(path.absolute())
    return rooted_dataset(spec) if spec.startswith(DATASET) else spec


def _with_masks(samples: Samples, folder: Path, names: list[str] | None, spec: str) -> Samples:
    """The samples whose label images can be read, with those."""
    if names is None or not isinstance(samples.source, ImageSource):
        raise InvalidData(
            f"labels {folder} is a folder, for label images beside a folder of images, but {spec} isn't one: give "
            "labels in an .npy, or as y in the .npz"
        )
    wanted = [names[int(index)] for index in samples.indices]
    labels, read, warnings = read_masks(folder, wanted, samples.source.plan)
    samples.warnings.extend(warnings)
    return replace(samples.take(read), labels=labels)


def _chosen(source: Source, limit: int | None, seed: int, spec: str) -> Indices:
    """The indices of up to `limit` samples that seem readable."""
    order = np.random.default_rng(seed).permutation(len(source)) if limit else np.arange(len(source))
    chosen: list[int] = []
    for index in order:
        if source.probe(int(index)):
            chosen.append(int(index))
        if len(chosen) == limit:
            break
    if not chosen:
        raise InvalidData(f"{spec} holds no sample that can be read: {'; '.join(source.warnings)}")
    return np.sort(np.array(chosen, np.intp))


def _existing(path: str, what: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise InvalidData(f"{what} {path} doesn't exist: give a file or a folder")
    return found


_Opened = tuple[Source, Array | None, list[str] | None]
_Prepared = Callable[[InputSpec, tuple[int, int, int] | None], tuple[ImagePlan, str, bool]]


def _open(spec: str, inputs: Sequence[InputSpec], prepared: _Prepared, limit: int | None, option: str) -> _Opened:
    """The source, the labels that come with it, and the names of its images where it has some."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, inputs, prepared)
    if path.is_file():
        return _open_file(path, inputs)
    if spec.startswith(DATASET):
        return _open_dataset(spec, inputs, prepared)
    if _CALLABLE.fullmatch(spec):
        return *call(spec, inputs, limit), None
    raise InvalidData(
        f"{option} {spec} doesn't exist: give a folder of images or of ONNX input_*.pb, an .npz or .npy, "
        "torchvision:NAME or package.module:callable"
    )


def _open_folder(path: Path, inputs: Sequence[InputSpec], prepared: _Prepared) -> _Opened:
    folders = tensor_folders(path)
    if folders:
        return from_feeds([load_tensors(folder, inputs) for folder in folders], inputs, str(path)), None, None
    paths = find_images(path)
    if not paths:
        raise InvalidData(f"{path} holds neither images nor ONNX input_*.pb files: give a folder that does, or an .npz")
    source = _images(paths, inputs, prepared, None, str(path))
    labels = class_labels(path, paths)
    parts = sorted({found.parent.parent for found in paths})
    if labels is None and all(part.parent == path for part in parts):
        source.warnings.append(
            f"the images of {path} lie two folders deep, so no labels are taken from the names of folders: give one "
            f"part of the data set, such as {parts[0]}"
        )
    return source, labels, [found.relative_to(path).as_posix() for found in paths]


def _open_file(path: Path, inputs: Sequence[InputSpec]) -> _Opened:
    if path.suffix.lower() == ".npy":
        return from_arrays(by_input({"x": load_array(path)}, inputs, str(path)), inputs, str(path)), None, None
    if path.suffix.lower() != ".npz":
        raise InvalidData(f"{path} is a '{path.suffix}' file: give an .npz or .npy, or a folder of images")
    arrays = load_archive(path)
    taken = {spec.name for spec in inputs}
    own = next((arrays[name] for name in LABEL_NAMES if name in arrays and name not in taken), None)
    return from_arrays(by_input(arrays, inputs, str(path)), inputs, str(path)), own, None


def _open_dataset(spec: str, inputs: Sequence[InputSpec], prepared: _Prepared) -> _Opened:
    images, labels = load_dataset(spec)
    native = (images.shape[1], images.shape[2], images.shape[3] if images.ndim == 4 else 1)
    return _images(images, inputs, prepared, native, spec), labels, None


def _images(
    items: list[Path] | Array,
    inputs: Sequence[InputSpec],
    prepared: _Prepared,
    native: tuple[int, int, int] | None,
    where: str,
) -> ImageSource:
    if len(inputs) != 1:
        raise InvalidData(
            f"{where} holds images, but the model has {len(inputs)} inputs ({', '.join(map(str, inputs))}): "
            "give arrays named after them in an .npz"
        )
    plan, remark, known = prepared(inputs[0], native)
    return ImageSource(inputs[0].name, items, plan, [remark] if remark else [], stated=known)


def synthetic(
    inputs: Sequence[InputSpec], count: int, seed: int, colour: Colour = "pink", *, free: int = 64
) -> Samples:
    """Made-up samples: 1/f noise in correlated colours for image-like inputs (or white noise), small integers else.

    Free axes after the first are `free` long; `darwinc.runtime.pin` gives them the sizes of a feed that works.
    """
    source = SyntheticSource(list(inputs), count, seed, colour, free)
    return Samples(source, np.arange(count), None, source.warnings)
