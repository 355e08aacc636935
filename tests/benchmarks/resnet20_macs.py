"""ResNet-20 on CIFAR-10 with 27 % fewer MACs, without training and with: the figure in docs/fitness.md.

    MODELS=... DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/resnet20_macs.py ROWS.jsonl [--epochs 3]
    python tests/benchmarks/resnet20_macs.py ROWS.jsonl --table

`$MODELS` holds cifar10_resnet20.onnx, `$DATA/cifar10` the sheets and labels (SOURCES.md). What has no labels sees 2,048
random training images, of train[:49000]; distillation has 60 seconds, and fine-tuning those 49,000 with their labels
for `--epochs`; each is kept only where held-out images of those say that it helps. Accuracy is read on the 1,000 test
images. ModelOpt's FastNAS: 90.97 to 60.4 without training, to 90.28 with.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from darwinc import Training, graph
from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import measure as measure_cost
from darwinc.data import open_data
from darwinc.passes.cull import Cull
from darwinc.passes.distill import Distill
from darwinc.passes.excise import Excise
from darwinc.passes.finetune import Finetune
from darwinc.passes.inherit import Inherit
from darwinc.passes.recalibrate import Recalibrate
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.runtime import inputs_of
from tests.benchmarks.cifar_resnet import prepared, read
from tests.benchmarks.mnist import accuracy
from tests.benchmarks.sheet import Sheet, spread, table

AMOUNT, SEEDS, TRAINED = 0.27, (0, 1, 2), 49000
KEY = ("recovery", "seed")


def job_of(path: Path, samples: Path, seed: int) -> Job:
    """What the passes work on."""
    model = graph.load_model(path)
    job = Job(model, analyse(model), Terminal(quiet=True), seed)
    job.lessons = open_data(str(samples), inputs_of(model))
    order = np.random.default_rng(seed).permutation(len(job.lessons))
    job.samples = job.lessons.take(np.sort(order[:2048]))
    return job


def chains(epochs: float) -> dict[str, list[Pass]]:
    """Recoveries, each from the cut on."""
    return {
        "none": [],
        "inherit": [Inherit()],
        "inherit,recalibrate": [Inherit(), Recalibrate()],
        "inherit,distill": [Inherit(), Distill(Training(minutes=1.0))],
        "inherit,finetune": [Inherit(), Finetune(Training(epochs=epochs, batch=128))],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    sheet = Sheet(asked.rows, KEY)
    if asked.table:
        print(table(sheet.rows, ("recovery",), ("amount",), lambda rows: spread(rows, "accuracy")))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    path = Path(os.environ["MODELS"]) / "cifar10_resnet20.onnx"
    pixels, known = read(Path(os.environ["DATA"]) / "cifar10")
    images, labels = prepared(pixels[50000:]), known.astype(np.int64)
    original = {"recovery": "original", "seed": 0, "amount": AMOUNT}
    if not sheet.has(original):
        sheet.add({**original, "accuracy": accuracy(path, images, labels[50000:])})
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "train.npz"
        np.savez(samples, input=prepared(pixels[:TRAINED]), y=labels[:TRAINED])
        for seed in SEEDS:
            missing = [name for name in chains(asked.epochs) if not sheet.has({"recovery": name, "seed": seed})]
            if not missing:
                continue
            base = job_of(path, samples, seed)
            before = measure_cost(base.original, base.channels)
            run_passes([Cull("macs", AMOUNT), Excise()], base)
            for name in missing:
                job, start = copy.copy(base), time.perf_counter()
                job.recovery = []
                run_passes(chains(asked.epochs)[name], job)
                sheet.add({
                    "recovery": name,
                    "seed": seed,
                    "amount": AMOUNT,
                    "accuracy": round(accuracy(job.model, images, labels[50000:]), 2),
                    "macs_removed": round(1 - measure_cost(job.model).macs / before.macs, 4),
                    "kept": [entry["accepted"] for entry in job.recovery],
                    "seconds": round(time.perf_counter() - start),
                })  # fmt: skip


if __name__ == "__main__":
    main()
