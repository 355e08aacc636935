"""One rule per operator: how the torch twin evaluates a node. A missing entry is an `UnsupportedOperator`."""

from __future__ import annotations

from . import (
    activations,
    convolution,
    creation,
    elementwise,
    indexing,
    layout,
    matmul,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
)
from .call import Call, Operands, Rule, Step

RULES: dict[str, Rule] = {
    **convolution.RULES,
    **matmul.RULES,
    **elementwise.RULES,
    **activations.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **layout.RULES,
    **indexing.RULES,
    **creation.RULES,
    **resize.RULES,
    **quantization.RULES,
    **recurrent.RULES,
}

# Operands that a rule reads as Python numbers: decoded once where constant, left in host memory where computed.
HOST_OPERANDS: Operands = {
    **elementwise.HOST_OPERANDS,
    **reduction.HOST_OPERANDS,
    **layout.HOST_OPERANDS,
    **indexing.HOST_OPERANDS,
    **creation.HOST_OPERANDS,
    **resize.HOST_OPERANDS,
}

# Operands that take no gradient: training numbers that were decoded would change nothing, and statistics are measured.
UNTRAINED: Operands = {**HOST_OPERANDS, **normalization.STATISTICS}

__all__ = ["HOST_OPERANDS", "RULES", "UNTRAINED", "Call", "Rule", "Step"]
