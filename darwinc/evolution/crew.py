"""Who raises offspring: this process, processes beside it (`processes`), or machines (`ray_crew`).

What is to be done is a function of a module, `work(context, item, files)`: a context that all items share, one item,
and the contents of the files that it needs. Results come as they are ready. Nothing about who does it reaches a result.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from darwinc.errors import InputError
from darwinc.evolution_options import LOCAL

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[C, T, Mapping[str, bytes]], R]
Needs = Callable[[T], Sequence[str]]

TRIES = 3


class Crew(Protocol):
    """Does the same work on many items."""

    def each(
        self, work: Work[C, T, R], context: C, items: Sequence[T], files: Mapping[str, Path], needs: Needs[T]
    ) -> Iterator[tuple[int, R]]:
        """The results of `work`, with the positions of their items, as they are ready.

        Args:
            work: a function of a module.
            context: what every item shares; it is sent to a worker once, as long as it stays the same object.
            items: what is to be worked on.
            files: by key, the files that items may need.
            needs: the keys of the files that an item needs.

        Raises:
            Interrupted: an item ended its worker several times.
            Exception: what `work` raised, as itself.
        """

    def close(self) -> None:
        """Send everybody home; what is being worked on is dropped."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """A context manager that closes in the end."""

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Here(Closing):
    """This process, one item after the other, on as many threads as a worker would have."""

    threads: int = 1

    def each(
        self, work: Work[C, T, R], context: C, items: Sequence[T], files: Mapping[str, Path], needs: Needs[T]
    ) -> Iterator[tuple[int, R]]:
        """See `Crew.each`."""
        for index, item in enumerate(items):
            with limited(self.threads):
                result = work(context, item, contents({key: files[key] for key in needs(item)}))
            yield index, result
            del result


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Torch computes on so many threads, and then on as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def contents(paths: Mapping[str, Path]) -> dict[str, bytes]:
    """Files by key.

    Raises:
        InputError: one can't be read.
    """
    try:
        return {key: path.read_bytes() for key, path in paths.items()}
    except OSError as error:
        raise InputError(f"{error.filename} can't be read: {error.strerror or error}.") from error


def portable(error: Exception) -> Exception:
    """An error that can travel to another process, with the lines that led to it as a note."""
    error.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - libraries' errors fail in many ways here
        spoken = RuntimeError(f"{type(error).__name__}: {error}")
        spoken.__notes__ = error.__notes__
        return spoken
    return error


def ended(index: int, how: str) -> str:
    """The sentence for an item that no worker survived."""
    return (
        f"Offspring {index} of a generation ended its worker {TRIES} times, {how}, as happens when memory runs out; "
        "give fewer --workers or a smaller --batch."
    )


def make_crew(workers: str, threads: int, device: str, population: int) -> Crew:
    """The crew that `--workers` asks for. One worker is this process.

    Args:
        workers: `auto` (one for each core, or CUDA device), a number, `ray` (the cluster of this machine), or
            `ray://HOST:PORT`.
        threads: of each worker.
        device: `cpu`, `cuda` (all there are, dealt out) or `cuda:N`; workers may call it otherwise (`device_of`).
        population: how many items there will be at once, at most.

    Raises:
        UsageError: Ray isn't installed, or the cluster can't be reached.
    """
    if workers.startswith("ray"):
        from darwinc.evolution.ray_crew import RayCrew

        return RayCrew(None if workers == "ray" else workers, threads, cuda=device.startswith("cuda"))
    from darwinc.evolution.processes import Processes

    devices = cuda_devices(device)
    most = (len(devices) or max(1, cores() // threads)) if workers == LOCAL else int(workers)
    number = min(most, population)
    return Processes(number, threads, devices) if number > 1 else Here(threads)


def device_of(crew: Crew, device: str) -> str:
    """What the crew's workers call a device: a worker process sees its own CUDA device alone, as `cuda`."""
    return device if isinstance(crew, Here) else device.partition(":")[0]


def variables(threads: int) -> dict[str, str]:
    """The environment of a worker that computes on so many threads, for libraries that read it as they load."""
    own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return own | {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS") if name in os.environ}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_devices(device: str) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls the devices that `cuda` or `cuda:N` stands for; none for others."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return ()
    import torch

    present = range(torch.cuda.device_count())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = tuple(visible.split(",")[: len(present)]) if visible else tuple(map(str, present))
    return (names[int(number)],) if number else names
