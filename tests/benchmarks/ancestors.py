"""The networks that evolution starts from, and their data: every file that the benchmarks of generations read.

    DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/ancestors.py FOLDER [data] [NETWORK ...]

Writes FOLDER/*.npz (`data`) and FOLDER/NETWORK.onnx; where nothing is named, the data, lenet_mnist, lenet_cifar and
saliency. A network is trained by the recipe of `darwinc.models.recipes`, seed 0, the last epoch counts, and is scored
on what it never saw. The splits:

- mnist_train (60,000), mnist_test (10,000): 28 x 28, padded to 32 x 32 with the background's colour; mnist28_train and
  mnist28_test without the padding.
- cifar_train (train[:44000]), cifar_select ([44000:45000]), cifar_report ([45000:50000] and 1,000 test images).
- ecssd_train (600), ecssd_select (100), ecssd_test (300): a permutation of all 1,000 by seed 0; 128 x 128 pixels,
  masks [N, 128, 128] of 0 and 1.
- transfer: 128 x 128 pixels of 1,000 ImageNet and 64 COCO images, no labels.

Images of the last two are stretched to the square and have ImageNet's mean and deviation. The saliency network has an
eighth of VGG16's width and no pretraining, unlike the papers'.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from darwinc.console import Terminal
from darwinc.data_sources import load_archive
from darwinc.images import find_images
from darwinc.models.recipes import RECIPES
from darwinc.models.saliency import SIZE
from darwinc.models.training import train_reference
from tests.benchmarks import mnist, saliency_scores
from tests.benchmarks.cifar_resnet import prepared, read


@dataclass(frozen=True)
class Ancestor:
    """A network's training and test data, and its width where it has several."""

    trained_on: str
    scored_on: str
    width: float | None = None


ANCESTORS = {
    "lenet_mnist": Ancestor("mnist_train", "mnist_test"),
    "lenet_cifar": Ancestor("cifar_train", "cifar_report"),
    "saliency": Ancestor("ecssd_train", "ecssd_test", width=0.125),
    "lenet_caffe": Ancestor("mnist28_train", "mnist28_test"),
    "mlp": Ancestor("mnist28_train", "mnist28_test"),
    "resnet20": Ancestor("cifar_train", "cifar_report"),
    "resnet56": Ancestor("cifar_train", "cifar_report"),
}
DEFAULT = ("data", "lenet_mnist", "lenet_cifar", "saliency")
PADDING = 2
ECSSD_SPLITS = {"ecssd_train": (0, 600), "ecssd_select": (600, 700), "ecssd_test": (700, 1000)}


def save(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    print(f"{path}: {', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())}", flush=True)


def write_mnist(folder: Path) -> None:
    data = mnist.load()
    for part, images, labels in (
        ("train", data.images, data.labels),
        ("test", data.test_images, data.test_labels),
    ):
        around = ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING))
        save(folder / f"mnist_{part}.npz", x=np.pad(images, around, constant_values=images.min()), y=labels)
        save(folder / f"mnist28_{part}.npz", x=images, y=labels)


def write_cifar(folder: Path, data: Path) -> None:
    pixels, known = read(data / "cifar10")
    for name, part in (
        ("cifar_train", slice(44000)),
        ("cifar_select", slice(44000, 45000)),
        ("cifar_report", slice(45000, None)),
    ):
        save(folder / f"{name}.npz", x=prepared(pixels[part]), y=known[part].astype(np.int64))


def squares(paths: Iterable[Path]) -> np.ndarray:
    """Images, stretched to the square and normalised: [N, 3, 128, 128]."""
    resized = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths]
    return prepared(np.stack([np.asarray(image) for image in resized]))


def write_saliency(folder: Path, data: Path) -> None:
    images = np.array(find_images(data / "ecssd" / "images"))
    order = np.random.default_rng(0).permutation(len(images))
    for name, (start, end) in ECSSD_SPLITS.items():
        paths = images[order[start:end]]
        masks = [Image.open(data / "ecssd" / "masks" / f"{path.stem}.png").convert("L") for path in paths]
        small = [np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) > 127 for mask in masks]
        save(folder / f"{name}.npz", x=squares(paths), y=np.stack(small).astype(np.int64))
    sources = (data / "imagenet_samples", data / "coco64")
    save(folder / "transfer.npz", x=squares(path for source in sources for path in find_images(source)))


def score(name: str, folder: Path) -> str:
    """What the network is worth on the split that it never saw."""
    model, data = folder / f"{name}.onnx", folder / f"{ANCESTORS[name].scored_on}.npz"
    if name == "saliency":
        return str(saliency_scores.score(model, data))
    arrays = load_archive(data)
    return f"accuracy {mnist.accuracy(model, arrays['x'], arrays['y']):.2f} %"


def train(name: str, folder: Path) -> None:
    ancestor, recipe, start = ANCESTORS[name], RECIPES[name], time.perf_counter()
    data, output = folder / f"{ancestor.trained_on}.npz", folder / f"{name}.onnx"
    train_reference(name, data, output, recipe, Terminal(), width=ancestor.width)
    seconds = time.perf_counter() - start
    told = score(name, folder)
    print(f"{name}: {recipe.epochs} epochs, {seconds:.0f} s; {ancestor.scored_on}: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=["data", *ANCESTORS], metavar="NETWORK")
    asked = parser.parse_args()
    folder, data, names = asked.folder, Path(os.environ["DATA"]), asked.names or DEFAULT
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if "data" in names:
        write_mnist(folder)
        write_cifar(folder, data)
        write_saliency(folder, data)
    for name in names:
        if name != "data":
            train(name, folder)


if __name__ == "__main__":
    main()
