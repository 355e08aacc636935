"""The living inputs of one reader: what each says that the others don't, what it contributes, and who inherits.

Source: Optimal Brain Surgeon (Hassibi and Stork, 1993). Everything here is numpy on small matrices, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from darwinc.fitness.statistics import Indices, Matrix, ReaderStatistics, Vector
from darwinc.scoring import Scoring

RIDGE = 1e-6
LEAST = 1e-30

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Takeover:
    """What becomes of a reader when `units` die: which slots [S] go, and their coefficients [D, L] on those that stay.

    Of deviations: a slot that dies is answered for by `coefficients` of the living ones, with the sign turned.
    """

    units: Indices
    dying: Mask
    across: Matrix
    coefficients: Matrix


@dataclass(eq=False)
class ReaderState:
    """The living slots of one reader.

    Attributes:
        scoring: the exponents, the floor and the normalisation.
        owners: the units [S, K] that each slot dies with, padded with zeros.
        inverse, gram: P = C^-1 and K = W' G W [S, S], both for inputs scaled to unit variance. Where diversity counts
            for nothing nobody inherits: P is the identity.
        variance: of each slot [S] as it came, over the mean of the layer.
    """

    scoring: Scoring
    owners: Indices
    inverse: Matrix
    gram: Matrix
    variance: Vector
    judged: Callable[[Indices], Indices]
    _typical: tuple[float, float] | None = None
    _takeover: Takeover | None = None

    @classmethod
    def of(cls, reader: ReaderStatistics, scoring: Scoring) -> ReaderState:
        """The state in which everybody lives."""
        # A network that answers with NaN or infinity tells nothing about its channels: they count as silent.
        covariance = np.nan_to_num(reader.covariance, nan=0.0, posinf=0.0, neginf=0.0)
        gram = np.nan_to_num(reader.gram, nan=0.0, posinf=0.0, neginf=0.0)
        scale = deviations(covariance)
        inverse = invert_correlation(covariance, scale) if scoring.exponents[0] else np.eye(len(scale))
        variance = np.maximum(np.diag(covariance), 0.0)
        variance = variance / max(float(variance.mean()), LEAST)
        return cls(
            scoring, reader.units[:, None], inverse, gram * scale[:, None] * scale[None, :], variance, reader.judged
        )

    def assign(self, owners: Indices) -> None:
        """Let each slot, so far a component by itself, die with the units [count, K] of its component."""
        self.owners = self.judged(owners[self.owners[:, 0]])
        self._typical = None

    def units(self) -> Indices:
        """The units that live here."""
        return np.unique(self.owners[self.owners > 0])

    def restricted(self, units: Indices) -> ReaderState:
        """The same state among some units only: deaths among them are exact, as downdates touch each entry alone."""
        slots = np.flatnonzero(self.among(units))
        across = np.ix_(slots, slots)
        return replace(
            self,
            owners=self.owners[slots],
            inverse=self.inverse[across],
            gram=self.gram[across],
            variance=self.variance[slots],
            _takeover=None,
        )

    def among(self, units: Indices) -> Mask:
        """Which slots die with any of these units."""
        return np.asarray(np.isin(self.owners, units).any(axis=1))

    def blocks(self, units: Indices) -> Iterator[tuple[Mask, Indices]]:
        """The slots of units, as `blocks_of` has them."""
        return blocks_of(self.owners, units)

    def losses(self, units: Indices) -> Vector:
        """The score of each unit [U], adaptability aside; zero for units that this reader doesn't read."""
        return self._costs(units) if self.scoring.is_loss else self._scores(units)

    def _costs(self, units: Indices) -> Vector:
        """1/2 tr(K_BB (P_BB)^-1), the rise of the loss when B dies and the reader refits."""
        result = np.zeros(len(units))
        for alike, slots in self.blocks(units):
            result[alike] = 0.5 * self._joint(slots)
        return np.maximum(result, 0.0)

    def _joint(self, slots: Indices) -> Vector:
        """tr(K_BB (P_BB)^-1) of blocks of slots [A, B]."""
        if slots.shape[1] == 1:
            single = slots[:, 0]
            return np.asarray(self.gram[single, single] / np.maximum(self.inverse[single, single], LEAST))
        rows, columns = slots[:, :, None], slots[:, None, :]
        solved = np.linalg.solve(regular(self.inverse[rows, columns]), self.gram[rows, columns])
        return np.asarray(np.trace(solved, axis1=1, axis2=2))

    def _scores(self, units: Indices) -> Vector:
        """(floor + d)^p (floor + a / median a)^q, in units of loss where that is asked for."""
        p, q, _ = self.scoring.exponents
        diversity, contribution = self.factors(units)
        _, median = self.typical()
        relative = contribution / (median or 1.0)
        result = (self.scoring.floor + diversity) ** p * (self.scoring.floor + relative) ** q
        if self.scoring.normalise == "loss":
            result *= 0.5 * median
        return np.where(np.isin(units, self.owners), result, 0.0)

    def factors(self, units: Indices) -> tuple[Vector, Vector]:
        """Diversity d and contribution a of each unit [U].

        a = tr(K_BB), and d = tr(K_BB (P_BB)^-1) / a, so that their product is the joint cost. Where a is left out, or
        is zero, d is the mean conditional variance tr((P_BB)^-1) / B.
        """
        diversity, contribution = np.zeros(len(units)), np.zeros(len(units))
        for alike, slots in self.blocks(units):
            contribution[alike] = own = np.maximum(self.gram[slots, slots].sum(axis=1), 0.0)
            blocks = regular(self.inverse[slots[:, :, None], slots[:, None, :]])
            free = np.trace(np.linalg.inv(blocks), axis1=1, axis2=2) / slots.shape[1]
            weighted = (own > 0) & (self.scoring.exponents[1] > 0)
            diversity[alike] = np.where(weighted, self._joint(slots) / np.where(weighted, own, 1.0), free)
        return np.maximum(diversity, 0.0), contribution

    def typical(self) -> tuple[float, float]:
        """The medians of d and a over the units that lived when it was first asked for; the mean of a where most are
        zero."""
        if self._typical is None:
            diversity, contribution = self.factors(self.units())
            if not len(diversity):
                return 0.0, 0.0
            self._typical = float(np.median(diversity)), float(np.median(contribution) or np.mean(contribution))
        return self._typical

    def takeover(self, units: Indices) -> Takeover:
        """Who answers for these units when they die; worked out once for `remove` and for whoever asks before it."""
        if self._takeover is None or not np.array_equal(self._takeover.units, units):
            dying = self.among(units)
            across = self.inverse[np.ix_(dying, ~dying)]
            coefficients = np.linalg.solve(regular(self.inverse[np.ix_(dying, dying)]), across)
            self._takeover = Takeover(units, dying, across, np.asarray(coefficients, np.float64))
        return self._takeover

    def remove(self, units: Indices) -> None:
        """The readers take the dead over, W <- W - W_B (P_BB)^-1 P_B., and P is downdated."""
        taken = self.takeover(units)
        self._takeover = None
        dying, coefficients = taken.dying, taken.coefficients
        if not dying.any():
            return
        living = ~dying
        inherited = self.gram[np.ix_(living, dying)] @ coefficients
        self.gram = (
            self.gram[np.ix_(living, living)]
            - inherited
            - inherited.T
            + coefficients.T @ self.gram[np.ix_(dying, dying)] @ coefficients
        )
        self.inverse = self.inverse[np.ix_(living, living)] - taken.across.T @ coefficients
        self.owners, self.variance = self.owners[living], self.variance[living]


def blocks_of(owners: Indices, units: Indices) -> Iterator[tuple[Mask, Indices]]:
    """Which of some units [U] own B slots, of owners [S, K], and these slots [A, B]; for every B but 0."""
    flat = owners.ravel()
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], units)
    counts = np.searchsorted(flat[order], units, side="right") - first
    for size in np.unique(counts[counts > 0]).tolist():
        alike = counts == size
        yield alike, order[first[alike][:, None] + np.arange(size)] // owners.shape[1]


def regular(blocks: Matrix) -> Matrix:
    """Symmetric blocks [..., B, B] that rounding may have made singular, made regular."""
    size = blocks.shape[-1]
    level = np.trace(np.abs(blocks), axis1=-2, axis2=-1) / max(size, 1) * 1e-12 + LEAST
    return np.asarray(blocks + level[..., None, None] * np.eye(size))


def deviations(covariance: Matrix) -> Vector:
    """The standard deviation of each slot [S], kept off zero for slots that never change."""
    variance = np.maximum(np.diag(covariance), 0.0)
    return np.sqrt(np.maximum(variance, 1e-12 * float(variance.mean()) + 1e-30))


def invert_correlation(covariance: Matrix, scale: Vector, ridge: float = RIDGE) -> Matrix:
    """The inverse [S, S] of the correlation matrix with a ridge.

    The ridge is one of each channel's own variance, so that its scale doesn't matter.
    """
    normal = covariance / scale[:, None] / scale[None, :]
    normal[np.diag_indices_from(normal)] = 1.0 + ridge
    factor, failed = lapack.dpotrf(normal, lower=True, overwrite_a=True)
    if failed:
        return invert_correlation(covariance, scale, 10 * ridge)
    inverse, _ = lapack.dpotri(factor, lower=True, overwrite_c=True)
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(lower, -1).T)


def invert(covariance: Matrix, ridge: float = RIDGE) -> Matrix:
    """C^-1 [S, S] with a ridge of each channel's own variance."""
    scale = deviations(covariance)
    return invert_correlation(covariance, scale, ridge) / scale[:, None] / scale[None, :]
