"""Torch rules of layers: convolutions, products, normalization, pooling, recurrence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator_cases import (
    POSITIVE,
    X3,
    X4,
    X5,
    Array,
    Case,
    check,
    noise,
    scalar,
    ways,
)

CONVOLUTION = [
    Case("Conv", [X3, noise(5, 4, 3), noise(5)], {"pads": [1, 2], "strides": [2]}),
    Case("Conv", [X4, noise(6, 4, 3, 3), noise(6)], {"pads": [1, 1, 1, 1]}, opset=7),
    Case("Conv", [X4, noise(6, 4, 3, 3)], {"pads": [0, 1, 2, 0], "dilations": [2, 1], "strides": [1, 2]}),
    Case("Conv", [X4, noise(4, 1, 3, 3), noise(4)], {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", [X4, noise(6, 2, 2, 2), noise(6)], {"group": 2, "auto_pad": "SAME_LOWER"}),
    Case("Conv", [X4, noise(6, 4, 3, 3)], {"auto_pad": "VALID", "kernel_shape": [3, 3]}),
    Case("Conv", [X5, noise(3, 2, 2, 3, 2), noise(3)], {"pads": [1, 0, 0, 0, 1, 1]}),
    Case("ConvTranspose", [X3, noise(4, 3, 3), noise(3)], {"strides": [2], "pads": [1, 0]}),
    Case(
        "ConvTranspose",
        [X4, noise(4, 3, 3, 3), noise(3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Case(
        "ConvTranspose",
        [X4, noise(4, 3, 2, 3)],
        {"group": 2, "strides": [2, 3], "dilations": [2, 1], "pads": [0, 1, 1, 0]},
    ),
    Case("ConvTranspose", [X4, noise(4, 3, 3, 3), noise(3)], {"strides": [2, 2], "output_shape": [14, 13]}),
    Case(
        "ConvTranspose",
        [X4, noise(4, 3, 3, 3)],
        {"strides": [2, 2], "output_shape": [15, 14], "auto_pad": "SAME_UPPER"},
    ),
    Case("ConvTranspose", [X4, noise(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("ConvTranspose", [X4, noise(4, 3, 4, 3)], {"strides": [3, 2], "auto_pad": "SAME_LOWER"}),
    Case("ConvTranspose", [X4, noise(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "VALID"}),
    Case("ConvTranspose", [X4, noise(4, 3, 1, 2), noise(3)], {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    Case("ConvTranspose", [X4, noise(4, 3, 1, 1), noise(3)], {"strides": [2, 2], "output_padding": [1, 0]}),
    Case("ConvTranspose", [X5, noise(2, 3, 2, 2, 2)], {"strides": [2, 1, 2]}),
    *(
        Case(op, [noise(2, 4, 5), noise(4, 1, 3), noise(4), *more], {"activation": how}, opset, 2, reference)
        for op, opset, reference in (
            ("CausalConvWithState", 27, True),
            ("com.microsoft::CausalConvWithState", 17, False),
        )
        for how, more in (("none", []), ("silu", [noise(2, 4, 2, seed=1)]))
    ),
    Case("Gemm", [noise(3, 4), noise(5, 4), noise(5)], {"transB": 1}),
    Case("Gemm", [noise(3, 4), noise(4, 5), noise(5)], opset=7),
    Case("Gemm", [noise(4, 3), noise(4, 5), noise(3, 1)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [noise(3, 4), noise(4, 5), scalar(0.5)]),
    Case("Gemm", [noise(3, 4), noise(4, 5), noise(1)], {"beta": 0.3}),
    Case("Gemm", [noise(3, 4), noise(4, 5)]),
    Case("MatMul", [noise(2, 1, 3, 4), noise(5, 4, 2)]),
    Case("MatMul", [noise(3, 4), noise(4)]),
    Case("Einsum", [noise(2, 3, 4), noise(2, 4, 5)], {"equation": "bij, bjk -> bik"}),
    Case("Einsum", [noise(2, 3, 3)], {"equation": "...ii->...i"}),
]

NORMALIZATION = [
    Case("BatchNormalization", [X4, noise(4), noise(4, seed=1), noise(4, seed=2), POSITIVE[0]], {"epsilon": 1e-3}),
    Case("BatchNormalization", [X4, noise(4), noise(4, seed=1), noise(4, seed=2), POSITIVE[0]], opset=7),
    Case(
        "BatchNormalization",
        [X4, noise(4), noise(4, seed=1), noise(4, seed=2), POSITIVE[0]],
        {"training_mode": 1, "momentum": 0.7},
        outputs=3,
    ),
    Case("BatchNormalization", [noise(5, 4), noise(4), noise(4, seed=1), noise(4, seed=2), POSITIVE[0]], opset=9),
    Case("InstanceNormalization", [X4, noise(4), noise(4, seed=1)], {"epsilon": 1e-2}),
    Case("InstanceNormalization", [X3, noise(4), noise(4, seed=1)], opset=7),
    Case("LayerNormalization", [noise(2, 3, 8), noise(8), noise(8, seed=1)]),
    Case("LayerNormalization", [noise(2, 3, 8), noise(3, 8)], {"axis": 1}),
    Case("LayerNormalization", [noise(2, 3, 8), noise(8)], {"axis": 1}, reference=True),
    Case("LayerNormalization", [noise(2, 3, 8), noise(8), noise(8)], {"epsilon": 0.1}, outputs=3),
    Case("GroupNormalization", [X4, noise(2), noise(2, seed=1)], {"num_groups": 2}, opset=18),
    Case("GroupNormalization", [X4, noise(4), noise(4, seed=1)], {"num_groups": 2}, opset=21),
    Case("RMSNormalization", [noise(2, 3, 8), noise(8)], {"axis": -1}, opset=23),
    Case("RMSNormalization", [noise(2, 3, 8), noise(3, 8)], {"axis": 1, "epsilon": 0.1}, opset=23),
    Case("SimplifiedLayerNormalization", [noise(2, 3, 8), noise(8)], {"epsilon": 0.1}, outputs=2),
    Case("LRN", [noise(2, 7, 3, 4)], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}),
    Case("LRN", [noise(2, 7, 3, 4)], {"size": 5, "alpha": 0.5}, opset=7),
    Case("MeanVarianceNormalization", [X4]),
    Case("LpNormalization", [X4], {"axis": 1, "p": 2}),
    Case("LpNormalization", [X4], {"axis": -1, "p": 1}),
    *(
        Case(op, [X3], {"axis": axis}, opset=opset)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for axis, opset in ((1, 11), (2, 7), (1, 13))
    ),
    Case("Softmax", [X3], opset=11),
    Case("Softmax", [X3]),
    Case("Softmax", [X3], {"axis": -2}, opset=11),
]

POOLING = [
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, opset=7),
    Case("MaxPool", [X4], {"kernel_shape": [3, 2], "pads": [0, 0, 2, 1], "strides": [2, 1]}),
    Case("MaxPool", [X4 - 9], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("MaxPool", [X4], {"kernel_shape": [2, 3], "strides": [2, 4], "ceil_mode": 1}),
    Case("MaxPool", [X4], {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("MaxPool", [X4], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
    Case("MaxPool", [X4], {"kernel_shape": [2, 2], "auto_pad": "VALID", "strides": [2, 2]}),
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, outputs=2),
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1]}, outputs=2),
    Case("MaxPool", [X4], {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 1}, outputs=2),
    Case("MaxPool", [X3], {"kernel_shape": [3], "pads": [0, 2]}),
    Case("MaxPool", [X5], {"kernel_shape": [2, 2, 3], "pads": [0, 1, 1, 0, 0, 1]}),
    Case("AveragePool", [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, opset=7),
    Case("AveragePool", [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", [X4], {"kernel_shape": [3, 2], "pads": [0, 0, 2, 1], "strides": [2, 1]}),
    Case("AveragePool", [X4], {"kernel_shape": [3, 2], "pads": [0, 0, 2, 1], "count_include_pad": 1}),
    Case("AveragePool", [X4], {"kernel_shape": [2, 3], "strides": [2, 4], "ceil_mode": 1}),
    Case(
        "AveragePool",
        [X4],
        {"kernel_shape": [2, 3], "strides": [2, 4], "ceil_mode": 1, "count_include_pad": 1, "pads": [0, 1, 0, 1]},
        opset=19,
    ),
    Case("AveragePool", [X4], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("AveragePool", [X4], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
    Case("AveragePool", [X4], {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1, 0, 1, 0]}, opset=19),
    Case("AveragePool", [X3], {"kernel_shape": [4], "strides": [2], "pads": [3, 3]}),
    Case("AveragePool", [X5], {"kernel_shape": [2, 2, 2]}),
    Case("LpPool", [X4], {"kernel_shape": [3, 3], "p": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("LpPool", [X4], {"kernel_shape": [2, 2]}, opset=18),
    *(Case(op, [x]) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool") for x in (X3, X4, X5)),
]

STEPS = noise(5, 2, 3)


def gates(count: int, directions: int = 1) -> list[Array]:
    """Weights for inputs of 3 and 4 units: W, R and both biases."""
    return [
        noise(directions, 4 * count, 3),
        noise(directions, 4 * count, 4, seed=1),
        noise(directions, 8 * count, seed=2),
    ]


STATE = noise(1, 2, 4, seed=3)
LENGTHS = np.array([5, 3], np.int32)
RECURRENCE = [
    Case("LSTM", [STEPS, *gates(4)], {"hidden_size": 4}, outputs=3),
    Case("LSTM", [STEPS, *gates(4, 2)], {"hidden_size": 4, "direction": "bidirectional"}, opset=7, outputs=3),
    Case(
        "LSTM",
        [STEPS, *gates(4), LENGTHS, STATE, STATE, noise(1, 12)],
        {"hidden_size": 4, "direction": "reverse"},
        outputs=3,
    ),
    Case("LSTM", [STEPS, *gates(4)], {"hidden_size": 4, "clip": 0.5, "activations": ["Sigmoid", "Relu", "Tanh"]}),
    Case("GRU", [STEPS, *gates(3), None, STATE], {"hidden_size": 4, "linear_before_reset": 1}, outputs=2),
    Case("GRU", [STEPS, *gates(3)[:2]], {"hidden_size": 4}, outputs=2),
    Case("GRU", [STEPS, *gates(3, 2), LENGTHS], {"hidden_size": 4, "direction": "bidirectional"}, outputs=2),
    Case("RNN", [STEPS, *gates(1)], {"hidden_size": 4, "activations": ["Relu"]}, outputs=2),
    Case("LSTM", [STEPS, *gates(4)], {"hidden_size": 4, "input_forget": 1}, outputs=3),
    Case(
        "LSTM",
        [STEPS, *gates(4, 2), None, None, None, noise(2, 12)],
        {
            "hidden_size": 4,
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "ScaledTanh", "Affine", "Sigmoid", "LeakyRelu", "Elu"],
            "activation_alpha": [0.3, 0.9, 1.1, 0.2, 0.7],
            "activation_beta": [0.4, 0.8, 0.1],
        },
        outputs=3,
    ),
    *(
        Case("RNN", [STEPS, *gates(1)], {"hidden_size": 4, "activations": [name], **more})
        for name, more in (
            ("Affine", {"activation_alpha": [0.5], "activation_beta": [0.1]}),
            ("ThresholdedRelu", {"activation_alpha": [0.3]}),
            ("LeakyRelu", {}),
            ("Elu", {}),
            ("HardSigmoid", {}),
            ("Softsign", {}),
            ("Softplus", {}),
        )
    ),
    Case(
        "GRU",
        [noise(2, 5, 3), *gates(3)],
        {"hidden_size": 4, "layout": 1, "linear_before_reset": 1},
        outputs=2,
        reference=True,
    ),
]

CASES = [*CONVOLUTION, *NORMALIZATION, *POOLING, *RECURRENCE]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int], dict[str, Any]]:
    """Image sizes, and window attributes that fit them."""
    sizes = (draw(st.integers(5, 9)), draw(st.integers(5, 9)))
    kernel = [draw(st.integers(1, 3)) for _ in sizes]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in (*kernel, *kernel)]
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in sizes]
        attributes["strides"] = [draw(st.integers(1, 3)) for _ in sizes]
    else:
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        attributes["strides"] = [draw(st.integers(1, size)) for size in kernel]
    return sizes, attributes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(windows(), st.sampled_from(["Conv", "MaxPool", "AveragePool"]), st.booleans())
def test_any_window_answers_like_onnx_runtime(
    window: tuple[tuple[int, int], dict[str, Any]], op: str, ceil: bool
) -> None:
    sizes, attributes = window
    operands: list[Array | None] = [noise(2, 2, *sizes)]
    if op == "Conv":
        operands.append(noise(2, 1, *attributes["kernel_shape"], seed=1))
        attributes["group"] = 2
    elif "pads" in attributes:
        attributes["ceil_mode"] = int(ceil)
    check(Case(op, operands, attributes, opset=19))
