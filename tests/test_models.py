"""The LeNet's published counts and padding, and the digits that it learns."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from darwinc.errors import UsageError
from darwinc.models import NETWORKS
from darwinc.models.digits import CALIBRATION, TEST, Digits, accuracy, enlarge, load_digits, train
from darwinc.models.lenet import LeNet, lenet_cifar, lenet_mnist


def convolutions(network: LeNet) -> list[torch.Tensor]:
    return [module.weight for module in network.children() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(("channels", "synapses", "kernels"), [(1, 143_136, 7_200), (3, 144_736, 7_264)])
def test_the_lenet_has_the_published_counts(channels: int, synapses: int, kernels: int) -> None:
    *body, classifier = convolutions(LeNet(channels))
    assert sum(weight.numel() for weight in body) == synapses
    assert sum(weight.shape[0] * weight.shape[1] for weight in body) == kernels
    assert tuple(classifier.shape) == (10, 64, 1, 1)


def pool_by_definition(image: np.ndarray, kind: str) -> np.ndarray:
    """3 x 3 windows at stride 2 over an image [H, W] with one row and column of NaN at bottom and right."""
    padded = np.pad(image, ((0, 1), (0, 1)), constant_values=np.nan)
    reduce = np.nanmax if kind == "max" else np.nanmean
    size = (len(padded) - 3) // 2 + 1
    rows = [[reduce(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]) for j in range(size)] for i in range(size)]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("size", [32, 16, 8])
def test_pools_pad_at_bottom_and_right_and_do_not_count_it(kind: str, size: int) -> None:
    # Negative values: a padding of zeros would win every maximum at the border.
    image = np.random.default_rng(size).uniform(-2, -1, (size, size)).astype(np.float32)
    network = LeNet()
    pool = network.max_pool if kind == "max" else network.average_pool
    pooled = pool(torch.from_numpy(image)[None, None])[0, 0].numpy()
    assert pooled.shape == (size // 2, size // 2)
    np.testing.assert_allclose(pooled, pool_by_definition(image, kind), atol=1e-6)


@pytest.mark.parametrize("factory", [lenet_mnist, lenet_cifar])
def test_the_lenet_takes_its_images_to_ten_logits(factory: type) -> None:
    network, inputs = factory()
    assert network(*inputs).shape == (1, 10)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_reference_network_can_be_built(name: str) -> None:
    module, _, factory = NETWORKS[name].factory.partition(":")
    network, inputs = getattr(importlib.import_module(module), factory)()
    assert isinstance(network, nn.Module)
    assert all(isinstance(item, torch.Tensor) for item in inputs)
    assert NETWORKS[name].description


def test_the_table_of_networks_imports_no_torch() -> None:
    code = "import sys, darwinc.models; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def digits() -> Digits:
    pytest.importorskip("sklearn")
    return load_digits(seed=0)


def test_the_splits_are_stratified_disjoint_and_normalised(digits: Digits) -> None:
    splits = [digits.train, digits.calibration, digits.test]
    assert [len(split.labels) for split in splits] == [1_797 - CALIBRATION - TEST, CALIBRATION, TEST]
    for split in splits:
        assert split.images.shape == (len(split.labels), 1, 32, 32)
        assert (split.images.dtype.name, split.labels.dtype.name) == ("float32", "int64")
        shares = np.bincount(split.labels, minlength=10) / len(split.labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.006)
    assert digits.train.images.mean() == pytest.approx(0, abs=1e-5)
    assert digits.train.images.std() == pytest.approx(1, abs=1e-5)
    distinct = np.unique(np.concatenate([split.images for split in splits]).reshape(1_797, -1), axis=0)
    assert len(distinct) == 1_797


def test_the_seed_decides_the_splits(digits: Digits) -> None:
    np.testing.assert_array_equal(load_digits(seed=0).test.images, digits.test.images)
    assert not np.array_equal(load_digits(seed=1).test.labels, digits.test.labels)


def test_enlarging_keeps_a_ramp_a_ramp() -> None:
    ramp = np.tile(np.arange(8.0), (1, 8, 1))
    row = enlarge(ramp)[0, 0, 16]
    expected = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    np.testing.assert_allclose(row, expected, atol=1e-5)


def test_training_learns_and_is_deterministic(digits: Digits) -> None:
    lines: list[str] = []
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        network = LeNet()
        train(network, digits.train, epochs=2, seed=0, progress=lines.append)
        networks.append(network)
    assert accuracy(networks[0], digits.test) > 0.5
    for first, second in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(first, second)
    assert lines[0].startswith("epoch 1 of 2: loss ")
    assert not networks[0].training


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r'pip install "darwinc\[demo\]"'):
        load_digits()
