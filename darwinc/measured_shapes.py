"""The shapes of values that inference can't tell, from one run of the model in ONNX Runtime on made-up input."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from darwinc.errors import DarwincError
from darwinc.runtime import input_specs, made_up_feed, open_session, run
from darwinc.shapes import Shape, Shapes

SEQUENCES = frozenset({
    "If", "Loop", "Optional", "OptionalGetElement", "Scan", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceMap", "SplitToSequence", "ConcatFromSequence",
})  # fmt: skip
"""Operators whose results may be no tensors, and so have no shape to ask for."""


def measure(model: ir.Model, shapes: Shapes) -> dict[str, Shape]:
    """Shapes by value name, of the values that `shapes` doesn't fully know; none where the model can't be run so.

    Symbolic axes are given the sizes that `shapes` assumes.
    """
    copy = model.clone()
    names = _ask_for_shapes(copy, shapes)
    try:
        session = open_session(copy, optimization="basic")
        specs = [replace(spec, shape=shapes.sizes(spec.name) or spec.shape) for spec in input_specs(session)]
        answers = run(session, made_up_feed(specs, seed=0, integers_below=2))
    except DarwincError:
        return {}
    return {name: tuple(int(size) for size in answers[output]) for output, name in names.items()}


def _ask_for_shapes(model: ir.Model, shapes: Shapes) -> dict[str, str]:
    """Make the shapes of unknown values the model's only outputs; the names of those outputs and of the values."""
    names: dict[str, str] = {}
    outputs: list[ir.Value] = []
    for node in list(model.graph):
        if node.op_type in SEQUENCES:
            continue
        for value in node.outputs:
            known = shapes.sizes(str(value.name))
            if value.name and (known is None or None in known) and value.uses():
                asked = ir.Value(
                    name=f"darwinc/{value.name}/shape", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([None])
                )
                model.graph.append(ir.Node("", "Shape", [value], outputs=[asked]))
                names[str(asked.name)] = str(value.name)
                outputs.append(asked)
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    return names
