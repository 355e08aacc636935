"""What a driver hands to workers, and what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from darwinc.evolution.genome import Genome
from darwinc.evolution.lineage import APPRAISAL, GENOME, MODEL
from darwinc.evolution_options import Evolution
from darwinc.evolution_schema import Individual, Kind
from darwinc.pipeline import Pass
from darwinc.scoring import Scoring

__all__ = ["APPRAISAL", "GENOME", "MODEL", "Habitat", "Raised", "Rearing", "Task", "files_of_network", "needs_of"]


@dataclass(frozen=True, eq=False)
class Habitat:
    """What all networks of a run have in common. Copies are equal: from some crews a worker gets one with every task.

    Attributes:
        ancestor: its ONNX file.
        owners: of its components, as they were matched once (`Channels.owners`).
        data, labels, preprocess: of the samples (`darwinc.data.open_data`), which every worker opens itself.
        recovery: what is done to a network after its cut.
        trains: do these passes train?
        target: its kind; strengths are about what it counts.
        scoring: options of the Darwinian Score.
        options: of evolution.
    """

    ancestor: bytes
    owners: npt.NDArray[np.int64]
    data: str
    labels: str | None
    preprocess: str | None
    recovery: tuple[Pass, ...]
    trains: bool
    target: str
    scoring: Scoring
    options: Evolution
    seed: int
    device: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        found = hashlib.sha256(self.ancestor)
        found.update(self.owners.tobytes())
        found.update(repr(replace(self, ancestor=b"", owners=np.zeros(0, np.int64))).encode())
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Habitat) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, eq=False)
class Task:
    """One network to raise.

    Attributes:
        parents: their ids, with the share that each has in the strengths.
        weights: the ids of those whose weights it's born with, in their shares; none for the ancestor's own weights.
        training: how many times the budget of one offspring it may train.
        reborn: does it begin with new weights?
    """

    id: str
    generation: int
    genome: Genome
    parents: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    weights: tuple[str, ...] = ()
    kind: Kind = "offspring"
    name: str | None = None
    training: float = 1.0
    reborn: bool = False

    @property
    def needs(self) -> list[str]:
        """The files that it takes."""
        return [f"{parent}/{file}" for parent in self.weights for file in (MODEL, GENOME)]


@dataclass(frozen=True, eq=False)
class Raised:
    """What became of a task: the report's row, and the network's file."""

    individual: Individual
    model: bytes


@dataclass(frozen=True)
class Rearing:
    """What workers do: `raise_` a task's network, and `appraise` one that was raised, by its id; both given files."""

    raise_: Callable[[Habitat, Task, Mapping[str, bytes]], Raised]
    appraise: Callable[[Habitat, str, Mapping[str, bytes]], bytes]


def needs_of(task: Task) -> Sequence[str]:
    """The files that a task takes."""
    return task.needs


def files_of_network(name: str) -> Sequence[str]:
    """The files that an appraisal takes."""
    return [f"{name}/{file}" for file in (MODEL, GENOME)]
