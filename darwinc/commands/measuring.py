"""`darwinc bench` and `darwinc report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from darwinc.commands.options import keep_apart, model_argument, output_file, terminal_options
from darwinc.errors import UsageError


@click.command(short_help="Time one model, or two side by side, in ONNX Runtime.")
@model_argument("before")
@model_argument("after", required=False)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Length of free first axes.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True)
@click.option("--warmups", type=click.IntRange(1), default=10, show_default=True)
@click.option("--optimization", type=click.Choice(["all", "basic", "disabled"]), default="all", show_default=True)
@click.option("--provider", default="CPUExecutionProvider", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@output_file("--json", "json_file", text="The figures, by the schema darwinc.bench/1.")
@terminal_options
def bench(
    before: Path,
    after: Path | None,
    threads: int,
    batch: int,
    seconds: float,
    warmups: int,
    optimization: str,
    provider: str,
    seed: int,
    json_file: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Time BEFORE, or compare it with AFTER: interleaved blocks, bootstrap interval, A/A control, and a verdict."""
    from darwinc.benchmark import compare
    from darwinc.console import Terminal, bench_table
    from darwinc.graph import load_model
    from darwinc.report import write_text

    keep_apart({"--json": json_file}, {"a model": before, "the other model": after})
    terminal = Terminal(quiet=quiet, verbose=verbose)
    for path in (before, after):
        if path is not None:
            load_model(path)
    with terminal.stage("measuring") as stage:
        found = compare(
            before,
            after,
            threads=threads,
            batch=batch,
            seconds=seconds,
            warmups=warmups,
            optimization=optimization,  # type: ignore[arg-type]
            providers=(provider,),
            seed=seed,
            progress=stage.at,
        ).as_bench()
    terminal.show(bench_table(found))
    if json_file is not None:
        write_text(json.dumps(found, indent=2) + "\n", json_file)


@click.command(short_help="Turn report.json into a page that a person reads.")
@click.argument("source", type=click.Path(path_type=Path))
@output_file("--html", text="One page with pictures, for a browser; it needs no other file.")
@output_file("--markdown", text="The page as Markdown; without it and --html, it is printed.")
@terminal_options
def report(source: Path, html: Path | None, markdown: Path | None, quiet: bool, verbose: bool) -> None:
    """Turn SOURCE, a report.json or the folder of a run, into a page: HTML with pictures, or Markdown."""
    from darwinc.commands.compress import write_reports
    from darwinc.report import load_report, to_markdown

    if quiet and markdown is None and html is None:
        raise UsageError("--quiet without --html FILE or --markdown FILE would do nothing; name a file.")
    keep_apart({"--html": html, "--markdown": markdown}, {"the report": source})
    found = load_report(source)
    if html is None and markdown is None:
        click.echo(to_markdown(found))
    write_reports(found, None, markdown, html)
    del verbose
