"""A walk through a graph with few samples and with more: where the batch lies in every value, and what stands against it.

Each step runs on both. A step that doesn't run on more samples, or gives anything but one axis that is so much longer,
is repaired where its operands have a number of samples written into them.
"""

from __future__ import annotations

from collections import ChainMap

import torch

from darwinc.batch_edits import Edits
from darwinc.batch_layout import BatchHeld, Layout, grown_axis, reshaped
from darwinc.batch_repairs import Repair, Results, attempts
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

RUN_ERRORS = (RuntimeError, ValueError, IndexError)
"""What torch raises where shapes don't fit."""

SIZES_ONLY = frozenset({"Shape", "Size"})
"""Operators whose results hold no samples."""
RESHAPES = frozenset({"Reshape", "Flatten"})


class Walk:
    """Both runs, step by step.

    Args:
        twin: the model as it is.
        edits: where its repairs go.
        few, many: environments to start from, for `samples` samples and for `times` as many.
        layouts: the batch axes of the inputs; those of all other values are added.

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
    ) -> None:
        self.twin, self.edits, self.few, self.many = twin, edits, few, many
        self.layouts, self.samples, self.times = layouts, samples, times
        with torch.no_grad():
            for step in twin.steps:
                self._advance(step)

    def _advance(self, step: Step) -> None:
        results = self.twin.run(step, self.few)
        self.few.update(zip(step.outputs, results, strict=False))
        if all(self.few.get(name or "") is self.many.get(name or "") for name in step.inputs):
            grown, layouts = results, [None] * len(results)
        else:
            grown, layouts = self._grown(step, results)
        self.many.update(zip(step.outputs, grown, strict=False))
        self.layouts |= {
            name: layout for name, layout in zip(step.outputs, layouts, strict=False) if layout is not None
        }
        for name in step.release:
            self.few.pop(name, None)
            self.many.pop(name, None)

    def _grown(self, step: Step, results: Results) -> tuple[Results, list[Layout | None]]:
        """The step for more samples, repaired if it must be."""
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
                return grown, layouts
        raise BatchHeld(f"node {step.name!r} ({step.op_type}) {reason}")

    def _run(self, repair: Repair) -> Results:
        try:
            return self.twin.run(repair.step, ChainMap(dict(repair.operands), self.many))
        except RUN_ERRORS as error:
            said = str(error).strip().splitlines()
            raise BatchHeld(
                f"doesn't run on {self.times} times as many samples: {said[0] if said else type(error).__name__}"
            ) from error

    def _layouts(self, step: Step, few: Results, many: Results) -> list[Layout | None]:
        carried = [self.layouts[name] for name in step.inputs if name in self.layouts]
        found: list[Layout | None] = []
        for name, one, other in zip(step.outputs, few, many, strict=False):
            axis = grown_axis(one.shape, other.shape, self.times)
            if name and axis is None and carried and step.op_type not in SIZES_ONLY:
                raise BatchHeld("takes the samples of a batch together, or some of them out")
            found.append(None if axis is None else self._layout(step, one, axis))
        return found

    def _layout(self, step: Step, result: torch.Tensor, axis: int) -> Layout:
        size = result.shape[axis]
        if step.op_type in RESHAPES and (place := self.place(step, 0)) is not None:
            options = reshaped(place, self.value(step, 0).shape, result.shape, self.samples)
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
        literal = step.literals.get(position)
        if literal is None:
            literal = self.twin.value(str(step.inputs[position]), self.many).reshape(-1).tolist()
        return [int(number) for number in literal]

    def place(self, step: Step, position: int) -> Layout | None:
        """Where an operand holds the samples; None where it holds none."""
        return self.layouts.get(step.inputs[position] or "")
