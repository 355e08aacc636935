"""What the axis rules write down: which channel positions live and die together.

Every axis of every value carries one *position id* per element. Id 0 (`FIXED`) marks positions that can't be removed.
Rules tie ids together, block them, declare that one axis is the product of two others, and note which integers in the
graph must follow when positions go. Nothing is decided here; `channels` turns the record into channel groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.shapes import Shapes

FIXED = 0
RELIED_ON = "its size is used as a number"
MOST_NUMBERS = 64
"""A longer list of integers is data, not a shape."""

Ids = npt.NDArray[np.int64]
Axis = Ids | None
"""Position ids of one axis; None where its size is unknown (such an axis never loses positions)."""


@dataclass(frozen=True, eq=False)
class Number:
    """One integer of a shape-like value: where it comes from, so that it can follow its axis."""

    value: int | None
    origin: tuple[ir.Node, int, int] | None = None
    """Reader, input index and flat element index of the stored constant that says this number."""
    axis: Axis = None
    """The axis whose size this is, when it was computed by Shape: it follows by itself."""


@dataclass(frozen=True, eq=False)
class Tracked:
    """What is known of one value."""

    axes: tuple[Axis, ...]
    weight: bool = False
    """Made from constants by operators that keep zeros zero: contracting over it is exact when a position dies."""
    numbers: tuple[Number, ...] | None = None


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
    """An integer that must be the number of living positions among `ids`.

    Its place is an input (a constant) or an attribute; `element` is its index there, None where it isn't in a list.
    """

    node: ir.Node
    place: int | str
    element: int | None
    ids: Ids


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


@dataclass
class Flow:
    """The record, and the few verbs with which rules add to it."""

    shapes: Shapes
    opset: int
    values: dict[str, Tracked] = field(default_factory=dict)
    uses: list[ConstantUse] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    work: list[tuple[ir.Node, tuple[Ids, ...], int]] = field(default_factory=list)
    """(node, axes, factor): its MACs are the factor times the product of the living positions of the axes."""
    relied: set[tuple[ir.Node, int | str, int | None]] = field(default_factory=set)
    """Stored numbers (a follower's node, place, element) that somebody needs as they are."""
    read: set[tuple[ir.Node, int]] = field(default_factory=set)
    """The inputs (node, index) that a rule has looked at: what happens to their axes is the rule's business."""
    count: int = 1
    _cache: dict[tuple[ir.Node, int], Tracked | None] = field(default_factory=dict)

    # Reading -------------------------------------------------------------------------------------------------------

    def tracked(self, node: ir.Node, index: int) -> Tracked | None:
        """What is known of input `index`; None where the input is absent or its rank is unknown."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        self.read.add((node, index))
        if graph.constant_source(value) is None:
            return self.values.get(str(value.name))
        if (node, index) not in self._cache:
            self._cache[node, index] = self._use(node, index, value)
        return self._cache[node, index]

    def _use(self, node: ir.Node, index: int, value: ir.Value) -> Tracked | None:
        tensor = graph.constant_tensor(value)
        if tensor is None:
            return None
        sizes, numbers = tensor.shape.numpy(), None
        if tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32):
            axes = tuple(fixed(size) for size in sizes)
            if tensor.size <= MOST_NUMBERS and len(axes) <= 1:
                flat = tensor.numpy().ravel()
                numbers = tuple(Number(int(number), (node, index, k)) for k, number in enumerate(flat))
        else:
            axes = tuple(self.fresh(size) for size in sizes)
        self.uses.append(ConstantUse(node, index, value, axes))
        return Tracked(axes, True, numbers)

    def understood(self, node: ir.Node) -> bool:
        """Is the rank of every input known?"""
        for value in node.inputs:
            if value is None:
                continue
            constant = graph.constant_source(value) is not None
            if graph.constant_tensor(value) is None if constant else str(value.name) not in self.values:
                return False
        return True

    def axes(self, node: ir.Node, index: int) -> tuple[Axis, ...] | None:
        """The axes of input `index`."""
        found = self.tracked(node, index)
        return None if found is None else found.axes

    def numbers(self, node: ir.Node, index: int) -> tuple[Number, ...] | None:
        """The integers that input `index` holds, as far as they could be followed; how many they are must stay."""
        found = self.tracked(node, index)
        if found is None:
            return None
        self.block_all(found.axes, node, "is read as a list of numbers")
        return found.numbers

    def known(self, node: ir.Node, index: int) -> list[int] | None:
        """Input `index` as plain integers, which are relied on; None where any of them is unknown."""
        numbers = self.numbers(node, index)
        if numbers is None:
            return None
        self.rely(numbers, node)
        values = [number.value for number in numbers]
        return None if None in values else [int(value) for value in values if value is not None]

    def shape(self, value: ir.Value | None) -> tuple[int | None, ...] | None:
        """The inferred shape of a value."""
        return None if value is None else self.shapes.known.get(str(value.name))

    # Writing -------------------------------------------------------------------------------------------------------

    def fresh(self, size: int) -> Ids:
        """New ids for an axis. A single position can't be removed: its axis would be empty."""
        return fixed(1) if size == 1 else self.positions(size)

    def positions(self, size: int) -> Ids:
        """New ids for positions of their own, also where there is but one (one channel of padding)."""
        ids = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        return ids

    def put(
        self,
        node: ir.Node,
        axes: Sequence[Axis],
        *,
        output: int = 0,
        weight: bool = False,
        numbers: tuple[Number, ...] | None = None,
    ) -> None:
        """Say what an output of `node` is. An axis left with one position is fixed."""
        if output >= len(node.outputs):
            return
        settled: list[Axis] = []
        for axis in axes:
            if axis is not None and len(axis) == 1 and axis[0] != FIXED:
                self.block(axis, node, "an axis of one channel can't lose it")
            settled.append(axis)
        self.values[str(node.outputs[output].name)] = Tracked(tuple(settled), weight, numbers)

    def tie(self, first: Axis, second: Axis, node: ir.Node) -> None:
        """Positions at the same place live and die together."""
        if first is None or second is None or first is second:
            self.block(
                second if first is None else first, node, "meets an axis of unknown size"
            ) if first is not second else None
            return
        if len(first) != len(second):
            self.block(first, node, f"meets an axis of {len(second)} positions")
            self.block(second, node, f"meets an axis of {len(first)} positions")
            return
        loose = (first == FIXED) != (second == FIXED)
        if loose.any():
            self.block(np.maximum(first, second)[loose], node, "is combined with positions that can't be removed")
        linked = (first != FIXED) & (second != FIXED) & (first != second)
        if linked.any():
            self.ties.append((first[linked], second[linked]))

    def block(self, axis: Axis, node: ir.Node | None, reason: str) -> None:
        """These positions must stay."""
        if axis is None:
            return
        ids = axis[axis != FIXED]
        if ids.size:
            self.barriers.append(Barrier(node, reason, ids))

    def pin(self, axes: Iterable[Axis]) -> None:
        """These positions stay, and nobody would expect otherwise: no barrier is told."""
        for axis in axes:
            if not is_fixed(axis) and axis is not None:
                self.ties.append((axis, np.zeros_like(axis)))

    def block_all(self, axes: Iterable[Axis] | None, node: ir.Node | None, reason: str) -> None:
        """Every position of every axis must stay."""
        for axis in axes or ():
            self.block(axis, node, reason)

    def follow(self, number: Number | None, axis: Axis, node: ir.Node) -> None:
        """A shape constant's number says the size of `axis`: it must follow it, or the axis must stay."""
        if axis is None or is_fixed(axis):
            self.rely((number,) if number is not None else None, node)
        elif number is not None and number.origin is not None:
            self.followers.append(Follower(*number.origin, axis))
        elif number is None or number.axis is None:
            self.block(axis, node, "its size is computed in the graph in a way that can't be followed")
        else:
            self.tie(number.axis, axis, node)

    def rely(self, numbers: Iterable[Number] | None, node: ir.Node | None) -> None:
        """These numbers must stay what they are: an axis whose size one is, and a constant that another reader stores.

        A constant that `node` itself reads can be cut for somebody else without `node` noticing.
        """
        for number in numbers or ():
            self.block(number.axis, node, RELIED_ON)
            if number.origin is not None and number.origin[0] is not node:
                self.relied.add(number.origin)

    def barrier(self, node: ir.Node, reason: str) -> None:
        """Nothing that reaches this node goes on: its inputs stay whole, its outputs start anew."""
        for index in range(len(node.inputs)):
            tracked = self.tracked(node, index)
            if tracked is not None:
                self.block_all(tracked.axes, node, reason)
                self.rely(tracked.numbers, node)
        for index, output in enumerate(node.outputs):
            sizes = self.shape(output)
            if sizes is not None:
                self.put(node, fixed_like(sizes), output=index)

    def multiply(self, node: ir.Node, axes: Sequence[Axis], factor: int = 1) -> None:
        """Note the MACs of a node: `factor` times the living positions of every axis."""
        self.work.append((node, tuple(axis for axis in axes if axis is not None), factor))

    def extent(self, value: ir.Value | None, axes: slice | None = None) -> int:
        """How many elements a value has along `axes` (by default all but axis 1); `shapes` assumes symbolic ones."""
        sizes = self.shapes.assumed.get(str(value.name), ()) if value is not None else ()
        chosen = [*sizes[:1], *sizes[2:]] if axes is None else sizes[axes]
        return int(np.prod([size or 1 for size in chosen], dtype=np.int64))

    def product(self, rows: Ids, columns: Ids, cells: Ids, node: ir.Node) -> None:
        """`cells` [len(rows), len(columns)] is the axis that splits into, or merges, `rows` and `columns`."""
        self.products.append(Product(rows, columns, cells, node))


def fixed(size: int) -> Ids:
    """An axis of positions that can't be removed; takes no memory."""
    return np.broadcast_to(np.int64(FIXED), (size,))


def fixed_like(sizes: Sequence[int | None]) -> tuple[Axis, ...]:
    """Fixed axes for a whole shape."""
    return tuple(None if size is None else fixed(size) for size in sizes)


def is_fixed(axis: Axis) -> bool:
    """Does the axis hold nothing that could be removed?"""
    return axis is None or not axis.any()
