"""What calibration costs, as a multiple of a plain forward pass of the same batches: a Markdown table.

    python tests/benchmarks/calibration_speed.py resnet50.onnx vit_b_16.onnx [--side 224] [--batch 16] [--threads 1]

Images are noise: the time doesn't depend on what they show. Forward and calibration take turns in one process, and the
table gives the median of the rounds' ratios, in processor time. `--side` feeds images of other sides than the file
records, which networks take whose head pools over positions. A batch holds no more than `VALUES`, as in calibration;
what calibration does once, whatever the samples, counts the more the fewer there are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from darwinc.calibrators.lockstep import footprint
from darwinc.calibrators.statistics import Feed, gather
from darwinc.channels import analyse
from darwinc.runtime import inputs_of
from darwinc.torch_graph import TorchGraph

VALUES = 192 * 2**20
"""Bytes of all values of a batch."""


def batches(model: ir.Model, twin: TorchGraph, asked: argparse.Namespace) -> list[Feed]:
    """Noise for every input, in batches."""
    random = np.random.default_rng(0)
    shapes = {
        spec.name: [asked.side or size if axis > 1 else size for axis, size in enumerate(spec.shape)][1:]
        for spec in inputs_of(model)
    }

    def feed(count: int) -> Feed:
        sizes = {name: [count, *(int(size or 1) for size in shape)] for name, shape in shapes.items()}
        return {name: random.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}

    size = footprint(twin, feed(1)).total
    batch = max(1, min(asked.batch, VALUES // size))
    return [feed(batch) for _ in range(-(-asked.samples // batch))]


def seconds(work: Callable[[], object]) -> float:
    """Seconds of all threads, which other work on the machine doesn't lengthen."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(path: Path, asked: argparse.Namespace) -> str:
    """One row of the table."""
    model = ir.load(path)
    channels, twin = analyse(model), TorchGraph(model)
    feeds = batches(model, twin, asked)
    gather(twin, channels, feeds[:1], rung="data", gradients=False)
    times: list[tuple[float, ...]] = []
    for _ in range(asked.rounds):
        forward = seconds(lambda: [twin.detached(feed) for feed in feeds])
        plain = seconds(lambda: gather(twin, channels, feeds, rung="data", gradients=False))
        again = seconds(lambda: [twin.detached(feed) for feed in feeds])
        full = seconds(lambda: gather(twin, channels, feeds, rung="data")) if asked.gradients else float("nan")
        mean = (forward + again) / 2
        times.append((mean, plain / mean, full / mean))
    forward, plain, full = (statistics.median(column) for column in zip(*times, strict=True))
    count, batch = len(feeds), len(next(iter(feeds[0].values())))
    side = next(iter(feeds[0].values())).shape[-1]
    return f"| {path.stem} | {side} | {count} x {batch} | {forward:.2f} | {plain:.2f} | {full:.2f} |"


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--side", type=int, default=0, help="of the images; what the file records where it isn't given")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-gradients", dest="gradients", action="store_false")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("| file | side | batches | forward (s) | calibration / forward | with gradients / forward |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for path in asked.files:
        print(measure(path, asked), flush=True)


if __name__ == "__main__":
    main()
