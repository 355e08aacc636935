"""Batches for calibration: `--data`, `--labels` and `--preprocess`, or made-up samples where there is no data.

samples = open_data("images/", input_specs(session), preprocess="imagenet", limit=512)
for batch in samples.batches(32):
    session.run(None, batch.feed)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from darwinc.data_arrays import LABEL_NAMES, Array, Source, batchable, by_input, from_arrays, from_feeds
from darwinc.data_labels import read_labels, tidy
from darwinc.data_sources import call, load_archive, load_array, load_dataset, load_tensors, tensor_folders
from darwinc.errors import InvalidData
from darwinc.images import ImageSource, class_labels, find_images
from darwinc.preprocess import Preprocess, parse, plan_images
from darwinc.runtime import Feed, InputSpec
from darwinc.synthetic import Colour, SyntheticSource

__all__ = ["Batch", "InputSpec", "Samples", "fitting_batches", "fixed_batch", "open_data", "samples_in", "synthetic"]

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
) -> Samples:
    """Open what `--data` names: a folder, an `.npz` or `.npy`, `torchvision:NAME` or `package.module:callable`.

    With `limit` a random choice of that many samples, in order. `option` is where the spec came from, for messages.
    Raises InvalidData when the data or the labels can't be read or don't fit the model's inputs, UsageError for a
    `preprocess` that can't be parsed.
    """
    if not inputs:
        raise InvalidData("the model has no inputs: there is nothing to give data to")
    if limit is not None and limit < 1:
        raise InvalidData(f"a limit of {limit} samples was asked for: give at least 1")
    steps = parse(preprocess) if preprocess else None
    source, own, names = _open(spec, inputs, steps, limit, option)
    known = own if labels is None else read_labels(_existing(labels, "labels"), names)
    known = None if known is None else tidy(known)
    if known is not None and len(known) != len(source):
        raise InvalidData(f"{labels or spec} has {len(known)} labels for {len(source)} samples: give one for each")
    if preprocess and not isinstance(source, ImageSource):
        source.warnings.append(f"--preprocess is for images: the arrays of {spec} are taken as they are")
    samples = Samples(source, np.arange(len(source)), known, source.warnings)
    return samples.take(_chosen(source, limit, seed, spec))


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


def _open(spec: str, inputs: Sequence[InputSpec], steps: Preprocess | None, limit: int | None, option: str) -> _Opened:
    """The source, the labels that come with it, and the names of its images where it has some."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, inputs, steps)
    if path.is_file():
        return _open_file(path, inputs)
    if spec.startswith("torchvision:"):
        return _open_dataset(spec, inputs, steps)
    if _CALLABLE.fullmatch(spec):
        return *call(spec, inputs, limit), None
    raise InvalidData(
        f"{option} {spec} doesn't exist: give a folder of images or of ONNX input_*.pb, an .npz or .npy, "
        "torchvision:NAME or package.module:callable"
    )


def _open_folder(path: Path, inputs: Sequence[InputSpec], steps: Preprocess | None) -> _Opened:
    folders = tensor_folders(path)
    if folders:
        return from_feeds([load_tensors(folder, inputs) for folder in folders], inputs, str(path)), None, None
    paths = find_images(path)
    if not paths:
        raise InvalidData(f"{path} holds neither images nor ONNX input_*.pb files: give a folder that does, or an .npz")
    source = _images(paths, inputs, steps, None, str(path))
    return source, class_labels(path, paths), [found.relative_to(path).as_posix() for found in paths]


def _open_file(path: Path, inputs: Sequence[InputSpec]) -> _Opened:
    if path.suffix.lower() == ".npy":
        return from_arrays(by_input({"x": load_array(path)}, inputs, str(path)), inputs, str(path)), None, None
    if path.suffix.lower() != ".npz":
        raise InvalidData(f"{path} is a '{path.suffix}' file: give an .npz or .npy, or a folder of images")
    arrays = load_archive(path)
    taken = {spec.name for spec in inputs}
    own = next((arrays[name] for name in LABEL_NAMES if name in arrays and name not in taken), None)
    return from_arrays(by_input(arrays, inputs, str(path)), inputs, str(path)), own, None


def _open_dataset(spec: str, inputs: Sequence[InputSpec], steps: Preprocess | None) -> _Opened:
    images, labels = load_dataset(spec)
    native = (images.shape[1], images.shape[2], images.shape[3] if images.ndim == 4 else 1)
    return _images(images, inputs, steps, native, spec), labels, None


def _images(
    items: list[Path] | Array,
    inputs: Sequence[InputSpec],
    steps: Preprocess | None,
    native: tuple[int, int, int] | None,
    where: str,
) -> ImageSource:
    if len(inputs) != 1:
        raise InvalidData(
            f"{where} holds images, but the model has {len(inputs)} inputs ({', '.join(map(str, inputs))}): "
            "give arrays named after them in an .npz"
        )
    if steps is not None:
        return ImageSource(inputs[0].name, items, plan_images(inputs[0], steps, native))
    integers = inputs[0].dtype.kind in "iu"
    source = ImageSource(inputs[0].name, items, plan_images(inputs[0], parse("none" if integers else "unit"), native))
    span = "as bytes 0-255" if integers else "scaled to 0-1"
    source.warnings.append(
        f"no --preprocess was given: pixels are {span}, which may not be what the model was made for"
    )
    return source


def synthetic(
    inputs: Sequence[InputSpec], count: int, seed: int, colour: Colour = "pink", *, free: int = 64
) -> Samples:
    """Made-up samples: 1/f noise in correlated colours for image-like inputs (or white noise), small integers else.

    Free axes after the first are `free` long; `darwinc.runtime.pin` gives them the sizes of a feed that works.
    """
    source = SyntheticSource(list(inputs), count, seed, colour, free)
    return Samples(source, np.arange(count), None, source.warnings)
