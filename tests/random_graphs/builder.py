"""The model under construction: where its choices come from, its nodes, its constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
T = TypeVar("T")

BATCH = 2
WIDEST, TALLEST, LONGEST = 24, 8, 20
"""How many channels, pixels a side and tokens a value may have."""
MICROSOFT = "com.microsoft"


@dataclass
class Builder:
    """The model under construction, and where its choices come from."""

    number: Callable[[int, int], int]
    """An integer of [low, high], chosen by hypothesis or by chance."""
    opset: int
    symbolic: bool
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    vectors: dict[Shape, list[str]] = field(default_factory=dict)
    """Constants by shape, for readers that share one."""
    values: list[str] = field(default_factory=list)
    """Maps [N, C, H, W] and sequences [N, T, D] that moves start from."""
    count: int = 0

    def choose(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.number(0, len(options) - 1)]

    def coin(self) -> bool:
        """Yes or no."""
        return self.number(0, 1) == 1

    def rarely(self) -> bool:
        """Yes, one time in five; shrinks towards no."""
        return self.number(0, 4) == 4

    def name(self, stem: str) -> str:
        """A name that nothing has yet."""
        self.count += 1
        return f"{stem}{self.count}"

    def alike(self, x: str) -> list[str]:
        """The values that have the shape of `x`."""
        return [other for other in self.values if self.shapes[other] == self.shapes[x]]

    # Nodes -----------------------------------------------------------------------------------------------------------

    def add(self, op_type: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """A node of one output with a known shape."""
        return self.add_many(op_type, inputs, [shape], **attributes)[0]

    def add_many(
        self, op_type: str, inputs: Sequence[str], shapes: Sequence[Sequence[int]], **attributes: Any
    ) -> list[str]:
        """A node of several outputs with known shapes."""
        outputs = [self.name(op_type.lower()) for _ in shapes]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=f"node_{outputs[0]}", **attributes))
        self.shapes.update({output: tuple(shape) for output, shape in zip(outputs, shapes, strict=True)})
        return outputs

    # Constants -------------------------------------------------------------------------------------------------------

    def constant(self, array: Array) -> str:
        """A constant: an initializer, a Constant node's output, or a copy of one through Identity."""
        style = self.number(0, 5)
        if style == 5:
            name = self.name("k")
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
            self.shapes[name] = array.shape
            return name
        name = self.stored(array)
        return self.add("Identity", [name], array.shape) if style == 4 else name

    def stored(self, array: Array) -> str:
        """An initializer."""
        name = self.name("k")
        self.initializers.append(numpy_helper.from_array(array, name))
        self.shapes[name] = array.shape
        return name

    def integers(self, numbers: Sequence[int] | int) -> str:
        """A constant of 64-bit integers, or of one."""
        return self.constant(np.asarray(numbers, np.int64))

    def scalar(self, number: float) -> str:
        """A float of shape [] or [1]."""
        return self.constant(np.asarray([number] if self.coin() else number, np.float32))

    def weight(self, shape: Shape, fan_in: int) -> str:
        """Random weights that keep the scale; now and then a constant that somebody else reads too."""
        known = self.vectors.setdefault(shape, [])
        if known and self.number(0, 3) == 3:
            return self.choose(known)
        array = (self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        name = self._moved(array) if self.number(0, 5) == 5 else self.constant(array)
        known.append(name)
        return name

    def vector(self, size: int) -> str:
        """Random numbers, one per channel."""
        return self.weight((size,), 1)

    def _moved(self, array: Array) -> str:
        """A constant that is stored otherwise, and brought into shape by operators."""
        way = self.number(0, 3)
        if way == 0:
            return self.add("Transpose", [self.constant(array.T)], array.shape)
        if way == 1:
            return self.add("Reshape", [self.constant(array.ravel()), self.integers(array.shape)], array.shape)
        if way == 2 and array.shape[0] > 1:
            halves = [self.constant(half) for half in np.split(array, [array.shape[0] // 2])]
            return self.add("Concat", halves, array.shape, axis=0)
        return self.add("Mul", [self.constant(array), self.constant(np.float32(2).reshape(1))], array.shape)

    def positive(self, shape: Shape) -> str:
        """Random variances."""
        return self.constant(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    # The end ---------------------------------------------------------------------------------------------------------

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str]) -> onnx.ModelProto:
        """The finished model; the outputs have the batch as their first axis.

        Shapes in between are recorded or not; mostly those that ONNX's inference can't know.
        """
        fused = [node.output[0] for node in self.nodes if node.domain == MICROSOFT and node.output[0] not in outputs]
        recorded = [self.tensor(name) for name in fused] if self.number(0, 3) else []
        graph = helper.make_graph(
            self.nodes,
            "random",
            list(inputs),
            [self.tensor(name) for name in outputs],
            self.initializers,
            None,
            recorded,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain == MICROSOFT for node in self.nodes):
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8 if self.opset < 21 else 10)
        return onnx.shape_inference.infer_shapes(model) if self.rarely() else model

    def tensor(self, name: str) -> onnx.ValueInfoProto:
        """A float value's type, with the batch as symbolic as it is."""
        first, *rest = self.shapes[name]
        batch = first if not self.symbolic else "N" if first == BATCH else None
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *rest])
