"""A hypothesis strategy for valid ONNX models, composed from what the axis rules know.

Every move takes a value [N, C, H, W] that is already there and makes another; whatever nobody reads in the end goes
through a head of its own to a graph output, so that its channels could be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
T = TypeVar("T")

BATCH = 2
WIDEST, TALLEST = 24, 8
OPSETS = (9, 11, 12, 13, 17, 18, 20)
UNARY = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "Abs", "Identity", "Neg")
BINARY = ("Add", "Mul", "Sub", "Max", "Sum", "Mean")


@dataclass
class Builder:
    """The model under construction, and where its choices come from."""

    number: Callable[[int, int], int]
    """An integer of [low, high], chosen by hypothesis or by chance."""
    opset: int
    symbolic: bool
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    vectors: dict[Shape, list[str]] = field(default_factory=dict)
    """Constants by shape, for readers that share one."""
    maps: list[str] = field(default_factory=list)
    """Values [N, C, H, W] that moves start from."""
    count: int = 0

    def choose(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.number(0, len(options) - 1)]

    def coin(self) -> bool:
        """Yes or no."""
        return self.number(0, 1) == 1

    def name(self, stem: str) -> str:
        """A name that nothing has yet."""
        self.count += 1
        return f"{stem}{self.count}"

    def add(self, op_type: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """A node of one output with a known shape."""
        return self.add_many(op_type, inputs, [shape], **attributes)[0]

    def add_many(
        self, op_type: str, inputs: Sequence[str], shapes: Sequence[Sequence[int]], **attributes: Any
    ) -> list[str]:
        """A node of several outputs with known shapes."""
        outputs = [self.name(op_type.lower()) for _ in shapes]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=f"node_{outputs[0]}", **attributes))
        self.shapes.update({output: tuple(shape) for output, shape in zip(outputs, shapes, strict=True)})
        return outputs

    def constant(self, array: Array) -> str:
        """A constant: an initializer, a Constant node's output, or a copy of one through Identity."""
        style = self.number(0, 5)
        if style == 0:
            name = self.name("k")
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
            return name
        name = self.stored(array)
        return self.add("Identity", [name], array.shape) if style == 1 else name

    def stored(self, array: Array) -> str:
        """An initializer."""
        name = self.name("k")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        """A constant of 64-bit integers."""
        return self.constant(np.asarray(numbers, np.int64))

    def weight(self, shape: Shape, fan_in: int) -> str:
        """Random weights that keep the scale; now and then a constant that somebody else reads too."""
        known = self.vectors.setdefault(shape, [])
        if known and self.number(0, 3) == 0:
            return self.choose(known)
        array = (self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        name = self.moved(array) if self.number(0, 5) == 0 else self.constant(array)
        known.append(name)
        return name

    def moved(self, array: Array) -> str:
        """A constant that is stored otherwise, and brought into shape by operators."""
        way = self.number(0, 2)
        if way == 0:
            return self.add("Transpose", [self.constant(array.T)], array.shape)
        if way == 1:
            return self.add("Reshape", [self.constant(array.ravel()), self.integers(array.shape)], array.shape)
        return self.add("Mul", [self.constant(array), self.constant(np.float32(2).reshape(1))], array.shape)

    def positive(self, shape: Shape) -> str:
        """Random variances."""
        return self.constant(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    def batch(self) -> int:
        """How a Reshape may write the batch axis when it's the first one."""
        return 0 if self.symbolic or self.coin() else BATCH

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The finished model."""
        first: str | int = "N" if self.symbolic else BATCH
        _, *rest = self.shapes["x"]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, *rest])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [first, *self.shapes[name][1:]])
                for name in outputs
            ],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


Move = Callable[[Builder, str], str | None]


def divisors(number: int) -> list[int]:
    """The divisors of a number, without 1."""
    return [divisor for divisor in range(2, number + 1) if number % divisor == 0]


# Layers with weights


def convolve(b: Builder, x: str, *, group: int = 1, channels: int | None = None) -> str:
    """A Conv that keeps the extent, or halves it."""
    n, c, h, w = b.shapes[x]
    channels = b.number(2, WIDEST // 2) if channels is None else channels
    kernel, stride = b.choose((1, 3)), b.choose((1, 1, 2))
    inputs = [x, b.weight((channels, c // group, kernel, kernel), c // group * kernel**2)]
    if b.coin():
        inputs.append(b.weight((channels,), 1))
    shape = (n, channels, (h - 1) // stride + 1, (w - 1) // stride + 1)
    return b.add("Conv", inputs, shape, group=group, strides=[stride] * 2, pads=[kernel // 2] * 4)


def grouped(b: Builder, x: str) -> str | None:
    """A grouped Conv."""
    groups = divisors(b.shapes[x][1])
    if not groups:
        return None
    group = b.choose(groups)
    return convolve(b, x, group=group, channels=group * b.number(1, max(1, WIDEST // group)))


def depthwise(b: Builder, x: str) -> str | None:
    """A depthwise Conv, with a multiplier."""
    channels = b.shapes[x][1]
    return (
        convolve(b, x, group=channels, channels=channels * b.number(1, max(1, WIDEST // channels)))
        if channels > 1
        else None
    )


def transposed(b: Builder, x: str) -> str | None:
    """ConvTranspose, plain, grouped or depthwise."""
    n, c, h, w = b.shapes[x]
    if 2 * max(h, w) > TALLEST:
        return None
    group = b.choose([1, *divisors(c)])
    width = b.number(1, max(1, WIDEST // 2 // group))
    inputs = [x, b.weight((c, width, 2, 2), c // group)]
    if b.coin():
        inputs.append(b.weight((group * width,), 1))
    return b.add("ConvTranspose", inputs, (n, group * width, 2 * h, 2 * w), group=group, strides=[2, 2])


def normalise(b: Builder, x: str) -> str:
    """BatchNormalization or InstanceNormalization, with vectors that others may share."""
    shape = b.shapes[x]
    scale, bias = b.weight((shape[1],), 1), b.weight((shape[1],), 1)
    if shape[2] * shape[3] > 4 and b.coin():
        return b.add("InstanceNormalization", [x, scale, bias], shape, epsilon=1e-1)
    return b.add("BatchNormalization", [x, scale, bias, b.weight((shape[1],), 1), b.positive((shape[1],))], shape)


def squeeze_and_excite(b: Builder, x: str) -> str:
    """A gate by broadcasting multiplication."""
    n, c, _, _ = b.shapes[x]
    pooled = b.add("GlobalAveragePool", [x], (n, c, 1, 1))
    hidden = b.number(1, 4)
    squeezed = b.add(
        "Relu", [b.add("Conv", [pooled, b.weight((hidden, c, 1, 1), c)], (n, hidden, 1, 1))], (n, hidden, 1, 1)
    )
    gate = b.add("Conv", [squeezed, b.weight((c, hidden, 1, 1), hidden)], (n, c, 1, 1))
    return b.add("Mul", [x, b.add("Sigmoid", [gate], (n, c, 1, 1))], b.shapes[x])


def dense_last(b: Builder, x: str) -> str:
    """To channels-last, a matrix product there, and back."""
    n, c, h, w = b.shapes[x]
    width = b.number(2, WIDEST // 2)
    last = b.add("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    weight = b.weight((c, width), c)
    if b.coin():
        weight = b.add("Transpose", [b.weight((width, c), c)], (c, width), perm=[1, 0])
    elif b.coin():
        scale = b.weight((width,), 1)
        weight = b.add("Mul", [weight, scale], (c, width))
    product = b.add("MatMul", [last, weight], (n, h, w, width))
    biased = b.add("Add", [product, b.weight(b.choose(((width,), (1, 1, 1, width), (1,))), 1)], (n, h, w, width))
    return b.add("Transpose", [biased], (n, width, h, w), perm=[0, 3, 1, 2])


def gemm(b: Builder, x: str) -> str:
    """Flattened to rows, Gemm there, and back to a map of one pixel."""
    n, c, h, w = b.shapes[x]
    flat = c * h * w
    rows = (
        b.add("Flatten", [x], (n, flat))
        if b.coin()
        else b.add("Reshape", [x, b.integers([b.batch(), b.choose((-1, flat))])], (n, flat))
    )
    width, down = b.number(2, WIDEST // 2), b.number(0, 1)
    weight = b.weight((width, flat) if down else (flat, width), flat)
    product = b.add(
        "Gemm", [rows, weight, b.weight(b.choose(((width,), (1, width), (1,))), 1)], (n, width), transB=down
    )
    return b.add("Reshape", [product, b.integers([b.batch(), b.choose((-1, width)), 1, 1])], (n, width, 1, 1))


def attention(b: Builder, x: str) -> str | None:
    """Two computed matrices multiplied, with heads."""
    n, c, h, w = b.shapes[x]
    heads, size, places = b.number(1, 3), b.number(1, 4), h * w
    flat = b.add("Reshape", [x, b.integers([b.batch(), b.choose((c, 0)), -1])], (n, c, places))
    tokens = b.add("Transpose", [flat], (n, places, c), perm=[0, 2, 1])
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        part = b.add("MatMul", [tokens, b.weight((c, heads * size), c)], (n, places, heads * size))
        split = b.add("Reshape", [part, b.integers([0, 0, heads, b.choose((size, -1))])], (n, places, heads, size))
        shape = b.shapes[split]
        parts.append(b.add("Transpose", [split], [shape[axis] for axis in order], perm=order))
    scores = b.add("MatMul", parts[:2], (n, heads, places, places))
    weights = b.add("Softmax", [scores], (n, heads, places, places), axis=3)
    mixed = b.add("MatMul", [weights, parts[2]], (n, heads, places, size))
    merged = b.add("Transpose", [mixed], (n, places, heads, size), perm=[0, 2, 1, 3])
    joined = b.add("Reshape", [merged, b.integers([0, 0, b.choose((-1, heads * size))])], (n, places, heads * size))
    back = b.add("Transpose", [joined], (n, heads * size, places), perm=[0, 2, 1])
    return b.add(
        "Reshape", [back, b.integers([b.batch(), b.choose((0, -1, heads * size)), h, w])], (n, heads * size, h, w)
    )


# Without weights


def unary(b: Builder, x: str) -> str:
    """One operand."""
    return b.add(b.choose(UNARY), [x], b.shapes[x])


def rectify(b: Builder, x: str) -> str:
    """PRelu, with one slope or one per channel."""
    slope = b.weight(b.choose(((b.shapes[x][1], 1, 1), (1, b.shapes[x][1], 1, 1), (1, 1, 1))), 1)
    return b.add("PRelu", [x, slope], b.shapes[x])


def combine(b: Builder, x: str) -> str:
    """Two values of one shape, or a value and a constant that broadcasts against it."""
    n, c, h, w = b.shapes[x]
    alike = [other for other in b.maps if b.shapes[other] == b.shapes[x]]
    constants = ((c, 1, 1), (1, c, 1, 1), (1,), (h, w), (1, c, h, w))
    other = b.choose(alike) if b.coin() else b.weight(b.choose(constants), 1)
    return b.add(b.choose(BINARY), [x, other] if b.coin() else [other, x], (n, c, h, w))


def concat(b: Builder, x: str) -> str | None:
    """Channels of several values after each other."""
    n, c, h, w = b.shapes[x]
    partners = [other for other in b.maps if b.shapes[other][2:] == (h, w) and b.shapes[other][1] + c <= WIDEST]
    if not partners:
        return None
    pair = [x, b.choose(partners)]
    axis = b.choose((1, -3)) if b.opset >= 11 else 1
    return b.add("Concat", pair, (n, sum(b.shapes[part][1] for part in pair), h, w), axis=axis)


def split(b: Builder, x: str) -> str | None:
    """Channels in two or three pieces; all of them go on."""
    n, c, h, w = b.shapes[x]
    if c < 3:
        return None
    pieces = b.number(2, 3)
    if b.coin() and c % pieces == 0:
        sizes = [c // pieces] * pieces
        attributes: dict[str, Any] = {"num_outputs": pieces} if b.opset >= 18 else {}
        parts = b.add_many("Split", [x], [(n, size, h, w) for size in sizes], axis=1, **attributes)
    else:
        cut = b.number(1, c - 1)
        inputs, attributes = (
            ([x, b.integers([cut, c - cut])], {}) if b.opset >= 13 else ([x], {"split": [cut, c - cut]})
        )
        parts = b.add_many("Split", inputs, [(n, cut, h, w), (n, c - cut, h, w)], axis=1, **attributes)
    b.maps.extend(parts[1:])
    return parts[0]


def slice_(b: Builder, x: str) -> str:
    """A run of channels, or every n-th of them."""
    n, c, h, w = b.shapes[x]
    begin = b.number(0, c - 1)
    end = b.number(begin + 1, c)
    starts, ends = (
        [b.choose((begin, begin - c))],
        [b.choose((end, end - c) if end < c else (c, 2**31 - 1, 2**63 - 1, c + 5))],
    )
    if b.opset < 10:
        return b.add("Slice", [x], (n, end - begin, h, w), starts=starts, ends=ends, axes=[1])
    step = b.choose((1, 1, 2))
    width = len(range(begin, end, step))
    inputs = [x, b.integers(starts), b.integers(ends), b.integers([b.choose((1, -3))])]
    if step != 1 or b.coin():
        inputs.append(b.integers([step]))
    return b.add("Slice", inputs, (n, width, h, w))


def pad(b: Builder, x: str) -> str | None:
    """Channels of zeros or ones before and after."""
    n, c, h, w = b.shapes[x]
    before, after = b.number(0, 3), b.number(0, 3)
    if before + after + c > WIDEST:
        return None
    amounts, shape = [0, before, 0, 0, 0, after, 0, 0], (n, c + before + after, h, w)
    if b.opset < 11:
        return b.add("Pad", [x], shape, pads=amounts, value=1.0)
    if b.opset >= 18 and b.coin():
        return b.add("Pad", [x, b.integers([before, after]), "", b.integers([b.choose((1, -3))])], shape)
    inputs = [x, b.integers(amounts)]
    if b.coin():
        inputs.append(b.constant(np.asarray(1, np.float32)))
    return b.add("Pad", inputs, shape)


def shuffle(b: Builder, x: str) -> str | None:
    """ShuffleNet's channel shuffle."""
    n, c, h, w = b.shapes[x]
    groups = divisors(c)
    if not groups:
        return None
    group = b.choose(groups)
    wide = b.add(
        "Reshape", [x, b.integers([b.batch(), group, b.choose((-1, c // group)), h, w])], (n, group, c // group, h, w)
    )
    swapped = b.add("Transpose", [wide], (n, c // group, group, h, w), perm=[0, 2, 1, 3, 4])
    return b.add("Reshape", [swapped, b.integers([b.batch(), b.choose((-1, c)), h, w])], (n, c, h, w))


def depth_to_space(b: Builder, x: str) -> str | None:
    """Channels to pixels."""
    n, c, h, w = b.shapes[x]
    if c % 4 or 2 * max(h, w) > TALLEST:
        return None
    attributes = {"mode": b.choose(("DCR", "CRD"))} if b.opset >= 11 else {}
    return b.add("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, **attributes)


def space_to_depth(b: Builder, x: str) -> str | None:
    """Pixels to channels."""
    n, c, h, w = b.shapes[x]
    if h % 2 or w % 2 or 4 * c > WIDEST:
        return None
    return b.add("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), blocksize=2)


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
    n, c, h, w = b.shapes[x]
    op_type, axes = b.choose(("ReduceMean", "ReduceMax", "ReduceSum")), b.choose(([2, 3], [-1], [1], [1, 2, 3]))
    shape = [1 if axis in [other % 4 for other in axes] else size for axis, size in enumerate((n, c, h, w))]
    in_input = b.opset >= 18 or (op_type == "ReduceSum" and b.opset >= 13)
    inputs, attributes = ([x, b.integers(axes)], {}) if in_input else ([x], {"axes": axes})
    reduced = b.add(op_type, inputs, shape, keepdims=1, **attributes)
    return b.add("Sub", [x, reduced], (n, c, h, w))


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
    n, c, h, w = b.shapes[x]
    pooled = b.add("GlobalMaxPool", [x], (n, c, 1, 1))
    shape = b.add("Shape", [x], (4,)) if b.coin() else b.integers([1, b.choose((1, c)), h, w])
    return b.add("Expand", [pooled, shape], (n, c, h, w))


def tile(b: Builder, x: str) -> str | None:
    """Channels twice over."""
    n, c, h, w = b.shapes[x]
    return b.add("Tile", [x, b.integers([1, 2, 1, 1])], (n, 2 * c, h, w)) if 2 * c <= WIDEST else None


def from_shape(b: Builder, x: str) -> str:
    """There and back by a Reshape whose sizes come from Shape."""
    n, c, h, w = b.shapes[x]
    shape = b.add("Shape", [x], (4,))
    pieces = []
    for axis in (0, 1):
        picked = b.add("Gather", [shape, b.constant(np.asarray(axis, np.int64))], ())
        axes = ([picked, b.integers([0])], {}) if b.opset >= 13 else ([picked], {"axes": [0]})
        pieces.append(b.add("Unsqueeze", axes[0], (1,), **axes[1]))
    wanted = b.add("Concat", [*pieces, b.integers([-1])], (3,), axis=0)
    flat = b.add("Reshape", [x, wanted], (n, c, h * w))
    if b.coin():
        pieces[1] = b.integers([c])
    return b.add("Reshape", [flat, b.add("Concat", [*pieces, b.integers([h, w])], (4,), axis=0)], (n, c, h, w))


def squeeze(b: Builder, x: str) -> str:
    """Pooled, squeezed to a row, and unsqueezed again."""
    n, c, h, w = b.shapes[x]
    pooled = b.add("GlobalAveragePool", [x], (n, c, 1, 1)) if h * w > 1 else x
    inputs, attributes = ([b.integers([2, 3])], {}) if b.opset >= 13 else ([], {"axes": [2, 3]})
    row = (
        b.add("Squeeze", [pooled], (n, c))
        if c > 1 and not b.symbolic and b.coin()
        else b.add("Squeeze", [pooled, *inputs], (n, c), **attributes)
    )
    return b.add("Unsqueeze", [row, *inputs], (n, c, 1, 1), **attributes)


def across(b: Builder, x: str) -> str:
    """Operators that look across channels."""
    if b.coin():
        return b.add("LRN", [x], b.shapes[x], size=3)
    return b.add("Softmax", [x], b.shapes[x], axis=b.choose((1, 2, 3)))


MOVES: tuple[Move, ...] = (
    convolve, convolve, grouped, depthwise, transposed, normalise, squeeze_and_excite, dense_last, gemm, attention,
    unary, rectify, combine, combine, concat, concat, split, slice_, pad, shuffle, depth_to_space, space_to_depth, pool,
    reduce, resize, expand, tile, from_shape, squeeze, across,
)  # fmt: skip


@st.composite
def random_models(draw: Callable[[st.SearchStrategy[Any]], Any], most: int = 12) -> onnx.ModelProto:
    """A model of up to `most` moves from input `x` [2 or N, C, 8, 8]."""
    return build(lambda low, high: int(draw(st.integers(low, high))), most)


def build(number: Callable[[int, int], int], most: int) -> onnx.ModelProto:
    """The model that a source of integers leads to."""
    b = Builder(number, OPSETS[number(0, len(OPSETS) - 1)], number(0, 1) == 1, np.random.default_rng(number(0, 2**31)))
    b.shapes["x"] = (BATCH, b.number(1, 4), TALLEST, TALLEST)
    b.maps.append(convolve(b, "x"))
    for _ in range(b.number(1, most)):
        move = b.choose(MOVES)
        made = move(b, b.choose(b.maps[-4:]))
        if made is not None:
            b.maps.append(made)
    read = {name for node in b.nodes for name in node.input}
    return b.model([_head(b, name) for name in b.maps if name not in read])


def _head(b: Builder, x: str) -> str:
    """One pixel more or less, three classes."""
    n, c, h, w = b.shapes[x]
    if b.coin():
        return b.add("Conv", [x, b.weight((3, c, 1, 1), c)], (n, 3, h, w))
    flat = b.add("Flatten", [x], (n, c * h * w))
    return b.add("Gemm", [flat, b.weight((c * h * w, 3), c * h * w), b.weight((3,), 1)], (n, 3))
