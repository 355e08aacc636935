"""Attention as one operator: ONNX's (opset 23) and ONNX Runtime's, on sequences [N, T, D]."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.random_graphs import heads, verbs
from tests.random_graphs.builder import MICROSOFT, Builder
from tests.random_graphs.dense import linear
from tests.random_graphs.heads import Sizes


def attend(b: Builder, x: str) -> str:
    """One of the operators, with projections around it and back onto the residual stream."""
    ways = (_packed, _multi_head, *((_standard, _standard, _standard_in_heads) if b.opset >= 23 else ()))
    mixed = b.choose(ways)(b, x, heads.some_sizes(b))
    return verbs.binary(b, "Add", x, linear(b, mixed, b.shapes[x][2])) if b.coin() else mixed


def _standard(b: Builder, x: str, sizes: Sizes) -> str:
    """Attention of opset 23 on [N, T, heads * size]; grouped queries too."""
    n, t, _ = b.shapes[x]
    # Where ONNX's inference doesn't know the width of the values, it takes that of the result for 0.
    parts = [_plain(b, x, width) for width in _widths(sizes)]
    counts = {"q_num_heads": sizes.heads, "kv_num_heads": sizes.groups}
    return b.add("Attention", [*parts, *_mask(b, t)], (n, t, sizes.heads * sizes.value), **counts, **_options(b))


def _standard_in_heads(b: Builder, x: str, sizes: Sizes) -> str:
    """Attention of opset 23 on [N, heads, T, size]."""
    n, t, _ = b.shapes[x]
    parts = heads.project(b, x, x, sizes)
    mixed = b.add("Attention", [*parts, *_mask(b, t)], (n, sizes.heads, t, sizes.value), **_options(b))
    return heads.merge_heads(b, mixed)


def _mask(b: Builder, t: int) -> list[str]:
    return [b.constant(b.random.standard_normal((t, t)).astype(np.float32))] if b.rarely() else []


def _options(b: Builder) -> dict[str, Any]:
    return ({"is_causal": 1} if b.rarely() else {}) | ({"scale": 0.4} if b.rarely() else {})


def _widths(sizes: Sizes) -> list[int]:
    return [sizes.heads * sizes.key, sizes.groups * sizes.key, sizes.groups * sizes.value]


def _plain(b: Builder, x: str, width: int) -> str:
    """A product with a stored matrix."""
    depth = b.shapes[x][2]
    return verbs.matmul(b, x, b.stored(np.asarray(b.random.standard_normal((depth, width)) / depth**0.5, np.float32)))


def _parts(b: Builder, x: str, sizes: Sizes) -> list[str]:
    """Queries, keys and values [N, T, heads * size]: apart, or cut from one product."""
    widths = _widths(sizes)
    if b.coin():
        return [linear(b, x, width) for width in widths]
    return verbs.split(b, linear(b, x, sum(widths)), 2, widths)


def _multi_head(b: Builder, x: str, sizes: Sizes) -> str:
    """MultiHeadAttention of ONNX Runtime, with a bias of its own or without."""
    n, t, _ = b.shapes[x]
    sizes = Sizes(sizes.heads, sizes.heads, sizes.key, sizes.value)
    width = sizes.heads * (2 * sizes.key + sizes.value)
    bias = [b.vector(width)] if b.coin() else []
    shape = (n, t, sizes.heads * sizes.value)
    inputs = [*_parts(b, x, sizes), *bias]
    return b.add("MultiHeadAttention", inputs, shape, domain=MICROSOFT, num_heads=sizes.heads)


def _packed(b: Builder, x: str, sizes: Sizes) -> str:
    """Attention of ONNX Runtime, which has the projections inside."""
    n, t, depth = b.shapes[x]
    widths = [sizes.heads * sizes.key, sizes.heads * sizes.key, sizes.heads * sizes.value]
    inputs = [x, b.weight((depth, sum(widths)), depth), b.vector(sum(widths))]
    named = {} if len(set(widths)) == 1 and b.coin() else {"qkv_hidden_sizes": widths}
    causal = {"unidirectional": 1} if b.rarely() else {}
    shape = (n, t, widths[2])
    return b.add("Attention", inputs, shape, domain=MICROSOFT, num_heads=sizes.heads, **named, **causal)
