"""The shape of every value, as far as it can be known without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript.optimizer import fold_constants

Shape = tuple[int | None, ...]

ROUNDS = 4
"""How often shape arithmetic is folded and shapes are inferred again, while that settles more."""

FREE_BATCH, FREE_EXTENT = 1, 224
"""What cost figures assume for symbolic axes: one sample, and images of 224 pixels a side."""


@dataclass(frozen=True)
class Shapes:
    """`known[name]` holds None for symbolic axes; `assumed[name]` has a size wherever inference could settle one."""

    known: Mapping[str, Shape]
    assumed: Mapping[str, Shape]

    def sizes(self, name: str) -> Shape | None:
        """The shape of a value, with symbolic sizes as assumed; None where its rank is unknown."""
        known, assumed = self.known.get(name), self.assumed.get(name)
        if known is None or assumed is None:
            return known if assumed is None else assumed
        return _sharper(assumed, known)


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
    """Shapes by value name; folding shape arithmetic is tried only where plain inference leaves gaps.

    Folding renames values, and replaces some: those that were there are held on to by what they were called.
    """
    values = _values(copy)
    names = [str(output.name) for node in copy.graph for output in node.outputs]
    infer_pass = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer_pass(copy)
    shapes = _shapes(values, copy)
    for _ in range(ROUNDS):
        if all(name in shapes and None not in shapes[name] for name in names):
            break
        fold_constants(copy, onnx_shape_inference=False)
        infer_pass(copy)
        folded = _shapes(values, copy)
        sharper = folded | {name: _sharper(shape, folded.get(name, shape)) for name, shape in shapes.items()}
        if sharper == shapes:
            break
        shapes = sharper
    return shapes


def _sharper(first: Shape, second: Shape) -> Shape:
    if len(first) != len(second):
        return first
    return tuple(b if a is None else a for a, b in zip(first, second, strict=True))


def _values(model: ir.Model) -> dict[str, ir.Value]:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in model.graph for output in node.outputs]
    return {value.name: value for value in values if value.name}


def _shapes(values: Mapping[str, ir.Value], model: ir.Model) -> dict[str, Shape]:
    """The shapes of `values`, or of what `model` has in their place."""
    known = set(values.values())
    replaced = {name: value for name, value in _values(model).items() if name in values and value not in known}
    shapes: dict[str, Shape] = {}
    for name, value in {**values, **replaced}.items():
        if value.const_value is not None:
            shapes[name] = tuple(value.const_value.shape.numpy())
        elif value.shape is not None:
            shapes[name] = tuple(size if isinstance(size, int) else None for size in value.shape)
    return shapes
