"""report.json: put together, written whole or not at all, read back. Its schema is in `report_schema`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import pydantic_core

from darwinc.errors import InputError, OutputError
from darwinc.evolution.telling import is_open, told
from darwinc.pages.markdown import to_markdown
from darwinc.pages.questions import efficiency
from darwinc.report_schema import SCHEMA, Report

__all__ = [
    "Report",
    "build_report",
    "file_info",
    "load_report",
    "to_markdown",
    "tool_info",
    "write_json",
    "write_text",
]

NUMBERS = re.compile(r"\[\n\s+(?:-?\d+,\n\s+)*-?\d+\n\s+\]")
"""A list of whole numbers in indented JSON; no string matches, because strings hold no line breaks."""


def build_report(values: Mapping[str, Any]) -> Report:
    """The report from plain values; NumPy numbers, NumPy arrays and paths may be among them.

    `efficiency` is worked out where it's absent and both counts are there.
    Raises pydantic.ValidationError (a bug of the caller) where a value isn't what the schema wants.
    """
    plain = pydantic_core.to_jsonable_python(values, fallback=lambda value: value.tolist())
    report = Report.model_validate(plain)
    if report.efficiency is None and report.after is not None:
        report.efficiency = efficiency(report.before, report.after)
    return report


def file_info(path: Path) -> dict[str, str | int]:
    """Path, sha256 and size in bytes of a file, as the report's `input` and `output` want them. Raises InputError."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": str(path), "sha256": digest, "bytes": path.stat().st_size}
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); name a file that exists.") from error


def tool_info(device: str) -> dict[str, str | None]:
    """Versions and machine for `tool`; reads package metadata, so that torch needn't be imported for it."""
    from darwinc.benchmark import cpu_name  # here, because a report can be read without ONNX Runtime

    return {
        "darwinc": _version("darwinc"),
        "onnx": _version("onnx"),
        "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        "torch": _version("torch"),
        "python": platform.python_version(),
        "device": device,
        "cpu": cpu_name(),
    }


def _version(module: str, *distributions: str) -> str | None:
    loaded = getattr(sys.modules.get(module), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    for name in (module, *distributions):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def write_json(report: Report, path: Path) -> None:
    """Write report.json whole or not at all, a list of numbers on one line. Raises OutputError."""
    text = report.model_dump_json(indent=2, by_alias=True)
    write_text(NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 file by way of a temporary one in the same folder. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path} can't be written ({reason}); name a file in a folder that exists.") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_report(path: Path) -> Report:
    """Read a report.json, or the one in a run's folder; of an evolution that goes on, what its folder tells.

    Raises InputError.
    """
    if path.is_dir() and is_open(path):
        return told(path)
    file = path / "report.json" if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); name a report.json or a run's folder.") from error
    try:
        return Report.model_validate_json(content)
    except pydantic.ValidationError as error:
        fault = _first_fault(error)
        raise InputError(f"{file} isn't a {SCHEMA} report: {fault}; give one that darwinc wrote.") from error


def _first_fault(error: pydantic.ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"])) or "the file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {fault['msg'].rstrip('.')}{more}"
