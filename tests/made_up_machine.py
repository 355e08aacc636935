"""A machine whose kernels take exactly what a formula says: what a latency model should find out about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from darwinc.latency.profiles import Event, Profile, Subject

FIXED_MS, MS_PER_MAC, MS_PER_ELEMENT = 0.01, 2e-7, 1e-6


@dataclass
class MadeUpMachine:
    """Kernels that fill channels up to multiples; depthwise convolutions are slow off multiples of 4.

    `slow_batches` is by how much each batch of models in turn is slowed down as a whole.
    """

    entering: int = 16
    leaving: int = 16
    off_four: float = 6.0
    slow_batches: Sequence[float] = (1.0,)
    asked: list[int] = field(default_factory=list)

    def profile(self, subjects: Sequence[Subject], *, whole: bool = True) -> list[Profile]:
        """Profiles, and a note of how many models there were."""
        slow = self.slow_batches[len(self.asked) % len(self.slow_batches)]
        self.asked.append(len(subjects))
        return [self._profile(subject, slow) for subject in subjects]

    def _profile(self, subject: Subject, slow: float) -> Profile:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(subject.model), strict_mode=True)
        shapes = {name: list(array.shape) for name, array in subject.feed.items()}
        for value in (*model.graph.value_info, *model.graph.output):
            shapes.setdefault(value.name, [size.dim_value or 1 for size in value.type.tensor_type.shape.dim])
        weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        events = [event for node in model.graph.node for event in self._events(model, node, shapes | weights)]
        wall = 1.05 * sum(event.milliseconds for event in events) + 0.004
        scaled = (Event(event.name, event.op_type, event.milliseconds * slow) for event in events)
        return Profile(tuple(scaled), wall * slow)

    def _events(self, model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, list[int]]) -> list[Event]:
        """A Relu is a part of the convolution before it, which then goes by the Relu's output."""
        made = node.output[0]
        if node.op_type == "Relu":
            return []
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return [Event(node.name or made, node.op_type, FIXED_MS + MS_PER_ELEMENT * math.prod(shapes[made]))]
        for reader in model.graph.node:
            if made in reader.input and reader.op_type == "Relu":
                made = reader.output[0]
        name = f"{made}_nchwc" if node.op_type == "Conv" else node.name or made
        rearranged = Event("ReorderOutput_token_7", "ReorderOutput", FIXED_MS)
        return [Event(name, node.op_type, self.milliseconds(node, shapes)), *([rearranged] * (node.op_type == "Conv"))]

    def milliseconds(self, node: onnx.NodeProto, shapes: dict[str, list[int]]) -> float:
        """What a convolution or a matrix product takes."""
        weight, made = shapes[node.input[1]], shapes[node.output[0]]
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type != "Conv":
            entering, leaving = weight[::-1] if transposed else weight
            return FIXED_MS + MS_PER_MAC * math.prod(made[:-1]) * _up(entering, self.entering) * _up(
                leaving, self.leaving
            )
        work = math.prod(made[2:]) * math.prod(weight[2:]) * _up(weight[0], self.leaving)
        if weight[1] > 1:
            return FIXED_MS + MS_PER_MAC * work * _up(weight[1], self.entering)
        return (FIXED_MS + MS_PER_MAC * work) * (self.off_four if weight[0] % 4 else 1.0)


def _up(width: int, multiple: int) -> int:
    return multiple * math.ceil(width / multiple)
