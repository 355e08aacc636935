"""A walk through a graph with few samples and with more: where the batch lies in every value, and what it stops at.

Each step runs on both. A step that doesn't run on more samples, or gives anything but one axis that is so much longer,
is repaired where its operands have a number of samples written into them.
"""

from __future__ import annotations

from collections import ChainMap

import torch

from darwinc.batching.edits import Edits
from darwinc.batching.layout import BatchHeld, Layout, grown_axis, reshaped
from darwinc.batching.repairs import Repair, Results, attempts
from darwinc.equivalence import CHOICES
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

RUN_ERRORS = (RuntimeError, ValueError, IndexError)
"""What torch raises where shapes don't fit."""

OUTLINES = {"CastLike": 1, "EyeLike": 0, "Shape": 0, "Size": 0}
"""The operand of which nothing but the type or the shape is read: its samples don't come through."""
RESHAPES = frozenset({"Reshape", "Flatten"})
INNER_TOLERANCE = 1e-2
"""By how much a value inside the graph may differ, relative to its scale: rounding to 8 bits may fall the other way."""
SMALL = 1e-2
"""A value isn't measured by a scale smaller than this part of its operands', below which it is their rounding."""


class Walk:
    """Both runs, step by step.

    Args:
        twin: the model as it is.
        edits: where its repairs go.
        few, many: environments to start from, for `samples` samples and for `times` as many.
        layouts: the batch axes of the inputs; those of all other values are added.
        insist: a reshape has to leave the samples where they are guessed to belong, though it runs otherwise too.

    Raises:
        BatchHeld: the graph can't be repaired.
    """

    def __init__(
        self,
        twin: TorchGraph,
        edits: Edits,
        few: dict[str, torch.Tensor],
        many: dict[str, torch.Tensor],
        layouts: dict[str, Layout],
        samples: int,
        times: int,
        *,
        insist: bool,
    ) -> None:
        self.twin, self.edits, self.few, self.many = twin, edits, few, many
        self.layouts, self.samples, self.times, self.insist = layouts, samples, times, insist
        self._chosen: set[str | None] = set()
        with torch.no_grad():
            for step in twin.steps:
                self._advance(step)

    def _advance(self, step: Step) -> None:
        if step.op_type in CHOICES or not self._chosen.isdisjoint(step.inputs):
            self._chosen.update(step.outputs)
        results = self.twin.run(step, self.few)
        self.few.update(zip(step.outputs, results, strict=False))
        if all(self.few.get(name or "") is self.many.get(name or "") for name in step.inputs):
            self.many.update(zip(step.outputs, results, strict=False))
        else:
            self.many.update(zip(step.outputs, self._grown(step, results), strict=False))
        for name in step.release:
            self.few.pop(name, None)
            self.many.pop(name, None)

    def _grown(self, step: Step, results: Results) -> Results:
        """The step for more samples, repaired if it must be; notes where the samples lie."""
        reason = ""
        for attempt in attempts(step):
            try:
                repair = attempt(self, step, results)
                if repair is None:
                    continue
                grown = self._run(repair)
                layouts = self._layouts(step, results, grown)
                repair.change()
            except BatchHeld as held:
                reason = reason or str(held)
            else:
                self.layouts |= layouts
                return grown
        raise BatchHeld(f"node {step.name!r} ({step.op_type}) {reason}")

    def _run(self, repair: Repair) -> Results:
        try:
            return self.twin.run(repair.step, ChainMap(dict(repair.operands), self.many))
        except RUN_ERRORS as error:
            said = str(error).strip().splitlines()
            raise BatchHeld(
                f"doesn't run on {self.times} times as many samples: {said[0] if said else type(error).__name__}"
            ) from error

    def _layouts(self, step: Step, few: Results, many: Results) -> dict[str, Layout]:
        outline = OUTLINES.get(step.op_type)
        carried = any(name in self.layouts for place, name in enumerate(step.inputs) if place != outline)
        found: dict[str, Layout] = {}
        for name, one, other in zip(step.outputs, few, many, strict=False):
            axis = grown_axis(one.shape, other.shape, self.times)
            if not name or (axis is None and not carried):
                continue
            if axis is None:
                raise BatchHeld("takes the samples of a batch together, or some of them out")
            found[name] = self._layout(step, one, axis)
            if name not in self._chosen and one.is_floating_point() and one.numel():
                self._compare(step, one, found[name].first(other, self.times))
        return found

    def _compare(self, step: Step, alone: torch.Tensor, together: torch.Tensor) -> None:
        """Are the first samples what they are without the others? Answers that saturate wouldn't tell.

        Raises:
            BatchHeld: they are not.
        """
        floats = [alone, *(value for value in map(self._operand, step.inputs) if value is not None)]
        scale = max(float(floats[0].abs().max()), *(SMALL * float(value.abs().max()) for value in floats))
        error = float((together - alone).abs().max()) / max(scale, 1e-30)
        if error > INNER_TOLERANCE:
            raise BatchHeld(f"answers differently for a sample among others: the relative error is {error:.1e}")

    def _operand(self, name: str | None) -> torch.Tensor | None:
        """An operand of real numbers, for few samples."""
        value = None if not name else self.twin.value(name, self.few)
        return value if value is not None and value.is_floating_point() and value.numel() else None

    def _layout(self, step: Step, result: torch.Tensor, axis: int) -> Layout:
        size = result.shape[axis]
        if step.op_type in RESHAPES and (place := self.place(step, 0)) is not None:
            options = reshaped(place, self.value(step, 0).shape, result.shape, self.samples)
            options = options[:1] if self.insist else options
            chosen = next((option for option in options if option.axis == axis), None)
            if chosen is None:
                raise BatchHeld("reshapes the samples of a batch into one")
            return chosen
        if size == self.samples:
            return Layout(axis)
        for position in range(len(step.inputs)):
            place = self.place(step, position)
            if place is not None and self.value(step, position).shape[place.axis] == size:
                return Layout(axis, place.outer)
        return Layout(axis)

    def value(self, step: Step, position: int) -> torch.Tensor:
        """An operand for few samples."""
        return self.twin.value(str(step.inputs[position]), self.few)

    def numbers(self, step: Step, position: int) -> list[int]:
        """An operand that lists integers, for more samples."""
        if position in step.literals:
            return [int(number) for number in step.literals[position]]
        return [int(number) for number in self.twin.value(str(step.inputs[position]), self.many).reshape(-1).tolist()]

    def place(self, step: Step, position: int) -> Layout | None:
        """Where an operand holds the samples; None where it holds none."""
        return self.layouts.get(step.inputs[position] or "")
