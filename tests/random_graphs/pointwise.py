"""Moves that work on each number by itself, on maps and sequences, and what chooses between numbers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.random_graphs import verbs
from tests.random_graphs.builder import MICROSOFT, Builder, Shape
from tests.random_graphs.layout import channel_axis, channels, widened

UNARY = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "Abs", "Identity", "Neg", "Erf", "HardSigmoid")
BINARY = ("Add", "Mul", "Sub", "Max", "Sum", "Mean", "Min")
FUSED = ("Gelu", "FastGelu", "QuickGelu", "BiasGelu")


def unary(b: Builder, x: str) -> str:
    """One operand."""
    return verbs.unary(b, b.choose(UNARY), x)


def clip(b: Builder, x: str) -> str:
    """Bounds in inputs or attributes; not always around zero."""
    low, high = b.choose(((0.0, 6.0), (-1.0, 1.0), (0.1, 2.0)))
    if b.opset < 11:
        return verbs.unary(b, "Clip", x, min=low, max=high)
    bounds = [b.constant(np.asarray(bound, np.float32)) for bound in (low, high)]
    return b.add("Clip", [x, *bounds], b.shapes[x])


def gelu(b: Builder, x: str) -> str:
    """The operator, ONNX Runtime's, or by hand with Erf or Tanh."""
    way = b.choose(("fused", "erf", "tanh", "swish", *(("operator",) if b.opset >= 20 else ())))
    if way == "operator":
        return verbs.unary(b, "Gelu", x, approximate=b.choose(("none", "tanh")))
    if way == "fused":
        return _fused_gelu(b, x, b.choose(FUSED))
    if way == "swish":
        return verbs.binary(b, "Mul", x, verbs.unary(b, "Sigmoid", x))
    if way == "erf":
        inner = verbs.unary(b, "Erf", verbs.binary(b, "Div", x, b.scalar(np.sqrt(2))))
    else:
        cube = verbs.binary(b, "Mul", verbs.binary(b, "Mul", x, x), verbs.binary(b, "Mul", x, b.scalar(0.044715)))
        inner = verbs.unary(b, "Tanh", verbs.binary(b, "Mul", verbs.binary(b, "Add", x, cube), b.scalar(0.7978845)))
    product = verbs.binary(b, "Mul", x, verbs.binary(b, "Add", inner, b.scalar(1)))
    return verbs.binary(b, "Mul", product, b.scalar(0.5))


def _fused_gelu(b: Builder, x: str, op_type: str) -> str:
    inputs = [x]
    if op_type == "BiasGelu" or (op_type == "FastGelu" and b.coin()):
        inputs.append(b.vector(b.shapes[x][-1]))
    return b.add(op_type, inputs, b.shapes[x], domain=MICROSOFT)


def rectify(b: Builder, x: str) -> str:
    """PRelu, with one slope or one per channel."""
    return b.add("PRelu", [x, b.weight(b.choose(_vectors(b, x)), 1)], b.shapes[x])


def combine(b: Builder, x: str) -> str:
    """Two values of one shape, or a value and a constant that broadcasts against it."""
    constants = (*_vectors(b, x), b.shapes[x][-2:], (1, *b.shapes[x][1:]))
    other = b.choose(b.alike(x)) if b.coin() else b.weight(b.choose(constants), 1)
    return b.add(b.choose(BINARY), [x, other] if b.coin() else [other, x], b.shapes[x])


def _vectors(b: Builder, x: str) -> tuple[Shape, ...]:
    """Shapes of constants that hold one number per channel, or one at all."""
    width = channels(b, x)
    return ((width, 1, 1), (1, width, 1, 1), (1,)) if len(b.shapes[x]) == 4 else ((width,), (1, 1, width), (1,))


def attend_pixels(b: Builder, x: str) -> str:
    """A gate with one channel, which all channels share."""
    op_type = b.choose(("ReduceMean", "ReduceMax", "ReduceSum"))
    return verbs.binary(b, "Mul", x, verbs.unary(b, "Sigmoid", verbs.reduce(b, op_type, x, [channel_axis(b, x)])))


def where(b: Builder, x: str) -> str:
    """Chosen by constants per channel or pixel, or by comparing; the other branch a value, a vector or a number."""
    shape, way = b.shapes[x], b.number(0, 2)
    if way == 0:
        condition = b.constant(b.random.random(b.choose((widened(b, x, 1)[1:], _vectors(b, x)[0]))) < 0.5)
    elif way == 1:
        condition = verbs.binary(b, "Greater", x, b.scalar(0.1))
    else:
        condition = verbs.unary(b, "Cast", x, to=TensorProto.BOOL)
    options = (b.choose(b.alike(x)), b.weight(_vectors(b, x)[0], 1), b.scalar(b.choose((0.0, 1.0))))
    other = b.choose(options)
    return b.add("Where", [condition, x, other] if b.coin() else [condition, other, x], shape)


def detour(b: Builder, x: str) -> str:
    """Through another type and back, or through Dropout."""
    if b.coin():
        return b.add("Dropout", [x], b.shapes[x])
    wide = verbs.unary(b, "Cast", x, to=TensorProto.DOUBLE)
    return verbs.unary(b, "Cast", wide, to=TensorProto.FLOAT)
