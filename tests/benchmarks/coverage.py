"""Every model of a zoo, exported both ways, cut by half of what can go, and checked: tables in docs/figures.md.

    ORACLE=... python -m tests.benchmarks.coverage --keep FOLDER [--exporter ts17] [--only 'resnet*']
    ORACLE=... python -m tests.benchmarks.coverage --keep FOLDER --zoo timm
    python -m tests.benchmarks.coverage --keep FOLDER --export-only
    python -m tests.benchmarks.coverage --keep FOLDER --against torch-pruning --side 224

The zoo is torchvision; timm and transformers have to be installed. `ts17` and `ts13` are PyTorch's TorchScript exporter
at opsets 17 and 13, `dynamo` is its new one at its default opset. `--keep` names the folder for exported files and
answers, one for each zoo: rows go to `coverage.jsonl` there as they are made, one that is there is not made again
without `--again`, and the table goes to `coverage.md`. `$ORACLE` may name an independent checker: a Python file that is
called with `MODEL.onnx OUT.onnx report.json` and exits with 0 where OUT is right. The exit code is 1 where a model was
exported and yet there is no good answer.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from tests.benchmarks.exports import (
    EXPORTERS,
    NOT_EXPORTED,
    Exporter,
    Network,
    discard_if_large,
    obtain,
    stored_bytes,
)
from tests.benchmarks.forked import OVERTIME, Missed, shortened

COMMAND_SECONDS, ORACLE_SECONDS = 1800, 1800
REWRITE = ("analyse", "cull", "excise")
"""The stages of a report's `time` that are analysis, choice and rewrite; the others read, prove and write."""
OK, UNCHECKED = "ok", "unchecked"
REFUSED = 4
"""darwinc's exit code where nothing, or not enough, can be removed."""
COLUMNS = (
    "model",
    "exporter",
    "opset",
    "nodes",
    "parameters",
    "prunable",
    "removed",
    "rewrite, s",
    "in all, s",
    "answer",
)


@dataclass(frozen=True)
class Row:
    """What became of one export. Shares are fractions of the parameters, times seconds, memory bytes."""

    network: str
    exporter: str
    verdict: str = ""
    reason: str = ""
    opset: int | None = None
    nodes: int | None = None
    parameters: int | None = None
    prunable: float | None = None
    removed: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    time: dict[str, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.verdict in (OK, UNCHECKED, NOT_EXPORTED)

    @property
    def rewrite(self) -> float | None:
        return sum(self.time.get(stage, 0.0) for stage in REWRITE) if self.time else None

    def __str__(self) -> str:
        answer = f"{self.verdict}: {self.reason}".replace("|", "/") if self.reason else self.verdict
        counts = ("-" if number is None else f"{number:,}" for number in (self.opset, self.nodes, self.parameters))
        shares = ("-" if share is None else f"{share:.3f}" for share in (self.prunable, self.removed))
        times = ("-" if seconds is None else f"{seconds:.1f}" for seconds in (self.rewrite, self.seconds))
        return f"| {' | '.join((f'`{self.network}`', self.exporter, *counts, *shares, *times, answer))} |"


def cover(network: Network, exporter: Exporter, keep: Path, oracle: Path | None) -> Row:
    """Export, inspect, compress and check one model; the row says how far that went."""
    row = Row(network.label, exporter.name)
    try:
        model = obtain(network, exporter, keep)
        try:
            with tempfile.TemporaryDirectory(dir=keep) as folder:
                row = inspected(row, model, Path(folder) / "inspection.json")
                row = compressed(row, model, Path(folder))
                return checked(row, model, Path(folder), oracle)
        finally:
            discard_if_large(model)
    except Missed as missed:
        return replace(row, verdict=missed.verdict, reason=str(missed))


def inspected(row: Row, model: Path, answer: Path) -> Row:
    """What is in the model, and the share of its parameters that could go."""
    darwinc("inspect", model, "--json", answer, "--quiet")
    found = json.loads(answer.read_text())
    prunable = found.get("prunable_sparsity", found["reachable_sparsity"])
    row = replace(row, opset=found["opset"], nodes=found["nodes"], parameters=found["cost"]["parameters"])
    if not prunable:
        raise Missed("refused", "nothing can be removed")
    return replace(row, prunable=prunable)


def compressed(row: Row, model: Path, folder: Path) -> Row:
    """Half of what could go has gone, without recovery; OUT and the report are in the folder."""
    assert row.prunable is not None
    out, report_file = folder / "out.onnx", folder / "report.json"
    start = time.perf_counter()
    darwinc(
        *("compress", model, "-o", out, "--target-sparsity", f"{row.prunable / 2:.6f}", "--fitness", "l2"),
        *("--recover", "none", "--bench-seconds", "0", "--quiet", "--report", report_file),
    )
    seconds, report = time.perf_counter() - start, json.loads(report_file.read_text())
    return replace(
        row,
        removed=report["target"]["achieved"],
        seconds=seconds,
        time=report["time"],
        peak_memory_bytes=report.get("peak_memory_bytes"),
    )


def checked(row: Row, model: Path, folder: Path, oracle: Path | None) -> Row:
    """The independent checker's verdict."""
    if oracle is None:
        return replace(row, verdict=UNCHECKED)
    done = ran([sys.executable, oracle, model, folder / "out.onnx", folder / "report.json"], ORACLE_SECONDS, "oracle")
    if done.returncode:
        failures = [line for line in done.stdout.splitlines() if line.startswith("FAIL ")]
        if not failures:
            return replace(row, verdict=UNCHECKED, reason=f"the checker gave up: {shortened(last_line(done.stderr))}")
        raise Missed("wrong", shortened("; ".join(failures)))
    return replace(row, verdict=OK)


def darwinc(*words: str | Path) -> None:
    """The command as a user runs it; its sentence is the reason where it fails."""
    done = ran([sys.executable, "-m", "darwinc", *words], COMMAND_SECONDS, f"darwinc {words[0]}")
    if done.returncode:
        said = shortened(done.stderr) if done.returncode > 0 and done.stderr else last_line(done.stderr)
        raise Missed("refused" if done.returncode == REFUSED else f"failed ({done.returncode})", said)


def ran(command: list[str | Path], limit: float, name: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise Missed("failed", f"{name} is {OVERTIME} of {limit:.0f} s") from None


def last_line(text: str) -> str:
    return shortened(next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing"))


class Ledger:
    """Rows in a JSON lines file, one for each network and exporter; a later line takes the place of an earlier one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        known = {item.name for item in fields(Row)}
        lines = path.read_text().splitlines() if path.exists() else []
        read = [Row(**{key: value for key, value in json.loads(line).items() if key in known}) for line in lines]
        self.rows = {(row.network, row.exporter): row for row in read}

    def add(self, row: Row) -> None:
        self.rows[row.network, row.exporter] = row
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        self.path.with_suffix(".md").write_text(table(list(self.rows.values())))


def table(rows: list[Row]) -> str:
    """A page's fragment: a line for each exporter, then all rows."""
    names = [name for name in EXPORTERS if any(row.exporter == name for row in rows)]
    lines = [summary(name, [row for row in rows if row.exporter == name]) for name in names]
    head = f"| {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * 7} --- |"
    return "\n".join([*lines, "", head, *map(str, sorted(rows, key=lambda row: (row.network, row.exporter)))]) + "\n"


def summary(exporter: str, rows: list[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    shares = [row.prunable for row in rows if row.prunable is not None]
    times = [row.rewrite for row in rows if row.rewrite is not None]
    medians = (
        f"; median prunable share {statistics.median(shares):.3f}, median seconds for the rewrite "
        f"{statistics.median(times):.2f}"
        if shares and times
        else ""
    )
    return f"- `{exporter}`: {len(rows)} models: {counts}{medians}."


def export_all(jobs: list[tuple[Network, Exporter]], keep: Path) -> int:
    for network, exporter in jobs:
        start = time.perf_counter()
        try:
            path = obtain(network, exporter, keep)
            said = f"{stored_bytes(path) / 1e6:.1f} MB"
            discard_if_large(path)
        except Missed as missed:
            said = f"{missed.verdict}: {missed}"
        print(f"{exporter.name} {network.label}: {said}, {time.perf_counter() - start:.1f} s", flush=True)
    return 0


def cover_all(jobs: list[tuple[Network, Exporter]], keep: Path, *, again: bool) -> int:
    oracle, ledger = os.environ.get("ORACLE"), Ledger(keep / "coverage.jsonl")
    for network, exporter in jobs:
        if again or (network.label, exporter.name) not in ledger.rows:
            ledger.add(cover(network, exporter, keep, Path(oracle) if oracle else None))
            print(ledger.rows[network.label, exporter.name], flush=True)
    return 0 if all(ledger.rows[network.label, exporter.name].good for network, exporter in jobs) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, required=True, help="folder for exported files and answers")
    parser.add_argument("--zoo", choices=["torchvision", "timm", "transformers"], default="torchvision")
    parser.add_argument("--exporter", action="append", choices=list(EXPORTERS), help="repeat for more; ts17 and dynamo")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="repeat for more; all models")
    parser.add_argument(
        "--side", type=int, help="of square images, instead of the smallest that a model of torchvision allows"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are there again")
    parser.add_argument("--rounds", type=int, default=3, help="how often each tool runs in a comparison")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--export-only", action="store_true", help="fill the folder, and stop there")
    mode.add_argument("--against", choices=["torch-pruning"], help="compare the time with another tool's")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    # Children are forked: threads that torch had started here would be missing there.
    torch.set_num_threads(1)
    arguments.keep.mkdir(parents=True, exist_ok=True)
    names = arguments.exporter or ["ts17", "dynamo"]
    zoo = importlib.import_module(f"tests.benchmarks.{arguments.zoo}_zoo")
    networks: list[Network] = zoo.chosen(arguments.only)
    if arguments.side is not None:
        networks = [zoo.at_side(network, arguments.side) for network in networks]
    jobs = [(network, EXPORTERS[name]) for network in networks for name in names]
    if arguments.export_only:
        return export_all(jobs, arguments.keep)
    if arguments.against:
        return race(jobs, arguments)
    return cover_all(jobs, arguments.keep, again=arguments.again)


def race(jobs: list[tuple[Network, Exporter]], arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("torch_pruning") is None:
        print("torch_pruning is not installed: pip install torch-pruning, and run this again", file=sys.stderr)
        return 2
    from tests.benchmarks.torch_pruning_race import run

    run(jobs, arguments.keep, arguments.rounds, again=arguments.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
