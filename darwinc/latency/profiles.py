"""What each node of a model takes in ONNX Runtime: its profiler's notes, from runs that are interleaved with others'.

A shared machine slows down and recovers. So models are timed in rounds, each running a few times in every round, and of
all its runs the fastest counts: what comes on top is somebody else's. For the same reason whole runs on one thread are
timed by the processor's time of that thread, where the system tells it finely enough.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from darwinc.errors import InvalidModel, UsageError
from darwinc.runtime import CPU, Feed, open_session, run

FEWEST_ROUNDS, MOST_ROUNDS = 2, 5
ROUNDS_SECONDS = 2.0
"""About how long all rounds together may take, for the sessions that are open at once."""

SHORTEST_BLOCK = 2
LONGEST_BLOCK = 12
BLOCK_SECONDS = 0.02
TINY = 1e-9
FINE = 1e-6
"""Seconds: a clock that doesn't tell these apart won't do."""

_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Event:
    """One node as it was executed: the name and the operator that it has after optimization, and its milliseconds."""

    name: str
    op_type: str
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """What the nodes took, in the order of execution, and a whole run without the profiler, if that was asked for."""

    events: tuple[Event, ...]
    wall_ms: float = math.nan


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to be timed, as a serialized file, and what it's fed."""

    model: bytes
    feed: Feed


class Timer(Protocol):
    """Something that times models: ONNX Runtime, or a made-up machine."""

    def profile(self, subjects: Sequence[Subject], *, whole: bool = True) -> list[Profile]:
        """Profiles of some models, under conditions as equal as can be; `whole` times whole runs as well."""


@dataclass(frozen=True)
class RuntimeTimer:
    """ONNX Runtime on this machine.

    Raises (on `profile`):
        InvalidModel: ONNX Runtime can't load or run a model.
        UsageError: a provider other than the processor, whose profile says when work was handed over.
    """

    threads: int = 1
    providers: tuple[str, ...] = CPU
    seed: int = 0

    def profile(self, subjects: Sequence[Subject], *, whole: bool = True) -> list[Profile]:
        """Every subject has a session of its own; all are open at once."""
        if self.providers != CPU:
            raise UsageError(
                f"Latency was to be modelled on {', '.join(self.providers)}, where ONNX Runtime doesn't tell what "
                f"nodes take; use {CPU[0]}, or another target."
            )
        with tempfile.TemporaryDirectory(prefix="darwinc-", ignore_cleanup_errors=True) as folder:
            sessions = [
                open_session(
                    subject.model, threads=self.threads, providers=self.providers, profile=Path(folder) / f"{number}"
                )
                for number, subject in enumerate(subjects)
            ]
            clock = self._clock()
            runners = [
                _Runner(session, subject.feed, clock) for session, subject in zip(sessions, subjects, strict=True)
            ]
            self._rounds(runners, lambda runner: runner.block(noting=True))
            notes = [Path(session.end_profiling()).read_text() for session in sessions]
        if whole:
            self._rounds(runners, lambda runner: runner.block(noting=False))
        return [
            Profile(parse(text, runner.counted), 1e3 * min(runner.seconds, default=math.nan))
            for text, runner in zip(notes, runners, strict=True)
        ]

    def _clock(self) -> Callable[[], float]:
        alone = self.threads == 1 and self.providers == CPU
        return (
            time.thread_time if alone and time.get_clock_info("thread_time").resolution <= FINE else time.perf_counter
        )

    def _rounds(self, runners: Sequence[_Runner], block: Callable[[_Runner], None]) -> None:
        generator = np.random.default_rng(self.seed)
        seconds = sum(runner.block_seconds for runner in runners)
        for _ in range(int(np.clip(ROUNDS_SECONDS / max(seconds, TINY), FEWEST_ROUNDS, MOST_ROUNDS))):
            for number in generator.permutation(len(runners)).tolist():
                block(runners[number])


class _Runner:
    """One session; which of its profiled runs count, and the seconds of those that weren't profiled."""

    def __init__(self, session: onnxruntime.InferenceSession, feed: Feed, clock: Callable[[], float]) -> None:
        self.session, self.feed, self.clock = session, feed, clock
        self.seconds: list[float] = []
        run(session, feed)
        self.counted = [False]
        took = self._time()
        self.runs = int(np.clip(BLOCK_SECONDS / max(took, TINY), SHORTEST_BLOCK, LONGEST_BLOCK))
        self.block_seconds = (1 + self.runs) * took
        self.counted.append(False)

    def block(self, *, noting: bool) -> None:
        """A few runs. The first of a block pays for the caches that another session filled: it doesn't count."""
        took = [self._time() for _ in range(1 + self.runs)][1:]
        if noting:
            self.counted += [False] + [True] * self.runs
        else:
            self.seconds += took

    def _time(self) -> float:
        start = self.clock()
        self.session.run(None, self.feed)
        return self.clock() - start


def parse(text: str, counted: Sequence[bool]) -> tuple[Event, ...]:
    """The nodes in a file of ONNX Runtime's profiler, each with the fastest of its runs.

    `counted` says of each run whether it counts; runs that aren't in the file are left out.

    Raises:
        InvalidModel: the file isn't the profiler's, or no run in it counts.
    """
    runs = [events for events, counts in zip(_runs(text), counted, strict=False) if counts]
    if not runs:
        raise InvalidModel("ONNX Runtime's profiler noted no run of the model; its latency can't be told node by node.")
    times: dict[tuple[str, str], list[float]] = {}
    for events in runs:
        seen: dict[tuple[str, str], float] = {}
        for event in events:
            # A node in the body of a loop comes several times.
            key = event.name, event.op_type
            seen[key] = seen.get(key, 0.0) + event.milliseconds
        for key, took in seen.items():
            times.setdefault(key, []).append(took)
    return tuple(Event(*key, min(took)) for key, took in times.items())


def _runs(text: str) -> list[list[Event]]:
    """The nodes of each run, in order."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise InvalidModel("ONNX Runtime's profiler wrote a file that isn't JSON; its notes can't be read.") from error
    runs: list[list[Event]] = []
    events: list[Event] = []
    for entry in entries if isinstance(entries, list) else ():
        if entry.get("cat") == "Node" and str(entry.get("name", "")).endswith(_KERNEL):
            events.append(_event(entry))
        elif entry.get("name") == "model_run":
            runs.append(events)
            events = []
    return runs


def _event(entry: dict[str, Any]) -> Event:
    name = str(entry["name"]).removesuffix(_KERNEL)
    return Event(name, str(entry.get("args", {}).get("op_name", "")), float(entry.get("dur", 0)) / 1e3)
