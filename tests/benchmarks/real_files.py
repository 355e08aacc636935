"""Published ONNX files, without data or recovery: two tables in docs/figures.md.

    MODELS=... python tests/benchmarks/real_files.py [mnist_cntk yunet_n_320 ...]
    MODELS=... python tests/benchmarks/real_files.py --all

The first removes half the parameters of twenty files, the second half of what can go from every file of the folder.

`$MODELS` holds the ONNX files (SOURCES.md). `$ORACLE` may name an independent checker: a Python file that is called
with `MODEL.onnx OUT.onnx report.json` and exits with 0 where OUT is right. The exit code is 1 where a file fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from darwinc import Settings, Target, compress
from darwinc.errors import DarwincError, InvalidModel, Unreachable
from darwinc.inspection import inspect_model
from darwinc.report import write_json
from darwinc.report_schema import Report

FILES = (
    "mnist_cntk",
    "mnist_burn",
    "cifar10_winml_pytorch",
    "vnn22_cifar10_sri_resnet_3b2_bn",
    "vnn21_marabou_cifar10_large",
    "vww_mobilenetv1_025_96_mlperf_tiny",
    "st_mobilenetv2_035_128_flowers",
    "squeezenet1.0_fp16_imagenet",
    "cifar10_resnet20",
    "cifar10_resnet56",
    "dnsmos_model_v8",
    "twinlitenet",
    "ultraface_rfb_320",
    "yunet_n_320",
    "yolox_nano_416",
    "super_resolution_10",
    "espcn_subpixel_float",
    "vnn22_carvana_unet_simp_small",
    "ppocr_mobile_cls",
    "pfld",
)
TARGET = 0.5
SETTINGS = Settings(recover=("none",), bench_seconds=0)
QUICK = Settings(fitness="l2", recover=("none",), bench_seconds=0)
COLUMNS = ("file", "removed", "MACs left", "relative error of the proof", "statistics", "seconds", "oracle")
ORACLE_SECONDS = 600


@dataclass(frozen=True)
class Row:
    """One line of the table; a refusal takes the place of the figures."""

    cells: tuple[str, ...]
    passed: bool

    def __str__(self) -> str:
        return f"| {' | '.join(self.cells)} |"


def measure(model: Path, folder: Path, oracle: Path | None, share: float, settings: Settings) -> Row:
    """Compress one file, and have the outcome checked; a target out of reach is an answer, not a failure."""
    output, report_file = folder / f"{model.stem}.onnx", folder / f"{model.stem}.json"
    start = time.perf_counter()
    try:
        report = compress(model, target=Target("sparsity", share), output=output, settings=settings).report
    except DarwincError as error:
        reason, seconds = f"{type(error).__name__}: {error}".replace("|", "/"), time.perf_counter() - start
        return Row((model.name, reason, "-", "-", "-", f"{seconds:.1f}", "-"), isinstance(error, Unreachable))
    seconds = time.perf_counter() - start
    write_json(report, report_file)
    verdict, passed = ("-", True) if oracle is None else ask(oracle, model, output, report_file)
    return Row((model.name, *figures(report), f"{seconds:.1f}", verdict), passed)


def measure_half(model: Path, folder: Path, oracle: Path | None) -> Row:
    """Remove half of what can go. That a file is no valid model, or holds nothing that can go, is an answer too."""
    try:
        share = inspect_model(model).prunable_sparsity
    except InvalidModel as error:
        reason = f"refused: {error}".replace("|", "/").replace(str(model), "the file")
        return Row((model.name, reason[:160], "-", "-", "-", "-", "-", "-"), True)
    row = measure(model, folder, oracle, share / 2, QUICK)
    return Row((row.cells[0], f"{share:.3f}", *row.cells[1:]), row.passed)


def figures(report: Report) -> tuple[str, ...]:
    """What was removed, the MACs left, the error of the proof, and what the statistics are from."""
    before, after = report.before.macs, None if report.after is None else report.after.macs
    macs = "-" if not before or after is None else f"{after / before:.3f}"
    error = None if report.verify is None else report.verify.max_rel_error
    return f"{report.target.achieved:.3f}", macs, "-" if error is None else f"{error:.1e}", report.statistics or "-"


def ask(oracle: Path, model: Path, output: Path, report: Path) -> tuple[str, bool]:
    """The independent checker's verdict; what it says of a failure goes to standard error."""
    command: list[str | Path] = [sys.executable, oracle, model, output, report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ORACLE_SECONDS, check=False)
    if done.returncode:
        print(f"{model.name}:\n{done.stdout}{done.stderr}", file=sys.stderr, flush=True)
    return ("failed", False) if done.returncode else ("ok", True)


def main() -> int:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--all", action="store_true", help="half of what can go, from every file")
    asked = parser.parse_args()
    models, oracle = Path(os.environ["MODELS"]), os.environ.get("ORACLE")
    names = asked.names or (sorted(path.stem for path in models.glob("*.onnx")) if asked.all else FILES)
    columns = ("file", "prunable", *COLUMNS[1:]) if asked.all else COLUMNS
    # torch is imported at the top because the first row alone would be charged for the seconds that it takes.
    print(f"torch {torch.__version__}", file=sys.stderr)
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 3)} --- | --- |")
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model, checker = models / f"{name.removesuffix('.onnx')}.onnx", Path(oracle) if oracle else None
            if asked.all:
                row = measure_half(model, Path(folder), checker)
            else:
                row = measure(model, Path(folder), checker, TARGET, SETTINGS)
            passed = passed and row.passed
            print(row, flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
