"""Which multiples of channels this runtime and processor like, measured for each kind of operator in a model.

The heaviest layer of each kind is timed alone, with one side's width varied. Its other side and its image are made
smaller where it would take long, and larger where it would be over too soon: what is asked is where the steps are, not
how high.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from darwinc import graph
from darwinc.channels import ChannelGroup, Channels
from darwinc.latency.curves import NARROW, PLAIN, Curve, Curves, read
from darwinc.latency.kinds import DEPTHWISE, GROUPED, OTHER, PRODUCT, SIDES, Side, kind_of, sides_of
from darwinc.latency.profiles import Profile, Subject, Timer

WIDTHS = (4, 8, 12, 16, 17, 18, 20, 24, 28, 30, 31, 32, 33, 34, 36, 40, 44, 48, 49, 52, 56, 60, 62, 63, 64)
OTHER_SIDE, MOST_GROUPS = 128, 4
MOST_MACS = 4_000_000
"""Of a layer whose varied side has the widest width: a fraction of a millisecond."""

LEAST_MILLISECONDS = 0.02
"""Of a layer's widest width: ONNX Runtime's profiler counts whole microseconds."""

MOST_SESSIONS = 32
"""That are open at once."""

REARRANGES = ("ReorderInput", "ReorderOutput")
"""What stands around a lone layer, and not between layers in a graph."""

_OPSET, _IR_VERSION = 13, 8


@dataclass(frozen=True)
class Probe:
    """A layer to be timed alone: channels in and out (per group of a grouped convolution), and all that stays.

    `image` are the sizes of an image's sides, or the one number of rows of a matrix.
    """

    kind: str
    entering: int
    leaving: int
    image: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1

    def at(self, side: Side, width: int) -> Probe:
        """The same layer with another width on one side, or on both, where they are the same channels."""
        if self.kind == DEPTHWISE:
            return replace(self, entering=1, leaving=1, groups=width)
        return replace(self, entering=width) if side == "in" else replace(self, leaving=width)

    def subject(self, seed: int = 0) -> Subject:
        """A model of it, and what it's fed."""
        generator = np.random.default_rng(seed)
        weight, data, node = self._parts()
        made = _value("y", [None] * len(data))
        proto = helper.make_graph(
            [node],
            "layer",
            [_value("x", data)],
            [made],
            [numpy_helper.from_array(generator.standard_normal(weight).astype(np.float32), "w")],
        )
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        return Subject(model.SerializeToString(), {"x": generator.standard_normal(data).astype(np.float32)})

    def _parts(self) -> tuple[tuple[int, ...], tuple[int, ...], onnx.NodeProto]:
        """The shapes of weight and input, and the node."""
        if self.kind == PRODUCT:
            return (self.entering, self.leaving), (*self.image, self.entering), helper.make_node("MatMul", "xw", "y")
        pads = [size * (dilation) // 2 for size, dilation in zip(self.kernel, self.dilations, strict=True)] * 2
        node = helper.make_node(
            "Conv", "xw", "y", strides=self.strides, dilations=self.dilations, pads=pads, group=self.groups
        )
        weight = (self.leaving * self.groups, self.entering, *self.kernel)
        return weight, (1, self.entering * self.groups, *self.image), node


def _value(name: str, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def probes(channels: Channels) -> list[Probe]:
    """The heaviest layer of each kind, of the kernel that does most of the kind's work, made small enough."""
    weights: dict[tuple[str, str], int] = defaultdict(int)
    heaviest: dict[tuple[str, str], tuple[int, ir.Node]] = {}
    for node, axes, factor in channels.flow.work:
        key, macs = (kind_of(node), _shape_of_kernel(node)), factor * math.prod(len(ids) for ids in axes)
        if key[0] != OTHER and _is_float(node):
            weights[key] += macs
            heaviest[key] = max(heaviest.get(key, (0, node)), (macs, node), key=lambda entry: entry[0])
    kinds = sorted({kind for kind, _ in weights})
    usual = {kind: max((key for key in weights if key[0] == kind), key=weights.__getitem__) for kind in kinds}
    return [_probe(kind, channels, heaviest[key][1]) for kind, key in usual.items()]


def _shape_of_kernel(node: ir.Node) -> str:
    """Kernel, strides and dilations: a network's first layer may be heavy, and unlike all others."""
    tensor = graph.constant_tensor(node.inputs[1]) if node.op_type == "Conv" else None
    sizes = () if tensor is None else tensor.shape.numpy()[2:]
    return f"{list(sizes)} {graph.integers(node, 'strides')} {graph.integers(node, 'dilations')}"


def _is_float(node: ir.Node) -> bool:
    tensor = graph.constant_tensor(node.inputs[1])
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT


def _probe(kind: str, channels: Channels, node: ir.Node) -> Probe:
    tensor = graph.constant_tensor(node.inputs[1])
    sizes = [int(size) for size in tensor.shape.numpy()] if tensor is not None else []
    shape = [size or 1 for size in channels.flow.shape(node.inputs[0]) or ()]
    sides = sides_of(node)
    leaving, entering = sizes[sides.leaving], 1 if sides.entering is None else sizes[sides.entering]
    if kind == PRODUCT:
        return _sized(Probe(kind, entering, leaving, (math.prod(shape[:-1]),)))
    kernel = tuple(sizes[2:])
    ones = [1] * len(kernel)
    strides, dilations = graph.integers(node, "strides") or ones, graph.integers(node, "dilations") or ones
    groups = graph.integer(node, "group", 1)
    if kind == DEPTHWISE:
        leaving = 1
    elif kind == GROUPED:
        leaving, groups = leaving // groups, min(groups, MOST_GROUPS)
    made = Probe(kind, entering, leaving, tuple(shape[2:]), kernel, tuple(strides), tuple(dilations), groups)
    return _sized(made)


def _sized(probe: Probe) -> Probe:
    """With an image and an other side of a size for the layer to take a fraction of a millisecond."""
    groups = 1 if probe.kind == DEPTHWISE else probe.groups
    each = WIDTHS[-1] * groups * math.prod(probe.kernel) / math.prod(probe.strides or (1,))
    most = max(OTHER_SIDE, int(MOST_MACS / (each * max(math.prod(probe.image), 1))))
    probe = replace(probe, entering=_fast(min(probe.entering, most)), leaving=_fast(min(probe.leaving, most)))
    macs = each * max(probe.entering, probe.leaving) * math.prod(probe.image)
    # A single row or pixel has kernels of its own, and stays one.
    share = (MOST_MACS / max(macs, 1.0)) ** (1 / max(len(probe.image), 1)) if math.prod(probe.image) > 1 else 1.0
    least = [size * dilation for size, dilation in zip(probe.kernel, probe.dilations, strict=True)] or [1]
    image = (max(low, round(size * share)) for size, low in zip(probe.image, least, strict=True))
    return replace(probe, image=tuple(image))


def _fast(width: int) -> int:
    """A width of the other side that keeps no layer off its fast kernel: a multiple of the widest one that fits."""
    return next((width // block * block for block in (WIDTHS[-1], NARROW) if width >= block), width)


def measure(found: Sequence[Probe], timer: Timer, progress: Callable[[float], None] = lambda _: None) -> Curves:
    """The curve of each side of each layer that takes long enough to tell widths apart."""
    jobs = [(probe, side, width) for probe in found for side in _sides(probe) for width in WIDTHS]
    order = np.random.default_rng(0).permutation(len(jobs)).tolist()
    times: dict[tuple[str, Side], dict[int, float]] = {}
    for start in range(0, len(order), MOST_SESSIONS):
        some = [jobs[place] for place in order[start : start + MOST_SESSIONS]]
        profiles = timer.profile([probe.at(side, width).subject() for probe, side, width in some], whole=False)
        for (probe, side, width), profile in zip(some, profiles, strict=True):
            times.setdefault((probe.kind, side), {})[width] = _milliseconds(profile)
        progress(min(1.0, (start + MOST_SESSIONS) / len(order)))
    return {key: read(took) for key, took in sorted(times.items()) if max(took.values()) >= LEAST_MILLISECONDS}


def _sides(probe: Probe) -> tuple[Side, ...]:
    return ("out",) if probe.kind == DEPTHWISE else SIDES


def _milliseconds(profile: Profile) -> float:
    return max(1e-6, sum(event.milliseconds for event in profile.events if event.op_type not in REARRANGES))


def preferred(channels: Channels, curves: Curves, default: int = 1) -> list[int]:
    """The multiple of channels that each group should keep: the coarsest that any of its operators likes.

    A width of a multiple of the coarsest is one of all, as they are powers of two. Groups that no known kind of
    operator reads or makes get `default`.
    """
    places = _places(channels)
    return [
        max((curves.get(key, PLAIN).multiple for key in _touched(group, places) if key in curves), default=default)
        for group in channels.groups
    ]


def _places(channels: Channels) -> dict[tuple[str, int], list[tuple[str, Side]]]:
    """Kind and side of each axis of each weight."""
    found: dict[tuple[str, int], list[tuple[str, Side]]] = {}
    for use in channels.flow.uses:
        kind = kind_of(use.node)
        if use.index != 1 or kind == OTHER:
            continue
        source, sides = graph.constant_source(use.value), sides_of(use.node)
        name = str(source.name if source is not None else use.value.name)
        for side, axis in zip(SIDES, (sides.entering, sides.leaving), strict=True):
            if axis is not None:
                found.setdefault((name, axis), []).append((kind, side))
    return found


def _touched(group: ChannelGroup, places: dict[tuple[str, int], list[tuple[str, Side]]]) -> Iterator[tuple[str, Side]]:
    for member in group.members:
        yield from places.get((member.tensor, member.axis), ())


def by_kind(curves: Curves) -> dict[str, int]:
    """The multiples as the report names them: "pointwise conv, in"."""
    return {f"{kind}, {side}": curve.multiple for (kind, side), curve in sorted(curves.items())}


__all__ = ["Curve", "Probe", "by_kind", "measure", "preferred", "probes"]
