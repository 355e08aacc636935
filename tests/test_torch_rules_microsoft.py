"""Torch rules of ONNX Runtime's own operators, but attention and quantized ones. Some have kernels for CUDA alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.operator_cases import WIDE, X3, X4, Array, Case, check, ints, noise, scalar, ways

SEQUENCE = noise(2, 5, 8)


def gelu(x: Array) -> Array:
    out: Array = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)).astype(np.float32)) / 2
    return out


def softmax(x: Array, *axes: int) -> Array:
    powers = np.exp(x)
    total: Array = powers / powers.sum(axes, keepdims=True)
    return total


ELEMENTWISE = [
    Case("com.microsoft::Gelu", [WIDE]),
    Case("com.microsoft::QuickGelu", [WIDE]),
    Case("com.microsoft::QuickGelu", [WIDE], {"alpha": 1.0}),
    Case("com.microsoft::FastGelu", [WIDE]),
    Case("com.microsoft::FastGelu", [SEQUENCE, noise(8)]),
    Case("com.microsoft::BiasGelu", [SEQUENCE, noise(8)]),
    Case(
        "com.microsoft::BiasSplitGelu",
        [SEQUENCE, noise(8)],
        closed=lambda x, b: ((x + b)[..., :4] * gelu((x + b)[..., 4:]),),
    ),
    Case(
        "com.microsoft::BiasAdd",
        [SEQUENCE, noise(8), noise(2, 5, 8, seed=1)],
        closed=lambda x, b, skip: (x + b + skip,),
    ),
    Case(
        "com.microsoft::BiasSoftmax",
        [X4, noise(2, 1, 1, 6)],
        {"axis": 3, "is_inner_broadcast": 1},
        closed=lambda x, b: (softmax(x + b, 3),),
    ),
    Case(
        "com.microsoft::BiasSoftmax",
        [X4, noise(2, 7, 6)],
        {"axis": 2, "is_inner_broadcast": 1},
        closed=lambda x, b: (softmax(x + b[:, None], 2, 3),),
    ),
    Case(
        "com.microsoft::BiasSoftmax",
        [X4, noise(7, 6)],
        {"axis": 2, "is_inner_broadcast": 0},
        closed=lambda x, b: (softmax(x + b, 2, 3),),
    ),
    Case("com.microsoft::ExpandDims", [X3, np.array(1, np.int32)]),
    Case("com.microsoft::Pad", [X3, ints(0, 1, 2, 1, 0, 3), scalar(0.5)]),
    Case("com.microsoft::Range", [scalar(1.0), scalar(3.1), scalar(0.5)]),
    Case("com.microsoft::Range", [scalar(1.0), scalar(4.5)]),
    Case("com.microsoft::Trilu", [X3, np.array(1, np.int64)]),
]


def convolved(x: Array, weight: Array) -> Array:
    """Of [N, H, W, C] with [M, C, h, w]."""
    views = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (1, 2))
    out: Array = np.einsum("nijchw,mchw->nijm", views, weight)
    return out


PRODUCTS = [
    *(
        Case("com.microsoft::FusedConv", [X4, noise(6, 4, 3, 3), noise(6)], {"activation": name, **more})
        for name, more in (
            ("Relu", {"pads": [1, 1, 1, 1]}),
            ("Tanh", {}),
            ("Sigmoid", {}),
            ("LeakyRelu", {"activation_params": [0.3]}),
            ("Clip", {"activation_params": [0.0, 6.0], "strides": [2, 1]}),
            ("HardSigmoid", {"activation_params": [0.1, 0.4]}),
        )
    ),
    Case("com.microsoft::FusedConv", [X4, noise(6, 4, 3, 3), None, noise(2, 6, 5, 4)], {"activation": "Relu"}),
    Case(
        "com.microsoft::NhwcFusedConv",
        [noise(2, 7, 6, 4), noise(6, 4, 3, 3), noise(6), noise(2, 5, 4, 6)],
        {"activation": "Relu"},
        closed=lambda x, w, b, z: (np.maximum(convolved(x, w) + b + z, 0),),
    ),
    Case(
        "com.microsoft::NhwcConv",
        [noise(2, 7, 6, 4), noise(6, 4, 3, 3), noise(6)],
        closed=lambda x, w, b: (convolved(x, w) + b,),
    ),
    Case("com.microsoft::NhwcMaxPool", [noise(2, 6, 5, 3, low=-99, high=99).astype(np.int8)], {"kernel_shape": [2, 3]}),
    *(
        Case(
            "com.microsoft::FusedGemm", [noise(3, 4), noise(5, 4), noise(5)], {"transB": 1, "activation": name, **more}
        )
        for name, more in (
            ("Relu", {}),
            ("Tanh", {"alpha": 0.5}),
            ("LeakyRelu", {"activation_alpha": 0.3}),
            ("HardSigmoid", {"activation_alpha": 0.1, "activation_beta": 0.4}),
        )
    ),
    Case("com.microsoft::FusedMatMul", [noise(2, 3, 4), noise(2, 4, 5)], {"alpha": 0.5}),
    Case("com.microsoft::FusedMatMul", [noise(2, 4, 3), noise(2, 5, 4)], {"transA": 1, "transB": 1}),
    Case("com.microsoft::FusedMatMul", [noise(3, 2, 4), noise(2, 4, 5)], {"transBatchA": 1}),
    Case(
        "com.microsoft::FusedMatMul",
        [noise(4, 2, 3), noise(5, 2, 4)],
        {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1},
    ),
    Case("com.microsoft::TransposeMatMul", [noise(3, 4), noise(5, 4)], {"transB": 1}),
    Case("com.microsoft::Inverse", [noise(2, 3, 3) + 3 * np.eye(3, dtype=np.float32)]),
    *(
        Case("com.microsoft::CDist", [noise(4, 3), noise(5, 3, seed=1)], {"metric": how})
        for how in ("euclidean", "sqeuclidean")
    ),
]

WORDS = [np.array([[1, 4, 2], [0, 3, 3]], np.int32), np.array([[0, 0, 1], [1, 1, 0]], np.int32)]
WORD_TABLES = [noise(6, 8), noise(9, 8, seed=1), noise(2, 8, seed=2), noise(8, seed=3), noise(8, seed=4)]
SKIP = [SEQUENCE, noise(2, 5, 8, seed=1), noise(8, seed=2)]
MAP_LAST = noise(2, 3, 5, 8)


def group_norm(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """Of [N, H, W, C]."""
    parts = x.reshape(*x.shape[:-1], groups, -1)
    mean, deviation = parts.mean((1, 2, 4), keepdims=True), parts.std((1, 2, 4), keepdims=True)
    out: Array = ((parts - mean) / np.sqrt(deviation**2 + 1e-5)).reshape(x.shape) * scale + bias
    return out


def swish(x: Array) -> Array:
    out: Array = x / (1 + np.exp(-x))
    return out


NORMALIZATION = [
    *(
        Case("com.microsoft::SkipLayerNormalization", [*SKIP, *more], {"epsilon": 0.01}, outputs=4, omitted=(1, 2))
        for more in ([noise(8, seed=3)], [noise(8, seed=3), noise(8, seed=4)], [None, noise(8, seed=4)], [])
    ),
    Case("com.microsoft::SkipLayerNormalization", [SEQUENCE, noise(1, 5, 8), noise(8)]),
    Case("com.microsoft::SkipLayerNormalization", [SEQUENCE, noise(5, 8), noise(8)]),
    *(
        Case(
            "com.microsoft::SkipSimplifiedLayerNormalization",
            [*SKIP, *more],
            {"epsilon": 0.01},
            outputs=4,
            omitted=(1, 2),
        )
        for more in ([], [noise(8, seed=3)])
    ),
    Case("com.microsoft::EmbedLayerNormalization", [*WORDS, *WORD_TABLES], outputs=2),
    Case(
        "com.microsoft::EmbedLayerNormalization",
        [*WORDS, *WORD_TABLES, np.array([[1, 1, 0], [1, 1, 1]], np.int32)],
        {"epsilon": 0.01},
        outputs=3,
    ),
    Case(
        "com.microsoft::EmbedLayerNormalization",
        [WORDS[0], None, *WORD_TABLES[:2], None, *WORD_TABLES[3:], None, np.array([[5, 6, 7]], np.int32)],
        outputs=2,
    ),
    Case(
        "com.microsoft::GroupNorm",
        [MAP_LAST, noise(8), noise(8, seed=1)],
        {"groups": 4, "activation": 1},
        closed=lambda x, scale, bias: (swish(group_norm(x, scale, bias, 4)),),
    ),
    Case(
        "com.microsoft::GroupNorm",
        [MAP_LAST.transpose(0, 3, 1, 2), noise(8), noise(8, seed=1)],
        {"groups": 2, "activation": 0, "channels_last": 0},
        closed=lambda x, scale, bias: (group_norm(x.transpose(0, 2, 3, 1), scale, bias, 2).transpose(0, 3, 1, 2),),
    ),
    *(
        Case(
            "com.microsoft::SkipGroupNorm",
            [MAP_LAST, noise(8), noise(8, seed=1), skip, noise(8, seed=3)],
            {"groups": 4, "activation": 0},
            outputs=2,
            closed=lambda x, scale, bias, skip, add: (
                group_norm(x + skip.reshape(2, *skip.shape[1:-1] or (1, 1), 8) + add, scale, bias, 4),
                x + skip.reshape(2, *skip.shape[1:-1] or (1, 1), 8) + add,
            ),
        )
        for skip in (noise(2, 3, 5, 8, seed=2), noise(2, 8, seed=2))
    ),
]

CASES = [*ELEMENTWISE, *PRODUCTS, *NORMALIZATION]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)
