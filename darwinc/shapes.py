"""The shape of every value, as far as it can be known without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

Shape = tuple[int | None, ...]

FREE_BATCH, FREE_EXTENT = 1, 224
"""What cost figures assume for symbolic axes: one sample, and images of 224 pixels a side."""


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

    def varies(self, name: str, axis: int) -> bool:
        """Is the size of an axis symbolic, or could it be?"""
        known = self.known.get(name)
        told = known is not None and known[axis] is not None
        return not told and (self.symbolic or name in self.measured)


def infer(model: ir.Model) -> Shapes:
    """Infer on copies; the model itself is not touched. Values of unknown rank are absent."""
    known = _inferred(model.clone())
    if all(None not in (known.get(str(value.name)) or ()) for value in model.graph.inputs):
        return Shapes(known, known, symbolic=False)
    settled = model.clone()
    for value in settled.graph.inputs:
        value.shape = _settled(value.shape)
    for value in settled.graph.outputs:
        value.shape = None
    return Shapes(known, _inferred(settled))


def _settled(shape: ir.Shape | None) -> ir.Shape | None:
    if shape is None:
        return None
    sizes = [
        size if isinstance(size, int) else FREE_BATCH if axis == 0 else FREE_EXTENT for axis, size in enumerate(shape)
    ]
    return ir.Shape(sizes)


def _inferred(copy: ir.Model) -> dict[str, Shape]:
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    values = [*copy.graph.inputs, *copy.graph.initializers.values()]
    values += [output for node in copy.graph for output in node.outputs]
    shapes: dict[str, Shape] = {}
    for value in values:
        if value.const_value is not None:
            shapes[str(value.name)] = tuple(value.const_value.shape.numpy())
        elif value.shape is not None:
            shapes[str(value.name)] = tuple(size if isinstance(size, int) else None for size in value.shape)
    return shapes


def _sharper(first: Shape, second: Shape) -> Shape:
    if len(first) != len(second):
        return first
    return tuple(b if a is None else a for a, b in zip(first, second, strict=True))
