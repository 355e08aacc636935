"""Moves that normalise: over channels, groups of channels, pixels, as operators and by hand."""

from __future__ import annotations

from tests.random_graphs import verbs
from tests.random_graphs.builder import MICROSOFT, Builder

EPSILON = 0.1
"""Large, so that no quotient magnifies rounding errors."""


def normalise(b: Builder, x: str) -> str:
    """BatchNormalization or InstanceNormalization on a map, with vectors that others may share."""
    shape = b.shapes[x]
    scale, bias = b.vector(shape[1]), b.vector(shape[1])
    if shape[2] * shape[3] > 4 and b.coin():
        return b.add("InstanceNormalization", [x, scale, bias], shape, epsilon=EPSILON)
    return b.add("BatchNormalization", [x, scale, bias, b.vector(shape[1]), b.positive((shape[1],))], shape)


def group_norm(b: Builder, x: str) -> str | None:
    """GroupNormalization as an operator, or as exporters write it: one group per row of InstanceNormalization."""
    n, c, h, w = b.shapes[x]
    groups = [group for group in [1, *verbs.divisors(c)] if c // group * h * w > 4]
    if not groups:
        return None
    group = b.choose(groups)
    if b.opset >= 21 and b.coin():
        inputs = [x, b.vector(c), b.vector(c)]
        return b.add("GroupNormalization", inputs, b.shapes[x], num_groups=group, epsilon=EPSILON)
    rows = verbs.reshape(b, x, (n, group, c // group * h * w))
    ones = [b.constant(b.random.standard_normal(group).astype("float32")) for _ in range(2)]
    normal = b.add("InstanceNormalization", [rows, *ones], b.shapes[rows], epsilon=EPSILON)
    back = verbs.reshape(b, normal, (n, c, h, w))
    scaled = verbs.binary(b, "Mul", back, b.weight((c, 1, 1), 1))
    return verbs.binary(b, "Add", scaled, b.weight((c, 1, 1), 1))


def channels_last_norm(b: Builder, x: str) -> str:
    """ConvNeXt: LayerNormalization of a map's channels, moved to the end and back."""
    return verbs.transpose(b, layer_norm(b, verbs.transpose(b, x, [0, 2, 3, 1])), [0, 3, 1, 2])


def layer_norm(b: Builder, x: str) -> str:
    """LayerNormalization over the last axis: the operator, or by hand."""
    shape = b.shapes[x]
    scale, bias = b.vector(shape[-1]), b.vector(shape[-1])
    if b.opset >= 17 and b.coin():
        inputs = [x, scale, bias] if b.coin() else [x, scale]
        return b.add("LayerNormalization", inputs, shape, axis=-1, epsilon=EPSILON)
    centred = verbs.binary(b, "Sub", x, verbs.reduce(b, "ReduceMean", x, [-1]))
    return verbs.binary(b, "Add", _divided(b, centred, scale), bias)


def rms_norm(b: Builder, x: str) -> str:
    """RMSNormalization over the last axis: the operator, or by hand."""
    shape = b.shapes[x]
    if b.opset >= 23 and b.coin():
        return b.add("RMSNormalization", [x, b.vector(shape[-1])], shape, axis=-1, epsilon=EPSILON)
    return _divided(b, x, b.vector(shape[-1]))


def _divided(b: Builder, x: str, scale: str) -> str:
    """By the root of the mean square."""
    squares = verbs.binary(b, "Pow", x, b.scalar(2)) if b.opset >= 12 and b.coin() else verbs.binary(b, "Mul", x, x)
    mean = verbs.binary(b, "Add", verbs.reduce(b, "ReduceMean", squares, [-1]), b.scalar(EPSILON))
    root = verbs.unary(b, "Sqrt", mean)
    if b.coin():
        return verbs.binary(b, "Mul", verbs.binary(b, "Div", x, root), scale)
    return verbs.binary(b, "Mul", scale, verbs.binary(b, "Mul", x, verbs.unary(b, "Reciprocal", root)))


def skip_norm(b: Builder, x: str) -> str:
    """ONNX Runtime's sum and normalisation in one, with what has the shape of `x`."""
    shape = b.shapes[x]
    other, size = b.choose(b.alike(x)), shape[-1]
    if b.coin():
        inputs = [x, other, b.vector(size)]
        return b.add("SkipSimplifiedLayerNormalization", inputs, shape, domain=MICROSOFT, epsilon=EPSILON)
    inputs = [x, other, b.vector(size), b.vector(size), *([b.vector(size)] if b.coin() else [])]
    return b.add("SkipLayerNormalization", inputs, shape, domain=MICROSOFT, epsilon=EPSILON)


def across(b: Builder, x: str) -> str:
    """Operators on a map that look across channels."""
    if b.coin():
        return b.add("LRN", [x], b.shapes[x], size=b.choose((1, 3, 5)))
    return b.add("Softmax", [x], b.shapes[x], axis=b.choose((1, 2, 3)))


def ordered(b: Builder, x: str) -> str | None:
    """Operators for which the order of channels counts, or which of them is largest."""
    shape, axis = b.shapes[x], 1 if len(b.shapes[x]) == 4 else 2
    if b.opset < 11:
        return None
    way = b.choose(("CumSum", "ArgMax", "TopK"))
    if way == "CumSum":
        return b.add("CumSum", [x, b.integers(axis)], shape, reverse=b.number(0, 1))
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    if way == "TopK":
        return b.add_many("TopK", [x, b.integers([1])], [single, single], axis=axis)[0]
    place = verbs.unary(b, "Cast", b.add("ArgMax", [x], single, axis=axis), to=1)
    return verbs.binary(b, "Mul", x, verbs.unary(b, "Sin", place))


def summed(b: Builder, x: str) -> str:
    """A sum or a norm over channels, exact with zeros: right after a layer, or after what doesn't keep zeros zero."""
    axis = 1 if len(b.shapes[x]) == 4 else 2
    if b.coin():
        x = verbs.unary(
            b, b.choose(("Sigmoid", "Exp", "Cos", "Relu", "Neg", "Tanh", "Softplus")), verbs.unary(b, "Tanh", x)
        )
    if b.rarely():
        return b.add("LpNormalization", [x], b.shapes[x], axis=axis, p=b.choose((1, 2)))
    op_type = b.choose(("ReduceSum", "ReduceL2", "ReduceL1", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin"))
    total = verbs.reduce(b, op_type, x, b.choose(([axis], [axis, axis - 1]) if axis == 2 else ([1], [1, 2, 3])))
    if op_type != "ReduceSum" and b.coin():
        return verbs.binary(b, "Div", x, verbs.binary(b, "Add", verbs.unary(b, "Abs", total), b.scalar(0.5)))
    return verbs.binary(b, b.choose(("Mul", "Add")), x, verbs.unary(b, "Tanh", total))
