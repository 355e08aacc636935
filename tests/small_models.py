"""Small networks from ONNX text, with weights of a size that keeps signals alive, and data for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from darwinc.channels import Channels, Mask
from tests.surgery import dead_positions, parse

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

CLASSIFIER = """(float[N,3,8,8] x, float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] scale,
    float[16] shift, float[16] mean, float[16] var, float[10,16] w3, float[10] b3) => (float[N,10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(r, w2)
    n = BatchNormalization(c, scale, shift, mean, var)
    s = Relu(n)
    g = GlobalAveragePool(s)
    f = Flatten(g)
    y = Gemm<transB = 1>(f, w3, b3)
}
"""
"""Convolutions with a bias and with BatchNormalization, and a classifier."""

PLAIN = """(float[N,3,8,8] x, float[16,3,3,3] w1, float[16] b1, float[4,16,3,3] w2) => (float[N,4,4,4] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    y = Conv(r, w2)
}
"""
"""Two convolutions, no BatchNormalization, and an image for an answer."""

IMAGES = """(float[N,2,4,4] x, float[6,2,1,1] w1, float[3,6,1,1] w2) => (float[N,3,4,4] y) {
    h = Conv(x, w1)
    y = Conv(h, w2)
}
"""
"""Two convolutions without taps and nothing between them: linear in its input."""


def build(
    text: str,
    *,
    seed: int = 0,
    opset: int = 17,
    ir_version: int = 8,
    keep_inputs: bool = False,
    given: Arrays | None = None,
) -> onnx.ModelProto:
    """The graph with random weights: matrices and filters of variance 2 / inputs, scales and variances near 1.

    `given` are the values of some constants.
    """
    model = parse(text, opset, ir_version, keep_inputs=keep_inputs)
    random = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        old = numpy_helper.to_array(tensor)
        new = (given or {}).get(tensor.name, _weights(tensor.name, old.shape, random))
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(new, old.dtype), tensor.name))
    return model


def _weights(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if len(shape) > 1:
        inputs = shape[0] if name.startswith("m") else int(np.prod(shape[1:]))
        return np.asarray(random.standard_normal(shape) * np.sqrt(2 / inputs))
    if name.startswith(("var", "scale")):
        return random.uniform(0.5, 1.5, shape)
    return np.asarray(0.1 * random.standard_normal(shape))


def save(model: onnx.ModelProto, path: Path) -> Path:
    """The model in a file."""
    onnx.save(model, path)
    return path


def images(count: int, *sizes: int, seed: int = 0) -> Array:
    """Normal noise [N, *sizes] in float32."""
    return np.random.default_rng(seed).standard_normal((count, *sizes)).astype(np.float32)


def split(x: Array, parts: int) -> list[dict[str, Array]]:
    """Images as feeds of an input `x`."""
    return [{"x": part} for part in np.array_split(x, parts)]


def save_data(path: Path, arrays: Arrays) -> Path:
    """An .npz file."""
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def floats_in(model: onnx.ModelProto) -> int:
    """Elements of all floating initializers, counted without darwinc."""
    return sum(array.size for array in stored(model).values() if array.dtype.kind == "f")


def dead(channels: Channels, removed: Mapping[str, list[int]]) -> Mask:
    """Components that go, by positions of constants (`tests.surgery.dead_positions`)."""
    return dead_positions(channels, removed)
