"""Activations: a product of x and a gate of x, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from darwinc.torch_rules import Step
from darwinc.torch_rules.convert import Attribute

from .products import Product, scaled
from .scene import SAME, Match, Scene, prefixed


def _gates(product: Product) -> Iterator[tuple[str, str]]:
    """The two values of a product, either first."""
    if len(product.values) == 2:
        first, second = product.values
        yield first, second
        yield second, first


def activation(scene: Scene, step: Step) -> Match | None:
    """x times a gate of x: SiLU, HardSwish, Mish, GELU."""
    product = scaled(scene, step)
    if product is None:
        return None
    for x, gate in _gates(product):
        found = next((name for gating in GATES if (name := gating(scene, x, gate, product.coefficient))), None)
        if found is not None:
            operator, steps, attributes = found
            return Match((*product.steps, *steps), operator, (x,), attributes)
    return None


Gate: TypeAlias = tuple[str, tuple[Step, ...], Mapping[str, Attribute]]


def _sigmoid_gate(scene: Scene, x: str, gate: str, coefficient: float) -> Gate | None:
    """x * sigmoid(x)."""
    step = scene.inner(gate, "Sigmoid") if coefficient == 1 else None
    return ("Silu", (step,), {}) if step is not None and step.inputs[0] == x else None


def _hard_gate(scene: Scene, x: str, gate: str, coefficient: float) -> Gate | None:
    """x * clip(x + 3, 0, 6) / 6, or x times the HardSigmoid that is the same."""
    step = scene.inner(gate, "HardSigmoid", prefixed("HardSigmoid")) if coefficient == 1 else None
    if step is not None and step.inputs[0] == x and _is_sixth(step):
        return "HardSwish", (step,), {}
    if not math.isclose(coefficient, 1 / 6, rel_tol=SAME):
        return None
    clip = scene.inner(gate, prefixed("HardTanh"))
    if clip is None or (clip.attributes["low"], clip.attributes["high"]) != (0.0, 6.0):
        return None
    add = scene.inner(clip.inputs[0], "Add")
    shifted = _added(scene, add, 3.0) if add is not None else None
    return ("HardSwish", (clip, add), {}) if add is not None and shifted == x else None


def _is_sixth(step: Step) -> bool:
    slope, offset = step.attributes.get("alpha", 0.2), step.attributes.get("beta", 0.5)
    return isinstance(slope, float) and math.isclose(slope, 1 / 6, rel_tol=SAME) and bool(offset == 0.5)


def _mish_gate(scene: Scene, x: str, gate: str, coefficient: float) -> Gate | None:
    """x * tanh(softplus(x))."""
    tanh = scene.inner(gate, "Tanh") if coefficient == 1 else None
    softplus = scene.inner(tanh.inputs[0], "Softplus") if tanh is not None else None
    if tanh is None or softplus is None or softplus.inputs[0] != x:
        return None
    return "Mish", (tanh, softplus), {}


def _erf_gate(scene: Scene, x: str, gate: str, coefficient: float) -> Gate | None:
    """x * (1 + erf(x / sqrt 2)) / 2, from Hendrycks and Gimpel, Gaussian Error Linear Units."""
    add = scene.inner(gate, "Add") if math.isclose(coefficient, 0.5, rel_tol=SAME) else None
    inside = _added(scene, add, 1.0) if add is not None else None
    erf = scene.inner(inside, "Erf")
    inner = scene.inner(erf.inputs[0], "Div", "Mul") if erf is not None else None
    product = scaled(scene, inner) if inner is not None else None
    if add is None or erf is None or product is None or product.values != (x,):
        return None
    if not math.isclose(product.coefficient, math.sqrt(0.5), rel_tol=SAME):
        return None
    return "Gelu", (add, erf, *product.steps), {"approximate": "none"}


def _tanh_gate(scene: Scene, x: str, gate: str, coefficient: float) -> Gate | None:
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2."""
    add = scene.inner(gate, "Add") if math.isclose(coefficient, 0.5, rel_tol=SAME) else None
    tanh = scene.inner(_added(scene, add, 1.0), "Tanh") if add is not None else None
    inner = scene.inner(tanh.inputs[0], "Mul") if tanh is not None else None
    outer = scaled(scene, inner) if inner is not None else None
    if add is None or tanh is None or outer is None or len(outer.values) != 1:
        return None
    total = scene.inner(outer.values[0], "Add")
    if total is None or not math.isclose(outer.coefficient, math.sqrt(2 / math.pi), rel_tol=SAME):
        return None
    cubic = next((name for name in total.inputs if name != x), None)
    cube = _cube(scene, x, cubic) if x in total.inputs else None
    return None if cube is None else ("Gelu", (add, tanh, *outer.steps, total, *cube), {"approximate": "tanh"})


def _cube(scene: Scene, x: str, name: str | None) -> tuple[Step, ...] | None:
    """The steps of 0.044715 * x^3."""
    top = scene.inner(name, "Mul")
    product = scaled(scene, top) if top is not None else None
    if product is None or not math.isclose(product.coefficient, 0.044715, rel_tol=SAME):
        return None
    if product.values == (x, x, x):
        return product.steps
    power = scene.inner(product.values[0], "Pow") if len(product.values) == 1 else None
    if power is None or power.inputs[0] != x or not scene.is_(power.inputs[1], 3.0):
        return None
    return *product.steps, power


def _added(scene: Scene, step: Step, number: float) -> str | None:
    """What a number is added to, without widening it."""
    for constant, other in (step.inputs, tuple(reversed(step.inputs))):
        if scene.is_(constant, number) and scene.scalar_for(constant, other) is not None:
            return other
    return None


GATES = (_sigmoid_gate, _hard_gate, _erf_gate, _tanh_gate, _mish_gate)


def clip(scene: Scene, step: Step) -> Match | None:
    """Two finite bounds. Torch's gradient at a bound is then zero, as a ReLU6's is."""
    names = (*step.inputs, None, None)[1:3]
    if scene.opset >= 11:
        low, high = (scene.number(name) for name in names)
    else:
        low, high = (
            number if isinstance(number := step.attributes.get(key), float) else None for key in ("min", "max")
        )
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low <= high):
        return None
    return Match((step,), "HardTanh", step.inputs[:1], {"low": low, "high": high})


def hard_sigmoid(_: Scene, step: Step) -> Match | None:
    """The slope that torch has a kernel for."""
    attributes = {"alpha": 1 / 6, "beta": 0.5}
    return Match((step,), "HardSigmoid", step.inputs, attributes) if _is_sixth(step) else None
