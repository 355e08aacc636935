"""Seconds from an ONNX file to a smaller one, against Torch-Pruning's from a torch module to a smaller ONNX file.

Ours are the stages read, analyse, choose, rewrite and write of a run that is asked for half of what can go; the run
with its proof is given beside it, because Torch-Pruning has none. Theirs are the dependency graph, pruning half of all
channels by magnitude, and PyTorch's exporter, the one that made our file. Building the module is counted for neither.
Each run is a fresh process with everything imported; the two take turns.
"""

from __future__ import annotations

import importlib
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import VisionTransformer

from darwinc import Settings, Target, compress
from darwinc.inspection import inspect_model
from darwinc.models.exporting import leaves
from tests.benchmarks.exports import Exporter, Network, discard_if_large, obtain, write
from tests.benchmarks.forked import OVERTIME, Missed, in_child

LIMIT = 300.0
UNCOUNTED = ("prove",)
SETTINGS = Settings(fitness="l2", recover=("none",), bench_seconds=0)
CLASSES = (1000, 400, 91, 21)
"""Widths of torchvision's last layers: classes of ImageNet, Kinetics, COCO and VOC."""
COLUMNS = ("model", "exporter", "darwinc, s", "with its proof, s", "Torch-Pruning, s", "times as fast")


@dataclass(frozen=True)
class Lap:
    """Seconds of the median round, or None and a reason; `at_least`: theirs was stopped at the limit."""

    network: str
    exporter: str
    ours: float | None
    proven: float | None
    theirs: float | None
    at_least: bool = False
    reason: str = ""
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.theirs / self.ours if self.ours and self.theirs else None

    def __str__(self) -> str:
        more = "> " if self.at_least else ""
        ours, proven = ("-" if seconds is None else f"{seconds:.2f}" for seconds in (self.ours, self.proven))
        theirs = self.reason.replace("|", "/") if self.theirs is None else f"{more}{self.theirs:.2f}"
        ratio = "-" if self.ratio is None else f"{more}{self.ratio:.1f}"
        return f"| {' | '.join((f'`{self.network}`', self.exporter, ours, proven, theirs, ratio))} |"


def run(jobs: list[tuple[Network, Exporter]], keep: Path, rounds: int, *, again: bool) -> None:
    """Race over the jobs; laps go to `race.jsonl` as they are run, the table to `race.md`."""
    importlib.import_module("torch_pruning")
    path = keep / "race.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    laps = {(lap.network, lap.exporter): lap for lap in (Lap(**json.loads(line)) for line in lines)}
    for network, exporter in jobs:
        if not again and (network.label, exporter.name) in laps:
            continue
        lap = laps[network.label, exporter.name] = measure(network, exporter, keep, rounds)
        with path.open("a") as file:
            file.write(json.dumps(asdict(lap)) + "\n")
        path.with_suffix(".md").write_text(table(list(laps.values())))
        print(lap, flush=True)
    print(table(list(laps.values())).partition("\n\n")[0])


def measure(network: Network, exporter: Exporter, keep: Path, rounds: int) -> Lap:
    """Both tools in turn; one that fails or takes too long isn't asked again."""
    ours: list[tuple[float, float, dict[str, float]]] = []
    theirs: list[float] = []
    failures: dict[str, str] = {}
    try:
        model = obtain(network, exporter, keep)
        share = in_child("failed", LIMIT, prunable_share, model)
        for _ in range(rounds):
            ours.append(in_child("failed", LIMIT, time_ours, model, share))
            try:
                if "theirs" not in failures:
                    theirs.append(in_child("failed", LIMIT, time_theirs, network, exporter))
            except Missed as missed:
                failures["theirs"] = str(missed)
        discard_if_large(model)
    except Missed as missed:
        return Lap(network.label, exporter.name, None, None, None, reason=f"{missed.verdict}: {missed}")
    rewrite, proven, stages = sorted(ours, key=lambda times: times[0])[len(ours) // 2]
    lap = Lap(network.label, exporter.name, rewrite, proven, None, stages=stages)
    if theirs:
        return replace(lap, theirs=statistics.median(theirs))
    stopped = OVERTIME in failures["theirs"]
    return replace(lap, theirs=LIMIT if stopped else None, at_least=stopped, reason=failures["theirs"])


def prunable_share(model: Path) -> float:
    found = inspect_model(model).as_dict()
    return float(found.get("prunable_sparsity", found["reachable_sparsity"]))


def time_ours(model: Path, share: float) -> tuple[float, float, dict[str, float]]:
    """Seconds without the proof, for the whole run with it, and of each stage."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        start = time.perf_counter()
        result = compress(
            model, target=Target("sparsity", share / 2), output=Path(folder) / "o.onnx", settings=SETTINGS
        )
        whole = time.perf_counter() - start
    stages = result.report.time
    return sum(seconds for stage, seconds in stages.items() if stage not in UNCOUNTED), whole, stages


def time_theirs(network: Network, exporter: Exporter) -> float:
    """Seconds for the dependency graph, pruning and export."""
    pruning: Any = importlib.import_module("torch_pruning")
    module, inputs = network.build()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        attention = [layer for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)]
        pruner = pruning.pruner.BasePruner(
            module,
            inputs,
            importance=pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[layer for layer in module.modules() if answers(layer)],
            num_heads={layer: layer.num_heads for layer in attention},
            output_transform=total,
        )
        pruner.step()
        if isinstance(module, VisionTransformer):  # it reshapes by this number
            module.hidden_dim = module.conv_proj.out_channels
        write(module, inputs, exporter, Path(folder) / "theirs.onnx")
        return time.perf_counter() - start


def answers(layer: nn.Module) -> bool:
    """A last layer, whose outputs are classes and must stay."""
    width = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return width in CLASSES


def total(output: object) -> torch.Tensor:
    """One number that depends on every output, for whoever traces gradients back from it."""
    return torch.stack([tensor.float().sum() for tensor in leaves(output)]).sum()


def table(laps: list[Lap]) -> str:
    """A line with the median for each exporter, then all laps."""
    lines = [
        median([lap for lap in laps if lap.exporter == name]) for name in dict.fromkeys(lap.exporter for lap in laps)
    ]
    head = f"| {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * 4}"
    return "\n".join([*lines, "", head, *map(str, sorted(laps, key=lambda lap: (lap.network, lap.exporter)))]) + "\n"


def median(laps: list[Lap]) -> str:
    """Over the models that both manage; one that Torch-Pruning was stopped at counts with the limit."""
    ratios = [lap.ratio for lap in laps if lap.ratio is not None]
    said = f"darwinc is {statistics.median(ratios):.1f} times as fast" if ratios else "no model that both manage"
    return f"- `{laps[0].exporter}`: median over {len(ratios)} of {len(laps)} models: {said}."
