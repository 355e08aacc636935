"""Where a loss can be taken: the model's outputs, or the last tensors before a step that no gradient passes.

Detectors end in NonMaxSuppression or TopK, whose answers jump; behind such a choice two networks' tensors can't even be
compared element by element.
"""

from __future__ import annotations

from darwinc.equivalence import CHOICES
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

STEPPED = frozenset({
    "Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf", "Not", "Equal", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "And", "Or", "Xor",
})  # fmt: skip
"""Their gradient is zero or doesn't exist."""
SIZES = ("Shape", "Size")
"""They read no values at all."""


def differentiable_endings(twin: TorchGraph) -> list[str]:
    """Names of the floating-point values at which losses are taken, in the order in which they are made.

    These are the outputs that depend on a trained weight and lie behind no choice; and, where an output does lie behind
    one, or no gradient gets through to it, the values that it is made from.
    """
    trained = {name for name, weight in twin.weights().items() if weight.requires_grad}
    smooth, stepped, chosen = set(trained), set[str](), set[str]()
    stops: list[tuple[Step, list[str]]] = []
    for step in twin.steps:
        names = [name for name in step.inputs if name is not None]
        carried = [name for name in names if name in smooth]
        choice = step.op_type in CHOICES and bool(carried)
        if choice or any(name in chosen for name in names):
            chosen.update(step.outputs)
        elif carried and step.op_type not in STEPPED:
            smooth.update(step.outputs if step.op_type not in SIZES else ())
            continue
        elif carried or any(name in stepped for name in names):
            stepped.update(step.outputs)
        else:
            continue
        stops.append((step, [name for name in carried if name not in trained]))
    needed = set(twin.outputs)
    ends = needed & smooth
    for step, carried in reversed(stops):
        if any(name in needed for name in step.outputs):
            needed.update(name for name in step.inputs if name is not None)
            ends.update(carried)
    return [name for step in twin.steps for name in step.outputs if name in ends]
