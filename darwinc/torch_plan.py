"""The steps of a twin for one set of input shapes: what only shapes decide is decided once, and patterns are fused.

Exporters compute the sizes of a Reshape, or the scale of an attention, node by node from the shapes of other values.
Run on torch's meta device, where tensors have shapes and no numbers, a step whose results hold numbers all the same
depends on no input and no weight: its results become constants of the plan, and the step goes.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from darwinc.errors import DarwincError
from darwinc.torch_fusions import Scene, fuse
from darwinc.torch_rules import HOST_OPERANDS, Step
from darwinc.torch_rules.call import Literal

Shape: TypeAlias = tuple[int, ...]
Evaluate: TypeAlias = Callable[[Step, Mapping[str, torch.Tensor]], Iterable[torch.Tensor]]

# Longer operands are data (index tables), not configuration; small integers stay in host memory for shape arithmetic.
LONGEST_LITERAL = 256

PASSING = ("Identity", "Dropout")
"""Operators that give their first operand as it is."""

CASTS = ("Cast", "CastLike")

META = torch.device("meta")


@dataclass(frozen=True)
class Plan:
    """What `TorchGraph.forward` runs.

    Attributes:
        steps: in order; each releases what nobody reads after it.
        constants: what the steps read besides inputs and weights, by name.
        absorbed: weights that have become numbers of fused steps.
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, torch.Tensor]
    absorbed: frozenset[str] = frozenset()


def with_releases(steps: Sequence[Step], held: Collection[str]) -> tuple[Step, ...]:
    """Each step with the values that nobody reads after it, but for those that are held.

    Walks backwards: the first reader met is the last one that runs.
    """
    seen = set(held)
    released: list[Step] = []
    for step in reversed(steps):
        names = {name for name in (*step.inputs, *step.outputs) if name}
        released.append(replace(step, release=tuple(sorted(names - seen))))
        seen |= names
    return tuple(reversed(released))


@dataclass(frozen=True)
class Source:
    """What plans of one twin are made from.

    Attributes:
        steps: all nodes, in order.
        constants: weights and other stored tensors by name.
        literals: the constants of a single number that nodes of the graph hold.
        kept: values that must stay visible: the outputs, and those that a caller reads by name.
        opset: the model's.
        evaluate: a step's results from an environment, on the meta device.
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, torch.Tensor]
    literals: frozenset[str]
    kept: frozenset[str]
    opset: int
    evaluate: Evaluate


def plan(source: Source, environment: Mapping[str, torch.Tensor], device: torch.device) -> Plan:
    """The plan for inputs of the shapes and types in this environment."""
    steps, constants, kept = source.steps, source.constants, source.kept
    measured = _measure(source, environment)
    known = {
        name: value
        for step in steps
        for name in step.outputs
        if (value := measured.get(name)) is not None and value.device != META
    }
    left = [step for step in steps if not all(name in known for name in step.outputs if name)]
    decoded = [_decoded(step, known) for step in _without_passing(left, measured, kept)]
    shapes = {name: tuple(value.shape) for name, value in measured.items()}
    scene = Scene(decoded, {**constants, **known}, shapes, kept, source.opset)
    fused = fuse(scene)
    own = _placed(fused, {**constants, **known}, device)
    own |= {name: value for name, value in known.items() if name in kept}
    return Plan(with_releases(fused, {*kept, *constants, *own}), own, frozenset(scene.absorbed))


def _placed(
    steps: Iterable[Step], constants: Mapping[str, torch.Tensor], device: torch.device
) -> dict[str, torch.Tensor]:
    """The constants that steps read, where they are read: numbers in host memory, data on the device."""
    found: dict[str, torch.Tensor] = {}
    for step in steps:
        host = HOST_OPERANDS.get(step.op_type, ())
        for position, name in enumerate(step.inputs):
            value = constants.get(name or "")
            if name is None or value is None or isinstance(value, torch.nn.Parameter):
                continue
            as_numbers = position in host and (position in step.literals or value.numel() <= LONGEST_LITERAL)
            found[name] = found.get(name, value) if as_numbers else value.to(device)
    return found


def _measure(source: Source, environment: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every value on the meta device, as far as no step needs numbers that only a run gives."""
    found = {name: value.to(META) for name, value in environment.items()}
    found |= {
        name: value.detach().to(META) if value.is_floating_point() or value.numel() > LONGEST_LITERAL else value
        for name, value in source.constants.items()
    }
    for step in source.steps:
        names = {name for name in step.inputs if name}
        if not names <= found.keys():
            continue
        literals = names & source.literals
        numbers: dict[str, torch.Tensor] = {}
        if literals and all(found[name].device != META for name in names - literals):
            numbers = {name: source.constants[name].detach().cpu() for name in literals}
        try:
            results = source.evaluate(step, ChainMap(numbers, found))
        except (RuntimeError, DarwincError):
            continue
        found.update((name, value) for name, value in zip(step.outputs, results, strict=False) if name)
    return found


def _without_passing(steps: Iterable[Step], measured: Mapping[str, torch.Tensor], kept: Collection[str]) -> list[Step]:
    """Readers of what an Identity gives read what it was given; a cast to the same type is one."""
    source: dict[str, str] = {}
    left = []
    for step in steps:
        inputs = tuple(name if name is None else source.get(name, name) for name in step.inputs)
        first = inputs[0] if inputs else None
        passing = step.op_type in PASSING or (step.op_type in CASTS and _same_type(step, measured))
        if passing and first and len(step.outputs) == 1 and step.outputs[0] not in kept:
            source[step.outputs[0]] = first
        else:
            left.append(replace(step, inputs=inputs))
    return left


def _same_type(step: Step, measured: Mapping[str, torch.Tensor]) -> bool:
    before, after = measured.get(step.inputs[0] or ""), measured.get(step.outputs[0])
    return before is not None and after is not None and before.dtype == after.dtype


def _decoded(step: Step, known: Mapping[str, torch.Tensor]) -> Step:
    """The step with the operands that have become known read as numbers."""
    read: dict[int, Literal] = dict(step.literals)
    for position in HOST_OPERANDS.get(step.op_type, ()):
        name = step.inputs[position] if position < len(step.inputs) else None
        value = known.get(name or "")
        if value is not None and value.numel() <= LONGEST_LITERAL:
            read[position] = tuple(value.reshape(-1).tolist())
    return replace(step, literals=read)
