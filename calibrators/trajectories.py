"""How units moved while a network was trained: adaptability, from checkpoints or from training itself.

theta_i are the weights that make and read unit i. A unit adapts well if it moves far for its size, one way:
NAS_i = |step| / |theta_i|, the mean over steps, over its median in the group, times (1/2 + rho_i / 2), with rho_i the
displacement from the first to the last over the length of the path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from darwinc import graph
from darwinc.axis_record import Ids, is_fixed
from darwinc.channels import Channels
from darwinc.errors import InvalidData, InvalidModel
from darwinc.fitness.statistics import Indices, Vector

Array = npt.NDArray[np.generic]
SUFFIXES = (".onnx", ".safetensors")
SLAB = 2**22
"""Elements of a weight that are looked at in one go."""


class Trajectory:
    """Follows the weights of a graph, step by step.

    It holds the first and the last weights that it was given, and for every step two numbers for each component.
    """

    def __init__(self, channels: Channels) -> None:
        self._count = channels.count
        self._axes = _axes(channels)
        self._first: dict[str, Array] = {}
        self._last: dict[str, Array] = {}
        self._squares: list[tuple[Vector, Vector]] = []

    @property
    def names(self) -> Sequence[str]:
        """The weights that are followed: matrices and filters with channels of any group."""
        return list(self._axes)

    @property
    def steps(self) -> int:
        """How many steps were seen: one less than weights were given."""
        return len(self._squares)

    def add(self, weights: Mapping[str, Array]) -> None:
        """The weights as they are now, by name; they are copied. Those of the first call are followed.

        Raises:
            InvalidData: none of them is one of the graph's, one is missing that was there at first, one has another
                shape than in the graph, or holds what is no number.
        """
        begun = bool(self._first)
        names = list(self._first) if begun else [name for name in self._axes if name in weights]
        if not names:
            raise InvalidData(
                f"A checkpoint has none of the model's {len(self._axes)} weights with channels, such as "
                f"{next(iter(self._axes), 'none')!r}; its tensors must be named like the model's initializers."
            )
        squares, sizes = np.zeros(self._count), np.zeros(self._count)
        for name in names:
            if name not in weights:
                raise InvalidData(f"A checkpoint lacks {name!r}, which the first has; give checkpoints of one network.")
            new, wanted = np.array(weights[name]), tuple(len(ids) for ids in self._axes[name][0])
            if new.shape != wanted:
                raise InvalidData(
                    f"A checkpoint has {name!r} in the shape {list(new.shape)}, where the model has {list(wanted)}; "
                    "give checkpoints of the same network."
                )
            if name in self._last:
                self._add_squares(name, squares, self._last[name], new)
                self._add_squares(name, sizes, self._last[name], None)
            self._first.setdefault(name, new)
            self._last[name] = new
        if not (np.isfinite(squares).all() and np.isfinite(sizes).all()):
            raise InvalidData("A checkpoint has weights that are no numbers; give those from before training diverged.")
        if begun:
            self._squares.append((squares, sizes))

    def _add_squares(self, name: str, total: Vector, old: Array, new: Array | None) -> None:
        """The squared distance of the weights of each component, or their squared size."""
        size = max(1, SLAB * len(old) // max(old.size, 1))
        sums = [np.zeros(length) for length in old.shape]
        for start in range(0, len(old), size):
            rows = slice(start, start + size)
            moved = old[rows].astype(np.float64)
            moved = np.square(moved if new is None else new[rows].astype(np.float64) - moved)
            for axis, found in enumerate(sums):
                part = moved.sum(axis=tuple(other for other in range(moved.ndim) if other != axis))
                found[rows if axis == 0 else slice(None)] += part
        for axis, of_component in self._components(name):
            np.add.at(total, of_component, sums[axis])

    def _components(self, name: str) -> Iterator[tuple[int, Ids]]:
        seen: set[tuple[int, bytes]] = set()
        for axes in self._axes[name]:
            for axis, ids in enumerate(axes):
                key = (axis, ids.tobytes())
                if ids.any() and key not in seen:
                    seen.add(key)
                    yield axis, ids

    def adaptability(self, channels: Channels) -> Vector:
        """NAS of each unit [count], 1 where nothing is known; `channels` say which components are which unit's.

        Raises:
            InvalidData: fewer than two checkpoints were added.
        """
        if not self._squares:
            raise InvalidData("A trajectory takes at least two checkpoints; give a folder that holds more of them.")
        owners = channels.owners
        displacement = np.zeros(self._count)
        for name, first in self._first.items():
            self._add_squares(name, displacement, first, self._last[name])
        speed, path = np.zeros((2, self._count))
        for squares, sizes in self._squares:
            step, size = np.sqrt(_by_unit(owners, squares)), np.sqrt(_by_unit(owners, sizes))
            path += step
            speed += np.divide(step, size, out=np.zeros_like(step), where=size > 0)
        straight = np.divide(np.sqrt(_by_unit(owners, displacement)), path, out=np.zeros_like(path), where=path > 0)
        found = np.ones(self._count)
        for group in channels.groups:
            moved = speed[group.units]
            if moved.any():
                usual = float(np.median(moved[moved > 0]))
                found[group.units] = moved / usual * (0.5 + 0.5 * np.minimum(straight[group.units], 1.0))
        return found


def _by_unit(owners: Indices, squares: Vector) -> Vector:
    total = np.zeros(len(owners))
    for column in owners.T:
        np.add.at(total, column, squares)
    return total


def _axes(channels: Channels) -> dict[str, list[tuple[Ids, ...]]]:
    """The components along every axis of the matrices and filters that make or read channels, once per reader."""
    found: dict[str, list[tuple[Ids, ...]]] = {}
    for use in channels.flow.uses:
        tensor, source = graph.constant_tensor(use.value), graph.constant_source(use.value)
        if tensor is None or source is None or not tensor.dtype.is_floating_point():
            continue
        if sum(size > 1 for size in tensor.shape.numpy()) < 2 or all(is_fixed(ids) for ids in use.axes):
            continue
        found.setdefault(str(source.name), []).append(tuple(channels.component[ids] for ids in use.axes))
    return found


def from_checkpoints(channels: Channels, paths: Sequence[str]) -> Trajectory:
    """The trajectory of checkpoints of the same graph, read one at a time.

    `paths` is a folder, whose checkpoints are taken in the order of their names, or the checkpoints in order: .onnx, or
    .safetensors whose tensors are named like the initializers. Pickles are never read.

    Raises:
        InvalidData: fewer than two checkpoints, one that can't be read, or one that doesn't fit the graph.
    """
    files = _files(paths)
    if len(files) < 2:
        raise InvalidData(
            f"--trajectory {' '.join(paths)} names {len(files)} checkpoint{'' if len(files) == 1 else 's'} "
            f"({' or '.join(SUFFIXES)}); give at least two."
        )
    trajectory = Trajectory(channels)
    for file in files:
        try:
            trajectory.add(_read(file, trajectory.names))
        except InvalidData as error:
            raise InvalidData(f"{file}: {error}") from error
    return trajectory


def _files(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES)
        elif not path.is_file():
            raise InvalidData(f"--trajectory {path} isn't there; name a folder of checkpoints, or a checkpoint.")
        elif path.suffix not in SUFFIXES:
            raise InvalidData(f"--trajectory {path} is no {' or '.join(SUFFIXES)} file; pickles are not read.")
        else:
            files.append(path)
    return files


def _read(file: Path, names: Sequence[str]) -> dict[str, Array]:
    """The weights of these names that a checkpoint has."""
    if file.suffix == ".onnx":
        try:
            stored = graph.constants(graph.load_model(file))
        except InvalidModel as error:
            raise InvalidData(f"it can't be read ({error})") from error
        return {name: stored[name].numpy() for name in names if name in stored}
    try:
        # torch reads bfloat16, which NumPy has no word for.
        with safe_open(file, framework="pt") as opened:
            known = set(opened.keys())
            return {name: opened.get_tensor(name).float().numpy() for name in names if name in known}
    except (SafetensorError, OSError) as error:
        raise InvalidData(f"it can't be read ({error}); give a whole .safetensors file.") from error
