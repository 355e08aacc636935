"""ONNX Runtime's attention operators (domain com.microsoft). Shapes and letters are those of `attention`.

What only its CUDA provider runs (packed batches, shared or quantized caches) has no rule.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .attention import (
    attend,
    heads_apart,
    heads_together,
    in_window,
    linear_attention,
    prohibit,
    rotate,
    scale_of,
    score,
    share_heads,
)
from .call import Call, Operands, Result, Rule
from .quantization import centred

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def attention(call: Call) -> Result:
    """Self-attention with its projection: x [B, T, I], weights [I, q + k + v], bias [q + k + v]."""
    projected = call.first @ call.tensor(1)
    projected = projected if call.optional(2) is None else projected + call.tensor(2)
    return _self_attention(call, projected, mask=3, past=4, bias=5)


def quantized_attention(call: Call) -> Result:
    """`attention` of bytes: operands 3 and 4 are the scales of x and weights, 6 and 7 their zero points."""
    product = centred(call.first, call.optional(6)) @ centred(call.tensor(1), call.optional(7))
    projected = product * (call.tensor(3) * call.tensor(4)) + call.tensor(2)
    return _self_attention(call, projected, mask=5, past=8)


def _self_attention(call: Call, projected: torch.Tensor, mask: int, past: int, bias: int | None = None) -> Result:
    """From queries, keys and values side by side to the output, and the keys and values [2, B, H, S, D] to keep."""
    _refuse(call, "do_rotary", "past_present_share_buffer")
    sizes = call.listed("qkv_hidden_sizes") or (projected.shape[-1] // 3,) * 3
    parts = torch.split(projected, list(sizes), -1)
    query, key, value = (heads_apart(part, call.integer("num_heads", 1)) for part in parts)
    before = call.optional(past)
    if before is not None:
        key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
    limits = _limits(call, query, key, mask, bias)
    out = heads_together(attend(query, key, value, limits, scale_of(call, query.shape[-1])))
    return (out, torch.stack([key, value])) if len(call.step.outputs) > 1 else out


def multi_head_attention(call: Call) -> Result:
    """Attention of given queries, keys and values, with biases and a cache: Y, keys, values."""
    if len(call.step.outputs) > 3:
        raise call.unsupported("an output of its scores")
    query, key, value = _biased(call, *_separate(call))
    if call.has(6):
        key, value = torch.cat([call.tensor(6), key], 2), torch.cat([call.tensor(7), value], 2)
    limits = _limits(call, query, key, mask=4, bias=5)
    return heads_together(attend(query, key, value, limits, scale_of(call, query.shape[-1]))), key, value


def _separate(call: Call) -> Triple:
    """Queries, keys and values however they are packed: [B, T, H, 3, D], [B, S, H, 2, D], [B, T, H * D] or apart."""
    heads = call.integer("num_heads", 1)
    if call.first.ndim == 5:
        query, key, value = (part.transpose(1, 2) for part in call.first.unbind(3))
        return query, key, value
    query = heads_apart(call.first, heads)
    if call.tensor(1).ndim == 5:
        key, value = (part.transpose(1, 2) for part in call.tensor(1).unbind(3))
        return query, key, value
    key, value = (x if x.ndim == 4 else heads_apart(x, heads) for x in (call.tensor(1), call.tensor(2)))
    return query, key, value


def _biased(call: Call, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Triple:
    """The biases of the three projections; keys and values that come with heads apart have theirs already."""
    bias = call.optional(3)
    if bias is None:
        return query, key, value
    heads, size = query.shape[1], query.shape[1] * query.shape[3]
    of_query, of_key, of_value = (
        part.reshape(heads, 1, -1) for part in torch.split(bias, [size, size, bias.shape[0] - 2 * size])
    )
    if call.has(1) and call.tensor(1).ndim == 4:
        return query + of_query, key, value
    return query + of_query, key + of_key, value + of_value


def _limits(call: Call, query: torch.Tensor, key: torch.Tensor, mask: int, bias: int | None) -> torch.Tensor | None:
    """All that is added to the scores: masks, causality, a bias."""
    keys = key.shape[2]
    terms = []
    given = call.optional(mask)
    if given is not None:
        fill = call.real("mask_filter_value", -10000.0)
        terms.append(prohibit(_allowed(call, given, len(query), keys), query.dtype, fill))
    if call.integer("unidirectional", 0):
        places = keys - query.shape[2] + torch.arange(query.shape[2], device=query.device)
        terms.append(prohibit(in_window(places, keys, -1, 0), query.dtype))
    if bias is not None and call.optional(bias) is not None:
        terms.append(call.tensor(bias))
    return sum(terms[1:], terms[0]) if terms else None


def _allowed(call: Call, mask: torch.Tensor, samples: int, keys: int) -> torch.Tensor:
    """[B] lengths, [2 B] ends and starts, or flags [B, S] or [B, T, S], as what broadcasts to [B, H, T, S]."""
    if mask.ndim == 1 and len(mask) in (samples, 2 * samples):
        place = torch.arange(keys, device=mask.device)
        seen = place < mask[:samples, None]
        seen = seen & (place >= mask[samples:, None]) if len(mask) > samples else seen
        return seen[:, None, None]
    if mask.ndim in (2, 3):
        return (mask > 0)[:, None, None] if mask.ndim == 2 else (mask > 0)[:, None]
    raise call.unsupported(f"a mask of shape {list(mask.shape)}")


def _refuse(call: Call, *names: str) -> None:
    for name in names:
        if call.integer(name, 0):
            raise call.unsupported(name)


def group_query_attention(call: Call) -> Result:
    """Causal attention with a cache that each sample has filled so far: Y, keys [B, G, P, D], values.

    Operand 5 says for each sample what the place of its last token is, operand 6 how long the cache is now.
    """
    _check_group_query(call)
    heads, groups = call.integer("num_heads", 1), call.integer("kv_num_heads", 1)
    query, key, value = _grouped(call, heads, groups)
    count, longest = query.shape[2], call.integers(6)[0]
    last = call.tensor(5).reshape(-1, 1)
    filled = torch.zeros_like(last) if longest == count else last + 1 - count
    places = filled + torch.arange(count, device=filled.device)
    if call.integer("do_rotary", 0):
        query, key = (_turn(call, x, places) for x in (query, key))
    key, value = (_cached(call.optional(at), x, places, longest) for at, x in ((3, key), (4, value)))
    left = call.integer("local_window_size", -1)
    # The window counts the query itself.
    seen = in_window(places, longest, left - 1 if left > 0 else -1, 0)
    if not call.integer("causal", 1):
        seen = (torch.arange(longest, device=last.device) <= last)[:, None].expand_as(seen)
    limits = prohibit(seen[:, None], query.dtype)
    limits = limits if call.optional(10) is None else limits + call.tensor(10)
    out = _sunk(call, query, key[:, :, :longest], value[:, :, :longest], limits)
    return heads_together(out), key, value


def _check_group_query(call: Call) -> None:
    _refuse(call, "sliding_window_cache", "qk_output")
    if any(call.has(position) for position in (12, 13, 14, 15)):
        raise call.unsupported("a quantized cache or normalized queries")


def _grouped(call: Call, heads: int, groups: int) -> Triple:
    """Queries, keys and values, side by side in one tensor or each in its own."""
    if call.has(1):
        key, value = (heads_apart(call.tensor(position), groups) for position in (1, 2))
        return heads_apart(call.first, heads), key, value
    query, key, value = torch.split(heads_apart(call.first, heads + 2 * groups), [heads, groups, groups], 1)
    return query, key, value


def _turn(call: Call, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rotate by the angles of operands 7 and 8 [places, R / 2]; operand 9 may give places of its own."""
    own = call.optional(9)
    places = places if own is None else own
    cosine, sine = (call.tensor(position)[places.long()].unsqueeze(1) for position in (7, 8))
    return rotate(x, cosine, sine, bool(call.integer("rotary_interleaved", 0)))


def _cached(past: torch.Tensor | None, new: torch.Tensor, places: torch.Tensor, longest: int) -> torch.Tensor:
    """The cache as far as it is filled, with the new tokens at their places [B, T]; it grows where it is too short."""
    if past is None:
        cache = new.new_zeros(*new.shape[:2], longest, new.shape[3])
    else:
        stale = torch.arange(past.shape[2], device=past.device) >= places[:, :1]
        cache = F.pad(past.masked_fill(stale[:, None, :, None], 0.0), (0, 0, 0, max(0, longest - past.shape[2])))
    return cache.scatter(2, places[:, None, :, None].expand_as(new), new)


def _sunk(
    call: Call, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, limits: torch.Tensor
) -> torch.Tensor:
    """Attention, of which each head may lose some weight to a key without a value (operand 11)."""
    scale, softcap = scale_of(call, query.shape[-1]), call.real("softcap", 0.0)
    sink = call.optional(11)
    if sink is None and not call.integer("smooth_softmax", 0):
        return attend(query, key, value, limits, scale, softcap)
    scores = score(query, key, limits, scale, softcap).biased
    lost = scores.new_zeros(1) if sink is None else sink.to(scores.dtype).reshape(-1, 1, 1)
    weights = torch.softmax(torch.cat([scores, lost.expand(*scores.shape[:-1], 1)], -1), -1)[..., :-1]
    return weights @ share_heads(value, query.shape[1])


def rotary_embedding(call: Call) -> torch.Tensor:
    """As the standard's, but places [B, T] (or one, where the first token is) come first, and tables are a must."""
    _refuse(call, "is_packed_batching")
    x, places, cosine, sine = (call.tensor(position) for position in range(4))
    heads = call.integer("num_heads", 0) or x.shape[-1] // (2 * cosine.shape[-1])
    apart = x if x.ndim == 4 else heads_apart(x, heads)
    if places.ndim == 1:
        places = (places + torch.arange(apart.shape[2], device=places.device))[None]
    cosine, sine = (table[places.long()].unsqueeze(1) for table in (cosine, sine))
    out = rotate(apart, cosine, sine, bool(call.integer("interleaved", 0)))
    return out if x.ndim == 4 else heads_together(out)


def plain_linear_attention(call: Call) -> Result:
    _refuse(call, "state_window")
    return linear_attention(call)


HOST_OPERANDS: Operands = {"GroupQueryAttention": (6,)}

RULES: dict[str, Rule] = {
    "Attention": attention,
    "MultiHeadAttention": multi_head_attention,
    "GroupQueryAttention": group_query_attention,
    "LinearAttention": plain_linear_attention,
    "QAttention": quantized_attention,
    "RotaryEmbedding": rotary_embedding,
}
