"""All drawing: stages and their progress on stderr, results on stdout, and the tables that commands show.

On a terminal stages are rich progress bars; elsewhere each is one plain line when it ends, and one about every ten
seconds while it lasts, so that a CI system sees that the job is alive.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from darwinc.errors import Interrupted
from darwinc.gate import GateResult, interval_text
from darwinc.pages.texts import comparison, milliseconds_text, number_text
from darwinc.report_schema import Report

PLAIN_WIDTH = 120
HEARTBEAT_SECONDS = 10.0


class Stage:
    """A stage that is under way: told how far it is, and what it's at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total: float | None = None
        self.done = 0.0
        self.doing = ""
        self.left_out = ""

    def progress(self, total: float) -> None:
        """Expect `total` steps, of which none is done yet."""
        self.total, self.done = total, 0.0
        self._changed()

    def advance(self, steps: float = 1.0) -> None:
        """Some more steps are done."""
        self.done += steps
        self._changed()

    def at(self, fraction: float) -> None:
        """This share of the whole is done, 0 to 1; for callbacks that count so."""
        if self.total is None:
            self.total = 1.0
        self.done = fraction * self.total
        self._changed()

    def say(self, doing: str) -> None:
        """What the stage is at, such as "batch 3 of 20"."""
        self.doing = printable(doing)
        self._changed()

    def leave_out(self, why: str) -> None:
        """There was nothing to do, for a reason that is said instead of the time."""
        self.left_out = why

    def __str__(self) -> str:
        parts = [f"{100 * self.done / self.total:.0f} %"] if self.total else []
        return ", ".join([*parts, self.doing] if self.doing else parts)

    def _changed(self) -> None:
        """Something moved; a stage on a terminal redraws its bar."""


class _Bar(Stage):
    """A stage as a line of a rich progress display."""

    def __init__(self, name: str, display: Progress) -> None:
        super().__init__(name)
        self._display = display
        self.task: TaskID = display.add_task(name, total=None, doing="")

    def _changed(self) -> None:
        self._display.update(self.task, total=self.total, completed=self.done, doing=self.doing)


class Terminal:
    """Where commands draw: progress and remarks to stderr, results to stdout.

    `quiet` leaves results, warnings and errors; `verbose` adds details.
    """

    def __init__(
        self,
        quiet: bool = False,
        verbose: bool = False,
        *,
        results: IO[str] | None = None,
        progress: IO[str] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.results = _console(results or sys.stdout)
        self.log = _console(progress or sys.stderr)
        self._heartbeat_seconds = heartbeat_seconds
        self._display: Progress | None = None

    def show(self, *results: RenderableType) -> None:
        """Results: what the command was asked for, to stdout; a quiet run leaves them out."""
        for result in results if not self.quiet else ():
            self.results.print(result)

    def show_text(self, text: str) -> None:
        """A result in words; its lines are broken by nobody but the terminal."""
        if not self.quiet:
            self.results.print(printable(text), soft_wrap=True)

    def show_list(self, listing: Listing) -> None:
        """A list as a table; where nobody watches one line for each row, which tools can search and cut."""
        if self.results.is_terminal:
            table = _table(listing.title, *listing.columns)
            for row in listing.rows:
                _add(table, *row)
            self.show(table, *filter(None, [listing.more]))
        else:
            lines = [listing.line.format(*row) for row in listing.rows]
            self.show_text("\n  ".join([listing.title, *lines, *filter(None, [listing.more])]))

    def note(self, text: str) -> None:
        """A remark that a quiet run leaves out."""
        if not self.quiet:
            self.log.print(Text(printable(text)))

    def detail(self, text: str) -> None:
        """A remark for verbose runs only."""
        if self.verbose:
            self.log.print(Text(printable(text), style="dim"))

    def warn(self, text: str) -> None:
        """A warning; shown in quiet runs too."""
        self.log.print(Text.assemble(("warning: ", "yellow"), printable(text)))

    def error(self, text: str) -> None:
        """What made the command stop, in one sentence."""
        self.log.print(Text.assemble(("error: ", "bold red"), printable(text)))

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """One stage of the work, timed; stages may be nested. With `total` its progress is counted in steps."""
        if self.quiet:
            yield Stage(name)
            return
        start = time.perf_counter()
        drawing = self._bar(name) if self.log.is_terminal else self._lines(name, start)
        outcome = "failed after"
        with drawing as stage:
            if total is not None:
                stage.progress(total)
            try:
                yield stage
                outcome = "done in"
            except (KeyboardInterrupt, Interrupted):
                outcome = "stopped after"
                raise
            finally:
                ending = f"{outcome} {time.perf_counter() - start:.1f} s"
                self.note(f"{name}: {f'left out ({stage.left_out})' if stage.left_out else ending}")

    @contextmanager
    def _bar(self, name: str) -> Iterator[Stage]:
        """A bar among those of the stages around it; the outermost one brings up the display and takes it down."""
        outermost = self._display is None
        display = self._display or _display(self.log)
        if outermost:
            self._display = display
            display.start()
        bar = _Bar(name, display)
        try:
            yield bar
        finally:
            display.remove_task(bar.task)
            if outermost:
                display.stop()
                self._display = None

    @contextmanager
    def _lines(self, name: str, start: float) -> Iterator[Stage]:
        """Plain lines, from a thread of their own, because the work may not report for minutes."""
        stage, over = Stage(name), threading.Event()

        def beat() -> None:
            while not over.wait(self._heartbeat_seconds):
                elapsed = f"{time.perf_counter() - start:.0f} s so far"
                self.note(f"{name}: {', '.join(filter(None, (str(stage), elapsed)))}")

        thread = threading.Thread(target=beat, name=f"heartbeat of {name}", daemon=True)
        thread.start()
        try:
            yield stage
        finally:
            over.set()
            thread.join()


def _console(file: IO[str]) -> Console:
    """A console that takes text literally; files and pipes get a fixed width, so that logs aren't cut at 80 columns."""
    console = Console(file=file, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    return console


def _display(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", markup=False, style="dim"),
        console=console,
        transient=True,
    )


def printable(text: object) -> str:
    """Text without control characters: names come from files that strangers made."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in str(text))


@dataclass(frozen=True)
class Listing:
    """A list, shortened or not: a table on a terminal, lines elsewhere.

    Attributes:
        title: what it lists.
        columns: heads of a table; one that ends in ">" holds figures.
        rows: cells [rows, columns].
        line: a row where there is no table, as a format string over its cells.
        more: says how many rows were left out, and where they are; empty where none was.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    line: str
    more: str = ""


@dataclass(frozen=True)
class GroupRow:
    """One channel group as plans and outcomes show it."""

    name: str
    channels: int
    left: int
    tensors: Sequence[str]
    remark: str = ""


def summary_table(report: Report) -> Table:
    """Before, after and their ratio for everything that the run measured."""
    table = _table("before and after", "", "before>", "after>", "after / before>")
    for row in comparison(report):
        _add(table, row.name, row.before, row.after, row.ratio)
    return table


def groups_table(rows: Iterable[GroupRow]) -> Table:
    """Channel groups: how many channels each has, how many are left, and which tensors hang together."""
    table = _table("channel groups", "group", "channels>", "left>", "tensors", "remark")
    for row in rows:
        _add(table, row.name, row.channels, row.left, _some(row.tensors), row.remark)
    return table


def bench_table(bench: Mapping[str, Any]) -> RenderableType:
    """Latency of one or two models, from `Comparison.as_bench()`; the verdict stands below."""
    table = _table("latency in ONNX Runtime", "model", "median>", "p90>", "p99>", "runs>")
    for model in bench["models"]:
        times = [milliseconds_text(model.get(key)) for key in ("median_ms", "p90_ms", "p99_ms")]
        _add(table, model.get("path") or "(in memory)", *times, model.get("runs", "-"))
    return Group(table, Text(_verdict(bench)))


def gate_table(result: GateResult) -> Table:
    """Every line of the gate."""
    table = _table(f"gate {'passed' if result.passed else 'failed'}", "", "key", "measured>", "95 % interval", "limit>")
    for line in result.lines:
        verdict = Text("pass", style="green") if line.passed else Text("FAIL", style="bold red")
        figures = (number_text(line.measured, 4), interval_text(line.interval), number_text(line.limit, 4))
        table.add_row(verdict, line.key, *figures)
    return table


def _verdict(bench: Mapping[str, Any]) -> str:
    parts = []
    if bench.get("verdict") is not None:
        parts.append(f"{bench['verdict']}: {number_text(bench.get('speedup'))} times as fast")
    if bench.get("ci95"):
        low, high = bench["ci95"]
        parts.append(f"95 % interval {number_text(low)} to {number_text(high)}")
    if bench.get("noise_floor") is not None:
        parts.append(f"noise floor {100 * bench['noise_floor']:.2g} %")
    return ", ".join(parts)


def _table(title: str, *columns: str) -> Table:
    """An empty table; a column whose name ends in ">" holds figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        figures = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if figures else "left", overflow="fold", no_wrap=figures)
    return table


def _add(table: Table, *cells: object) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
