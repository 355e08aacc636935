"""What each criterion of fitness is worth, with and without inheritance: the ablation in docs/fitness.md.

    MODELS=... DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/ablation.py ROWS.jsonl --work FOLDER [NAME ...] [0.5]
    MODELS=... DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/ablation.py ROWS.jsonl --work FOLDER --stage two
    python tests/benchmarks/ablation.py ROWS.jsonl --table

Stage one: every criterion, and the Darwinian Score without each factor, x {none, inherit}, at 50, 70, 30 and 90 % of
the parameters, and at 95 and 98 % on MNIST; what is decided by chance with three seeds. Stage two: `--criteria A,B,...`
(by default darwin, taylor, l1, l2 and random) with 60 seconds of distillation, at 50 and 90 %, with three seeds.

Calibration and distillation see 1,024 training images without labels; accuracy is read on the 1,000 test images of
CIFAR-10 that the sheets end with, and on MNIST's 10,000. Alignment is 8 where a group is wide enough, as by default.
LeNet-5-Caffe is trained once and kept in FOLDER. Rows that are in the file aren't measured again.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darwinc import graph
from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import measure as measure_cost
from darwinc.data import open_data
from darwinc.errors import Unreachable, UsageError
from darwinc.models.lenet_caffe import lenet_caffe
from darwinc.passes.distill import Distill
from darwinc.passes.excise import Excise
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.runtime import inputs_of
from darwinc.training import Training
from tests.benchmarks.cifar_resnet import prepared, read
from tests.benchmarks.mnist import accuracy, load, trained
from tests.benchmarks.sheet import Sheet, spread, table
from tests.benchmarks.variants import SEEDS, Variant, variants
from tests.small_models import save_data

Array = np.ndarray[Any, Any]
GIVEN, MINUTES, LENET_EPOCHS = 1024, 1.0, 8
AMOUNTS, EXTREMES = (0.5, 0.7, 0.3, 0.9), (0.95, 0.98)
STAGE_TWO = (0.5, 0.9)
NETWORKS = ("cifar10_resnet20", "lenet_caffe", "mnist_burn", "cifar10_resnet56")
HANDWRITTEN = ("lenet_caffe", "mnist_burn")
MAX_SHARE = {0.95: 0.97, 0.98: 0.99}
"""The largest share of one group that may go, where the default's 0.9 is too little."""
KEY = ("stage", "network", "amount", "fitness", "recovery", "seed")


@dataclass(frozen=True)
class Subject:
    """A network, the images it is calibrated on, and those its accuracy is read on."""

    path: Path
    given: Array
    images: Array
    labels: Array


def subject(name: str, work: Path) -> Subject:
    """By name; the images that are given are random ones of the training images."""
    chosen = np.sort(np.random.default_rng(0).choice(50000, GIVEN, replace=False))
    if name not in HANDWRITTEN:
        images, labels = read(Path(os.environ["DATA"]) / "cifar10")
        path = Path(os.environ["MODELS"]) / f"{name}.onnx"
        return Subject(path, prepared(images[chosen]), prepared(images[50000:]), labels[50000:].astype(np.int64))
    data = load()
    path = Path(os.environ["MODELS"]) / f"{name}.onnx"
    if name == "lenet_caffe":
        path = trained(lenet_caffe, work / "lenet_caffe.onnx", data, epochs=LENET_EPOCHS)
    return Subject(path, data.images[chosen], data.test_images, data.test_labels)


def job_of(found: Subject) -> Job:
    """What all rows of one network start from."""
    model = graph.load_model(found.path)
    graph.release_initializer_inputs(model)
    job = Job(model, analyse(model), Terminal(quiet=True))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "given.npz"
        save_data(data, {inputs_of(model)[0].name: found.given})
        job.samples = job.lessons = open_data(str(data), inputs_of(model))
    return job


@dataclass(frozen=True)
class Plan:
    """One cut, with what follows it."""

    network: str
    amount: float
    variant: Variant
    seed: int
    stage: str

    @property
    def row(self) -> dict[str, Any]:
        """The fields by which its rows are known, but for the recovery."""
        return {
            "stage": self.stage,
            "network": self.network,
            "amount": self.amount,
            "fitness": self.variant.name,
            "seed": self.seed,
        }

    @property
    def recoveries(self) -> dict[str, list[Pass]]:
        """The recoveries, each of which goes on from the one before."""
        found: dict[str, list[Pass]] = {"none": [], "inherit": [Inherit()]}
        if self.stage == "two":
            found["inherit,distill"] = [Distill(Training(minutes=MINUTES))]
        return found


def stage_one(names: list[str], amounts: list[float]) -> Iterator[Plan]:
    """The most informative first: half of the parameters on every network but the deepest, then the other shares."""
    early = [name for name in names if name != "cifar10_resnet56"]
    late = [name for name in names if name == "cifar10_resnet56"]
    for group in (early, late):
        for amount in amounts or (*AMOUNTS, *EXTREMES):
            for name in group:
                if amount in EXTREMES and name not in HANDWRITTEN:
                    continue
                for variant in variants():
                    for seed in variant.seeds:
                        yield Plan(name, amount, variant, seed, "one")


def stage_two(names: list[str], amounts: list[float], criteria: list[str]) -> Iterator[Plan]:
    """Distillation differs with the seed, so everything is done with three."""
    for amount in amounts or STAGE_TWO:
        for name in names:
            for variant in variants():
                if variant.name in criteria:
                    for seed in SEEDS:
                        yield Plan(name, amount, variant, seed, "two")


def perform(plan: Plan, base: Job, found: Subject, sheet: Sheet) -> None:
    """The rows of one plan, which share the cut."""
    job = copy.copy(base)
    job.seed, job.recovery, job.warnings = plan.seed, [], []
    if plan.stage == "two":
        job.calibration = None
    start = time.perf_counter()
    before = measure_cost(base.original, base.channels)
    cull = plan.variant.cull("sparsity", plan.amount, max_share=MAX_SHARE.get(plan.amount, 0.9))
    try:
        run_passes([cull, Excise()], job)
    except (Unreachable, UsageError) as error:
        sheet.add({**plan.row, "recovery": "inherit", "error": str(error)})
        return
    for recovery, passes in plan.recoveries.items():
        run_passes(passes, job)
        after = measure_cost(job.model)
        row = {
            **plan.row,
            "recovery": recovery,
            "accuracy": round(accuracy(job.model, found.images, found.labels), 2),
            "removed": round(1 - after.parameters / before.parameters, 4),
            "macs_removed": round(1 - after.macs / before.macs, 4),
            "kept": [entry["accepted"] for entry in job.recovery],
            "seconds": round(time.perf_counter() - start, 1),
        }
        if not sheet.has(row):
            sheet.add(row)
    base.calibration = base.calibration or job.calibration


def tables(sheet: Sheet) -> str:
    """Accuracy in per cent by criterion, one table for each stage and network."""
    text = []
    for stage, network in dict.fromkeys((row["stage"], row["network"]) for row in sheet.rows):
        rows = [row for row in sheet.rows if (row["stage"], row["network"]) == (stage, network) and "accuracy" in row]
        rows.sort(key=lambda row: row["amount"])
        shown = table(rows, ("fitness",), ("amount", "recovery"), lambda here: spread(here, "accuracy"))
        text.append(f"{network}, stage {stage}:\n\n{shown}")
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--stage", choices=("one", "two"), default="one")
    parser.add_argument("--criteria", default="darwin,taylor,l1,l2,random")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_intermixed_args()
    sheet = Sheet(asked.rows, KEY)
    if asked.table:
        print(tables(sheet))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    names = [name for name in NETWORKS if name in asked.words] or list(NETWORKS)
    amounts = [float(word) for word in asked.words if word[0].isdigit()]
    plans = stage_one(names, amounts)
    if asked.stage == "two":
        plans = stage_two(names, amounts, asked.criteria.split(","))
    bases: dict[str, tuple[Subject, Job]] = {}
    for plan in plans:
        if sheet.has({**plan.row, "recovery": list(plan.recoveries)[-1]}):
            continue
        if plan.network not in bases:
            # One network's calibration at a time is held.
            found = subject(plan.network, asked.work)
            bases = {plan.network: (found, job_of(found))}
        perform(plan, bases[plan.network][1], bases[plan.network][0], sheet)


if __name__ == "__main__":
    main()
