"""The options of fitness, which reach a command as `fitness` and one `scoring: Scoring`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import click

from darwinc.errors import UsageError
from darwinc.scoring import FITNESS, NORMALISATIONS, SCORING, Scoring

Function = Callable[..., Any]

OPTIONS = (
    click.option(
        "--fitness",
        default="darwin",
        show_default=True,
        metavar="NAME",
        help=f"What makes a channel fit: {', '.join(FITNESS)}, or package.module:callable; `darwinc passes` says what "
        "each is.",
    ),
    click.option(
        "--exponents",
        default=",".join(f"{power:g}" for power in SCORING.exponents),
        show_default=True,
        metavar="P,Q,R",
        help="Of darwin: of diversity, contribution and adaptability; 0 leaves one out.",
    ),
    click.option(
        "--floor",
        type=float,
        default=SCORING.floor,
        show_default=True,
        metavar="E",
        help="Of darwin: added to each factor.",
    ),
    click.option(
        "--normalise",
        type=click.Choice(NORMALISATIONS),
        default=SCORING.normalise,
        show_default=True,
        help="Of darwin: scores in units of loss, or relative to their layer.",
    ),
    click.option(
        "--trajectory",
        multiple=True,
        metavar="PATH",
        help="Of darwin: for adaptability, a folder of checkpoints (.onnx, .safetensors) in the order of their names; "
        "or one checkpoint, in order (repeatable).",
    ),
)


def scoring_options(function: Function) -> Function:
    """--fitness, --exponents and the rest of `Scoring`, as the arguments `fitness` and `scoring`."""
    names = [field.name for field in fields(Scoring)]

    @wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in names}
        scoring = Scoring(**(given | {"exponents": _exponents(given["exponents"])}))
        return function(*args, scoring=scoring, **options)

    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _exponents(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--exponents {text!r} aren't numbers; write P,Q,R, such as 1,1,0.25.") from None
