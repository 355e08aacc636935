"""Rows of a benchmark in a file of JSON lines, so that a run that was stopped goes on, and tables made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = Mapping[str, Any]


class Sheet:
    """A file to which rows are added; `key` names the fields by which a row is known."""

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self._path, self._key = path, tuple(key)
        # The last line may have been cut short.
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines if line.endswith("}")]
        self._known = {self._of(row) for row in self.rows}
        if lines and not lines[-1].endswith("}"):
            path.write_text("".join(f"{line}\n" for line in lines[:-1]))

    def _of(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self._key)

    def has(self, row: Row) -> bool:
        """Was a row with these values of the key added before, now or in an earlier run?"""
        return self._of(row) in self._known

    def add(self, row: Row) -> None:
        """Write a row at once, and show it."""
        line = json.dumps(row)
        with self._path.open("a") as opened:
            opened.write(f"{line}\n")
        print(line, flush=True)
        self.rows.append(row)
        self._known.add(self._of(row))


def table(rows: Sequence[Row], lines: Sequence[str], columns: Sequence[str], show: Callable[[list[Row]], str]) -> str:
    """A Markdown table: one line for each combination of the fields `lines`, one column for each of `columns`."""
    across = list(dict.fromkeys(tuple(row[name] for name in columns) for row in rows))
    down = list(dict.fromkeys(tuple(row[name] for name in lines) for row in rows))
    heads = [*lines, *(" ".join(str(part) for part in head) for head in across)]
    text = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for line in down:
        cells = [str(part) for part in line]
        for head in across:
            here = [
                row
                for row in rows
                if tuple(row[name] for name in lines) == line and tuple(row[name] for name in columns) == head
            ]
            cells.append(show(here) if here else "-")
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def spread(rows: Sequence[Row], name: str, places: int = 1) -> str:
    """The mean of a field over rows, with the deviation where there are several."""
    values = [float(row[name]) for row in rows]
    around = f" ± {stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{mean(values):.{places}f}{around}"
