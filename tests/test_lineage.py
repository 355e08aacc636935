"""The folder of a run: what it keeps, what it refuses, and what is left of it after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import JsonValue

from darwinc.errors import DarwincError, InputError, OutputError, UsageError
from darwinc.evolution import journal
from darwinc.evolution.journal import End
from darwinc.evolution.lineage import APPRAISAL, GENOME, MODEL, RECORD, Archive, Lineage
from darwinc.evolution_schema import Generation, Individual, Kind

IDENTITY: dict[str, JsonValue] = {"model": "abc", "seed": 0, "options": {"parents": 2}}
FILES: Mapping[str, bytes] = {MODEL: b"network", GENOME: b"genome"}


def individual(id_: str, generation: int = 1, kind: Kind = "offspring") -> Individual:
    return Individual(id=id_, kind=kind, generation=generation, genome="0" * 64, widths=[3, 4], quality=0.5)


def begun(folder: Path) -> None:
    """The ancestor, and three generations of two, whose fittest survive."""
    with Lineage.open(folder, IDENTITY) as lineage:
        lineage.add(individual("ancestor", 0, "ancestor"), FILES)
        for generation in (1, 2, 3):
            offspring = [individual(f"{name}{generation}", generation) for name in "ab"]
            for each in offspring:
                lineage.add(each, {MODEL: each.id.encode(), GENOME: b"genome"})
            lineage.note(Generation(generation=generation, offspring=offspring, survivors=[f"b{generation}"]))


def ids(archive: Archive) -> list[str]:
    return [each.id for each in archive.individuals()]


def lines(folder: Path) -> list[bytes]:
    return (folder / journal.NAME).read_bytes().splitlines(keepends=True)


def test_a_run_is_told_as_it_was_written(tmp_path: Path) -> None:
    begun(tmp_path)
    with Lineage.open(tmp_path, IDENTITY, resume=True) as lineage:
        assert ids(lineage) == ["ancestor", "a1", "b1", "a2", "b2", "a3", "b3"]
        third = lineage.generations()[2]
        assert [(each.id, each.survived) for each in third.offspring] == [("a3", False), ("b3", True)]
        known = lineage.known("a2")
        assert known is not None
        assert (known.widths, known.quality) == ([3, 4], 0.5)
        assert lineage.read("a2", MODEL) == lineage.path("a2", MODEL).read_bytes() == b"a2"
        assert lineage.known("c2") is None
        assert lineage.warnings == []
        lineage.note(End(ended="target", winner="b3"))
    told = Archive.view(tmp_path)
    assert told.identity == IDENTITY
    assert told.end is not None
    assert (told.end.ended, told.end.winner) == ("target", "b3")
    record = Individual.model_validate_json((tmp_path / "networks" / "a2" / RECORD).read_bytes())
    assert record == known
    assert [json.loads(line)["number"] for line in lines(tmp_path)] == list(range(12))


def test_a_run_without_a_folder_leaves_none() -> None:
    with Lineage.open(None, IDENTITY) as lineage:
        folder = lineage.folder
        lineage.add(individual("a"), FILES)
        assert lineage.path("a", MODEL).is_file()
    assert not folder.exists()
    with pytest.raises(DarwincError, match="is closed"):
        lineage.note(End(ended="target"))


def test_a_file_is_attached_later(tmp_path: Path) -> None:
    with Lineage.open(tmp_path, IDENTITY) as lineage:
        lineage.add(individual("a"), FILES)
        assert not lineage.has("a", APPRAISAL)
        with pytest.raises(InputError, match=r"no appraisal\.npz of a network 'a'"):
            lineage.read("a", APPRAISAL)
        lineage.attach("a", APPRAISAL, b"strengths")
        with pytest.raises(DarwincError, match="No network b"):
            lineage.attach("b", APPRAISAL, b"strengths")
    archive = Archive.view(tmp_path)
    assert archive.has("a", APPRAISAL)
    assert archive.read("a", APPRAISAL) == b"strengths"


def test_a_network_is_added_once(tmp_path: Path) -> None:
    with Lineage.open(tmp_path, IDENTITY) as lineage:
        lineage.add(individual("a"), FILES)
        with pytest.raises(DarwincError, match="already"):
            lineage.add(individual("a"), FILES)
        with pytest.raises(DarwincError, match="no model or genome"):
            lineage.add(individual("b"), {MODEL: b"network"})


@pytest.mark.parametrize("damage", ["model", "genome", "longer", "missing"])
def test_a_damaged_network_is_raised_again(tmp_path: Path, damage: str) -> None:
    begun(tmp_path)
    folder = tmp_path / "networks" / "b1"
    if damage == "missing":
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    else:
        name, data = {"model": (MODEL, b"c1"), "genome": (GENOME, b"enomeg"), "longer": (MODEL, b"b1b1")}[damage]
        (folder / name).write_bytes(data)
    with Lineage.open(tmp_path, IDENTITY, resume=True) as lineage:
        assert lineage.known("b1") is None
        assert lineage.known("a1") is not None
        with pytest.raises(InputError, match="b1"):
            lineage.read("b1", GENOME if damage == "genome" else MODEL)
        lineage.add(individual("b1"), {MODEL: b"again", GENOME: b"genome"})
        assert lineage.known("b1") is not None
    archive = Archive.view(tmp_path)
    assert archive.read("b1", MODEL) == b"again"
    assert ids(archive).count("b1") == 1


def test_a_damaged_appraisal_costs_the_appraisal_alone(tmp_path: Path) -> None:
    with Lineage.open(tmp_path, IDENTITY) as lineage:
        lineage.add(individual("a"), {**FILES, APPRAISAL: b"strengths"})
        lineage.path("a", APPRAISAL).write_bytes(b"strength!")
    with Lineage.open(tmp_path, IDENTITY, resume=True) as lineage:
        assert lineage.known("a") is not None
        assert not lineage.has("a", APPRAISAL)
        lineage.attach("a", APPRAISAL, b"new")
        assert lineage.read("a", APPRAISAL) == b"new"


def test_an_earlier_generation_is_gone_on_from(tmp_path: Path) -> None:
    begun(tmp_path)
    with Lineage.open(tmp_path, IDENTITY, resume=True) as lineage:
        lineage.add(individual("random", 2, "control"), FILES)
        lineage.note(End(ended="generations", winner="b3"))
    before = lines(tmp_path)
    with Lineage.open(tmp_path, IDENTITY, resume=True, rewind=2) as lineage:
        assert ids(lineage) == ["ancestor", "a1", "b1", "a2", "b2"]
        assert [each.generation for each in lineage.generations()] == [1, 2]
        assert lineage.end is None
        assert lineage.known("a3") is None
        lineage.add(individual("a3", 3), {MODEL: b"another", GENOME: b"genome"})
    assert lines(tmp_path)[: len(before)] == before
    archive = Archive.view(tmp_path)
    assert ids(archive) == ["ancestor", "a1", "b1", "a2", "b2", "a3"]
    assert archive.read("a3", MODEL) == b"another"
    with Lineage.open(tmp_path, IDENTITY, resume=True, rewind=0) as lineage:
        assert ids(lineage) == ["ancestor"]


def test_a_generation_that_there_is_not(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with pytest.raises(UsageError, match=r"--from-generation was given as 4, and the run in .* has 3 generations"):
        Lineage.open(tmp_path / "run", IDENTITY, resume=True, rewind=4)
    with pytest.raises(UsageError, match="has 0 generations"):
        Lineage.open(tmp_path / "none", IDENTITY, resume=True, rewind=1)


def test_another_run_is_neither_written_over_nor_gone_on_with(tmp_path: Path) -> None:
    begun(tmp_path)
    before = lines(tmp_path)
    with pytest.raises(UsageError, match="has a run already; give --resume"):
        Lineage.open(tmp_path, IDENTITY)
    with pytest.raises(InputError, match=r"asked for something else \(another data, seed\)"):
        Lineage.open(tmp_path, {**IDENTITY, "seed": 1, "data": "x"}, resume=True)
    assert lines(tmp_path) == before


def test_resuming_nothing_begins_and_says_so(tmp_path: Path) -> None:
    with Lineage.open(tmp_path, IDENTITY, resume=True) as lineage:
        assert lineage.warnings == [f"There was no run in {tmp_path} to go on with, so one was begun."]


def test_two_runs_never_write_one_folder(tmp_path: Path) -> None:
    with Lineage.open(tmp_path, IDENTITY):
        with pytest.raises(OutputError, match="Another run writes"):
            Lineage.open(tmp_path, IDENTITY, resume=True)
        assert Archive.view(tmp_path).individuals() == []
    Lineage.open(tmp_path, IDENTITY, resume=True).close()


def test_a_line_that_was_never_finished_is_cut_off(tmp_path: Path) -> None:
    begun(tmp_path)
    path = tmp_path / journal.NAME
    whole = path.read_bytes()
    for cut in (1, 2, len(lines(tmp_path)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        assert len(Archive.view(tmp_path).generations()) == 2
        assert path.read_bytes() == whole[:-cut]
        with Lineage.open(tmp_path, IDENTITY, resume=True) as lineage:
            assert len(lineage.generations()) == 2
            offspring = [individual(f"{name}3", 3) for name in "ab"]
            lineage.note(Generation(generation=3, offspring=offspring, survivors=["b3"]))
        assert path.read_bytes() == whole


def test_a_first_line_that_was_never_finished_is_no_run(tmp_path: Path) -> None:
    begun(tmp_path)
    path = tmp_path / journal.NAME
    path.write_bytes(lines(tmp_path)[0][:-5])
    with pytest.raises(InputError, match=r"has no journal\.jsonl with a run in it"):
        Archive.view(tmp_path)
    with Lineage.open(tmp_path, IDENTITY) as lineage:
        assert lineage.individuals() == []
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda each: [each[0], *each[2:]], "Line 2 of .* isn't what comes there"),
        (lambda each: each[1:], "Line 1 of .* isn't what comes there"),
        (lambda each: [each[0], each[0].replace(b'"number":0', b'"number":1')], "Line 2 of .* isn't what comes there"),
        (lambda each: [each[0], b"{}\n"], "has a damaged line"),
        (lambda each: [b"\0" * 20 + b"\n"], "has a damaged line"),
        (lambda each: [each[0].replace(b"lineage/1", b"lineage/2")], "lineage/1"),
        (lambda each: [each[0], each[1].replace(b'"ancestor"', b'"../x"', 1)], "no file .* of a network '../x'"),
        (lambda each: [each[0], each[1].replace(b'"model.onnx"', b'"../model.onnx"')], "no file '../model.onnx'"),
        (lambda each: [each[0], each[1].replace(b'"bytes":7', b'"bytes":-7')], "greater than or equal to 0"),
        (lambda each: [b" " * (journal.LONGEST_LINE + 1) + b"\n"], "is longer than"),
    ],
)  # fmt: skip
def test_a_journal_is_not_trusted(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    begun(tmp_path)
    (tmp_path / journal.NAME).write_bytes(b"".join(change(lines(tmp_path))))
    with pytest.raises(InputError, match=message):
        Archive.view(tmp_path)
    with pytest.raises(InputError, match=message):
        Lineage.open(tmp_path, IDENTITY, resume=True)


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    with Lineage.open(tmp_path, IDENTITY) as lineage:
        lineage.add(individual("a"), FILES)
        for id_, name in (("..", MODEL), ("a/b", MODEL), ("A", MODEL), ("", MODEL), ("a", "../x"), ("a", RECORD)):
            with pytest.raises(InputError, match="has no file"):
                lineage.path(id_, name)
            with pytest.raises(InputError, match="has no file"):
                lineage.add(individual(id_), {**FILES, name: b""})


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lineage.open(tmp_path, IDENTITY) as lineage:
        with pytest.raises(InputError, match="damaged line"):
            lineage.note(Generation(generation=1, environment={"macs": float("inf")}))
        monkeypatch.setattr(journal, "LONGEST_LINE", 1000)
        with pytest.raises(OutputError, match="doesn't go into"):
            lineage.note(Generation(generation=1, survivors=["x" * 1000]))
        monkeypatch.undo()
        lineage.note(Generation(generation=1))
    assert [each.generation for each in Archive.view(tmp_path).generations()] == [1]


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        Lineage.open(tmp_path / "file" / "run", IDENTITY)
    with Lineage.open(tmp_path / "run", IDENTITY) as lineage:
        (tmp_path / "run" / "networks").touch()
        with pytest.raises(OutputError, match="can't be written"):
            lineage.add(individual("a"), FILES)
    assert ids(Archive.view(tmp_path / "run")) == []


KILLED = """
import os, signal, time
from pathlib import Path
from darwinc.evolution.lineage import APPRAISAL, GENOME, MODEL, Archive, Lineage
from darwinc.evolution_schema import Generation, Individual

RUN = Path("run")

def write(pipe):
    with Lineage.open(RUN, {"seed": 0}, resume=True) as lineage:
        for generation in range(len(lineage.generations()), 100000):
            ids = [f"n{generation}-{k}" for k in "ab"]
            born = [Individual(id=each, kind="offspring", generation=generation, genome="") for each in ids]
            for each in born:
                if lineage.known(each.id) is None:
                    lineage.add(each, {MODEL: each.id.encode() * 20000, GENOME: b"genome"})
                lineage.attach(each.id, APPRAISAL, each.id.encode())
                os.write(pipe, each.id.encode() + b" ")
            lineage.note(Generation(generation=generation, offspring=born))

told, torn = [], 0
for attempt in range(40):
    mine, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mine)
        write(theirs)
    os.close(theirs)
    first = os.read(mine, 100)
    time.sleep(0.0015 * attempt)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    told += (first + os.read(mine, 1 << 20)).decode().split()
    os.close(mine)
    torn += bool(list(RUN.rglob("*.part")))
    archive = Archive.view(RUN)
    for name in told:
        assert archive.known(name) is not None
        assert archive.read(name, MODEL) == name.encode() * 20000
        assert archive.read(name, APPRAISAL) == name.encode()
    assert [each.generation for each in archive.generations()] == list(range(len(archive.generations())))
with Lineage.open(RUN, {"seed": 0}, resume=True) as lineage:
    assert all(lineage.known(each.id) for each in lineage.individuals())
    assert not list(RUN.rglob("*.part"))
    print(len(set(told)), torn)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, to be killed without a start of seconds")
def test_killed_at_any_moment_a_run_has_all_that_was_ready(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    networks, torn = map(int, done.stdout.split())
    assert networks >= 20
    assert torn > 0
