"""The options that say what is asked for, which reach a command as one `target: Target`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from darwinc.errors import UsageError

Function = Callable[..., Any]
SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
KINDS = {
    "target_sparsity": "sparsity",
    "target_macs": "macs",
    "target_bytes": "bytes",
    "target_latency": "latency",
    "target_synapses": "synapses",
    "max_drop": "max-drop",
}
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)

OPTIONS = (
    click.option("--target-sparsity", type=_SHARE, metavar="S", help="Fraction of parameters to remove."),
    click.option("--target-macs", type=_SHARE, metavar="R", help="Fraction of MACs to remove."),
    click.option("--target-bytes", metavar="N", help="Bytes that the file may have (suffixes k, M, G)."),
    click.option(
        "--target-latency",
        type=_SHARE,
        metavar="R",
        help="Fraction of the time in ONNX Runtime here to remove: predicted, measured, corrected.",
    ),
    click.option(
        "--target-synapses",
        type=_SHARE,
        metavar="S",
        help="Of evolve: fraction of non-zero weights of convolutions and matrices to remove; single ones become "
        "zeros, which make nothing faster.",
    ),
    click.option(
        "--max-drop",
        type=click.FloatRange(0, 100, min_open=True, max_open=True),
        metavar="D",
        help="As small as possible while the metric falls by no more than D points on a part of --data that is held "
        "out. Where --recover trains, cuts are tried with inherit, and the one found is trained.",
    ),
)


def target_options(function: Function) -> Function:
    """--target-sparsity and the others, of which exactly one is given, as the argument `target`."""

    @wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        # What it imports reads models, which takes a moment, and which --help shouldn't pay.
        from darwinc.settings import Target

        given = {name: value for name in KINDS if (value := options.pop(name)) is not None}
        if len(given) != 1:
            raise UsageError(f"Give exactly one target: {', '.join(_option(name) for name in KINDS)}.")
        ((name, value),) = given.items()
        target = Target(KINDS[name], _bytes(value) if isinstance(value, str) else value)
        return function(*args, target=target, **options)

    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _bytes(text: str) -> float:
    number, suffix = text.rstrip("kKmMgGbB"), text[len(text.rstrip("kKmMgGbB")) :].lower().rstrip("b")
    if suffix not in SUFFIXES or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise UsageError(f"--target-bytes {text!r} is no size; write 250000, 250k or 1.5M.")
    return float(number) * SUFFIXES[suffix]
