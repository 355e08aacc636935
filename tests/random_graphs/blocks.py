"""A width as blocks x positions, with steps that go block by block, and steps that don't: sums, products, orders."""

from __future__ import annotations

from collections.abc import Callable

from tests.random_graphs import verbs
from tests.random_graphs.builder import Builder
from tests.random_graphs.dense import linear

Step = Callable[[Builder, str, str], str]
"""Takes [N, T, blocks, positions] and another one like it to a third."""


def mix(b: Builder, x: str) -> str:
    """Projections [N, T, blocks, positions], several steps, and a projection back."""
    n, t, d = b.shapes[x]
    blocks, size = b.number(2, 3), b.choose((2, 3, 4, 6))

    def projected() -> str:
        return verbs.reshape(b, linear(b, x, blocks * size), (n, t, blocks, size))

    value, other = projected(), projected()
    for _ in range(b.number(1, 3)):
        value = b.choose(STEPS)(b, value, value if b.rarely() else other)
    if b.rarely():
        value = verbs.transpose(b, value, [0, 1, 3, 2])
    flat = verbs.reshape(b, value, (n, t, blocks * size))
    made = linear(b, flat, d)
    if not b.rarely():
        return made
    picked = b.random.permutation(blocks * size)[: b.number(2, blocks * size)].tolist()
    return verbs.binary(b, "Add", made, linear(b, verbs.gather(b, flat, 2, picked), d))


def _smooth(b: Builder, x: str, y: str) -> str:
    del y
    return verbs.unary(b, b.choose(("Relu", "Tanh", "Sigmoid", "Softplus")), x)


def _combine(b: Builder, x: str, y: str) -> str:
    return verbs.binary(b, b.choose(("Add", "Sub", "Mul")), x, y)


def _scale(b: Builder, x: str, y: str) -> str:
    """By position, by block, or by both."""
    del y
    blocks, size = b.shapes[x][2:]
    return verbs.binary(b, "Mul", x, b.weight(b.choose(((size,), (blocks, 1), (blocks, size))), 1))


def _by_a_sum(b: Builder, x: str, y: str) -> str:
    """Over positions or over blocks; and spread out again."""
    axis = b.choose((2, 3))
    return verbs.binary(b, "Mul", x, verbs.unary(b, "Tanh", verbs.reduce(b, "ReduceSum", y, [axis])))


def _unit(b: Builder, x: str, y: str) -> str:
    """To unit length, along positions or along blocks."""
    del y
    if b.coin():
        return verbs.unary(b, "LpNormalization", x, axis=b.choose((2, 3, -1, -2)), p=2)
    length = verbs.reduce(b, "ReduceL2", x, [b.choose((2, 3))])
    return verbs.binary(b, "Div", x, verbs.binary(b, "Add", length, b.scalar(0.5)))


def _running(b: Builder, x: str, y: str) -> str:
    del y
    if b.opset < 11:
        return x
    return b.add("CumSum", [x, b.integers(b.choose((1, 2, 3)))], b.shapes[x])


def _across_blocks(b: Builder, x: str, y: str) -> str:
    """Blocks look at each other: [blocks, blocks] from sums over positions, or [positions, positions] over blocks."""
    turned = verbs.transpose(b, y, [0, 1, 3, 2])
    if b.coin():
        return verbs.matmul(b, verbs.matmul(b, x, turned), y)
    return verbs.matmul(b, x, verbs.unary(b, "Tanh", verbs.matmul(b, turned, y)))


def _over_tokens(b: Builder, x: str, y: str) -> str:
    """Attention without a softmax, or with one, block by block or position by position."""
    order = b.choose(([0, 2, 1, 3], [0, 3, 1, 2]))
    one, two = verbs.transpose(b, x, order), verbs.transpose(b, y, order)
    scores = verbs.matmul(b, one, verbs.transpose(b, two, [0, 1, 3, 2]))
    back = [0, 2, 1, 3] if order[1] == 2 else [0, 2, 3, 1]
    return verbs.transpose(b, verbs.matmul(b, verbs.softmax(b, scores) if b.coin() else scores, two), back)


def _pairs(b: Builder, x: str, y: str) -> str:
    """Every block times every block, summed over one of them."""
    product = verbs.binary(b, "Mul", verbs.unsqueeze(b, x, [3]), verbs.unsqueeze(b, y, [2]))
    return verbs.reduce(b, "ReduceSum", product, [3], keep=False)


def _moved(b: Builder, x: str, y: str) -> str:
    """Blocks or positions rolled, turned round or picked in another order; added to what was there, or not."""
    axis = b.choose((2, 3))
    size, way = b.shapes[x][axis], b.number(0, 2)
    if way == 0:
        first = b.number(1, size - 1)
        made = verbs.concat(b, [verbs.slice_(b, x, axis, first, size), verbs.slice_(b, x, axis, 0, first)], axis)
    elif way == 1:
        made = verbs.gather(b, x, axis, b.random.permutation(size).tolist())
    else:
        made = verbs.gather(b, x, axis, list(range(size))[::-1])
    return verbs.binary(b, "Add", made, y) if b.coin() else made


def _inner(b: Builder, x: str, y: str) -> str:
    """What lies between the first and the last position, by itself, and all together again."""
    axis = b.choose((2, 3))
    size = b.shapes[x][axis]
    if size < 3:
        return _combine(b, x, y)
    middle = verbs.unary(b, "Tanh", verbs.slice_(b, x, axis, 1, size - 1))
    ends = verbs.slice_(b, y, axis, 0, 1), verbs.slice_(b, y, axis, size - 1, size)
    return verbs.concat(b, [ends[0], middle, ends[1]], axis)


def _through_another_split(b: Builder, x: str, y: str) -> str:
    """The same width as other blocks, for one step."""
    n, t, blocks, size = b.shapes[x]
    count = b.choose(verbs.divisors(blocks * size))
    wide = verbs.reshape(b, x, (n, t, count, blocks * size // count))
    again = _scale(b, wide, wide) if b.coin() else _by_a_sum(b, wide, wide)
    back = verbs.reshape(b, again, (n, t, blocks, size))
    return verbs.binary(b, "Add", back, y) if b.coin() else back


def _turned(b: Builder, x: str, y: str) -> str:
    """Merged the other way round: positions slow, blocks fast; through a layer of its own."""
    n, t, blocks, size = b.shapes[x]
    flat = verbs.reshape(b, verbs.transpose(b, x, [0, 1, 3, 2]), (n, t, size * blocks))
    made = verbs.reshape(b, linear(b, flat, blocks * size), (n, t, blocks, size))
    return verbs.binary(b, "Add", made, y) if b.coin() else made


STEPS: tuple[Step, ...] = (
    _smooth, _combine, _combine, _scale, _by_a_sum, _unit, _running, _across_blocks, _over_tokens, _over_tokens, _pairs,
    _moved, _moved, _inner, _through_another_split, _turned,
)  # fmt: skip
