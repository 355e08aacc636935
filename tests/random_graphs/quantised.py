"""Weights and values that are stored as small integers, between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.random_graphs.builder import WIDEST, Array, Builder, Shape

SCALE = 0.05


def weight(b: Builder, shape: Shape, axis: int) -> str:
    """Integers read through DequantizeLinear, with one scale or one per position of an axis; zero points or none."""
    fan_in = int(np.prod(shape)) // shape[axis]
    if b.opset < 10:
        return b.weight(shape, fan_in)
    kind = b.choose((np.int8, np.uint8))
    per_axis = b.opset >= 13 and b.coin()
    size: Shape = (shape[axis],) if per_axis else ()
    step = np.asarray(b.random.uniform(0.5, 1.5, size) / np.sqrt(fan_in) / 50, np.float32)
    middle = 128 if kind is np.uint8 else 0
    zero = np.asarray(middle + b.random.integers(-9, 10, size), kind)
    array = np.clip(np.rint(b.random.standard_normal(shape) * 40) + middle, middle - 127, middle + 127).astype(kind)
    return _dequantised(b, array, step, zero if kind is np.uint8 or b.coin() else None, axis if per_axis else None)


def bias(b: Builder, size: int) -> str:
    """32-bit integers read through DequantizeLinear."""
    per_axis = b.opset >= 13 and b.coin()
    step = np.asarray(b.random.uniform(0.5, 1.5, (size,) if per_axis else ()) / 1000, np.float32)
    array = np.rint(b.random.standard_normal(size) * 1000).astype(np.int32)
    return _dequantised(b, array, step, None, 0 if per_axis else None)


def _dequantised(b: Builder, array: Array, step: Array, zero: Array | None, axis: int | None) -> str:
    inputs = [b.constant(array), b.constant(step)]
    if zero is not None:
        inputs.append(b.constant(zero))
    attributes = {} if axis is None else {"axis": axis}
    return b.add("DequantizeLinear", inputs, array.shape, **attributes)


def rounded(b: Builder, x: str) -> str | None:
    """A value through 8 bits, as quantised graphs have it between layers."""
    if b.opset < 10:
        return None
    kind, zero = b.choose(((np.int8, 0), (np.uint8, 128), (np.uint8, 0), (np.int8, -5)))
    step, middle = b.constant(np.asarray(SCALE, np.float32)), b.constant(np.asarray(zero, kind))
    small = b.add("QuantizeLinear", [x, step, middle], b.shapes[x])
    return b.add("DequantizeLinear", [small, step, middle], b.shapes[x])


def whole(b: Builder, x: str) -> str | None:
    """Products of small integers: MatMulInteger on channels at the end, or QLinearConv, per channel or not."""
    if b.opset < 10:
        return None
    rank, width = len(b.shapes[x]), b.number(2, WIDEST // 2)
    step = b.constant(np.asarray(SCALE, np.float32))
    middle = b.constant(np.asarray(128, np.uint8))
    small = b.add("QuantizeLinear", [x, step, middle], b.shapes[x])
    depth = b.shapes[x][1 if rank == 4 else 2]
    filters = b.random.integers(-50, 51, (width, depth)).astype(np.int8)
    if rank == 4:
        shape = (b.shapes[x][0], width, *b.shapes[x][2:])
        per_channel = b.coin()
        steps = np.asarray(b.random.uniform(0.5, 1.5, width) * SCALE, np.float32)
        stored = [
            b.constant(filters.reshape(width, depth, 1, 1)),
            b.constant(steps) if per_channel else step,
            b.constant(np.zeros(width if per_channel else (), np.int8)),
        ]
        made = b.add(
            "QLinearConv", [small, step, middle, *stored, b.constant(np.asarray(0.3, np.float32)), middle], shape
        )
        return b.add("DequantizeLinear", [made, step, middle], shape)
    shape = (*b.shapes[x][:2], width)
    product = b.add("MatMulInteger", [small, b.constant(filters.T.copy()), middle], shape)
    return b.add("Mul", [b.add("Cast", [product], shape, to=TensorProto.FLOAT), b.scalar(SCALE / 50)], shape)


def convolve(b: Builder, x: str) -> str | None:
    """A quantised Conv: weights per channel, a bias of 32 bits, rounded before and after, or only the weights."""
    n, c, h, w = b.shapes[x]
    if b.opset < 10:
        return None
    width = b.number(2, WIDEST // 2)
    group = b.choose([group for group in (1, c) if width % group == 0])
    inputs = [(b.rarely() and rounded(b, x)) or x, weight(b, (width, c // group, 1, 1), 0)]
    if b.coin():
        inputs.append(bias(b, width))
    made = b.add("Conv", inputs, (n, width, h, w), group=group)
    return (b.rarely() and rounded(b, made)) or made
