"""What a model costs, and what it would cost with fewer channels: parameters, MACs, bytes, kernels, synapses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import Ids, is_fixed
from darwinc.channels import Channels, Mask, analyse

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Cost:
    """Counts as the contract defines them. MACs are for one sample, with symbolic image sides taken as 224."""

    parameters: int
    macs: int
    bytes: int
    channels: int
    kernels: int
    synapses: int

    def as_dict(self) -> dict[str, int]:
        """The six counts, by name."""
        return asdict(self)


def measure(model: ir.Model, channels: Channels | None = None) -> Cost:
    """Count a model; `channels` saves analysing it again."""
    channels = analyse(model) if channels is None else channels
    kernels, synapses = _synapses(model)
    macs = CostModel(channels).macs(channels.nobody())
    return Cost(
        count_parameters(model), macs, graph.stored_bytes(model), sum(map(len, channels.groups)), kernels, synapses
    )


def is_quantised_weight(value: ir.Value) -> bool:
    """Is an integer constant read as a weight, through DequantizeLinear or an operator on quantised numbers?"""
    return any(
        (reader.op_type == "DequantizeLinear" and index == 0)
        or reader.op_type.startswith("QLinear")
        or reader.op_type.endswith("Integer")
        for reader, index in value.uses()
    )


def count_parameters(model: ir.Model) -> int:
    """Elements of every floating constant of the top-level graph, of ConstantOfShape fills and of quantised weights."""
    values = dict(model.graph.initializers)
    values |= {str(node.outputs[0].name): node.outputs[0] for node in model.graph if node.op_type == "Constant"}
    total = 0
    for name, tensor in graph.constants(model).items():
        if tensor.dtype in FLOATS or (tensor.dtype != ir.DataType.STRING and is_quantised_weight(values[name])):
            total += int(tensor.size)
    return total + sum(_filled(node) for node in model.graph if node.op_type == "ConstantOfShape")


def _filled(node: ir.Node) -> int:
    sizes, fill = graph.constant_tensor(node.inputs[0]), node.attributes.get("value")
    if sizes is None or (fill is not None and fill.as_tensor().dtype not in FLOATS):
        return 0
    return int(np.prod(sizes.numpy(), dtype=np.int64))


def _synapses(model: ir.Model) -> tuple[int, int]:
    """Non-zero kernel planes of Conv weights, and non-zero weights of Conv, Gemm and MatMul; each constant once."""
    kernels = synapses = 0
    seen: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type not in WEIGHTED:
            continue
        for value in node.inputs[:2]:
            source = graph.constant_source(value)
            if source is None or source in seen:
                continue
            seen.add(source)
            tensor = graph.constant_tensor(source)
            if tensor is None or tensor.dtype not in FLOATS:
                continue
            array = tensor.numpy()
            synapses += int(np.count_nonzero(array))
            if node.op_type == "Conv":
                kernels += int(np.count_nonzero(array.reshape(*array.shape[:2], -1).any(axis=2)))
    return kernels, synapses


class Price(Protocol):
    """What living channels cost, kept up to date as they die: parameters, MACs, bits, or measured time."""

    def current(self) -> float:
        """The cost of what lives now."""

    def saved(self, group: int, units: int) -> float:
        """By how much the cost falls when `units` more units of a group die; time may rise, and this be negative."""

    def remove(self, group: int, units: int) -> None:
        """Let `units` units of a group die (a negative number brings them back)."""


class CostModel:
    """Parameters and MACs as a function of what lives, for the whole model and for one more channel of a group.

    Both are sums of products of axis extents, so a change in one group touches only the terms that it sits in.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self.constant_terms = Terms(channels, stored_axes(channels))
        """In elements."""
        self.work_terms = Terms(channels, [(axes, factor) for _, axes, factor in channels.flow.work])

    def parameters(self, dead: Mask) -> int:
        """Elements of the constants that lose channels; other constants don't change."""
        return self.constant_terms.total(dead)

    def macs(self, dead: Mask) -> int:
        """MACs of all convolutions and matrix products."""
        return self.work_terms.total(dead)

    def terms(self, kind: str) -> Terms:
        """The terms behind a kind of target: MACs for "macs", bits for "bytes", or parameters."""
        if kind == "bytes":
            return Terms(self._channels, _stored_bits(self._channels))
        return self.work_terms if kind == "macs" else self.constant_terms


def _stored_bits(channels: Channels) -> Iterable[tuple[tuple[Ids, ...], int]]:
    """The axes of every constant, and the bits of an element."""
    seen: set[ir.Value] = set()
    for use in channels.flow.uses:
        source, tensor = graph.constant_source(use.value), graph.constant_tensor(use.value)
        if source is not None and tensor is not None and source not in seen:
            seen.add(source)
            yield use.axes, round(8 * tensor.dtype.itemsize)


def stored_axes(channels: Channels) -> Iterable[tuple[tuple[Ids, ...], int]]:
    seen: set[int] = set()
    for use in channels.flow.uses:
        source, tensor = graph.constant_source(use.value), graph.constant_tensor(use.value)
        if (
            source is None
            or tensor is None
            or id(source) in seen
            or not (tensor.dtype in FLOATS or is_quantised_weight(source))
        ):
            continue
        seen.add(id(source))
        yield use.axes, 1
    for fill in channels.flow.fills:
        if _filled(fill.node):
            yield fill.axes, 1


class Segments:
    """How the size of an axis follows from how many units of each group live."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._group_of = np.full(channels.count, -1, np.int64)
        for index, group in enumerate(channels.groups):
            self._group_of[group.units] = index
        self._found: dict[int, tuple[Ids, list[tuple[tuple[int, ...], float]]]] = {}

    def of(self, ids: Ids) -> list[tuple[tuple[int, ...], float]]:
        """The groups that positions of an axis die with, and how many there are for each combination of units."""
        if is_fixed(ids):
            return []
        if id(ids) not in self._found:
            # The array is kept with the answer, so that no other one gets its id.
            self._found[id(ids)] = (ids, self._look(ids))
        return self._found[id(ids)][1]

    def _look(self, ids: Ids) -> list[tuple[tuple[int, ...], float]]:
        groups = np.sort(self._group_of[self._channels.owners[self._channels.component[ids]]], axis=1)
        if len(groups) and (groups == groups[0]).all():
            kinds, counts = groups[:1], np.array([len(groups)])
        elif groups.shape[1] == 1:
            kinds, counts = np.unique(groups[:, 0], return_counts=True)
            kinds = kinds[:, None]
        else:
            kinds, counts = np.unique(groups, axis=0, return_counts=True)
        found = []
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            members = tuple(dict.fromkeys(group for group in kind if group >= 0))
            units = _product(len(self._channels.groups[group]) for group in members)
            if members:
                found.append((members, count // units if count % units == 0 else count / units))
        return found


class Terms:
    """Products of axis extents, kept up to date as units die.

    An axis is a sum of segments, each with as many positions as the product of the living units of one group, or of
    two (heads x dimensions), says; so a death changes the extents of a few axes.
    """

    def __init__(self, channels: Channels, products: Iterable[tuple[tuple[Ids, ...], int]]) -> None:
        self._channels = channels
        self._living = [len(group) for group in channels.groups]
        self.extents: list[list[float]] = []
        self.factors: list[int] = []
        self.places: dict[int, list[tuple[int, int, float, tuple[int, ...]]]] = defaultdict(list)
        """group -> (term, axis, positions per unit and units of the other groups, those groups)"""
        self._axes: list[tuple[Ids, ...]] = []
        segments = Segments(channels)
        for axes, factor in products:
            self._add(axes, factor, segments)

    def _add(self, axes: tuple[Ids, ...], factor: int, segments: Segments) -> None:
        term = len(self.extents)
        self.extents.append([len(ids) for ids in axes])
        self.factors.append(factor)
        self._axes.append(axes)
        for axis, ids in enumerate(axes):
            for groups, share in segments.of(ids):
                for group in groups:
                    others = tuple(other for other in groups if other != group)
                    self.places[group].append((term, axis, share, others))

    def total(self, dead: Mask) -> int:
        """The sum of all products with the units in `dead` gone."""
        total = 0
        for axes, factor in zip(self._axes, self.factors, strict=True):
            total += factor * int(
                _product(self._channels.extent(ids, dead) if not is_fixed(ids) else len(ids) for ids in axes)
            )
        return total

    def current(self) -> int:
        """The sum of all products at the present extents."""
        return round(
            sum(factor * _product(extents) for factor, extents in zip(self.factors, self.extents, strict=True))
        )

    def _changes(self, group: int, units: int) -> dict[int, dict[int, float]]:
        """By how much the extent of each axis of each term falls when `units` more units of a group die."""
        changes: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for term, axis, share, others in self.places[group]:
            changes[term][axis] += share * units * _product(self._living[other] for other in others)
        return changes

    def saved(self, group: int, units: int) -> int:
        """By how much the sum falls when `units` more units of a group die."""
        saved = 0.0
        for term, axes in self._changes(group, units).items():
            before = _product(self.extents[term])
            after = _product(extent - axes.get(axis, 0) for axis, extent in enumerate(self.extents[term]))
            saved += self.factors[term] * (before - after)
        return round(saved)

    def remove(self, group: int, units: int) -> None:
        """Let `units` units of a group die (a negative number brings them back)."""
        for term, axes in self._changes(group, units).items():
            for axis, change in axes.items():
                self.extents[term][axis] -= change
        self._living[group] -= units


def _product(sizes: Iterable[float]) -> float:
    result: float = 1
    for size in sizes:
        result *= size
    return result
