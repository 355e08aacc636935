"""Passes in order over one job: each is timed, and remembers what it skipped and why.

A pass is a frozen dataclass whose fields are its options: the command line, `darwinc passes` and the report's `options`
all come from the fields.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from darwinc.channels import Channels, Mask
from darwinc.console import Stage, Terminal

if TYPE_CHECKING:
    from darwinc.calibrators.calibration import Calibration
    from darwinc.data import Samples
    from darwinc.passes.excise import Excision
    from darwinc.searching.latency import TimeModel
    from darwinc.selection import Selection


@dataclass(frozen=True)
class Grown:
    """What was learnt while channels died: the smaller model with its trained weights, and the report's entry of it."""

    model: ir.Model
    entry: dict[str, Any]


@dataclass
class Job:
    """What the passes work on.

    Attributes:
        original: the model as it came (initializers that were also inputs already released); never changed.
        model: the model as it is now.
        channels: the analysis of the original.
        dead: components that are gone, by number.
        samples: calibration data, or None for data-free mode.
        lessons: all of the data, where something is trained on it.
        held_out: the samples of `lessons` that were never trained on, once something was trained.
        validation: samples that a search judges by, and that nothing is calibrated or trained on.
        multiples: of channels, by kind of operator, that this machine was found to like.
        timing: the latency model of the original, where one was measured.
        search: what a search tried, as rows of the report.
        grown: what survivors learnt while others died, until it is handed over.
        dynamics: the report's history of that.
        calibration: batches, twin and statistics, made by the first pass that needs them.
        silent: weights of the smaller model of which single synapses are gone: which live, by name, in their shapes.
            Whatever changes weights holds the others at zero.
        evolution: the report's parts on evolution, `evolution` and `generations`.
    """

    original: ir.Model
    channels: Channels
    terminal: Terminal
    seed: int = 0
    device: str = "cpu"
    samples: Samples | None = None
    lessons: Samples | None = None
    held_out: Samples | None = None
    validation: Samples | None = None
    multiples: dict[str, int] = field(default_factory=dict)
    timing: TimeModel | None = None
    search: list[dict[str, Any]] = field(default_factory=list)
    model: ir.Model = field(init=False)
    dead: Mask = field(init=False)
    calibration: Calibration | None = None
    selection: Selection | None = None
    excision: Excision | None = None
    grown: Grown | None = None
    dynamics: dict[str, Any] | None = None
    silent: Mapping[str, Mask] = field(default_factory=dict)
    evolution: dict[str, Any] | None = None
    recovery: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.original
        self.dead = self.channels.nobody()

    def skip(self, node: str, reason: str) -> None:
        """A node was left alone, for a reason that the report repeats."""
        self.skipped.append((node, reason))


@dataclass(frozen=True)
class Pass(ABC):
    """One step of a job; the fields of a subclass are its options."""

    @property
    def name(self) -> str:
        """What the command line and the report call it."""
        return type(self).__name__.lower()

    @abstractmethod
    def run(self, job: Job, stage: Stage) -> bool:
        """Do the work; says whether anything changed."""


@dataclass
class PassRun:
    """What one pass did, for the report."""

    name: str
    options: dict[str, Any]
    changed: bool
    seconds: float
    skipped: list[dict[str, str]]


def run_passes(passes: Sequence[Pass], job: Job) -> list[PassRun]:
    """Run every pass in order."""
    return [run_pass(step, job) for step in passes]


def run_pass(step: Pass, job: Job) -> PassRun:
    """Run one pass, with its progress on the terminal."""
    start, before = time.perf_counter(), len(job.skipped)
    with job.terminal.stage(step.name) as stage:
        changed = step.run(job, stage)
    skipped = [{"node": node, "reason": reason} for node, reason in job.skipped[before:]]
    return PassRun(step.name, asdict(step), changed, time.perf_counter() - start, skipped)
