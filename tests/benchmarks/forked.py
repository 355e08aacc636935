"""One piece of work in a process of its own, with a time limit: crashes, hangs and memory are then one row's matter."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

OVERTIME = "over the time limit"


class Missed(Exception):
    """There is no answer: `verdict` says in a word or two what went wrong, the message in a line why."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


def in_child(verdict: str, limit: float, work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` returns in a forked process, within `limit` seconds; forked, so that nothing is imported twice.

    Raises:
        Missed: with that verdict, where `work` raises, crashes or takes longer.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            raise Missed(verdict, f"{OVERTIME} of {limit:.0f} s")
        good, answer = receiver.recv()
    except EOFError:
        process.join()
        raise Missed(verdict, f"the process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if not good:
        raise Missed(verdict, answer)
    return answer


def _answer(sender: Connection, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    # TorchScript's exporter prints whole graphs from C++, past Python's streams.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        sender.send((True, work(*arguments)))
    except Exception as error:  # noqa: BLE001 - exporters and pruners raise whatever they like, and that is the answer
        sender.send((False, one_line(error)))


def one_line(error: BaseException) -> str:
    """The error that began it all: its class and what fits on a line of its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return shortened(f"{type(error).__name__}: {error}")


def shortened(text: str) -> str:
    """The text on one line of at most 300 characters."""
    return " ".join(text.split())[:300]
