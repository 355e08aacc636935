"""Normalizations: each gives its first output; channels are axis 1 of x [N, C, *spatial]."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .call import Call, Operands, Result, Rule

MOMENTUM = 0.1
"""How far one batch moves the running statistics while the twin trains."""


def batch_normalization(call: Call) -> Result:
    """(x - mean) / sqrt(var + epsilon) * scale + bias; torch can't differentiate by the statistics.

    Where the operator itself is in training mode, mean and variance are those of x, and two more outputs are the stored
    ones moved towards them. Where the twin is, the same, and the stored ones are moved in place.
    """
    if call.integer("spatial", 1) == 0:
        raise call.unsupported("spatial = 0")
    scale, bias, mean, variance = (call.tensor(position) for position in range(1, 5))
    epsilon = call.real("epsilon", 1e-5)
    if not call.integer("training_mode", 0):
        if call.training and call.first.numel() > call.first.shape[1]:
            return F.batch_norm(call.first, mean, variance, scale, bias, True, MOMENTUM, epsilon)
        return F.batch_norm(call.first, mean.detach(), variance.detach(), scale, bias, False, 0.0, epsilon)
    out = F.batch_norm(call.first, None, None, scale, bias, True, 0.0, epsilon)
    axes = [axis for axis in range(call.first.ndim) if axis != 1]
    own_variance, own_mean = torch.var_mean(call.first, axes, correction=0)
    kept = call.real("momentum", 0.9)
    moved = (old * kept + own * (1 - kept) for old, own in ((mean, own_mean), (variance, own_variance)))
    return out, *moved


def instance_normalization(call: Call) -> torch.Tensor:
    """Statistics over the spatial axes of every sample and channel."""
    epsilon = call.real("epsilon", 1e-5)
    return F.instance_norm(call.first, None, None, call.tensor(1), call.tensor(2), True, 0.0, epsilon)


def layer_normalization(call: Call) -> Result:
    """Statistics over the axes from `axis` on; gives mean and inverse deviation too where asked for."""
    x, epsilon = call.first, call.real("epsilon", 1e-5)
    axis = call.integer("axis", -1) % x.ndim
    normal = tuple(x.shape[axis:])
    scale, bias = call.tensor(1), call.optional(2)
    if scale.shape == normal and (bias is None or bias.shape == normal):
        out = F.layer_norm(x, normal, scale, bias, epsilon)
    else:
        out = F.layer_norm(x, normal, None, None, epsilon) * scale
        out = out if bias is None else out + bias
    if len(call.step.outputs) == 1:
        return out
    axes = tuple(range(axis, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return out, mean, torch.rsqrt(variance + epsilon)


def group_normalization(call: Call) -> torch.Tensor:
    """Statistics over groups of channels; before opset 21 scale and bias had one entry per group."""
    x, scale, bias, groups = call.first, call.tensor(1), call.tensor(2), call.integer("num_groups", 1)
    if call.opset < 21 and scale.shape[0] != x.shape[1]:
        scale, bias = (tensor.repeat_interleave(x.shape[1] // groups) for tensor in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.real("epsilon", 1e-5))


def rms_normalization(call: Call) -> Result:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on, and the factor before the scale."""
    x = call.first
    axes = tuple(range(call.integer("axis", -1) % x.ndim, x.ndim))
    factor = torch.rsqrt(x.square().mean(axes, keepdim=True) + call.real("epsilon", 1e-5))
    return x * factor * call.tensor(1), factor


def local_response_normalization(call: Call) -> torch.Tensor:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ^ beta."""
    x, size = call.first, call.integer("size", 1)
    before = (size - 1) // 2
    planes = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
    padded = F.pad(planes, (0, 0, before, size - 1 - before))
    mean = F.avg_pool2d(padded, (size, 1), stride=1).reshape(x.shape)
    return x / (call.real("bias", 1.0) + call.real("alpha", 1e-4) * mean).pow(call.real("beta", 0.75))


def mean_variance_normalization(call: Call) -> torch.Tensor:
    """Zero mean and unit deviation over `axes`, by default all but the channels."""
    x = call.first
    axes = call.listed("axes") or (0, 2, 3)
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)


def lp_normalization(call: Call) -> torch.Tensor:
    """x over its 1- or 2-norm along one axis; zeros stay zeros."""
    x = call.first
    norm: torch.Tensor = torch.linalg.vector_norm(x, call.integer("p", 2), call.integer("axis", -1), keepdim=True)
    return x / torch.where(norm == 0, 1.0, norm)


STATISTICS: Operands = {"BatchNormalization": (3, 4)}

RULES: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "GroupNormalization": group_normalization,
    "RMSNormalization": rms_normalization,
    # ONNX Runtime's own, although it lives in the standard domain.
    "SimplifiedLayerNormalization": rms_normalization,
    "LRN": local_response_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LpNormalization": lp_normalization,
}
