"""Two Ray nodes on this machine, one of which is lost; the tests skip themselves where Ray isn't installed."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from darwinc.errors import DarwincError, Unreachable, UsageError
from darwinc.evolution import ray_crew
from darwinc.evolution.crew import Here, make_crew
from darwinc.evolution.ray_crew import RayCrew
from tests import crew_work
from tests.ray_nodes import STORE, first_node

ray = pytest.importorskip("ray")


def nothing(item: int) -> Sequence[str]:
    return ()


cluster = pytest.fixture(scope="module")(first_node)


def test_a_machine_that_is_lost_changes_no_result(cluster: Any, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    with RayCrew(cluster.address) as crew:
        assert crew.places() == 2
        waited = crew.each(crew_work.slow_sum, tmp_path, range(8), {}, nothing)
        found: dict[int, bytes] = {}
        while not (begun := {int(path.name[0]) for path in tmp_path.glob(f"*-{second.node_id}")} - set(found)):
            index, (_, found[index]) = next(waited)
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        rest = dict(waited)
    assert {node for index, (node, _) in rest.items() if index in begun} == {ray.nodes()[0]["NodeID"]}
    found |= {index: result for index, (_, result) in rest.items()}
    here = Here().each(crew_work.slow_sum, tmp_path, range(8), {}, nothing)
    assert found == {index: result for index, (_, result) in here}


def test_files_go_to_the_store_once(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {name: tmp_path / name for name in ("a", "b", "c")}
    for size, path in enumerate(paths.values()):
        path.write_bytes(bytes(size + 1))
    needs = [["a"], ["a"], ["b", "a"]]
    put, stored = ray.put, list[object]()

    def counted(value: object) -> object:
        stored.append(value)
        return put(value)

    monkeypatch.setattr(ray, "put", counted)
    context = 100
    with make_crew("ray", 1, "cpu", 3) as crew:
        for _ in range(2):
            found = dict(crew.each(crew_work.add_up, context, [0, 1, 2], paths, lambda item: needs[item]))
            assert found == {0: (100, {"a": 1}), 1: (101, {"a": 1}), 2: (102, {"b": 2, "a": 1})}
        assert [getattr(each, "content", each) for each in stored] == [100, bytes(1), bytes(2)]
        assert list(crew.each(crew_work.add_up, context, [], {}, nothing)) == []
    assert ray.is_initialized()


def test_a_worker_has_one_copy_of_the_context_and_the_drivers_environment(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    first, second = list[int](), list[int]()
    with RayCrew(cluster.address) as crew:
        found = [told for context in (first, first, second) for _, told in each_of(crew, context)]
    assert {policy for *_, policy in found} == {"passive"}
    assert len({pid for pid, *_ in found}) == 1
    assert [times for _, times, _ in found] == [1, 2, 3, 4, 1, 2]
    assert first == second == []


def each_of(crew: RayCrew, context: list[int]) -> list[tuple[int, tuple[int, int, str | None]]]:
    return list(crew.each(crew_work.same_context, context, range(2), {}, nothing))


def test_errors_and_lost_workers(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RayCrew(cluster.address) as crew:
        with pytest.raises(Unreachable, match=r"Nothing can be removed\."):
            list(crew.each(crew_work.refuse, "unreachable", [0, 1], {}, nothing))
        (tmp_path / "die0").touch()
        assert dict(crew.each(crew_work.die, tmp_path, range(3), {}, nothing)) == {0: 0, 1: 10, 2: 20}
        for number in range(9):
            (tmp_path / f"die{number}").touch()
        with pytest.raises(DarwincError, match=r"Offspring 1 of a generation ended its worker 3 times.*WorkerCrashed"):
            list(crew.each(crew_work.die, tmp_path, range(3), {}, nothing))
        assert len(list(tmp_path.iterdir())) == 6
        monkeypatch.setattr(ray_crew, "versions", lambda: {"darwinc": "0.0.1"})
        with pytest.raises(UsageError, match=r"and this one darwinc 0\.0\.1; install"):
            list(crew.each(crew_work.add_up, 1, [0], {}, nothing))


def test_threads_are_those_of_a_worker(cluster: Any) -> None:
    with RayCrew(cluster.address) as crew:
        assert dict(crew.each(crew_work.torch_sum, 7, range(2), {}, nothing)) == dict(
            Here(1).each(crew_work.torch_sum, 7, range(2), {}, nothing)
        )


def test_a_cluster_that_is_not_there(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**options: object) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(UsageError, match=r"at ray://there:1 can't be reached \(ray client connection timeout\); start"):
        make_crew("ray://there:1", 1, "cpu", 2)


def test_sigterm_means_the_same_once_ray_is_there(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def installs(**options: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", installs)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with RayCrew(cluster.address):
        assert signal.getsignal(signal.SIGTERM) == before


def test_no_machine_could_do_it(cluster: Any) -> None:
    with pytest.raises(UsageError, match="No machine of the Ray cluster has 64 cores; start one"):
        RayCrew(cluster.address, threads=64)
    with pytest.raises(UsageError, match="has 1 cores and a GPU; start one"):
        RayCrew(cluster.address, cuda=True)
