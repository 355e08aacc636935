"""How good a model's answers are, in ONNX Runtime: against labels, or without any against the original's answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from darwinc.data import Samples, fitting_batches
from darwinc.errors import InvalidData
from darwinc.gate import relative_error
from darwinc.runtime import Feed, input_specs, open_session, run

Array = np.ndarray[Any, Any]
BATCH = 64
ANSWER_BYTES = 256 * 2**20
"""What the original's answers may take that are kept."""
IGNORED = (255, -1)
"""Labels of pixels where nothing is known: 255 unless there are that many classes, else -1."""
MOST_CLASSES = 65536


class Metric(Protocol):
    """A figure between 0 and 1 that is counted batch by batch."""

    def add(self, scores: Array, target: Array) -> None: ...

    @property
    def count(self) -> int: ...

    @property
    def value(self) -> float: ...


@dataclass
class Accuracy:
    """The share of samples whose highest score is their label's: scores [N, K], labels [N]."""

    right: int = 0
    count: int = 0

    def add(self, scores: Array, target: Array) -> None:
        self.right += int((scores.reshape(len(scores), -1).argmax(1) == target).sum())
        self.count += len(target)

    @property
    def value(self) -> float:
        return self.right / max(self.count, 1)


@dataclass
class Overlap:
    """Mean over classes of intersection over union, of maps: scores [N, K, h, w], labels [N, H, W].

    One channel is a probability, from a half on class 1. Classes that are nowhere don't count.
    """

    count: int = 0
    confusion: Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def add(self, scores: Array, target: Array) -> None:
        guess = classes_of(_resized(scores, target.shape[1:]))
        ignored = IGNORED[0] if target.max(initial=0) <= IGNORED[0] else IGNORED[1]
        known = (target != ignored) & (target >= 0)
        size = int(max(guess.max(initial=0), target[known].max(initial=0))) + 1
        if size > MOST_CLASSES:
            raise InvalidData(f"A label of {size - 1} was found, but maps have at most {MOST_CLASSES} classes.")
        grown = np.zeros((max(size, len(self.confusion)),) * 2, np.int64)
        grown[: len(self.confusion), : len(self.confusion)] = self.confusion
        np.add.at(grown, (target[known], guess[known]), 1)
        self.confusion = grown
        self.count += len(target)

    @property
    def value(self) -> float:
        both = np.diag(self.confusion)
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return float((both[either > 0] / either[either > 0]).mean()) if either.any() else 0.0


@dataclass
class YesOrNo:
    """The share of yes-or-no labels that are met: outputs and labels of one shape; `limit` is where yes begins."""

    limit: float = 0.0
    right: int = 0
    asked: int = 0
    count: int = 0

    def add(self, scores: Array, target: Array) -> None:
        met = (scores.reshape(target.shape) >= self.limit) == (target >= 0.5)
        self.right += int(met.sum())
        self.asked += met.size
        self.count += len(target)

    @property
    def value(self) -> float:
        return self.right / max(self.asked, 1)


def classes_of(scores: Array) -> Array:
    """Maps [N, K, H, W] as class numbers [N, H, W]; one channel is a probability."""
    found: Array = (scores[:, 0] >= 0.5).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(1)
    return found


def _resized(scores: Array, size: tuple[int, ...]) -> Array:
    if scores.shape[2:] == size:
        return scores
    from scipy import ndimage

    factors = (1, 1, size[0] / scores.shape[2], size[1] / scores.shape[3])
    found: Array = ndimage.zoom(scores, factors, order=1, grid_mode=True, mode="nearest")
    return found


class Examiner:
    """Asks models the same questions as the original, whose answers are kept where they are small.

    With labels the first output is judged: `top1` for classes, `mean_iou` for maps, `label_accuracy` for yes-or-no
    labels. Without: `agreement`, the share of samples on which both choose the same class; of class probabilities for
    each pixel `pixel_agreement`; and for other outputs the relative error.
    """

    def __init__(self, original: Path | bytes, samples: Samples, *, threads: int = 0) -> None:
        self._session = open_session(original, threads=threads)
        self._samples, self._threads = samples, threads
        self._names = [output.name for output in self._session.get_outputs()]
        self._inputs = input_specs(self._session)
        self._answers: list[dict[str, Array]] = []
        self._bytes = 0

    def examine(self, model: Path | bytes, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The report's `quality` and `parity` of a model.

        Raises:
            InvalidData: labels that don't go with the first output.
        """
        session = open_session(model, threads=self._threads)
        metrics: tuple[str, Metric, Metric] | None = None
        errors: list[float] = []
        for place, part in enumerate(fitting_batches(self._samples, self._inputs, BATCH)):
            wanted, got = self._answer(place, part.feed), run(session, part.feed)
            errors.append(relative_error([wanted[name] for name in self._names], [got[name] for name in self._names]))
            metrics = _judged(metrics, wanted[self._names[0]], got[self._names[0]], part.labels)
        count = len(self._samples)
        parity = {"relative_error": float(np.mean(errors)) if errors else None, "samples": count}
        if metrics is not None:
            name, old, new = metrics
            return _quality(name, old.value, new.value, old.count, split), parity
        found = _quality("relative_error", 0.0, parity["relative_error"], count, split)
        return {**found, "higher_is_better": False}, parity

    def _answer(self, place: int, feed: Feed) -> dict[str, Array]:
        """What the original answers to a batch."""
        if place < len(self._answers):
            return self._answers[place]
        found = run(self._session, feed)
        size = sum(np.asarray(value).nbytes for value in found.values())
        if place == len(self._answers) and self._bytes + size <= ANSWER_BYTES:
            self._answers.append(found)
            self._bytes += size
        return found


def _judged(
    metrics: tuple[str, Metric, Metric] | None, one: Array, two: Array, labels: Array | None
) -> tuple[str, Metric, Metric] | None:
    """One more batch of the original's first output and of the other model's, where there is a metric for them."""
    if labels is not None:
        metrics = metrics or _labelled(one, labels)
        metrics[1].add(one, labels)
        metrics[2].add(two, labels)
    elif _is_scores(one) and _is_scores(two):
        metrics = metrics or ("agreement", Accuracy(), Accuracy())
        target = one.reshape(len(one), -1).argmax(1)
        metrics[1].add(one, target)
        metrics[2].add(two, target)
    elif _is_class_map(one) and two.shape == one.shape:
        metrics = metrics or ("pixel_agreement", YesOrNo(0.5), YesOrNo(0.5))
        same = (classes_of(one) == classes_of(two)).astype(np.float32)
        metrics[1].add(np.ones_like(same), np.ones_like(same))
        metrics[2].add(same, np.ones_like(same))
    return metrics


def compare_quality(
    before: Path | bytes, after: Path | bytes, samples: Samples, *, split: str, threads: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report's `quality` and `parity` of two models on the same samples (`Examiner`).

    Raises:
        InvalidData: labels that don't go with the first output.
    """
    return Examiner(before, samples, threads=threads).examine(after, split)


def _quality(metric: str, before: float, after: float | None, samples: int, split: str) -> dict[str, Any]:
    return {"metric": metric, "before": before, "after": after, "samples": samples, "split": split, "scale": "fraction"}


def _labelled(output: Array, labels: Array) -> tuple[str, Metric, Metric]:
    """The metric that fits the labels and the output, for either model.

    Raises:
        InvalidData: none does.
    """
    whole = np.issubdtype(labels.dtype, np.integer)
    if whole and labels.ndim == 1 and _is_scores(output):
        return "top1", Accuracy(), Accuracy()
    if whole and labels.ndim == 3 and output.ndim == 4:
        return "mean_iou", Overlap(), Overlap()
    binary = bool(np.isin(labels, (0, 1)).all())
    if binary and labels.ndim >= 1 and output.size == labels.size and np.issubdtype(output.dtype, np.floating):
        limit = 0.5 if bool(((output >= 0) & (output <= 1)).all()) else 0.0
        return "label_accuracy", YesOrNo(limit), YesOrNo(limit)
    raise InvalidData(
        f"Labels of shape {list(labels.shape)} and type {labels.dtype} don't go with the model's first output "
        f"{list(output.shape)}; one class number per sample goes with scores [N, K], maps [N, H, W] with [N, K, H, W], "
        "and zeros and ones with an output of their shape."
    )


def _is_scores(output: Array) -> bool:
    """[N, K], or [N, K, 1, 1]."""
    return (
        output.ndim >= 2
        and output.shape[1] > 1
        and output.size == output.shape[0] * output.shape[1]
        and np.issubdtype(output.dtype, np.floating)
    )


def _is_class_map(output: Array) -> bool:
    """Probabilities [N, K, H, W] of K classes."""
    if output.ndim != 4 or output.shape[1] < 2 or not np.issubdtype(output.dtype, np.floating):
        return False
    return bool((output >= 0).all()) and bool((np.abs(output.astype(np.float32).sum(1) - 1) < 1e-2).all())
