"""The shape of every value, as far as it can be known without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript.optimizer import fold_constants

Shape = tuple[int | None, ...]

FREE_BATCH, FREE_EXTENT = 1, 224
"""What cost figures assume for symbolic axes: one sample, and images of 224 pixels a side."""


@dataclass(frozen=True)
class Shapes:
    """`known[name]` holds None for symbolic axes; `assumed[name]` has a size for every axis that inference could settle."""

    known: Mapping[str, Shape]
    assumed: Mapping[str, Shape]


def infer(model: ir.Model) -> Shapes:
    """Infer on copies; the model itself is not touched. Values of unknown rank are absent."""
    known = _inferred(model.clone())
    if all(None not in (known.get(str(value.name)) or ()) for value in model.graph.inputs):
        return Shapes(known, known)
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
    """Shapes by value name; folding shape arithmetic is tried only where plain inference leaves gaps."""
    names = [str(output.name) for node in copy.graph for output in node.outputs]
    infer_pass = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer_pass(copy)
    shapes = _collect(copy)
    if all(name in shapes and None not in shapes[name] for name in names):
        return shapes
    fold_constants(copy, onnx_shape_inference=False)
    infer_pass(copy)
    folded = _collect(copy)
    return {name: _sharper(shapes.get(name), folded.get(name)) for name in {**shapes, **folded}}  # type: ignore[misc]


def _sharper(first: Shape | None, second: Shape | None) -> Shape | None:
    if first is None or second is None or len(first) != len(second):
        return first if first is not None else second
    return tuple(b if a is None else a for a, b in zip(first, second, strict=True))


def _collect(model: ir.Model) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    values = list(model.graph.inputs) + list(model.graph.initializers.values())
    values += [output for node in model.graph for output in node.outputs]
    for value in values:
        if value.name and value.shape is not None:
            shapes[value.name] = tuple(size if isinstance(size, int) else None for size in value.shape)
        elif value.name and value.const_value is not None:
            shapes[value.name] = tuple(int(size) for size in value.const_value.shape)
    return shapes
