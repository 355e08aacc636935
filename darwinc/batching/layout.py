"""Where a value holds the samples of a batch, and how that is found: by running fewer and more of them.

A value has one batch axis: the one that is k times as long for k times as many samples. Samples may share it with other
positions (windows, heads), before and after them in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

Shape = Sequence[int]


class BatchHeld(Exception):
    """The graph doesn't take other numbers of samples; the message says why, for whoever catches it to report."""


@dataclass(frozen=True)
class Layout:
    """The samples lie on `axis`, whose positions are [outer, samples, inner] in row-major order."""

    axis: int
    outer: int = 1

    def joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """One value for all samples, of the values of some each."""
        return torch.cat([self._split(part) for part in parts], self.axis + 1).flatten(self.axis, self.axis + 1)

    def first(self, value: torch.Tensor, parts: int) -> torch.Tensor:
        """The first of as many equal parts of the samples: what was joined first."""
        split = self._split(value)
        length = split.shape[self.axis + 1] // parts
        return split.narrow(self.axis + 1, 0, length).flatten(self.axis, self.axis + 1)

    def _split(self, value: torch.Tensor) -> torch.Tensor:
        """[..., outer, samples and inner, ...]"""
        shape = value.shape
        length = shape[self.axis] // self.outer
        return value.reshape(*shape[: self.axis], self.outer, length, *shape[self.axis + 1 :])


def grown_axis(few: Shape, many: Shape, times: int) -> int | None:
    """The axis that is `times` as long for as many more samples; None where both shapes are the same.

    Raises:
        BatchHeld: they differ in any other way.
    """
    if tuple(few) == tuple(many):
        return None
    if len(few) != len(many):
        raise BatchHeld(f"gives {len(many)} axes for more samples, and {len(few)} for fewer")
    changed = [axis for axis, (one, other) in enumerate(zip(few, many, strict=True)) if one != other]
    if len(changed) > 1 or many[changed[0]] != times * few[changed[0]]:
        raise BatchHeld(f"gives {list(many)} for {times} times the samples that give {list(few)}")
    return changed[0]


def reshaped(layout: Layout, old: Shape, new: Shape, samples: int) -> list[Layout]:
    """Where a reshape from `old` to `new`, shapes for `samples` samples, may leave them; the best guess first.

    The samples lie behind P elements of the axes before them, and the axis before which there are as many gets them. An
    axis as long as the batch is right where there is one. Only where there is none do they share an axis with others:
    with those before them where the axes behind stay, with those behind where the axes before stay; and not with all
    that lie behind, as then none would be left for features.
    """
    before = math.prod(old[: layout.axis]) * layout.outer
    places: list[Layout] = []
    alone: list[Layout] = []
    for axis, size in enumerate(new):
        prefix = math.prod(new[:axis])
        outer, rest = divmod(before, prefix) if prefix else (0, 1)
        if rest or not outer or size % (outer * samples):
            continue
        places.append(Layout(axis, outer))
        if outer == 1 and size == samples:
            alone.append(Layout(axis))
    if alone:
        from_the_end = len(new) - len(old) + layout.axis
        return sorted(alone, key=lambda place: (place.axis != layout.axis, place.axis != from_the_end))
    last = len(new) - 1
    return sorted(places, key=lambda place: (place == Layout(last), not _stays(layout, place, old, new)))


def _stays(layout: Layout, place: Layout, old: Shape, new: Shape) -> bool:
    """Do the axes before the samples stay as they are, or those behind them?"""
    if place.outer == 1:
        return list(new[: place.axis]) == list(old[: layout.axis])
    return list(new[place.axis + 1 :]) == list(old[layout.axis + 1 :])
