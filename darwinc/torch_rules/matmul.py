"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .call import Call, Rule


def gemm(call: Call) -> torch.Tensor:
    """alpha * A' B' + beta * C, with A [M, K] and B [K, N] after the transpositions."""
    left, right, bias = call.first, call.tensor(1), call.optional(2)
    left = left.t() if call.integer("transA", 0) else left
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    transposed = bool(call.integer("transB", 0))
    if alpha == 1.0 and (bias is None or (beta == 1.0 and bias.ndim == 1 and bias.shape[0] > 1)):
        return F.linear(left, right if transposed else right.t(), bias)
    product = left @ (right.t() if transposed else right)
    product = product if alpha == 1.0 else product * alpha
    if bias is None:
        return product
    return product + (bias if beta == 1.0 else bias * beta)


def matmul(call: Call) -> torch.Tensor:
    return torch.matmul(call.first, call.tensor(1))


def einsum(call: Call) -> torch.Tensor:
    operands = [tensor for tensor in call.tensors if tensor is not None]
    return torch.einsum(call.text("equation", "").replace(" ", ""), *operands)


RULES: dict[str, Rule] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "Det": lambda call: torch.linalg.det(call.first),
}
