"""The journal of a run: a file to which lines are only ever added, each a JSON object that is checked as it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from darwinc.errors import InputError, OutputError
from darwinc.evolution_schema import Ending, Generation, Individual
from darwinc.schema_part import Part

NAME = "journal.jsonl"
LONGEST_LINE = 1 << 23  # bytes; a generation of ten thousand names half a million bytes


class Stored(Part):
    """A file of a network as it was written."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Entry(Part):
    """A line; `number` counts them from 0."""

    number: int = -1


class Begin(Entry):
    """The first line: what the run was asked to do."""

    event: Literal["begin"] = "begin"
    format: Literal["darwinc.lineage/1"] = "darwinc.lineage/1"
    identity: dict[str, JsonValue]


class Raised(Entry):
    """A network lies in its folder, with these files."""

    event: Literal["network"] = "network"
    record: Individual
    files: dict[str, Stored]


class Attached(Entry):
    """A network got one more file."""

    event: Literal["file"] = "file"
    id: str
    name: str
    stored: Stored


class Judged(Entry):
    """A generation is over. Its record names no offspring; `offspring` are their ids."""

    event: Literal["generation"] = "generation"
    record: Generation
    offspring: list[str]


class Rewind(Entry):
    """The run goes on from an earlier generation, asked for what it says: what came after doesn't count any more."""

    event: Literal["rewind"] = "rewind"
    generation: int = Field(ge=0)
    identity: dict[str, JsonValue]


class End(Entry):
    """The run is over."""

    event: Literal["end"] = "end"
    ended: Ending
    winner: str | None = None


Line = Annotated[Begin | Raised | Attached | Judged | Rewind | End, Field(discriminator="event")]
_LINE: TypeAdapter[Any] = TypeAdapter(Line)


def read_journal(path: Path) -> Iterator[tuple[Entry, int]]:
    """Each line, and where the next one starts, in bytes. A last line without its end, never finished, is left out.

    Raises:
        InputError: the file can't be read, or a line isn't what a journal has there.
    """
    try:
        with path.open("rb") as file:
            where = 0
            while line := file.readline(LONGEST_LINE + 1):
                if len(line) > LONGEST_LINE:
                    raise InputError(f"A line of {path} is longer than {LONGEST_LINE} bytes; give another --run-dir.")
                if not line.endswith(b"\n"):
                    return
                where += len(line)
                yield _entry(line, path), where
    except OSError as error:
        raise InputError(f"The journal {path} can't be read: {error.strerror or error}.") from error


def _entry(line: bytes, path: Path) -> Entry:
    try:
        entry: Entry = _LINE.validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise InputError(f"The journal {path} has a damaged line ({problem}); give another --run-dir.") from error
    return entry


class Journal:
    """The journal, open for adding lines; one line is on the disk before the next one is begun."""

    def __init__(self, path: Path, lines: int, size: int) -> None:
        """Cut off what follows `size` bytes, and go on after that many lines.

        Raises:
            OutputError: the file can't be written.
        """
        self.path = path
        self.lines = lines
        try:
            self._file: BinaryIO = path.open("ab", buffering=0)
            self._file.truncate(size)
        except OSError as error:
            raise self._refusal(error) from error

    def append(self, entry: Entry) -> None:
        """Add a line, and wait until it is on the disk.

        Raises:
            InputError: the entry has values that couldn't be read back.
            OutputError: the line is too long to be read back, or the disk doesn't take it.
        """
        entry.number = self.lines
        line = entry.model_dump_json().encode() + b"\n"
        _entry(line, self.path)  # what can't be read back, such as an infinite number, must not get in
        if len(line) > LONGEST_LINE:
            raise OutputError(
                f"A line of {len(line)} bytes doesn't go into {self.path}, whose lines have at most {LONGEST_LINE}; "
                "give a smaller --population."
            )
        try:
            start = self._file.seek(0, os.SEEK_END)
            if self._file.write(line) != len(line):
                self._file.truncate(start)
                raise OutputError(f"The journal {self.path} can't be written: the disk is full; make room.")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refusal(error) from error
        self.lines += 1

    def close(self) -> None:
        """Add no more."""
        self._file.close()

    def _refusal(self, error: OSError) -> OutputError:
        return OutputError(f"The journal {self.path} can't be written: {error.strerror or error}.")
