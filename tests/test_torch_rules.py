"""What holds for all torch rules: each is tested, refuses by name what it can't do, and keeps the gradient."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from darwinc.errors import UnsupportedOperator
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import RULES
from tests import test_torch_rules_arithmetic, test_torch_rules_layers, test_torch_rules_layout
from tests.operator_cases import (
    POSITIVE,
    X3,
    X4,
    Case,
    noise,
    scalar,
)

CASES = [*test_torch_rules_arithmetic.CASES, *test_torch_rules_layers.CASES, *test_torch_rules_layout.CASES]


def test_every_rule_is_tested() -> None:
    assert {case.op for case in CASES} == RULES.keys()


@pytest.mark.parametrize(
    "case",
    [
        Case("BatchNormalization", [X4, noise(4), noise(4), noise(4), POSITIVE[0]], {"training_mode": 1}, outputs=3),
        Case("Dropout", [X3, scalar(0.5), np.array(True)]),
        Case("Conv", [noise(1, 1, 3, 3, 3, 3), noise(1, 1, 1, 1, 1, 1)]),
        Case(
            "RNN",
            [noise(5, 2, 3), noise(1, 4, 3), noise(1, 4, 4), noise(1, 8)],
            {"hidden_size": 4, "activations": ["Affine"]},
        ),
    ],
    ids=str,
)
def test_a_variant_without_a_rule_names_the_node(case: Case) -> None:
    model = case.model(constant=True)
    with pytest.raises(UnsupportedOperator, match="'node'"):
        TorchGraph(ir.from_proto(model))(case.feed(model))


@pytest.mark.parametrize(
    "op", ["Relu", "Gelu", "HardSwish", "Conv", "MaxPool", "AveragePool", "Resize", "LayerNormalization", "LSTM"]
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
