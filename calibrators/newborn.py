"""New weights for a network that is to learn from nothing: a control of what inheritance is worth.

Kaiming He et al., *Delving Deep into Rectifiers*, 2015: normal, of variance 2 over the inputs of a neuron.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.cost import FLOATS

NORMS = {
    "BatchNormalization": (1.0, 0.0, 0.0, 1.0),
    "InstanceNormalization": (1.0, 0.0),
    "LayerNormalization": (1.0, 0.0),
}
"""What inputs 1, 2, ... of an operator begin as."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def reborn(model: ir.Model, seed: int) -> ir.Model:
    """A copy whose filters and matrices are drawn anew, with biases of zero and plain normalisations.

    Everything else (constants of arithmetic, recurrent weights) stays.
    """
    child = model.clone()
    generator = np.random.default_rng(seed)
    seen: set[ir.Value] = set()
    for node in child.graph:
        if node.op_type in WEIGHTED:
            for index in (0, 1) if node.op_type == "MatMul" else (1,):
                _draw(node, index, generator, seen)
            if node.op_type != "MatMul":
                _fill(node, 2, 0.0, seen)
        for index, value in enumerate(NORMS.get(node.op_type, ())):
            _fill(node, index + 1, value, seen)
    return child


def _stored(node: ir.Node, index: int, seen: set[ir.Value]) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """A floating constant that a node reads and that nobody has set yet."""
    if index >= len(node.inputs):
        return None
    source, tensor = graph.constant_source(node.inputs[index]), graph.constant_tensor(node.inputs[index])
    if source is None or tensor is None or source in seen or tensor.dtype not in FLOATS:
        return None
    seen.add(source)
    return source, tensor


def _draw(node: ir.Node, index: int, generator: np.random.Generator, seen: set[ir.Value]) -> None:
    found = _stored(node, index, seen)
    if found is None or len(found[1].shape) < 2:
        return
    source, tensor = found
    shape = tuple(tensor.shape.numpy())
    scale = np.sqrt(2 / max(_inputs(node, index, shape), 1))
    _set(source, tensor, generator.normal(0.0, scale, shape))


def _inputs(node: ir.Node, index: int, shape: tuple[int, ...]) -> int:
    """How many inputs each neuron has."""
    if node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    if node.op_type == "ConvTranspose":
        return shape[0] * int(np.prod(shape[2:])) // max(graph.integer(node, "group", 1), 1)
    if node.op_type == "Gemm":
        return shape[1] if graph.integer(node, "transB", 0) else shape[0]
    return shape[-2] if index == 1 else shape[-1]


def _fill(node: ir.Node, index: int, value: float, seen: set[ir.Value]) -> None:
    found = _stored(node, index, seen)
    if found is not None:
        _set(*found, np.full(tuple(found[1].shape.numpy()), value))


def _set(source: ir.Value, tensor: ir.TensorProtocol, array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    graph.set_constant(source, ir.tensor(array.astype(tensor.dtype.numpy()), dtype=tensor.dtype, name=source.name))
