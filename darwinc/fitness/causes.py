"""Why channels die: which factor of the Darwinian Score lowered each most, and who says what it said."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from darwinc.fitness.reader_state import LEAST, ReaderState, Takeover, blocks_of, regular
from darwinc.fitness.statistics import Death, Indices, Vector

COLLAPSED = 1e-8
"""Variance, over the layer's mean, below which a channel counts as constant: its deviation is a ten-thousandth."""

DIVERSE = 0.05
"""Diversity that is never low: where every channel has a twin, the layer's median tells nothing."""

MOST_PEERS = 3
FAINT_PEER = 0.05
"""Coefficient, in deviations, below which a survivor isn't worth naming."""

CAUSES = ("redundant", "no_influence", "stagnant")
"""What it means that a factor is low, in the order of the exponents."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one reader knows of units [U] that are about to die together.

    Attributes:
        state: the reader.
        taken: who answers for them there.
        kin: the group of each unit [count], from which peers are named; None for one group.
        contribution: a of each; zero where it isn't read here.
        lowered: the logarithms [U, 2] of diversity, given the survivors, and of contribution over the layer's median,
            each times its exponent.
        variance: over the layer's mean, summed over the unit's slots.
    """

    state: ReaderState
    taken: Takeover
    kin: Indices | None
    contribution: Vector
    lowered: Vector
    variance: Vector

    @classmethod
    def of(cls, state: ReaderState, units: Indices, kin: Indices | None) -> Evidence:
        """Diversity is what the *survivors* can't say: of twins that die together neither answers for the other."""
        taken = state.takeover(units)
        slots_of_dying = np.flatnonzero(taken.dying)
        conditional = np.linalg.inv(regular(state.inverse[np.ix_(slots_of_dying, slots_of_dying)]))
        contribution, diversity, variance = np.zeros(len(units)), np.zeros(len(units)), np.zeros(len(units))
        for alike, slots in state.blocks(units):
            places = np.searchsorted(slots_of_dying, slots)
            rows, columns = places[:, :, None], places[:, None, :]
            own = np.maximum(state.gram[slots, slots].sum(axis=1), 0.0)
            joint = np.sum(state.gram[slots[:, :, None], slots[:, None, :]] * conditional[rows, columns], axis=(1, 2))
            free = conditional[places, places].mean(axis=1)
            contribution[alike], variance[alike] = own, state.variance[slots].sum(axis=1)
            diversity[alike] = np.where(own > 0, joint / np.where(own > 0, own, 1.0), free)
        usual, most = state.typical()
        p, q, _ = state.scoring.exponents
        ratios = np.stack([diversity / max(usual, DIVERSE), contribution / (most or 1.0)], axis=1)
        return cls(state, taken, kin, contribution, np.log(np.maximum(ratios, LEAST)) * (p, q), variance)

    @cached_property
    def _survivors(self) -> list[tuple[Indices, Indices]]:
        """The units of the same group that stay, and the places [A, B] of their slots among all that stay."""
        owners = self.state.owners[~self.taken.dying]
        names = np.unique(owners[owners > 0])
        if self.kin is not None and len(self.taken.units):
            names = names[self.kin[names] == self.kin[self.taken.units[0]]]
        return [(names[alike], slots) for alike, slots in blocks_of(owners, names)]

    def peers(self, unit: int) -> tuple[tuple[int, float], ...]:
        """The survivors that answer most for a unit.

        Coefficients are in deviations; those of a unit of several slots (kernel taps) are the mean over its slots, each
        on the slot of the same rank.
        """
        dying = np.flatnonzero(self.taken.dying)
        ((_, own),) = self.state.blocks(np.array([unit]))
        rows = np.searchsorted(dying, own[0])
        found: list[tuple[int, float]] = []
        for names, columns in self._survivors:
            shared = min(columns.shape[1], len(rows))
            shares = -self.taken.coefficients[rows[:shared], columns[:, :shared]].sum(axis=1) / len(rows)
            most = np.argsort(-np.abs(shares), kind="stable")[:MOST_PEERS]
            found += zip(names[most].tolist(), shares[most].tolist(), strict=True)
        found.sort(key=lambda peer: (-abs(peer[1]), peer[0]))
        return tuple(peer for peer in found[:MOST_PEERS] if abs(peer[1]) >= FAINT_PEER)


def explain(states: list[ReaderState], units: Indices, adaptability: Vector | None, kin: Indices | None) -> list[Death]:
    """Why each of the units [U] dies, by the reader where it contributes most.

    `adaptability` [U] is r log(NAS / median) of each, None without a trajectory.
    """
    found = [Evidence.of(state, units, kin) for state in states]
    deaths = []
    for place, unit in enumerate(units.tolist()):
        told = [evidence for evidence in found if unit in evidence.state.owners]
        if not told:
            deaths.append(Death(unit, "no_influence"))
            continue
        evidence = max(told, key=lambda one: float(one.contribution[place]))
        factors = [*evidence.lowered[place].tolist(), *([] if adaptability is None else [float(adaptability[place])])]
        used = [number for number in range(len(factors)) if evidence.state.scoring.exponents[number]]
        cause = CAUSES[min(used, key=lambda number: factors[number])]
        if evidence.variance[place] < COLLAPSED:
            deaths.append(Death(unit, "collapsed"))
        elif cause == "redundant":
            deaths.append(Death(unit, cause, evidence.peers(unit)))
        else:
            deaths.append(Death(unit, cause))
    return deaths
