"""Generations of a saliency network at the papers' synaptic efficiencies: F_beta and MAE, on ECSSD and elsewhere.

    DATA=... python -m tests.benchmarks.ancestors FOLDER data saliency
    python -m tests.benchmarks.saliency_generations FOLDER [--epochs 10] [--population 2] [--seed 0] [--workers 1]
    python -m tests.benchmarks.saliency_generations FOLDER --from-generation 3 --environment SPEC

The ancestor is `models/saliency.py` at an eighth of its width, trained on 600 images of ECSSD without pretraining
(`tests/benchmarks/ancestors.py`). Offspring learn from the same 600 and 100 more, of which a fifth only judges; the 300
test images are read for the table alone. Generations 2, 3 and 4 have the papers' 4.1, 17.7 and 47.8 times fewer
synapses. Transfer: how well descendants' maps agree with the ancestor's on images of another source, without masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from darwinc.compression import Settings, Target, compress
from darwinc.console import Terminal
from darwinc.evolution.lineage import MODEL, Archive
from darwinc.evolution_options import Evolution
from darwinc.training import Training
from tests.benchmarks.generations import counts
from tests.benchmarks.saliency_scores import score, score_against

WAY = "clusters=0.85:0.85:0.7:0.8,synapses=0.49:0.4975:0.2316:0.3695"
"""1, 1 / 2.04, 1 / 4.1, 1 / 17.7, 1 / 47.9."""


def lessons(folder: Path) -> Path:
    """All images that may be learnt from or judged by, in one archive."""
    path = folder / "ecssd_lessons.npz"
    if not path.exists():
        parts = [np.load(folder / f"{name}.npz", allow_pickle=False) for name in ("ecssd_train", "ecssd_select")]
        np.savez(path, x=np.concatenate([part["x"] for part in parts]), y=np.concatenate([part["y"] for part in parts]))
    return path


def table(folder: Path, lineage: Path) -> None:
    """The ancestor and the fittest of each generation."""
    archive, ancestor = Archive.view(lineage), folder / "saliency.onnx"
    whole = counts(ancestor)["synapses"]
    named = [("ancestor", ancestor)]
    named += [
        (f"generation {each.generation}", archive.path(str(each.survivor), MODEL)) for each in archive.generations()
    ]
    print("| network | synapses | F_beta | best F_beta | MAE | transfer: F_beta | MAE |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, path in named:
        own, other = score(path, folder / "ecssd_test.npz"), score_against(path, ancestor, folder / "transfer.npz")
        fewer = f"{whole / counts(path)['synapses']:.1f}x"
        figures = (own.f_beta, own.best_f_beta, own.mae, other.f_beta, other.mae)
        print(f"| {name} | {fewer} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--population", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--from-generation", type=int)
    parser.add_argument("--environment", default=WAY)
    asked = parser.parse_args()
    lineage = asked.folder / "runs" / f"saliency-{asked.seed}"
    lineage.parent.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        data=str(lessons(asked.folder)),
        strategy="evolve",
        recover=("finetune",),
        teacher=0.5,
        align=1,
        max_share=0.97,
        training=Training(epochs=asked.epochs, batch=10, run_dir=str(lineage), resume=True),
        evolution=Evolution(
            generations=4,
            population=asked.population,
            parents=2,
            survivors=2,
            heredity="both",
            environment=asked.environment,
            from_generation=asked.from_generation,
            workers=asked.workers,
            controls=False,
        ),
        seed=asked.seed,
        bench_seconds=0,
    )
    output = lineage.parent / f"{lineage.name}.onnx"
    target = Target("synapses", 1 - 1 / 47.5)
    compress(asked.folder / "saliency.onnx", target=target, output=output, settings=settings, terminal=Terminal())
    table(asked.folder, lineage)


if __name__ == "__main__":
    main()
