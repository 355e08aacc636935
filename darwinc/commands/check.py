"""`darwinc check`: the gate for deployment CI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darwinc.commands.options import data_options, keep_apart, model_argument, output_file, terminal_options
from darwinc.errors import UsageError

if TYPE_CHECKING:
    from darwinc.gate import Measurement


@click.command(short_help="The gate: exit 0 where a budget holds, 1 where it doesn't.")
@model_argument("model", required=False)
@click.option("--against", type=click.Path(path_type=Path), metavar="MODEL.onnx", help="The model before compression.")
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path),
    metavar="R.json",
    help="Judge a finished run by its report instead.",
)
@click.option("--budget", type=click.Path(path_type=Path), required=True, metavar="budget.toml")
@data_options
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--bench-seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@output_file("--markdown", text="The verdict as Markdown.")
@terminal_options
def check(
    model: Path | None,
    against: Path | None,
    report_file: Path | None,
    budget: Path,
    data: str | None,
    labels: str | None,
    preprocess: str | None,
    threads: int,
    bench_seconds: float,
    seed: int,
    markdown: Path | None,
    quiet: bool,
    verbose: bool,
) -> int:
    """Hold OUT.onnx against MODEL.onnx, or a report, to a budget. Every violated line is named."""
    from darwinc import gate
    from darwinc.console import Terminal, gate_table
    from darwinc.report import load_report, write_text

    models = {"OUT.onnx": model, "--against": against, "--report": report_file}
    keep_apart({"--markdown": markdown}, {**models, "--budget": budget, "--data": data, "--labels": labels})
    terminal = Terminal(quiet=quiet, verbose=verbose)
    limits = gate.load_budget(budget)
    if (report_file is None) == (model is None or against is None):
        raise UsageError("Give either OUT.onnx --against MODEL.onnx, or --report R.json.")
    warnings: list[str] = []
    if report_file is not None:
        measurements = gate.measurements_from_report(load_report(report_file))
    else:
        with terminal.stage("measuring"):
            pair = _Pair(Path(str(against)), Path(str(model)), data, labels, preprocess, threads, bench_seconds, seed)
            measurements = gate.measure(limits, pair.sources())
        warnings = pair.warnings
    result = gate.evaluate(limits, measurements)
    terminal.show(gate_table(result))
    for warning in warnings:
        terminal.warn(warning)
    page = gate.to_markdown(result)
    gate.append_job_summary(page)
    if markdown is not None:
        write_text(page, markdown)
    for line in result.violations:
        terminal.error(str(line))
    return 0 if result.passed else 1


class _Pair:
    """Measures two models, each figure only when the budget asks for it."""

    def __init__(
        self,
        before: Path,
        after: Path,
        data: str | None,
        labels: str | None,
        preprocess: str | None,
        threads: int,
        seconds: float,
        seed: int,
    ) -> None:
        from darwinc import graph

        self.before, self.after, self.data, self.labels, self.preprocess = before, after, data, labels, preprocess
        self.threads, self.seconds, self.seed = threads, seconds, seed
        self.models = {path: graph.load_model(path) for path in (before, after)}
        self.warnings: list[str] = []

    def sources(self) -> Mapping[str, Callable[[], Mapping[str, Measurement]]]:
        """Which figure comes from which measurement."""
        counts = dict.fromkeys(("parameters", "macs", "bytes", "channels", "kernels", "synapses"), self._costs)
        return {**counts, "latency": self._latency, "quality_drop": self._quality, "parity": self._quality}

    def _costs(self) -> Mapping[str, Measurement]:
        from dataclasses import replace

        from darwinc.cost import measure
        from darwinc.gate import cost_measurements

        before, after = (
            replace(measure(self.models[path]), bytes=path.stat().st_size) for path in (self.before, self.after)
        )
        return cost_measurements(before, after)

    def _latency(self) -> Mapping[str, Measurement]:
        from darwinc import graph
        from darwinc.benchmark import compare
        from darwinc.gate import latency_measurements
        from darwinc.report_schema import Latency

        released = graph.release_initializer_inputs(self.models[self.before])
        before = graph.to_bytes(self.models[self.before]) if released else self.before
        found = compare(before, self.after, threads=self.threads, seconds=self.seconds, seed=self.seed)
        return latency_measurements(Latency.model_validate(found.as_report()))

    def _quality(self) -> Mapping[str, Measurement]:
        from darwinc.data import open_data
        from darwinc.gate import Measurement, quality_measurements
        from darwinc.quality import compare_quality
        from darwinc.report_schema import Quality
        from darwinc.runtime import input_specs, open_session

        if self.data is None:
            return {}
        samples = open_data(
            self.data,
            input_specs(open_session(self.before)),
            labels=self.labels,
            preprocess=self.preprocess,
            seed=self.seed,
            metadata=self.models[self.before].metadata_props,
        )
        quality, parity = compare_quality(self.before, self.after, samples, split="check")
        self.warnings = samples.warnings
        found = {} if parity["relative_error"] is None else {"parity": Measurement(parity["relative_error"])}
        return {**found, **quality_measurements(Quality.model_validate(quality))}
