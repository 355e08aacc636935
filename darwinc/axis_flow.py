"""The verbs with which axis rules record which channel positions live and die together.

Rules tie ids together, block them, declare that one axis is the product of two others, and note which integers in the
graph must follow when positions go. Nothing is decided here; `channels` turns the record into channel groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import (
    FIXED,
    Axis,
    Barrier,
    ConstantUse,
    Contraction,
    Fill,
    Follower,
    Ids,
    Implied,
    Picks,
    Product,
    Reader,
    Tracked,
    fixed,
    fixed_like,
    is_fixed,
)
from darwinc.shape_numbers import Number, Slot, stored_at
from darwinc.shapes import Shapes
from darwinc.zeroing import is_zeroed

UNKNOWN_INPUT = "the shape of its input is unknown"
UNKNOWN_SIZE = "meets an axis of unknown size"
PUZZLES = (UNKNOWN_INPUT, UNKNOWN_SIZE, "rearranges axes of unknown size", "is merged with an axis of unknown size")
"""Reasons that would fall away if shapes were known that inference can't tell."""
MADE_OF_CONSTANTS = frozenset({"ConstantOfShape", "Identity"})
"""Operators whose result counts as a constant where their input is one, so that none may be written down there."""
RELIED_ON = "its size is used as a number"
MOST_NUMBERS = 64
"""A longer list of integers is data, not a shape."""

Mark = tuple[int, ...]
"""The lengths of a record's lists."""


@dataclass
class Flow:
    """The record, and the few verbs with which rules add to it."""

    shapes: Shapes
    opset: int
    values: dict[str, Tracked] = field(default_factory=dict)
    uses: list[ConstantUse] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    implied: list[Implied] = field(default_factory=list)
    picks: list[Picks] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    depthwise: list[Ids] = field(default_factory=list)
    """The input channels of depthwise convolutions."""
    barriers: list[Barrier] = field(default_factory=list)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    work: list[tuple[ir.Node, tuple[Ids, ...], int]] = field(default_factory=list)
    """(node, axes, factor): its MACs are the factor times the product of the living positions of the axes."""
    relied: set[tuple[ir.Node, int | str, int | None]] = field(default_factory=set)
    """Stored numbers (a follower's node, place, element) that somebody needs as they are."""
    slots: dict[tuple[ir.Node, int], Slot] = field(default_factory=dict)
    """Inputs that compute numbers which can be written down there."""
    frozen: set[tuple[ir.Node, int]] = field(default_factory=set)
    """Those of them whose numbers somebody counts on."""
    read: set[tuple[ir.Node, int]] = field(default_factory=set)
    """The inputs (node, index) that a rule has looked at: what happens to their axes is the rule's business."""
    puzzled: bool = False
    """Was the shape of something missing that a run might tell?"""
    doubted: bool = False
    """Does a rule disagree with what inference says of a shape?"""
    count: int = 1
    _cache: dict[tuple[ir.Node, int], Tracked | None] = field(default_factory=dict)

    def mark(self) -> Mark:
        """How much has been written down so far."""
        return (
            *(len(self.ties), len(self.barriers), len(self.products), len(self.readers)),
            *(len(self.contractions), len(self.picks), len(self.followers)),
        )

    def told_since(self, mark: Mark) -> Iterator[Ids]:
        """All positions of which something was written down since."""
        ties, barriers, products, readers, contractions, picks, followers = mark
        for first, second in self.ties[ties:]:
            yield from (first, second)
        yield from (barrier.ids for barrier in self.barriers[barriers:])
        for product in self.products[products:]:
            yield from (product.rows, product.columns, product.cells.ravel())
        yield from (reader.ids for reader in self.readers[readers:])
        yield from (contraction.ids for contraction in self.contractions[contractions:])
        yield from (chosen.before for chosen in self.picks[picks:])
        yield from (follower.ids for follower in self.followers[followers:])

    # Reading -------------------------------------------------------------------------------------------------------

    def tracked(self, node: ir.Node, index: int, *, quantised: bool = False) -> Tracked | None:
        """What is known of input `index`; None where the input is absent or its rank is unknown.

        With `quantised` a constant of integers is a weight, not a list of numbers.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        self.read.add((node, index))
        if graph.constant_source(value) is None:
            return self.values.get(str(value.name))
        if (node, index) not in self._cache:
            self._cache[node, index] = self._use(node, index, value, quantised=quantised)
        return self._cache[node, index]

    def _use(self, node: ir.Node, index: int, value: ir.Value, *, quantised: bool) -> Tracked | None:
        tensor = graph.constant_tensor(value)
        if tensor is None:
            return None
        sizes, numbers = tensor.shape.numpy(), None
        integers = tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32) and not quantised
        axes = tuple(fixed(size) if integers else self.fresh(size) for size in sizes)
        if tensor.size <= MOST_NUMBERS and len(axes) <= 1 and (integers or tensor.size == 1) and not quantised:
            flat = tensor.numpy().ravel().tolist()
            numbers = tuple(Number(number, (node, index, k)) for k, number in enumerate(flat))
        self.uses.append(ConstantUse(node, index, value, axes))
        silent = (is_zeroed(node, index),) * len(axes)
        return Tracked(axes, silent, True, numbers, tensor.dtype.numpy() if numbers is not None else None)

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

    def stored(self, node: ir.Node, index: int) -> npt.NDArray[Any] | None:
        """The array of a constant input, where it is short enough to be looked at."""
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = graph.constant_tensor(value)
        return None if tensor is None or tensor.size > MOST_NUMBERS else tensor.numpy()

    def numbers(self, node: ir.Node, index: int) -> tuple[Number, ...] | None:
        """The numbers that input `index` holds, as far as they could be followed; how many they are must stay.

        Unless they depend on symbolic sizes, they can be written down at this very input.
        """
        found = self.tracked(node, index)
        if found is None:
            return None
        self.block_all(found.axes, node, "is read as a list of numbers")
        numbers = self.writable(node, index, found)
        self.frozen.add((node, index))
        return numbers

    def writable(self, node: ir.Node, index: int, found: Tracked) -> tuple[Number, ...] | None:
        """The numbers of input `index`, to be written down there where they are computed and can be stored."""
        numbers = found.numbers
        if numbers is None or found.dtype is None or not all(number.storable for number in numbers):
            return numbers
        if graph.constant_source(node.inputs[index]) is not None or node.op_type in MADE_OF_CONSTANTS:
            return numbers
        own = stored_at(numbers, node, index)
        self.slots[node, index] = Slot(own, tuple(len(ids) for ids in found.axes if ids is not None), found.dtype)
        return own

    def known(self, node: ir.Node, index: int) -> list[int] | None:
        """Input `index` as plain integers, which are relied on; None where any of them is unknown."""
        numbers = self.numbers(node, index)
        if numbers is None:
            return None
        self.rely(numbers, node)
        values = [number.value for number in numbers]
        return None if None in values else [int(value) for value in values if value is not None]

    def shape(self, value: ir.Value | None) -> tuple[int | None, ...] | None:
        """The inferred shape of a value; symbolic sizes are what `shapes` assumes."""
        return None if value is None else self.shapes.sizes(str(value.name))

    def varies(self, value: ir.Value | None, axis: int) -> bool:
        """Is the size of an axis symbolic, or could it be?"""
        return value is None or self.shapes.varies(str(value.name), axis)

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
        silent: Sequence[bool] = (),
        numbers: tuple[Number, ...] | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        """Say what an output of `node` is. An axis left with one position is fixed."""
        if output >= len(node.outputs):
            return
        for axis in axes:
            if axis is not None and len(axis) == 1 and axis[0] != FIXED:
                self.block(axis, node, "an axis of one channel can't lose it")
        constant = bool(node.inputs) and all(value is None or self.is_constant(value) for value in node.inputs)
        self.values[str(node.outputs[output].name)] = Tracked(tuple(axes), tuple(silent), constant, numbers, dtype)

    def is_constant(self, value: ir.Value) -> bool:
        """Is a value stored, or made from what is?"""
        found = self.values.get(str(value.name))
        return graph.constant_source(value) is not None if found is None else found.constant

    def tie(self, first: Axis, second: Axis, node: ir.Node) -> None:
        """Positions at the same place live and die together."""
        if first is second:
            return
        if first is None or second is None:
            self.block(second if first is None else first, node, UNKNOWN_SIZE)
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
            self.puzzled = self.puzzled or reason in PUZZLES
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
        """A number says the size of `axis`: it must follow it, or the axis must stay."""
        if axis is None or is_fixed(axis):
            self.rely((number,) if number is not None else None, node)
        elif number is not None and number.origin is not None:
            self.followers.append(Follower(*number.origin, axis, number.divisor))
            self.frozen.add(number.origin[:2])
        elif number is None or number.axis is None:
            self.block(axis, node, "its size is computed in the graph in a way that can't be followed")
            self.rely((number,) if number is not None else None, node)
        else:
            self.tie(number.axis, axis, node)

    def rely(self, numbers: Iterable[Number] | None, node: ir.Node | None) -> None:
        """These numbers must stay what they are, wherever they come from.

        A constant that `node` itself reads can be cut for somebody else without `node` noticing.
        """
        for number in numbers or ():
            if number.origin is None:
                self.block_all((number.axis, *number.roots), node, RELIED_ON)
            elif number.origin[0] is not node:
                self.relied.add(number.origin)
                self.frozen.add(number.origin[:2])

    def barrier(self, node: ir.Node, reason: str) -> None:
        """Nothing that reaches this node goes on: its inputs stay whole, its outputs start anew."""
        for index in range(len(node.inputs)):
            tracked = self.tracked(node, index)
            if tracked is not None:
                self.block_all(tracked.axes, node, reason)
                self.freeze(node, index, tracked)
        for index, output in enumerate(node.outputs):
            sizes = self.shape(output)
            if sizes is not None:
                self.put(node, fixed_like(sizes), output=index)

    def freeze(self, node: ir.Node, index: int, tracked: Tracked) -> None:
        """What an input holds must stay, should it be computed from sizes."""
        if tracked.numbers is not None:
            self.rely(self.writable(node, index, tracked), node)
            self.frozen.add((node, index))

    def multiply(self, node: ir.Node, axes: Sequence[Axis], factor: int = 1) -> None:
        """Note the MACs of a node: `factor` times the living positions of every axis."""
        self.puzzled = self.puzzled or any(axis is None for axis in axes)
        self.work.append((node, tuple(axis for axis in axes if axis is not None), factor))

    def extent(self, axes: Sequence[Axis]) -> int:
        """How many elements there are along some axes; unknown ones count as one."""
        return math.prod(len(ids) for ids in axes if ids is not None)

    def product(self, rows: Ids, columns: Ids, cells: Ids, node: ir.Node) -> None:
        """`cells` [len(rows), len(columns)] is the axis that splits into, or merges, `rows` and `columns`."""
        self.products.append(Product(rows, columns, cells, node))
