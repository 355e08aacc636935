"""What can be done about a node that has a number of samples written into it: one row per operator.

A repair gives the step that takes more samples, to be tried at once, and the change of the graph that makes it so for
any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir
import torch

from darwinc.batching.layout import BatchHeld, Layout, reshaped
from darwinc.torch_rules import Step

if TYPE_CHECKING:
    from darwinc.batching.walk import Walk

Results: TypeAlias = tuple[torch.Tensor, ...]
Computed: TypeAlias = Callable[[], ir.Value]

STATES = {"LSTM": (4, 5, 6), "GRU": (4, 5), "RNN": (4, 5)}
"""Operands that have an entry for each sample, where a recurrent operator has them: lengths and initial states."""
LENGTHS = 4
REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
TO_THE_END = 2**31 - 1


def _no_change() -> None:
    """The graph runs as it is."""


@dataclass(frozen=True)
class Repair:
    """A step that takes more samples, with operands made for it, and how the graph is changed to be like it."""

    step: Step
    change: Callable[[], None] = _no_change
    operands: Mapping[str, torch.Tensor] = field(default_factory=dict)


Attempt: TypeAlias = Callable[["Walk", Step, Results], Repair | None]


def attempts(step: Step) -> Iterable[Attempt]:
    """What is tried in turn, from the results for few samples, until one serves; None where it doesn't apply."""
    yield _states if step.op_type in STATES else _unchanged
    if step.op_type in REPAIRS:
        yield REPAIRS[step.op_type]
    yield _every_operand


def _unchanged(_: Walk, step: Step, __: Results) -> Repair:
    return Repair(step)


def _states(walk: Walk, step: Step, _: Results) -> Repair:
    """Lengths and states for one feed, once for each."""
    return _repeated(walk, step, 0, STATES[step.op_type]) or Repair(step)


def _every_operand(walk: Walk, step: Step, _: Results) -> Repair | None:
    """Whatever lies beside samples, and is made for one feed, once for each."""
    beside = next((position for position, name in enumerate(step.inputs) if name in walk.layouts), None)
    return None if beside is None else _repeated(walk, step, beside, range(len(step.inputs)))


def _repeated(walk: Walk, step: Step, beside: int, positions: Sequence[int]) -> Repair | None:
    """Operands that hold no samples, repeated along the axis that lines up, from the end, with the batch axis."""
    place = walk.place(step, beside)
    if place is None or place.outer != 1:
        return None
    rank, length = walk.value(step, beside).ndim, walk.value(step, beside).shape[place.axis]
    inputs, operands, axes = list(step.inputs), {}, {}
    for position in positions:
        name = step.inputs[position] if position < len(step.inputs) else None
        if name is None or name in walk.layouts:
            continue
        operand = walk.twin.value(name, walk.many)
        axis = 0 if step.op_type in STATES and position == LENGTHS else operand.ndim - rank + place.axis
        if 0 <= axis < operand.ndim and operand.shape[axis] == length:
            inputs[position] = f"darwinc/{position}"
            operands[f"darwinc/{position}"] = torch.cat([operand] * walk.times, axis)
            axes[position] = (axis, operand.ndim)
    if not operands:
        return None

    def change() -> None:
        for position, (axis, rank) in axes.items():
            walk.edits.repeat(step, position, rank, axis, walk.edits.size(step, beside, place.axis, over=length))

    literals = {position: numbers for position, numbers in step.literals.items() if position not in axes}
    return Repair(replace(step, inputs=tuple(inputs), literals=literals), change, operands)


def _with_number(
    walk: Walk, step: Step, operand: int, position: int, number: int, computed: Computed | None = None
) -> Repair:
    """One number of an operand replaced, by one that is stored, or by what is computed where the graph runs."""
    numbers = walk.numbers(step, operand)
    numbers[position] = number

    def change() -> None:
        if computed is None and operand in step.literals:
            walk.edits.set_numbers(step, operand, numbers)
        else:
            value = walk.edits.number(step, "number", number) if computed is None else computed()
            walk.edits.set_number(step, operand, len(numbers), position, value)

    return Repair(replace(step, literals={**step.literals, operand: tuple(numbers)}), change)


def _with_attribute(walk: Walk, step: Step, name: str, position: int, number: int) -> Repair:
    """One number of an attribute replaced."""
    numbers = _listed(step, name)
    numbers[position] = number
    attributes = {**step.attributes, name: tuple(numbers)}
    return Repair(replace(step, attributes=attributes), lambda: walk.edits.set_attribute(step, name, numbers))


def _listed(step: Step, name: str) -> list[int]:
    value = step.attributes.get(name)
    return [int(number) for number in value] if isinstance(value, tuple) else []


def _reshape(walk: Walk, step: Step, results: Results) -> Repair | None:
    """The axis that gets the samples is copied from the input, or left to be found, or computed."""
    place = walk.place(step, 0)
    if place is None:
        return None
    old, new = walk.value(step, 0).shape, results[0].shape
    options = reshaped(place, old, new, walk.samples)
    if not options:
        raise BatchHeld(f"reshapes {list(old)} into {list(new)}, where samples lie on several axes")
    axis, copies = options[0].axis, not step.attributes.get("allowzero")
    inputs_too = len(step.inputs) > 1
    numbers = walk.numbers(step, 1) if inputs_too else _listed(step, "shape")
    if copies and axis == place.axis and old[axis] == new[axis]:
        number: int | None = 0
    else:
        number = None if -1 in numbers[:axis] + numbers[axis + 1 :] else -1
    if not inputs_too:
        return None if number is None else _with_attribute(walk, step, "shape", axis, number)
    if number is not None:
        return _with_number(walk, step, 1, axis, number)
    length = walk.times * new[axis]
    return _with_number(
        walk, step, 1, axis, length, lambda: walk.edits.size(step, 0, place.axis, new[axis], old[place.axis])
    )


def _expand(walk: Walk, step: Step, _: Results) -> Repair | None:
    """A 1 keeps the input's length."""
    place = walk.place(step, 0)
    if place is None:
        return None
    count = len(walk.numbers(step, 1))
    position = count - walk.value(step, 0).ndim + place.axis
    return _with_number(walk, step, 1, position, 1) if position >= 0 else None


def _slice(walk: Walk, step: Step, _: Results) -> Repair | None:
    """A slice that takes all the samples there are takes all that there will be."""
    place = walk.place(step, 0)
    if place is None:
        return None
    operands = len(step.inputs) > 1
    starts, ends = ((walk.numbers(step, 1 + k) if operands else _listed(step, ("starts", "ends")[k])) for k in (0, 1))
    given = [position < len(step.inputs) and step.inputs[position] is not None for position in (3, 4)]
    axes = walk.numbers(step, 3) if given[0] else _listed(step, "axes") or list(range(len(starts)))
    steps = walk.numbers(step, 4) if given[1] else [1] * len(starts)
    shape = walk.value(step, 0).shape
    for position, axis in enumerate(axes):
        if axis % len(shape) == place.axis:
            if starts[position] or steps[position] != 1 or ends[position] < shape[place.axis]:
                return None
            if operands:
                return _with_number(walk, step, 2, position, TO_THE_END)
            return _with_attribute(walk, step, "ends", position, TO_THE_END)
    return None


def _resize(walk: Walk, step: Step, _: Results) -> Repair | None:
    """The number of samples among the sizes is that of the input."""
    place = walk.place(step, 0)
    if place is None or len(step.inputs) < 4 or step.inputs[3] is None:
        return None
    axes = _listed(step, "axes") or list(range(walk.value(step, 0).ndim))
    if place.axis not in axes:
        return None
    return _sized_like_input(walk, step, 3, axes.index(place.axis), place)


def _affine_grid(walk: Walk, step: Step, _: Results) -> Repair | None:
    place = walk.place(step, 0)
    return None if place is None else _sized_like_input(walk, step, 1, place.axis, place)


def _reduce(walk: Walk, step: Step, results: Results) -> Repair | None:
    """A reduction over an axis of one sample, which stays, needn't name that axis."""
    place = walk.place(step, 0)
    shape = walk.value(step, 0).shape
    if place is None or shape[place.axis] != 1 or results[0].ndim != len(shape):
        return None
    operand = len(step.inputs) > 1 and step.inputs[1] is not None
    axes = walk.numbers(step, 1) if operand else _listed(step, "axes")
    left = [axis % len(shape) for axis in axes or range(len(shape)) if axis % len(shape) != place.axis]
    if not left:
        return None
    if operand:
        literals = {**step.literals, 1: tuple(left)}
        return Repair(replace(step, literals=literals), lambda: walk.edits.set_numbers(step, 1, left))
    attributes = {**step.attributes, "axes": tuple(left)}
    return Repair(replace(step, attributes=attributes), lambda: walk.edits.set_attribute(step, "axes", left))


def _sized_like_input(walk: Walk, step: Step, operand: int, position: int, place: Layout) -> Repair:
    length = walk.times * walk.value(step, 0).shape[place.axis]
    return _with_number(walk, step, operand, position, length, lambda: walk.edits.size(step, 0, place.axis))


REPAIRS: Mapping[str, Attempt] = {
    "AffineGrid": _affine_grid,
    "Expand": _expand,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    **dict.fromkeys(REDUCTIONS, _reduce),
}
