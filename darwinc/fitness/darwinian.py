"""The Darwinian Score: how much the loss would rise if a channel died, from the statistics of its readers alone.

Source: Optimal Brain Surgeon (Hassibi and Stork, 1993) for the product of diversity and contribution. Everything here
is numpy on small matrices, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from darwinc.fitness.statistics import Indices, Matrix, ReaderStatistics, Vector

RIDGE = 1e-6
LEAST = 1e-30


class DarwinianScore:
    """1/2 AGC x NDE: the exact rise of a quadratic loss when a channel dies and its readers refit.

    Each reader keeps the inverse covariance P = C^-1 and the Gram matrix K = W' G W of its living inputs. A death of
    unit B costs 1/2 tr(K_BB (P_BB)^-1); its readers take it over, W <- W - W_B (P_BB)^-1 P_B., and P is downdated, so
    that peers of the dead become worth more. Sequential costs add up to the joint least-squares error.
    """

    def __init__(self, readers: list[ReaderStatistics]) -> None:
        """Take over the statistics: the list is emptied as they are inverted, because together they are large.

        Every component is a unit of its own, until `assign` says otherwise.
        """
        self._readers = [_ReaderState.of(readers.pop(0)) for _ in range(len(readers))]
        self._reading: dict[int, list[_ReaderState]] = {}
        self._index()

    def assign(self, owners: Indices) -> None:
        """Let each component die with other units [count, K] than itself; only before anything has died."""
        for state in self._readers:
            state.assign(owners)
        self._index()

    def fork(self) -> DarwinianScore:
        """The same score at its present state; matrices are shared until a death replaces them."""
        twin = copy(self)
        twin._readers = [copy(state) for state in self._readers]
        twin._reading = {}
        twin._index()
        return twin

    def _index(self) -> None:
        self._reading.clear()
        for state in self._readers:
            for unit in np.unique(state.owners[state.owners > 0]).tolist():
                self._reading.setdefault(unit, []).append(state)

    def losses_of_components(self, count: int) -> Vector:
        """1/2 AGC NDE of each of `count` components, as long as each is a unit of its own."""
        total = np.zeros(count)
        for state in self._readers:
            present = np.unique(state.owners[state.owners > 0])
            total[present] += state.losses(present)
        return total

    def _states(self, units: Indices) -> list[_ReaderState]:
        """The readers of any of these units (units of one group have the same readers)."""
        found: dict[int, _ReaderState] = {}
        for unit in (int(units[0]), int(units[-1])) if len(units) else ():
            found.update({id(state): state for state in self._reading.get(unit, ())})
        return list(found.values())

    def losses(self, units: Indices) -> Vector:
        """1/2 AGC NDE of each unit [U], summed over its readers."""
        total = np.zeros(len(units))
        for state in self._states(units):
            total += state.losses(units)
        return total

    def weakest(self, units: Indices, count: int) -> tuple[Indices, float]:
        """Greedy backward elimination, refreshed after each death, among the cheapest few times as many candidates."""
        losses = self.losses(units)
        candidates = units[np.argsort(losses, kind="stable")[: max(4 * count, count + 16)]]
        scratch = [state.restricted(candidates) for state in self._states(units)]
        living, chosen, total = list(range(len(candidates))), [], 0.0
        for _ in range(min(count, len(candidates))):
            costs = np.zeros(len(candidates))
            for state in scratch:
                costs[living] += state.losses(candidates[living])
            victim = min(living, key=lambda place: (costs[place], place))
            total += float(costs[victim])
            living.remove(victim)
            chosen.append(victim)
            for state in scratch:
                state.remove(candidates[victim : victim + 1])
        return candidates[chosen], total

    def age(self, units: Indices) -> int:
        """How many slots live at the readers of these units."""
        return sum(len(state.owners) for state in self._states(units))

    def remove(self, units: Indices) -> None:
        """Downdate every reader of these units."""
        for state in self._states(units):
            state.remove(units)


class _ReaderState:
    """The living slots of one reader: `inverse` = C^-1 and `gram` = W' G W, both for inputs scaled to unit variance.

    `owners` [S, K] are the units that each slot dies with, padded with zeros.
    """

    def __init__(self, owners: Indices, inverse: Matrix, gram: Matrix, judged: Callable[[Indices], Indices]) -> None:
        self.owners, self.inverse, self.gram, self._judged = owners, inverse, gram, judged

    @classmethod
    def of(cls, reader: ReaderStatistics) -> _ReaderState:
        # A network that answers with NaN or infinity tells nothing about its channels: they count as silent.
        covariance = np.nan_to_num(reader.covariance, nan=0.0, posinf=0.0, neginf=0.0)
        gram = np.nan_to_num(reader.gram, nan=0.0, posinf=0.0, neginf=0.0)
        scale = deviations(covariance)
        inverse = invert_correlation(covariance, scale)
        return cls(reader.units[:, None], inverse, gram * scale[:, None] * scale[None, :], reader.judged)

    def assign(self, owners: Indices) -> None:
        """Let each slot, so far a component by itself, die with the units [count, K] of its component."""
        self.owners = self._judged(owners[self.owners[:, 0]])

    def restricted(self, units: Indices) -> _ReaderState:
        """The same state among some units only: deaths among them are exact, as downdates touch each entry alone."""
        slots = np.flatnonzero(self._of(units))
        across = np.ix_(slots, slots)
        return _ReaderState(self.owners[slots], self.inverse[across], self.gram[across], self._judged)

    def _of(self, units: Indices) -> npt.NDArray[np.bool_]:
        """Which slots die with any of these units."""
        return np.asarray(np.isin(self.owners, units).any(axis=1))

    def losses(self, units: Indices) -> Vector:
        """1/2 tr(K_BB (P_BB)^-1) of each unit [U]; zero for units that this reader doesn't read."""
        flat = self.owners.ravel()
        order = np.argsort(flat, kind="stable")
        first = np.searchsorted(flat[order], units)
        counts = np.searchsorted(flat[order], units, side="right") - first
        result = np.zeros(len(units))
        for size in np.unique(counts[counts > 0]).tolist():
            alike = counts == size
            slots = order[first[alike][:, None] + np.arange(size)] // self.owners.shape[1]
            if size == 1:
                slots = slots[:, 0]
                result[alike] = 0.5 * self.gram[slots, slots] / np.maximum(self.inverse[slots, slots], LEAST)
            else:
                rows, columns = slots[:, :, None], slots[:, None, :]
                solved = np.linalg.solve(_regular(self.inverse[rows, columns]), self.gram[rows, columns])
                result[alike] = 0.5 * np.trace(solved, axis1=1, axis2=2)
        return np.maximum(result, 0.0)

    def remove(self, units: Indices) -> None:
        dying = self._of(units)
        if not dying.any():
            return
        living = ~dying
        across = self.inverse[np.ix_(dying, living)]
        taken_over = np.linalg.solve(_regular(self.inverse[np.ix_(dying, dying)]), across)
        inherited = self.gram[np.ix_(living, dying)] @ taken_over
        self.gram = (
            self.gram[np.ix_(living, living)]
            - inherited
            - inherited.T
            + taken_over.T @ self.gram[np.ix_(dying, dying)] @ taken_over
        )
        self.inverse = self.inverse[np.ix_(living, living)] - across.T @ taken_over
        self.owners = self.owners[living]


def _regular(blocks: Matrix) -> Matrix:
    """Symmetric blocks [..., B, B] that rounding may have made singular, made regular."""
    size = blocks.shape[-1]
    level = np.trace(np.abs(blocks), axis1=-2, axis2=-1) / size * 1e-12 + LEAST
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
