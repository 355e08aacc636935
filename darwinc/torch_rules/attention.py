"""Attention by scaled dot products, its linear relative, and the rotation of queries and keys by their position.

Shapes: queries [B, H, T, D], keys [B, G, S, D], values [B, G, S, E], for B samples, H heads of which H / G share one
head of keys and values, T queries and S keys. ONNX also packs the heads into the last axis: [B, T, H * D].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .call import Call, Result, Rule


class Stages(NamedTuple):
    """What attention computes on its way, each [B, H, T, S]; numbered as `qk_matmul_output_mode` numbers them."""

    raw: torch.Tensor
    capped: torch.Tensor
    biased: torch.Tensor
    weights: torch.Tensor


def heads_apart(x: torch.Tensor, count: int) -> torch.Tensor:
    """[B, T, H * D] to [B, H, T, D]."""
    return x.reshape(*x.shape[:-1], count, -1).transpose(1, 2)


def heads_together(x: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D] to [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


def share_heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """[B, G, S, D] to [B, H, S, D]: each head repeated for the queries that share it."""
    return x if x.shape[1] == count else x.repeat_interleave(count // x.shape[1], 1)


def scale_of(call: Call, size: int) -> float:
    """The attribute, by default (or where it is 0) one over the square root of the size of a head."""
    return call.real("scale", 0.0) or 1.0 / math.sqrt(size)


def prohibit(allowed: torch.Tensor, dtype: torch.dtype, value: float = -math.inf) -> torch.Tensor:
    """A mask as something to add to scores: 0 where allowed, `value` elsewhere."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, value)


def in_window(places: torch.Tensor, keys: int, left: int, right: int) -> torch.Tensor:
    """Which keys [..., T, S] a query sees from its place [..., T]: so many to each side, all of them where -1."""
    key = torch.arange(keys, device=places.device)
    ahead = key - places.unsqueeze(-1)
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if left >= 0:
        seen = seen & (ahead >= -left)
    return seen & (ahead <= right) if right >= 0 else seen


def score(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, scale: float, softcap: float = 0.0
) -> Stages:
    """Every stage on the way to the weights; a query that no key is allowed to gets no weight at all."""
    raw = query @ share_heads(key, query.shape[1]).transpose(-1, -2) * scale
    capped = softcap * torch.tanh(raw / softcap) if softcap > 0 else raw
    if bias is None:
        return Stages(raw, capped, capped, torch.softmax(capped, -1))
    biased = capped + bias
    # The lowest number instead of minus infinity: a row of nothing else would give NaN, also to gradients.
    weights = torch.softmax(biased.clamp_min(torch.finfo(biased.dtype).min), -1)
    return Stages(raw, capped, biased, weights.masked_fill(bias == -math.inf, 0.0))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float = 0.0,
) -> torch.Tensor:
    """softmax(scale * query @ key^T, capped, + bias) @ value: [B, H, T, E]."""
    if softcap > 0:
        return score(query, key, bias, scale, softcap).weights @ share_heads(value, query.shape[1])
    key, value = (share_heads(tensor, query.shape[1]) for tensor in (key, value))
    return F.scaled_dot_product_attention(query, key, value, bias, scale=scale)


def attention(call: Call) -> Result:
    """The operator of opset 23: Y, then the keys and values to keep, then the stage that was asked for."""
    packed = call.first.ndim == 3
    query, key, value = (call.tensor(position) for position in range(3))
    if packed:
        query = heads_apart(query, call.integer("q_num_heads", 1))
        key, value = (heads_apart(tensor, call.integer("kv_num_heads", 1)) for tensor in (key, value))
    past = call.tensor(4).shape[2] if call.has(4) else 0
    if call.has(4):
        key, value = torch.cat([call.tensor(4), key], 2), torch.cat([call.tensor(5), value], 2)
    bias = _bias(call, query, key.shape[2], past)
    scale, softcap = scale_of(call, query.shape[-1]), call.real("softcap", 0.0)
    if len(call.step.outputs) < 4:
        out = attend(query, key, value, bias, scale, softcap)
        return (heads_together(out) if packed else out), key, value
    stages = score(query, key, bias, scale, softcap)
    out = stages.weights @ share_heads(value, query.shape[1])
    return (heads_together(out) if packed else out), key, value, stages[call.integer("qk_matmul_output_mode", 0)]


def _bias(call: Call, query: torch.Tensor, keys: int, past: int) -> torch.Tensor | None:
    """All that limits what a query sees, as one thing to add to the scores."""
    bias, allowed = call.optional(3), []
    if bias is not None:
        fill = False if bias.dtype == torch.bool else -math.inf
        bias = F.pad(bias, (0, keys - bias.shape[-1]), value=fill)
        bias = prohibit(bias, query.dtype) if bias.dtype == torch.bool else bias
        bias = bias if bias.ndim > 1 else bias[None]
    counted = call.optional(6)
    places = past + torch.arange(query.shape[2], device=query.device)
    if counted is not None:
        allowed.append((torch.arange(keys, device=query.device) < counted.reshape(-1, 1))[:, None, None])
        places = places + counted.reshape(-1, 1, 1) - query.shape[2]
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    right = 0 if call.integer("is_causal", 0) else right
    if left >= 0 or right >= 0:
        allowed.append(in_window(places, keys, left, right))
    for seen in allowed:
        limit = prohibit(seen, query.dtype)
        bias = limit if bias is None else bias + limit
    return bias


def flex_attention(call: Call) -> torch.Tensor:
    """Attention whose scores and weights [B, H, T, S] the node's own graphs may change."""
    query, key, value = (call.tensor(position) for position in range(3))
    scores = query @ share_heads(key, query.shape[1]).transpose(-1, -2) * scale_of(call, query.shape[-1])
    if "score_mod" in call.step.bodies:
        (scores,) = call.body("score_mod")(scores)
    weights = torch.softmax(scores, -1)
    if "prob_mod" in call.step.bodies:
        (weights,) = call.body("prob_mod")(weights)
    return weights @ share_heads(value, query.shape[1])


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Turn the first R of the last axis of x, as pairs, by angles [..., R / 2]; what lies beyond stays.

    The partner of an element is its neighbour where `interleaved`, else the one half of R further on.
    """
    count = 2 * cosine.shape[-1]
    turned, rest = x[..., :count], x[..., count:]
    real, imaginary = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    out = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([out, rest], -1) if rest.shape[-1] else out


def rotary_embedding(call: Call) -> torch.Tensor:
    """Angles [B, T, R / 2], or a table of them [places, R / 2] and the place of each token [B, T]."""
    x, places = call.first, call.optional(3)
    cosine, sine = call.tensor(1), call.tensor(2)
    if places is not None:
        cosine, sine = cosine[places.long()], sine[places.long()]
    apart = x if x.ndim == 4 else heads_apart(x, call.integer("num_heads", 1))
    out = rotate(apart, cosine.unsqueeze(1), sine.unsqueeze(1), bool(call.integer("interleaved", 0)))
    return out if x.ndim == 4 else heads_together(out)


def linear_attention(call: Call) -> Result:
    """A state [B, G, D, E] that decays, learns one key and value at a time, and is read by the queries."""
    rule = call.text("update_rule", "gated_delta")
    groups = call.integer("kv_num_heads", 1)
    query = heads_apart(call.first, call.integer("q_num_heads", 1))
    key, value = (heads_apart(call.tensor(position), groups) for position in (1, 2))
    decay = heads_apart(call.tensor(4), groups).exp().unsqueeze(-1) if rule.startswith("gated") else None
    rate = heads_apart(call.tensor(5), call.tensor(5).shape[-1]).unsqueeze(-1) if rule.endswith("delta") else None
    state = call.optional(3)
    state = key.new_zeros(*key.shape[:2], key.shape[3], value.shape[3]) if state is None else state
    read = []
    for step in range(query.shape[2]):
        state = state if decay is None else state * decay[:, :, step]
        now, news = key[:, :, step, :, None], value[:, :, step, None]
        if rate is not None:
            news = rate[:, :, step] * (news - now.transpose(-1, -2) @ state)
        state = state + now * news
        read.append(query[:, :, step, None] @ share_heads(state, query.shape[1]))
    return heads_together(torch.cat(read, 2) * scale_of(call, query.shape[-1])), state


RULES: dict[str, Rule] = {
    "Attention": attention,
    "RotaryEmbedding": rotary_embedding,
    "LinearAttention": linear_attention,
}

PREVIEW_RULES: dict[str, Rule] = {"FlexAttention": flex_attention}
