"""Moves without weights that shift channels about, on maps [N, C, H, W] and sequences [N, T, D]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.random_graphs import verbs
from tests.random_graphs.builder import TALLEST, WIDEST, Builder


def channel_axis(b: Builder, x: str) -> int:
    """Where the channels are."""
    return 1 if len(b.shapes[x]) == 4 else 2


def channels(b: Builder, x: str) -> int:
    """How many there are."""
    return b.shapes[x][channel_axis(b, x)]


def widened(b: Builder, x: str, width: int) -> tuple[int, ...]:
    """The shape of `x` with other channels."""
    shape = list(b.shapes[x])
    shape[channel_axis(b, x)] = width
    return tuple(shape)


def concat(b: Builder, x: str) -> str | None:
    """Channels of several values after each other."""
    width = channels(b, x)
    partners = [
        other
        for other in b.values
        if len(b.shapes[other]) == len(b.shapes[x])
        and channels(b, other) + width <= WIDEST
        and widened(b, other, 0) == widened(b, x, 0)
    ]
    if not partners:
        return None
    parts = [x, b.choose(partners)]
    if b.rarely():
        constant = b.constant(b.random.standard_normal(widened(b, x, 2)).astype(np.float32))
        parts.append(constant if not b.symbolic else x)
    return verbs.concat(b, parts, channel_axis(b, x))


def split(b: Builder, x: str) -> str | None:
    """Channels in two or three pieces; all of them go on."""
    width = channels(b, x)
    if width < 3:
        return None
    pieces, cut = b.number(2, 3), b.number(1, width - 1)
    sizes = [width // pieces] * pieces if width % pieces == 0 and b.coin() else [cut, width - cut]
    first, *rest = verbs.split(b, x, channel_axis(b, x), sizes)
    b.values.extend(rest)
    return first


def shuffled_halves(b: Builder, x: str) -> str | None:
    """ShuffleNetV2: half of the channels stays as it is, the other half is worked on, then both are shuffled."""
    width = channels(b, x)
    if width % 2 or width < 4:
        return None
    one, two = verbs.split(b, x, channel_axis(b, x), [width // 2] * 2)
    worked = verbs.unary(b, b.choose(("Relu", "Sigmoid")), two)
    return _interleave(b, verbs.concat(b, [one, worked], channel_axis(b, x)), 2)


def slice_(b: Builder, x: str) -> str:
    """A run of channels, or every n-th of them."""
    width = channels(b, x)
    begin = b.number(0, width - 1)
    return verbs.slice_(b, x, channel_axis(b, x), begin, b.number(begin + 1, width), b.choose(verbs.steps(b)))


def reverse(b: Builder, x: str) -> str | None:
    """Channels from last to first."""
    width, axis = channels(b, x), channel_axis(b, x)
    if b.opset < 10:
        return None
    inputs = [x, *(b.integers([number]) for number in (-1, -(2**31), axis, -1))]
    return b.add("Slice", inputs, widened(b, x, width))


def pick(b: Builder, x: str) -> str:
    """Gather with constant indices: a permutation, a subset, repeated ones, or a single one."""
    width, axis = channels(b, x), channel_axis(b, x)
    order = [int(place) for place in b.random.permutation(width)]
    way = b.choose(("permuted", "subset", "repeated", "single"))
    if way == "single":
        return verbs.unsqueeze(b, verbs.gather(b, x, axis, b.number(0, width - 1)), [axis])
    if way == "subset":
        order = order[: b.number(1, width)]
    elif way == "repeated":
        order = [int(place) for place in b.random.integers(0, width, b.number(1, min(WIDEST, 2 * width)))]
    return verbs.gather(b, x, axis, order)


def pad(b: Builder, x: str) -> str | None:
    """Channels of zeros or ones before and after."""
    before, after = b.number(0, 3), b.number(0, 3)
    width, axis, rank = channels(b, x), channel_axis(b, x), len(b.shapes[x])
    if before + after + width > WIDEST:
        return None
    shape, amounts = widened(b, x, before + after + width), [0] * (2 * rank)
    amounts[axis], amounts[axis + rank] = before, after
    if b.opset < 11:
        return b.add("Pad", [x], shape, pads=amounts, value=b.choose((0.0, 1.0)))
    if b.opset >= 18 and b.coin():
        return b.add("Pad", [x, b.integers([before, after]), "", b.integers([b.choose((axis, axis - rank))])], shape)
    inputs = [x, b.integers(amounts)]
    if b.coin():
        inputs.append(b.constant(np.asarray(1, np.float32)))
    return b.add("Pad", inputs, shape)


def shortcut(b: Builder, x: str) -> str | None:
    """Option A of ResNets: every second pixel, zero channels around, and a branch of that many channels added."""
    n, c, h, w = b.shapes[x]
    around = b.number(1, 4)
    if c + 2 * around > WIDEST or h % 2 or w % 2 or b.opset < 10:
        return None
    small = verbs.slice_(b, verbs.slice_(b, x, 2, 0, h, 2), 3, 0, w, 2)
    shape, amounts = (n, c + 2 * around, h // 2, w // 2), [0, around, 0, 0, 0, around, 0, 0]
    padded = (
        b.add("Pad", [small], shape, pads=amounts)
        if b.opset < 11
        else b.add("Pad", [small, b.integers(amounts)], shape)
    )
    branch = b.add("Conv", [x, b.weight((shape[1], c, 2, 2), 4 * c)], shape, strides=[2, 2])
    return verbs.binary(b, "Add", padded, branch)


def shuffle(b: Builder, x: str) -> str | None:
    """ShuffleNet's channel shuffle, on either kind of value."""
    groups = verbs.divisors(channels(b, x))
    return _interleave(b, x, b.choose(groups)) if groups else None


def _interleave(b: Builder, x: str, group: int) -> str:
    shape, axis, width = b.shapes[x], channel_axis(b, x), channels(b, x)
    wide = verbs.reshape(b, x, (*shape[:axis], group, width // group, *shape[axis + 1 :]))
    order = list(range(len(shape) + 1))
    order[axis], order[axis + 1] = order[axis + 1], order[axis]
    return verbs.reshape(b, verbs.transpose(b, wide, order), shape)


def depth_to_space(b: Builder, x: str) -> str | None:
    """Channels to pixels, by the operator or by hand."""
    n, c, h, w = b.shapes[x]
    if c % 4 or 2 * max(h, w) > TALLEST:
        return None
    if b.coin():
        attributes = {"mode": b.choose(("DCR", "CRD"))} if b.opset >= 11 else {}
        return b.add("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, **attributes)
    first = b.coin()
    wide = verbs.reshape(b, x, (n, c // 4, 2, 2, h, w) if first else (n, 2, 2, c // 4, h, w))
    mixed = verbs.transpose(b, wide, [0, 1, 4, 2, 5, 3] if first else [0, 3, 4, 1, 5, 2])
    return verbs.reshape(b, mixed, (n, c // 4, 2 * h, 2 * w))


def space_to_depth(b: Builder, x: str) -> str | None:
    """Pixels to channels: by the operator, by hand, or by strided slices as in YOLO's Focus."""
    n, c, h, w = b.shapes[x]
    if h % 2 or w % 2 or 4 * c > WIDEST:
        return None
    way = b.choose(("operator", "reshape", "slices") if b.opset >= 10 else ("operator", "reshape"))
    if way == "operator":
        return b.add("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), blocksize=2)
    if way == "reshape":
        wide = verbs.reshape(b, x, (n, c, h // 2, 2, w // 2, 2))
        mixed = verbs.transpose(b, wide, b.choose(([0, 1, 3, 5, 2, 4], [0, 3, 5, 1, 2, 4])))
        return verbs.reshape(b, mixed, (n, 4 * c, h // 2, w // 2))
    rows = [verbs.slice_(b, x, 2, start, h, 2) for start in (0, 1)]
    return verbs.concat(b, [verbs.slice_(b, row, 3, start, w, 2) for start in (0, 1) for row in rows], 1)


def merge_patches(b: Builder, x: str) -> str | None:
    """Swin: four neighbours' channels after each other, channels last, and a matrix product."""
    _, c, h, w = b.shapes[x]
    if h % 2 or w % 2 or 4 * c > 2 * WIDEST or b.opset < 10:
        return None
    last = verbs.transpose(b, x, [0, 2, 3, 1])
    rows = [verbs.slice_(b, last, 1, start, h, 2) for start in (0, 1)]
    joined = verbs.concat(b, [verbs.slice_(b, row, 2, start, w, 2) for start in (0, 1) for row in rows], 3)
    width = b.number(2, WIDEST // 2)
    return verbs.transpose(b, verbs.matmul(b, joined, b.weight((4 * c, width), 4 * c)), [0, 3, 1, 2])


def pool(b: Builder, x: str) -> str | None:
    """Pixels fewer."""
    n, c, h, w = b.shapes[x]
    if min(h, w) < 2:
        return None
    if b.coin():
        return b.add(b.choose(("GlobalAveragePool", "GlobalMaxPool")), [x], (n, c, 1, 1))
    return b.add(b.choose(("AveragePool", "MaxPool")), [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])


def reduce(b: Builder, x: str) -> str:
    """Reduced over pixels or channels, and broadcast back."""
    axes: Sequence[int] = b.choose(([2, 3], [-1], [1], [1, 2, 3]) if len(b.shapes[x]) == 4 else ([1], [-1], [1, 2]))
    return verbs.binary(b, "Sub", x, verbs.reduce(b, b.choose(("ReduceMean", "ReduceMax", "ReduceSum")), x, axes))


def resize(b: Builder, x: str) -> str | None:
    """Twice as many pixels."""
    n, c, h, w = b.shapes[x]
    if 2 * max(h, w) > TALLEST:
        return None
    shape, scales = (n, c, 2 * h, 2 * w), b.constant(np.asarray([1, 1, 2, 2], np.float32))
    if b.opset < 10:
        return b.add("Upsample", [x, scales], shape, mode="nearest")
    nothing = b.stored(np.zeros(0, np.float32))
    if b.symbolic or b.coin():
        return b.add("Resize", [x, nothing, scales] if b.opset >= 11 else [x, scales], shape, mode="nearest")
    return b.add("Resize", [x, nothing, nothing, b.integers(shape)], shape, mode="nearest") if b.opset >= 11 else None


def expand(b: Builder, x: str) -> str:
    """Pooled, and spread out again by a stored or a computed shape."""
    if len(b.shapes[x]) == 3:
        return verbs.expand(b, verbs.reduce(b, "ReduceMax", x, [1]), b.shapes[x], like=x)
    n, c, _, _ = b.shapes[x]
    return verbs.expand(b, b.add("GlobalMaxPool", [x], (n, c, 1, 1)), b.shapes[x], like=x)


def tile(b: Builder, x: str) -> str | None:
    """Channels twice over."""
    shape, axis = b.shapes[x], channel_axis(b, x)
    if 2 * channels(b, x) > WIDEST:
        return None
    times = [2 if other == axis else 1 for other in range(len(shape))]
    return b.add("Tile", [x, b.integers(times)], widened(b, x, 2 * channels(b, x)))


def repeat(b: Builder, x: str) -> str | None:
    """Each channel twice, or all channels twice over, through a new axis and Expand."""
    shape, axis, width = b.shapes[x], channel_axis(b, x), channels(b, x)
    if 2 * width > WIDEST:
        return None
    place = axis + b.number(0, 1)
    new = verbs.unsqueeze(b, x, [place])
    spread = verbs.expand(b, new, (*shape[:place], 2, *shape[place:]))
    return verbs.reshape(b, spread, widened(b, x, 2 * width))


def squeeze(b: Builder, x: str) -> str:
    """Pooled, squeezed to a row, and unsqueezed again."""
    n, c, h, w = b.shapes[x]
    pooled = b.add("GlobalAveragePool", [x], (n, c, 1, 1)) if h * w > 1 else x
    if c > 1 and not b.symbolic and b.coin():
        return verbs.unsqueeze(b, b.add("Squeeze", [pooled], (n, c)), [2, 3])
    return verbs.unsqueeze(b, verbs.squeeze(b, pooled, [2, 3]), [2, 3])


def channels_last(b: Builder, x: str) -> str:
    """An operator or two in NHWC, between Transposes."""
    last = verbs.transpose(b, x, [0, 2, 3, 1])
    n, h, w, c = b.shapes[last]
    for _ in range(b.number(1, 2)):
        way = b.number(0, 3)
        if way == 0:
            last = verbs.unary(b, "Relu", last)
        elif way == 1:
            last = verbs.binary(b, "Mul", last, b.vector(c))
        elif way == 2:
            last = verbs.binary(b, "Sub", last, verbs.reduce(b, "ReduceMean", last, [1, 2]))
        else:
            last = verbs.reshape(b, verbs.reshape(b, last, (n, h * w, c)), (n, h, w, c))
    return verbs.transpose(b, last, [0, 3, 1, 2])


def there_and_back(b: Builder, x: str) -> str:
    """Pixels in one axis, or tokens in two, by Reshapes whose sizes are stored or computed."""
    shape = b.shapes[x]
    if len(shape) == 4:
        n, c, h, w = shape
        return verbs.reshape(b, verbs.reshape(b, x, (n, c, h * w)), shape)
    n, t, d = shape
    return verbs.reshape(b, verbs.reshape(b, x, (n * t, d)), shape)
