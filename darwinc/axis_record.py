"""The words in which the axis rules write down what they find: one small record for each kind of fact.

Every axis of every value carries one *position id* per element. Id 0 (`FIXED`) marks positions that can't be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc.shape_numbers import Number

FIXED = 0

Ids = npt.NDArray[np.int64]
Axis = Ids | None
"""Position ids of one axis; None where its size is unknown (such an axis never loses positions)."""


@dataclass(frozen=True, eq=False)
class Tracked:
    """What is known of one value.

    Attributes:
        axes: the position ids of every axis.
        silent: for every axis, whether a removed position holds nothing but zeros where the removed weights are zero:
            summing over such an axis is exact.
        constant: made from constants alone.
        numbers: what it holds, where that is a short list of numbers (a shape, a scale computed from one).
        dtype: of those numbers.
    """

    axes: tuple[Axis, ...]
    silent: tuple[bool, ...] = ()
    constant: bool = False
    numbers: tuple[Number, ...] | None = None
    dtype: np.dtype[Any] | None = None

    def is_silent(self, axis: int) -> bool:
        """Are removed positions of an axis zero? Trivially so where none can be removed."""
        return is_fixed(self.axes[axis]) or (axis < len(self.silent) and self.silent[axis])

    def all_silent(self) -> tuple[bool, ...]:
        """`is_silent` of every axis."""
        return tuple(self.is_silent(axis) for axis in range(len(self.axes)))


@dataclass(frozen=True, eq=False)
class ConstantUse:
    """One reader of one stored constant; every reader has ids of its own, so that sharing couples nothing."""

    node: ir.Node
    index: int
    value: ir.Value
    axes: tuple[Ids, ...]


@dataclass(frozen=True, eq=False)
class Fill:
    """A ConstantOfShape of a stored shape: a weight without an array of its own."""

    node: ir.Node
    axes: tuple[Ids, ...]


@dataclass(frozen=True, eq=False)
class Follower:
    """An integer that must be the number of living positions among `ids`, over `divisor`.

    Its place is an input (a constant, or computed) or an attribute; `element` is its index there, None where it isn't
    in a list.
    """

    node: ir.Node
    place: int | str
    element: int | None
    ids: Ids
    divisor: int = 1


@dataclass(frozen=True, eq=False)
class Implied:
    """An attribute that a node doesn't have, and whose default depends on the number of `ids`.

    Where any go, the attribute is written down with its present value.
    """

    node: ir.Node
    name: str
    value: float
    ids: Ids


@dataclass(frozen=True, eq=False)
class Picks:
    """A stored list of indices into an axis: it loses the dead ones, and the others are counted anew.

    `chosen` are the indices as stored, flat; `before` the ids of the axis that they point into.
    """

    node: ir.Node
    index: int
    chosen: Ids
    before: Ids


@dataclass(frozen=True, eq=False)
class Reader:
    """A node that mixes channels through a weight: positions of the `data` axis meet those of the `weight` axis."""

    node: ir.Node
    data: int
    data_axis: int
    weight: int
    weight_axis: int
    groups: int
    ids: Ids


@dataclass(frozen=True, eq=False)
class Contraction:
    """A node that sums over positions of two computed values: `left` and `right` are (input, axis)."""

    node: ir.Node
    left: tuple[int, int]
    right: tuple[int, int]
    ids: Ids


@dataclass(frozen=True, eq=False)
class Product:
    """`cells[r, c]` dies exactly when `rows[r]` or `columns[c]` does: an axis split in two, or two merged into one."""

    rows: Ids
    columns: Ids
    cells: Ids
    node: ir.Node


@dataclass(frozen=True)
class Barrier:
    """Positions that must stay, the node that holds them, and why."""

    node: ir.Node | None
    reason: str
    ids: Ids


def fixed(size: int) -> Ids:
    """An axis of positions that can't be removed; takes no memory."""
    return np.broadcast_to(np.int64(FIXED), (size,))


def fixed_like(sizes: Sequence[int | None]) -> tuple[Axis, ...]:
    """Fixed axes for a whole shape."""
    return tuple(None if size is None else fixed(size) for size in sizes)


def is_fixed(axis: Axis) -> bool:
    """Does the axis hold nothing that could be removed?"""
    return axis is None or not axis.any()
