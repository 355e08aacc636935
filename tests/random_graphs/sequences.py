"""Moves between maps [N, C, H, W] and sequences [N, T, D], and along the tokens."""

from __future__ import annotations

from onnx import TensorProto, helper

from tests.random_graphs import verbs
from tests.random_graphs.builder import LONGEST, TALLEST, Builder
from tests.random_graphs.dense import linear


def flatten(b: Builder, x: str) -> str | None:
    """A map's pixels as tokens: Reshape then Transpose, or the other way round."""
    n, c, h, w = b.shapes[x]
    if h * w > LONGEST:
        return patches(b, x)
    if b.coin():
        return verbs.transpose(b, verbs.reshape(b, x, (n, c, h * w)), [0, 2, 1])
    return verbs.reshape(b, verbs.transpose(b, x, [0, 2, 3, 1]), (n, h * w, c))


def patches(b: Builder, x: str) -> str | None:
    """Patches as tokens: a strided convolution, or a Reshape of patches and a matrix product."""
    n, c, h, w = b.shapes[x]
    if h % 2 or w % 2 or h * w // 4 > LONGEST:
        return None
    width = b.number(2, 12)
    if b.coin():
        inputs = [x, b.weight((width, c, 2, 2), 4 * c), b.vector(width)]
        small = b.add("Conv", inputs, (n, width, h // 2, w // 2), strides=[2, 2])
        return verbs.transpose(b, verbs.reshape(b, small, (n, width, h * w // 4)), [0, 2, 1])
    wide = verbs.reshape(b, x, (n, c, h // 2, 2, w // 2, 2))
    turned = verbs.transpose(b, wide, [0, 2, 4, 3, 5, 1])
    return linear(b, verbs.reshape(b, turned, (n, h * w // 4, 4 * c)), width)


def to_map(b: Builder, x: str) -> str | None:
    """Tokens as pixels; a first one that is too many falls away."""
    t = b.shapes[x][1]
    if t > 2 and t % 2 and b.coin():
        x = verbs.slice_(b, x, 1, 1, t)
    n, t, d = b.shapes[x]
    sides = [side for side in range(1, TALLEST + 1) if t % side == 0 and t // side <= TALLEST]
    if not sides:
        return None
    h = b.choose(sides[::-1])
    if b.coin():
        return verbs.reshape(b, verbs.transpose(b, x, [0, 2, 1]), (n, d, h, t // h))
    return verbs.transpose(b, verbs.reshape(b, x, (n, h, t // h, d)), [0, 3, 1, 2])


def class_token(b: Builder, x: str) -> str | None:
    """One learnt token before the others, expanded to the batch, and positions added."""
    n, t, d = b.shapes[x]
    if t >= LONGEST:
        return None
    token = b.weight((1, 1, d), 1)
    if b.symbolic or b.coin():
        token = b.add("Expand", [token, batch_and(b, x, (1, d))], (n, 1, d))
    else:
        token = verbs.expand(b, token, (n, 1, d))
    return positions(b, verbs.concat(b, [token, x], 1))


def positions(b: Builder, x: str) -> str:
    """Learnt positions added, or not."""
    return verbs.binary(b, "Add", x, b.weight((1, *b.shapes[x][1:]), 1)) if b.coin() else x


def batch_and(b: Builder, x: str, rest: tuple[int, ...]) -> str:
    """[batch of `x`, *rest] for Expand: said outright, or with -1 for what stays, as PyTorch exports `expand`."""
    batch = verbs.unsqueeze(b, verbs.size_at(b, verbs.shape_of(b, x), 0), [0])
    if b.coin():
        return verbs.concat(b, [batch, b.integers(rest)], 0)
    wanted = verbs.concat(b, [batch, b.integers([-1] * len(rest))], 0)
    shape = (1 + len(rest),)
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    ones = b.add("ConstantOfShape", [b.integers(shape)], shape, value=one)
    stays = verbs.binary(b, "Equal", wanted, verbs.binary(b, "Mul", ones, b.integers(-1)))
    return b.add("Where", [stays, ones, wanted], shape)


def zeros_like(b: Builder, x: str) -> str:
    """Numbers of ConstantOfShape added, the shape stored or computed."""
    shape = b.shapes[x]
    number = helper.make_tensor("number", TensorProto.FLOAT, [1], [b.choose((0.0, 0.5))])
    stored = not b.symbolic and b.coin()
    wanted = b.integers(shape) if stored else verbs.shape_of(b, x)
    return verbs.binary(b, "Add", x, b.add("ConstantOfShape", [wanted], shape, value=number))


def pool_tokens(b: Builder, x: str) -> str:
    """One token from all: the mean or maximum, or the first or last one; a sequence of length 1."""
    way = b.number(0, 2)
    if way == 0:
        return verbs.reduce(b, b.choose(("ReduceMean", "ReduceMax", "ReduceSum")), x, [1])
    if way == 1:
        return verbs.unsqueeze(b, verbs.gather(b, x, 1, b.choose((0, b.shapes[x][1] - 1))), [1])
    return verbs.slice_(b, x, 1, 0, 1)


def attend_pool(b: Builder, x: str) -> str:
    """A weighted mean of tokens, with weights computed from them."""
    scores = verbs.transpose(b, linear(b, x, 1), [0, 2, 1])
    return verbs.matmul(b, verbs.softmax(b, scores), x)


def roll(b: Builder, x: str) -> str | None:
    """Tokens moved round by one, or every second one."""
    t = b.shapes[x][1]
    if t < 2:
        return None
    if b.coin():
        return verbs.concat(b, [verbs.slice_(b, x, 1, 1, t), verbs.slice_(b, x, 1, 0, 1)], 1)
    return verbs.slice_(b, x, 1, 0, t, b.choose(verbs.steps(b)))
