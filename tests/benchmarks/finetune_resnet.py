"""ResNet-56 on CIFAR-10 with 2.1 and 2.5 times fewer MACs, before and after fine-tuning: the table in docs/figures.md.

    DATA=... python tests/benchmarks/finetune_resnet.py BASE.onnx [EPOCHS] [2.1 2.5]

BASE.onnx is what `base_resnet.py` wrote. Calibration and fine-tuning see train[:44000] alone, of which 1,000 images
select; accuracy is read on train[45000:50000] and the 1,000 test images.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from darwinc import Settings, Target, compress
from darwinc.runtime import open_session, run
from darwinc.training import Training
from tests.benchmarks.cifar_resnet import prepared, read

Array = np.ndarray[Any, Any]


RECOVERIES = (("none",), ("inherit",), ("inherit", "finetune"))


def accuracy(model: Path, images: Array, labels: Array) -> float:
    """Per cent, in ONNX Runtime."""
    session = open_session(model)
    name = session.get_inputs()[0].name
    parts = [
        next(iter(run(session, {name: images[start : start + 250]}).values())) for start in range(0, len(images), 250)
    ]
    return float((np.concatenate(parts).argmax(1) == labels).mean() * 100)


def main() -> None:
    base, epochs = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    ratios = [float(word) for word in sys.argv[3:]] or [2.1, 2.5]
    pixels, known = read(Path(os.environ["DATA"]) / "cifar10")
    images, labels = prepared(pixels), known.astype(np.int64)
    held_out = images[45000:], labels[45000:]
    print(json.dumps({"base": accuracy(base, *held_out), "samples": len(held_out[1])}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "train.npz", Path(folder) / "out.onnx"
        np.savez(data, input=images[:44000], y=labels[:44000])
        for ratio in ratios:
            for recover in RECOVERIES:
                start = time.perf_counter()
                training = Training(epochs=epochs, batch=128, precision="bf16", validation=1 / 44)
                settings = Settings(data=str(data), recover=recover, bench_seconds=0, training=training)
                result = compress(base, target=Target("macs", 1 - 1 / ratio), output=output, settings=settings)
                entry: dict[str, Any] = {
                    "fewer_macs": round(result.report.efficiency.macs or 0, 3) if result.report.efficiency else None,
                    "fewer_parameters": result.report.efficiency.parameters if result.report.efficiency else None,
                    "recover": ",".join(recover),
                    "accuracy": accuracy(output, *held_out),
                    "seconds": round(time.perf_counter() - start),
                }
                training_entry = result.report.recovery[-1].training if result.report.recovery else None
                if training_entry is not None:
                    entry["history"] = training_entry.history
                print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
