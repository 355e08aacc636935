"""How channel positions flow through each operator: one visible row per operator, (domain, op_type) -> rule.

A rule reads its node's inputs from the `Flow`, ties or blocks their positions, and puts its outputs. An operator
without a row is a barrier for whatever reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from darwinc.axis_flow import Flow
from darwinc.axis_rules import elementwise, layout, reduction, reshape, sizes, weighted

Rule = Callable[[Flow, ir.Node], None]

ELEMENTWISE = [
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or",
    "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
]  # fmt: skip
POOLING = [
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool",
]  # fmt: skip
REDUCTIONS = [
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip

STANDARD: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise.elementwise),
    **dict.fromkeys(POOLING, reduction.pooling),
    **dict.fromkeys(REDUCTIONS, reduction.reduction),
    "BatchNormalization": elementwise.per_channel,
    "Clip": elementwise.clip,
    "Concat": layout.concat,
    "ConstantOfShape": sizes.constant_of_shape,
    "Conv": weighted.convolution,
    "ConvTranspose": weighted.transposed_convolution,
    "CumSum": reduction.along_axis,
    "DepthToSpace": layout.depth_to_space,
    "Dropout": elementwise.first_only,
    "Expand": sizes.expand,
    "Flatten": reshape.flatten,
    "Gather": sizes.gather,
    "GatherElements": sizes.gather_elements,
    "Gemm": weighted.gemm,
    "GroupNormalization": reduction.group_normalization,
    "Hardmax": reduction.softmax,
    "InstanceNormalization": elementwise.per_channel,
    "LRN": reduction.across_channels,
    "LayerNormalization": reduction.trailing_axes,
    "LogSoftmax": reduction.softmax,
    "LpNormalization": reduction.along_axis,
    "MatMul": weighted.matmul,
    "MeanVarianceNormalization": reduction.across_channels,
    "Pad": layout.pad,
    "RMSNormalization": reduction.trailing_axes,
    "Reshape": reshape.reshape,
    "Resize": layout.resize,
    "Shape": sizes.shape,
    "Size": sizes.size,
    "Slice": layout.slice_,
    "Softmax": reduction.softmax,
    "SpaceToDepth": layout.space_to_depth,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "Tile": sizes.tile,
    "TopK": reduction.along_axis,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
    "Upsample": layout.resize,
}

RULES: dict[tuple[str, str], Rule] = {("", op_type): rule for op_type, rule in STANDARD.items()}

KEEPS_NUMBERS = frozenset({
    "Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Reshape", "Resize", "Slice", "Squeeze",
    "Unsqueeze", "Upsample",
})  # fmt: skip
"""Operators whose rules follow sizes that were computed by Shape. For any other that reads one the axis must stay."""
