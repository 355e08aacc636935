"""ResNet-56 on CIFAR-10 with 2.1 and 2.5 times fewer MACs, before and after fine-tuning: the table in docs/figures.md.

    DATA=... python tests/benchmarks/finetune_resnet.py BASE.onnx [EPOCHS] [2.1 2.5]     # no fine-tuning with 0 epochs

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

from darwinc import Training, graph
from darwinc.cost import measure as measure_cost
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.passes.finetune import Finetune
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import run_passes
from darwinc.runtime import open_session, run
from tests.benchmarks.cifar_resnet import prepared, read
from tests.benchmarks.recovery import prepared_job

Array = np.ndarray[Any, Any]


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
    training = Training(epochs=epochs, batch=128, precision="bf16", validation=1 / 44)
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "train.npz", Path(folder) / "out.onnx"
        np.savez(data, input=images[:44000], y=labels[:44000])
        for ratio in ratios:
            model = graph.load_model(base)
            job = prepared_job(model, data)
            before = measure_cost(job.original, job.channels)
            for passes in ([Cull("macs", 1 - 1 / ratio), Excise()], [Inherit()], [Finetune(training)]):
                if epochs == 0 and isinstance(passes[0], Finetune):
                    continue
                start = time.perf_counter()
                run_passes(passes, job)
                graph.save_model(job.model, output)
                after = measure_cost(job.model)
                entry: dict[str, Any] = {
                    "fewer_macs": round((before.macs or 0) / (after.macs or 1), 3),
                    "fewer_parameters": round(before.parameters / after.parameters, 3),
                    "after": passes[-1].name,
                    "accuracy": round(accuracy(output, *held_out), 2),
                    "seconds": round(time.perf_counter() - start),
                }
                if job.recovery and "training" in job.recovery[-1]:
                    entry["history"] = job.recovery[-1]["training"]["history"]
                print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
