"""The reference networks' recipes, and `python -m darwinc.models`, which trains by them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from darwinc.console import Stage
from darwinc.models import NETWORKS
from darwinc.models.__main__ import main
from darwinc.models.recipes import RECIPES, Recipe
from darwinc.models.saliency import Saliency, saliency
from darwinc.models.training import Lessons, read_lessons, train
from darwinc.runtime import input_specs, open_session, run
from tests.shell import Outcome

TINY = Recipe(epochs=3, batch=8, optimizer="adamw", peak=1e-2, weight_decay=1e-2)


def command(capture: pytest.CaptureFixture[str], *arguments: str | Path) -> Outcome:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments], prog_name="models")
    told = capture.readouterr()
    assert isinstance(stop.value.code, int)
    return Outcome(stop.value.code, told.out, told.err)


def lessons_of(count: int, *shape: int, classes: int = 10, dense: bool = False) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=(count, *(shape[1:] if dense else ())))
    return {"x": generator.standard_normal((count, *shape)).astype(np.float32), "y": labels.astype(np.int64)}


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def progress(recipe: Recipe, network: nn.Module, lessons: Lessons, seed: int = 0) -> list[str]:
    lines: list[str] = []
    train(network, lessons, recipe, seed=seed, stage=Stage("training"), tell=lines.append)
    return lines


def test_every_network_has_a_recipe() -> None:
    assert RECIPES.keys() == NETWORKS.keys()


def test_the_list_names_every_network_and_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from darwinc.models.__main__ import main\n"
        "try:\n"
        "    main(['list'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in NETWORKS)


def test_two_steps_by_command_answer_like_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save(tmp_path / "d.npz", lessons_of(RECIPES["lenet_cifar"].batch + 7, 3, 32, 32))
    output = tmp_path / "o.onnx"
    asked = ("train", "lenet_cifar", "--data", data, "-o", output, "--epochs", "1", "--device", "cpu", "--seed", "3")
    done = command(capsys, *asked)
    assert done.code == 0, done.err
    assert "epoch 1 of 1: loss " in done.err
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = saved_network("lenet_cifar")
    lessons = read_lessons(data)
    progress(replace(RECIPES["lenet_cifar"], epochs=1), network, lessons, 3)
    session = open_session(output)
    assert [spec.name for spec in input_specs(session)] == ["input"]
    found = run(session, {"input": lessons.images[:5].numpy()})
    with torch.no_grad():
        expected = network(lessons.images[:5]).numpy()
    assert list(found) == ["scores"]
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)


def saved_network(name: str) -> nn.Module:
    module, _, factory = NETWORKS[name].factory.partition(":")
    network: nn.Module = getattr(__import__(module, fromlist=[factory]), factory)()[0]
    return network


def test_a_narrow_saliency_network_learns_from_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save(tmp_path / "d.npz", lessons_of(3, 3, 128, 128, classes=2, dense=True))
    output = tmp_path / "o.onnx"
    asked = ("train", "saliency", "--data", data, "-o", output, "--epochs", "2", "--width", "0.02", "--quiet")
    done = command(capsys, *asked)
    assert (done.code, done.err) == (0, "")
    scores = run(open_session(output), {"input": np.zeros((2, 3, 128, 128), np.float32)})["scores"]
    assert scores.shape == (2, 2, 128, 128)


BAD: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "no y": ({"x": np.zeros((2, 1, 32, 32), np.float32)}, "no array 'y'"),
    "float64": ({"x": np.zeros((2, 1, 32, 32)), "y": np.zeros(2, np.int64)}, "x of float64"),
    "NaN": ({"x": np.full((2, 1, 32, 32), np.nan, np.float32), "y": np.zeros(2, np.int64)}, "finite float32"),
    "too few labels": ({"x": np.zeros((2, 1, 32, 32), np.float32), "y": np.zeros(1, np.int64)}, "y of int64 [1]"),
    "no samples": ({"x": np.zeros((0, 1, 32, 32), np.float32), "y": np.zeros(0, np.int64)}, "no samples"),
    "another size": (
        {"x": np.zeros((2, 1, 28, 28), np.float32), "y": np.zeros(2, np.int64)},
        "images [1, 28, 28], but the network takes [1, 32, 32]",
    ),
    "masks for a classifier": (
        {"x": np.zeros((2, 1, 32, 32), np.float32), "y": np.zeros((2, 32, 32), np.int64)},
        "y [2, 32, 32]; this network wants [N]",
    ),
    "nothing known": (
        {"x": np.zeros((2, 1, 32, 32), np.float32), "y": np.array([255, 3])},
        "1 samples whose y is 255, not known, throughout",
    ),
    "a class too many": (
        {"x": np.zeros((2, 1, 32, 32), np.float32), "y": np.array([0, 10])},
        "classes from 0 to 10; give 0 to 9",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_archives_are_refused_in_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, said = BAD[case]
    data = save(tmp_path / "d.npz", arrays)
    done = command(capsys, "train", "lenet_mnist", "--data", data, "-o", tmp_path / "o.onnx")
    assert done.code == 3
    assert said in done.err
    assert done.err.startswith("darwinc: ")
    assert done.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"d.npz"}


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.npz").write_bytes(b"nothing")
    done = command(capsys, "train", "mlp", "--data", tmp_path / "d.npz", "-o", tmp_path / "o.onnx")
    assert done.code == 3
    assert "can't be read as a NumPy archive" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lenet",), "There is no network 'lenet'; choose from lenet_mnist,"),
        (("lenet_mnist", "--width", "0.5"), "lenet_mnist has one width only"),
    ],
    ids=["no such network", "no such width"],
)
def test_what_does_not_exist_is_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save(tmp_path / "d.npz", lessons_of(2, 1, 32, 32))
    done = command(capsys, "train", *arguments, "--data", data, "-o", tmp_path / "o.onnx")
    assert done.code == 2
    assert said in done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save(tmp_path / "d.npz", lessons_of(2, 1, 32, 32))
    done = command(capsys, "train", "lenet_mnist", "--data", data, "-o", tmp_path / "o.onnx", "--device", "cuda")
    assert done.code == 2
    assert "there is no CUDA GPU; give cpu or auto" in done.err


def test_an_output_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save(tmp_path / "d.npz", lessons_of(2, 1, 32, 32))
    done = command(capsys, "train", "lenet_mnist", "--data", data, "-o", tmp_path / "missing" / "o.onnx")
    assert done.code == 3
    assert "doesn't exist" in done.err
    assert "epoch" not in done.err


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_learns_and_the_seed_decides_it(optimizer: Literal["adamw", "sgd"]) -> None:
    images = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    lessons = Lessons(images, (images.mean((1, 2, 3)) > 0).long())
    recipe = replace(TINY, optimizer=optimizer, epochs=20, augment=("flip", "shift"))
    networks, told = [], []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
        told.append([float(line.rpartition(" ")[2]) for line in progress(recipe, network, lessons, seed)])
        networks.append(network)
    assert told[0][-1] < 0.6 * told[0][0]
    assert not networks[0].training
    first, again, other = (network.state_dict()["1.weight"] for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_decay_spares_biases() -> None:
    # Images of zeros give the weight no gradient, and balanced labels none to equal biases: decay alone moves them.
    lessons = Lessons(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]))
    layer = nn.Linear(4, 2)
    nn.init.ones_(layer.bias)
    network = nn.Sequential(nn.Flatten(), layer)
    before = network.state_dict()["1.weight"].clone()
    progress(replace(TINY, weight_decay=0.5), network, lessons)
    after = network.state_dict()
    assert bool((after["1.weight"].abs() < before.abs()).all())
    np.testing.assert_array_equal(after["1.bias"], [1.0, 1.0])


def test_the_saliency_network_has_the_published_synapses() -> None:
    with torch.device("meta"):
        network = Saliency()
        scores = network(torch.zeros(2, 3, 128, 160))
    assert sum(weight.numel() for weight in network.parameters() if weight.ndim == 4) == 63_767_232
    assert tuple(scores.shape) == (2, 2, 128, 160)


def test_its_trunk_is_that_of_vgg16() -> None:
    with torch.device("meta"):
        stages = Saliency().stages
    assert sum(weight.numel() for weight in stages.parameters() if weight.ndim == 4) == 14_710_464


def test_a_narrower_one_keeps_its_maps_and_classes() -> None:
    network, inputs = saliency(0.125)
    assert network(*inputs).shape == (1, 2, 128, 128)
    assert network.d1.weight.shape == (64, 1, 16, 16)
    assert network.c9[0].weight.shape == (48, 34, 1, 1)
