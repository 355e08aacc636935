"""Moves on maps [N, C, H, W] with weights: convolutions, their fused forms, gates."""

from __future__ import annotations

from tests.random_graphs import verbs
from tests.random_graphs.builder import MICROSOFT, TALLEST, WIDEST, Builder


def convolve(b: Builder, x: str, *, group: int = 1, channels: int | None = None) -> str:
    """A Conv that keeps the extent, or halves it."""
    n, c, h, w = b.shapes[x]
    channels = b.number(2, WIDEST // 2) if channels is None else channels
    kernel, stride = b.choose((1, 3)), b.choose((1, 1, 2))
    inputs = [x, b.weight((channels, c // group, kernel, kernel), c // group * kernel**2)]
    if b.coin():
        inputs.append(b.vector(channels))
    shape = (n, channels, (h - 1) // stride + 1, (w - 1) // stride + 1)
    return b.add("Conv", inputs, shape, group=group, strides=[stride] * 2, pads=[kernel // 2] * 4)


def grouped(b: Builder, x: str) -> str | None:
    """A grouped Conv."""
    groups = verbs.divisors(b.shapes[x][1])
    if not groups:
        return None
    group = b.choose(groups)
    return convolve(b, x, group=group, channels=group * b.number(1, max(1, WIDEST // group)))


def grouped_in_a_row(b: Builder, x: str) -> str:
    """Grouped convolutions of several group counts, with or without something in between."""
    wide = convolve(b, x, channels=b.choose((8, 12, 16, 24)))
    for _ in range(b.number(2, 3)):
        wide = grouped(b, wide) or wide
        wide = verbs.unary(b, "Relu", wide) if b.coin() else wide
    return wide


def depthwise(b: Builder, x: str) -> str | None:
    """A depthwise Conv, with a multiplier."""
    channels = b.shapes[x][1]
    if channels == 1:
        return None
    return convolve(b, x, group=channels, channels=channels * b.number(1, max(1, WIDEST // channels)))


def transposed(b: Builder, x: str) -> str | None:
    """ConvTranspose, plain, grouped or depthwise."""
    n, c, h, w = b.shapes[x]
    if 2 * max(h, w) > TALLEST:
        return None
    group = b.choose([1, *verbs.divisors(c)])
    width = b.number(1, max(1, WIDEST // 2 // group))
    inputs = [x, b.weight((c, width, 2, 2), c // group)]
    if b.coin():
        inputs.append(b.vector(group * width))
    return b.add("ConvTranspose", inputs, (n, group * width, 2 * h, 2 * w), group=group, strides=[2, 2])


def fused(b: Builder, x: str) -> str:
    """ONNX Runtime's FusedConv: an activation inside, and a sum where there is something to add."""
    n, c, h, w = b.shapes[x]
    group = b.choose([1, *verbs.divisors(c)])
    width = group * b.number(1, max(1, WIDEST // 2 // group))
    wanted = [other for other in b.values if b.shapes[other] == (n, width, h, w)]
    inputs = [x, b.weight((width, c // group, 1, 1), c // group), b.vector(width) if b.coin() else ""]
    if wanted and b.coin():
        inputs.append(b.choose(wanted))
    activation = b.choose(("Relu", "Sigmoid", "Tanh", "LeakyRelu"))
    more = {"activation_params": [0.1]} if activation == "LeakyRelu" else {}
    return b.add(
        "FusedConv",
        inputs,
        (n, width, h, w),
        domain=MICROSOFT,
        activation=activation,
        group=group,
        kernel_shape=[1, 1],
        **more,
    )


def squeeze_and_excite(b: Builder, x: str) -> str:
    """A gate by broadcasting multiplication; pooled and squeezed in one of several ways."""
    n, c, _, _ = b.shapes[x]
    hidden = b.number(1, 4)
    if b.coin():
        pooled = b.add("GlobalAveragePool", [x], (n, c, 1, 1))
        squeezed = b.add("Conv", [pooled, b.weight((hidden, c, 1, 1), c)], (n, hidden, 1, 1))
        gate = b.add("Conv", [verbs.unary(b, "Relu", squeezed), b.weight((c, hidden, 1, 1), hidden)], (n, c, 1, 1))
    else:
        pooled = verbs.reduce(b, "ReduceMean", x, [2, 3], keep=False)
        squeezed = b.add("Gemm", [pooled, b.weight((hidden, c), c), b.vector(hidden)], (n, hidden), transB=1)
        rows = b.add("Gemm", [verbs.unary(b, "Relu", squeezed), b.weight((hidden, c), hidden), b.vector(c)], (n, c))
        gate = verbs.reshape(b, rows, (n, c, 1, 1)) if b.coin() else verbs.unsqueeze(b, rows, [2, 3])
    return verbs.binary(b, "Mul", x, verbs.unary(b, b.choose(("Sigmoid", "HardSigmoid")), gate))


def gated(b: Builder, x: str) -> str:
    """Two convolutions of the same value, one the gate of the other: apart, or halves of one."""
    width = b.number(2, WIDEST // 2)
    if b.coin():
        one, two = (_pointwise(b, x, width) for _ in range(2))
    else:
        one, two = verbs.split(b, _pointwise(b, x, 2 * width), 1, [width, width])
    gate = verbs.unary(b, b.choose(("Sigmoid", "Tanh", "Relu")), two) if b.coin() else two
    return verbs.binary(b, "Mul", one, gate)


def _pointwise(b: Builder, x: str, width: int) -> str:
    n, c, h, w = b.shapes[x]
    return b.add("Conv", [x, b.weight((width, c, 1, 1), c), b.vector(width)], (n, width, h, w))


def computed_kernel(b: Builder, x: str) -> str:
    """A convolution written as a matrix product of the weight with the pixels."""
    n, c, h, w = b.shapes[x]
    width = b.number(2, WIDEST // 2)
    flat = verbs.reshape(b, x, (n, c, h * w))
    product = verbs.matmul(b, b.weight((width, c), c), flat)
    return verbs.reshape(b, product, (n, width, h, w))
