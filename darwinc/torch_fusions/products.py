"""Products as exporters spell them: chains of Mul and Div, some of whose operands are numbers."""

from __future__ import annotations

from dataclasses import dataclass

from darwinc.torch_rules import Step

from .scene import Scene


@dataclass(frozen=True)
class Product:
    """A chain of Mul and Div by numbers: `coefficient` times the values, and the steps that it is spelt with."""

    coefficient: float
    values: tuple[str, ...]
    steps: tuple[Step, ...]


MOST_FACTORS = 4


def _product(scene: Scene, step: Step) -> Product:
    """Multiplied out, as far as the partial products are read by nobody else."""
    coefficient, values, steps = 1.0, list[str](), [step]
    waiting = _factors(scene, step)
    while waiting:
        name, number = waiting.pop(0)
        if number is not None:
            coefficient *= number
            continue
        inner = scene.inner(name, "Mul", "Div") if len(steps) < MOST_FACTORS else None
        if inner is not None and (inner.op_type == "Mul" or scene.scalar_for(inner.inputs[1], inner.inputs[0])):
            steps.append(inner)
            waiting += _factors(scene, inner)
        else:
            values.append(name)
    return Product(coefficient, tuple(values), tuple(steps))


def _factors(scene: Scene, step: Step) -> list[tuple[str, float | None]]:
    """The operands of a Mul or Div, the number instead of the name where a number only scales the other one."""
    left, right = str(step.inputs[0]), str(step.inputs[1])
    if step.op_type == "Div":
        number = scene.scalar_for(right, left)
        return [(left, None), (right, 1 / number if number else None)]
    return [(left, scene.scalar_for(left, right)), (right, scene.scalar_for(right, left))]


def scaled(scene: Scene, step: Step) -> Product | None:
    """The product, unless it is a quotient of two values."""
    if step.op_type == "Div" and not scene.scalar_for(step.inputs[1], step.inputs[0]):
        return None
    return _product(scene, step)
