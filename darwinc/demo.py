"""The demo's material: a small network trained on real digits, as ONNX, with its calibration and test data as npz."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darwinc import graph
from darwinc.errors import OutputError


@dataclass(frozen=True)
class DemoFiles:
    """`model`: ONNX, free batch axis; `calibration`: npz, images under the input's name; `test`: the same, and `y`."""

    model: Path
    calibration: Path
    test: Path


def train_demo_model(
    folder: Path, *, seed: int, progress: Callable[[str], None], epochs: int | None = None
) -> DemoFiles:
    """Train the LeNet on the digits (seconds, on a CPU) and write what `darwinc compress` needs into `folder`.

    Raises:
        UsageError: scikit-learn isn't installed.
        OutputError: the folder can't be written.
    """
    # torch takes seconds to import, which only the demo itself should pay.
    import torch

    from darwinc.models.digits import EPOCHS, accuracy, load_digits, train
    from darwinc.models.exporting import Specimen, export
    from darwinc.models.lenet import LeNet

    digits = load_digits(seed=seed)
    files = DemoFiles(folder / "lenet_digits.onnx", folder / "calibration.npz", folder / "test.npz")
    graph.check_writable(files.model)
    progress(f"training the LeNet on {len(digits.train.labels)} handwritten digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LeNet()
    train(network, digits.train, epochs=EPOCHS if epochs is None else epochs, seed=seed, progress=progress)
    progress(f"accuracy on {len(digits.test.labels)} test digits: {100 * accuracy(network, digits.test):.1f} %")
    export(Specimen("the demo's network", network, (torch.from_numpy(digits.test.images[:2]),)), files.model)
    name = str(graph.load_model(files.model).graph.inputs[0].name)
    _save(files.calibration, {name: digits.calibration.images})
    _save(files.test, {name: digits.test.images, "y": digits.test.labels})
    progress(f"wrote {files.model}")
    return files


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}.") from error
