"""What holds the parameters that can't go, and how many each barrier holds.

A parameter (one element of a stored constant) is *held* when none of its positions can be removed, whatever else goes.
Every barrier that keeps one of its positions holds it, so several may name the same parameter; a barrier holds it
*alone* where nothing else keeps one of its positions.

Elements are never looked at: they are counted as products of what their axes hold, in time linear in the record of the
analysis. Positions that the same barriers keep are one *class*; a class is counted as if it were one barrier, and what
a barrier with several classes in one constant would count twice is taken back (`_Tally`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc.axis_record import FIXED, Ids, is_fixed
from darwinc.channels import Channels, Mask
from darwinc.cost import stored_axes
from darwinc.plain_words import PlainWords
from darwinc.products import connect

SPARED = "kept by --protect or --only"
SINGLE = "a channel like no other, and the last of a group stays"

Key = tuple[ir.Node | None, str]
"""A barrier: its node and the reason; None is the node of the two reasons above."""

Kind = tuple[str, str]
"""All barriers of one operator that are there for the same reason, in plain words."""

UNHELD = 0
"""The class of positions that no barrier keeps: kernel axes, single numbers, and what else is fixed by nature."""


@dataclass(frozen=True)
class Held:
    """Parameters that a barrier holds, and those that it holds alone: they could go if it gave way."""

    parameters: int
    alone: int


@dataclass(frozen=True)
class Holdings:
    """Parameters held, each counted once; those among them that no barrier holds; and who holds the others."""

    parameters: int
    by_nature: int
    by_barrier: Mapping[Key, Held]
    by_kind: Mapping[Kind, Held]


@dataclass(frozen=True)
class _Constant:
    """Per axis of one constant, the positions that stay: how many of each class, and in all."""

    classes: Sequence[Mapping[int, int]]
    extents: Sequence[int]

    @property
    def held(self) -> int:
        """Elements that stay."""
        return math.prod(self.extents)

    def touching(self, classes: Iterable[int]) -> int:
        """How many of the elements have a position of one of these classes: all but those that have none."""
        chosen = tuple(classes)
        without = (
            extent - sum(axis.get(number, 0) for number in chosen)
            for axis, extent in zip(self.classes, self.extents, strict=True)
        )
        return self.held - math.prod(without)

    def renamed(self, names: Sequence[int]) -> _Constant:
        """The same with other class numbers; several may become one."""
        axes = []
        for axis in self.classes:
            merged: Counter[int] = Counter()
            for old, count in axis.items():
                merged[names[old]] += count
            axes.append(merged)
        return _Constant(axes, self.extents)


def units_of(channels: Channels, chosen: Sequence[bool]) -> Mask:
    """The units of the chosen groups (one flag per group), as a mask of components."""
    mask = channels.nobody()
    for group, wanted in zip(channels.groups, chosen, strict=True):
        mask[group.units] = wanted
    return mask


def holdings(channels: Channels, eligible: Sequence[bool], words: PlainWords) -> Holdings:
    """Count what every barrier holds, where only groups that are `eligible` (one flag per group) may lose channels."""
    component, _ = connect(channels.flow)
    gone = units_of(channels, eligible)
    keys, owned, owners = _ownership(channels, component, gone)
    class_of, members = _classes(owned, owners, int(component.max()) + 1, len(keys))
    constants = _held_constants(channels, class_of[component], gone)
    kinds: dict[Kind, int] = {}
    kind_of = [
        kinds.setdefault(("" if node is None else node.op_type, words.why(node, reason)), len(kinds))
        for node, reason in keys
    ]
    merged: dict[frozenset[int], int] = {frozenset(): UNHELD}
    names = [merged.setdefault(frozenset(kind_of[key] for key in owners), len(merged)) for owners in members]
    by_barrier = _Tally(members, constants).result(len(keys))
    by_kind = _Tally(list(merged), [constant.renamed(names) for constant in constants]).result(len(kinds))
    return Holdings(
        sum(constant.held for constant in constants),
        sum(math.prod(axis.get(UNHELD, 0) for axis in constant.classes) for constant in constants),
        dict(zip(keys, by_barrier, strict=True)),
        dict(zip(kinds, by_kind, strict=True)),
    )


def _ownership(channels: Channels, component: Ids, gone: Mask) -> tuple[list[Key], Ids, Ids]:
    """The barriers, and all pairs of a component [P] and the number of a barrier that keeps it [P], by component."""
    everything, ids = units_of(channels, [True] * len(channels.groups)), np.arange(channels.flow.count)
    single, stays = channels.living(ids, everything), channels.living(ids, gone)
    found: list[tuple[Key, Ids]] = [((barrier.node, barrier.reason), barrier.ids) for barrier in channels.flow.barriers]
    found.append(((None, SPARED), ids[stays & ~single]))
    found.append(((None, SINGLE), ids[single & (channels.component != 0)]))
    keys: dict[Key, int] = {}
    numbers = [keys.setdefault(key, len(keys)) for key, _ in found]
    owners = np.repeat(numbers, [len(kept) for _, kept in found])
    pairs = np.unique(component[np.concatenate([kept for _, kept in found])] * len(keys) + owners)
    owned, owners = np.divmod(pairs, len(keys))
    # What is tied to the positions that are fixed from the start is fixed by nature, whoever else keeps it.
    free = owned != component[FIXED]
    return list(keys), owned[free], owners[free]


def _classes(owned: Ids, owners: Ids, components: int, keys: int) -> tuple[Ids, list[frozenset[int]]]:
    """The class of every component, by a random hash of its barriers; and the barriers of every class."""
    random = np.random.default_rng(0).integers(1, 2**63, keys, dtype=np.uint64)
    marks = np.zeros(components, np.uint64)
    np.add.at(marks, owned, random[owners])
    _, first, class_of = np.unique(marks, return_index=True, return_inverse=True)
    starts, ends = np.searchsorted(owned, first), np.searchsorted(owned, first, side="right")
    members = [frozenset(owners[start:end].tolist()) for start, end in zip(starts, ends, strict=True)]
    return class_of.astype(np.int64), members


def _held_constants(channels: Channels, class_of: npt.NDArray[np.int64], gone: Mask) -> list[_Constant]:
    """The constants of which something stays when everything in `gone` goes; `class_of` is indexed by position id."""

    def count(ids: Ids) -> dict[int, int]:
        if is_fixed(ids):
            return {UNHELD: len(ids)}
        classes, counts = np.unique(class_of[ids[channels.living(ids, gone)]], return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    constants = []
    for axes, _ in stored_axes(channels):
        classes = [count(ids) for ids in axes]
        constants.append(_Constant(classes, [sum(axis.values()) for axis in classes]))
    return [constant for constant in constants if constant.held]


class _Tally:
    """Elements per barrier: those of its classes, less what several classes of one constant count twice."""

    def __init__(self, members: Sequence[frozenset[int]], constants: Iterable[_Constant]) -> None:
        self._members = members
        self._touched = [0] * len(members)
        self._twice: Counter[int] = Counter()
        self._known: dict[frozenset[int], list[tuple[int, list[int]]]] = {}
        for constant in constants:
            self._add(constant)

    def _add(self, constant: _Constant) -> None:
        present = frozenset(number for axis in constant.classes for number in axis if number != UNHELD)
        touching = {number: constant.touching((number,)) for number in present}
        for number, elements in touching.items():
            self._touched[number] += elements
        if present not in self._known:
            self._known[present] = self._overlaps(present)
        for key, classes in self._known[present]:
            self._twice[key] += sum(touching[number] for number in classes) - constant.touching(classes)

    def _overlaps(self, present: frozenset[int]) -> list[tuple[int, list[int]]]:
        """Barriers that are in several of these classes, and in which.

        The largest class is asked, never walked through: a residual stream that every layer blocks is in every layer.
        """
        *smaller, largest = sorted(present, key=lambda number: len(self._members[number])) or [UNHELD]
        classes = defaultdict(list)
        for number in smaller:
            for key in self._members[number]:
                classes[key].append(number)
        for key, numbers in classes.items():
            if key in self._members[largest]:
                numbers.append(largest)
        return [(key, numbers) for key, numbers in classes.items() if len(numbers) > 1]

    def result(self, keys: int) -> list[Held]:
        """What each of the barriers, numbered from 0, holds."""
        parameters, alone = [0] * keys, [0] * keys
        for members, touched in zip(self._members, self._touched, strict=True):
            for key in members:
                parameters[key] += touched
            if len(members) == 1:
                alone[next(iter(members))] += touched
        return [Held(parameters[key] - self._twice[key], alone[key]) for key in range(keys)]
