"""What the workers of the tests do; they import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from darwinc.errors import Unreachable, UnsupportedOperator


def add_up(context: int, item: int, files: Mapping[str, bytes]) -> tuple[int, dict[str, int]]:
    """The context and the item, and how large the files are."""
    return context + item, {key: len(data) for key, data in files.items()}


def process_of(context: object, item: int, files: Mapping[str, bytes]) -> tuple[int, str | None, str | None]:
    """Who works, on how many threads and on which device."""
    time.sleep(0.3)
    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES")


def same_context(context: list[int], item: int, files: Mapping[str, bytes]) -> tuple[int, int, str | None]:
    """Who works, how often it has had this very context by now, and its policy of waiting."""
    context.append(item)
    time.sleep(0.1)
    return os.getpid(), len(context), os.environ.get("OMP_WAIT_POLICY")


def torch_sum(context: int, item: int, files: Mapping[str, bytes]) -> tuple[int, bytes]:
    """A product of matrices by torch, whose last digits depend on the number of threads."""
    import torch

    made = np.random.default_rng([context, item]).standard_normal((64, 4096)).astype(np.float32)
    return torch.get_num_threads(), (torch.from_numpy(made) @ torch.from_numpy(made).T).numpy().tobytes()


def refuse(context: str, item: int, files: Mapping[str, bytes]) -> int:
    """Raise what the context says."""
    if context == "unreachable":
        raise Unreachable("Nothing can be removed.")
    if context == "operator":
        raise UnsupportedOperator("Node n has no rule")
    if context == "number":
        return 1 // (item - item)
    raise Stubborn(1, 2)


class Stubborn(Exception):
    """An error that pickle can't bring back."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def die(context: Path, item: int, files: Mapping[str, bytes]) -> int:
    """Item 1 kills its worker as often as the folder has files named `die*`; each time takes one."""
    for left in sorted(context.glob("die*")) if item == 1 else ():
        left.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return item * 10


def large(context: int, item: int, files: Mapping[str, bytes]) -> bytes:
    """As many bytes as the context says, all alike."""
    return bytes([item]) * context


def linger(context: Path, item: int, files: Mapping[str, bytes]) -> None:
    """Say who works, and don't stop."""
    (context / f"{os.getpid()}").touch()
    time.sleep(60)


def slow_sum(context: Path, item: int, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Mark in a folder which Ray node begins with which item; the node and a product of matrices, after a while."""
    import ray

    node = str(ray.get_runtime_context().get_node_id())
    (context / f"{item}-{node}").touch()
    time.sleep(0.5)
    return node, torch_sum(7, item, files)[1]
