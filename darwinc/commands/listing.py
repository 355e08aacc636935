"""`darwinc passes`: what there is, with its options."""

from __future__ import annotations

import click


@click.command(short_help="List passes and calibrators with their options.")
def passes() -> None:
    """List the passes and calibrators there are, with their options and defaults."""
    from darwinc.recipe import CALIBRATORS, PASSES, load, options, summary
    from darwinc.scoring import FITNESS

    click.echo("passes")
    for name in PASSES:
        step = load(name)
        click.echo(f"  {name:<12} {summary(step)}")
        for option in options(step):
            click.echo(f"      {option.name} = {option.default!r}  ({option.kind})")
    click.echo("fitness")
    for name, text in FITNESS.items():
        click.echo(f"  {name:<12} {text}")
    click.echo("  package.module:callable: a function of your own, of a darwinc.fitness.population.Population")
    click.echo("calibrators")
    for name, text in CALIBRATORS.items():
        click.echo(f"  {name:<12} {text}")
