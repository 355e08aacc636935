"""How channel positions flow through each operator: one visible row per operator, (domain, op_type) -> rule.

A rule reads its node's inputs from the `Flow`, ties or blocks their positions, and puts its outputs. An operator
without a row is a barrier for whatever reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from darwinc.axis_flow import Flow
from darwinc.axis_rules import (
    attention,
    barriers,
    einsum,
    elementwise,
    fused,
    indexing,
    layout,
    quantised,
    recurrent,
    reduction,
    reshape,
    sizes,
    weighted,
)

Rule = Callable[[Flow, ir.Node], None]

ELEMENTWISE = [
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitShift", "BitwiseAnd",
    "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Cos", "Cosh", "Div", "Elu", "Equal",
    "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or",
    "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "SwiGLU", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
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
    "Attention": attention.attention,
    "BatchNormalization": elementwise.per_channel,
    "CenterCropPad": indexing.center,
    "Clip": elementwise.clip,
    "Col2Im": indexing.columns_to_image,
    "Compress": indexing.compress,
    "Concat": layout.concat,
    "ConstantOfShape": sizes.constant_of_shape,
    "Conv": weighted.convolution,
    "ConvInteger": quantised.integer_convolution,
    "ConvTranspose": weighted.transposed_convolution,
    "CumProd": reduction.along_axis,
    "CumSum": reduction.along_axis,
    "DFT": indexing.fourier,
    "DeformConv": indexing.deformable_convolution,
    "DepthToSpace": layout.depth_to_space,
    "DequantizeLinear": quantised.dequantise,
    "Det": indexing.determinant,
    "Dropout": elementwise.first_only,
    "DynamicQuantizeLinear": quantised.dynamic_quantise,
    "Einsum": einsum.einsum,
    "Expand": sizes.expand,
    "Flatten": reshape.flatten,
    "GRU": recurrent.recurrent,
    "Gather": sizes.gather,
    "GatherElements": sizes.gather_elements,
    "GatherND": indexing.gather_nd,
    "Gemm": weighted.gemm,
    "GridSample": indexing.grid_sample,
    "GroupNormalization": reduction.group_normalization,
    "Hardmax": reduction.softmax,
    "InstanceNormalization": elementwise.per_channel,
    "LRN": reduction.across_channels,
    "LSTM": recurrent.recurrent,
    "LayerNormalization": reduction.trailing_axes,
    "LogSoftmax": reduction.softmax,
    "LpNormalization": reduction.along_axis,
    "MatMul": weighted.matmul,
    "MatMulInteger": quantised.integer_product,
    "MaxRoiPool": indexing.regions,
    "MeanVarianceNormalization": reduction.across_channels,
    "OneHot": indexing.one_hot,
    "Pad": layout.pad,
    "QLinearConv": quantised.convolution,
    "QLinearMatMul": quantised.product,
    "QuantizeLinear": quantised.quantise,
    "RMSNormalization": reduction.trailing_axes,
    "RNN": recurrent.recurrent,
    "Reshape": reshape.reshape,
    "Resize": layout.resize,
    "ReverseSequence": indexing.reverse_sequence,
    "RoiAlign": indexing.regions,
    "RotaryEmbedding": attention.rotary,
    "STFT": indexing.windows,
    "Scatter": indexing.scatter_elements,
    "ScatterElements": indexing.scatter_elements,
    "ScatterND": indexing.scatter_nd,
    "Shape": sizes.shape,
    "SimplifiedLayerNormalization": reduction.trailing_axes,
    "Size": sizes.size,
    "Slice": layout.slice_,
    "Softmax": reduction.softmax,
    "SpaceToDepth": layout.space_to_depth,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "TensorScatter": indexing.tensor_scatter,
    "Tile": sizes.tile,
    "TopK": reduction.along_axis,
    "Transpose": layout.transpose,
    "Trilu": indexing.matrices,
    "Unsqueeze": layout.unsqueeze,
    "Upsample": layout.resize,
}

FUSED: dict[str, Rule] = {
    **dict.fromkeys(("BiasAdd", "BiasGelu", "FastGelu", "Gelu", "QuickGelu"), elementwise.elementwise),
    **dict.fromkeys(("QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid"), quantised.elementwise),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool"), quantised.pooling),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), fused.skip_normalisation),
    "Attention": attention.projected,
    "BiasSoftmax": fused.bias_softmax,
    "BiasSplitGelu": fused.split_gelu,
    "CDist": fused.distances,
    "CropAndResize": indexing.regions,
    "DequantizeLinear": quantised.dequantise,
    "DynamicQuantizeMatMul": quantised.dynamic_product,
    "EmbedLayerNormalization": fused.embedding_normalisation,
    "FusedConv": weighted.convolution,
    "FusedGemm": weighted.gemm,
    "FusedMatMul": weighted.fused_matmul,
    "GatherND": indexing.gather_nd,
    "GridSample": indexing.grid_sample,
    "GroupQueryAttention": attention.grouped_query,
    "Inverse": indexing.matrices,
    "MatMulIntegerToFloat": quantised.product_to_float,
    "MatMulNBits": fused.packed_matmul,
    "MultiHeadAttention": attention.multi_head,
    "QGemm": quantised.gemm,
    "QLinearConcat": quantised.concat,
    "QLinearReduceMean": quantised.reduction_mean,
    "QLinearSoftmax": reduction.softmax,
    "QLinearWhere": quantised.elementwise,
    "QuantizeLinear": quantised.quantise,
    "RotaryEmbedding": attention.rotary,
    "SimplifiedLayerNormalization": reduction.trailing_axes,
    "TransposeMatMul": weighted.fused_matmul,
    "Trilu": indexing.matrices,
}
"""ONNX Runtime's own operators (com.microsoft)."""

MICROSOFT = "com.microsoft"

RULES: dict[tuple[str, str], Rule] = {
    **{("", op_type): barriers.held(reason) for op_type, reason in barriers.STANDARD.items()},
    **{(MICROSOFT, op_type): barriers.held(reason) for op_type, reason in barriers.FUSED.items()},
    **{("", op_type): rule for op_type, rule in STANDARD.items()},
    **{(MICROSOFT, op_type): rule for op_type, rule in FUSED.items()},
}

KEEPS_NUMBERS = frozenset({
    "Cast", "CenterCropPad", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Reshape", "Resize", "Slice",
    "Squeeze", "Unsqueeze", "Upsample",
})  # fmt: skip
"""Operators whose rules follow sizes that were computed by Shape. For any other that reads one the axis must stay."""
