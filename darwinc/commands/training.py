"""The options of training, which reach a command as one `training: Training`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from darwinc.commands.options import gathered
from darwinc.training import COMPILING, OPTIMIZERS, PRECISIONS, Training

Function = Callable[..., Any]
_POSITIVE = click.FloatRange(0, min_open=True)
_DEFAULT = Training()

OPTIONS = (
    click.option("--steps", type=click.IntRange(1), metavar="N", help="Train for at most N steps."),
    click.option("--epochs", type=_POSITIVE, metavar="N", help="Train for at most N epochs."),
    click.option("--minutes", type=_POSITIVE, metavar="M", help="Train for at most M minutes. [default: 5]"),
    click.option(
        "--batch", type=click.IntRange(1), default=_DEFAULT.batch, show_default=True, help="Samples per training step."
    ),
    click.option(
        "--optimizer",
        type=click.Choice(OPTIMIZERS),
        default=_DEFAULT.optimizer,
        show_default=True,
        help="For training.",
    ),
    click.option(
        "--learning-rate",
        type=_POSITIVE,
        metavar="R",
        help="Its peak; for adamw relative to each tensor's size. [default: 0.01; 0.005 for sgd]",
    ),
    click.option(
        "--weight-decay", type=click.FloatRange(0), metavar="D", help="[default: 0.01 for adamw, 5e-4 for sgd]"
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default=_DEFAULT.precision,
        show_default=True,
        help="Of training; auto is bf16 on a CUDA GPU, else fp32.",
    ),
    click.option(
        "--compile",
        type=click.Choice(COMPILING),
        default=_DEFAULT.compile,
        show_default=True,
        help="torch.compile while training; auto: on a CUDA GPU, where it pays.",
    ),
    click.option(
        "--augment",
        default=_DEFAULT.augment,
        show_default=True,
        metavar="SPEC",
        help="auto, none, or a list of flip and shift.",
    ),
    click.option(
        "--validation",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=_DEFAULT.validation,
        show_default=True,
        help="Share of --data that selects and is never trained on.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(1),
        default=_DEFAULT.patience,
        show_default=True,
        help="Evaluations (20 a run) without an improvement that end training.",
    ),
    click.option(
        "--run-dir", metavar="DIR", help="Where checkpoints of training are kept; of evolve, every network of the run."
    ),
    click.option("--resume", is_flag=True, help="Go on from what is in --run-dir."),
)


def training_options(function: Function) -> Function:
    """--steps, --epochs, --minutes and the rest of `Training`, as the argument `training`."""
    return gathered(function, "training", Training, OPTIONS)
