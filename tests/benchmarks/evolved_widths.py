"""Is evolution worth its cost? Evolved widths against one-shot cuts and against chance, without training.

    DATA=... python -m tests.benchmarks.ancestors FOLDER data lenet_mnist
    python -m tests.benchmarks.evolved_widths FOLDER MODEL.onnx mnist_train mnist_test [--removed 0.8] [--seeds 0 1 2]
        [--raised 16] [--images 4000] [--workers 1]

At the same MACs and with the same repairs (`inherit`, `recalibrate`) stand beside each other: the fittest of RAISED
offspring in four generations, the best of as many random width vectors (`--parents 0`, one generation: within each
group the strongest stay), the deterministic Darwinian cut, Taylor's, and one random cut. Everything is chosen and
repaired on IMAGES unlabelled images of FOLDER/<first archive>: at most 2,048 calibrate, a fifth judges by agreement
with the original. Accuracy is read on FOLDER/<second archive>, once. Rows are kept in FOLDER/widths.jsonl.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from darwinc.compression import Result, Settings, Target, compress
from darwinc.console import Terminal
from darwinc.evolution_options import Evolution
from darwinc.evolution_schema import Individual
from tests.benchmarks import mnist
from tests.benchmarks.sheet import Sheet, spread, table

GENERATIONS = 4
REPAIRS = ("inherit", "recalibrate")


def validated(result: Result) -> float | None:
    """The winner's agreement on the samples that chose it."""
    evolution = result.report.evolution
    offspring: list[Individual] = [each for row in result.report.generations for each in row.offspring]
    found = [each.quality for each in offspring if evolution is not None and each.id == evolution.winner]
    return found[0] if found else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--removed", type=float, default=0.8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--raised", type=int, default=16)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--workers", default="1")
    asked = parser.parse_args()
    with np.load(asked.folder / f"{asked.test}.npz", allow_pickle=False) as split:
        judged, known = split["x"], split["y"]
    sheet = Sheet(asked.folder / "widths.jsonl", ("model", "removed", "seed", "raised", "how"))
    name = onnx.load(str(asked.model)).graph.input[0].name
    for seed in asked.seeds:
        data = asked.folder / f"widths-{asked.train}-{seed}.npz"
        with np.load(asked.folder / f"{asked.train}.npz", allow_pickle=False) as split:
            images = split["x"]
            chosen = {name: images[np.random.default_rng(seed).choice(len(images), asked.images, replace=False)]}
        np.savez(data, **chosen)
        plain = Settings(data=str(data), align=1, recover=REPAIRS, seed=seed, bench_seconds=0)
        evolved = Evolution(
            generations=GENERATIONS, population=asked.raised // GENERATIONS, controls=False, workers=asked.workers
        )
        chance = replace(evolved, generations=1, population=asked.raised, parents=0)
        for how, settings in (
            ("evolved", replace(plain, strategy="evolve", evolution=evolved)),
            ("best of random", replace(plain, strategy="evolve", evolution=chance)),
            ("darwin, one shot", plain),
            ("taylor, one shot", replace(plain, fitness="taylor")),
            ("random, one shot", replace(plain, fitness="random")),
        ):
            row = {
                "model": asked.model.stem,
                "removed": asked.removed,
                "seed": seed,
                "raised": asked.raised,
                "how": how,
            }
            if sheet.has(row):
                continue
            began = time.perf_counter()
            output = asked.folder / f"{asked.model.stem}-{seed}-{how.replace(' ', '-').replace(',', '')}.onnx"
            done = compress(
                asked.model, target=Target("macs", asked.removed), output=output, settings=settings, terminal=Terminal()
            )
            seconds = time.perf_counter() - began
            counted = {"macs": done.report.after.macs if done.report.after else None, "validation": validated(done)}
            sheet.add(row | counted | {"accuracy": mnist.accuracy(output, judged, known), "seconds": round(seconds)})
    print(f"\n{asked.model.stem}: {mnist.accuracy(asked.model, judged, known):.2f} %\n")
    print(table(sheet.rows, ["model", "removed", "raised", "how"], ["seed"], lambda rows: spread(rows, "accuracy", 2)))
    print(table(sheet.rows, ["model", "removed", "raised"], ["how"], lambda rows: spread(rows, "accuracy", 2)))


if __name__ == "__main__":
    main()
