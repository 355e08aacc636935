"""Half the time and half the MACs, in ONNX Runtime on one thread: the table in docs/latency.md.

    MODELS=... EXPORTS=... OMP_NUM_THREADS=1 python tests/benchmarks/latency_targets.py ROWS.jsonl [NAME ...]
    python tests/benchmarks/latency_targets.py ROWS.jsonl --table

`$EXPORTS` holds torchvision's networks as ONNX (`exports.py` writes them), `$MODELS` the others (SOURCES.md). Nothing
is inherited and there is no data: weights don't matter for time. Each is compressed with `--target-latency 0.5` and
with `--target-macs 0.5`, by the fitness l2; original and result are then timed in turns for `--seconds`. The predicted
speed-up is the latency model's. Rows that are in the file aren't measured again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from darwinc import Settings, Target, compress
from darwinc.errors import DarwincError
from darwinc.report_schema import Report
from darwinc.settings import TARGETS
from tests.benchmarks.sheet import Sheet, spread, table

EXPORTED = ("mobilenet_v2", "efficientnet_b0", "mnasnet1_0", "resnet50", "shufflenet_v2_x1_0")
PUBLISHED = ("yolox_nano_416", "ppocrv3_det_ch")
AMOUNT = 0.5
KINDS = ("latency", "macs")
KEY = ("network", "target", "fitness")


def path_of(name: str) -> Path:
    """Where a network lies."""
    return Path(os.environ["EXPORTS" if name in EXPORTED else "MODELS"]) / f"{name}.onnx"


def predicted(report: Report) -> float | None:
    """The speed-up that the latency model foretold; None where there is no such model."""
    model = report.latency_model
    return None if model is None or not model.after_ms else round(model.before_ms / model.after_ms, 3)


def measured(name: str, kind: str, fitness: str, seconds: float) -> dict[str, Any]:
    """One network compressed for one target."""
    start = time.perf_counter()
    settings = Settings(fitness=fitness, recover=("none",), bench_seconds=seconds, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.onnx"
        report = compress(path_of(name), target=Target(kind, AMOUNT), output=output, settings=settings).report
    latency, before, after = report.latency, report.before.macs, None if report.after is None else report.after.macs
    speedup = None if latency is None or latency.speedup is None else round(latency.speedup, 3)
    return {
        "achieved": report.target.achieved,
        "macs_ratio": None if not before or not after else round(before / after, 3),
        "predicted": predicted(report),
        "speedup": speedup,
        "align": None if report.alignment is None else report.alignment.model_dump(),
        "seconds": round(time.perf_counter() - start),
    }


def shown(rows: list[Any]) -> str:
    """The speed-up measured, that predicted, and the ratio of MACs."""
    if "error" in rows[0]:
        return str(rows[0]["error"])
    told = "" if rows[0]["predicted"] is None else f" (predicted {rows[0]['predicted']})"
    return f"{spread(rows, 'speedup', 2)}x{told} at {spread(rows, 'macs_ratio', 2)}x MACs"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--fitness", default="l2")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_intermixed_args()
    sheet = Sheet(asked.rows, KEY)
    if asked.table:
        print(table(sheet.rows, ("network",), ("target",), shown))
        return
    for kind in KINDS:
        for name in asked.names or (*EXPORTED, *PUBLISHED):
            row = {"network": name, "target": kind, "fitness": asked.fitness}
            if sheet.has(row) or kind not in TARGETS:
                continue
            try:
                sheet.add({**row, **measured(name, kind, asked.fitness, asked.seconds)})
            except DarwincError as error:
                sheet.add({**row, "error": str(error)})


if __name__ == "__main__":
    main()
