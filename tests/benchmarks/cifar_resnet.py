"""Accuracy of a CIFAR-10 ResNet after compression, by fitness and recovery: the table in docs/figures.md.

    MODELS=... DATA=... python tests/benchmarks/cifar_resnet.py [cifar10_resnet56] [0.3 0.5]

`$MODELS` holds the ONNX files, `$DATA/cifar10` the sheets and labels (SOURCES.md). Calibration: 2,048 random training
images, no labels.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from darwinc import Settings, Target, compress

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VARIANTS = (
    ("l2", "none", True),
    ("taylor", "none", True),
    ("darwin", "none", True),
    ("l2", "inherit", True),
    ("darwin", "inherit", True),
    ("l2", "none", False),
    ("darwin", "none", False),
    ("darwin", "inherit", False),
)


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [51000, 32, 32, 3] in their original order, the last 1,000 for testing, and labels."""
    sheets = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("sheet_*.webp"))]
    tiles = [sheet.reshape(25, 32, 40, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for sheet in sheets]
    return np.concatenate(tiles), np.load(folder / "labels.npy")


def prepared(
    images: np.ndarray, mean: tuple[float, ...] = MEAN, deviation: tuple[float, ...] = DEVIATION
) -> np.ndarray:
    """Pixels as networks want them, [N, 3, 32, 32]."""
    scaled = (images.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def main() -> None:
    name = next((word for word in sys.argv[1:] if not word[0].isdigit()), "cifar10_resnet56")
    amounts = [float(word) for word in sys.argv[1:] if word[0].isdigit()] or [0.3, 0.5]
    seeds = [int(seed) for seed in os.environ.get("SEEDS", "0").split(",")]
    images, labels = read(Path(os.environ["DATA"]) / "cifar10")
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "test.npz"
        np.savez(test, input=prepared(images[50000:]), y=labels[50000:].astype(np.int64))
        for seed in seeds:
            chosen = np.random.default_rng(seed).choice(50000, 2048, replace=False)
            calibration = Path(folder) / f"calibration{seed}.npz"
            np.savez(calibration, input=prepared(images[chosen]))
            for amount in amounts:
                for fitness, recover, with_data in VARIANTS:
                    settings = Settings(
                        data=str(calibration) if with_data else None,
                        test=str(test),
                        fitness=fitness,
                        recover=(recover,),
                        seed=seed,
                        bench_seconds=0,
                    )
                    start = time.perf_counter()
                    result = compress(
                        Path(os.environ["MODELS"]) / f"{name}.onnx",
                        target=Target("sparsity", amount),
                        output=Path(folder) / "o.onnx",
                        settings=settings,
                    )
                    report = result.report
                    assert report.quality is not None
                    assert report.quality.after is not None
                    accepted = ",".join(f"{entry.name}{'' if entry.accepted else '(no)'}" for entry in report.recovery)
                    print(
                        f"seed {seed}  {name}  {amount:.0%}  {'2,048 images' if with_data else 'no data':<12}  "
                        f"{fitness:<7} + {recover:<7}  {100 * report.quality.after:.1f} %  "
                        f"(removed {report.target.achieved:.3f}, {time.perf_counter() - start:.0f} s) {accepted}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
