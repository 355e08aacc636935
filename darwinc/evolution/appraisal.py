"""What a raised network says of its channels and weights, by the ancestor's positions; offspring are drawn from it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from darwinc.errors import InputError
from darwinc.fitness.statistics import Indices, Matrix, Vector

Strengths = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Appraisal:
    """Strengths of a network's clusters and synapses.

    Attributes:
        clusters: of every component [Channels.count], between 0 (the first to go) and 1; what is dead has 0.
        synapses: of every weight that may lose synapses, by name, in the ancestor's shape, between 0 and 1.
        credit: what each output owes to each component [Channels.count, K], columns summing to 1; K = 0 where nobody
            asked for it.
        owners: of the ancestor alone, its components' owners as the whole run has them (`Channels.owners`).
        merit: how well the network does at each output, between 0 and 1 [K].
    """

    clusters: Vector
    synapses: Mapping[str, Strengths] = field(default_factory=dict)
    credit: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    merit: Vector = field(default_factory=lambda: np.zeros(0))
    owners: Indices = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def to_bytes(self) -> bytes:
        """As an .npz archive; synapses as float16, which tells them apart well enough to be drawn."""
        arrays: dict[str, npt.NDArray[Any]] = {"clusters": self.clusters, "credit": self.credit, "merit": self.merit}
        arrays["owners"] = self.owners
        for number, (name, values) in enumerate(sorted(self.synapses.items())):
            arrays |= {f"name{number}": np.array(name), f"values{number}": values.astype(np.float16)}
        written = io.BytesIO()
        np.savez_compressed(written, allow_pickle=False, **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Appraisal:
        """Read what `to_bytes` wrote.

        Raises:
            InputError: the archive is damaged, or isn't one.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                numbers = range(sum(key.startswith("name") for key in found.files))
                synapses = {
                    str(found[f"name{number}"]): found[f"values{number}"].astype(np.float32) for number in numbers
                }
                return cls(found["clusters"], synapses, found["credit"], found["merit"], found["owners"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"Strengths can't be read ({error}); the folder of their network is damaged.") from error
