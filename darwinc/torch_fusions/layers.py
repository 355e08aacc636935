"""Layers: linear, attention and layer normalization."""

from __future__ import annotations

from dataclasses import dataclass

from darwinc.torch_rules import Step
from darwinc.torch_rules.convert import Attribute
from darwinc.torch_rules.convolution import CONVOLUTIONS

from .products import scaled
from .scene import Match, Scene, Shape


def linear(scene: Scene, step: Step) -> Match | None:
    """A product with a stored matrix, plus a bias [out]."""
    for bias, product in (step.inputs, tuple(reversed(step.inputs))):
        matmul = scene.inner(product, "MatMul")
        shape = scene.constant_shape(matmul.inputs[1]) if matmul is not None else None
        if matmul is None or scene.shape(matmul.inputs[0]) in (None, ()) or bias == product:
            continue
        turned = scene.inner(matmul.inputs[1], "Transpose") if shape is None else None
        if turned is not None and turned.attributes.get("perm", (1, 0)) == (1, 0):
            stored = scene.constant_shape(turned.inputs[0])
            if stored is not None and len(stored) == 2 and scene.shape(bias) == stored[:1]:
                return Match(
                    (step, matmul, turned), "Linear", (matmul.inputs[0], turned.inputs[0], bias), {"turned": 0}
                )
        elif shape is not None and len(shape) == 2 and scene.shape(bias) == shape[1:]:
            return Match((step, matmul), "Linear", (*matmul.inputs, bias), {"turned": 1})
    return None


def convolution(_: Scene, step: Step) -> Match | None:
    """Padding that is even and known: nothing is left to work out at each run."""
    pads, kernel = step.attributes.get("pads"), step.attributes.get("kernel_shape")
    rank = len(pads) // 2 if isinstance(pads, tuple) else len(kernel) if isinstance(kernel, tuple) else 0
    padding = pads[:rank] if isinstance(pads, tuple) else (0,) * rank
    even = not isinstance(pads, tuple) or pads[rank:] == padding
    if rank not in CONVOLUTIONS or not even or step.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return None
    ones = (1,) * rank
    windows: dict[str, Attribute] = {key: step.attributes.get(key, ones) for key in ("strides", "dilations")}
    return Match(
        (step,), "Conv", step.inputs, {**windows, "padding": padding, "group": step.attributes.get("group", 1)}
    )


def attention(scene: Scene, step: Step) -> Match | None:
    """softmax(scale * q k + mask) v with q [.., T, D], k [.., D, S], v [.., S, E]; q, k or both may be scaled."""
    softmax = scene.inner(step.inputs[0], "Softmax")
    if softmax is None or not _over_last(scene, softmax):
        return None
    plain = _scores(scene, softmax.inputs[0])
    add = scene.inner(softmax.inputs[0], "Add") if plain is None else None
    for scores, mask in () if add is None else (add.inputs, tuple(reversed(add.inputs))):
        plain = plain or _scores(scene, scores, mask)
    value = step.inputs[1]
    if plain is None or not _fits(scene, plain, value):
        return None
    steps = (step, softmax, *(() if add is None else (add,)), *plain.steps)
    inputs = (plain.query, plain.key, value, *(() if plain.mask is None else (plain.mask,)))
    return Match(steps, "Attention", inputs, {"scale": plain.scale})


@dataclass(frozen=True)
class _Scores:
    """scale * query key + mask, and the steps that it is spelt with."""

    scale: float
    query: str
    key: str
    mask: str | None
    steps: tuple[Step, ...]


def _over_last(scene: Scene, softmax: Step) -> bool:
    shape, axis = scene.shape(softmax.inputs[0]), softmax.attributes.get("axis", -1 if scene.opset >= 13 else 1)
    return shape is not None and axis in (-1, len(shape) - 1)


def _scores(scene: Scene, name: str | None, mask: str | None = None) -> _Scores | None:
    scale, plain, steps = _unscaled(scene, name)
    matmul = scene.inner(plain, "MatMul")
    if matmul is None:
        return None
    left, query, left_steps = _unscaled(scene, matmul.inputs[0])
    right, key, right_steps = _unscaled(scene, matmul.inputs[1])
    return _Scores(scale * left * right, query, key, mask, (*steps, matmul, *left_steps, *right_steps))


def _unscaled(scene: Scene, name: str | None) -> tuple[float, str, tuple[Step, ...]]:
    """A value as a number times another value."""
    top = scene.inner(name, "Mul", "Div")
    product = scaled(scene, top) if top is not None else None
    if product is None or len(product.values) != 1:
        return 1.0, str(name), ()
    return product.coefficient, product.values[0], product.steps


def _fits(scene: Scene, scores: _Scores, value: str | None) -> bool:
    """Are the operands of three or four axes, with the same leading ones, and does the mask widen nothing?"""
    query, key, values = (scene.shape(name) for name in (scores.query, scores.key, value))
    if query is None or key is None or values is None or len(query) not in (3, 4):
        return False
    if not query[:-2] == key[:-2] == values[:-2] or key[-1] != values[-2] or query[-1] != key[-2]:
        return False
    if scores.mask is None:
        return True
    mask, logits = scene.shape(scores.mask), (*query[:-1], key[-1])
    if mask is None or len(mask) > len(logits):
        return False
    return all(size in (1, whole) for size, whole in zip(reversed(mask), reversed(logits), strict=False))


def layer_normalization(scene: Scene, step: Step) -> Match | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias over the last axes, spelt out before opset 17."""
    for bias, scaled_name in (step.inputs, tuple(reversed(step.inputs))):
        mul = scene.inner(scaled_name, "Mul")
        for scale, normal in () if mul is None else (mul.inputs, tuple(reversed(mul.inputs))):
            found = _normalized(scene, normal)
            if mul is None or found is None:
                continue
            x, axes, epsilon, steps = found
            wanted = (scene.shape(x) or ())[-axes:]
            if scene.shape(scale) == wanted == scene.shape(bias):
                return Match(
                    (step, mul, *steps), "LayerNormalization", (x, scale, bias), {"epsilon": epsilon, "axes": axes}
                )
    return None


def _normalized(scene: Scene, name: str | None) -> tuple[str, int, float, tuple[Step, ...]] | None:
    """x, over how many of the last axes it is normalized, epsilon, and the steps."""
    div = scene.inner(name, "Div")
    root = scene.inner(div.inputs[1], "Sqrt") if div is not None else None
    add = scene.inner(root.inputs[0], "Add") if root is not None else None
    if div is None or root is None or add is None:
        return None
    constant, variance = sorted(add.inputs, key=lambda name: scene.number(name) is None)
    epsilon, mean_square = scene.number(constant), scene.inner(variance, "ReduceMean")
    square = scene.inner(mean_square.inputs[0], "Pow", "Mul") if mean_square is not None else None
    if epsilon is None or mean_square is None or square is None or square.inputs[0] != div.inputs[0]:
        return None
    if square.op_type == "Mul":
        readers, squared = 3, square.inputs[0] == square.inputs[1]
    else:
        readers, squared = 2, scene.is_(square.inputs[1], 2.0)
    centred = scene.inner(div.inputs[0], "Sub", readers=readers)
    mean = scene.inner(centred.inputs[1], "ReduceMean") if centred is not None else None
    if not squared or centred is None or mean is None or mean.inputs[0] != centred.inputs[0]:
        return None
    x = str(mean.inputs[0])
    axes = _last_axes(scene.shape(x), mean)
    if axes is None or axes != _last_axes(scene.shape(x), mean_square):
        return None
    return x, axes, epsilon, (div, root, add, mean_square, square, centred, mean)


def _last_axes(shape: Shape | None, mean: Step) -> int | None:
    """How many axes at the end are averaged over and kept as ones, or None where it is others."""
    listed = mean.literals.get(1, mean.attributes.get("axes", ()))
    if shape is None or not isinstance(listed, tuple) or not listed or not mean.attributes.get("keepdims", 1):
        return None
    axes = sorted(int(axis) % len(shape) for axis in listed)
    return len(axes) if axes == list(range(len(shape) - len(axes), len(shape))) else None
