"""What patterns are matched against: the steps of a twin, who reads what, and the values and shapes that are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from darwinc.torch_rules import Step
from darwinc.torch_rules.convert import Attribute

Shape: TypeAlias = tuple[int, ...]

SAME = 1e-4
"""Two constants of a formula are the same within this share: some files store them rounded."""


def prefixed(name: str) -> str:
    """The key of a fused step's rule."""
    return f"fused::{name}"


class Scene:
    """The steps of a twin and what is known of their values.

    Args:
        steps: in order.
        constants: known values and weights by name.
        shapes: of every value, as far as known.
        kept: values that must stay visible.
        opset: the model's.

    Attributes:
        absorbed: constants that are numbers of fused steps now.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        constants: Mapping[str, torch.Tensor],
        shapes: Mapping[str, Shape],
        kept: Collection[str],
        opset: int,
    ) -> None:
        self.steps = steps
        self.opset = opset
        self._constants = constants
        self._shapes = shapes
        self._kept = frozenset(kept)
        self.absorbed: set[str] = set()
        self._numbers: dict[str, float | None] = {}
        self._makers = {name: step for step in steps for name in step.outputs if name}
        self._uses = Counter(name for step in steps for name in step.inputs if name)

    def replace(self, old: Collection[Step], new: Step) -> None:
        """Put one step in the place of others, the last of which makes what it makes."""
        read = {name for step in old for name in step.inputs if name in self._constants}
        self.absorbed |= {str(name) for name in read.difference(new.inputs)}
        for step in old:
            self._uses.subtract(name for name in step.inputs if name)
        self._uses.update(name for name in new.inputs if name)
        self._makers.update((name, new) for name in new.outputs if name)

    def maker(self, name: str | None, *operators: str) -> Step | None:
        """The step that makes a value, if it is of these operators and makes nothing else."""
        step = self._makers.get(name or "")
        return step if step is not None and step.op_type in operators and len(step.outputs) == 1 else None

    def inner(self, name: str | None, *operators: str, readers: int = 1) -> Step | None:
        """`maker`, if nobody but so many readers reads the value."""
        return self.maker(name, *operators) if name and self.hidden(name, readers) else None

    def hidden(self, name: str, readers: int = 1) -> bool:
        """Do so many operands read the value, and does nobody outside?"""
        return self._uses[name] == readers and name not in self._kept

    def number(self, name: str | None) -> float | None:
        """The value of a constant with a single element."""
        if name is None or name not in self._constants:
            return None
        if name not in self._numbers:
            value = self._constants[name]
            single = value.numel() == 1 and value.device.type != "meta"
            self._numbers[name] = float(value.detach().reshape(())) if single else None
        return self._numbers[name]

    def is_(self, name: str | None, wanted: float) -> bool:
        """Is the value a constant that equals this number?"""
        number = self.number(name)
        return number is not None and math.isclose(number, wanted, rel_tol=SAME)

    def shape(self, name: str | None) -> Shape | None:
        """The shape of a value, or None where it isn't known."""
        return self._shapes.get(name or "")

    def constant_shape(self, name: str | None) -> Shape | None:
        """The shape of a stored tensor, None for what is computed from inputs."""
        return tuple(self._constants[name].shape) if name is not None and name in self._constants else None

    def scalar_for(self, name: str | None, other: str | None) -> float | None:
        """A constant number that doesn't widen the value that it is combined with."""
        number, mine, theirs = self.number(name), self.constant_shape(name), self.shape(other)
        if number is None or mine is None or theirs is None or len(mine) > len(theirs):
            return None
        return number


@dataclass(frozen=True)
class Match:
    """What a pattern found: the steps that it takes in, the last one first, and the fused operator."""

    steps: tuple[Step, ...]
    operator: str
    inputs: tuple[str | None, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def step(self) -> Step:
        return replace(
            self.steps[0],
            op_type=prefixed(self.operator),
            inputs=self.inputs,
            attributes=self.attributes,
            literals={},
        )


Pattern: TypeAlias = Callable[[Scene, Step], "Match | None"]
