"""Every torch rule against ONNX Runtime (or ONNX's reference where the runtime has no kernel), on small tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from darwinc.errors import UnsupportedOperator
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import RULES

Array = npt.NDArray[Any]
TOLERANCE = 1e-5


def noise(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def flags(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 2, shape).astype(bool)


def whole(*shape: int, low: int = -9, high: int = 9, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


@dataclass
class Case:
    """One node: operands (None where left out), attributes, opset, number of outputs.

    `reference` asks ONNX's reference instead of ONNX Runtime, which has no such kernel.
    """

    op: str
    operands: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    reference: bool = False

    def __str__(self) -> str:
        shown = {key: value for key, value in self.attributes.items() if not isinstance(value, onnx.TensorProto)}
        told = ",".join(f"{key}={value}" for key, value in shown.items())
        return f"{self.op}-{self.opset}-{told}"

    def model(self, constant: bool) -> onnx.ModelProto:
        """The node alone; all operands but the first are initializers where `constant`."""
        names = ["" if operand is None else f"operand{position}" for position, operand in enumerate(self.operands)]
        made = [f"output{position}" for position in range(self.outputs)]
        node = helper.make_node(self.op, names, made, name="node", **self.attributes)
        given = [(name, operand) for name, operand in zip(names, self.operands, strict=True) if operand is not None]
        stored = [
            onnx.numpy_helper.from_array(operand, name) for name, operand in given if constant and name != "operand0"
        ]
        entering = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(operand.dtype), operand.shape)
            for name, operand in given
            if not (constant and name != "operand0")
        ]
        graph = helper.make_graph([node], "case", entering, [onnx.ValueInfoProto(name=name) for name in made], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model)
        for position, name in enumerate(made):
            known = [
                value for value in inferred.graph.output if value.name == name and value.type.tensor_type.elem_type
            ]
            if known:
                model.graph.output[position].CopyFrom(known[0])
        return model

    def feed(self, model: onnx.ModelProto) -> dict[str, Array]:
        given = {f"operand{position}": operand for position, operand in enumerate(self.operands) if operand is not None}
        return {value.name: given[value.name] for value in model.graph.input}


def answers(case: Case, model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    if case.reference:
        return list(ReferenceEvaluator(model).run(None, feed))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


X4 = noise(2, 4, 7, 6)
X3 = noise(2, 4, 9)
X5 = noise(1, 2, 4, 5, 4)
PAIR = [noise(2, 3, 4), noise(3, 1, seed=1)]
UNIT = noise(3, 4, low=-0.9, high=0.9)
POSITIVE = noise(3, 4, low=0.2, high=3.0)
WIDE = noise(3, 4, low=-9.0, high=9.0)

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

LAYOUT = [
    Case("Reshape", [X3, ints(0, -1, 3)]),
    Case("Reshape", [X3, ints(8, 9)], opset=7),
    Case("Reshape", [noise(0, 3), ints(3, 0)], {"allowzero": 1}),
    Case("Flatten", [X4]),
    *(Case("Flatten", [X4], {"axis": axis}) for axis in (0, 2, 4, -1)),
    Case("Squeeze", [noise(1, 3, 1, 2)]),
    Case("Squeeze", [noise(1, 3, 1, 2), ints(-2)]),
    Case("Squeeze", [noise(1, 3, 1, 2)], {"axes": [0, 2]}, opset=11),
    Case("Unsqueeze", [noise(3, 2), ints(-1, 0)]),
    Case("Unsqueeze", [noise(3, 2)], {"axes": [3, 1]}, opset=11),
    Case("Transpose", [X3]),
    Case("Transpose", [X4], {"perm": [0, 2, 3, 1]}),
    Case("Concat", [X3, noise(2, 1, 9), noise(2, 3, 9)], {"axis": 1}),
    Case("Concat", [X3, X3], {"axis": -1}, opset=7),
    Case("Split", [X3, ints(1, 3)], {"axis": 1}, outputs=2),
    Case("Split", [X3], {"axis": 1, "split": [3, 1]}, opset=11, outputs=2),
    Case("Split", [X3], {"axis": -1}, opset=11, outputs=3),
    Case("Split", [X3], {"axis": 2, "num_outputs": 5}, opset=18, outputs=5),
    Case("Slice", [X4, ints(1, -3), ints(3, 100), ints(1, 2)]),
    Case("Slice", [X4, ints(0, 1, 2), ints(1, 2, 5)]),
    Case("Slice", [X4, ints(-1, 5), ints(-100, 0), ints(2, 3), ints(-2, -1)]),
    Case("Slice", [X4, ints(2), ints(-1), ints(-2), ints(2)]),
    Case("Slice", [X4, ints(3), ints(1), ints(1)]),
    Case("Slice", [X4, ints(1), ints(3), ints(1), ints(-1)]),
    Case("Slice", [X4], {"starts": [1, 0], "ends": [3, -1], "axes": [1, 3]}, opset=9),
    Case("Pad", [X4, ints(0, 0, 1, 2, 0, 0, 3, 0), scalar(1.5)]),
    Case("Pad", [X4, ints(0, 1, -1, 2, 0, 0, 3, -2)]),
    Case("Pad", [X4, ints(1, 2, 0, 1), scalar(0.5), ints(-1, 1)], opset=18),
    Case("Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, opset=9),
    *(Case("Pad", [X4, ints(1, 0, 2, 3, 0, 2, 1, 4)], {"mode": mode}, opset=19) for mode in ("edge", "wrap")),
    Case("Pad", [X4, ints(1, 0, 2, 3, 0, 2, 1, 4)], {"mode": "reflect"}),
    Case("Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}, opset=9),
    Case("Expand", [noise(3, 1), ints(2, 1, 4)]),
    Case("Expand", [noise(3, 4), ints(1)]),
    Case("Tile", [noise(2, 3), ints(2, 3)]),
    Case("DepthToSpace", [noise(2, 8, 3, 4)], {"blocksize": 2}, opset=7),
    Case("DepthToSpace", [noise(2, 8, 3, 4)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [noise(2, 3, 4, 6)], {"blocksize": 2}),
    Case("Dropout", [X3]),
    Case("Dropout", [X3], {"ratio": 0.7}, opset=7),
    Case("Dropout", [X3, scalar(0.7)], outputs=2),
]

INDEXING = [
    Case("Gather", [X3, ints(3, -1, 0)], {"axis": 1}),
    Case("Gather", [X3, np.array([[0, 1], [-1, 2]], np.int32)], {"axis": 2}),
    Case("Gather", [X3, np.array(-2, np.int64)], {"axis": -1}),
    Case("Gather", [X3, np.array(1, np.int64)]),
    Case("GatherElements", [X3, whole(2, 4, 2, low=-9)], {"axis": 2}),
    Case("GatherND", [X3, np.array([[0, 1], [-1, 3]], np.int64)]),
    Case("GatherND", [X3, np.array([[[1]], [[-1]]], np.int64)], {"batch_dims": 1}),
    Case("ScatterElements", [X3, whole(2, 1, 2, low=0, high=3), noise(2, 1, 2)], {"axis": 1}),
    Case("ScatterElements", [X3, whole(2, 4, 3, low=-9), noise(2, 4, 3)], {"axis": 2, "reduction": "add"}, opset=18),
    Case("ScatterElements", [X3, whole(2, 4, 3, low=-9), noise(2, 4, 3)], {"axis": 2, "reduction": "max"}, opset=18),
    Case("Scatter", [X3, ints(2).reshape(1, 1, 1), noise(1, 1, 1)], {"axis": 1}, opset=10),
    Case("ScatterND", [X3, np.array([[0, 1], [-1, 3]], np.int64), noise(2, 9)]),
    *(
        Case(
            "ScatterND",
            [X3, np.array([[0, 1], [-1, 3], [0, 1]], np.int64), noise(3, 9)],
            {"reduction": reduction},
            opset=18,
        )
        for reduction in ("add", "mul", "max", "min")
    ),
    Case("Compress", [X3, np.array([True, False, True])], {"axis": 1}),
    Case("Compress", [noise(2, 3), np.array([True, False, True, True])]),
    Case("NonZero", [flags(3, 4)]),
    Case("OneHot", [ints(0, -1, 5, 2), ints(4), noise(2)]),
    Case("OneHot", [ints(0, 1, 2), ints(3), ints(5, 7)], {"axis": 0}),
    Case("Trilu", [noise(2, 4, 5), np.array(1, np.int64)]),
    Case("Trilu", [noise(4, 4)], {"upper": 0}),
    Case("ReverseSequence", [noise(4, 3, 2), ints(4, 1, 3)]),
    Case("ReverseSequence", [noise(3, 4), ints(4, 1, 3)], {"batch_axis": 0, "time_axis": 1}),
    Case("Shape", [X4]),
    Case("Shape", [X4], {"start": 1, "end": -1}),
    Case("Size", [X4]),
    Case("Range", [scalar(1.0), scalar(3.1), scalar(0.5)]),
    Case("Range", [np.array(10, np.int64), np.array(1, np.int64), np.array(-3, np.int64)]),
    Case("ConstantOfShape", [ints(2, 3)]),
    Case("ConstantOfShape", [ints(2, 3)], {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [7])}),
    Case("EyeLike", [noise(3, 4)], {"k": 1}),
    Case("EyeLike", [noise(3, 4)], {"k": -1, "dtype": onnx.TensorProto.INT64}),
]

IMAGE = noise(1, 2, 5, 6)
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
RESIZING = [
    *(
        Case(
            "Resize",
            [IMAGE, None, np.array([1, 1, *scales], np.float32)],
            {"mode": "nearest", "nearest_mode": nearest, "coordinate_transformation_mode": how},
            19,
        )
        for nearest in NEAREST
        for how in COORDINATES
        for scales in ((2.0, 3.0), (0.7, 1.7))
    ),
    *(
        Case(
            "Resize",
            [IMAGE, None, np.array([1, 1, *scales], np.float32)],
            {"mode": mode, "coordinate_transformation_mode": how},
            19,
        )
        for mode in ("linear", "cubic")
        for how in COORDINATES
        for scales in ((2.0, 3.0), (0.7, 1.7))
    ),
    *(Case("Resize", [IMAGE, None, None, ints(1, 2, 7, 4)], {"mode": mode}) for mode in ("nearest", "linear", "cubic")),
    *(
        Case("Resize", [IMAGE, None, None, ints(1, 2, 1, 1)], {"mode": "linear", "coordinate_transformation_mode": how})
        for how in COORDINATES[:4]
    ),
    *(
        Case(
            "Resize",
            [IMAGE, None, None, ints(9, 9)],
            {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy},
            18,
        )
        for policy in ("not_larger", "not_smaller")
    ),
    *(
        Case("Resize", [IMAGE, None, None, ints(1, 2, 3, 4)], {"mode": mode, "antialias": 1}, 18)
        for mode in ("linear", "cubic")
    ),
    Case(
        "Resize", [IMAGE, None, None, ints(1, 2, 9, 4)], {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}
    ),
    Case(
        "Resize",
        [
            IMAGE,
            noise(8, low=0, high=1) * 0 + np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.3], np.float32),
            None,
            ints(1, 2, 4, 7),
        ],
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 0.5},
    ),
    Case(
        "Resize",
        [IMAGE, np.array([], np.float32), np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        11,
    ),
    Case("Resize", [IMAGE, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 10),
    Case("Resize", [IMAGE, np.array([1, 1, 0.5, 0.7], np.float32)], {"mode": "nearest"}, 10),
    Case("Resize", [noise(2, 3, 5), None, np.array([1, 1, 2], np.float32)], {"mode": "linear"}, reference=True),
    Case("Upsample", [IMAGE, np.array([1, 1, 2, 3], np.float32)], opset=9),
    Case("Upsample", [IMAGE], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, opset=7),
]

INTEGERS8 = whole(3, 4, low=-100, high=100).astype(np.int8)
QUANTIZATION = [
    Case("QuantizeLinear", [WIDE, scalar(0.05), np.array(3, np.uint8)]),
    Case("QuantizeLinear", [WIDE, POSITIVE[0], np.zeros(4, np.int8)], {"axis": 1}),
    Case("QuantizeLinear", [WIDE, scalar(0.05)], opset=10),
    Case("DequantizeLinear", [INTEGERS8, scalar(0.05), np.array(3, np.int8)]),
    Case("DequantizeLinear", [INTEGERS8, POSITIVE[:, 0], np.array([1, 2, 3], np.int8)], {"axis": 0}),
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
    Case(
        "GRU",
        [noise(2, 5, 3), *gates(3)],
        {"hidden_size": 4, "layout": 1, "linear_before_reset": 1},
        outputs=2,
        reference=True,
    ),
]

CASES = [
    *UNARY,
    *BINARY,
    *CONVOLUTION,
    *NORMALIZATION,
    *POOLING,
    *REDUCTION,
    *LAYOUT,
    *INDEXING,
    *RESIZING,
    *QUANTIZATION,
    *RECURRENCE,
]


# Every case with its other operands as initializers, and where it has some, as graph inputs too.
WAYS = [(case, constant) for case in CASES for constant in (True, False) if constant or len(case.operands) > 1]


@pytest.mark.parametrize(("case", "constant"), WAYS, ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    model = case.model(constant)
    feed = case.feed(model)
    expected = answers(case, model, feed)
    found = TorchGraph(ir.from_proto(model))(feed)
    for name, wanted in zip([value.name for value in model.graph.output], expected, strict=True):
        got = found[name].detach().numpy()
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        finite = np.abs(wanted[np.isfinite(wanted)]) if wanted.dtype == np.float32 else np.zeros(0)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * max(1.0, finite.max(initial=0.0)))


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


def check(case: Case) -> None:
    """The twin against the answers of ONNX Runtime, other operands as initializers."""
    test_a_rule_answers_like_onnx(case, True)


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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(-9, 9), st.integers(-9, 9), st.integers(-3, 3).filter(bool))
def test_any_slice_answers_like_onnx_runtime(size: int, start: int, end: int, step: int) -> None:
    check(Case("Slice", [noise(2, size), ints(start), ints(end), ints(1), ints(step)]))


def test_every_rule_is_tested() -> None:
    assert {case.op for case in CASES} == RULES.keys()


@pytest.mark.parametrize(
    "case",
    [
        Case("BatchNormalization", [X4, noise(4), noise(4), noise(4), POSITIVE[0]], {"training_mode": 1}, outputs=3),
        Case("Dropout", [X3, scalar(0.5), np.array(True)]),
        Case("Conv", [noise(1, 1, 3, 3, 3, 3), noise(1, 1, 1, 1, 1, 1)]),
        Case("RNN", [STEPS, *gates(1)], {"hidden_size": 4, "activations": ["Affine"]}),
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
