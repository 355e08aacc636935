"""Evolution by several workers: one that is killed in the middle of a generation changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from darwinc.compression import Result
from darwinc.evolution.lineage import Lineage
from darwinc.evolution_schema import Individual
from tests.test_evolve import SMALL, TRAINED, everybody, evolved, told

CROWD = replace(SMALL, population=5, generations=2, controls=False)


def middle_of_a_generation(patch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[int]:
    """Do something when the second generation has one network; how many it had by then is in the list."""
    add, found = Lineage.add, list[int]()

    def added(lineage: Lineage, individual: Individual, files: Any) -> Individual:
        kept = add(lineage, individual, files)
        if individual.generation == 2 and not found:
            found.append(len([each for each in lineage.individuals() if each.generation == 2]))
            act()
        return kept

    patch.setattr(Lineage, "add", added)
    return found


def outcome(result: Result, folder: Path) -> tuple[Any, ...]:
    """All that has to be the same: the winner, everybody's genome and SHA-256, and the emitted file."""
    assert result.report.evolution is not None
    return (
        result.report.evolution.winner,
        [(each.genome, each.sha256) for each in everybody(result.report)],
        told(result.report),
        (folder / "out.onnx").read_bytes(),
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What one worker finds."""
    folder = tmp_path_factory.mktemp("alone")
    return outcome(evolved(folder, replace(TRAINED, evolution=CROWD)), folder)


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(
    alone: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[psutil.Process] = []

    def workers() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]

    def kill() -> None:
        assert len(workers()) == 2
        killed.append(workers()[0])
        killed[0].kill()

    had = middle_of_a_generation(monkeypatch, kill)
    result = evolved(tmp_path, replace(TRAINED, evolution=replace(CROWD, workers="2")))
    assert had == [1]
    assert not killed[0].is_running()
    assert outcome(result, tmp_path) == alone
