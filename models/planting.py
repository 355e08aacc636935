"""Which channel groups of a network can be widened without changing its function, and with what.

A group admits a kind of redundancy by what lies between its makers and its readers: nothing but operators that keep
factors lets a copy be scaled, nothing but linear ones lets a unit be a mixture of others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import Axis, ConstantUse, Follower, Ids, Reader, is_fixed
from darwinc.channels import Channels
from darwinc.cost import FLOATS

KINDS = ("dead", "unread", "copy", "scaled", "mixture")
"""Units whose value is zero; units that nobody reads; exact copies whose readers share the weight; the same times a
positive factor; linear combinations of others."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
LINEAR = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Concat", "Dropout", "Flatten", "GlobalAveragePool", "Identity",
    "MatMul", "Mul", "Div", "Neg", "Pad", "ReduceMean", "ReduceSum", "Reshape", "Shape", "Slice", "Split", "Squeeze",
    "Sub", "Sum", "Transpose", "Unsqueeze",
})  # fmt: skip
KEEPS_FACTORS = LINEAR | {
    "Abs", "Conv", "ConvTranspose", "GlobalMaxPool", "LeakyRelu", "MaxPool", "PRelu", "ReduceMax", "ReduceMin", "Relu",
}  # fmt: skip
"""Operators f with f(s z) = s f(z) for s > 0, where all of their operands that aren't factors are scaled."""
SUMS = frozenset({"Add", "Sub", "Sum"})
FACTORS = frozenset({"Mul", "Div"})
NORM_INPUTS = {1: "scale", 2: "shift", 3: "mean", 4: "variance"}


class Role(StrEnum):
    """What a constant does with the units on one of its axes."""

    READER = "reader"
    MAKER = "maker"
    DEPTHWISE = "depthwise"
    BIAS = "bias"
    SCALE = "scale"
    SHIFT = "shift"
    MEAN = "mean"
    VARIANCE = "variance"
    OFFSET = "offset"
    FACTOR = "factor"


@dataclass(frozen=True, eq=False)
class Place:
    """One axis of one constant, as one reader uses it, that units of a group sit on."""

    use: ConstantUse
    axis: int
    role: Role


@dataclass(frozen=True, eq=False)
class Bed:
    """A group that can be widened: where its units sit, and the kinds of redundancy that it admits."""

    number: int
    units: Ids
    places: tuple[Place, ...]
    kinds: frozenset[str]


class Refused(Exception):
    """A group can't be widened; the message says why, in half a sentence."""


class Ground:
    """The groups of an analysed model, seen as beds to plant in."""

    def __init__(self, channels: Channels) -> None:
        self.channels, self.flow = channels, channels.flow
        self._group_of = np.full(channels.count, -1, np.int64)
        for number, group in enumerate(channels.groups):
            self._group_of[group.units] = number
        self._readers = {(reader.node, reader.weight): reader for reader in self.flow.readers}
        self._carried = {name: self._on(tracked.axes) for name, tracked in self.flow.values.items()}
        for use in self.flow.uses:
            self._carried[str(use.value.name)] = self._carried.get(str(use.value.name), set()) | self._on(use.axes)
        self._held = self._refused()

    def _on(self, axes: Iterable[Axis]) -> set[int]:
        """The groups with units on any of these axes."""
        return {number for ids in axes if not is_fixed(ids) for number in self._among(ids)}

    def _among(self, ids: Axis) -> set[int]:
        owners = self.channels.owners[self.channels.component[ids]]
        return set(np.unique(self._group_of[owners[owners > 0]]).tolist()) - {-1}

    def _refused(self) -> dict[int, str]:
        """The groups of which something must be known by place, number or product."""
        flow, found = self.flow, dict[int, str]()
        held: list[tuple[str, Iterable[Ids]]] = [
            ("two computed tensors are multiplied along it", (met.ids for met in flow.contractions)),
            ("stored indices point into it", (picks.before for picks in flow.picks)),
            ("an attribute that is absent counts it", (implied.ids for implied in flow.implied)),
            ("a shape without an array of its own holds it", (ids for fill in flow.fills for ids in fill.axes)),
            ("a computed shape counts it", (follower.ids for follower in flow.followers if not _is_stored(follower))),
            (
                "it lies in a grouped convolution",
                (
                    ids
                    for product in flow.products
                    if product.node.op_type in WEIGHTED
                    for ids in (product.rows, product.columns)
                ),
            ),
        ]
        for reason, axes in held:
            for ids in axes:
                found |= dict.fromkeys(self._among(ids) - found.keys(), reason)
        return found

    def bed(self, number: int, kinds: Iterable[str]) -> Bed:
        """A group as a bed, for those of the kinds that it admits.

        Raises:
            Refused: it can't be widened, or not with any of these kinds.
        """
        if number in self._held:
            raise Refused(self._held[number])
        places = tuple(
            Place(use, axis, self._role(use, axis))
            for use in self.flow.uses
            for axis, ids in enumerate(use.axes)
            if not is_fixed(ids) and number in self._among(ids)
        )
        tensors = [graph.constant_tensor(place.use.value) for place in places]
        if any(tensor is None or tensor.dtype not in FLOATS for tensor in tensors):
            raise Refused("its weights aren't floating point")
        readers = [reader for reader in self.flow.readers if number in self._among(reader.ids)]
        stored = {(place.use.node, place.use.index) for place in places if place.role is Role.READER}
        if not readers or any((reader.node, reader.weight) not in stored for reader in readers):
            raise Refused("its readers' weights are computed")
        path = self._path(number, readers)
        admitted = frozenset(kind for kind in kinds if self._admits(kind, number, places, readers, path))
        if not admitted:
            raise Refused("no kind asked for fits what lies between its makers and its readers")
        return Bed(number, self.channels.groups[number].units, places, admitted)

    def _role(self, use: ConstantUse, axis: int) -> Role:
        node, index = use.node, use.index
        reader = self._readers.get((node, index))
        if reader is not None and reader.weight_axis == axis:
            return Role.READER
        if node.op_type == "BatchNormalization" and index in NORM_INPUTS:
            return Role(NORM_INPUTS[index])
        if node.op_type in WEIGHTED:
            if index == 2:
                return Role.BIAS
            return Role.DEPTHWISE if graph.integer(node, "group", 1) > 1 else Role.MAKER
        if node.op_type in SUMS:
            return Role.OFFSET
        if node.op_type in FACTORS | {"PRelu"}:
            return Role.FACTOR
        raise Refused(f"{node.op_type} reads a constant along it")

    def _path(self, number: int, readers: list[Reader]) -> list[ir.Node]:
        """The nodes between makers and readers: they take values that carry the group, and pass it on."""
        reading = {reader.node for reader in readers}
        found = []
        for node in self.channels.nodes:
            computed = [value for value in node.inputs if value is not None and graph.constant_source(value) is None]
            if node in reading or not any(number in self._carried.get(str(value.name), ()) for value in computed):
                continue
            passed = any(number in self._carried.get(str(value.name), ()) for value in node.outputs)
            if not passed and node.op_type != "Shape":
                raise Refused(f"{node.op_type} sums over it without a weight")
            found.append(node)
        return found

    def _admits(
        self, kind: str, number: int, places: tuple[Place, ...], readers: list[Reader], path: list[ir.Node]
    ) -> bool:
        if kind == "dead":
            data = [self.flow.tracked(reader.node, reader.data) for reader in readers]
            return all(
                tracked is not None and tracked.is_silent(reader.data_axis)
                for tracked, reader in zip(data, readers, strict=True)
            )
        if kind == "scaled":
            return all(node.op_type in KEEPS_FACTORS and self._keeps(node, number) for node in path)
        if kind == "mixture":
            roles = {place.role for place in places}
            norms = [node for node in path if node.op_type == "BatchNormalization"]
            return (
                not roles & {Role.DEPTHWISE, Role.FACTOR}
                and all(node.op_type in LINEAR and self._keeps(node, number) for node in path)
                and all(absorbed_by(node) is not None for node in norms)
                and len(self.channels.groups[number]) > 2
            )
        return True

    def _keeps(self, node: ir.Node, number: int) -> bool:
        """Are all terms of a sum scaled alike, and is only one factor of a product scaled?"""
        carrying = [
            value is not None
            and number in self._carried.get(str(value.name), ())
            and (node.op_type in SUMS or graph.constant_source(value) is None)
            for value in node.inputs
        ]
        if node.op_type in SUMS:
            return all(carrying)
        if node.op_type in FACTORS | {"MatMul"}:
            return sum(carrying) == 1 and (node.op_type != "Div" or carrying[0])
        return True


def _is_stored(follower: Follower) -> bool:
    """Does an integer that counts positions stand in a constant or an attribute, and not in a Split's sizes?"""
    if follower.place == "split":
        return False
    return isinstance(follower.place, str) or graph.constant_tensor(follower.node.inputs[follower.place]) is not None


def absorbed_by(norm: ir.Node) -> ir.Node | None:
    """The layer whose outputs a BatchNormalization alone reads, so that it absorbs their scale; else None."""
    value = norm.inputs[0]
    maker = None if value is None else value.producer()
    if value is None or maker is None or maker.op_type not in WEIGHTED or value.is_graph_output():
        return None
    return maker if len(value.uses()) == 1 else None


def is_absorbed(node: ir.Node) -> bool:
    """Does a BatchNormalization alone read what a layer makes?"""
    readers = list(node.outputs[0].uses())
    return len(readers) == 1 and readers[0][0].op_type == "BatchNormalization" and absorbed_by(readers[0][0]) is node
