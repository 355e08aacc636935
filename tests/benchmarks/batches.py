"""Files that fix their batch: which of them run on any number of samples, and what that saves calibration.

    MODELS=... python tests/benchmarks/batches.py [yolox_nano_416 mnist_burn ...]
    MODELS=... python tests/benchmarks/batches.py --speed yolox_nano_416 mnist_burn

The first prints, for every file whose inputs fix the batch (SOURCES.md) and that torch runs, whether it was freed, how
many of its nodes read something else now, and the worst relative error of three different samples at once against one
by one, in torch and in ONNX Runtime. The second prints how much faster the statistics of calibration are gathered in
batches than sample by sample, both by turns in one process. The exit code is 1 where an error is above 1e-3.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from darwinc.batching import FreeBatch, free_batch
from darwinc.calibrators.calibration import BACKWARD_BYTES, BATCH
from darwinc.calibrators.lockstep import footprint
from darwinc.calibrators.statistics import gather
from darwinc.channels import Channels, analyse
from darwinc.data import fixed_batch
from darwinc.equivalence import answers, difference
from darwinc.errors import DarwincError
from darwinc.graph import load_model, release_initializer_inputs
from darwinc.runtime import Feed, inputs_of, open_session, usable_feed
from darwinc.torch_graph import TorchGraph

TOGETHER = 3
WRONG = 1e-3
ROUNDS = 3
COLUMNS = ("file", "nodes", "freed", "nodes changed", "error in torch", "error in ONNX Runtime", "remark")


def feeds_of(model: ir.Model, count: int) -> list[Feed]:
    """Different made-up feeds that ONNX Runtime takes, and answers in finite numbers."""
    session = open_session(model, optimization="basic")
    return [usable_feed(session, seed=seed, batches=(1,), demand="finite") for seed in range(count)]


def changed(model: ir.Model, found: FreeBatch) -> int:
    """Nodes that read another value, or have another attribute, than before."""
    before = {str(node.outputs[0].name): signature(node) for node in model.graph}
    after = {str(node.outputs[0].name): signature(node) for node in found.model.graph}
    return sum(before[name] != after[name] for name in before)


def signature(node: ir.Node) -> tuple[object, ...]:
    """What a node reads, and the integers among its attributes."""
    kinds = (ir.AttributeType.INT, ir.AttributeType.INTS)
    attributes = {name: attribute.value for name, attribute in node.attributes.items() if attribute.type in kinds}
    return tuple(value.name if value is not None else None for value in node.inputs), str(sorted(attributes.items()))


def worst(found: FreeBatch, alone: Sequence[Sequence[np.ndarray]], together: Sequence[np.ndarray]) -> float:
    """The largest relative error of the outputs; one that holds no samples is the same for each."""
    axes = list(found.outputs.values())
    errors = []
    for axis, whole, *parts in zip(axes, together, *alone, strict=True):
        wanted = parts[0] if axis is None else np.concatenate(parts, axis)
        errors.append(difference(wanted, whole)[1])
    return max(errors, default=0.0)


def row(path: Path) -> tuple[tuple[str, ...], float]:
    """One line of the table, and the larger of both errors; nothing for a file without a batch of its own."""
    model = load_model(path)
    release_initializer_inputs(model)
    if fixed_batch(inputs_of(model)) is None and all(
        not spec.shape or not isinstance(spec.shape[0], int) for spec in inputs_of(model)
    ):
        return (), 0.0
    feeds = feeds_of(model, TOGETHER)
    found = free_batch(model, feeds[0])
    nodes = str(len(list(model.graph)))
    if not found.free:
        return (path.stem, nodes, "no", "-", "-", "-", found.reason.replace("|", "/")), 0.0
    original = TorchGraph(model)
    names = original.outputs
    alone = [[original.detached(feed)[name].numpy() for name in names] for feed in feeds]
    together = found.twin.detached(found.join(feeds))
    in_torch = worst(found, alone, [together[name].numpy() for name in names])
    in_runtime = worst(found, answers(model, feeds), answers(found.model, [found.join(feeds)])[0])
    crowded = "calibrates one by one: samples share an axis with heads" if found.crowded(analyse(model)) else ""
    cells = (path.stem, nodes, "yes", str(changed(model, found)), f"{in_torch:.1e}", f"{in_runtime:.1e}", crowded)
    return cells, max(in_torch, in_runtime)


def speed(path: Path) -> tuple[str, ...]:
    """Milliseconds per sample of `gather`, one by one and in batches of what memory allows, and the median ratio."""
    model = load_model(path)
    release_initializer_inputs(model)
    channels, single = analyse(model), TorchGraph(model)
    (probe,) = feeds_of(model, 1)
    length = max(1, min(BATCH, BACKWARD_BYTES // max(footprint(single, probe).total, 1)))
    feeds = feeds_of(model, length)
    found = free_batch(model, probe, twin=single)
    if not found.free or found.crowded(channels):
        return path.stem, "1", "-", "-", "1"
    rounds = []
    for _ in range(ROUNDS):
        rounds.append((seconds(single, channels, feeds), seconds(found.twin, channels, [found.join(feeds)])))
    alone, together = (statistics.median(column) / length * 1e3 for column in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    return path.stem, str(length), f"{alone:.2f}", f"{together:.2f}", f"{ratio:.2f}"


def seconds(twin: TorchGraph, channels: Channels, batches: Sequence[Feed]) -> float:
    """How long the statistics of these batches take."""
    start = time.perf_counter()
    gather(twin, channels, batches, rung="data")
    return time.perf_counter() - start


def main() -> int:
    """Print a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--speed", action="store_true", help="how much faster calibration is")
    asked = parser.parse_args()
    models = Path(os.environ["MODELS"])
    paths = sorted(path for path in models.glob("*.onnx") if not asked.names or path.stem in asked.names)
    if asked.speed:
        print("| file | batch | ms a sample, one by one | in batches | times as fast |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for path in paths:
            print(f"| {' | '.join(speed(path))} |", flush=True)
        return 0
    print(f"| {' | '.join(COLUMNS)} |\n| --- | ---: | --- | ---: | ---: | ---: | --- |")
    largest = 0.0
    for path in paths:
        try:
            cells, error = row(path)
        except DarwincError as problem:
            print(f"{path.stem}: {problem}", file=sys.stderr)
            continue
        largest = max(largest, error)
        if cells:
            print(f"| {' | '.join(cells)} |", flush=True)
    return 1 if largest > WRONG else 0


if __name__ == "__main__":
    sys.exit(main())
