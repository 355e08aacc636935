"""What an offspring costs the driver, and what a second worker brings, on made-up work and on an evolution.

python tests/benchmarks/workers.py driver      # milliseconds of each part, for models of 0.6 MB and 100 MB
python tests/benchmarks/workers.py workers     # one process against two, in turns; depends on the load of the machine
python tests/benchmarks/workers.py ray         # the same on two Ray nodes of one core each (takes darwinc[ray])
python tests/benchmarks/workers.py evolve MODEL DATA [OFFSPRING [STEPS [ROUNDS]]]   # a generation of 8 (0 steps each,
    # 3 rounds) raised by one process and by two, in turns; once more on two Ray nodes where Ray is installed
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np

from darwinc.compression import Settings, Target, compress
from darwinc.evolution.crew import C, Closing, Crew, Needs, R, T, Work
from darwinc.evolution.keeping import fingerprint
from darwinc.evolution.lineage import APPRAISAL, GENOME, MODEL, Archive, Lineage
from darwinc.evolution.processes import Processes
from darwinc.evolution_options import Evolution
from darwinc.evolution_schema import Generation, Individual
from darwinc.training import Training

ITEMS, ROUNDS, SIDE = 8, 5, 512
LOADS = {"computing": (60, 0.0), "waiting, as for a GPU or another machine": (0, 0.5)}
SIZES = {"0.6 MB": (600_000, 60), "100 MB": (100_000_000, 6)}


def raised(context: tuple[int, float], item: int, files: Mapping[str, bytes]) -> bytes:
    """So many products of matrices [SIDE, SIDE], and seconds of waiting; a result as large as the file that came."""
    products, seconds = context
    made = np.random.default_rng(item).standard_normal((SIDE, SIDE)).astype(np.float32)
    for _ in range(products):
        made = made @ made / np.float32(SIDE)
    time.sleep(seconds)
    return bytes(files["parent"])


def milliseconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def driver() -> None:
    """Parts of what the driver does for an offspring, each the median over offspring."""
    for title, (size, offspring) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder, Processes(1) as crew:
            run = Path(folder) / "run"
            found = kept(run, size, offspring)
            paths = {"parent": run / "networks" / "n0" / MODEL}

            def sent(paths: Mapping[str, Path] = paths, crew: Crew = crew) -> None:
                list(crew.each(raised, (0, 0.0), [0], paths, parent))

            sent()
            found["there and back: a process reads it, and returns as much"] = [
                milliseconds(sent) for _ in range(offspring)
            ]
            line = (run / "journal.jsonl").stat().st_size / (2 * offspring)
            found[f"the journal read back, {line:.0f} bytes a line"] = [
                milliseconds(partial(Archive.view, run)) / offspring
            ]
        for name, times in found.items():
            print(f"| {title} | {name} | {statistics.median(times):.2f} |")


def kept(run: Path, size: int, offspring: int) -> dict[str, list[float]]:
    """What it takes to keep networks of a size in bytes, in milliseconds."""
    model = np.random.default_rng(0).bytes(size)
    added: list[float] = []
    noted: list[float] = []
    known: list[float] = []
    with Lineage.open(run, {}) as lineage:
        for number in range(offspring):
            each = Individual(id=f"n{number}", kind="offspring", generation=number, genome="0" * 64)
            files = {MODEL: model, GENOME: model[: size // 300], APPRAISAL: model[: size // 100]}
            start = time.perf_counter()
            lineage.add(each, files)
            middle = time.perf_counter()
            lineage.note(Generation(generation=number))
            end = time.perf_counter()
            fingerprint(lineage.path(each.id, MODEL), size)
            added.append(1000 * (middle - start))
            noted.append(1000 * (end - middle))
            known.append(1000 * (time.perf_counter() - end))
    return {"a network's folder and line": added, "a line alone": noted, "on resuming: the SHA-256 of a model": known}


def parent(item: int) -> Sequence[str]:
    """What an item needs."""
    return ["parent"]


Worker = Callable[[tuple[int, float], Mapping[str, Path]], None]


def throughput(one: Worker, two: Worker) -> None:
    """One worker and two on the same items, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"parent": Path(folder) / "parent"}
        paths["parent"].write_bytes(bytes(600_000))
        for title, load in LOADS.items():
            times = []
            for _ in range(ROUNDS + 1):
                start = time.perf_counter()
                one(load, paths)
                middle = time.perf_counter()
                two(load, paths)
                times.append((middle - start, time.perf_counter() - middle))
            del times[0]  # workers start
            alone = statistics.median(first for first, _ in times) / ITEMS
            ratios = sorted(first / second for first, second in times)
            print(f"{title}: one takes {1000 * alone:.0f} ms an item; two are", end=" ")
            print(f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def all_at_once(crew: Crew) -> Worker:
    """Every item is handed out."""

    def run(load: tuple[int, float], paths: Mapping[str, Path]) -> None:
        for _ in crew.each(raised, load, range(ITEMS), paths, parent):
            pass

    return run


def one_by_one(crew: Crew) -> Worker:
    """The next item is handed out when the last one is back: one worker works at a time."""

    def run(load: tuple[int, float], paths: Mapping[str, Path]) -> None:
        for item in range(ITEMS):
            list(crew.each(raised, load, [item], paths, parent))

    return run


@contextmanager
def two_nodes() -> Iterator[Crew]:
    """A Ray cluster of this machine."""
    from ray.cluster_utils import Cluster

    from darwinc.evolution.ray_crew import RayCrew

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    with RayCrew(cluster.address) as crew:
        yield crew
    cluster.shutdown()


class Clocked(Closing):
    """A crew that goes on after the run, so that its workers start once; the seconds that results were waited for."""

    def __init__(self, crew: Crew, one_at_a_time: bool = False) -> None:
        self.crew, self.one_at_a_time, self.seconds = crew, one_at_a_time, 0.0

    def each(
        self, work: Work[C, T, R], context: C, items: Sequence[T], files: Mapping[str, Path], needs: Needs[T]
    ) -> Iterator[tuple[int, R]]:
        """See `Crew.each`."""
        size = 1 if self.one_at_a_time else max(1, len(items))
        for begin in range(0, len(items), size):
            start = time.perf_counter()
            for index, result in self.crew.each(work, context, items[begin : begin + size], files, needs):
                self.seconds += time.perf_counter() - start
                yield begin + index, result
                start = time.perf_counter()


def evolution(model: str, data: str, offspring: int = 8, steps: int = 0, rounds: int = 3) -> None:
    """Seconds of a generation, and what a second worker brings. A turn in which workers start isn't counted."""
    with Processes(1) as one, Processes(2) as two:
        print("processes:", compared(partial(generation, model, data, offspring, steps), one, two, rounds))
    if find_spec("ray"):
        with two_nodes() as crew:
            print("Ray:", compared(partial(generation, model, data, offspring, steps), crew, crew, rounds))


def compared(raise_all: Callable[[Clocked], tuple[float, str]], one: Crew, two: Crew, rounds: int) -> str:
    """One worker against two, in turns. Where both are the same crew, one is given an item at a time."""
    times = []
    for _ in range(rounds + 1):
        (first, winner), (second, same) = raise_all(Clocked(one, one is two)), raise_all(Clocked(two))
        if winner != same:
            raise SystemExit(f"Two workers found {same}, and one {winner}.")
        times.append((first, second))
    times = times[1:] or times
    alone, ratios = statistics.median(first for first, _ in times), sorted(first / second for first, second in times)
    two_are = f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"one worker takes {alone:.1f} s for a generation; two are {two_are}"


def generation(model: str, data: str, offspring: int, steps: int, crew: Clocked) -> tuple[float, str]:
    """Seconds in which a generation was raised, from its first task to its last result, and who won."""
    evolution = Evolution(generations=1, population=offspring, parents=1, survivors=1, controls=False)
    training = Training(steps=steps, augment="none") if steps else Training()
    settings = Settings(
        data=data, bench_seconds=0, device="cpu", strategy="evolve", evolution=evolution, training=training
    )
    with tempfile.TemporaryDirectory() as folder, patch("darwinc.evolution.run.make_crew", lambda *_: crew):
        found = compress(model, target=Target("macs", 0.5), output=Path(folder) / "out.onnx", settings=settings)
    return crew.seconds, str(found.report.evolution and found.report.evolution.winner)


def main() -> None:
    """What the command line asks for."""
    asked = sys.argv[1]
    if asked == "driver":
        driver()
    elif asked == "workers":
        with Processes(1) as one, Processes(2) as two:
            throughput(all_at_once(one), all_at_once(two))
    elif asked == "evolve":
        model, data, *numbers = sys.argv[2:]
        evolution(model, data, *map(int, numbers))
    else:
        with two_nodes() as crew:
            throughput(one_by_one(crew), all_at_once(crew))


if __name__ == "__main__":
    main()
