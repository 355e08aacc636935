"""Real data without a download: scikit-learn's handwritten digits, enlarged to 32 x 32, and training on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from darwinc.errors import UsageError
from darwinc.models.lenet import SIZE

CALIBRATION, TEST = 400, 397
"""Images in the two held-out splits; the other 1,000 of 1,797 train."""

BATCH = 50
EPOCHS = 20
LEARNING_RATE = 2e-3
SHIFT = 3
"""Pixels that a batch is moved in training, at most: the digits are few, and half a pen's width says nothing."""


@dataclass(frozen=True)
class Split:
    """Images [N, 1, 32, 32] in float32, normalised, and labels [N] in int64, 0 to 9."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """Three stratified splits without a common image."""

    train: Split
    calibration: Split
    test: Split


def load_digits(*, seed: int = 0) -> Digits:
    """The 1,797 digits, split by the seed and normalised by the training images' mean and deviation.

    Raises:
        UsageError: scikit-learn isn't installed.
    """
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise UsageError(
            'the digits come with scikit-learn, which is not installed; run pip install "darwinc[demo]".'
        ) from error
    bunch = datasets.load_digits()
    indices = np.arange(len(bunch.target))
    rest, test = model_selection.train_test_split(indices, test_size=TEST, stratify=bunch.target, random_state=seed)
    train, calibration = model_selection.train_test_split(
        rest, test_size=CALIBRATION, stratify=bunch.target[rest], random_state=seed
    )
    images = enlarge(bunch.images)
    mean, deviation = images[train].mean(), images[train].std()
    images = (images - mean) / deviation
    return Digits(*(Split(images[part], bunch.target[part].astype(np.int64)) for part in (train, calibration, test)))


def enlarge(images: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Images [N, H, W] to [N, 1, 32, 32], bilinear."""
    tensor = torch.from_numpy(images.astype(np.float32))[:, None]
    enlarged = nn.functional.interpolate(tensor, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return np.asarray(enlarged.numpy(), np.float32)


def train(
    network: nn.Module,
    split: Split,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Callable[[str], None],
) -> None:
    """Train in place with Adam and one cycle of the learning rate; ends in eval mode.

    The seed orders and moves the batches. On one thread, so that the weights don't depend on how many cores there are.
    """
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    network.train()
    for epoch in range(epochs):
        total = 0.0
        with _one_thread():
            for rows in torch.split(torch.randperm(len(labels), generator=generator), BATCH):
                shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
                moved = torch.roll(images[rows], shift, (2, 3))
                loss = nn.functional.cross_entropy(network(moved), labels[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
        progress(f"epoch {epoch + 1} of {epochs}: loss {total / len(labels):.4f}")
    network.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def accuracy(network: nn.Module, split: Split) -> float:
    """The share of images whose largest logit is their label's, from 0 to 1; the network is put in eval mode."""
    network.eval()
    with torch.no_grad():
        predicted = network(torch.from_numpy(split.images)).argmax(1).numpy()
    return float((predicted == split.labels).mean())
