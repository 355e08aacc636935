"""The options of competition while training, which reach a command as one `dynamics: Dynamics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from darwinc.commands.options import gathered
from darwinc.dynamics_options import DYNAMICS, EVIDENCE, KINDS, Dynamics

Function = Callable[..., Any]
_POSITIVE = click.FloatRange(0, min_open=True)

OPTIONS = (
    click.option(
        "--dynamic",
        type=click.Choice(list(KINDS)),
        default=DYNAMICS.dynamic,
        show_default=True,
        help="Of select: how masses change.",
    ),
    click.option(
        "--evidence",
        type=click.Choice(EVIDENCE),
        default=DYNAMICS.evidence,
        show_default=True,
        help="Of select: what fitness is read from.",
    ),
    click.option(
        "--rate",
        type=_POSITIVE,
        default=DYNAMICS.rate,
        show_default=True,
        help="Of select: growth in a round (there are 100) of a channel one deviation fitter than the mean.",
    ),
    click.option(
        "--mutation",
        type=click.FloatRange(0, 1, max_open=True),
        default=DYNAMICS.mutation,
        show_default=True,
        help="Of mutator: the share of mass that is spread evenly, at first.",
    ),
    click.option(
        "--competition",
        type=_POSITIVE,
        default=DYNAMICS.competition,
        show_default=True,
        help="Of lotka-volterra: the weight of fitness against competition.",
    ),
    click.option(
        "--extinct",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=DYNAMICS.extinct,
        show_default=True,
        help="Of select: the share of the mean mass below which a channel is extinct.",
    ),
    click.option(
        "--checks",
        type=click.IntRange(1),
        default=DYNAMICS.checks,
        show_default=True,
        help="Of select: rounds that it has to stay there.",
    ),
    click.option(
        "--windows",
        type=click.IntRange(1),
        default=DYNAMICS.windows,
        show_default=True,
        help="Of culling while training: how often the score is measured.",
    ),
    click.option(
        "--decay",
        type=click.FloatRange(0, 1, max_open=True),
        default=DYNAMICS.decay,
        show_default=True,
        help="Of culling while training: how much of a channel's fitness a window keeps.",
    ),
    click.option(
        "--persistence",
        type=click.IntRange(1),
        default=DYNAMICS.persistence,
        show_default=True,
        help="Of culling while training: windows below the threshold after which a channel goes.",
    ),
)


def dynamics_options(function: Function) -> Function:
    """--dynamic, --rate and the rest of `Dynamics`, as the argument `dynamics`."""
    return gathered(function, "dynamics", Dynamics, OPTIONS)
