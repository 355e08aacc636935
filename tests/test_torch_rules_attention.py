"""Torch rules of attention: the standard's, and ONNX Runtime's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.operator_cases import Array, Case, check, flags, ints, noise, ways

FOUR = [noise(2, 4, 3, 8), noise(2, 4, 5, 8, seed=1), noise(2, 4, 5, 6, seed=2)]
GROUPED = [noise(2, 4, 3, 8), noise(2, 2, 5, 8, seed=1), noise(2, 2, 5, 6, seed=2)]
PACKED = [noise(2, 3, 32), noise(2, 5, 32, seed=1), noise(2, 5, 24, seed=2)]
SQUARE = [noise(2, 4, 5, 8), noise(2, 4, 5, 8, seed=1), noise(2, 4, 5, 8, seed=2)]
PAST = [noise(2, 4, 2, 8, seed=3), noise(2, 4, 2, 6, seed=4)]
HEADS = {"q_num_heads": 4, "kv_num_heads": 4}
BLIND = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], bool)

STANDARD = [
    Case("Attention", FOUR, opset=23),
    Case("Attention", FOUR, {"scale": 0.3, "softcap": 2.0}, opset=23),
    Case("Attention", PACKED, HEADS, opset=23),
    Case("Attention", [noise(2, 3, 32), noise(2, 5, 16), noise(2, 5, 16)], {"q_num_heads": 4, "kv_num_heads": 2}, 23),
    Case("Attention", GROUPED, opset=23),
    Case("Attention", [*FOUR, noise(3, 5, seed=3)], opset=23),
    Case("Attention", [*FOUR, noise(2, 1, 3, 5, seed=3)], opset=23),
    Case("Attention", [*FOUR, noise(1, 4, 3, 5, seed=3)], opset=23),
    Case("Attention", [*FOUR, flags(2, 4, 3, 5)], opset=23),
    Case("Attention", [*FOUR, BLIND], opset=23, reference=True),
    Case("Attention", [*FOUR, noise(3, 4, seed=3)], opset=24, reference=True),
    Case("Attention", SQUARE, {"is_causal": 1}, opset=23),
    Case("Attention", [*SQUARE, noise(5, 5, seed=4)], {"is_causal": 1, "softcap": 3.0}, opset=23),
    Case("Attention", [*FOUR, None, *PAST], opset=23, outputs=3),
    Case("Attention", [*FOUR, None, *PAST], {"is_causal": 1}, opset=24, outputs=3),
    Case("Attention", [*PACKED, noise(3, 7), *PAST], HEADS, opset=23, outputs=3),
    *(
        Case("Attention", [*FOUR, noise(3, 5, seed=3)], {"qk_matmul_output_mode": mode}, opset=24, outputs=4)
        for mode in (0, 2, 3)
    ),
    *(
        Case("Attention", FOUR, {"qk_matmul_output_mode": mode, "softcap": 2.0}, 24, 4, reference=True)
        for mode in (1, 2, 3)
    ),
    Case("Attention", [*FOUR, None, None, None, ints(5, 3)], opset=24),
    Case("Attention", [*FOUR, None, None, None, ints(5, 3)], {"is_causal": 1}, opset=24),
    Case("Attention", SQUARE, {"left_window_size": 2, "right_window_size": 1}, opset=25, reference=True),
    Case("Attention", SQUARE, {"left_window_size": 1, "is_causal": 1}, opset=25, reference=True),
]

ANGLES = [noise(2, 3, 4, seed=1), noise(2, 3, 4, seed=2)]
TABLES = [noise(9, 4, seed=1), noise(9, 4, seed=2)]
PLACES = np.array([[0, 1, 2], [5, 6, 8]], np.int64)
ROTATION = [
    *(Case("RotaryEmbedding", [noise(2, 4, 3, 8), *ANGLES], {"interleaved": kind}, 23) for kind in (0, 1)),
    *(
        Case("RotaryEmbedding", [noise(2, 3, 32), *TABLES, PLACES], {"interleaved": kind, "num_heads": 4}, 23)
        for kind in (0, 1)
    ),
    Case("RotaryEmbedding", [noise(2, 3, 40), *TABLES, PLACES], {"num_heads": 4, "rotary_embedding_dim": 8}, opset=23),
    *(
        Case("com.microsoft::RotaryEmbedding", [noise(2, 3, 32), places, *TABLES], {"interleaved": kind})
        for kind in (0, 1)
        for places in (PLACES, ints(4))
    ),
    Case("com.microsoft::RotaryEmbedding", [noise(2, 4, 3, 8), PLACES, *TABLES]),
    Case(
        "com.microsoft::RotaryEmbedding",
        [noise(2, 3, 40), PLACES, *TABLES],
        {"num_heads": 4, "rotary_embedding_dim": 8},
    ),
]

MEMORY = [noise(2, 5, 24), noise(2, 5, 12, seed=1) / 4, noise(2, 5, 16, seed=2)]
COUNTS = {"q_num_heads": 4, "kv_num_heads": 2}
RATES = [noise(2, 5, 2, seed=4, low=-1, high=0), noise(2, 5, 2, seed=5, low=0, high=1)]
LINEAR = [
    Case(op, [*MEMORY, *more], {**COUNTS, "update_rule": rule}, opset, 2, reference)
    for op, opset, reference in (("LinearAttention", 27, True), ("com.microsoft::LinearAttention", 17, False))
    for rule, more in (
        ("linear", []),
        ("gated", [noise(2, 2, 6, 8, seed=3), RATES[0]]),
        ("gated", [None, noise(2, 5, 12, seed=4, low=-1, high=0)]),
        ("delta", [noise(2, 2, 6, 8, seed=3), None, RATES[1]]),
        ("gated_delta", [None, RATES[0], RATES[1][:, :, :1]]),
    )
]

SELF = [noise(2, 5, 7), noise(7, 24, seed=1) / 2, noise(24, seed=2)]
UNEVEN = [noise(2, 5, 7), noise(7, 28, seed=1) / 2, noise(28, seed=2)]
KEEP = np.array([[1, 1, 1, 0, 1], [1, 1, 1, 1, 0]], np.int32)
CACHE = [noise(2, 4, 2, 8, seed=5), noise(2, 4, 2, 8, seed=6)]
CROSS = [noise(2, 3, 32), noise(2, 5, 32, seed=1), noise(2, 5, 32, seed=2)]
RUNTIME = [
    Case("com.microsoft::Attention", SELF, {"num_heads": 2}),
    Case("com.microsoft::Attention", SELF, {"num_heads": 2, "scale": 0.2, "unidirectional": 1}),
    Case("com.microsoft::Attention", UNEVEN, {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 12]}),
    Case("com.microsoft::Attention", [*SELF, KEEP], {"num_heads": 2, "mask_filter_value": -50.0}),
    Case("com.microsoft::Attention", [*SELF, np.array([3, 5], np.int32)], {"num_heads": 2}),
    Case("com.microsoft::Attention", [*SELF, np.array([3, 5, 1, 0], np.int32)], {"num_heads": 2}),
    Case(
        "com.microsoft::Attention", [*SELF, (flags(2, 5, 5) | np.eye(5, dtype=bool)).astype(np.int32)], {"num_heads": 2}
    ),
    Case("com.microsoft::Attention", [*SELF, None, noise(2, 2, 2, 3, 4)], {"num_heads": 2}, outputs=2),
    Case(
        "com.microsoft::Attention",
        [*SELF, None, noise(2, 2, 2, 3, 4)],
        {"num_heads": 2, "unidirectional": 1},
        outputs=2,
    ),
    Case("com.microsoft::Attention", [*SELF, None, None, noise(1, 2, 5, 5)], {"num_heads": 2}),
    Case("com.microsoft::MultiHeadAttention", CROSS, {"num_heads": 4}),
    Case("com.microsoft::MultiHeadAttention", [*PACKED], {"num_heads": 4, "scale": 0.1}),
    Case("com.microsoft::MultiHeadAttention", [*CROSS, noise(96)], {"num_heads": 4}, outputs=3),
    Case("com.microsoft::MultiHeadAttention", [*PACKED, noise(88)], {"num_heads": 4}),
    Case("com.microsoft::MultiHeadAttention", [*CROSS, None, KEEP], {"num_heads": 4}),
    Case("com.microsoft::MultiHeadAttention", [*CROSS, None, np.array([3, 5], np.int32)], {"num_heads": 4}),
    Case("com.microsoft::MultiHeadAttention", [*CROSS, None, None, noise(2, 1, 3, 5)], {"num_heads": 4}),
    Case("com.microsoft::MultiHeadAttention", [CROSS[0], *SQUARE[1:]], {"num_heads": 4}),
    Case("com.microsoft::MultiHeadAttention", [CROSS[0], *SQUARE[1:], noise(96)], {"num_heads": 4}),
    Case(
        "com.microsoft::MultiHeadAttention",
        [CROSS[0], *[noise(2, 3, 32, seed=s) for s in (1, 2)], None, None, noise(2, 4, 3, 5), *CACHE],
        {"num_heads": 4},
        outputs=3,
    ),
    Case(
        "com.microsoft::MultiHeadAttention",
        [*[noise(2, 5, 32, seed=s) for s in (0, 1, 2)]],
        {"num_heads": 4, "unidirectional": 1},
    ),
]


def unpacked(packed: Array) -> tuple[Array, ...]:
    """What MultiHeadAttention makes of [B, T, H, 3, D], which ONNX Runtime packs for CUDA alone."""
    query, key, value = np.moveaxis(packed, 3, 0).transpose(0, 1, 3, 2, 4)
    return attended(query, key, value)


def attended(query: Array, key: Array, value: Array) -> tuple[Array, ...]:
    scores = np.exp(query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]))
    out = scores / scores.sum(-1, keepdims=True) @ value
    return (np.ascontiguousarray(out.transpose(0, 2, 1, 3)).reshape(out.shape[0], out.shape[2], -1),)


def paired(query: Array, both: Array) -> tuple[Array, ...]:
    """The same with keys and values [B, S, H, 2, D]."""
    key, value = np.moveaxis(both, 3, 0).transpose(0, 1, 3, 2, 4)
    apart = query.reshape(*query.shape[:2], key.shape[1], -1).transpose(0, 2, 1, 3)
    return attended(apart, key, value)


PACKING = [
    Case("com.microsoft::MultiHeadAttention", [noise(2, 5, 4, 3, 8)], {"num_heads": 4}, closed=unpacked),
    Case("com.microsoft::MultiHeadAttention", [noise(2, 3, 32), noise(2, 5, 4, 2, 8)], {"num_heads": 4}, closed=paired),
]

# ONNX Runtime takes heads of 16 and more where it rotates, and always needs the cache among the outputs.
PROMPT = [noise(2, 3, 64), noise(2, 3, 32, seed=1), noise(2, 3, 32, seed=2)]
ALL = [np.array([2, 2], np.int32), np.array(3, np.int32)]
KEPT = [noise(2, 2, 4, 16, seed=3), noise(2, 2, 4, 16, seed=4)]
NEXT = [noise(2, 1, 64), noise(2, 1, 32, seed=1), noise(2, 1, 32, seed=2)]
FIFTH = [np.array([4, 4], np.int32), np.array(5, np.int32)]
START, GO_ON = [*PROMPT, None, None, *ALL], [*NEXT, *KEPT, *FIFTH]
ROUND = [noise(16, 8, seed=5), noise(16, 8, seed=6)]
# Samples that have filled a part of a cache which is longer than that.
UNFILLED = [*NEXT, *KEPT, np.array([2, 3], np.int32), np.array(4, np.int32)]
GROUPS = {"num_heads": 4, "kv_num_heads": 2}
TURNED = [
    Case(
        "com.microsoft::GroupQueryAttention",
        [*operands, *ROUND, *more],
        {**GROUPS, "do_rotary": 1, "rotary_interleaved": kind},
        outputs=3,
    )
    for operands, more in ((START, []), (GO_ON, []), (GO_ON, [np.array([[4], [7]], np.int64)]))
    for kind in (0, 1)
]
GROUPED_QUERY = [
    *(
        Case("com.microsoft::GroupQueryAttention", START, {**GROUPS, **more}, outputs=3)
        for more in ({}, {"local_window_size": 2}, {"smooth_softmax": 1}, {"causal": 0})
    ),
    *(
        Case("com.microsoft::GroupQueryAttention", GO_ON, {**GROUPS, **more}, outputs=3)
        for more in ({}, {"softcap": 2.0}, {"local_window_size": 3})
    ),
    Case("com.microsoft::GroupQueryAttention", UNFILLED, GROUPS, outputs=3),
    Case("com.microsoft::GroupQueryAttention", [noise(2, 3, 128), *[None] * 4, *ALL], GROUPS, outputs=3),
    Case(
        "com.microsoft::GroupQueryAttention",
        [*START, None, None, None, noise(1, 4, 3, 3), noise(4)],
        GROUPS,
        outputs=3,
    ),
]

CASES = [*STANDARD, *ROTATION, *LINEAR, *RUNTIME, *PACKING, *GROUPED_QUERY, *TURNED]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)
