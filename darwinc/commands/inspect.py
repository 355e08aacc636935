"""`darwinc inspect`: what is in a model, what could go, and what holds the rest. No torch, no data."""

from __future__ import annotations

import json
from pathlib import Path

import click

from darwinc.commands.options import keep_apart, model_argument, output_file, terminal_options


@click.command(short_help="Show channel groups, what could be removed, and what holds the rest.")
@model_argument("model")
@click.option(
    "--protect", multiple=True, metavar="PATTERN", help="Nodes, tensors or groups that must stay whole (repeatable)."
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Nodes, tensors or groups that alone may lose channels (repeatable).",
)
@click.option(
    "--all", "everything", is_flag=True, help="Shorten no list; show tensors and every barrier. So does --verbose."
)
@output_file("--json", "json_file", text="The same as JSON, complete.")
@terminal_options
def inspect(
    model: Path,
    protect: tuple[str, ...],
    only: tuple[str, ...],
    everything: bool,
    json_file: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show how much of MODEL can be removed, its channel groups and what each costs, and what holds the rest."""
    from darwinc.console import Terminal
    from darwinc.inspection import inspect_model
    from darwinc.inspection_page import headline, listings
    from darwinc.report import write_text

    keep_apart({"--json": json_file}, {"the model": model})
    terminal = Terminal(quiet=quiet, verbose=verbose)
    with terminal.stage("analysing"):
        found = inspect_model(model, protect, only)
    if json_file is not None:
        write_text(json.dumps(found.as_dict(), indent=2) + "\n", json_file)
    terminal.show_text(headline(found))
    for listing in listings(found, everything=everything or verbose):
        terminal.show_list(listing)
