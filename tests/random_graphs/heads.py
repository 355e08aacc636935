"""Queries, keys and values [N, heads, T, size] from sequences [N, T, D], as exporters write the projections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.random_graphs import verbs
from tests.random_graphs.builder import MICROSOFT, Builder
from tests.random_graphs.dense import linear


@dataclass(frozen=True)
class Sizes:
    """How many heads queries have, how many keys and values have, and how wide a head is."""

    heads: int
    groups: int
    key: int
    value: int

    @property
    def alike(self) -> bool:
        """Do queries, keys and values have one shape?"""
        return self.heads == self.groups and self.key == self.value


def some_sizes(b: Builder) -> Sizes:
    """Few and small heads; mostly all alike."""
    groups, key = b.number(1, 3), b.choose((2, 3, 4, 6))
    heads = groups * b.choose((1, 1, 1, 2))
    return Sizes(heads, groups, key, b.number(1, 4) if b.rarely() else key)


def project(b: Builder, x: str, context: str, sizes: Sizes) -> tuple[str, str, str]:
    """Queries of `x`, keys and values of `context`: apart, or one product that is cut in three."""
    if x == context and sizes.alike and b.coin():
        return b.choose((_thirds_first, _thirds_inside, _thirds_of_the_last_axis, _thirds_of_the_width))(b, x, sizes)
    query = linear(b, x, sizes.heads * sizes.key)
    if sizes.key == sizes.value and b.rarely():
        both = linear(b, context, 2 * sizes.groups * sizes.key)
        key, value = verbs.split(b, both, 2, [sizes.groups * sizes.key] * 2)
    else:
        key, value = (linear(b, context, sizes.groups * size) for size in (sizes.key, sizes.value))
    return (
        split_heads(b, query, sizes.heads, sizes.key),
        split_heads(b, key, sizes.groups, sizes.key),
        split_heads(b, value, sizes.groups, sizes.value),
    )


def split_heads(b: Builder, x: str, heads: int, size: int) -> str:
    """[N, T, heads * size] to [N, heads, T, size], by way of the batch or of the tokens first."""
    n, t, _ = b.shapes[x]
    if not b.rarely():
        return verbs.transpose(b, verbs.reshape(b, x, (n, t, heads, size)), [0, 2, 1, 3])
    # torch.nn.MultiheadAttention: tokens first, then batch and heads in one axis.
    first = verbs.transpose(b, x, [1, 0, 2])
    stacked = verbs.transpose(b, verbs.reshape(b, first, (t, n * heads, size), batch=1), [1, 0, 2])
    return verbs.reshape(b, stacked, (n, heads, t, size))


def merge_heads(b: Builder, x: str) -> str:
    """[N, heads, T, size] to [N, T, heads * size]."""
    n, heads, t, size = b.shapes[x]
    if not b.rarely():
        return verbs.reshape(b, verbs.transpose(b, x, [0, 2, 1, 3]), (n, t, heads * size))
    first = verbs.transpose(b, verbs.reshape(b, x, (n * heads, t, size)), [1, 0, 2])
    return verbs.transpose(b, verbs.reshape(b, first, (t, n, heads * size), batch=1, source=1), [1, 0, 2])


def _thirds_first(b: Builder, x: str, sizes: Sizes) -> tuple[str, str, str]:
    """timm: [N, T, 3, heads, size], the three moved to the front."""
    n, t, _ = b.shapes[x]
    wide = linear(b, x, 3 * sizes.heads * sizes.key)
    split = verbs.reshape(b, wide, (n, t, 3, sizes.heads, sizes.key))
    return _three(b, verbs.transpose(b, split, [2, 0, 3, 1, 4]), 0)


def _thirds_inside(b: Builder, x: str, sizes: Sizes) -> tuple[str, str, str]:
    """GPT-NeoX: [N, T, heads, 3 * size]; or [N, T, heads, 3, size] with the three picked where they are."""
    n, t, _ = b.shapes[x]
    wide = linear(b, x, 3 * sizes.heads * sizes.key)
    if b.coin():
        picked = _three(b, verbs.reshape(b, wide, (n, t, sizes.heads, 3, sizes.key)), 3)
        query, key, value = (verbs.transpose(b, part, [0, 2, 1, 3]) for part in picked)
        return query, key, value
    turned = verbs.transpose(b, verbs.reshape(b, wide, (n, t, sizes.heads, 3 * sizes.key)), [0, 2, 1, 3])
    query, key, value = _cut(b, turned, 3, sizes.key)
    return query, key, value


def _thirds_of_the_last_axis(b: Builder, x: str, sizes: Sizes) -> tuple[str, str, str]:
    """GPT-2: three runs of the last axis, and heads from each."""
    width = sizes.heads * sizes.key
    parts = _cut(b, linear(b, x, 3 * width), 2, width)
    query, key, value = (split_heads(b, part, sizes.heads, sizes.key) for part in parts)
    return query, key, value


def _thirds_of_the_width(b: Builder, x: str, sizes: Sizes) -> tuple[str, str, str]:
    """torch.nn.MultiheadAttention packed: [N, T, 3, heads * size] through a fifth axis, then heads from each."""
    n, t, _ = b.shapes[x]
    width = sizes.heads * sizes.key
    wide = verbs.reshape(b, linear(b, x, 3 * width), (n, t, 3, width))
    moved = verbs.transpose(b, verbs.unsqueeze(b, wide, [0]), [3, 1, 2, 0, 4])
    parts = _three(b, verbs.squeeze(b, moved, [3]), 0)
    query, key, value = (split_heads(b, part, sizes.heads, sizes.key) for part in parts)
    return query, key, value


def _cut(b: Builder, x: str, axis: int, size: int) -> list[str]:
    """Three runs of an axis, by Split, Slice or Gather."""
    way = b.choose(("split", "slice", "gather"))
    if way == "split":
        return verbs.split(b, x, axis, [size] * 3)
    starts = (0, size, 2 * size)
    if way == "slice":
        return [verbs.slice_(b, x, axis, start, start + size) for start in starts]
    return [verbs.gather(b, x, axis, range(start, start + size)) for start in starts]


def _three(b: Builder, x: str, axis: int) -> tuple[str, str, str]:
    """The positions of an axis of size 3, without it."""
    way = b.choose(("gather", "split", "slice"))
    if way == "gather":
        query, key, value = (verbs.gather(b, x, axis, place) for place in range(3))
        return query, key, value
    parts = verbs.split(b, x, axis, [1] * 3) if way == "split" else _cut_ones(b, x, axis)
    query, key, value = (verbs.squeeze(b, part, [axis]) for part in parts)
    return query, key, value


def _cut_ones(b: Builder, x: str, axis: int) -> list[str]:
    return [verbs.slice_(b, x, axis, place, place + 1) for place in range(3)]


def share(b: Builder, x: str, heads: int) -> str:
    """Grouped queries: each of the heads of `x` [N, groups, T, size] for several heads of queries."""
    n, groups, t, size = b.shapes[x]
    times = heads // groups
    if times == 1:
        return x
    way = b.choose(("expand", "gather", "tile", "concat"))
    if way == "gather":
        return verbs.gather(b, x, 1, [head // times for head in range(heads)])
    if way == "tile":
        # Which query reads which key differs from "expand", as it does between libraries.
        return b.add("Tile", [x, b.integers([1, times, 1, 1])], (n, heads, t, size))
    wide = verbs.unsqueeze(b, x, [2])
    if way == "concat":
        return verbs.reshape(b, verbs.concat(b, [wide] * times, 2), (n, heads, t, size))
    spread = verbs.expand(b, wide, (n, groups, times, t, size))
    return verbs.reshape(b, spread, (n, heads, t, size))


def rotate(b: Builder, x: str) -> str:
    """Rotary positions of [N, heads, T, size] with an even size: halves, or neighbours, rotated into each other."""
    t, size = b.shapes[x][2:]
    angles = np.outer(np.arange(t), 1 / 10 ** np.arange(size // 2))
    way = b.choose(("halves", "neighbours", "pairs", "fused", *(("operator",) if b.opset >= 23 else ())))
    if way == "fused" or (way == "operator" and b.symbolic):
        tables = [b.constant(fn(angles).astype(np.float32)) for fn in (np.cos, np.sin)]
        attributes = {"domain": MICROSOFT, "interleaved": b.number(0, 1)}
        return b.add("RotaryEmbedding", [x, b.integers([0]), *tables], b.shapes[x], **attributes)
    if way == "operator":
        tables = [b.constant(np.stack([fn(angles)] * b.shapes[x][0]).astype(np.float32)) for fn in (np.cos, np.sin)]
        return b.add("RotaryEmbedding", [x, *tables], b.shapes[x], interleaved=b.number(0, 1))
    spread = np.tile(angles, 2) if way == "halves" else np.repeat(angles, 2, axis=1)
    cosine, sine = (b.constant(fn(spread).astype(np.float32)) for fn in (np.cos, np.sin))
    other = {"halves": _turned_halves, "neighbours": _turned_neighbours, "pairs": _turned_pairs}[way](b, x)
    return verbs.binary(b, "Add", verbs.binary(b, "Mul", x, cosine), verbs.binary(b, "Mul", other, sine))


def _turned_halves(b: Builder, x: str) -> str:
    """(-second half, first half)."""
    half = b.shapes[x][3] // 2
    if b.coin():
        one, two = verbs.split(b, x, 3, [half, half])
    else:
        one, two = verbs.slice_(b, x, 3, 0, half), verbs.slice_(b, x, 3, half, 2 * half)
    return verbs.concat(b, [verbs.unary(b, "Neg", two), one], 3)


def _turned_neighbours(b: Builder, x: str) -> str:
    """(-odd, even), interleaved again."""
    shape = b.shapes[x]
    if b.opset < 10:
        return _turned_pairs(b, x)
    even, odd = (verbs.slice_(b, x, 3, start, shape[3], 2) for start in (0, 1))
    parts = [verbs.unsqueeze(b, part, [4]) for part in (verbs.unary(b, "Neg", odd), even)]
    return verbs.reshape(b, verbs.concat(b, parts, 4), shape)


def _turned_pairs(b: Builder, x: str) -> str:
    """[..., size / 2, 2], the two swapped and one of them negated."""
    shape = b.shapes[x]
    pairs = verbs.reshape(b, x, (*shape[:3], shape[3] // 2, 2))
    swapped = verbs.gather(b, pairs, 4, [1, 0])
    signed = verbs.binary(b, "Mul", swapped, b.constant(np.asarray([-1, 1], np.float32)))
    return verbs.reshape(b, signed, shape)
