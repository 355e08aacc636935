"""Options and arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from darwinc.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])


def terminal_options(function: Function) -> Function:
    """--quiet and --verbose."""
    function = click.option("--verbose", is_flag=True, help="Say more, and show tracebacks.")(function)
    return click.option("--quiet", is_flag=True, help="Say nothing but errors.")(function)


def model_argument(name: str, *, required: bool = True) -> Callable[[Function], Function]:
    """An ONNX file; whether it can be read is for darwinc to say (exit code 3), not for the option parser."""
    return click.argument(name, type=click.Path(path_type=Path), required=required)


def data_options(function: Function) -> Function:
    """--data, --labels, --preprocess."""
    for option in (
        click.option(
            "--preprocess",
            metavar="SPEC",
            help="How images become inputs: imagenet, cifar10, mnist, unit, ...; or "
            "size=,mean=,std=,layout=,order=,range=; a JSON file of Hugging Face or timm; model, for what its metadata "
            "say (the default where they do).",
        ),
        click.option(
            "--labels",
            metavar="PATH",
            help="Labels, where they are separate: .npy, .txt, .csv, or a folder of label images.",
        ),
        click.option(
            "--data",
            metavar="PATH|SPEC",
            help="A folder of images, .npz, .npy, a folder of input_*.pb, torchvision:NAME, or "
            "package.module:callable.",
        ),
    ):
        function = option(function)
    return function


def output_file(*names: str, text: str) -> Callable[[Function], Function]:
    """A file to write."""
    return click.option(*names, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help=text)


def keep_apart(written: Mapping[str, Path | None], read: Mapping[str, Path | str | None]) -> None:
    """Refuse to write one file over another that was named, by the option that names it.

    Raises:
        UsageError: two of the files that are written are the same, or one is a file that is read.
    """
    seen = {name: os.path.realpath(path) for name, path in read.items() if path is not None}
    for name, path in written.items():
        if path is None:
            continue
        place = os.path.realpath(path)
        other = next((other for other, known in seen.items() if known == place), None)
        if other is not None:
            raise UsageError(f"{name} would be written over {other}, {path}; give another name.")
        seen[name] = place


def gathered(function: Callable[..., Any], name: str, kind: type[Any], options: Sequence[Any]) -> Callable[..., Any]:
    """A command with these options, which reach it as one argument: a dataclass whose fields they are called by."""
    names = [field.name for field in fields(kind)]

    @wraps(function)
    def command(*args: Any, **given: Any) -> Any:
        return function(*args, **{name: kind(**{each: given.pop(each) for each in names})}, **given)

    for option in reversed(options):
        command = option(command)
    return command
