"""The shape of every value, as far as it can be known without running the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from darwinc.weight_files import checkable, skeleton

Shape = tuple[int | None, ...]

FREE_BATCH, FREE_EXTENT = 1, 224
"""What cost figures assume for symbolic axes: one sample, and images of 224 pixels a side."""

TOLD_BYTES = 1024
"""Initializers that are larger don't tell inference more than their type and shape."""


@dataclass(frozen=True)
class Shapes:
    """`known[name]` holds None for symbolic axes; `assumed[name]` has a size wherever inference could settle one.

    `symbolic` says whether any input has a symbolic size. `measured[name]` are shapes found by running the model, which
    may depend on the data.
    """

    known: Mapping[str, Shape]
    assumed: Mapping[str, Shape]
    symbolic: bool = True
    measured: Mapping[str, Shape] = field(default_factory=dict)

    def sizes(self, name: str) -> Shape | None:
        """The shape of a value, with symbolic sizes as assumed; None where its rank is unknown."""
        best = self.assumed.get(name)
        for other in (self.known.get(name), self.measured.get(name)):
            best = other if best is None else best if other is None else _sharper(best, other)
        return best

    def only(self, names: Iterable[str]) -> Shapes:
        """Those of some values."""
        wanted = set(names)
        known, assumed = (
            {name: shape for name, shape in shapes.items() if name in wanted} for shapes in (self.known, self.assumed)
        )
        return Shapes(known, assumed, self.symbolic)

    def varies(self, name: str, axis: int) -> bool:
        """Is the size of an axis symbolic, or could it be?"""
        known = self.known.get(name)
        told = known is not None and known[axis] is not None
        return not told and (self.symbolic or name in self.measured)


def infer(model: ir.Model) -> Shapes:
    """Infer without the weights; the model itself is not touched. Values of unknown rank are absent."""
    proto = checkable(*skeleton(model, TOLD_BYTES))
    stored = {str(name): value.const_value for name, value in model.graph.initializers.items()}
    constants = {name: tuple(tensor.shape.numpy()) for name, tensor in stored.items() if tensor is not None}
    inputs = [str(value.name) for value in model.graph.inputs]
    known = _inferred(proto) | constants
    if all(None not in known.get(name, ()) for name in inputs):
        return Shapes(known, known, symbolic=False)
    for value in proto.graph.input:
        if value.name in inputs and value.type.HasField("tensor_type"):
            _settle(value.type.tensor_type.shape)
    for value in proto.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return Shapes(known, _inferred(proto) | constants)


def _settle(shape: onnx.TensorShapeProto) -> None:
    for axis, size in enumerate(shape.dim):
        if not size.HasField("dim_value"):
            size.dim_value = FREE_BATCH if axis == 0 else FREE_EXTENT


def _inferred(proto: onnx.ModelProto) -> dict[str, Shape]:
    """Every shape that is told or found; only those that are told where inference fails."""
    # Where it fails, what is told will have to do: the values in between become barriers.
    with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError, EncodeError):
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    shapes: dict[str, Shape] = {}
    for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        shape = _shape(value.type)
        if shape is not None:
            shapes[value.name] = tuple(size.dim_value if size.HasField("dim_value") else None for size in shape.dim)
    return shapes


def _shape(kind: onnx.TypeProto) -> onnx.TensorShapeProto | None:
    """The shape of a tensor, or of those in a sequence; None where the rank is unknown."""
    if kind.HasField("sequence_type"):
        return _shape(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return _shape(kind.optional_type.elem_type)
    return kind.tensor_type.shape if kind.tensor_type.HasField("shape") else None


def _sharper(first: Shape, second: Shape) -> Shape:
    if len(first) != len(second):
        return first
    return tuple(b if a is None else a for a, b in zip(first, second, strict=True))
