"""ONNX Runtime's own operators (domain com.microsoft): fusions of standard ones, elementwise, products, normalization.

Keys are without the domain until the end of the file. What `transformers` models and quantized ones need is in
`microsoft_attention` and `microsoft_quantized`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import microsoft_attention, microsoft_quantized
from .activations import named
from .call import Call, Operands, Result, Rule
from .convolution import causal_conv, conv
from .creation import range_
from .indexing import triangle
from .layout import pad
from .matmul import gemm
from .normalization import rms_normalization
from .pooling import max_pool
from .regions import grid_sample


def fused_conv(call: Call) -> torch.Tensor:
    """activation(Conv(x, w, b) + z)."""
    out = conv(call)
    return _activated(call, out if call.optional(3) is None else out + call.tensor(3))


def nhwc_conv(call: Call) -> torch.Tensor:
    """Conv of x [N, *spatial, C]; weights are as in Conv."""
    return conv(call.on(channels_second(call.first), call.tensor(1), call.optional(2))).movedim(1, -1)


def nhwc_fused_conv(call: Call) -> torch.Tensor:
    out = nhwc_conv(call)
    return _activated(call, out if call.optional(3) is None else out + call.tensor(3))


def nhwc_max_pool(call: Call) -> torch.Tensor:
    """The values alone."""
    out = max_pool(call.on(channels_second(call.first)))
    return (out if isinstance(out, torch.Tensor) else out[0]).movedim(1, -1)


def channels_second(x: torch.Tensor) -> torch.Tensor:
    """[N, *spatial, C] to [N, C, *spatial]."""
    return x.movedim(-1, 1)


def _activated(call: Call, x: torch.Tensor) -> torch.Tensor:
    name = call.text("activation", "")
    return named(call, name, call.reals("activation_params") or ())(x) if name else x


def fused_gemm(call: Call) -> torch.Tensor:
    """activation(Gemm(a, b, c))."""
    given = [float(call.real(key, 0.0)) for key in ("activation_alpha", "activation_beta") if key in call.attributes]
    name = call.text("activation", "")
    return named(call, name, given)(gemm(call)) if name else gemm(call)


def fused_matmul(call: Call) -> torch.Tensor:
    """alpha * A' B' after transpositions of the last two axes, and of the first axis with those between."""
    left = _transposed(call.first, call.integer("transA", 0), call.integer("transBatchA", 0))
    right = _transposed(call.tensor(1), call.integer("transB", 0), call.integer("transBatchB", 0))
    alpha = call.real("alpha", 1.0)
    product = torch.matmul(left, right)
    return product if alpha == 1.0 else product * alpha


def _transposed(x: torch.Tensor, last: int, batch: int) -> torch.Tensor:
    x = x.movedim(0, -2) if batch else x
    return x.transpose(-1, -2) if last and x.ndim > 1 else x


def bias_gelu(call: Call) -> torch.Tensor:
    return F.gelu(call.first + call.tensor(1))


def fast_gelu(call: Call) -> torch.Tensor:
    """By the hyperbolic tangent, after an optional bias."""
    return F.gelu(call.first if call.optional(1) is None else call.first + call.tensor(1), approximate="tanh")


def quick_gelu(call: Call) -> torch.Tensor:
    return call.first * torch.sigmoid(call.first * call.real("alpha", 1.702))


def bias_split_gelu(call: Call) -> torch.Tensor:
    """The left half of x + bias times the Gelu of the right one."""
    left, right = (call.first + call.tensor(1)).chunk(2, -1)
    return left * F.gelu(right)


def bias_add(call: Call) -> torch.Tensor:
    return call.first + call.tensor(1) + call.tensor(2)


def bias_softmax(call: Call) -> torch.Tensor:
    """Over the axes from `axis` on, after a bias that lacks axes before it: the nearest ones, or the first ones."""
    x, bias = call.first, call.tensor(1)
    axis = call.integer("axis", 1) % x.ndim
    if call.integer("is_inner_broadcast", 1):
        lacking = x.ndim - bias.ndim if bias.ndim < x.ndim else 0
        bias = bias.reshape(*bias.shape[: axis - lacking], *(1,) * lacking, *bias.shape[axis - lacking :])
    return torch.softmax((x + bias).flatten(axis), axis).reshape(x.shape)


def skip_layer_normalization(call: Call) -> Result:
    """LayerNormalization of input + skip + bias; the fourth output is that sum."""
    x = _sum(call, 4)
    size = (x.shape[-1],)
    out = F.layer_norm(x, size, call.tensor(2), call.optional(3), call.real("epsilon", 1e-12))
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return out, mean, torch.rsqrt(variance + call.real("epsilon", 1e-12)), x


def skip_rms_normalization(call: Call) -> Result:
    """RMSNormalization of input + skip + bias; the fourth output is that sum."""
    x = _sum(call, 3)
    out, factor = rms_normalization(call.on(x, call.tensor(2)))
    return out, torch.zeros_like(factor), factor, x


def _sum(call: Call, bias: int) -> torch.Tensor:
    x = call.first + call.tensor(1)
    return x if call.optional(bias) is None else x + call.tensor(bias)


def embed_layer_normalization(call: Call) -> Result:
    """The sum of the embeddings of words, places and segments, normalized; the number of tokens; the sum."""
    words, segments, places = call.first.long(), call.optional(1), call.optional(8)
    if places is None:
        places = torch.arange(words.shape[1], device=words.device)[None]
    total = F.embedding(words, call.tensor(2)) + F.embedding(places.long(), call.tensor(3))
    if segments is not None:
        total = total + F.embedding(segments.long(), call.tensor(4))
    out = F.layer_norm(total, (total.shape[-1],), call.tensor(5), call.optional(6), call.real("epsilon", 1e-12))
    mask = call.optional(7)
    count = words.new_zeros(len(words)) if mask is None else (mask != 0).sum(1)
    return out, count.to(torch.int32), total


def group_norm(call: Call) -> torch.Tensor:
    """GroupNormalization with channels last unless told otherwise, and a swish where `activation` is 1."""
    return _group_norm(call, call.first)


def skip_group_norm(call: Call) -> Result:
    """GroupNorm of x + skip + bias, and that sum."""
    x, skip, bias = call.first, call.tensor(3), call.optional(4)
    skip = skip if skip.ndim == x.ndim else skip.reshape(skip.shape[0], 1, 1, -1)
    total = x + skip if bias is None else x + skip + bias
    return _group_norm(call, total), total


def _group_norm(call: Call, x: torch.Tensor) -> torch.Tensor:
    last = bool(call.integer("channels_last", 1))
    x = channels_second(x) if last else x
    out = F.group_norm(x, call.integer("groups", 1), call.tensor(1), call.tensor(2), call.real("epsilon", 1e-5))
    out = F.silu(out) if call.integer("activation", 0) else out
    return out.movedim(1, -1) if last else out


def plain_causal_conv(call: Call) -> Result:
    """The standard operator, as long as none of the additions is used."""
    for name, usual in (("ndim", 1), ("dilation", 1), ("channels_last", 0), ("state_window", 0)):
        if call.integer(name, usual) != usual:
            raise call.unsupported(f"{name} = {call.integer(name, usual)}")
    return causal_conv(call)


def expand_dims(call: Call) -> torch.Tensor:
    return call.first.unsqueeze(call.integers(1)[0])


def distances(call: Call) -> torch.Tensor:
    """Between the rows of A [M, N] and B [K, N]: [M, K]."""
    metric = call.text("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        raise call.unsupported(f"the metric {metric!r}")
    squared = (call.first[:, None] - call.tensor(1)[None]).square().sum(-1)
    return squared if metric == "sqeuclidean" else squared.sqrt()


HOST_OPERANDS: Operands = {
    "ExpandDims": (1,),
    "Pad": (1, 2),
    "Range": (0, 1, 2),
    "Trilu": (1,),
    **microsoft_attention.HOST_OPERANDS,
}

RULES: dict[str, Rule] = {
    "BiasAdd": bias_add,
    "BiasGelu": bias_gelu,
    "BiasSoftmax": bias_softmax,
    "BiasSplitGelu": bias_split_gelu,
    "CDist": distances,
    "CausalConvWithState": plain_causal_conv,
    "EmbedLayerNormalization": embed_layer_normalization,
    "ExpandDims": expand_dims,
    "FastGelu": fast_gelu,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "FusedMatMul": fused_matmul,
    "Gelu": lambda call: F.gelu(call.first),
    "GridSample": grid_sample,
    "GroupNorm": group_norm,
    "Inverse": lambda call: torch.linalg.inv(call.first),
    "NhwcConv": nhwc_conv,
    "NhwcFusedConv": nhwc_fused_conv,
    "NhwcMaxPool": nhwc_max_pool,
    "Pad": pad,
    "QuickGelu": quick_gelu,
    "Range": range_,
    "SkipGroupNorm": skip_group_norm,
    "SkipLayerNormalization": skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": skip_rms_normalization,
    "TransposeMatMul": fused_matmul,
    "Trilu": triangle,
    **microsoft_attention.RULES,
    **microsoft_quantized.RULES,
}
