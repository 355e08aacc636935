"""Why channels die: which factor of the Darwinian Score lowered each most, and who says what it said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darwinc.fitness.reader_state import LEAST, ReaderState, regular
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
        contribution: a of each; zero where it isn't read here.
        lowered: the logarithms [U, 2] of diversity, given the survivors, and of contribution over the layer's median,
            each times its exponent.
        variance: over the layer's mean, summed over the unit's slots.
    """

    state: ReaderState
    contribution: Vector
    lowered: Vector
    variance: Vector

    @classmethod
    def of(cls, state: ReaderState, units: Indices) -> Evidence:
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
        return cls(state, contribution, np.log(np.maximum(ratios, LEAST)) * (p, q), variance)

    def peers(self, units: Indices, place: int, kin: Indices | None) -> tuple[tuple[int, float], ...]:
        """The survivors, of the same group by `kin` [count], that answer most for the unit at a place.

        Coefficients are in deviations; those of a unit of several slots (kernel taps) are the mean over its slots, each
        on the slot of the same rank.
        """
        taken = self.state.takeover(units)
        dying, living = np.flatnonzero(taken.dying), np.flatnonzero(~taken.dying)
        ((_, own),) = self.state.blocks(units[place : place + 1])
        rows = np.searchsorted(dying, own[0])
        owners = self.state.owners[living]
        names = np.unique(owners[owners > 0])
        if kin is not None:
            names = names[kin[names] == kin[units[place]]]
        found: list[tuple[int, float]] = []
        for alike, slots in self.state.blocks(names):
            shared = min(slots.shape[1], len(rows))
            columns = np.searchsorted(living, slots[:, :shared])
            shares = -taken.coefficients[rows[:shared], columns].sum(axis=1) / len(rows)
            found += zip(names[alike].tolist(), shares.tolist(), strict=True)
        found.sort(key=lambda peer: (-abs(peer[1]), peer[0]))
        return tuple(peer for peer in found[:MOST_PEERS] if abs(peer[1]) >= FAINT_PEER)


def explain(states: list[ReaderState], units: Indices, adaptability: Vector | None, kin: Indices | None) -> list[Death]:
    """Why each of the units [U] dies, by the reader where it contributes most.

    `adaptability` [U] is r log(NAS / median) of each, None without a trajectory.
    """
    found = [Evidence.of(state, units) for state in states]
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
            deaths.append(Death(unit, cause, evidence.peers(units, place, kin)))
        else:
            deaths.append(Death(unit, cause))
    return deaths
