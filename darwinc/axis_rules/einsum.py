"""Einsum: letters that stay pass, letters that are summed over meet as in a matrix product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Tracked, is_fixed
from darwinc.axis_rules.elementwise import broadcast
from darwinc.axis_rules.weighted import COMPUTED, Operand, meet

Terms = tuple[list[list[str]], list[str]]


def einsum(flow: Flow, node: ir.Node) -> None:
    """Any equation, with or without an arrow, ellipses, broadcast ones; a diagonal must stay whole."""
    operands = [flow.tracked(node, index) for index in range(len(node.inputs))]
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands):
        flow.barrier(node, UNKNOWN_INPUT)
        return
    terms, made = parse(graph.text(node, "equation", ""), [len(operand.axes) for operand in known])
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, letters in enumerate(terms):
        for axis, letter in enumerate(letters):
            places[letter].append((index, axis))
    merged = {letter: _merge(flow, node, known, met) for letter, met in places.items()}
    for letter, met in places.items():
        if letter not in made:
            _sum(flow, node, known, met, merged[letter])
    silent = [any(_is_silent(known, place, merged[letter]) for place in places[letter]) for letter in made]
    flow.put(node, [merged[letter] for letter in made], silent=silent)
    if len(known) > 1:
        flow.multiply(node, list(merged.values()))


def parse(equation: str, ranks: Sequence[int]) -> Terms:
    """The letters of every operand's axes and of the result's; an ellipsis becomes the letters "-1", "-2" and so on.

    Raises:
        ValueError: the equation doesn't fit the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    spelt = left.split(",")
    if len(spelt) != len(ranks):
        raise ValueError("an equation for another number of operands")
    terms = [_letters(term, rank) for term, rank in zip(spelt, ranks, strict=True)]
    ellipsis = max((sum(letter.startswith("-") for letter in term) for term in terms), default=0)
    hidden = [str(place) for place in range(-ellipsis, 0)]
    if arrow:
        before, dots, after = right.partition("...")
        return terms, [*before, *(hidden if dots else ()), *after]
    plain = "".join(spelt).replace(".", "")
    return terms, [*hidden, *sorted(letter for letter in set(plain) if plain.count(letter) == 1)]


def _letters(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise ValueError("an equation for operands of another rank")
    return [*before, *(str(place) for place in range(-hidden, 0)), *after]


def _merge(flow: Flow, node: ir.Node, operands: Sequence[Tracked], met: Sequence[tuple[int, int]]) -> Axis:
    """The axis that a letter names, wherever it stands."""
    axes = [operands[index].axes[axis] for index, axis in met]
    if len({index for index, _ in met}) < len(met):
        flow.block_all(axes, node, "takes a diagonal of this axis")
    return broadcast(flow, node, [(axis,) for axis in axes])[0]


def _is_silent(operands: Sequence[Tracked], place: tuple[int, int], merged: Axis) -> bool:
    """A product is zero where one of its factors is; what is broadcast along the axis isn't."""
    index, axis = place
    own = operands[index].axes[axis]
    return own is not None and merged is not None and len(own) == len(merged) and operands[index].is_silent(axis)


def _sum(flow: Flow, node: ir.Node, operands: Sequence[Tracked], met: Sequence[tuple[int, int]], merged: Axis) -> None:
    """A letter that isn't in the result."""
    if is_fixed(merged):
        return
    if len(operands) == 2 and len(met) == 2 and met[0][0] != met[1][0]:
        left, right = (Operand(index, operands[index], axis) for index, axis in met)
        if left.inner is not None and right.inner is not None and len(left.inner) == len(right.inner):
            meet(flow, node, left, right)
            return
    if not any(_is_silent(operands, place, merged) for place in met):
        flow.block(merged, node, COMPUTED)
