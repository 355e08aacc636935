"""Hidden units removed from the perceptron of *Pruning as Evolution*, no fine-tuning: the table in docs/fitness.md.

    DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/mlp_mnist.py ROWS.jsonl --work FOLDER [0.35 0.5]
    python tests/benchmarks/mlp_mnist.py ROWS.jsonl --table

The network 784-512-256-10 is trained once (seed 0, last epoch) and kept in FOLDER. A share of its 768 hidden units
goes, wherever in the two layers they are, by every criterion, with and without inheritance; the criteria see 1,024
training images without labels, and accuracy is read on the 10,000 test images. The paper: 95.5 % at 35 %, 88.3 to
88.6 % at 50 %.

Where `--strategy select` exists, each of its dynamics runs too, with labels and `EPOCHS` epochs; it is asked for the
parameters that go when both layers lose that share, and the share of units that went is in the row.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import tempfile
import time
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch

from darwinc import Settings, Training, compress
from darwinc.calibrators.criteria import make_fitness
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import Terms
from darwinc.models.mlp import WIDTHS, mlp
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.passes.inherit import Inherit
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.selection import Limits, select
from tests.benchmarks.ablation import GIVEN, Subject, job_of
from tests.benchmarks.mnist import Mnist, accuracy, load, trained
from tests.benchmarks.sheet import Sheet, spread, table
from tests.benchmarks.variants import SEEDS, variants

SHARES, EPOCHS, DENSE_EPOCHS = (0.35, 0.5), 3.0, 8
UNITS = sum(WIDTHS[1:-1])
KEY = ("share", "criterion", "recovery", "seed")


class Heads:
    """A price (`cost.Price`) of one for each unit, whatever its parameters."""

    def __init__(self, channels: Channels) -> None:
        self._living = sum(map(len, channels.groups))

    def current(self) -> int:
        """The units that live."""
        return self._living

    def saved(self, group: int, units: int) -> int:
        """As many as die."""
        del group
        return units

    def remove(self, group: int, units: int) -> None:
        """Let some die."""
        del group
        self._living -= units


@dataclass(frozen=True)
class CullUnits(Pass):
    """A share of all units goes, the least fit first, by the criterion of `cull`."""

    cull: Cull
    share: float

    def run(self, job: Job, stage: Stage) -> bool:
        fitness = make_fitness(self.cull.fitness, job, stage, self.cull.scoring)
        price, limits = Heads(job.channels), Limits(1, 0.9, [True] * len(job.channels.groups), strict=True)
        need = math.ceil(self.share * price.current())
        job.selection = select(job.channels, cast(Terms, price), fitness, need, limits)
        job.dead = job.selection.dead
        return True


def widths(job: Job) -> list[int]:
    """How many units each hidden layer is left with."""
    return [int((~job.dead[group.units]).sum()) for group in job.channels.groups]


def by_criteria(path: Path, data: Mnist, shares: list[float], sheet: Sheet) -> None:
    chosen = np.sort(np.random.default_rng(0).choice(len(data.images), GIVEN, replace=False))
    found = Subject(path, data.images[chosen], data.test_images, data.test_labels)
    base = job_of(found)
    for share in shares:
        for variant in variants():
            for seed in variant.seeds:
                row = {"share": share, "criterion": variant.name, "seed": seed}
                if sheet.has({**row, "recovery": "inherit"}):
                    continue
                job, start = copy.copy(base), time.perf_counter()
                job.seed, job.recovery = seed, []
                cull = CullUnits(variant.cull("sparsity", share), share)
                for recovery, passes in (("none", [cull, Excise()]), ("inherit", [Inherit()])):
                    run_passes(passes, job)
                    kept = widths(job)
                    sheet.add({
                        **row,
                        "recovery": recovery,
                        "accuracy": round(accuracy(job.model, found.images, found.labels), 2),
                        "units_removed": round(1 - sum(kept) / UNITS, 4),
                        "widths": kept,
                        "seconds": round(time.perf_counter() - start, 1),
                    })  # fmt: skip


def by_dynamics(path: Path, data: Mnist, shares: list[float], sheet: Sheet) -> None:
    """Every dynamic that there is, with labels."""
    if "strategy" not in {field.name for field in fields(Settings)}:
        return
    options = import_module("darwinc.dynamics_options")
    with tempfile.TemporaryDirectory() as folder:
        given, output = Path(folder) / "train.npz", Path(folder) / "out.onnx"
        np.savez(given, input=data.images, y=data.labels)
        for share in shares:
            for kind in options.KINDS:
                for seed in SEEDS:
                    row = {"share": share, "criterion": f"select, {kind}", "recovery": "none", "seed": seed}
                    if sheet.has(row):
                        continue
                    start = time.perf_counter()
                    more = {"strategy": "select", "dynamics": options.Dynamics(dynamic=kind)}
                    settings = Settings(
                        data=str(given), align=1, recover=("none",), training=Training(epochs=EPOCHS, batch=128),
                        seed=seed, bench_seconds=0, **more,
                    )  # fmt: skip
                    result = compress(path, target=parameters_at(share), output=output, settings=settings)
                    kept = sum(group.channels_after for group in result.report.groups)
                    sheet.add({
                        **row,
                        "accuracy": round(accuracy(output, data.test_images, data.test_labels), 2),
                        "units_removed": round(1 - kept / UNITS, 4),
                        "seconds": round(time.perf_counter() - start, 1),
                    })  # fmt: skip


def parameters_at(share: float) -> float:
    """The share of parameters that goes when every hidden layer loses `share` of its units."""

    def count(widths: list[int]) -> int:
        return sum((entering + 1) * leaving for entering, leaving in pairwise(widths))

    left = [WIDTHS[0], *(round((1 - share) * width) for width in WIDTHS[1:-1]), WIDTHS[-1]]
    return 1 - count(left) / count(list(WIDTHS))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("shares", nargs="*", type=float)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_intermixed_args()
    sheet = Sheet(asked.rows, KEY)
    if asked.table:
        print(table(sheet.rows, ("criterion",), ("share", "recovery"), lambda rows: spread(rows, "accuracy")))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = load()
    path = trained(mlp, asked.work / "mlp.onnx", data, epochs=DENSE_EPOCHS)
    dense = {"share": 0.0, "criterion": "dense", "recovery": "none", "seed": 0}
    if not sheet.has(dense):
        sheet.add({**dense, "accuracy": round(accuracy(path, data.test_images, data.test_labels), 2)})
    by_criteria(path, data, asked.shares or list(SHARES), sheet)
    by_dynamics(path, data, asked.shares or list(SHARES), sheet)


if __name__ == "__main__":
    main()
