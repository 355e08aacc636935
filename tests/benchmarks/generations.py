"""Generations of ever smaller networks on the papers' LeNets: the papers' runs as they describe them, beside ours.

    DATA=... python -m tests.benchmarks.ancestors FOLDER data lenet_mnist lenet_cifar
    python -m tests.benchmarks.generations FOLDER RUN [--epochs 5] [--seed 0] [--workers 1] [--controls]
    python -m tests.benchmarks.generations FOLDER RUN --from-generation G [--population N] [--environment SPEC] ...
    python -m tests.benchmarks.generations FOLDER RUN --ancestor FOLDER/runs/OTHER/networks/ID/model.onnx
    python -m tests.benchmarks.generations FOLDER            # the tables of all runs that lie in FOLDER

RUN is one of those in `RUNS`. Lineages lie in FOLDER/runs/RUN-SEED; a run that was stopped goes on. Validation samples
of the training data select; the test split is read once for each line of a table, after the run. Synapses and kernels
are counted with the classifier, and without it as the papers do (`NOT_COUNTED`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from darwinc.compression import Settings, Target, compress
from darwinc.console import Terminal
from darwinc.errors import Unreachable
from darwinc.evolution.lineage import MODEL, Archive
from darwinc.evolution_options import Evolution
from darwinc.evolution_schema import Individual
from darwinc.training import Training
from tests.benchmarks import mnist

NOT_COUNTED = "classifier.weight"
PAPERS = Evolution(heredity="both", strength="magnitude", temperature=1.0, drift=0.0)
"""Strengths are |w| over the layer's largest, and exp(w / Z - 1) is the draw at temperature 1."""


@dataclass(frozen=True)
class Run:
    """One run: whose ancestor, towards what, and how."""

    network: str
    target: Target
    evolution: Evolution
    recover: tuple[str, ...] = ("finetune",)


RUNS: dict[str, Run] = {
    # 139x synapses and 14.1x kernels after 13 generations, 97.1 %.
    "mnist-one-parent": Run(
        "mnist",
        Target("synapses", 1 - 1 / 138),
        replace(
            PAPERS, generations=13, population=1, parents=1, survivors=1, environment="kernels=0.816,synapses=0.684"
        ),
    ),
    # 258x and 34.3x after 8 generations, 97.4 %.
    "mnist-two-parents": Run(
        "mnist",
        Target("synapses", 1 - 1 / 250),
        replace(
            PAPERS, generations=8, population=2, parents=2, survivors=2, environment="kernels=0.643,synapses=0.4995"
        ),
    ),
    "mnist-kernels": Run(
        "mnist",
        Target("macs", 0.995),
        Evolution(
            generations=7,
            population=3,
            parents=2,
            survivors=2,
            environment="kernels=0.3:0.5:0.6:0.65:0.7:0.7:0.57",
        ),
        ("inherit", "finetune"),
    ),
    # From a network of mnist-kernels with 7,593 synapses (--ancestor): 19 times fewer already.
    "mnist-synapses": Run(
        "mnist",
        Target("synapses", 1 - 1 / 22),
        Evolution(
            generations=6,
            population=2,
            parents=2,
            survivors=2,
            heredity="both",
            environment="clusters=0.97,synapses=0.597",
        ),
    ),
    # 74.1 % at 10.7x, 67.9 % at 36.3x.
    "cifar-synapses": Run(
        "cifar",
        Target("synapses", 1 - 1 / 36.3),
        Evolution(
            generations=6,
            population=3,
            parents=2,
            survivors=2,
            heredity="both",
            environment="clusters=0.7:0.85:0.9:0.95,synapses=0.3:0.45:0.55:0.6:0.7:0.85",
        ),
    ),
}
TESTED = {"mnist": "mnist_test", "cifar": "cifar_report"}


def evolve(folder: Path, name: str, asked: argparse.Namespace) -> None:
    """One run, to its end."""
    run, lineage = RUNS[name], _lineage(folder, name, asked.seed)
    given = {"population": asked.population, "environment": asked.environment, "generations": asked.generations}
    options = {key: value for key, value in given.items() if value is not None}
    evolution = replace(run.evolution, workers=asked.workers, controls=asked.controls, **options)
    settings = Settings(
        data=str(folder / f"{run.network}_train.npz"),
        strategy="evolve",
        recover=run.recover,
        teacher=asked.teacher,
        align=1,
        max_share=0.97,
        training=Training(epochs=asked.epochs, batch=200, run_dir=str(lineage), resume=True),
        evolution=replace(evolution, from_generation=asked.from_generation),
        seed=asked.seed,
        bench_seconds=0,
    )
    output = lineage.parent / f"{lineage.name}.onnx"
    try:
        done = compress(
            asked.ancestor or folder / f"lenet_{run.network}.onnx",
            target=run.target,
            output=output,
            settings=settings,
            terminal=Terminal(),
        )
        output.with_suffix(".json").write_text(done.report.model_dump_json(by_alias=True))
    except Unreachable as error:
        print(error)


def _lineage(folder: Path, name: str, seed: int) -> Path:
    made = folder / "runs" / f"{name}-{seed}"
    made.parent.mkdir(parents=True, exist_ok=True)
    return made


def counts(path: Path) -> Mapping[str, int]:
    """Non-zero weights and filter planes of all convolutions, with and without the classifier."""
    total: dict[str, int] = dict.fromkeys(("synapses", "kernels", "synapses without", "kernels without"), 0)
    for tensor in onnx.load(str(path)).graph.initializer:
        if tensor.name.endswith(".weight"):
            array = numpy_helper.to_array(tensor)
            found = int(np.count_nonzero(array)), int(array.reshape(*array.shape[:2], -1).any(axis=2).sum())
            for kind in ("", " without") if tensor.name != NOT_COUNTED else ("",):
                total[f"synapses{kind}"] += found[0]
                total[f"kernels{kind}"] += found[1]
    return total


def table(folder: Path, lineage: Path) -> None:
    """The fittest of each generation on the test split."""
    archive, run = Archive.view(lineage), RUNS[lineage.name.rpartition("-")[0]]
    ancestor = folder / f"lenet_{run.network}.onnx"
    with np.load(folder / f"{TESTED[run.network]}.npz", allow_pickle=False) as split:
        images, labels = split["x"], split["y"]
    whole = counts(ancestor)
    print(f"\n{lineage.name}; the ancestor has {mnist.accuracy(ancestor, images, labels):.2f} %\n")
    print("| network | widths | synapses | kernels | synapses, no classifier | kernels, no classifier | test, % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    known = {each.id: each for each in archive.individuals()}
    best = [known[each.survivor] for each in archive.generations() if each.survivor in known]
    controls = [each for each in known.values() if each.kind == "control"]
    for each in (*best, *controls):
        path = archive.path(each.id, MODEL)
        found = counts(path)
        ratios = [f"{whole[kind] / max(found[kind], 1):.1f}x" for kind in found]
        order = [ratios[place] for place in (0, 1, 2, 3)]
        widths = "-".join(map(str, each.widths))
        print(f"| {_named(each)} | {widths} | {' | '.join(order)} | {mnist.accuracy(path, images, labels):.2f} |")


def _named(each: Individual) -> str:
    return each.name or f"generation {each.generation}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", nargs="?", choices=RUNS)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--from-generation", type=int)
    parser.add_argument("--generations", type=int)
    parser.add_argument("--population", type=int)
    parser.add_argument("--environment")
    parser.add_argument("--ancestor", type=Path)
    parser.add_argument("--teacher", type=float, default=0.0)
    parser.add_argument("--controls", action="store_true")
    asked = parser.parse_args()
    if asked.run is not None:
        evolve(asked.folder, asked.run, asked)
    for lineage in sorted((asked.folder / "runs").glob("*-*")):
        if lineage.is_dir() and (asked.run is None or lineage.name == f"{asked.run}-{asked.seed}"):
            table(asked.folder, lineage)


if __name__ == "__main__":
    main()
