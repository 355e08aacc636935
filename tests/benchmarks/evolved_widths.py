"""Is evolution worth its cost? Evolved widths of a CIFAR-10 ResNet against one-shot cuts and chance, no training.

    DATA=... python -m tests.benchmarks.base_resnet BASE                    # BASE/resnet56.onnx
    DATA=... python -m tests.benchmarks.evolved_widths FOLDER MODEL.onnx [--removed 0.6] [--seeds 0 1 2] [--raised 16]

At the same MACs and with the same repairs (`inherit`, `recalibrate`) stand beside each other: the fittest of RAISED
offspring in four generations, the best of as many random width vectors (`--parents 0`, one generation), the
deterministic Darwinian cut, Taylor's, and one random cut. Everything is chosen and repaired on 4,000 unlabelled images
of train[:44000]: 2,048 calibrate, 800 judge by agreement with the original. Accuracy is read on train[45000:50000]
and the 1,000 test images, once; a model that was trained on all 50,000 gives `--test-only`. Rows are kept in
FOLDER/widths.jsonl.
"""

from __future__ import annotations

import argparse
import os
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
from tests.benchmarks.cifar_resnet import prepared, read
from tests.benchmarks.sheet import Sheet, spread, table

GENERATIONS = 4
IMAGES = 4000
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
    parser.add_argument("--removed", type=float, default=0.6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--raised", type=int, default=16)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--test-only", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    images, labels = read(Path(os.environ["DATA"]) / "cifar10")
    start = 50000 if asked.test_only else 45000
    judged, known = prepared(images[start:]), labels[start:].astype(np.int64)
    sheet = Sheet(asked.folder / "widths.jsonl", ("model", "removed", "seed", "how"))
    name = onnx.load(str(asked.model)).graph.input[0].name
    for seed in asked.seeds:
        data = asked.folder / f"images-{seed}.npz"
        chosen = {name: prepared(images[np.random.default_rng(seed).choice(44000, IMAGES, replace=False)])}
        np.savez(data, **chosen)  # type: ignore[arg-type]
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
            row = {"model": asked.model.stem, "removed": asked.removed, "seed": seed, "how": how}
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
    print(f"\nbase: {mnist.accuracy(asked.model, judged, known):.2f} %\n")
    print(table(sheet.rows, ["model", "removed", "how"], ["seed"], lambda rows: spread(rows, "accuracy")))
    print(table(sheet.rows, ["model", "removed"], ["how"], lambda rows: spread(rows, "accuracy")))


if __name__ == "__main__":
    main()
