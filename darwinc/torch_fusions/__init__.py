"""Patterns of steps that torch has one kernel for: exporters spell out SiLU, GELU, attention and the like.

Only the training twin fuses; calibrators look at every value by name. A pattern is tried at its last step and looks
back over a bounded number of steps, so that matching is linear in the size of the graph. It takes a step in only if
nobody else reads its result, and judges constants by value and operands by shape. Numbers of a formula that are stored
in the model (the half of a GELU) are not trained once they are part of a fused step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from darwinc.torch_rules import Step

from .activations import activation, clip, hard_sigmoid
from .layers import attention, convolution, layer_normalization, linear
from .rules import COMMUTATIVE, FUSED_RULES, INTO
from .scene import Match, Scene, prefixed

Pattern: TypeAlias = Callable[[Scene, Step], "Match | None"]

PATTERNS: Mapping[str, tuple[Pattern, ...]] = {
    "Mul": (activation,),
    "Div": (activation,),
    "Add": (layer_normalization, linear),
    "MatMul": (attention,),
    "Conv": (convolution,),
    "Clip": (clip,),
    "HardSigmoid": (hard_sigmoid,),
}
"""By the operator of the last step; the first pattern that matches wins."""

FRESH = (
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "Gemm",
    "MatMul",
    "LayerNormalization",
    "Add",
    "Sub",
    prefixed("Conv"),
    prefixed("Linear"),
    prefixed("LayerNormalization"),
)
"""Operators that make a new tensor which their own gradient doesn't need: the next step may overwrite it."""


def fuse(scene: Scene) -> list[Step]:
    """The steps with every pattern that matches fused, and with values overwritten where nobody would see it."""
    gone: set[int] = set()
    fused: list[Step] = []
    for step in scene.steps:
        match = next((found for pattern in PATTERNS.get(step.op_type, ()) if (found := pattern(scene, step))), None)
        if match is None:
            fused.append(step)
            continue
        gone.update(id(old) for old in match.steps)
        new = match.step()
        scene.replace(match.steps, new)
        fused.append(new)
    return [_overwriting(scene, step) for step in fused if id(step) not in gone]


def _overwriting(scene: Scene, step: Step) -> Step:
    """The variant that writes into an operand, where that is a fresh tensor that nobody else reads."""
    if step.op_type not in INTO:
        return step
    candidates = step.inputs if step.op_type in COMMUTATIVE else step.inputs[:1]
    for position, name in enumerate(candidates):
        shape = scene.shape(name)
        if shape is not None and shape == scene.shape(step.outputs[0]) and scene.inner(name, *FRESH) is not None:
            others = tuple(other for place, other in enumerate(step.inputs) if place != position)
            return replace(step, op_type=INTO[step.op_type], inputs=(name, *others))
    return step


__all__ = ["FUSED_RULES", "Match", "Scene", "fuse"]
