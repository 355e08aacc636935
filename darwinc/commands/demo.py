"""`darwinc demo`: the main job on an embedded model and embedded real data."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

import click

from darwinc.commands.compress import show, write_reports
from darwinc.commands.options import output_file, terminal_options


@click.command(short_help="The main job on handwritten digits: no arguments, no network, under two minutes.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep the models and the data here.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@output_file("--report", text="report.json of the compression.")
@output_file("--html", text="The report as one page with pictures, for a browser.")
@terminal_options
def demo(output: Path | None, seed: int, report: Path | None, html: Path | None, quiet: bool, verbose: bool) -> None:
    """Train a LeNet on scikit-learn's handwritten digits, compress it by half, and show what was gained and lost."""
    from darwinc.compression import Settings, Target, compress
    from darwinc.console import Terminal
    from darwinc.demo import train_demo_model

    terminal = Terminal(quiet=quiet, verbose=verbose)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with (
        nullcontext(str(output))
        if output is not None
        else tempfile.TemporaryDirectory(prefix="darwinc-demo-") as folder
    ):
        with terminal.stage("training") as stage:
            files = train_demo_model(Path(folder), seed=seed, progress=stage.say)
        result = compress(
            files.model,
            target=Target("sparsity", 0.5),
            output=Path(folder) / "lenet_digits_half.onnx",
            settings=Settings(data=str(files.calibration), test=str(files.test), seed=seed),
            terminal=terminal,
            command=["darwinc", "demo"],
        )
        show(terminal, result.report, dry_run=False)
        write_reports(result.report, report, as_html=html)
    if output is None:
        terminal.note("The models were in a temporary folder; keep them with `darwinc demo -o FOLDER`.")
