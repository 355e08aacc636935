"""Labels that a loss can't read are refused before the first step, for all samples at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from darwinc.calibrators.training.augmentation import Array
from darwinc.calibrators.training.objectives import Supervision
from darwinc.errors import InvalidData


def check_labels(supervision: Supervision, scores: torch.Tensor, parts: Mapping[str, Array]) -> None:
    """Are there labels in every part, and are all of them classes of the output, or between 0 and 1?

    Args:
        scores: what the labels are compared with [N, K, ..].
        parts: labels by what their samples are for.

    Raises:
        InvalidData: a label that the loss can't read, or none that counts.
    """
    for part, labels in parts.items():
        if supervision.kind == "binary":
            _check_shares(labels)
        elif supervision.kind != "custom":
            _check_classes(labels, supervision, scores.shape[1], part)


def _check_shares(labels: Array) -> None:
    wrong = labels[~((labels >= 0) & (labels <= 1))]
    if wrong.size:
        raise InvalidData(
            f"A label of {wrong[0]:g} was found, but the binary loss takes 0 to 1; correct it, or give a --loss of "
            "your own, package.module:function."
        )


def _check_classes(labels: Array, supervision: Supervision, classes: int, part: str) -> None:
    known = labels[labels != supervision.ignored]
    if not known.size:
        raise InvalidData(
            f"All labels of the samples for {part} are {supervision.ignored}, which counts as unknown; give more that "
            f"are 0 to {classes - 1}."
        )
    wrong = known[~((known >= 0) & (known < classes))]
    if wrong.size:
        raise InvalidData(
            f"A label of {wrong[0]:g} was found, but the output {supervision.ending.name!r} has {classes} classes; "
            f"give labels from 0 to {classes - 1}, or {supervision.ignored} where nothing is known."
        )
