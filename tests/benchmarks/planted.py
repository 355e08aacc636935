"""Redundancy planted into trained networks: is it found, and do the answers stay? The table in docs/fitness.md.

    MODELS=... DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/planted.py ROWS.jsonl [NAME ...] [--fitness darwin]
    python tests/benchmarks/planted.py ROWS.jsonl --table

Each network is widened by two fifths (`darwinc.models.planted`) and cut back to its number of parameters, one channel
at a time, by every fitness, with and without inheritance, with 1,024 unlabelled samples and without any. The budget is
that many parameters in all (`global`), or as many units of each group as were planted there (`groups`). What the
original can do without by itself is taken out before anything is planted (`lean`). Found is the share of the planted
units that went, less what of the original can't be had any more; the error is the largest difference of any answer to
held-out samples, as a share of the largest answer. Rows that are there aren't measured again.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from darwinc import graph
from darwinc.calibrators.criteria import make_fitness
from darwinc.channels import analyse
from darwinc.console import Stage, Terminal
from darwinc.data import Samples, open_data
from darwinc.demo import train_demo_model
from darwinc.models.digits import load_digits
from darwinc.models.planted import Planted, by_kind, plant
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.runtime import Feed, inputs_of
from tests.benchmarks.cifar_resnet import prepared, read
from tests.benchmarks.mnist import load
from tests.benchmarks.planting import outcome, planted_job, to_original_size
from tests.benchmarks.recovery import photos
from tests.benchmarks.sheet import Sheet, table
from tests.benchmarks.variants import Variant, variants
from tests.small_models import save_data

Array = np.ndarray[Any, Any]
SHARE, GIVEN, MEASURED = 0.4, 1024, 128
KEY = ("network", "data", "budget", "fitness", "recovery", "seed")
BUDGETS = ("global", "groups")
SPARE = 1e-6
"""A loss, as a share of the median of its group, below which the original can do without a unit."""


def cifar_images() -> tuple[Array, Array]:
    images, _ = read(Path(os.environ["DATA"]) / "cifar10")
    return prepared(images[:GIVEN]), prepared(images[50000 : 50000 + MEASURED])


def mnist_images() -> tuple[Array, Array]:
    found = load()
    return found.images[:GIVEN], found.test_images[:MEASURED]


def photographs(size: int, spec: str) -> Callable[[], tuple[Array, Array]]:
    def read() -> tuple[Array, Array]:
        found = photos("imagenet_samples", size, spec, given=800)
        return found.given, found.measured[:MEASURED]

    return read


def digits() -> tuple[Array, Array]:
    found = load_digits()
    return found.train.images, found.test.images[:MEASURED]


NETWORKS: dict[str, Callable[[], tuple[Array, Array]]] = {
    "demo_lenet": digits,
    "cifar10_resnet20": cifar_images,
    "mnist_burn": mnist_images,
    "cct_2_32_32_128_opset20": cifar_images,
    "vww_mobilenetv1_025_96_mlperf_tiny": photographs(96, "unit"),
    "st_mobilenetv2_035_128_flowers": photographs(128, "signed"),
    "cifar10_resnet56": cifar_images,
}
"""Samples to calibrate on and to measure on, by the name of the file in `$MODELS`; the demo's LeNet is trained here."""


def original(name: str) -> ir.Model:
    """The network before anything is planted."""
    if name == "demo_lenet":
        with tempfile.TemporaryDirectory() as folder:
            return graph.embedded(graph.load_model(train_demo_model(Path(folder), seed=0, progress=print).model))
    model = graph.load_model(Path(os.environ["MODELS"]) / f"{name}.onnx")
    graph.release_initializer_inputs(model)
    return model


def samples_of(model: ir.Model, given: Array) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "given.npz"
        save_data(data, {inputs_of(model)[0].name: given})
        return open_data(str(data), inputs_of(model))


def lean(model: ir.Model, given: Array) -> tuple[ir.Model, int]:
    """The network without the units that it does not need as it is, by the Darwinian Score, and how many those were."""
    job = Job(model, analyse(model), Terminal(quiet=True))
    job.samples = samples_of(model, given)
    with job.terminal.stage("lean") as stage:
        fitness = make_fitness("darwin", job, stage)
    for group in job.channels.groups:
        living, limit = group.units, SPARE * float(np.median(fitness.losses(group.units)))
        while len(living) > 1:
            units, loss = fitness.weakest(living, 1)
            if loss > limit:
                break
            fitness.remove(units)
            job.dead[units] = True
            living = np.setdiff1d(living, units)
    run_passes([Excise()], job)
    return job.model, int(job.dead.sum())


@dataclass(frozen=True)
class CullGroups(Pass):
    """As many units of each group go as were planted there, the least fit first."""

    cull: Cull
    counts: Mapping[str, int]

    def run(self, job: Job, stage: Stage) -> bool:
        fitness = make_fitness(self.cull.fitness, job, stage, self.cull.scoring)
        job.dead = job.channels.nobody()
        for group in job.channels.groups:
            living = group.units
            for _ in range(self.counts.get(group.id, 0)):
                units, _loss = fitness.weakest(living, 1)
                fitness.remove(units)
                job.dead[units] = True
                living = np.setdiff1d(living, units)
        return True


def rows_of(
    base: Job, planted: Planted, variant: Variant, budget: str, seed: int, feeds: list[Feed]
) -> list[tuple[str, dict[str, Any]]]:
    """One cut, and the same with inheritance, as rows by the name of the recovery."""
    job, found = copy.copy(base), list[tuple[str, dict[str, Any]]]()
    job.seed, job.recovery = seed, []
    cull = variant.cull("sparsity", to_original_size(planted, base), align=1)
    counts = {planting.group: planting.planted for planting in planted.plantings}
    first = cull if budget == "global" else CullGroups(cull, counts)
    chain: dict[str, list[Pass]] = {"none": [first, Excise()], "inherit": [Inherit()]}
    for name, passes in chain.items():
        start = time.perf_counter()
        for step in passes:
            with job.terminal.stage(name) as stage:
                step.run(job, stage)
        cut = outcome(planted, job, feeds)
        found.append((name, {
            "found": round(cut.found, 4),
            "lost": round(cut.lost, 1),
            "error": float(f"{cut.error:.2e}"),
            "kept": [entry["accepted"] for entry in job.recovery],
            "seconds": round(time.perf_counter() - start, 1),
        }))  # fmt: skip
    base.calibration = job.calibration
    return found


def measure(name: str, sheet: Sheet, criteria: list[str]) -> None:
    rows: list[tuple[Variant, dict[str, Any]]] = [
        (variant, {"network": name, "data": data, "budget": budget, "fitness": variant.name, "seed": seed})
        for data in ("data", "none")
        for variant in variants(factors=False)
        if variant.name in criteria
        for budget in BUDGETS
        for seed in variant.seeds
    ]
    wanted = [(variant, row) for variant, row in rows if not sheet.has({**row, "recovery": "inherit"})]
    if not wanted:
        return
    (given, measured), bases = NETWORKS[name](), dict[str, Job]()
    model, spared = lean(original(name), given)
    planted = plant(model, share=SHARE, seed=1)
    entry = inputs_of(planted.model)[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else len(measured)
    feeds: list[Feed] = [{entry.name: part} for part in np.split(measured, len(measured) // batch)]
    for variant, row in wanted:
        data = row["data"]
        if data not in bases:
            bases = {data: planted_job(planted, samples_of(planted.model, given) if data == "data" else None)}
        for recovery, values in rows_of(bases[data], planted, variant, row["budget"], row["seed"], feeds):
            sheet.add({
                **row,
                "recovery": recovery,
                "planted": planted.planted,
                "kinds": dict(by_kind(planted.plantings)),
                "spared": spared,
                **values,
            })  # fmt: skip


def shown(rows: list[Any]) -> str:
    """The share found in per cent, the originals lost, and the error."""
    found = 100 * float(np.mean([row["found"] for row in rows]))
    return f"{found:.1f}, {np.mean([row['lost'] for row in rows]):.0f}, {np.mean([row['error'] for row in rows]):.0e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--fitness", default=",".join(variant.name for variant in variants(factors=False)))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_intermixed_args()
    sheet = Sheet(asked.rows, KEY)
    if asked.table:
        print(table(sheet.rows, ("network", "data", "fitness"), ("budget", "recovery"), shown))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for name in asked.names or NETWORKS:
        measure(name, sheet, asked.fitness.split(","))


if __name__ == "__main__":
    main()
