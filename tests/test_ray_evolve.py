"""Evolution on two Ray nodes of this machine, one of which is killed; skipped where Ray isn't installed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ray_nodes import STORE, first_node
from tests.test_evolve import TRAINED, evolved
from tests.test_evolve_workers import CROWD, middle_of_a_generation, outcome

pytest.importorskip("ray")
cluster = pytest.fixture(scope="module")(first_node)


def busy(node: Any) -> bool:
    """Does a worker of a node raise a network?"""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("ray::_attempt" in each.cmdline() for each in raylet.children(recursive=True))


def test_a_node_that_is_killed_in_the_middle_changes_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()

    def kill() -> None:
        until = time.monotonic() + 120
        while not busy(second):
            assert time.monotonic() < until
            time.sleep(0.005)
        cluster.remove_node(second, allow_graceful=False)

    had = middle_of_a_generation(monkeypatch, kill)
    # The nodes work elsewhere.
    monkeypatch.chdir(tmp_path)
    result = evolved(Path("two"), replace(TRAINED, evolution=replace(CROWD, workers="ray")))
    assert had == [1]
    one = evolved(tmp_path / "one", replace(TRAINED, evolution=CROWD))
    assert outcome(result, tmp_path / "two") == outcome(one, tmp_path / "one")
