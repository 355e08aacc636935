"""Selection dynamics while the network trains: masses that grow and shrink with fitness, and extinction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from darwinc.calibrators.populations import Populations
from darwinc.calibrators.training.companion import Weights
from darwinc.calibrators.training.ecology import Demand, Ecology
from darwinc.calibrators.vitality import Vitality
from darwinc.dynamics import annealed, deviations, lotka_volterra, replicator, replicator_mutator
from darwinc.dynamics_options import Dynamics
from darwinc.fitness.statistics import Vector

ROUNDS = 100
ROUNDS_A_LOOK = 5
"""How many rounds go by what one look at the network found."""
FAINTEST = 1e-6
"""A curvature counts as at least this share of the largest one of its group."""
LEAST = 1e-9
"""A mass that no rounding makes zero."""


class Masses(Ecology):
    """Every unit has a mass, 1 at first, which scales what its readers take in and is folded into their weights.

    Args:
        look: at the network's curvature and overlaps, by the number of the look.
        gradient: fitness is read from the gradients of training, else from curvature.
    """

    def __init__(
        self,
        populations: Populations,
        demand: Demand,
        options: Dynamics,
        look: Callable[[int], Vitality],
        *,
        gradient: bool,
    ) -> None:
        super().__init__(populations, demand, ROUNDS)
        self.kind, self.options, self.look, self.gradient = options.dynamic, options, look, gradient
        self.pulls = torch.zeros(len(populations), dtype=torch.float64)
        self.pulled = 0
        self.looked, self.seen = -1, Vitality(np.zeros(0), [])

    def observe(self, weights: Weights) -> None:
        if self.gradient and not self.settled:
            self.pulls = self.pulls + self.populations.pull(weights).cpu()
            self.pulled += 1

    def fitness(self) -> Vector:
        """-dL/dm, averaged over the steps of a round, or the curvature of what each unit says [U]."""
        if not self.gradient:
            return self.seen.curvature
        found = self.pulls.numpy() / max(self.pulled, 1) / np.maximum(self.values, LEAST)
        self.pulls, self.pulled = torch.zeros_like(self.pulls), 0
        return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)

    def play(self, step: int, elapsed: float, weights: Weights, average: Weights) -> Iterable[int]:
        del step
        self._look()
        fitness, before = self.fitness(), self.values.copy()
        for index, place in enumerate(self.populations.slices()):
            alive = np.flatnonzero(self.alive[place]) + place.start
            self.values[alive] = self._grown(index, alive - place.start, before[alive], fitness[alive], elapsed)
        factors = np.where(self.alive, self.values / np.maximum(before, LEAST), 1.0)
        for tensors in (weights, average):
            self.populations.scale(tensors, factors)
        return self._dying()

    def _look(self) -> None:
        number = int(self.time) // ROUNDS_A_LOOK
        if number != self.looked and (not self.gradient or self.kind == "lotka-volterra"):
            self.looked, self.seen = number, self.look(number)

    def _grown(self, index: int, places: Any, masses: Vector, fitness: Vector, elapsed: float) -> Vector:
        options, scaled = self.options, deviations(fitness if self.gradient else _logarithms(fitness))
        rate = options.rate * elapsed
        if self.kind == "lotka-volterra":
            overlap = self.seen.overlap[index][np.ix_(places, places)]
            found = lotka_volterra(masses, scaled, overlap, rate, options.competition)
        elif self.kind == "mutator":
            mutation = annealed(options.mutation, self.time / self.rounds)
            found = replicator_mutator(masses, scaled, rate, mutation)
        else:
            found = replicator(masses, scaled, rate)
        return np.maximum(found, LEAST)

    def _dying(self) -> list[int]:
        """Those that have been below the least mass for long enough, the smallest first."""
        for place in self.populations.slices():
            living = self.alive[place]
            least = self.options.extinct * float(self.values[place][living].mean()) if living.any() else 0.0
            self.low[place] = np.where(living & (self.values[place] < least), self.low[place] + 1, 0)
        ready = np.flatnonzero(self.low >= self.options.checks)
        return [int(unit) for unit in ready[np.argsort(self.values[ready], kind="stable")]]

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, notes = super().state()
        overlap = {f"overlap/{index}": torch.from_numpy(each) for index, each in enumerate(self.seen.overlap)}
        tensors |= {"pulls": self.pulls, "curvature": torch.from_numpy(self.seen.curvature)} | overlap
        return tensors, notes | {"pulled": self.pulled, "looked": self.looked}

    def restore(self, tensors: Weights, notes: Mapping[str, Any]) -> None:
        super().restore(tensors, notes)
        self.pulls, self.pulled, self.looked = tensors["pulls"].cpu(), int(notes["pulled"]), int(notes["looked"])
        overlap = [
            tensors[f"overlap/{index}"].cpu().numpy()
            for index in range(len(self.populations.numbers))
            if f"overlap/{index}" in tensors
        ]
        self.seen = Vitality(tensors["curvature"].cpu().numpy(), overlap)


def _logarithms(curvature: Vector) -> Vector:
    """Of a group [U]. Curvatures lie orders of magnitude apart: the few largest would take all the mass at once."""
    found = np.nan_to_num(curvature, nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(np.log(np.maximum(found, FAINTEST * found.max(initial=0.0) + 1e-300)))
