"""Which clusters and synapses live in a network, by the ancestor's positions, so that relatives can be compared."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from darwinc.channels import ChannelGroup, Mask
from darwinc.errors import InputError


@dataclass(frozen=True, eq=False)
class Genome:
    """Who lives.

    Attributes:
        dead: of every component of the ancestor's channels, is it gone? [Channels.count]
        synapses: for each weight of the ancestor that lost single synapses, by name, which of them live, in its shape;
            those of dead channels are False.
    """

    dead: Mask
    synapses: Mapping[str, Mask] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of who lives: equal for equal genomes alone."""
        found = hashlib.sha256(np.packbits(self.dead).tobytes())
        for name in sorted(self.synapses):
            mask = self.synapses[name]
            found.update(f"\0{name}\0{mask.shape}\0".encode())
            found.update(np.packbits(mask).tobytes())
        return found.hexdigest()

    def widths(self, groups: tuple[ChannelGroup, ...]) -> list[int]:
        """Living units of each group."""
        return [int(np.count_nonzero(~self.dead[group.units])) for group in groups]

    def distance(self, other: Genome, units: npt.NDArray[np.int64]) -> float:
        """The share of some units [U] that live in one of both alone."""
        return float(np.mean(self.dead[units] != other.dead[units])) if len(units) else 0.0

    def to_bytes(self) -> bytes:
        """As an .npz archive of packed bits."""
        arrays: dict[str, npt.NDArray[Any]] = {"dead": np.packbits(self.dead), "count": np.array(len(self.dead))}
        for number, (name, mask) in enumerate(sorted(self.synapses.items())):
            arrays |= {f"name{number}": np.array(name), f"shape{number}": np.array(mask.shape)}
            arrays[f"mask{number}"] = np.packbits(mask)
        written = io.BytesIO()
        np.savez_compressed(written, allow_pickle=False, **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Genome:
        """Read what `to_bytes` wrote.

        Raises:
            InputError: the archive is damaged, or isn't one.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                dead = np.unpackbits(found["dead"], count=int(found["count"])).astype(np.bool_)
                synapses = {}
                for number in range(sum(key.startswith("name") for key in found.files)):
                    shape = tuple(found[f"shape{number}"].tolist())
                    bits = np.unpackbits(found[f"mask{number}"], count=int(np.prod(shape)))
                    synapses[str(found[f"name{number}"])] = bits.astype(np.bool_).reshape(shape)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"A genome can't be read ({error}); the folder of its network is damaged.") from error
        return cls(dead, synapses)
