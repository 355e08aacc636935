"""What each output of a classifier owes to each channel, and how well a network does at each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from darwinc.calibrators.calibration import BATCH, Feed, calibration_of
from darwinc.calibrators.populations import Populations, find_populations
from darwinc.data import fitting_batches
from darwinc.fitness.statistics import Matrix, Vector
from darwinc.pipeline import Job
from darwinc.runtime import inputs_of
from darwinc.sampling import MOST_CALIBRATING
from darwinc.torch_graph import TorchGraph

MOST_CLASSES = 1000
SLICE = 16
"""Samples whose gradients are computed together."""
MOST_GRADIENTS = 2048
"""Once so many were computed, of one class and one sample each, that is enough."""

Classes = npt.NDArray[np.int64]


def credit_of(job: Job, eligible: Sequence[bool]) -> Matrix:
    """|sum over samples of z_u dy_k/dz_u| for component u and class k [channels.count, K]; columns sum to 1.

    y are the scores of the job's original as its first output gives them. Nothing is known of channels that meet in a
    product of two computed values: they have 0. K is 0 where the first output isn't scores of 2 to 1,000 classes, and
    where torch has no rule for an operator.
    """
    calibration, none = calibration_of(job), np.zeros((job.channels.count, 0))
    if calibration.twin is None:
        return none
    populations = find_populations(calibration.twin, job.channels, eligible)
    weights = calibration.twin.weights()
    read = [weights[name] for name in sorted({handle.weight for handle in populations.handles})]
    pulls, computed = np.zeros((len(populations), 0)), 0
    for feed in calibration.cut_to(SLICE):
        scores = _scores(calibration.twin, feed)
        if scores is None:
            return none
        found = _pulls(scores, read, populations, weights)
        pulls = pulls + found if pulls.size else found
        computed += scores.numel()
        if computed >= MOST_GRADIENTS:
            break
    credit = np.zeros((job.channels.count, pulls.shape[1]))
    credit[populations.units] = np.abs(np.nan_to_num(pulls))
    return np.asarray(credit / np.maximum(credit.sum(axis=0), 1e-30))


def _pulls(
    scores: torch.Tensor,
    read: Sequence[torch.nn.Parameter],
    populations: Populations,
    weights: Mapping[str, torch.nn.Parameter],
) -> Matrix:
    """-sum over samples of z_u dy_k/dz_u for unit u and class k [U, K], of scores [N, K]; `read` are the readers'."""
    classes = scores.shape[1]
    pulls = np.zeros((len(populations), classes))
    for each in range(classes if read and scores.requires_grad else 0):
        found = torch.autograd.grad(scores[:, each].sum(), read, retain_graph=each + 1 < classes, allow_unused=True)
        for weight, gradient in zip(read, found, strict=True):
            weight.grad = gradient
        pulls[:, each] = populations.pull(weights).cpu().numpy()
    for weight in read:
        weight.grad = None
    return pulls


def merit_of(job: Job, ancestor: ir.Model) -> Vector:
    """The share of the samples of each class [K] that the job's original answers so.

    Classes are the labels, or what the ancestor chooses where there are none. A class without samples has the share of
    all of them. K is 0 where `credit_of` has none.
    """
    twin = calibration_of(job).twin
    right, asked = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if twin is None:
        return np.zeros(0)
    for feed, wanted in _asked(job, ancestor):
        with torch.no_grad():
            scores = _scores(twin, feed)
        if scores is None:
            return np.zeros(0)
        classes = scores.shape[1]
        known = (wanted >= 0) & (wanted < classes)
        met = known & (scores.argmax(1).cpu().numpy() == wanted)
        right = np.bincount(wanted[met], minlength=classes) + (right if len(right) else 0)
        asked = np.bincount(wanted[known], minlength=classes) + (asked if len(asked) else 0)
    overall = right.sum() / max(asked.sum(), 1)
    return np.where(asked > 0, right / np.maximum(asked, 1), overall)


def _asked(job: Job, ancestor: ir.Model) -> Iterator[tuple[Feed, Classes]]:
    """Feeds, and the classes of their samples."""
    samples, calibration = job.samples, calibration_of(job)
    if samples is not None and samples.labels is not None and _are_classes(samples.labels):
        order = np.random.default_rng(job.seed).permutation(len(samples))[:MOST_CALIBRATING]
        for batch in fitting_batches(samples.take(order), inputs_of(job.original), BATCH):
            if batch.labels is not None:
                yield batch.feed, batch.labels.astype(np.int64)
        return
    teacher = calibration.twin_of(ancestor, job.device)
    if teacher is None:
        return
    for feed in calibration.batches:
        with torch.no_grad():
            scores = _scores(teacher, feed)
        if scores is not None:
            yield feed, scores.argmax(1).cpu().numpy()


def _are_classes(labels: npt.NDArray[np.generic]) -> bool:
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def _scores(twin: TorchGraph, feed: Feed) -> torch.Tensor | None:
    """The first output as class scores [N, K]; None where it is something else."""
    name = twin.outputs[0]
    found = twin(feed, also=[name])[name]
    fits = found.is_floating_point() and found.ndim >= 2 and 1 < found.shape[1] <= MOST_CLASSES
    return found.flatten(1) if fits and found.numel() == found.shape[0] * found.shape[1] else None
