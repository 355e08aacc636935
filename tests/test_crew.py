"""Crews: the same results from this process and from others, whoever dies, and nobody left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch

from darwinc import errors
from darwinc.errors import DarwincError, InputError, Unreachable, UnsupportedOperator, UsageError
from darwinc.evolution.crew import Crew, Here, device_of, make_crew
from darwinc.evolution.processes import Processes
from tests import crew_work


def nothing(item: int) -> Sequence[str]:
    return ()


@pytest.fixture(scope="module")
def pair() -> Iterator[Processes]:
    with Processes(2) as crew:
        yield crew


@pytest.fixture(params=["here", "processes"])
def crew(request: pytest.FixtureRequest, pair: Processes) -> Crew:
    return pair if request.param == "processes" else Here()


def test_every_item_is_worked_on_once_with_its_files(crew: Crew, tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("a", "b", "c")}
    for size, path in enumerate(paths.values()):
        path.write_bytes(bytes(size + 1))
    needs = [["a"], [], ["b", "c"]]
    for context in (100, 200):
        found = dict(crew.each(crew_work.add_up, context, [0, 1, 2], paths, lambda item: needs[item]))
        assert found == {0: (context, {"a": 1}), 1: (context + 1, {}), 2: (context + 2, {"b": 2, "c": 3})}
    assert list(crew.each(crew_work.add_up, 1, [], {}, nothing)) == []


def test_results_are_the_same_to_the_last_bit_wherever_they_are_made(pair: Processes) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        items = range(5)
        here = dict(Here(1).each(crew_work.torch_sum, 7, items, {}, nothing))
        assert torch.get_num_threads() == 2
        assert dict(pair.each(crew_work.torch_sum, 7, items, {}, nothing)) == here
        assert {threads for threads, _ in here.values()} == {1}
    finally:
        torch.set_num_threads(before)


def test_here_gives_the_threads_back_while_a_result_is_used() -> None:
    before = torch.get_num_threads()
    for _, (threads, _) in Here(before + 1).each(crew_work.torch_sum, 7, range(2), {}, nothing):
        assert (threads, torch.get_num_threads()) == (before + 1, before)


@pytest.mark.parametrize(
    ("context", "kind", "message"),
    [
        ("unreachable", Unreachable, "Nothing can be removed."),
        (
            "operator",
            UnsupportedOperator,
            "Node n has no rule; use --fitness l1, l2, fpgm or random with --recover none, which need no torch.",
        ),
        ("number", ZeroDivisionError, "integer division or modulo by zero"),
    ],
)
def test_an_error_arrives_as_itself(crew: Crew, context: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as raised:
        list(crew.each(crew_work.refuse, context, [0, 1, 2], {}, nothing))
    assert str(raised.value) == message


def test_an_error_of_a_worker_says_where_it_was(pair: Processes) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        list(pair.each(crew_work.refuse, "number", [0], {}, nothing))
    assert "crew_work.py" in "".join(raised.value.__notes__)
    with pytest.raises(RuntimeError, match="Stubborn: 1 and 2"):
        list(pair.each(crew_work.refuse, "", [0], {}, nothing))
    assert dict(pair.each(crew_work.add_up, 1, [1], {}, nothing)) == {0: (2, {})}


def test_every_error_of_the_tree_travels() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, DarwincError)]
    assert len(kinds) == 10
    for kind in kinds:
        back = pickle.loads(pickle.dumps(kind("Found")))
        assert (type(back), str(back), vars(back)) == (kind, str(kind("Found")), vars(kind("Found")))


def test_a_file_that_is_not_there(crew: Crew, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone can't be read"):
        list(crew.each(crew_work.add_up, 1, [0], {"a": tmp_path / "gone"}, lambda item: ["a"]))


def test_a_worker_that_dies_is_replaced_and_its_item_tried_again(pair: Processes, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"die{number}").touch()
    assert dict(pair.each(crew_work.die, tmp_path, range(6), {}, nothing)) == {k: 10 * k for k in range(6)}
    assert list(tmp_path.iterdir()) == []


def test_an_item_that_always_ends_its_worker_ends_the_run(pair: Processes, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"die{number}").touch()
    with pytest.raises(DarwincError, match=r"^Offspring 1 of a generation ended its worker 3 times.* -9, as happens"):
        list(pair.each(crew_work.die, tmp_path, range(4), {}, nothing))
    assert len(list(tmp_path.iterdir())) == 6


def test_a_worker_that_dies_between_two_items_is_replaced(pair: Processes) -> None:
    workers = {pid for _, (pid, _, _) in pair.each(crew_work.process_of, None, range(4), {}, nothing)}
    os.kill(workers.pop(), signal.SIGKILL)
    after = {pid for _, (pid, _, _) in pair.each(crew_work.process_of, None, range(4), {}, nothing)}
    assert len(workers & after) == 1
    assert len(workers | after) == 2


def test_workers_have_their_threads_and_devices_and_this_process_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with Processes(2, threads=3, devices=("0", "5")) as crew:
        found = {told for _, told in crew.each(crew_work.process_of, None, range(2), {}, nothing)}
    assert sorted(told[1:] for told in found) == [("3", "0"), ("3", "5")]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert all(not psutil.pid_exists(told[0]) for told in found)


def test_results_wait_with_those_who_made_them(pair: Processes) -> None:
    """Twelve results would fill twelve times their size; one that is read, compared and let go takes about four."""
    process, size = psutil.Process(), 30_000_000
    before, largest = process.memory_info().rss, 0
    for item, result in pair.each(crew_work.large, size, range(12), {}, nothing):
        assert result == bytes([item]) * size
        time.sleep(0.1)
        largest = max(largest, process.memory_info().rss)
        del result
    assert largest - before < 7 * size


def test_who_stops_listening_leaves_nothing_to_hear(pair: Processes) -> None:
    for _ in pair.each(crew_work.add_up, 0, range(10), {}, nothing):
        break
    assert dict(pair.each(crew_work.add_up, 5, range(3), {}, nothing)) == {k: (5 + k, {}) for k in range(3)}


DRIVER = """
import sys
from pathlib import Path
from darwinc.evolution.processes import Processes
from tests import crew_work

if __name__ == "__main__":
    with Processes(2) as crew:
        list(crew.each(crew_work.linger, Path(sys.argv[1]), range(4), {}, lambda item: ()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    there = tmp_path / "there"
    there.mkdir()
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    command = [sys.executable, "driver.py", str(there)]
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while driver.poll() is None and len(list(there.iterdir())) < 2:
        time.sleep(0.02)
    workers = [psutil.Process(int(path.name)) for path in there.iterdir()]
    os.killpg(driver.pid, number) if number == signal.SIGINT else driver.kill()  # as a terminal's Ctrl-C does
    _, told = driver.communicate()
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    assert ("KeyboardInterrupt" in told) == (number == signal.SIGINT)
    assert "_serve" not in told


def test_the_crew_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darwinc.evolution.crew.cores", lambda: 6)

    def made(workers: str, threads: int = 1, device: str = "cpu", population: int = 8) -> tuple[int, tuple[str, ...]]:
        crew = make_crew(workers, threads, device, population)
        if isinstance(crew, Here):
            return 1, ()
        assert isinstance(crew, Processes)
        return crew.workers, crew.devices

    assert made("auto") == (6, ())
    assert made("auto", threads=2) == (3, ())
    assert made("auto", population=4) == (4, ())
    assert made("auto", threads=8) == (1, ())
    assert made("1") == (1, ())
    assert made("12") == (8, ())
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert made("auto", device="cuda") == (3, ("0", "1", "2"))
    assert made("4", device="cuda:1") == (4, ("1",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7,6")
    assert made("2", device="cuda") == (2, ("4", "GPU-7", "6"))
    assert made("auto", device="cuda:1") == (1, ())
    with make_crew("1", 1, "cuda:1", 8) as one, make_crew("2", 1, "cuda:1", 8) as two:
        assert (device_of(one, "cuda:1"), device_of(two, "cuda:1"), device_of(two, "cpu")) == ("cuda:1", "cuda", "cpu")


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'darwinc\[ray\]'"):
        make_crew("ray", 1, "cpu", 2)
