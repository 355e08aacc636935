"""Does allocation pay beside the greedy cut? Predicted loss and accuracy of a CIFAR-10 ResNet: docs/fitness.md.

    MODELS=... DATA=... python -m tests.benchmarks.allocation [cifar10_resnet20]

Both choose on one and the same fitness. Allocation is asked for what the greedy cut saved, to within a quarter of a per
cent of the whole, and for no more loss. Data as in `cifar_resnet.py`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darwinc import graph
from darwinc.calibrators.calibration import calibration_of
from darwinc.calibrators.criteria import make_fitness
from darwinc.channels import Mask, analyse
from darwinc.console import Terminal
from darwinc.cost import CostModel
from darwinc.data import open_data
from darwinc.fitness import Fitness
from darwinc.passes.excise import excise
from darwinc.passes.inherit import Inherit
from darwinc.passes.recalibrate import Recalibrate
from darwinc.pipeline import Job, run_pass
from darwinc.quality import compare_quality
from darwinc.runtime import inputs_of
from darwinc.selection import Limits, Selection, allocate, replay, select, trace
from tests.benchmarks.cifar_resnet import prepared, read

TARGETS = (("sparsity", 0.3), ("sparsity", 0.5), ("sparsity", 0.7), ("macs", 0.5))
WINDOW = 0.0025


def accuracy(job: Job, dead: Mask, test: str, *, repaired: bool) -> float:
    """Top-1 in per cent on the test images, of the cut alone or after inherit."""
    trial = Job(job.original, job.channels, job.terminal, job.seed, job.device)
    trial.samples, trial.calibration, trial.dead = job.samples, calibration_of(job), dead
    trial.model, trial.excision = excise(job.original, job.channels, dead)
    for step in (Inherit(), Recalibrate()) if repaired else ():
        run_pass(step, trial)
    samples = open_data(test, inputs_of(job.original))
    quality, _ = compare_quality(graph.to_bytes(job.original), graph.to_bytes(trial.model), samples, split="test")
    return 100 * float(quality["after"])


def both(job: Job, fitness: Fitness, kind: str, share: float) -> Sequence[tuple[str, Selection, float]]:
    """The greedy cut and the allocated one, with their seconds."""
    limits, terms = Limits(8, 0.9, [True] * len(job.channels.groups)), CostModel(job.channels).terms(kind)
    whole, start = terms.current(), time.perf_counter()
    greedy = select(job.channels, terms, fitness.fork(), share * whole, limits)
    middle = time.perf_counter()
    terms = CostModel(job.channels).terms(kind)
    path = trace(job.channels, terms, fitness.fork(), limits)
    window = (greedy.saved - WINDOW * whole, greedy.saved + WINDOW * whole)
    removed = [int(greedy.dead[group.units].sum()) for group in job.channels.groups]
    found = allocate(job.channels, terms, path.curves(), limits, window, [removed])
    chosen = greedy if found is None else replay(job.channels, terms, fitness.fork(), limits, path, found)
    return ("greedy", greedy, middle - start), ("allocation", chosen, time.perf_counter() - middle)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "cifar10_resnet20"
    images, labels = read(Path(os.environ["DATA"]) / "cifar10")
    chosen = np.random.default_rng(0).choice(50000, 2048, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        test, data = Path(folder) / "test.npz", Path(folder) / "data.npz"
        np.savez(test, input=prepared(images[50000:]), y=labels[50000:].astype(np.int64))
        np.savez(data, input=prepared(images[chosen]))
        model = graph.load_model(Path(os.environ["MODELS"]) / f"{name}.onnx")
        graph.release_initializer_inputs(model)
        job = Job(model, analyse(model), Terminal(quiet=True))
        job.samples = open_data(str(data), inputs_of(model))
        with job.terminal.stage("fitness") as stage:
            fitness = make_fitness("darwin", job, stage)
        print(f"{name}\n| target | how | saved | predicted loss | none | inherit | s |\n|{' --- |' * 7}")
        for kind, share in TARGETS:
            whole = CostModel(job.channels).terms(kind).current()
            for how, selection, seconds in both(job, fitness, kind, share):
                bare, repaired = (accuracy(job, selection.dead, str(test), repaired=value) for value in (False, True))
                figures = f"{100 * selection.saved / whole:.2f} % | {selection.loss:.5g} | {bare:.1f} | {repaired:.1f}"
                print(f"| {kind} {share:g} | {how} | {figures} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
