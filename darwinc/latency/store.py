"""Measurements kept on disk, so that the same machine isn't asked twice.

One JSON file for each set of conditions (processor, provider, version, threads), in the user's cache folder, or where
DARWINC_CACHE says. What can't be read, or says something else than numbers in their places, counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import platformdirs

from darwinc.benchmark import cpu_flags, cpu_name
from darwinc.latency.curves import CANDIDATES, Curve
from darwinc.latency.profiles import Event

FORMAT = 1
FOLDER = "DARWINC_CACHE"
"""The environment variable that names another folder; empty, nothing is kept."""


@dataclass(frozen=True)
class Conditions:
    """What a measurement depends on besides the model."""

    cpu: str
    cpu_flags: tuple[str, ...]
    provider: str
    onnxruntime: str
    threads: int

    @classmethod
    def here(cls, provider: str, threads: int) -> Conditions:
        """Those of this machine."""
        return cls(cpu_name(), cpu_flags(), provider, onnxruntime.__version__, threads)


@dataclass(frozen=True)
class Measured:
    """Profiles of one model at several widths: events and milliseconds of the whole run, batch by batch.

    Attributes:
        widths: [K][G].
        batches: for each configuration, which batch of sessions it was timed in.
        events: [K], in the order of execution.
        walls: [K], without the profiler.
    """

    widths: tuple[tuple[int, ...], ...]
    batches: tuple[int, ...]
    events: tuple[tuple[Event, ...], ...]
    walls: tuple[float, ...]


def default_folder() -> Path | None:
    """Where measurements are kept; None where the user wants none."""
    asked = os.environ.get(FOLDER)
    if asked is not None:
        return Path(asked) if asked else None
    return Path(platformdirs.user_cache_dir("darwinc", appauthor=False))


def signature(parts: Iterable[Any]) -> str:
    """A short name for a description in JSON's terms."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=str).encode()).hexdigest()[:32]


class Store:
    """Curves of lone layers and profiles of models, under one set of conditions."""

    def __init__(self, folder: Path | None, conditions: Conditions) -> None:
        self._conditions = json.loads(json.dumps(asdict(conditions)))
        self._path = None if folder is None else folder / f"latency-{signature([self._conditions])}.json"

    def curve(self, key: str) -> Curve | None:
        """The curve of a lone layer's side; None where there is none."""
        return _curve(self._table("curves").get(key))

    def knows_curve(self, key: str) -> bool:
        """Was a lone layer's side measured, be it without telling anything?"""
        table = self._table("curves")
        return key in table and (table[key] is None or _curve(table[key]) is not None)

    def keep_curve(self, key: str, curve: Curve | None) -> None:
        """Remember a curve, or that there is none to be told."""
        self._keep("curves", key, None if curve is None else asdict(curve))

    def measured(self, key: str, groups: int) -> Measured | None:
        """Profiles of a model with that many groups; None where there are none."""
        return _measured(self._table("models").get(key), groups)

    def keep_measured(self, key: str, measured: Measured) -> None:
        """Remember profiles."""
        events = [[[event.name, event.op_type, event.milliseconds] for event in run] for run in measured.events]
        self._keep("models", key, asdict(measured) | {"events": events})

    def _table(self, name: str) -> dict[str, Any]:
        table = self._read().get(name)
        return table if isinstance(table, dict) else {}

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        whole = isinstance(content, dict) and content.get("format") == FORMAT
        return content if whole and content.get("conditions") == self._conditions else {}

    def _keep(self, table: str, key: str, value: Any) -> None:
        """Write the file whole, or leave it: a folder that can't be written costs the next run its time, no more."""
        if self._path is None:
            return
        content = {"format": FORMAT, "conditions": self._conditions, **self._read()}
        content[table] = self._table(table) | {key: value}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".latency-", dir=self._path.parent) as folder:
                staged = Path(folder) / self._path.name
                staged.write_text(json.dumps(content), encoding="utf-8")
                os.replace(staged, self._path)


def _curve(value: Any) -> Curve | None:
    if not isinstance(value, dict) or value.get("multiple") not in CANDIDATES:
        return None
    exact, classes = _ratios(value.get("exact")), _ratios(value.get("classes"))
    return None if exact is None or classes is None else Curve(int(value["multiple"]), exact, classes)


def _ratios(value: Any) -> dict[int, float] | None:
    if not isinstance(value, dict) or not all(str(key).isdigit() for key in value) or not _all_times(value.values()):
        return None
    return {int(key): float(ratio) for key, ratio in value.items() if ratio > 0}


def _measured(value: Any, groups: int) -> Measured | None:
    if not isinstance(value, dict):
        return None
    parts = [value.get(name) for name in ("widths", "batches", "events", "walls")]
    if not all(isinstance(part, list) and part and len(part) == len(parts[0] or ()) for part in parts):
        return None
    widths, batches, events, walls = (list(part or ()) for part in parts)
    if not all(_are_counts(row, groups) for row in widths) or not _are_counts(batches, len(batches)):
        return None
    if not _all_times(walls) or not all(isinstance(run, list) and all(map(_is_event, run)) for run in events):
        return None
    return Measured(
        tuple(tuple(row) for row in widths),
        tuple(batches),
        tuple(tuple(Event(*event) for event in run) for run in events),
        tuple(map(float, walls)),
    )


def _are_counts(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(item) is int and item >= 0 for item in value)


def _all_times(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in values)


def _is_event(value: Any) -> bool:
    named = isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value[:2])
    return named and _all_times(value[2:])


def shapes_of(sizes: Sequence[int | None]) -> list[int | None]:
    """A shape in JSON's terms."""
    return [None if size is None else int(size) for size in sizes]
