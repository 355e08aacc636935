"""Arrays as calibration samples: how they are fitted to a model's inputs, and handed out by index.

A sample is one entry of the batch axis; where the model has inputs without one (a state, a scalar), it's a whole feed,
and such samples can't be put together into larger batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from darwinc.errors import InvalidData
from darwinc.runtime import Feed, InputSpec

Array = np.ndarray[Any, Any]

LABEL_NAMES = ("y", "labels")


class Source(Protocol):
    """Samples by index. `warnings` grows while samples are read; `whole` says that each one is a feed of its own."""

    @property
    def warnings(self) -> list[str]: ...

    @property
    def whole(self) -> bool: ...

    def __len__(self) -> int: ...

    def probe(self, index: int) -> bool:
        """Whether the sample seems readable, found out cheaply."""

    def read(self, indices: Sequence[int]) -> tuple[Feed, list[int]]:
        """A feed of these samples, in order, and the indices that it holds: those that couldn't be read are missing."""


@dataclass
class ArraySource:
    """Arrays stacked along the batch axis [N, ...], and constants that every feed gets as they are."""

    arrays: dict[str, Array]
    inputs: Sequence[InputSpec]
    where: str
    constants: Feed = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    whole: bool = False

    def __len__(self) -> int:
        return min(len(array) for array in self.arrays.values())

    def probe(self, index: int) -> bool:
        return 0 <= index < len(self)

    def read(self, indices: Sequence[int]) -> tuple[Feed, list[int]]:
        feed: Feed = {}
        for spec in self.inputs:
            if spec.name in self.constants:
                feed[spec.name] = self.constants[spec.name]
                continue
            rows = self.arrays[spec.name][indices[0]] if self.whole else self.arrays[spec.name][list(indices)]
            feed[spec.name] = cast(np.asarray(rows), spec, self.where)
        return feed, list(indices)


@dataclass
class FeedSource:
    """A list of whole feeds."""

    feeds: list[Feed]
    inputs: Sequence[InputSpec]
    where: str
    warnings: list[str] = field(default_factory=list)
    whole: bool = True

    def __len__(self) -> int:
        return len(self.feeds)

    def probe(self, index: int) -> bool:
        return 0 <= index < len(self)

    def read(self, indices: Sequence[int]) -> tuple[Feed, list[int]]:
        feed = self.feeds[indices[0]]
        return {spec.name: cast(feed[spec.name], spec, self.where) for spec in self.inputs}, [indices[0]]


def cast(array: Array, spec: InputSpec, where: str) -> Array:
    """The array in the input's type. Raises InvalidData for NaN, infinity, or values that the type can't hold."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidData(f"{where} holds NaN or infinity for input '{spec.name}': clean the data")
    if spec.dtype.kind == "O":
        return array.astype(object)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, spec.dtype).reshape(array.shape)
    exact = spec.dtype.kind == "f" or array.dtype == spec.dtype or bool((converted == array).all())
    if not exact or (spec.dtype.kind == "f" and not np.isfinite(converted).all()):
        raise InvalidData(
            f"{where} holds {array.dtype} values that don't fit input {spec}: convert them to {spec.dtype}"
        )
    return converted


def batchable(inputs: Sequence[InputSpec]) -> bool:
    """Whether every input has a batch axis first: free, or of one fixed size that all share."""
    fixed = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    free = any(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs)
    return all(spec.shape for spec in inputs) and (len(fixed) < 2 if not free else fixed <= {1})


def fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    """Whether a shape is one of those that the axes allow; symbols allow every size."""
    return len(shape) == len(wanted) and all(
        size == axis or not isinstance(axis, int) for size, axis in zip(shape, wanted, strict=True)
    )


def by_input(arrays: Mapping[str, Array], inputs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """Each input's array, by name; for a single input `x`, or the only floating array, or the only one, will do."""
    if all(spec.name in arrays for spec in inputs):
        return {spec.name: arrays[spec.name] for spec in inputs}
    rest = {name: array for name, array in arrays.items() if name not in LABEL_NAMES}
    floats = [array for array in rest.values() if array.dtype.kind == "f"]
    if len(inputs) == 1:
        for choice in ([rest["x"]] if "x" in rest else [], floats, list(rest.values())):
            if len(choice) == 1:
                return {inputs[0].name: choice[0]}
    raise InvalidData(
        f"{where} holds {', '.join(f'{name!r}' for name in arrays) or 'no arrays'}, but the model's inputs are "
        f"{', '.join(map(str, inputs))}: name the arrays after the inputs"
    )


def from_arrays(arrays: Mapping[str, Array], inputs: Sequence[InputSpec], where: str) -> Source:
    """Arrays whose first axis counts samples, fitted to the inputs.

    Where all inputs have a batch axis the arrays may lack axes of length 1, or have some too many; where one has none
    they are one whole feed, or many with one more axis first. Raises InvalidData when nothing fits.
    """
    for spec in inputs:
        _require_kind(arrays[spec.name], spec, where)
    warnings = _integer_warnings(arrays, inputs, where)
    if not batchable(inputs):
        if all(fits(arrays[spec.name].shape, spec.shape) for spec in inputs):
            return FeedSource([dict(arrays)], inputs, where, warnings)
        return _whole_feeds(arrays, inputs, where, warnings)
    stacked = {spec.name: _with_unit_axes(arrays[spec.name], spec, where) for spec in inputs}
    return _counted(ArraySource(stacked, inputs, where, warnings=warnings))


def _whole_feeds(arrays: Mapping[str, Array], inputs: Sequence[InputSpec], where: str, warnings: list[str]) -> Source:
    scalars = [spec for spec in inputs if not spec.shape and arrays[spec.name].size == 1]
    constants = {spec.name: cast(arrays[spec.name].reshape(()), spec, where) for spec in scalars}
    rest = {spec.name: arrays[spec.name] for spec in inputs if spec.name not in constants}
    for spec in inputs:
        if spec.name in rest and not fits(rest[spec.name].shape[1:], spec.shape):
            shape = [len(rest[spec.name]), *spec.shape] if rest[spec.name].ndim else ["N", *spec.shape]
            wanted = ", ".join(str(size) for size in shape)
            raise InvalidData(
                f"{where} gives {list(rest[spec.name].shape)} for input {spec}: this model's inputs don't share a "
                f"batch axis, so every sample is a whole feed, and the array has to be [{wanted}]"
            )
    return _counted(ArraySource(rest, inputs, where, constants, warnings, whole=True))


def _with_unit_axes(array: Array, spec: InputSpec, where: str) -> Array:
    """The array itself when it fits; reshaped when only axes of length 1 are missing or too many."""
    tail = spec.shape[1:]
    if array.ndim and fits(array.shape[1:], tail):
        return array
    sizes = [size for size in array.shape[1:] if size != 1]
    wanted = [axis for axis in tail if axis != 1]
    if not array.ndim or not fits(sizes, wanted):
        raise InvalidData(_mismatch(array, spec, where))
    remaining = iter(sizes)
    return array.reshape(len(array), *(1 if axis == 1 else next(remaining) for axis in tail))


def _mismatch(array: Array, spec: InputSpec, where: str) -> str:
    wanted = ", ".join("?" if axis is None else str(axis) for axis in spec.shape)
    return (
        f"{where} holds an array {list(array.shape)} for input '{spec.name}', which wants [{wanted}]: "
        f"{_advice(array.shape, spec.shape)}"
    )


def _advice(found: Sequence[int], wanted: Sequence[int | str | None]) -> str:
    """What to do about arrays of images that have another layout or size; else something general."""
    if len(found) != 4 or len(wanted) != 4:
        return "reshape the array, or take other data"
    for order, move in (((0, 1, 2, 3), ""), ((0, 2, 3, 1), "channels last"), ((0, 3, 1, 2), "channels first")):
        moved = [found[axis] for axis in order]
        put = f"put {move}, with numpy.transpose(array, {order})" if move else ""
        if fits(moved[1:], wanted[1:]):
            return put
        colours = 1 if wanted[1] in (1, 3, 4) else 3
        if moved[colours] == wanted[colours]:
            sides = "x".join(str(wanted[axis]) for axis in range(1, 4) if axis != colours)
            return f"resize the images to {sides} pixels{' and ' + put if put else ''}"
    return "reshape the array, or take other data"


def _require_kind(array: Array, spec: InputSpec, where: str) -> None:
    numeric, text = array.dtype.kind in "fiub", array.dtype.kind in "UO"
    if (text and spec.dtype.kind == "O") or (numeric and spec.dtype.kind != "O"):
        return
    raise InvalidData(f"{where} holds {array.dtype} values for input {spec}: give {spec.dtype} values")


def _integer_warnings(arrays: Mapping[str, Array], inputs: Sequence[InputSpec], where: str) -> list[str]:
    return [
        f"{where} holds {arrays[spec.name].dtype} values for input '{spec.name}', a {spec.dtype}: arrays are taken as "
        "preprocessed, so they are used as they are"
        for spec in inputs
        if spec.dtype.kind == "f" and arrays[spec.name].dtype.kind in "iu"
    ]


def _counted(source: ArraySource) -> ArraySource:
    counts = {name: len(array) for name, array in source.arrays.items()}
    if len(set(counts.values())) == 1 and min(counts.values()) > 0:
        return source
    listed = ", ".join(f"{count} for '{name}'" for name, count in counts.items())
    raise InvalidData(f"{source.where} holds {listed or 'no'} samples: give every input the same number, above 0")


def from_feeds(feeds: list[Feed], inputs: Sequence[InputSpec], where: str) -> Source:
    """Feeds, each a batch or a single sample without its batch axis: joined where the inputs have a batch axis."""
    fitted = [_fitted(feed, inputs, where) for feed in feeds]
    if not fitted:
        raise InvalidData(f"{where} holds no samples: give at least one")
    if not batchable(inputs):
        return FeedSource(fitted, inputs, where)
    for feed in fitted:
        _counted(ArraySource(feed, inputs, where))
    first = fitted[0]
    if any(feed[name].shape[1:] != first[name].shape[1:] for feed in fitted for name in first):
        return FeedSource(fitted, inputs, where)
    joined = {spec.name: np.concatenate([feed[spec.name] for feed in fitted]) for spec in inputs}
    return _counted(ArraySource(joined, inputs, where, warnings=_integer_warnings(joined, inputs, where)))


def _fitted(feed: Feed, inputs: Sequence[InputSpec], where: str) -> Feed:
    """The feed with a batch axis wherever the input has one."""
    fitted: Feed = {}
    for spec in inputs:
        array = feed[spec.name]
        _require_kind(array, spec, where)
        if spec.shape and array.ndim == len(spec.shape) - 1:
            array = array[np.newaxis]
        whole = fits(array.shape, spec.shape)
        if not whole and not (batchable(inputs) and fits(array.shape[1:], spec.shape[1:]) and array.ndim):
            raise InvalidData(_mismatch(array, spec, where))
        fitted[spec.name] = array
    return fitted
