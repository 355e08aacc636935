"""LeNet-5-Caffe on MNIST with fewer parameters than a 5-10-76-16 network keeps: the figure in docs/fitness.md.

    DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/lenet_caffe.py --work FOLDER

The network 20-50-800-500 is trained once and kept in FOLDER. It is compressed in rounds, each of which culls by the
Darwinian Score, inherits, and fine-tunes on the 60,000 training images with their labels, of which a twelfth selects.
The 10,000 test images are read for the dense network and once at the end. A round that was done is not done again: its
model lies in FOLDER, so a run that was stopped goes on. Louizos et al. (2017, Bayesian Compression for Deep Learning)
keep 5-10-76-16 at 99.0 %, which is 2,792 parameters with biases.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from darwinc import Training, graph
from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import count_parameters
from darwinc.data import open_data
from darwinc.models.lenet_caffe import lenet_caffe, parameters_kept
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.passes.finetune import Finetune
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import Job, run_passes
from darwinc.runtime import inputs_of
from tests.benchmarks.mnist import accuracy, load, trained

RIVAL = parameters_kept(5, 10, 76, 16)
ROUNDS = ((40000, 3.0), (12000, 4.0), (5500, 8.0), (round(0.98 * RIVAL), 60.0))
"""Parameters that are left at most, and epochs of fine-tuning after that."""
DENSE_EPOCHS, MAX_SHARE, VALIDATION, BATCH, TEACHER = 8, 0.96, 1 / 12, 128, 0.5


def round_of(path: Path, data: Path, limit: int, epochs: float, output: Path) -> dict[str, object]:
    """One round, from one file to another."""
    start, model = time.perf_counter(), graph.load_model(path)
    job = Job(model, analyse(model), Terminal(quiet=True))
    job.lessons = open_data(str(data), inputs_of(model))
    order = np.random.default_rng(0).permutation(len(job.lessons))
    job.samples = job.lessons.take(np.sort(order[:2048]))
    cull = Cull("sparsity", 1 - limit / count_parameters(model), align=1, max_share=MAX_SHARE)
    training = Training(
        epochs=epochs, batch=BATCH, learning_rate=0.02, augment="none", validation=VALIDATION, patience=20
    )
    run_passes([cull, Excise(), Inherit(), Finetune(training, teacher=TEACHER)], job)
    graph.save_model(job.model, output)
    return {
        "parameters": count_parameters(job.model),
        "widths": [int((~job.dead[group.units]).sum()) for group in job.channels.groups],
        "kept": [entry["accepted"] for entry in job.recovery],
        "seconds": round(time.perf_counter() - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("work"))
    work = parser.parse_args().work
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = load()
    path = trained(lenet_caffe, work / "lenet_caffe.onnx", data, epochs=DENSE_EPOCHS)
    given = work / "mnist_train.npz"
    np.savez(given, input=data.images, y=data.labels)
    for number, (limit, epochs) in enumerate(ROUNDS, 1):
        output = work / f"lenet_caffe_{number}.onnx"
        if not output.exists():
            done = round_of(path, given, limit, epochs, output)
            print(json.dumps({"round": number, **done}), flush=True)
        path = output
    for name, model in (("dense", work / "lenet_caffe.onnx"), ("compressed", path)):
        told = accuracy(model, data.test_images, data.test_labels)
        count = count_parameters(graph.load_model(model))
        print(json.dumps({"network": name, "parameters": count, "rival": RIVAL, "accuracy": round(told, 2)}))


if __name__ == "__main__":
    main()
