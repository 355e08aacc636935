"""If: bodies that read values and weights from outside."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.random_graphs import verbs
from tests.random_graphs.builder import WIDEST, Array, Builder


def choose(b: Builder, x: str) -> str:
    """One of two small bodies, which both read `x` from outside."""
    truth = _truth(b, x)
    if b.coin():
        shape, bodies = b.shapes[x], [_pointwise(b, x, b.choose(("Relu", "Sigmoid", "Identity"))) for _ in range(2)]
    else:
        width = b.number(2, WIDEST // 2)
        outside = b.stored(_weight(b, x, width)) if b.coin() else None
        bodies = [_layer(b, x, width, outside) for _ in range(2)]
        shape = (b.shapes[x][0], width, *b.shapes[x][2:]) if len(b.shapes[x]) == 4 else (*b.shapes[x][:2], width)
    return b.add("If", [truth], shape, then_branch=bodies[0], else_branch=bodies[1])


def _truth(b: Builder, x: str) -> str:
    """[]: stored, or computed from a shape or from numbers."""
    way = b.number(0, 2)
    if way == 0:
        return b.constant(np.asarray(b.coin()))
    if way == 1:
        return b.add("Greater", [verbs.size_at(b, verbs.shape_of(b, x), 0), b.integers(b.number(0, 5))], ())
    total = verbs.reduce(b, "ReduceSum", x, range(len(b.shapes[x])), keep=False)
    return b.add("Greater", [total, b.constant(np.asarray(0.3, np.float32))], ())


def _pointwise(b: Builder, x: str, op_type: str) -> onnx.GraphProto:
    output = _declared(b, b.shapes[x])
    return _body(b, helper.make_node(op_type, [x], [output], name=f"node_{output}"))


def _layer(b: Builder, x: str, width: int, outside: str | None) -> onnx.GraphProto:
    """Conv or MatMul, with a weight from outside or of its own."""
    convolves = len(b.shapes[x]) == 4
    first, second, *rest = b.shapes[x]
    output = _declared(b, (first, width, *rest) if convolves else (first, second, width))
    own = [] if outside else [numpy_helper.from_array(_weight(b, x, width), b.name("inner"))]
    inputs = [x, outside or own[0].name]
    return _body(b, helper.make_node("Conv" if convolves else "MatMul", inputs, [output], name=f"node_{output}"), own)


def _weight(b: Builder, x: str, width: int) -> Array:
    depth = b.shapes[x][1 if len(b.shapes[x]) == 4 else 2]
    shape = (width, depth, 1, 1) if len(b.shapes[x]) == 4 else (depth, width)
    return np.asarray(b.random.standard_normal(shape) / np.sqrt(depth), np.float32)


def _declared(b: Builder, shape: tuple[int, ...]) -> str:
    name = b.name("inner")
    b.shapes[name] = shape
    return name


def _body(b: Builder, node: onnx.NodeProto, own: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph([node], b.name("body"), [], [b.tensor(node.output[0])], own or [])
