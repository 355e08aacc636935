"""Operators as exporters write them: sizes stored or computed, axes in inputs or attributes, as the opset asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.random_graphs.builder import Builder

# Sizes ---------------------------------------------------------------------------------------------------------------


def reshape(b: Builder, x: str, shape: Sequence[int], batch: int | None = 0, source: int | None = None) -> str:
    """To `shape`; see `sizes`."""
    return b.add("Reshape", [x, sizes(b, x, shape, batch, source)], shape)


def sizes(b: Builder, x: str, shape: Sequence[int], batch: int | None = 0, source: int | None = None) -> str:
    """The shape that a Reshape of `x` reads: stored, with 0 and -1 in it, or computed from the shape of `x`.

    Axis `batch` of the result, if any, holds the batch, which comes from axis `source` of `x` (by default the same).
    """
    before = b.shapes[x]
    source = batch if source is None else source
    written, computed = list(shape), b.rarely()
    if batch is not None and b.symbolic:
        same = batch < len(before) and source == batch and before[batch] == shape[batch]
        way = "computed" if computed else b.choose(("copied", "inferred") if same else ("inferred",))
        written[batch] = {"copied": 0, "inferred": -1, "computed": shape[batch]}[way]
    for axis, size in enumerate(shape):
        if axis == batch and b.symbolic:
            continue
        if axis < len(before) and before[axis] == size and b.rarely():
            written[axis] = 0
        elif -1 not in written and b.rarely():
            written[axis] = -1
    if not computed:
        return b.integers(written)
    return _computed(b, x, written, {batch: source} if batch is not None and b.symbolic else {})


def _computed(b: Builder, x: str, written: Sequence[int], must: dict[int | None, int | None]) -> str:
    """The entries in `must`, and some others, from the shape of `x`; the rest stored.

    Sizes may agree by chance, and then come from an axis that has nothing to do with it; a symbolic one never does.
    """
    before, pieces, known = list(b.shapes[x]), [], shape_of(b, x)
    for source in must.values():
        before[source or 0] = 0
    for axis, size in enumerate(written):
        if axis in must:
            source = must[axis] or 0
            piece = _scaled(b, size_at(b, known, source), b.shapes[x][source], size)
        elif size > 0 and size in before and b.coin():
            piece = size_at(b, known, axis if axis < len(before) and before[axis] == size else before.index(size))
        elif size > 0 and b.coin() and (first := _neighbours(before, size)):
            piece = b.add("Mul", [size_at(b, known, first), size_at(b, known, first + 1)], ())
        elif size > 0 and b.rarely() and any(other and other % size == 0 for other in before):
            whole = next(axis for axis, other in enumerate(before) if other and other % size == 0)
            piece = _scaled(b, size_at(b, known, whole), before[whole], size)
        else:
            pieces.append(b.integers([size]))
            continue
        pieces.append(unsqueeze(b, piece, [0]))
    return b.add("Concat", pieces, (len(written),), axis=0)


def _neighbours(shape: Sequence[int], size: int) -> int:
    """The first axis, after the batch, that makes up `size` together with the next one; 0 where there is none."""
    return next((axis for axis in range(1, len(shape) - 1) if shape[axis] * shape[axis + 1] == size), 0)


def _scaled(b: Builder, piece: str, was: int, size: int) -> str:
    """A computed size, times or divided by what makes it another."""
    if size == was:
        return piece
    op_type, factor = ("Mul", size // was) if size > was else ("Div", was // size)
    return b.add(op_type, [piece, b.integers(factor)], ())


def shape_of(b: Builder, x: str) -> str:
    """The whole shape of a value."""
    return b.add("Shape", [x], (len(b.shapes[x]),))


def size_at(b: Builder, shape: str, axis: int) -> str:
    """One number [] of a shape."""
    rank = b.shapes[shape][0]
    if b.coin():
        return b.add("Gather", [shape, b.integers(b.choose((axis, axis - rank)))], (), axis=0)
    return squeeze(b, slice_(b, shape, 0, axis, axis + 1), [0])


# Layout --------------------------------------------------------------------------------------------------------------


def transpose(b: Builder, x: str, order: Sequence[int]) -> str:
    """Axes in another order."""
    shape = b.shapes[x]
    return b.add("Transpose", [x], [shape[axis] for axis in order], perm=list(order))


def squeeze(b: Builder, x: str, axes: Sequence[int]) -> str:
    """Without axes of size 1."""
    shape = [size for axis, size in enumerate(b.shapes[x]) if axis not in axes]
    return _with_axes(b, "Squeeze", x, axes, shape, since=13)


def unsqueeze(b: Builder, x: str, axes: Sequence[int]) -> str:
    """With axes of size 1, at these places of the result."""
    shape = list(b.shapes[x])
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return _with_axes(b, "Unsqueeze", x, axes, shape, since=13)


def reduce(b: Builder, op_type: str, x: str, axes: Sequence[int], *, keep: bool = True) -> str:
    """Reduced over axes; `keep` leaves them with size 1."""
    gone = {axis % len(b.shapes[x]) for axis in axes}
    shape = [1 if axis in gone else size for axis, size in enumerate(b.shapes[x]) if keep or axis not in gone]
    return _with_axes(b, op_type, x, axes, shape, since=13 if op_type == "ReduceSum" else 18, keepdims=int(keep))


def _with_axes(
    b: Builder, op_type: str, x: str, axes: Sequence[int], shape: Sequence[int], since: int, **attributes: Any
) -> str:
    if b.opset >= since:
        return b.add(op_type, [x, b.integers(axes)], shape, **attributes)
    return b.add(op_type, [x], shape, axes=list(axes), **attributes)


def slice_(b: Builder, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
    """A run of positions along one axis, or every `step`-th of them; bounds from either side."""
    shape = list(b.shapes[x])
    size = shape[axis]
    shape[axis] = len(range(start, end, step))
    starts = [b.choose((start, start - size))]
    ends = [b.choose((end, end - size) if end < size else (size, 2**31 - 1, 2**63 - 1, size + 5))]
    if b.opset < 10:
        return b.add("Slice", [x], shape, starts=starts, ends=ends, axes=[axis])
    inputs = [x, b.integers(starts), b.integers(ends), b.integers([b.choose((axis, axis - len(shape)))])]
    if step != 1 or b.coin():
        inputs.append(b.integers([step]))
    return b.add("Slice", inputs, shape)


def steps(b: Builder) -> tuple[int, ...]:
    """The steps that Slice may take."""
    return (1,) if b.opset < 10 else (1, 1, 2, 3)


def split(b: Builder, x: str, axis: int, parts: Sequence[int]) -> list[str]:
    """All of an axis in parts of these sizes."""
    shape = b.shapes[x]
    shapes = [[*shape[:axis], part, *shape[axis + 1 :]] for part in parts]
    attributes: dict[str, Any] = {"axis": b.choose((axis, axis - len(shape))) if b.opset >= 11 else axis}
    if len(set(parts)) == 1 and b.coin():
        attributes |= {"num_outputs": len(parts)} if b.opset >= 18 else {}
        return b.add_many("Split", [x], shapes, **attributes)
    if b.opset >= 13:
        return b.add_many("Split", [x, b.integers(parts)], shapes, **attributes)
    return b.add_many("Split", [x], shapes, split=list(parts), **attributes)


def concat(b: Builder, parts: Sequence[str], axis: int) -> str:
    """Values after each other along one axis."""
    shape = list(b.shapes[parts[0]])
    shape[axis] = sum(b.shapes[part][axis] for part in parts)
    return b.add("Concat", list(parts), shape, axis=b.choose((axis, axis - len(shape))) if b.opset >= 11 else axis)


def gather(b: Builder, x: str, axis: int, indices: Sequence[int] | int) -> str:
    """Positions picked by constant indices; one scalar index takes the axis away."""
    shape = b.shapes[x]
    array = np.asarray(indices, b.choose((np.int64, np.int32)))
    if b.opset >= 11 and b.rarely():
        array = np.where(np.arange(array.size).reshape(array.shape) % 2 == 0, array - shape[axis], array)
        array = array.astype(np.int64)
    wanted = [*shape[:axis], *array.shape, *shape[axis + 1 :]]
    return b.add("Gather", [x, b.constant(array)], wanted, axis=b.choose((axis, axis - len(shape))))


def expand(b: Builder, x: str, shape: Sequence[int], like: str | None = None) -> str:
    """Spread out to `shape`: stored, or the shape of the value `like`."""
    if like is not None and (b.coin() or b.symbolic):
        return b.add("Expand", [x, shape_of(b, like)], shape)
    source = (1,) * (len(shape) - len(b.shapes[x])) + b.shapes[x]
    written = [1 if size == was and b.coin() else size for size, was in zip(shape, source, strict=True)]
    return b.add("Expand", [x, b.integers([1 if b.symbolic else written[0], *written[1:]])], shape)


# Numbers -------------------------------------------------------------------------------------------------------------


def binary(b: Builder, op_type: str, one: str, two: str) -> str:
    """Two operands that broadcast."""
    return b.add(op_type, [one, two], np.broadcast_shapes(b.shapes[one], b.shapes[two]))


def unary(b: Builder, op_type: str, x: str, **attributes: Any) -> str:
    """One operand, one result of the same shape."""
    return b.add(op_type, [x], b.shapes[x], **attributes)


def matmul(b: Builder, one: str, two: str) -> str:
    """A stack of matrix products."""
    first, second = b.shapes[one], b.shapes[two]
    stack = np.broadcast_shapes(first[:-2], second[:-2])
    return b.add("MatMul", [one, two], (*stack, first[-2], second[-1]))


def softmax(b: Builder, x: str) -> str:
    """Along the last axis."""
    return unary(b, "Softmax", x, axis=b.choose((len(b.shapes[x]) - 1, -1)) if b.opset >= 11 else len(b.shapes[x]) - 1)


def divisors(number: int) -> list[int]:
    """The divisors of a number, without 1."""
    return [divisor for divisor in range(2, number + 1) if number % divisor == 0]
