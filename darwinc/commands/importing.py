"""`darwinc import`: bring a model to ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from darwinc.commands.options import keep_apart, terminal_options
from darwinc.errors import UsageError


@click.command("import", short_help="Bring a torch model to ONNX.")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="MODEL.onnx")
@click.option("--shape", metavar="1,3,224,224", help="Shape of the example input, batch included.")
@click.option("--opset", type=click.IntRange(7), help="Opset to export; the exporter's own by default.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For random weights.")
@terminal_options
def import_(
    source: str, output: Path, shape: str | None, opset: int | None, seed: int, quiet: bool, verbose: bool
) -> None:
    """Bring SOURCE to ONNX: torchvision:NAME (random weights), package.module:factory, or a .pt2 exported program."""
    from darwinc.console import Terminal

    keep_apart({"-o": output}, {"the source": source})
    terminal = Terminal(quiet=quiet, verbose=verbose)
    with terminal.stage(f"importing {source}"):
        from darwinc.models.importers import import_model

        imported = import_model(source, output, shape=_sizes(shape), seed=seed, opset=opset)
    for warning in imported.warnings:
        terminal.warn(warning)
    terminal.note(f"wrote {imported.path} (exporter: {imported.exporter})")


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--shape {text!r} is no shape; write it like 1,3,224,224.")
    return tuple(int(part) for part in parts)
