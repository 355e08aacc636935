"""What holds for all torch rules: each is tested, refuses by name what it can't do, and keeps the gradient."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from darwinc.errors import UnsupportedOperator
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import RULES
from tests import (
    test_torch_rules_arithmetic,
    test_torch_rules_attention,
    test_torch_rules_layers,
    test_torch_rules_layout,
    test_torch_rules_microsoft,
    test_torch_rules_others,
    test_torch_rules_quantized,
    test_torch_rules_regions,
)
from tests.operator_cases import (
    X3,
    X5,
    Case,
    ints,
    noise,
    scalar,
)

CASES = [
    *test_torch_rules_arithmetic.CASES,
    *test_torch_rules_attention.CASES,
    *test_torch_rules_layers.CASES,
    *test_torch_rules_layout.CASES,
    *test_torch_rules_microsoft.CASES,
    *test_torch_rules_others.CASES,
    *test_torch_rules_quantized.CASES,
    *test_torch_rules_regions.CASES,
]


def test_every_rule_is_tested() -> None:
    assert {case.op for case in CASES} == RULES.keys()


@pytest.mark.parametrize(
    "case",
    [
        Case("Dropout", [X3, scalar(0.5), np.array(True)]),
        Case("Conv", [noise(1, 1, 3, 3, 3, 3), noise(1, 1, 1, 1, 1, 1)]),
        Case(
            "RNN",
            [noise(5, 2, 3), noise(1, 4, 3), noise(1, 4, 4), noise(1, 8)],
            {"hidden_size": 4, "activations": ["Sine"]},
        ),
        Case("GridSample", [noise(1, 1, 2, 2, 2, 2), noise(1, 2, 2, 2, 2, 4)], opset=20),
        Case("DeformConv", [X5, noise(2, 2, 1, 1, 1), noise(1, 3, 4, 5, 4)], opset=19),
        Case("com.microsoft::CDist", [noise(2, 3), noise(2, 3)], {"metric": "cosine"}),
        Case("com.microsoft::CausalConvWithState", [X3, noise(4, 1, 2)], {"dilation": 2}),
        Case("com.microsoft::Attention", [noise(1, 2, 3), noise(3, 12), noise(12)], {"num_heads": 2, "do_rotary": 1}),
        Case(
            "com.microsoft::Attention",
            [noise(1, 2, 3), noise(3, 12), noise(12), np.ones((1, 1, 2, 2), np.int32)],
            {"num_heads": 2},
        ),
        Case("com.microsoft::MultiHeadAttention", [noise(1, 2, 8)] * 3, {"num_heads": 2}, outputs=4),
        Case(
            "com.microsoft::GroupQueryAttention",
            [*[noise(1, 2, 8)] * 3, None, None, np.array([1], np.int32), np.array(2, np.int32)],
            {"num_heads": 1, "kv_num_heads": 1, "qk_output": 1},
        ),
        Case(
            "com.microsoft::GroupQueryAttention",
            [*[noise(1, 2, 8)] * 3, None, None, ints(1), ints(2), *[None] * 5, scalar(0.1), scalar(0.1)],
            {"num_heads": 1, "kv_num_heads": 1},
        ),
    ],
    ids=str,
)
def test_a_variant_without_a_rule_names_the_node(case: Case) -> None:
    model = case.model(constant=True)
    with pytest.raises(UnsupportedOperator, match="'node'"):
        TorchGraph(ir.from_proto(model))(case.feed(model))


@pytest.mark.parametrize(
    "op",
    [
        "Relu",
        "Gelu",
        "HardSwish",
        "Conv",
        "MaxPool",
        "AveragePool",
        "Resize",
        "LayerNormalization",
        "LSTM",
        "Attention",
        "RotaryEmbedding",
        "LinearAttention",
        "GridSample",
        "DeformConv",
        "RoiAlign",
        "STFT",
        "com.microsoft::FusedConv",
        "com.microsoft::FusedGemm",
        "com.microsoft::SkipLayerNormalization",
        "com.microsoft::Attention",
        "com.microsoft::MultiHeadAttention",
        "com.microsoft::GroupQueryAttention",
    ],
)
def test_a_rule_keeps_the_gradient(op: str) -> None:
    """The derivative along one direction, against a central difference in double precision."""
    case = next(case for case in CASES if case.op == op)
    model = ir.from_proto(case.model(constant=True))
    twin = TorchGraph(model).double()
    step, x = twin.steps[0], torch.tensor(np.asarray(case.operands[0]), dtype=torch.float64, requires_grad=True)

    def total(value: torch.Tensor) -> torch.Tensor:
        return twin.run(step, {"operand0": value})[0].square().sum()

    (gradient,) = torch.autograd.grad(total(x), x)
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
    with torch.no_grad():
        slope = (total(x + 1e-6 * direction) - total(x - 1e-6 * direction)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)
