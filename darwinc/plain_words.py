"""A barrier's reason for somebody who doesn't know the analysis."""

from __future__ import annotations

import onnx_ir as ir

from darwinc import graph
from darwinc.axis_rules.weighted import INTEGERS
from darwinc.channels import Channels

COMBINED = "is combined with positions that can't be removed"
AT_INPUT = "meets the graph's input, which keeps its shape"
PLAIN = {
    "reaches a graph output": "makes the graph's output, such as class scores, which keeps its shape",
    COMBINED: "meets positions that something else keeps",
    INTEGERS: "works on quantised numbers: integer weights that it reads itself are left as they are along this axis",
}
SIZES = frozenset({"Shape", "Size"})


class PlainWords:
    """Told once per model, because the reason may lie further up: in the graph's input."""

    def __init__(self, channels: Channels) -> None:
        self._at_input = _at_input(channels)

    def why(self, node: ir.Node | None, reason: str) -> str:
        """The reason in plain words; as it is where it's plain already."""
        return AT_INPUT if reason == COMBINED and node in self._at_input else PLAIN.get(reason, reason)


def _at_input(channels: Channels) -> set[ir.Node | None]:
    """The nodes that read the graph's input, as it comes or after operators that keep nothing themselves."""
    blockers = {barrier.node for barrier in channels.flow.barriers}
    untouched: set[str] = set()
    found: set[ir.Node | None] = set()
    for node in channels.nodes:
        read = [value for value in node.inputs if value is not None and graph.constant_source(value) is None]
        raw = [value.is_graph_input() or str(value.name) in untouched for value in read]
        if any(raw):
            found.add(node)
        if raw and all(raw) and node not in blockers and node.op_type not in SIZES:
            untouched.update(str(output.name) for output in node.outputs)
    return found
