"""What calibration knows of the readers of channels: what every criterion of fitness is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Death:
    """Why one unit died.

    Attributes:
        unit: its component number.
        cause: `collapsed`, `redundant`, `no_influence`, `stagnant`; `low_score` where a criterion knows of no causes.
        peers: of a redundant unit, the surviving units of its group that say what it said, with their coefficients in
            deviations, the largest first.
    """

    unit: int
    cause: str
    peers: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class ReaderStatistics:
    """What calibration knows of one reader (one group of a grouped convolution).

    Attributes:
        units: component of each slot [S]; 0 for slots that can't die. A component may die with one of several units
            (`Channels.owners`).
        covariance: of the slots [S, S].
        gram: W' G W [S, S], with G the second moment of the loss gradient at the reader's output (summed over kernel
            taps where slots don't tell them apart).
        positions: component of each input position [P].
        taylor: E|sum over places of z g| per input position [P]; None without gradients.
        blind: units whose death it tells nothing about (heads, where what is measured is a sum over their dimensions).
        fisher: 1/2 E(sum over places of z g)^2 per input position [P], the square of a component of several positions
            shared evenly among them; None where it wasn't asked for.
        mean: of the slots [S]; None where nothing was measured.
    """

    units: Indices
    covariance: Matrix
    gram: Matrix
    positions: Indices
    taylor: Vector | None
    blind: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    fisher: Vector | None = None
    mean: Vector | None = None

    def judged(self, owners: Indices) -> Indices:
        """The same owners [..., K], with zero in place of units that it is blind for."""
        return np.where(np.isin(owners, self.blind), 0, owners) if self.blind.size else owners
