"""Torch rules that work element by element, and those that reduce."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.operator_cases import (
    PAIR,
    POSITIVE,
    UNIT,
    WIDE,
    X3,
    X4,
    Case,
    check,
    flags,
    ints,
    noise,
    scalar,
    ways,
    whole,
)

UNARY = [
    *(Case(op, [WIDE]) for op in ("Abs", "Neg", "Ceil", "Floor", "Round", "Sign", "Identity", "IsNaN", "Erf", "Exp")),
    *(Case(op, [WIDE]) for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "LeakyRelu", "Elu")),
    *(Case(op, [WIDE]) for op in ("Selu", "Celu", "ThresholdedRelu", "HardSigmoid", "Shrink")),
    *(Case(op, [UNIT]) for op in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh")),
    *(Case(op, [POSITIVE]) for op in ("Log", "Sqrt", "Reciprocal")),
    Case("Acosh", [POSITIVE + 1]),
    Case("Round", [np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)]),
    Case("Mish", [WIDE], opset=18),
    Case("Gelu", [WIDE], opset=20),
    Case("Gelu", [WIDE], {"approximate": "tanh"}, opset=20),
    Case("Swish", [WIDE], {"alpha": 1.5}, opset=24, reference=True),
    Case("SwiGLU", [WIDE, noise(3, 4)], {"alpha": 1.5}, opset=28, reference=True),
    Case("LeakyRelu", [WIDE], {"alpha": 0.3}),
    Case("Elu", [WIDE], {"alpha": 0.7}),
    Case("Celu", [WIDE], {"alpha": 0.7}),
    Case("Selu", [WIDE], {"alpha": 1.1, "gamma": 0.9}),
    Case("ThresholdedRelu", [WIDE], {"alpha": 2.0}),
    Case("HardSigmoid", [WIDE], {"alpha": 0.3, "beta": 0.4}),
    Case("Shrink", [WIDE], {"lambd": 1.5, "bias": 0.5}),
    Case("IsInf", [np.array([1, np.inf, -np.inf], np.float32)]),
    Case("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {"detect_negative": 0}),
    Case("Not", [flags(3, 4)]),
    Case("BitwiseNot", [whole(3, 4)], opset=18),
    Case("ImageScaler", [noise(1, 3, 4, 4)], {"scale": 0.5, "bias": [0.1, 0.2, 0.3]}, opset=7),
    Case("Affine", [WIDE], {"alpha": 2.0, "beta": 0.5}, opset=7),
    Case("Crop", [X4], {"border": [1, 2, 1, 2]}, opset=7),
    Case("Crop", [X4], {"border": [1, 2, 0, 0], "scale": [3, 2]}, opset=7),
]

BINARY = [
    *(
        Case(op, list(PAIR))
        for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "PRelu")
    ),
    *(Case(op, list(PAIR), opset=7) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater", "PRelu")),
    *(Case(op, [*PAIR, noise(1, 1, 4, seed=2)]) for op in ("Max", "Min", "Sum", "Mean")),
    *(Case(op, [flags(2, 3), flags(3, seed=1)]) for op in ("And", "Or", "Xor")),
    *(Case(op, [whole(2, 3), whole(3, seed=1)], opset=18) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    Case("Equal", [whole(4, 5, high=3), whole(5, high=3, seed=1)]),
    Case("Div", [whole(8), np.array([-4, -3, -2, -1, 1, 2, 3, 4], np.int64)]),
    Case("Mod", [whole(8), np.array([-4, -3, -2, -1, 1, 2, 3, 4], np.int64)]),
    Case("Mod", [whole(8), np.array([-4, -3, -2, -1, 1, 2, 3, 4], np.int64)], {"fmod": 1}),
    Case("Mod", [noise(8), noise(8, seed=1)], {"fmod": 1}),
    Case("BitShift", [np.array([1, 2, 200], np.uint8), np.array([1, 2, 3], np.uint8)], {"direction": "RIGHT"}),
    Case("Pow", [noise(3, 4), scalar(2.0)]),
    Case("Pow", [noise(3, 4), scalar(3.0)]),
    Case("Pow", [POSITIVE, noise(4)]),
    Case("Pow", [POSITIVE, noise(1, 1, 1)]),
    Case("Pow", [whole(4, low=1), scalar(2.0)]),
    Case("PRelu", [X4, noise(4, 1, 1)]),
    Case("Clip", [WIDE, scalar(-1.0), scalar(2.0)]),
    Case("Clip", [WIDE, None, scalar(2.0)]),
    Case("Clip", [WIDE, scalar(0.5)]),
    Case("Clip", [WIDE], {"min": -1.0, "max": 0.5}, opset=7),
    Case("Clip", [WIDE], {"min": 0.0}, opset=10),
    Case("Where", [flags(3, 4), noise(3, 4), noise(4, seed=1)]),
    Case("Cast", [WIDE], {"to": onnx.TensorProto.INT64}),
    Case("Cast", [flags(3, 4)], {"to": onnx.TensorProto.FLOAT}, opset=9),
    Case("CastLike", [WIDE, ints(1)]),
]

REDUCERS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
REDUCTION = [
    *(Case(f"Reduce{kind}", [X3], {"axes": [1, -1], "keepdims": 0}, opset=11) for kind in REDUCERS),
    *(Case(f"Reduce{kind}", [X3, ints(1)], opset=18) for kind in REDUCERS),
    *(Case(f"Reduce{kind}", [X3], opset=7) for kind in REDUCERS),
    Case("ReduceLogSum", [POSITIVE], {"axes": [1]}),
    Case("ReduceSum", [X3, ints(0, 2)], {"keepdims": 0}, opset=13),
    Case("ReduceSum", [X3], {"noop_with_empty_axes": 1}, opset=13),
    Case("ReduceSumSquare", [X3], {"noop_with_empty_axes": 1}, opset=18, reference=True),
    Case("ReduceSum", [whole(3, 4), ints(1)]),
    Case("ReduceMean", [whole(3, 4)], {"axes": [1]}),
    Case("ReduceProd", [whole(3, 4).astype(np.int32)], {"axes": [1]}),
    *(
        Case(op, [X3], {"axis": axis, "keepdims": keep})
        for op in ("ArgMax", "ArgMin")
        for axis, keep in ((1, 1), (-1, 0))
    ),
    Case("ArgMax", [whole(3, 9, high=-6)], {"axis": 1}, reference=True),
    Case("ArgMax", [whole(3, 9, high=-6).astype(np.float32)], {"axis": 1, "select_last_index": 1}),
    Case("TopK", [X3, ints(3)], outputs=2),
    Case("TopK", [X3, ints(2)], {"axis": 1, "largest": 0}, outputs=2),
    Case("TopK", [X3], {"k": 2}, opset=9, outputs=2),
    Case("CumSum", [X3, np.array(1, np.int64)]),
    Case("CumSum", [X3, np.array(-1, np.int64)], {"exclusive": 1, "reverse": 1}),
]

CASES = [*UNARY, *BINARY, *REDUCTION]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)
