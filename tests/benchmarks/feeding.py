"""How fast training is fed: batches of 64 photos, kept or streamed, beside `Samples.batches`, in turns.

DATA=... python tests/benchmarks/feeding.py 32 224
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from darwinc.calibrators.training.feeding import Feeding
from darwinc.data import InputSpec, Samples, open_data

BATCH, ROUNDS = 64, 5


def photos(side: int) -> tuple[Samples, InputSpec]:
    """256 photos, not decoded yet."""
    spec = InputSpec("x", np.dtype("float32"), ("N", 3, side, side))
    folder = Path(os.environ["DATA"]) / "imagenet_samples"
    return open_data(str(folder), [spec], preprocess="imagenet", limit=4 * BATCH), spec


def ways(side: int) -> dict[str, Callable[[], object]]:
    """One epoch in every way; the arrays of `Samples.batches` are decoded before, as kept ones are."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def feeding(most_bytes: int | None, augment: str) -> Callable[[], object]:
        samples, spec = photos(side)
        fed = Feeding(samples, [spec], device=device, batch=BATCH, seed=0, augment=augment, most_bytes=most_bytes)
        return lambda: [batch.feed["x"].flatten()[0].item() for batch in islice(fed.batches(), fed.steps_per_epoch)]

    plain, _ = photos(side)
    list(plain.batches(BATCH))
    return {
        "Samples.batches": lambda: [torch.from_numpy(batch.feed["x"]).to(device) for batch in plain.batches(BATCH)],
        "kept": feeding(None, "none"),
        "kept, moved": feeding(None, "auto"),
        "streamed": feeding(0, "none"),
    }


def main() -> None:
    print("| side | way | ms per batch of 64 | times as fast as Samples.batches |\n| ---: | --- | ---: | ---: |")
    for side in map(int, sys.argv[1:]):
        chosen = ways(side)
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(ROUNDS):
            for name, way in chosen.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
        plain = np.array(seconds["Samples.batches"])
        for name, taken in seconds.items():
            ratio = float(np.median(plain / np.array(taken)))
            print(f"| {side} | {name} | {min(taken) * 250:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
