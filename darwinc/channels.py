"""Which channels live and die together: the coupling analysis of a whole graph, in time linear in its size.

The axis rules record how positions flow (`axis_flow`); here ties become components, components that share a signature
(the same axes of the same values) become interchangeable *units* of one `ChannelGroup`, and what is blocked becomes a
barrier.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import RELIED_ON, UNKNOWN_INPUT, Flow, Mark
from darwinc.axis_record import FIXED, Axis, Barrier, Ids, Tracked, fixed_like, is_fixed
from darwinc.axis_rules import KEEPS_NUMBERS, RULES, numbers
from darwinc.axis_sizes import hold_what_goes_wrong
from darwinc.measured_shapes import measure
from darwinc.products import connect, settle
from darwinc.shapes import Shapes, infer

Mask = npt.NDArray[np.bool_]
ADDS_UP = frozenset({"Einsum", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare", "Shape", "Size"})
"""Operators that may leave an axis behind without another word: removed zeros add nothing, and sizes are told apart."""


@dataclass(frozen=True)
class Member:
    """One axis of a stored constant that a group's units occupy, with `multiplicity` positions per unit."""

    tensor: str
    axis: int
    multiplicity: int


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Interchangeable units: each can be removed alone, and all of them sit on the same axes of the same tensors.

    `units` [U] are component numbers, ascending by the place of their first position.
    """

    id: str
    units: npt.NDArray[np.int64]
    members: tuple[Member, ...]
    depthwise: bool

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, eq=False)
class Channels:
    """The outcome of the analysis.

    Attributes:
        component: of every position id; component 0 can't be removed.
        owners: for every component, the units [K] that it dies with, padded with zeros. Mostly that is the component
            itself; the weight of a head's dimension dies with the head or with the dimension.
        count: of components, 0 included.
    """

    flow: Flow
    nodes: tuple[ir.Node, ...]
    component: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    groups: tuple[ChannelGroup, ...]
    count: int

    def living(self, axis: Ids, dead: Mask) -> Mask:
        """Which positions of an axis [n] live, when the units in `dead` [count] don't."""
        return np.asarray(~dead[self.owners[self.component[axis]]].any(axis=1))

    def extent(self, axis: Ids, dead: Mask) -> int:
        """How many positions of an axis live."""
        return int(np.count_nonzero(self.living(axis, dead)))

    def counterparts(self, model: ir.Model | None = None) -> dict[ir.Node, ir.Node]:
        """For each analysed node the one at its place in a model of the same nodes; without one, the node itself."""
        return dict(zip(self.nodes, self.nodes if model is None else model.graph, strict=True))

    def nobody(self) -> Mask:
        """A mask in which every component lives."""
        return np.zeros(self.count, np.bool_)


def analyse(model: ir.Model) -> Channels:
    """Find the channel groups and barriers of a model.

    The model is only read. Time and memory grow with the sum of the sizes of all axes, not with that of the weights.
    """
    shapes = infer(model)
    flow = _walk(model, shapes)
    if flow.doubted:
        # Inference got a shape wrong, and all that follow from it: only what the file says outright is to be trusted.
        shapes = shapes.only(str(value.name) for value in (*model.graph.inputs, *model.graph.initializers.values()))
    if flow.doubted or flow.puzzled:
        measured = measure(model, shapes)
        flow = _walk(model, replace(shapes, measured=measured)) if measured or flow.doubted else flow
    _tie_shared_weights(flow)
    _agree(flow)
    return _conclude(flow, tuple(model.graph))


def _walk(model: ir.Model, shapes: Shapes) -> Flow:
    """Let every node's rule write down what it knows."""
    flow = Flow(shapes, graph.opset(model))
    for value in model.graph.inputs:
        sizes = flow.shape(value)
        if sizes is not None and not value.is_initializer():
            flow.values[str(value.name)] = Tracked(fixed_like(sizes))
    for node in model.graph:
        _visit(flow, node)
    for value in model.graph.outputs:
        tracked = flow.values.get(str(value.name))
        flow.block_all(tracked.axes if tracked else (), value.producer(), "reaches a graph output")
        flow.rely(tracked.numbers if tracked else (), None)
    return flow


def _visit(flow: Flow, node: ir.Node) -> None:
    if graph.is_standard(node) and (node.op_type == "Constant" or graph.constant_source(node.outputs[0]) is not None):
        return
    rule = RULES.get(("" if graph.is_standard(node) else node.domain, node.op_type))
    bodies = graph.subgraphs(node)
    for body in bodies:
        _block_captured(flow, node, body)
    if rule is None or bodies:
        flow.barrier(node, f"no axis rule for {node.op_type}" if not bodies else "carries a subgraph")
        return
    if not flow.understood(node):
        flow.barrier(node, UNKNOWN_INPUT)
        flow.puzzled = True
        return
    try:
        if numbers.passes(flow, node):
            return
        before = flow.mark()
        rule(flow, node)
    except (IndexError, ValueError):
        # Shapes and attributes that the rule doesn't foresee: safe is to let nothing through.
        flow.barrier(node, "its shapes or attributes aren't what the axis rule expects")
        return
    for index, value in enumerate(node.inputs):
        tracked = flow.values.get(str(value.name)) if value is not None else None
        if tracked is None:
            continue
        if (node, index) not in flow.read:
            flow.block_all(tracked.axes, node, "is a parameter whose size must stay")
        elif node.op_type not in ADDS_UP:
            _block_forgotten(flow, node, tracked, before)
        if node.op_type not in KEEPS_NUMBERS and not _tells_numbers(flow, node):
            flow.freeze(node, index, tracked)
    if any(str(output.name) not in flow.values and _is_read(output) for output in node.outputs[1:]):
        flow.barrier(node, "makes a further output that can't be followed")
    for output in node.outputs:
        _check_against_inference(flow, node, output)


def _block_forgotten(flow: Flow, node: ir.Node, tracked: Tracked, before: Mark) -> None:
    """Keep whole axes of an input of which a rule has said nothing: they aren't passed on, tied, summed or held."""
    passed = {id(axis) for output in node.outputs for axis in _axes_of(flow, output)}
    left = [axis for axis in tracked.axes if axis is not None and id(axis) not in passed and not is_fixed(axis)]
    if not left:
        return
    told = [*flow.told_since(before), *(axis for output in node.outputs for axis in _axes_of(flow, output))]
    known = np.unique(np.concatenate(told)) if told else np.zeros(0, np.int64)
    for axis in left:
        if not np.isin(axis[axis != FIXED], known).any():
            flow.block(axis, node, "works along this axis")


def _axes_of(flow: Flow, value: ir.Value) -> Iterator[Ids]:
    tracked = flow.values.get(str(value.name))
    yield from (axis for axis in (tracked.axes if tracked is not None else ()) if axis is not None)


def _tells_numbers(flow: Flow, node: ir.Node) -> bool:
    found = flow.values.get(str(node.outputs[0].name))
    return found is not None and found.numbers is not None


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _check_against_inference(flow: Flow, node: ir.Node, output: ir.Value) -> None:
    """A rule that disagrees with shape inference is not to be trusted: everything there stays whole."""
    sizes, tracked = flow.shape(output), flow.values.get(str(output.name))
    if tracked is None or sizes is None:
        return
    fits = len(sizes) == len(tracked.axes) and all(
        size is None or ids is None or size == len(ids) for size, ids in zip(sizes, tracked.axes, strict=True)
    )
    if not fits:
        flow.doubted = True
        flow.block_all(tracked.axes, node, "its shape isn't what the axis rule expects")
        flow.barrier(node, "its shape isn't what the axis rule expects")


def _block_captured(flow: Flow, node: ir.Node, body: ir.Graph) -> None:
    read = [value for inner in ir.traversal.RecursiveGraphIterator(body) for value in inner.inputs]
    for value in (*read, *body.outputs):
        tracked = flow.values.get(str(value.name)) if value is not None else None
        if tracked is not None:
            flow.block_all(tracked.axes, node, "is read inside a subgraph")
            flow.rely(tracked.numbers, None)


def _tie_shared_weights(flow: Flow) -> None:
    """A matrix that several layers share stays shared; vectors are only shared by accident, and may come apart."""
    uses = defaultdict(list)
    for use in flow.uses:
        if sum(len(ids) > 1 for ids in use.axes) > 1:
            uses[id(graph.constant_source(use.value))].append(use)
    for first, *others in uses.values():
        for other in others:
            for one, two in zip(first.axes, other.axes, strict=True):
                flow.tie(one, two, other.node)


def _agree(flow: Flow) -> None:
    """Axes that one stored integer describes must shrink alike, or not at all where somebody needs the integer."""
    seen: dict[tuple[ir.Node, int | str, int | None], Ids] = {}
    for follower in flow.followers:
        key = (follower.node, follower.place, follower.element)
        if key in flow.relied:
            flow.block(follower.ids, follower.node, RELIED_ON)
        if key in seen and seen[key] is not follower.ids:
            flow.tie(seen[key], follower.ids, follower.node)
        seen.setdefault(key, follower.ids)


def _conclude(flow: Flow, nodes: tuple[ir.Node, ...]) -> Channels:
    while True:
        found = settle(flow)
        numbering = np.where(found.blocked, 0, np.cumsum(~found.blocked)).astype(np.int64)
        component, count = numbering[found.of], int(numbering.max(initial=0)) + 1
        owners = np.zeros((count, found.owners.shape[1]), np.int64)
        owners[numbering[~found.blocked]] = numbering[found.owners[~found.blocked]]
        channels = Channels(flow, nodes, component, owners, tuple(_groups(flow, component, owners)), count)
        if not hold_what_goes_wrong(flow, channels):
            return channels


def _groups(flow: Flow, component: Ids, owners: Ids) -> Iterator[ChannelGroup]:
    """Units with the same signature, a random hash of every axis of every value and constant that they sit on."""
    count = len(owners)
    signature = _signatures(flow, component, owners)
    first_id = np.full(count, flow.count, np.int64)
    for place in range(owners.shape[1]):
        np.minimum.at(first_id, owners[component, place], np.arange(flow.count))
    members = _members(flow, component, owners, signature)
    units = np.flatnonzero((owners[:, 0] == np.arange(count)) & (signature != 0))
    _, inverse = np.unique(signature[units], return_inverse=True)
    units = units[np.lexsort((first_id[units], inverse))]
    inverse = np.sort(inverse)
    clusters = np.split(units, np.flatnonzero(np.diff(inverse)) + 1) if len(units) else []
    clusters.sort(key=lambda cluster: int(first_id[cluster[0]]))
    depthwise = _depthwise(flow, component, owners)
    number = 0
    for cluster in clusters:
        held = members.get(int(signature[cluster[0]]), ())
        if held and len(cluster) > 1:
            yield ChannelGroup(f"g{number}", cluster, tuple(held), bool(depthwise[cluster[0]]))
            number += 1


def constants(flow: Flow) -> Iterator[tuple[str, tuple[Ids, ...]]]:
    """The name and the axes of every constant, once per reader; fills by ConstantOfShape too."""
    for use in flow.uses:
        source = graph.constant_source(use.value)
        yield str(source.name if source is not None else use.value.name), use.axes
    for fill in flow.fills:
        yield str(fill.node.outputs[0].name), fill.axes


def _axes(flow: Flow) -> Iterator[Axis]:
    for tracked in flow.values.values():
        yield from tracked.axes
    for use in flow.uses:
        yield from use.axes


def _signatures(flow: Flow, component: Ids, owners: Ids) -> npt.NDArray[np.uint64]:
    random = np.random.default_rng(0)
    signature = np.zeros(len(owners), np.uint64)
    hashes: dict[int, np.uint64] = {}
    for axis in _axes(flow):
        if axis is not None and not is_fixed(axis):
            key = hashes.setdefault(id(axis), np.uint64(random.integers(1, 2**63)))
            np.add.at(signature, owners[component[axis]].ravel(), key)
    for product in flow.products:
        for factor in (product.rows, product.columns):
            # Heads and dimensions of a fused operator sit on the same axes, and in equal numbers look alike.
            key = np.uint64(random.integers(1, 2**63))
            np.add.at(signature, owners[component[factor]].ravel(), key)
    signature[0] = 0
    return signature


def _members(flow: Flow, component: Ids, owners: Ids, signature: npt.NDArray[np.uint64]) -> dict[int, list[Member]]:
    members: dict[int, list[Member]] = defaultdict(list)
    seen: set[tuple[str, int, int]] = set()
    for name, axes in constants(flow):
        for axis, ids in enumerate(axes):
            if is_fixed(ids):
                continue
            units, counts = np.unique(owners[component[ids]], return_counts=True)
            keys, first = np.unique(signature[units], return_index=True)
            for key, place in zip(keys, first, strict=True):
                if key and (name, axis, int(key)) not in seen:
                    seen.add((name, axis, int(key)))
                    members[int(key)].append(Member(name, axis, int(counts[place])))
    return members


def _depthwise(flow: Flow, component: Ids, owners: Ids) -> Mask:
    """Which units own input channels of a depthwise convolution."""
    found = np.zeros(len(owners), np.bool_)
    for channels in flow.depthwise:
        found[owners[component[channels]].ravel()] = True
    found[0] = False
    return found


def barriers(channels: Channels) -> list[Barrier]:
    """The barriers that hold at least one position of a stored constant, in graph order, one per node and reason."""
    flow = channels.flow
    component, _ = connect(flow)
    stored = np.zeros(flow.count, np.bool_)
    for _, axes in constants(flow):
        for ids in axes:
            stored[component[ids]] = True
    stored[component[FIXED]] = False
    found: dict[tuple[ir.Node | None, str], Barrier] = {}
    for barrier in flow.barriers:
        if stored[component[barrier.ids]].any():
            found.setdefault((barrier.node, barrier.reason), barrier)
    return list(found.values())
