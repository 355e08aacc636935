"""Reshape and Flatten: axes merge and split, and positions are followed through by factor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import FIXED, Axis, Follower, Ids, Tracked, fixed, fixed_like, is_fixed
from darwinc.shape_numbers import Number


def flatten(flow: Flow, node: ir.Node) -> None:
    """Two axes: everything before `axis`, and the rest."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axis = graph.integer(node, "axis", 1)
    axis = axis + len(data.axes) if axis < 0 else axis
    halves = (data.axes[:axis], data.axes[axis:])
    silent = data.all_silent()
    flow.put(node, [_merge(flow, node, half) for half in halves], silent=(all(silent[:axis]), all(silent[axis:])))


def reshape(flow: Flow, node: ir.Node) -> None:
    """Blocks of axes with equal products are followed through; sizes follow their axes."""
    data = flow.tracked(node, 0)
    if data is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    numbers = flow.numbers(node, 1)
    sizes = _wanted(flow, node, data, numbers)
    if sizes is None:
        flow.barrier(node, "rearranges axes of unknown size")
        return
    blocks = _blocks([None if ids is None else len(ids) for ids in data.axes], sizes)
    if blocks is None:
        flow.barrier(node, "rearranges axes of unknown size")
        return
    result: list[Axis] = []
    silent: list[bool] = []
    for old, new in blocks:
        axes = _through(flow, node, data.axes[old], sizes[new])
        result.extend(axes)
        silent.extend([all(data.all_silent()[old])] * len(axes))
    _follow(flow, node, data.axes, result, numbers)
    flow.put(node, result, silent=silent)


def _wanted(
    flow: Flow, node: ir.Node, data: Tracked, numbers: tuple[Number, ...] | None
) -> tuple[int | None, ...] | None:
    """The new shape: from the numbers that ask for it where they are known, which inference gets wrong at times."""
    inferred = flow.shape(node.outputs[0])
    if numbers is None:
        return inferred
    old = [None if ids is None else len(ids) for ids in data.axes]
    asked = [None if number.value is None else int(number.value) for number in numbers]
    copied = [old[k] if size == 0 and k < len(old) else size for k, size in enumerate(asked)]
    if None in copied or None in old:
        return inferred
    total = math.prod(size for size in old if size is not None)
    rest = math.prod(size for size in copied if size is not None and size != -1)
    return tuple(total // max(rest, 1) if size == -1 else size for size in copied)


def _blocks(old: Sequence[int | None], new: Sequence[int | None]) -> list[tuple[slice, slice]] | None:
    """Cut both shapes into shortest runs of equal product, left to right. Unknown sizes equal only unknown sizes."""
    if not old or not new:
        return [(slice(0, len(old)), slice(0, len(new)))]
    blocks: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left, right = _Run(), _Run()
        while True:
            if i > start_i and j > start_j and left == right:
                break
            if (left <= right and i < len(old)) or j >= len(new):
                if i >= len(old):
                    return None
                left = left.times(old[i])
                i += 1
            else:
                right = right.times(new[j])
                j += 1
            if i >= len(old) and j >= len(new) and left != right:
                return None
        blocks.append((slice(start_i, i), slice(start_j, j)))
        if i >= len(old) and all(size == 1 for size in new[j:]):
            blocks.extend((slice(i, i), slice(k, k + 1)) for k in range(j, len(new)))
            j = len(new)
        if j >= len(new) and all(size == 1 for size in old[i:]):
            blocks.append((slice(i, len(old)), slice(j, j)))
            i = len(old)
    return blocks


class _Run:
    """A product of sizes, in which an unknown size is a prime of its own."""

    def __init__(self, known: int = 1, unknown: int = 0) -> None:
        self.known, self.unknown = known, unknown

    def times(self, size: int | None) -> _Run:
        return _Run(self.known, self.unknown + 1) if size is None else _Run(self.known * size, self.unknown)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Run) and (self.known, self.unknown) == (other.known, other.unknown)

    def __le__(self, other: _Run) -> bool:
        return (self.unknown, self.known) <= (other.unknown, other.known)

    __hash__ = None  # type: ignore[assignment]


def _through(flow: Flow, node: ir.Node, old: Sequence[Axis], new: Sequence[int | None]) -> list[Axis]:
    if len(old) == 1 and len(new) == 1:
        return [old[0]]
    sizes = [size for size in new if size is not None]
    known = [ids for ids in old if ids is not None]
    factors = _factors([len(ids) for ids in known], sizes) if (len(known), len(sizes)) == (len(old), len(new)) else None
    if factors is not None:
        parts = [part for ids, split in zip(known, factors[0], strict=True) for part in _split(flow, node, ids, split)]
        taken = iter(parts)
        return [_merge(flow, node, [next(taken) for _ in merged]) for merged in factors[1]]
    merged = _merge(flow, node, old)
    if merged is None or len(sizes) < len(new):
        flow.block(merged, node, "is merged with an axis of unknown size")
        return list(fixed_like(new))
    return _split(flow, node, merged, sizes)


def _factors(old: Sequence[int], new: Sequence[int]) -> tuple[list[list[int]], list[list[int]]] | None:
    """Factors that make up both shapes, by axis of each; None where their boundaries don't nest."""
    splits: list[list[int]] = [[] for _ in old]
    merges: list[list[int]] = [[] for _ in new]
    i = j = 0
    left, right = (old[0] if old else 1), (new[0] if new else 1)
    while i < len(old) and j < len(new):
        factor = min(left, right)
        if factor == 0 or left % factor or right % factor:
            return None
        splits[i].append(factor)
        merges[j].append(factor)
        left, right = left // factor, right // factor
        # An axis of one position ends where its neighbour does, so that every axis has a factor.
        step_i, step_j = left == 1, right == 1
        i, j = i + step_i, j + step_j
        left = old[i] if step_i and i < len(old) else left
        right = new[j] if step_j and j < len(new) else right
    if any(size != 1 for size in (*old[i:], *new[j:])):
        return None
    return splits, merges


def _merge(flow: Flow, node: ir.Node, axes: Sequence[Axis]) -> Axis:
    """One axis out of several, the first varying slowest; unknown where any of them is."""
    if any(ids is None for ids in axes):
        if len(axes) > 1:
            flow.block_all(axes, node, "is merged with an axis of unknown size")
        return None
    merged = fixed(1)
    for ids in axes:
        if ids is not None:
            merged = _pair(flow, node, merged, ids)
    return merged


def _pair(flow: Flow, node: ir.Node, slow: Ids, fast: Ids) -> Ids:
    if len(slow) == 1 and slow[0] == FIXED:
        return fast
    if len(fast) == 1 and fast[0] == FIXED:
        return slow
    if is_fixed(slow) and is_fixed(fast):
        return fixed(len(slow) * len(fast))
    if is_fixed(fast):
        return np.repeat(slow, len(fast))
    if is_fixed(slow):
        return np.tile(fast, len(slow))
    cells = flow.fresh(len(slow) * len(fast))
    flow.product(slow, fast, cells.reshape(len(slow), len(fast)), node)
    return cells


def _split(flow: Flow, node: ir.Node, merged: Ids, sizes: Sequence[int]) -> list[Axis]:
    """Several axes out of one. Where positions differ along two of them, the axis is their product."""
    if len(sizes) <= 1:
        return [merged] if sizes else []
    if is_fixed(merged):
        return [fixed(size) for size in sizes]
    cells = merged.reshape(sizes[0], -1)
    if sizes[0] == 1:
        return [fixed(1), *_split(flow, node, merged, sizes[1:])]
    if cells.shape[1] == 1:
        return [merged, *(fixed(1) for _ in sizes[1:])]
    if (cells == cells[:, :1]).all():
        return [np.ascontiguousarray(cells[:, 0]), *(fixed(size) for size in sizes[1:])]
    if (cells == cells[:1]).all():
        return [fixed(sizes[0]), *_split(flow, node, cells[0], sizes[1:])]
    rows, columns = flow.fresh(sizes[0]), flow.fresh(cells.shape[1])
    flow.product(rows, columns, cells, node)
    return [rows, *_split(flow, node, columns, sizes[1:])]


def _follow(
    flow: Flow, node: ir.Node, old: Sequence[Axis], new: Sequence[Axis], numbers: tuple[Number, ...] | None
) -> None:
    """Every stored size of an axis that may shrink must follow it; 0 and -1 follow by themselves."""
    for place, ids in enumerate(new):
        number = numbers[place] if numbers is not None and place < len(numbers) else None
        if number is not None and number.value == -1:
            continue
        if number is not None and number.value == 0 and place < len(old):
            _copied(flow, node, number, old[place], ids)
            continue
        flow.follow(number, ids, node)


def _copied(flow: Flow, node: ir.Node, number: Number, old: Axis, new: Axis) -> None:
    """A 0 copies the size of the axis at its place; where that is another axis, the size is written out instead."""
    if old is new or (is_fixed(old) and is_fixed(new)):
        return
    if number.origin is None or new is None:
        flow.block_all((old, new), node, "its size is copied to another axis")
    else:
        flow.followers.append(Follower(*number.origin, new))
        flow.frozen.add(number.origin[:2])
