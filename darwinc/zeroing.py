"""Which stored constants the reference model sets to zero where channels are removed.

The rewrite is proven against the original with the removed channels zeroed. Divisors, variances, bounds, exponents and
the like keep their values there: what they make of a removed channel is read through a zero weight.
"""

from __future__ import annotations

import onnx_ir as ir

from darwinc import graph

ANY = frozenset(range(1024))
DATA, LEFT_OR_RIGHT, WEIGHT_AND_BIAS = frozenset({0}), frozenset({0, 1}), frozenset({1, 2})
RECURRENT = frozenset({1, 2, 3, 5, 6, 7})

STANDARD: dict[str, frozenset[int]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization"), WEIGHT_AND_BIAS),
    **dict.fromkeys(("GroupNormalization", "LayerNormalization"), WEIGHT_AND_BIAS),
    **dict.fromkeys(("MatMul", "Add", "Sub", "Mul"), LEFT_OR_RIGHT),
    **dict.fromkeys(
        (
            "Cast", "CastLike", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "Neg", "Reshape",
            "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
        ),
        DATA,
    ),
    **dict.fromkeys(("Concat", "Einsum", "Sum"), ANY),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), RECURRENT),
    "Gemm": frozenset({0, 1, 2}),
    "PRelu": frozenset({1}),
    "RMSNormalization": frozenset({1}),
}  # fmt: skip

FUSED: dict[str, frozenset[int]] = {
    "BiasGelu": frozenset({1}),
    "FusedConv": WEIGHT_AND_BIAS,
    "FusedGemm": frozenset({0, 1, 2}),
    "FusedMatMul": LEFT_OR_RIGHT,
    "Attention": WEIGHT_AND_BIAS,
    "SkipLayerNormalization": frozenset({2, 3, 4}),
}
"""ONNX Runtime's own operators (com.microsoft)."""


def is_zeroed(node: ir.Node, index: int) -> bool:
    """Does the reference model set removed positions of a constant to zero where `node` reads it as input `index`?"""
    table = STANDARD if graph.is_standard(node) else FUSED
    return index in table.get(node.op_type, ())
