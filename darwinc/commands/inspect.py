"""`darwinc inspect`: what is in a model, what could go, and what holds the rest. No torch, no data."""

from __future__ import annotations

import json
from pathlib import Path

import click

from darwinc.commands.options import model_argument, output_file, terminal_options


@click.command(short_help="Show channel groups, what could be removed, and what holds the rest.")
@model_argument("model")
@output_file("--json", "json_file", text="The same as JSON.")
@terminal_options
def inspect(model: Path, json_file: Path | None, quiet: bool, verbose: bool) -> None:
    """Show the channel groups of MODEL, what each costs, and which barriers hold the others."""
    from darwinc.console import GroupRow, Terminal, barriers_table, groups_table
    from darwinc.inspection import inspect_model
    from darwinc.report import write_text
    from darwinc.report_schema import Barrier

    terminal = Terminal(quiet=quiet, verbose=verbose)
    with terminal.stage("analysing"):
        found = inspect_model(model)
    if json_file is not None:
        write_text(json.dumps(found.as_dict(), indent=2) + "\n", json_file)
    terminal.show(found.headline())
    rows = [GroupRow(row.id, row.channels, None, row.tensors, row.remark) for row in found.groups]
    terminal.show(groups_table(rows), barriers_table([Barrier(**row) for row in found.barriers]))
