"""How well the latency model foresees what ONNX Runtime takes at widths not seen before, and the multiples found.

    python tests/benchmarks/latency_model.py MODEL.onnx ... [--held-out 10] [--align 8]

Without arguments: yolox_nano_416, ppocrv3_det_ch and cifar10_resnet20 in $MODELS. For each model: seconds that
measuring takes, without and with what is kept on disk; the multiples by kind of operator; the relative error of
predicted against measured milliseconds (one thread, its processor time, sessions interleaved in rounds) at random
configurations of widths drawn with another seed; then the time of the model narrowed to 60 % with every width a
multiple of 8, and with the preferred multiples.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from darwinc import graph
from darwinc.channels import Channels, analyse
from darwinc.latency import Asked, LatencyModel, times_of
from darwinc.latency.widths import sample

USUAL = ("yolox_nano_416", "ppocrv3_det_ch", "cifar10_resnet20")
SHARE = 0.6


def narrowed(channels: Channels, multiples: list[int], share: float) -> list[int]:
    """Every group at about a share of its width, at a multiple, where it has room for one."""
    widths = []
    for group, multiple in zip(channels.groups, multiples, strict=True):
        positions = min(member.multiplicity for member in group.members)
        step = max(1, multiple // positions)
        widths.append(min(len(group), max(step, step * round(share * len(group) / step))))
    return widths


def judge(path: Path, held_out: int, align: int) -> str:
    """One row of the table."""
    model = graph.load_model(path)
    graph.release_initializer_inputs(model)
    channels = analyse(model)
    with tempfile.TemporaryDirectory() as folder:
        start, busy = time.perf_counter(), time.process_time()
        found = LatencyModel.measure(model, channels, Asked(cache=Path(folder), align=align))
        first, busy = time.perf_counter() - start, time.process_time() - busy
        start = time.perf_counter()
        LatencyModel.measure(model, channels, Asked(cache=Path(folder), align=align))
        second = time.perf_counter() - start
    everyone = [True] * len(channels.groups)
    configurations = sample(channels, everyone, held_out, align, 1234)
    preferred = found.preferred_multiples(channels, 8)
    configurations += [narrowed(channels, [8] * len(preferred), SHARE), narrowed(channels, preferred, SHARE)]
    took, alone = [], []
    for begin in range(0, len(configurations), 6):
        times = times_of(model, channels, configurations[begin : begin + 6], Asked(seed=7))
        took += times[1:]
        alone.append(times[0])
    predicted = np.array([found.predict(widths) for widths in configurations])
    walls = np.array(took, np.float64)
    errors = np.abs(predicted / walls - 1)
    ratios = np.abs((predicted / found.predict(found.full)) / (walls / np.median(alone)) - 1)
    print(found.multiples)
    print("  predicted", np.round(predicted, 2).tolist())
    print("  measured ", np.round(walls, 2).tolist())
    return (
        f"| {path.stem} | {np.median(alone):.2f} | {len(found.fitted)} | {first:.1f} | {busy:.1f} | {second:.2f} | "
        f"{100 * found.error:.1f} | {100 * np.median(errors[:held_out]):.1f} | {100 * errors[:held_out].max():.1f} | "
        f"{100 * np.median(ratios[:held_out]):.1f} | "
        f"{100 * (max(alone) / min(alone) - 1):.1f} | {walls[-2]:.2f} | {walls[-1]:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--held-out", type=int, default=10)
    parser.add_argument("--align", type=int, default=8)
    options = parser.parse_args()
    folder = Path(os.environ.get("MODELS", "."))
    rows = []
    for path in options.models or [folder / f"{name}.onnx" for name in USUAL]:
        rows.append(judge(path, options.held_out, options.align))
        print(rows[-1], flush=True)
    print(
        "\n| model | ms | layers | s to measure | processor s | s again | error at seen widths, % | median error, % | "
        "worst, % | "
        "median error of ratios, % | noise of the model itself, % | 60 % wide, multiples of 8, ms | preferred, ms |"
    )
    print("|" + " --- |" * 13)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
