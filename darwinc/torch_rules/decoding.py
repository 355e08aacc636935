"""Operators that make numbers of what isn't numbers yet: image files, sequences of tokens."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from .call import Call, Rule

Gram = tuple[int, ...]


def image_decoder(call: Call) -> torch.Tensor:
    """The pixels [H, W, C] of an image file, whose bytes are the operand."""
    layout = call.text("pixel_format", "RGB")
    picture = Image.open(io.BytesIO(call.first.cpu().numpy().tobytes()))
    pixels = np.array(picture.convert("L" if layout == "Grayscale" else "RGB"))
    pixels = pixels[:, :, None] if layout == "Grayscale" else pixels
    return torch.from_numpy(pixels[:, :, ::-1].copy() if layout == "BGR" else pixels).to(call.device)


def term_frequencies(call: Call) -> torch.Tensor:
    """How often each n-gram of a pool is in a row of tokens: [columns], or [N, columns] for rows [N, T].

    The n tokens may lie apart, with up to `max_skip_count` others between each two. Each n-gram has a column, and where
    the mode asks for it a weight.
    """
    pool = call.listed("pool_int64s")
    if pool is None:
        raise call.unsupported("strings")
    grams = list(_pool(pool, call.listed("ngram_counts") or ()))
    columns = call.listed("ngram_indexes") or ()
    mode, weights = call.text("mode", "TF"), call.reals("weights") or (1.0,) * len(grams)
    rows = call.first.reshape(-1, call.first.shape[-1]).tolist()
    out = torch.zeros(len(rows), max(columns) + 1)
    for found, row in zip(out, rows, strict=True):
        counts = _counts(row, call.integer("min_gram_length", 1), call.integer("max_gram_length", 1), call)
        for gram, column, weight in zip(grams, columns, weights, strict=True):
            count = counts[gram]
            found[column] += {"TF": count, "IDF": weight * (count > 0), "TFIDF": weight * count}[mode]
    return out.reshape(*call.first.shape[:-1], -1).to(call.device)


def _pool(tokens: Sequence[int], starts: Sequence[int]) -> Iterator[Gram]:
    """All n-grams of a pool that holds first the 1-grams, then the 2-grams, ..., from these places on."""
    for size, (start, end) in enumerate(zip(starts, (*starts[1:], len(tokens)), strict=True), 1):
        yield from (tuple(tokens[place : place + size]) for place in range(start, end, size))


def _counts(row: Sequence[int], shortest: int, longest: int, call: Call) -> Counter[Gram]:
    found: Counter[Gram] = Counter()
    for size in range(shortest, longest + 1):
        for pace in range(1, call.integer("max_skip_count", 0) + 2 if size > 1 else 2):
            reach = (size - 1) * pace
            found.update(tuple(row[start : start + reach + 1 : pace]) for start in range(len(row) - reach))
    return found


RULES: dict[str, Rule] = {"ImageDecoder": image_decoder, "TfIdfVectorizer": term_frequencies}
