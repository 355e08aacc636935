"""The folder of a run: a journal, and a folder for each network. Killed at any moment, it loses no network it had.

    journal.jsonl            what happened, in order; lines are only ever added
    networks/ID/             written whole or not at all, before the journal speaks of it
        model.onnx           the network
        genome.npz           who lives in it (`genome.Genome`)
        appraisal.npz        what it says of its channels (`appraisal.Appraisal`); may come later
        record.json          what the journal says of it, for readers; nothing reads it back
    lock                     held while a run writes here

The journal alone is believed, and it holds the size and SHA-256 of every file. A network whose files aren't those is
not there any more: it has to be raised again.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import JsonValue

from darwinc.errors import DarwincError, InputError, UsageError
from darwinc.evolution import journal
from darwinc.evolution.journal import Attached, Begin, End, Entry, Journal, Judged, Raised, Rewind, Stored, read_journal
from darwinc.evolution.keeping import Lock, clear_leftovers, fingerprint, settle, write_folder, write_whole
from darwinc.evolution_schema import Generation, Individual
from darwinc.graph import check_folder

MODEL, GENOME, APPRAISAL, RECORD = "model.onnx", "genome.npz", "appraisal.npz", "record.json"
FILES = (MODEL, GENOME, APPRAISAL)
ORIGIN = ("model", "seed", "data", "labels", "preprocess")
"""What of an identity stays, whatever else is asked for: what networks descend from, learn from and are judged by."""
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


class Archive:
    """A run as its folder tells it; reading changes nothing and takes no lock.

    Attributes:
        folder: of the run.
        identity: what the run was asked to do.
        end: how it ended; None where it didn't, or went on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity: dict[str, JsonValue] = {}
        self.end: End | None = None
        self._individuals: dict[str, Individual] = {}
        self._files: dict[str, dict[str, Stored]] = {}
        self._generations: dict[int, Judged] = {}
        self._intact: dict[tuple[str, str], bool] = {}

    @classmethod
    def view(cls, folder: Path) -> Archive:
        """Read the folder of a run, which may still be going on.

        Raises:
            InputError: it isn't the folder of a run, or its journal is damaged.
        """
        found = Archive(folder)
        if found._replay()[0] == 0:
            raise InputError(f"{folder} has no {journal.NAME} with a run in it; name the --run-dir of a run.")
        return found

    def individuals(self) -> list[Individual]:
        """Every network of the run, in the order in which they were raised."""
        return list(self._individuals.values())

    def generations(self) -> list[Generation]:
        """Every generation that is over, with its offspring; those who survived it are marked."""
        return [self._told(self._generations[number]) for number in sorted(self._generations)]

    def known(self, id: str) -> Individual | None:  # noqa: A002 - as the schema calls it
        """The record of a network whose files are all as they were written; None for one that is to be raised."""
        there = self._individuals.get(id)
        return there if there is not None and self.has(id, MODEL) and self.has(id, GENOME) else None

    def has(self, id: str, name: str) -> bool:  # noqa: A002
        """Does a network have this file, as it was written? It is read the first time one asks."""
        stored = self._files.get(id, {}).get(name)
        if stored is None:
            return False
        if (id, name) not in self._intact:
            self._intact[id, name] = fingerprint(self.path(id, name), stored.bytes) == stored.sha256
        return self._intact[id, name]

    def read(self, id: str, name: str) -> bytes:  # noqa: A002
        """A file of a network.

        Raises:
            InputError: there is none, or it is damaged.
        """
        stored, path = self._files.get(id, {}).get(name), self.path(id, name)
        if stored is None:
            raise InputError(f"The run in {self.folder} has no {name} of a network {id!r}; name one that it lists.")
        try:
            with path.open("rb") as file:
                data = file.read(stored.bytes + 1)
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror or error}.") from error
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise InputError(f"{path} is damaged; give the same command with --resume to raise the network again.")
        return data

    def path(self, id: str, name: str) -> Path:  # noqa: A002
        """Where a file of a network lies, or would lie.

        Raises:
            InputError: no name that a network, or one of its files, could have.
        """
        _check_name(id, name)
        return self._networks / id / name

    @property
    def _networks(self) -> Path:
        return self.folder / "networks"

    def _told(self, line: Judged) -> Generation:
        survivors = set(line.record.survivors)
        born = [self._individuals[id_] for id_ in line.offspring if id_ in self._individuals]
        offspring = [each.model_copy(update={"survived": each.survived or each.id in survivors}) for each in born]
        return line.record.model_copy(update={"offspring": offspring})

    def _replay(self) -> tuple[int, int]:
        """Read the journal. How many lines it has, and how many bytes they take."""
        path, lines, size = self.folder / journal.NAME, 0, 0
        if not path.is_file():
            return lines, size
        for entry, end in read_journal(path):
            if entry.number != lines or isinstance(entry, Begin) != (lines == 0):
                raise InputError(
                    f"Line {lines + 1} of {path} isn't what comes there, so lines are missing or of another run; "
                    "give another --run-dir."
                )
            self._take(entry)
            lines, size = lines + 1, end
        return lines, size

    def _take(self, entry: Entry) -> None:
        self.end = entry if isinstance(entry, End) else None
        if isinstance(entry, Begin):
            self.identity = entry.identity
        elif isinstance(entry, Raised):
            for name in entry.files:
                _check_name(entry.record.id, name)
            self._individuals[entry.record.id] = entry.record
            self._files[entry.record.id] = dict(entry.files)
        elif isinstance(entry, Attached):
            _check_name(entry.id, entry.name)
            self._files.setdefault(entry.id, {})[entry.name] = entry.stored
        elif isinstance(entry, Judged):
            self._generations[entry.record.generation] = entry
        elif isinstance(entry, Rewind):
            self.identity = entry.identity
            self._forget_after(entry.generation)

    def _forget_after(self, generation: int) -> None:
        """Controls belong to the winner of a run, so they go with any generation that does."""
        self._individuals = {
            id_: each
            for id_, each in self._individuals.items()
            if each.generation <= generation and each.kind != "control"
        }
        self._files = {id_: files for id_, files in self._files.items() if id_ in self._individuals}
        self._generations = {number: line for number, line in self._generations.items() if number <= generation}


def _check_name(id_: str, name: str) -> None:
    if not _ID.fullmatch(id_) or name not in FILES:
        raise InputError(f"A run has no file {name!r} of a network {id_!r}; its journal is damaged or of another kind.")


class Lineage(Archive):
    """A run that goes on: networks and generations are added. A context manager, which holds the folder's lock.

    Attributes:
        warnings: what the user should know.
    """

    def __init__(self, folder: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="darwinc-lineage-") if folder is None else None
        super().__init__(Path(self._temporary.name) if self._temporary else folder or Path())
        self.warnings: list[str] = []
        self._lock: Lock | None = None
        self._journal: Journal | None = None

    @classmethod
    def open(
        cls, folder: Path | None, identity: Mapping[str, JsonValue], *, resume: bool = False, rewind: int | None = None
    ) -> Lineage:
        """Begin a run in a folder, or go on with the one that is there.

        Args:
            folder: of the run; None for a temporary one that is deleted in the end.
            identity: what the run is asked to do; a run with another one isn't gone on with. From an earlier generation
                it may go on otherwise, but not with another `ORIGIN`.
            resume: go on with the run in the folder.
            rewind: the generation to go on from; what came later is ignored, not deleted. None for where it stopped.

        Raises:
            UsageError: there is a run and nobody asked to resume it; there is no such generation.
            InputError: the run has another identity, or its journal is damaged.
            OutputError: the folder can't be written, or another process writes it.
        """
        if folder is not None:
            check_folder(folder)
        made = cls(folder)
        try:
            made._enter(json.loads(json.dumps(dict(identity), allow_nan=False)), resume, rewind)
        except BaseException:
            made.close()
            raise
        return made

    def _enter(self, identity: dict[str, JsonValue], resume: bool, rewind: int | None) -> None:
        self._lock = Lock(self.folder)
        lines, size = self._replay()
        if lines and not resume:
            raise UsageError(f"{self.folder} has a run already; give --resume to go on with it, or another --run-dir.")
        fixed = ORIGIN if rewind is not None else {*self.identity, *identity}
        if lines and any(self.identity.get(name) != identity.get(name) for name in fixed):
            raise InputError(
                f"The run in {self.folder} was asked for something else ({_differing(self.identity, identity)}); give "
                "the same command with --resume, or another --run-dir."
            )
        if rewind is not None and rewind not in {0, *self._generations}:
            raise UsageError(
                f"--from-generation was given as {rewind}, and the run in {self.folder} has "
                f"{len(self._generations)} generations; give one of them with --resume."
            )
        clear_leftovers(self._networks)
        self._journal = Journal(self.folder / journal.NAME, lines, size)
        if not lines:
            if resume:
                self.warnings.append(f"There was no run in {self.folder} to go on with, so one was begun.")
            self._write(Begin(identity=identity))
            settle(self.folder)
        if lines and rewind is not None:
            self._write(Rewind(generation=rewind, identity=identity))

    def add(self, individual: Individual, files: Mapping[str, bytes]) -> Individual:
        """Write a network's folder, and then its line. The record, with the SHA-256 of its model, comes back.

        Raises:
            DarwincError: it is there already, or has no model or genome.
            OutputError: the disk doesn't take it.
        """
        for name in files:
            _check_name(individual.id, name)
        if self.known(individual.id) is not None or not {MODEL, GENOME} <= files.keys():
            raise DarwincError(f"The network {individual.id} has no model or genome, or is in the lineage already.")
        stored = {name: _stored(data) for name, data in files.items()}
        record = individual.model_copy(update={"sha256": stored[MODEL].sha256})
        told = {RECORD: record.model_dump_json(indent=1).encode()}
        write_folder(self._networks / individual.id, {**files, **told})
        self._write(Raised(record=record, files=stored))
        self._intact.update({(record.id, name): True for name in FILES if name in files})
        return record

    def attach(self, id: str, name: str, data: bytes) -> None:  # noqa: A002
        """Write one more file of a network, and then its line.

        Raises:
            DarwincError: there is no such network.
            OutputError: the disk doesn't take it.
        """
        path = self.path(id, name)
        if id not in self._individuals or path.parent.is_symlink():
            raise DarwincError(f"No network {id} is in the lineage, so {name} can't be attached to it.")
        write_whole(path, data)
        self._write(Attached(id=id, name=name, stored=_stored(data)))
        self._intact[id, name] = True

    def note(self, entry: Generation | End) -> None:
        """Write down that a generation, or the run, is over. Offspring are noted by id: they have lines of their own.

        Raises:
            OutputError: the disk doesn't take it.
        """
        if isinstance(entry, End):
            self._write(entry)
            return
        offspring = [each.id for each in entry.offspring]
        self._write(Judged(record=entry.model_copy(update={"offspring": []}), offspring=offspring))

    def close(self) -> None:
        """Let the folder go; a temporary one is deleted."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, entry: Entry) -> None:
        if self._journal is None:
            raise DarwincError(f"The lineage in {self.folder} is closed.")
        self._journal.append(entry)
        self._take(entry)


def _stored(data: bytes) -> Stored:
    return Stored(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _differing(before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> str:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "another " + ", ".join(names)
