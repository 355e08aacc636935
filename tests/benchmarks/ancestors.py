"""The networks that evolution starts from, and their data: every file that the benchmarks of generations read.

    DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/ancestors.py FOLDER [data] [lenet_mnist] [lenet_cifar] [saliency]

Writes FOLDER/*.npz (`data`) and FOLDER/NETWORK.onnx, everything where nothing is named; a network is trained by the
recipe of `darwinc.models.recipes`, seed 0, the last epoch counts, and is scored on what it never saw. The splits:

- mnist_train (60,000), mnist_test (10,000): padded to 32 x 32 with the background's colour.
- cifar_train (train[:44000]), cifar_select ([44000:45000]), cifar_report ([45000:50000] and 1,000 test images).
- ecssd_train (600), ecssd_select (100), ecssd_test (300): a permutation of all 1,000 by seed 0; 128 x 128 pixels,
  masks [N, 128, 128] of 0 and 1.
- transfer: 128 x 128 pixels of 1,000 ImageNet and 64 COCO images, no labels.

Images of the last two are stretched to the square and have ImageNet's mean and deviation. The saliency network has a
quarter of VGG16's width (`WIDTHS`) and no pretraining, unlike the papers'.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from darwinc.console import Terminal
from darwinc.images import find_images
from darwinc.models.recipes import RECIPES
from darwinc.models.saliency import SIZE
from darwinc.models.training import train_reference
from tests.benchmarks import mnist, saliency_scores
from tests.benchmarks.cifar_resnet import prepared, read

TRAINED_ON = {"lenet_mnist": "mnist_train", "lenet_cifar": "cifar_train", "saliency": "ecssd_train"}
SCORED_ON = {"lenet_mnist": "mnist_test", "lenet_cifar": "cifar_report", "saliency": "ecssd_test"}
WIDTHS = {"saliency": 0.25}
PADDING = 2
ECSSD_SPLITS = {"ecssd_train": (0, 600), "ecssd_select": (600, 700), "ecssd_test": (700, 1000)}


def save(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    print(f"{path}: {', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())}", flush=True)


def write_mnist(folder: Path) -> None:
    data = mnist.load()
    for name, images, labels in (
        ("mnist_train", data.images, data.labels),
        ("mnist_test", data.test_images, data.test_labels),
    ):
        around = ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING))
        save(folder / f"{name}.npz", x=np.pad(images, around, constant_values=images.min()), y=labels)


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
    if name == "saliency":
        return str(saliency_scores.score(folder / f"{name}.onnx", folder / f"{SCORED_ON[name]}.npz"))
    with np.load(folder / f"{SCORED_ON[name]}.npz", allow_pickle=False) as split:
        told = mnist.accuracy(folder / f"{name}.onnx", split["x"], split["y"])
    return f"accuracy {told:.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=["data", *TRAINED_ON], default=["data", *TRAINED_ON])
    asked = parser.parse_args()
    folder, data = asked.folder, Path(os.environ["DATA"])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if "data" in asked.names:
        write_mnist(folder)
        write_cifar(folder, data)
        write_saliency(folder, data)
    for name in (name for name in asked.names if name != "data"):
        start, recipe = time.perf_counter(), RECIPES[name]
        lessons, output = folder / f"{TRAINED_ON[name]}.npz", folder / f"{name}.onnx"
        train_reference(name, lessons, output, recipe, Terminal(), width=WIDTHS.get(name))
        seconds = time.perf_counter() - start
        print(f"{name}: {recipe.epochs} epochs, {seconds:.0f} s; {SCORED_ON[name]}: {score(name, folder)}", flush=True)


if __name__ == "__main__":
    main()
