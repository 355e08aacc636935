"""How good a model's answers are, in ONNX Runtime: accuracy with labels, agreement with the original without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from darwinc.data import Samples, fitting_batches
from darwinc.errors import InvalidData
from darwinc.gate import relative_error
from darwinc.runtime import input_specs, open_session, run

Array = np.ndarray[Any, Any]
BATCH = 64


def compare_quality(
    before: Path | bytes, after: Path | bytes, samples: Samples, *, split: str, threads: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report's `quality` and `parity` of two models on the same samples.

    With labels: top-1 accuracy of the first output [N, K]. Without: the share of samples on which both choose the same
    class, or for outputs that are no class scores the relative error.

    Raises:
        InvalidData: labels for outputs that can't be classes.
    """
    first, second = (open_session(model, threads=threads) for model in (before, after))
    names = [output.name for output in first.get_outputs()]
    right_before = right_after = same = count = 0
    errors: list[float] = []
    for part in fitting_batches(samples, input_specs(first), BATCH):
        wanted, got = run(first, part.feed), run(second, part.feed)
        errors.append(relative_error([wanted[name] for name in names], [got[name] for name in names]))
        scores = [wanted[names[0]], got[names[0]]]
        if all(_is_scores(score) for score in scores):
            one, two = (score.reshape(score.shape[0], -1).argmax(1) for score in scores)
            same += int((one == two).sum())
            count += len(one)
            if part.labels is not None:
                labels = _class_labels(part.labels, len(one))
                right_before += int((one == labels).sum())
                right_after += int((two == labels).sum())
    parity = {"relative_error": float(np.mean(errors)) if errors else None, "samples": len(samples)}
    if samples.labels is not None:
        if not count:
            raise InvalidData(
                "The data has labels, but the model's first output holds no class scores [N, K]; leave the labels out."
            )
        return _quality("top1", right_before / count, right_after / count, count, split), parity
    if count:
        return _quality("agreement", 1.0, same / count, count, split), parity
    found = _quality("relative_error", 0.0, parity["relative_error"], len(samples), split)
    return {**found, "higher_is_better": False}, parity


def _quality(metric: str, before: float, after: float | None, samples: int, split: str) -> dict[str, Any]:
    return {"metric": metric, "before": before, "after": after, "samples": samples, "split": split, "scale": "fraction"}


def _is_scores(output: Array) -> bool:
    """[N, K], or [N, K, 1, 1]."""
    return (
        output.ndim >= 2
        and output.shape[1] > 1
        and output.size == output.shape[0] * output.shape[1]
        and np.issubdtype(output.dtype, np.floating)
    )


def _class_labels(labels: Array, count: int) -> Array:
    if labels.ndim != 1 or len(labels) != count or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidData(
            f"Labels of shape {list(labels.shape)} and type {labels.dtype} were found; one whole number per sample was "
            "expected."
        )
    return labels
