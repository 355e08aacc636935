"""Offspring raised by the machines of a Ray cluster (the extra `darwinc[ray]`); Ray tries again where a machine dies.

A machine needs the same darwinc, torch and onnxruntime, and the data at the same paths. The context and the parents'
files go into Ray's object store once, and from there to each machine that needs them.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import onnxruntime

import darwinc
from darwinc.errors import InputError, Interrupted, UsageError
from darwinc.evolution.crew import TRIES, C, Closing, Needs, R, T, Work, contents, ended, limited, portable, variables

IN_FLIGHT = 2  # tasks for each place, so that a machine that is done has the next one there already


class RayCrew(Closing):
    """The machines of a cluster. What `ray.init` began, `close` ends."""

    def __init__(self, address: str | None, threads: int = 1, *, cuda: bool = False) -> None:
        """Connect.

        Args:
            address: `ray://HOST:PORT`, or that of a node; None for the cluster that this machine is part of.
            threads: of each task, which are the cores that it takes.
            cuda: does each task take a GPU?

        Raises:
            UsageError: Ray isn't installed, the cluster can't be reached, or has no machine that could do the work.
        """
        self.threads = threads
        self.cuda = cuda
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, address)
        self._context: tuple[object, Any] | None = None
        self._files: dict[Path, Any] = {}
        surroundings = {"env_vars": variables(threads)}
        needs = {
            "num_cpus": threads,
            "num_gpus": int(cuda),
            "max_retries": TRIES - 1,
            "runtime_env": surroundings,
        }
        self._attempt = self._ray.remote(_attempt).options(**needs)
        if not self.places():
            self.close()
            raise UsageError(
                f"No machine of the Ray cluster has {threads} cores{' and a GPU' if cuda else ''}; start one with "
                "ray start --address, or give fewer --offspring-threads."
            )

    def places(self) -> int:
        """How many tasks the machines that are alive can do at once."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            min(int(each.get("CPU", 0)) // self.threads, int(each.get("GPU", 0)) if self.cuda else 1 << 30)
            for each in alive
        )

    def each(
        self, work: Work[C, T, R], context: C, items: Sequence[T], files: Mapping[str, Path], needs: Needs[T]
    ) -> Iterator[tuple[int, R]]:
        """See `Crew.each`. Results wait in the object stores of the machines, and are fetched one by one."""
        self._files = {path: kept for path, kept in self._files.items() if path in files.values()}
        shared, waiting, pending = self._shared(context), deque(range(len(items))), dict[Any, int]()
        try:
            while waiting or pending:
                most = IN_FLIGHT * max(1, self.places())
                while waiting and len(pending) < most:
                    index = waiting.popleft()
                    keys = list(needs(items[index]))
                    stored = [self._stored(files[key]) for key in keys]
                    task = self._attempt.remote(versions(), self.threads, work, shared, items[index], keys, *stored)
                    pending[task] = index
                yield self._next(pending)
        except ConnectionError as error:
            raise InputError(
                f"The Ray cluster can't be reached any more ({error}); give the same command with --resume."
            ) from error
        finally:
            for task in pending:
                self._ray.cancel(task, force=True)

    def close(self) -> None:
        """Let the cluster's objects go, and the cluster, where it was not connected to before."""
        self._context, self._files = None, {}
        if self._ours:
            self._ray.shutdown()

    def _next(self, pending: dict[Any, int]) -> tuple[int, Any]:
        ready, _ = self._ray.wait(list(pending), num_returns=1, fetch_local=False)
        index = pending.pop(ready[0])
        try:
            done, told = self._ray.get(ready[0])
        except self._ray.exceptions.RayTaskError as error:
            raise UsageError(
                f"A machine of the Ray cluster can't do the work ({type(error.cause).__name__}: {error.cause}); "
                "install the same darwinc on all of them."
            ) from error
        except self._ray.exceptions.RayError as error:
            raise Interrupted(ended(index, f"the last time with {type(error).__name__}")) from error
        if not done:
            raise told
        return index, told

    def _shared(self, context: object) -> Any:
        if self._context is None or self._context[0] is not context:
            self._context = (context, self._ray.put(_Shared(uuid4().hex, context)))
        return self._context[1]

    def _stored(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = self._ray.put(contents({"": path})[""])
        return self._files[path]


@dataclass(frozen=True)
class _Shared:
    """A context as it travels. Ray makes a new object of it for each task; copies of the same name are equal."""

    name: str
    content: object = field(compare=False)


@lru_cache(maxsize=1)
def _same(shared: _Shared) -> object:
    """The content of the first of several equal copies, so that what a worker keeps for a context serves all tasks."""
    return shared.content


def versions() -> dict[str, str]:
    """What the last digits of a result depend on."""
    # ONNX Runtime's distribution has several names.
    known = {"darwinc": darwinc.__version__, "onnxruntime": onnxruntime.__version__}
    return known | {name: version(name) for name in ("numpy", "torch")}


def _attempt(
    theirs: Mapping[str, str], threads: int, work: Any, shared: _Shared, item: Any, keys: Sequence[str], *data: bytes
) -> tuple[bool, Any]:
    """What a machine does: whether it went well, and the result or the error."""
    try:
        if versions() != theirs:
            raise UsageError(
                f"A machine of the Ray cluster has {_listed(versions())}, and this one {_listed(theirs)}; install the "
                "same on all of them."
            )
        with limited(threads):
            return True, work(_same(shared), item, dict(zip(keys, data, strict=True)))
    except Exception as error:  # noqa: BLE001 - it is raised where the results are awaited
        return False, portable(error)


def _listed(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError("--workers ray takes Ray, which isn't installed; pip install 'darwinc[ray]'.") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        with _sigterm_kept():
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address} " if address else ""
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise UsageError(
            f"The Ray cluster {where}can't be reached ({reason}); start it with ray start --head, or give its address "
            "as --workers ray://HOST:10001."
        ) from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """SIGTERM means the same afterwards: what Ray puts in its place prints addresses and aborts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
