"""The Darwinian Score: how much the loss would rise if a channel died, from the statistics of its readers alone."""

from __future__ import annotations

from copy import copy

import numpy as np

from darwinc.fitness.causes import explain
from darwinc.fitness.reader_state import LEAST, ReaderState
from darwinc.fitness.statistics import Death, Indices, ReaderStatistics, Vector
from darwinc.scoring import SCORING, Scoring


class DarwinianScore:
    """Diversity x contribution x adaptability; without options 1/2 AGC x NDE, the exact rise of a quadratic loss when a
    channel dies and its readers refit.

    Each reader keeps the inverse covariance P = C^-1 and the Gram matrix K = W' G W of its living inputs. A death of
    unit B costs 1/2 tr(K_BB (P_BB)^-1); its readers take it over, W <- W - W_B (P_BB)^-1 P_B., and P is downdated, so
    that peers of the dead become worth more. Sequential costs add up to the joint least-squares error.
    """

    def __init__(self, readers: list[ReaderStatistics], scoring: Scoring = SCORING) -> None:
        """Take over the statistics: the list is emptied as they are inverted, because together they are large.

        Every component is a unit of its own, until `assign` says otherwise.
        """
        self._scoring = scoring
        self._readers = [ReaderState.of(readers.pop(0), scoring) for _ in range(len(readers))]
        self._reading: dict[int, list[ReaderState]] = {}
        self._adaptability: Vector | None = None
        self._kin: Indices | None = None
        self._index()

    def assign(self, owners: Indices, kin: Indices | None = None) -> None:
        """Let each component die with other units [count, K] than itself; only before anything has died.

        `kin` [count] is the group of each unit, among which the peers of the dead are looked for.
        """
        for state in self._readers:
            state.assign(owners)
        self._kin = kin
        self._index()

    def adapt(self, adaptability: Vector) -> None:
        """Let the adaptability NAS of each unit [count] count, which is 1 for all of them so far."""
        self._adaptability = adaptability

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
            for unit in state.units().tolist():
                self._reading.setdefault(unit, []).append(state)

    def losses_of_components(self, count: int) -> Vector:
        """The score of each of `count` components, as long as each is a unit of its own."""
        total = np.zeros(count)
        for state in self._readers:
            present = state.units()
            total[present] += state.losses(present)
        return total

    def _states(self, units: Indices) -> list[ReaderState]:
        """The readers of any of these units (units of one group have the same readers)."""
        found: dict[int, ReaderState] = {}
        for unit in (int(units[0]), int(units[-1])) if len(units) else ():
            found.update({id(state): state for state in self._reading.get(unit, ())})
        return list(found.values())

    def _factor(self, units: Indices) -> Vector | float:
        """(floor + NAS)^r of each unit [U]."""
        if self._adaptability is None:
            return 1.0
        powers: Vector = (self._scoring.floor + self._adaptability[units]) ** self._scoring.exponents[2]
        return powers

    def losses(self, units: Indices) -> Vector:
        """The score of each unit [U], summed over its readers."""
        total = np.zeros(len(units))
        for state in self._states(units):
            total += state.losses(units)
        return total * self._factor(units)

    def weakest(self, units: Indices, count: int) -> tuple[Indices, float]:
        """Greedy backward elimination, refreshed after each death, among the cheapest few times as many candidates."""
        losses = self.losses(units)
        candidates = units[np.argsort(losses, kind="stable")[: max(4 * count, count + 16)]]
        scratch = [state.restricted(candidates) for state in self._states(units)]
        factor = np.broadcast_to(self._factor(candidates), len(candidates))
        living, chosen, total = list(range(len(candidates))), [], 0.0
        for _ in range(min(count, len(candidates))):
            costs = np.zeros(len(candidates))
            for state in scratch:
                costs[living] += state.losses(candidates[living])
            costs *= factor
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

    def explain(self, units: Indices) -> list[Death]:
        """Which factor lowered each of these units most; shares its work with the `remove` that follows."""
        adaptability = None
        if self._adaptability is not None:
            # It is over its median as it is.
            adaptability = self._scoring.exponents[2] * np.log(np.maximum(self._adaptability[units], LEAST))
        return explain(self._states(units), units, adaptability, self._kin)

    def remove(self, units: Indices) -> None:
        """Downdate every reader of these units."""
        for state in self._states(units):
            state.remove(units)
