"""Changes to a copy of a model, so that its graph takes any number of samples.

What is added is named after the value that it is added for: `darwinc/<output>/<what>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from darwinc import graph as graphs
from darwinc.batching.layout import BatchHeld, Layout
from darwinc.torch_rules import Step

SYMBOL = "darwinc_batch"
LEAST_OPSET = 9
"""Where Shape, Where and Tile take what is asked of them here."""


class Edits:
    """A copy of a model, and what is changed in it.

    Attributes:
        model: the copy; weights are shared with the original.
        count: how many changes were made.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        self._opset = graphs.opset(model)
        self.count = 0
        self._nodes = {_made(node.outputs): node for node in self.model.graph}
        self._values: dict[str, ir.Value] = {}

    def node(self, step: Step) -> ir.Node:
        """The copy's node of a step."""
        return self._nodes[_first(step.outputs)]

    def set_numbers(self, step: Step, operand: int, numbers: Sequence[int]) -> None:
        """Store what an operand that lists integers holds."""
        stored = graphs.constant_tensor(self.node(step).inputs[operand])
        dtype = np.int64 if stored is None else stored.dtype.numpy()
        self._set_input(step, operand, self._constant(step, f"numbers_{operand}", np.array(numbers, dtype)))

    def set_attribute(self, step: Step, name: str, numbers: Sequence[int]) -> None:
        """Replace a list of integers among a node's attributes."""
        self.node(step).attributes[name] = ir.AttrInt64s(name, numbers)
        self.count += 1

    def set_number(self, step: Step, operand: int, length: int, position: int, number: ir.Value) -> None:
        """Let one number of an operand that lists `length` of them be a computed one [1]."""
        old = self.node(step).inputs[operand]
        where = self._constant(step, f"where_{operand}", np.arange(length) == position)
        self._set_input(step, operand, self._add(step, "Where", [where, number, old], f"numbers_{operand}"))

    def number(self, step: Step, name: str, value: int) -> ir.Value:
        """A stored number [1]."""
        return self._constant(step, name, np.array([value], np.int64))

    def size(self, step: Step, operand: int, axis: int, times: int = 1, over: int = 1) -> ir.Value:
        """The length of an operand's axis [1], times a whole fraction, computed where the graph runs."""
        source = self.node(step).inputs[operand]
        value = self._add(step, "Shape", [source], f"shape_{operand}")
        value = self._add(step, "Gather", [value, self.number(step, f"axis_{operand}", axis)], f"size_{operand}")
        common = math.gcd(times, over)
        for operator, factor in (("Mul", times // common), ("Div", over // common)):
            if factor != 1:
                by = self.number(step, f"{operator.lower()}_by_{operand}", factor)
                value = self._add(step, operator, [value, by], f"{operator.lower()}_{operand}")
        return value

    def repeat(self, step: Step, operand: int, rank: int, axis: int, count: ir.Value) -> None:
        """Repeat an operand along an axis, `count` [1] times."""
        ones = self._constant(step, f"ones_{operand}", np.ones(rank, np.int64))
        where = self._constant(step, f"along_{operand}", np.arange(rank) == axis)
        repeats = self._add(step, "Where", [where, count, ones], f"repeats_{operand}")
        source = self.node(step).inputs[operand]
        self._set_input(step, operand, self._add(step, "Tile", [source, repeats], f"samples_{operand}"))

    def free_shapes(self, layouts: Mapping[str, Layout], inputs: Mapping[str, int | None], samples: int) -> None:
        """Leave free what the file says of the batch axes' lengths."""
        graph = self.model.graph
        for value in graph.inputs:
            axis = inputs.get(str(value.name))
            if axis is not None:
                _free(value, axis, SYMBOL)
        for node in graph:
            for value in node.outputs:
                layout = layouts.get(str(value.name or ""))
                if layout is not None and value.shape is not None and len(value.shape) > layout.axis:
                    _free(value, layout.axis, SYMBOL if value.shape[layout.axis] == samples else None)

    def _set_input(self, step: Step, operand: int, value: ir.Value) -> None:
        self.node(step).replace_input_with(operand, value)
        self.count += 1

    def _constant(self, step: Step, what: str, array: np.ndarray[tuple[int], np.dtype[np.generic]]) -> ir.Value:
        name = _name(step, what)
        if name not in self._values:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
            value.const_value = tensor
            self.model.graph.register_initializer(value)
            self._values[name] = value
        return self._values[name]

    def _add(self, step: Step, operator: str, inputs: Sequence[ir.Value | None], what: str) -> ir.Value:
        if self._opset < LEAST_OPSET:
            raise BatchHeld(f"would take a number that opset {self._opset} can't compute")
        name = _name(step, what)
        if name not in self._values:
            value = ir.Value(name=name)
            self.model.graph.insert_before(self.node(step), [ir.Node("", operator, inputs, outputs=[value], name=name)])
            self._values[name] = value
        return self._values[name]


def _name(step: Step, what: str) -> str:
    return f"darwinc/{_first(step.outputs)}/{what}"


def _first(names: Sequence[str]) -> str:
    return next((name for name in names if name), "")


def _made(values: Sequence[ir.Value]) -> str:
    return _first([str(value.name or "") for value in values])


def _free(value: ir.Value, axis: int, symbol: str | None) -> None:
    """Make an axis symbolic that has a fixed length."""
    if value.shape is not None and isinstance(value.shape[axis], int):
        sizes = [size if isinstance(size, int) else size.value for size in value.shape]
        sizes[axis] = symbol
        value.shape = ir.Shape(sizes)
