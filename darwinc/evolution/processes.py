"""Offspring raised by processes of this machine, which are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic

from darwinc.errors import Interrupted
from darwinc.evolution.crew import TRIES, C, Closing, Needs, R, T, Work, contents, ended, portable, variables

GRACE = 1.0  # seconds for the exit code of a process whose pipe has closed


@dataclass
class _Load(Generic[C, T, R]):
    """What is to be done: positions that wait for a worker, how often each was tried, and how many are open."""

    work: Work[C, T, R]
    context: C
    items: Sequence[T]
    files: Mapping[str, Path]
    needs: Needs[T]
    waiting: deque[int] = field(default_factory=deque)
    tries: Counter[int] = field(default_factory=Counter)
    left: int = 0

    def __post_init__(self) -> None:
        self.left = len(self.items)
        self.waiting.extend(range(self.left))

    def paths(self, index: int) -> dict[str, Path]:
        """The files that an item needs."""
        return {key: self.files[key] for key in self.needs(self.items[index])}


class _Worker:
    """A process, and the pipe to it. `index` is the position of the item that it works on."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawning.Pipe()
        self.process: BaseProcess = spawning.Process(target=_serve, args=(theirs,), daemon=True)
        self.index: int | None = None
        self._context: object = self
        with _inherited(environment):
            self.process.start()
        theirs.close()

    def begin(self, index: int, load: _Load[C, T, R]) -> None:
        """Send an item. Who died in the meantime is found out when an answer is waited for."""
        fresh = self._context is not load.context
        task = (load.work, fresh, load.context if fresh else None, load.items[index], load.paths(index))
        self.index, self._context = index, load.context
        with suppress(OSError):
            self.pipe.send(task)

    def end(self) -> None:
        """Let it go; where it works, it is killed."""
        if self.index is not None:
            self.process.kill()
        self.pipe.close()
        self.process.join()


@contextmanager
def _inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """What a process has that is started meanwhile: variables that libraries read as they load, and no Ctrl-C."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection) -> None:
    """What a worker does until the pipe closes, or the process that started it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
    context: Any = None
    while True:
        try:
            sent = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            work, fresh, given, item, paths = pickle.loads(sent)  # noqa: S301 - from the process that started this one
            context = given if fresh else context
            told = pickle.dumps((True, work(context, item, contents(paths))))
        except Exception as error:  # noqa: BLE001 - it is raised where the results are awaited
            told = pickle.dumps((False, portable(error)))
        try:
            pipe.send_bytes(told)
        except OSError:
            return


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Processes(Closing):
    """Processes of this machine. One that dies is replaced, and its item tried again."""

    def __init__(self, workers: int, threads: int = 1, devices: Sequence[str] = ()) -> None:
        """Nobody is started before there is work.

        Args:
            workers: how many.
            threads: of each.
            devices: the CUDA devices to be dealt out, one to a worker, as CUDA_VISIBLE_DEVICES calls them.
        """
        self.threads = threads
        self.devices = tuple(devices)
        self._workers: list[_Worker | None] = [None] * workers

    def each(
        self, work: Work[C, T, R], context: C, items: Sequence[T], files: Mapping[str, Path], needs: Needs[T]
    ) -> Iterator[tuple[int, R]]:
        """See `Crew.each`. At most one result of each worker, and the one that was handed out, exist at once."""
        load = _Load(work, context, items, files, needs)
        try:
            for place in range(len(self._workers)):
                self._employ(place, load)
            while load.left:
                yield self._next(load)
        finally:
            for place, worker in enumerate(self._workers):
                if worker is not None and worker.index is not None:
                    self._dismiss(place)

    @property
    def workers(self) -> int:
        """How many work at once."""
        return len(self._workers)

    def close(self) -> None:
        """Send everybody home; what is being worked on is dropped."""
        for place in range(len(self._workers)):
            self._dismiss(place)

    def _employ(self, place: int, load: _Load[C, T, R]) -> None:
        """Give the worker of a place, who is started where there is none, the next item."""
        if load.waiting:
            worker = self._workers[place] or _Worker(self._environment(place))
            self._workers[place] = worker
            worker.begin(load.waiting.popleft(), load)

    def _next(self, load: _Load[C, T, R]) -> tuple[int, R]:
        """Wait for a result."""
        while True:
            busy = {
                worker.pipe: (place, worker, worker.index)
                for place, worker in enumerate(self._workers)
                if worker is not None and worker.index is not None
            }
            ready = wait(list(busy))
            place, worker, index = next(found for pipe, found in busy.items() if pipe in ready)
            try:
                done, told = worker.pipe.recv()
            except (EOFError, OSError):
                self._try_again(place, worker, index, load)
                continue
            if not done:
                self._dismiss(place)
                raise told
            worker.index = None
            load.left -= 1
            self._employ(place, load)
            return index, told

    def _try_again(self, place: int, worker: _Worker, index: int, load: _Load[C, T, R]) -> None:
        worker.process.join(GRACE)
        code = worker.process.exitcode
        self._dismiss(place)
        load.tries[index] += 1
        if load.tries[index] == TRIES:
            raise Interrupted(ended(index, f"the last time with exit code {code}"))
        load.waiting.appendleft(index)
        self._employ(place, load)

    def _dismiss(self, place: int) -> None:
        worker, self._workers[place] = self._workers[place], None
        if worker is not None:
            worker.end()

    def _environment(self, place: int) -> dict[str, str]:
        found = variables(self.threads)
        return found | ({"CUDA_VISIBLE_DEVICES": self.devices[place % len(self.devices)]} if self.devices else {})
