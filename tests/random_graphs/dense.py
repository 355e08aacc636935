"""Matrix products as exporters write them, and the moves that are made of them."""

from __future__ import annotations

import numpy as np

from tests.random_graphs import normalisation, pointwise, quantised, verbs
from tests.random_graphs.builder import MICROSOFT, WIDEST, Builder


def linear(b: Builder, x: str, width: int) -> str:
    """Along the last axis, from its size to `width`, with a bias or without."""
    shape = b.shapes[x]
    ways = ["matmul", "matmul", "turned", "fused", "scaled", "quantised"]
    if len(shape) > 2:
        ways += ["flattened", "summed"]
    product = _PRODUCTS[b.choose(ways)](b, x, width)
    if b.coin():
        return product
    bias = b.weight(b.choose(((width,), (1, 1, width), (1,)) if len(shape) > 2 else ((width,), (1, width), (1,))), 1)
    if b.shapes[bias] == (width,) and b.opset >= 11 and b.rarely():
        bias = _overwritten(b, bias)
    return b.add("Add", [product, bias] if b.coin() else [bias, product], (*shape[:-1], width))


def _overwritten(b: Builder, vector: str) -> str:
    """Some positions set to one number, as Swin v2 silences the bias of its keys."""
    width = b.shapes[vector][0]
    count = b.number(1, width)
    listed = b.constant(b.random.permutation(width)[:count].astype(np.int64).reshape(count, 1))
    value = b.constant(np.asarray([0.0 if b.coin() else 0.5], np.float32))
    updates = b.add("Expand", [value, b.integers([count])], (count,))
    return b.add("ScatterND", [vector, listed, updates], (width,))


def _matmul(b: Builder, x: str, width: int) -> str:
    depth = b.shapes[x][-1]
    return verbs.matmul(b, x, b.weight((depth, width), depth))


def _turned(b: Builder, x: str, width: int) -> str:
    depth = b.shapes[x][-1]
    return verbs.matmul(b, x, verbs.transpose(b, b.weight((width, depth), depth), [1, 0]))


def _scaled(b: Builder, x: str, width: int) -> str:
    depth = b.shapes[x][-1]
    return verbs.matmul(b, x, verbs.binary(b, "Mul", b.weight((depth, width), depth), b.vector(width)))


def _quantised(b: Builder, x: str, width: int) -> str:
    depth = b.shapes[x][-1]
    return verbs.matmul(b, x, quantised.weight(b, (depth, width), 1))


def _fused(b: Builder, x: str, width: int) -> str:
    depth, down = b.shapes[x][-1], b.number(0, 1)
    weight = b.weight((width, depth) if down else (depth, width), depth)
    shape = (*b.shapes[x][:-1], width)
    return b.add("FusedMatMul", [x, weight], shape, domain=MICROSOFT, transB=down, alpha=b.choose((1.0, 0.5)))


def _flattened(b: Builder, x: str, width: int) -> str:
    """Rows of tokens, Gemm, and back."""
    *stack, depth = b.shapes[x]
    rows = 1
    for size in stack:
        rows *= size
    flat, down = verbs.reshape(b, x, (rows, depth)), b.number(0, 1)
    inputs = [flat, b.weight((width, depth) if down else (depth, width), depth)]
    if b.opset < 11 or b.coin():
        inputs.append(b.weight(b.choose(((width,), (1, width), (1,))), 1))
    return verbs.reshape(b, b.add("Gemm", inputs, (rows, width), transB=down), (*stack, width))


def _summed(b: Builder, x: str, width: int) -> str:
    """Einsum."""
    *stack, depth = b.shapes[x]
    if b.opset < 12:
        return _matmul(b, x, width)
    letters = "abcf"[: len(stack)]
    turned = b.coin()
    weight = b.weight((width, depth) if turned else (depth, width), depth)
    equation = f"{letters}d,{'ed' if turned else 'de'}->{letters}e"
    return b.add("Einsum", [x, weight], (*stack, width), equation=equation)


_PRODUCTS = {
    "matmul": _matmul, "turned": _turned, "fused": _fused, "scaled": _scaled, "quantised": _quantised,
    "flattened": _flattened, "summed": _summed,
}  # fmt: skip


# On maps -------------------------------------------------------------------------------------------------------------


def dense_last(b: Builder, x: str) -> str:
    """A map to channels-last, a matrix product there, and back."""
    last = verbs.transpose(b, x, [0, 2, 3, 1])
    return verbs.transpose(b, linear(b, last, b.number(2, WIDEST // 2)), [0, 3, 1, 2])


def gemm(b: Builder, x: str) -> str:
    """A map flattened to rows, Gemm there, and back to a map of one pixel."""
    n, c, h, w = b.shapes[x]
    flat = c * h * w
    rows = b.add("Flatten", [x], (n, flat)) if b.coin() else verbs.reshape(b, x, (n, flat))
    width, down = b.number(2, WIDEST // 2), b.number(0, 1)
    weight = b.weight((width, flat) if down else (flat, width), flat)
    bias = b.weight(b.choose(((width,), (1, width), (1,))), 1)
    return verbs.reshape(b, b.add("Gemm", [rows, weight, bias], (n, width), transB=down), (n, width, 1, 1))


# On sequences --------------------------------------------------------------------------------------------------------


def project(b: Builder, x: str) -> str:
    """A linear layer."""
    return linear(b, x, b.number(2, WIDEST // 2))


def feed_forward(b: Builder, x: str) -> str:
    """Norm, up, activation or gate, down, and back onto the residual stream."""
    inner = normal(b, x) if b.coin() else x
    width = b.number(2, WIDEST // 2)
    hidden = gate(b, inner, width) if b.coin() else pointwise.gelu(b, linear(b, inner, width))
    return verbs.binary(b, "Add", x, linear(b, hidden, b.shapes[x][-1]))


def gate(b: Builder, x: str, width: int) -> str:
    """GLU: two projections, or halves of one, by Split or Slice; one the gate of the other."""
    way = b.choose(("apart", "split", "slices"))
    if way == "apart":
        one, two = (linear(b, x, width) for _ in range(2))
    else:
        both = linear(b, x, 2 * width)
        axis = len(b.shapes[both]) - 1
        if way == "split":
            one, two = verbs.split(b, both, axis, [width, width])
        else:
            one, two = (verbs.slice_(b, both, axis, start, start + width) for start in (0, width))
    activated = pointwise.gelu(b, two) if b.coin() else verbs.unary(b, b.choose(("Sigmoid", "Tanh")), two)
    return verbs.binary(b, "Mul", one, activated)


def mix_tokens(b: Builder, x: str) -> str:
    """MLP-Mixer: a layer along the tokens, between Transposes."""
    turned = verbs.transpose(b, x, [0, 2, 1])
    hidden = verbs.unary(b, "Relu", linear(b, turned, b.number(2, 6)))
    mixed = verbs.transpose(b, linear(b, hidden, b.shapes[x][1]), [0, 2, 1])
    return verbs.binary(b, "Add", x, mixed)


def convolve_tokens(b: Builder, x: str) -> str:
    """A 1-D convolution along the tokens, dense or depthwise, between Transposes."""
    n, t, d = b.shapes[x]
    turned, group = verbs.transpose(b, x, [0, 2, 1]), b.choose((1, d))
    width = d if group > 1 else b.number(2, WIDEST // 2)
    inputs = [turned, b.weight((width, d // group, 3), 3 * d // group), b.vector(width)]
    return verbs.transpose(b, b.add("Conv", inputs, (n, width, t), group=group, pads=[1, 1]), [0, 2, 1])


def normal(b: Builder, x: str) -> str:
    """A norm over channels, of one kind or the other."""
    return b.choose((normalisation.layer_norm, normalisation.rms_norm))(b, x)
