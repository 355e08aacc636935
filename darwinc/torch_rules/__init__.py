"""One rule per operator: how the torch twin evaluates a node. A missing entry is an `UnsupportedOperator`.

Keys are operator names; outside the ONNX standard the domain comes first, as in "com.microsoft::Gelu".
"""

from __future__ import annotations

from . import (
    activations,
    attention,
    bodies,
    classic,
    convolution,
    creation,
    decoding,
    elementwise,
    indexing,
    layout,
    losses,
    matmul,
    microsoft,
    normalization,
    pooling,
    quantization,
    quantized,
    recurrent,
    reduction,
    regions,
    resize,
    signals,
)
from .call import Call, Operands, Rule, Step

MICROSOFT, CLASSIC, PREVIEW = "com.microsoft::{}", "ai.onnx.ml::{}", "ai.onnx.preview::{}"

RULES: dict[str, Rule] = {
    **convolution.RULES,
    **matmul.RULES,
    **attention.RULES,
    **elementwise.RULES,
    **activations.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **layout.RULES,
    **indexing.RULES,
    **creation.RULES,
    **resize.RULES,
    **regions.RULES,
    **signals.RULES,
    **quantization.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **losses.RULES,
    **decoding.RULES,
    **bodies.RULES,
    **{PREVIEW.format(name): rule for name, rule in attention.PREVIEW_RULES.items()},
    **{CLASSIC.format(name): rule for name, rule in classic.RULES.items()},
    **{MICROSOFT.format(name): rule for name, rule in microsoft.RULES.items()},
}

# Operands that a rule reads as Python numbers: decoded once where constant, left in host memory where computed.
HOST_OPERANDS: Operands = {
    **elementwise.HOST_OPERANDS,
    **pooling.HOST_OPERANDS,
    **reduction.HOST_OPERANDS,
    **layout.HOST_OPERANDS,
    **indexing.HOST_OPERANDS,
    **creation.HOST_OPERANDS,
    **resize.HOST_OPERANDS,
    **regions.HOST_OPERANDS,
    **signals.HOST_OPERANDS,
    **bodies.HOST_OPERANDS,
    **{MICROSOFT.format(name): positions for name, positions in microsoft.HOST_OPERANDS.items()},
}

# Operands that take no gradient: training numbers that were decoded would change nothing, and statistics are measured.
UNTRAINED: Operands = {**HOST_OPERANDS, **normalization.STATISTICS}

__all__ = ["HOST_OPERANDS", "RULES", "UNTRAINED", "Call", "Rule", "Step"]
