"""`python -m darwinc.models`: list the reference networks, and train them by their recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from darwinc.cli import DarwincGroup
from darwinc.commands.options import keep_apart, terminal_options
from darwinc.console import Listing, Terminal
from darwinc.errors import UsageError
from darwinc.models import NETWORKS
from darwinc.models.recipes import RECIPES


@click.group(cls=DarwincGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """The reference networks of the field, and how they are trained."""


@main.command("list", short_help="List the networks and their recipes.")
def list_() -> None:
    """List the networks that `train` knows, and their recipes."""
    rows = []
    for name, reference in NETWORKS.items():
        recipe = RECIPES[name]
        how = f"{recipe.epochs} epochs of {recipe.optimizer}, batch {recipe.batch}, peak rate {recipe.peak:g}"
        rows.append((name, reference.description, how))
    Terminal().show_list(Listing("reference networks", ("name", "network", "recipe"), rows, "{}: {}; {}"))


@main.command(short_help="Train a network by its recipe, and write it as ONNX.")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="FILE.npz", help="x and y.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT.onnx")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--width", type=click.FloatRange(0, min_open=True), help="A factor on all channels; saliency takes one.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, order and moves.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@terminal_options
def train(
    name: str,
    data: Path,
    output: Path,
    epochs: int | None,
    width: float | None,
    seed: int,
    device: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Train the network NAME from random weights by its recipe; the last epoch counts.

    FILE.npz holds images x, float32 [N, C, H, W], preprocessed, and classes y, int64 [N] or [N, H, W].
    """
    if name not in NETWORKS:
        raise UsageError(f"There is no network {name!r}; choose from {', '.join(NETWORKS)}.")
    keep_apart({"-o": output}, {"--data": data})
    recipe = RECIPES[name] if epochs is None else replace(RECIPES[name], epochs=epochs)
    terminal = Terminal(quiet=quiet, verbose=verbose)

    from darwinc.models.training import train_reference

    train_reference(name, data, output, recipe, terminal, width=width, seed=seed, device=device)
    terminal.note(f"wrote {output}")


if __name__ == "__main__":
    main()
