"""Layers as ONNX Runtime executes them: which nodes of the file were fused into one, and what its time depends on.

A fused node is called by the name of one of its parts, or of that part's output, with an ending; nodes that only
rearrange memory for others have names of their own, and count with what was executed before them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import Axis, Ids
from darwinc.channels import Channels
from darwinc.latency.kinds import OTHER, channel_axis, kind_of
from darwinc.latency.profiles import Event
from darwinc.latency.widths import Extent, Extents, Widths

BLOCKED = "_nchwc"
"""The ending of a node that works on channels in blocks; before it stands the output's name."""

Product = tuple[float, tuple[Extent, ...]]
"""A factor times the sizes of some axes."""


@dataclass(frozen=True)
class Padding:
    """The multiples to which a kernel fills up the channels that enter and that leave."""

    entering: int = 1
    leaving: int = 1


@dataclass(frozen=True, eq=False)
class Layer:
    """Nodes executed as one.

    Attributes:
        node, op_type: of the heaviest part, as the file has it.
        kind: of that part.
        terms: MACs, elements read and elements written, each a sum of products of axis sizes, as shares of the present
            ones; those that no width changes are left out.
        entering, leaving: the axes of its input and output channels, where it is of a kind that has them.
        groups: the groups that its time depends on, ascending.
    """

    node: str
    op_type: str
    kind: str
    terms: tuple[tuple[Product, ...], ...]
    entering: Extent | None
    leaving: Extent | None
    groups: tuple[int, ...]

    def features(self, widths: Widths, padding: Padding) -> list[float]:
        """1, the terms at some widths, with channels filled up, and the last of them again where blocks aren't full."""
        sizes = [
            sum(factor * math.prod(self._sizes(axes, widths, padding)) for factor, axes in term) for term in self.terms
        ]
        return [1.0, *sizes, *([sizes[-1] * self._is_rough(widths, padding)] if sizes else ())]

    def _is_rough(self, widths: Widths, padding: Padding) -> bool:
        """Are there channels that don't fill up blocks? They may have to be rearranged."""
        axes = (axis for term in self.terms for _, factors in term for axis in factors)
        return self.kind == OTHER and any(axis.at(widths) % padding.leaving for axis in axes)

    def _sizes(self, axes: Sequence[Extent], widths: Widths, padding: Padding) -> Iterator[float]:
        """The sizes of a product's axes. Work counts what leaves before what enters, and both may be the same group."""
        left = False
        for axis in axes:
            if self.kind == OTHER or (axis == self.leaving and not left):
                left = True
                yield axis.padded(widths, padding.leaving)
            elif axis == self.entering:
                yield axis.padded(widths, padding.entering)
            else:
                yield axis.at(widths)


@dataclass
class _Part:
    """The nodes of one layer, while they are gathered; `executed` is the one whose name the event has."""

    executed: ir.Node
    nodes: list[ir.Node] = field(default_factory=list)


class Plan:
    """The layers of a graph, found in the events of one run, and where the events of other runs belong."""

    def __init__(self, channels: Channels, events: Sequence[Event]) -> None:
        self._channels = channels
        self._node_of = _names(channels.nodes)
        self._part_of: dict[ir.Node, int] = {}
        parts = self._parts(events)
        for part in parts:
            self._add_fused(part)
        self._add_followers(parts)
        maker = _Maker(channels)
        self.layers: tuple[Layer, ...] = tuple(maker.layer(part.nodes) for part in parts)

    def times(self, events: Iterable[Event]) -> list[float]:
        """Milliseconds of each layer in a run; what can't be told is counted with the layer before it."""
        times, place = [0.0] * len(self.layers), 0
        for event in events:
            node = self._find(event.name)
            place = self._part_of.get(node, place) if node is not None else place
            if times:
                times[place] += event.milliseconds
        return times

    def _parts(self, events: Sequence[Event]) -> list[_Part]:
        parts: list[_Part] = []
        for event in events:
            node = self._find(event.name)
            if node is not None and node not in self._part_of:
                self._part_of[node] = len(parts)
                parts.append(_Part(node, [node]))
        return parts

    def _find(self, name: str) -> ir.Node | None:
        """The node of the file that an executed node's name points at."""
        name = name.removesuffix(BLOCKED)
        while name not in self._node_of and "/" in name:
            name = name.rpartition("/")[0]
        return self._node_of.get(name)

    def _add_fused(self, part: _Part) -> None:
        """What comes before the named node and was not executed by itself is a part of it."""
        waiting = [part.executed]
        while waiting:
            for value in waiting.pop().inputs:
                node = value.producer() if value is not None else None
                if node is not None and node not in self._part_of and self._is_computed(node):
                    self._part_of[node] = self._part_of[part.executed]
                    part.nodes.append(node)
                    waiting.append(node)

    def _add_followers(self, parts: Sequence[_Part]) -> None:
        """What is left belongs to what comes before it."""
        for node in self._channels.nodes:
            if node in self._part_of or not self._is_computed(node):
                continue
            sources = (value.producer() for value in node.inputs if value is not None)
            place = next((self._part_of[source] for source in sources if source in self._part_of), None)
            if place is not None:
                self._part_of[node] = place
                parts[place].nodes.append(node)

    def _is_computed(self, node: ir.Node) -> bool:
        known = self._channels.flow.values.get(str(node.outputs[0].name))
        return known is not None and not known.constant and known.numbers is None


def _names(nodes: Iterable[ir.Node]) -> dict[str, ir.Node]:
    """Nodes by their outputs' names and, which goes first, by their own."""
    found = {str(output.name): node for node in nodes for output in node.outputs if output.name}
    return found | {node.name: node for node in nodes if node.name}


class _Maker:
    """Makes layers of nodes."""

    def __init__(self, channels: Channels) -> None:
        self._flow = channels.flow
        self._extents = Extents(channels)
        self._full = [len(group) for group in channels.groups]
        self._work: dict[ir.Node, list[tuple[tuple[Ids, ...], int]]] = {}
        for node, axes, factor in channels.flow.work:
            self._work.setdefault(node, []).append((axes, factor))

    def layer(self, nodes: Sequence[ir.Node]) -> Layer:
        main = max(nodes, key=self._macs)
        kind = kind_of(main)
        inside = {output for node in nodes for output in node.outputs}
        made = [
            value for value in inside if value.is_graph_output() or any(use.node not in nodes for use in value.uses())
        ]
        read = dict.fromkeys(
            value for node in nodes for value in node.inputs if value is not None and value not in inside
        )
        terms = (
            tuple(self._product(axes, factor) for node in nodes for axes, factor in self._work.get(node, ())),
            tuple(self._elements(read)),
            tuple(self._elements(made)),
        )
        groups = {group for term in terms for _, axes in term for axis in axes for group in axis.groups}
        entering, leaving = (None, None) if kind == OTHER else self._channels_of(main)
        shares = tuple(found for term in terms if (found := self._shares(term)))
        return Layer(graph.label(main), main.op_type, kind, shares, entering, leaving, tuple(sorted(groups)))

    def _macs(self, node: ir.Node) -> float:
        return sum(factor * math.prod(len(ids) for ids in axes) for axes, factor in self._work.get(node, ()))

    def _product(self, axes: Iterable[Axis], factor: float = 1.0) -> Product:
        extents = [self._extents.of(ids) for ids in axes if ids is not None]
        for extent in extents:
            factor *= 1.0 if extent.segments else extent.fixed
        return factor, tuple(extent for extent in extents if extent.segments)

    def _elements(self, values: Iterable[ir.Value]) -> Iterable[Product]:
        for value in values:
            known = self._flow.values.get(str(value.name))
            if known is not None and graph.constant_source(value) is None:
                yield self._product(known.axes)

    def _shares(self, term: tuple[Product, ...]) -> tuple[Product, ...]:
        total = sum(factor * math.prod(axis.at(self._full) for axis in axes) for factor, axes in term)
        varies = total and any(axes for _, axes in term)
        return tuple((factor / total, axes) for factor, axes in term) if varies else ()

    def _channels_of(self, node: ir.Node) -> tuple[Extent | None, Extent | None]:
        """The axes of the channels that enter and leave a node."""
        found: list[Extent | None] = []
        for value in (node.inputs[0], node.outputs[0]):
            known = self._flow.values.get(str(value.name)) if value is not None else None
            axis = known.axes[channel_axis(node)] if known is not None and len(known.axes) > 1 else None
            found.append(None if axis is None else self._extents.of(axis))
        return found[0], found[1]
