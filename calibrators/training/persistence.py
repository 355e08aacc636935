"""Culling while the network trains: who is found unfit again and again leaves.

F_i(t) = decay F_i(t - 1) + (1 - decay) DS_i(t), with DS the Darwinian Score of what the network is now (1/2 AGC NDE, in
units of loss) times a power of the adaptability that training itself shows. The threshold is one for each layer: the
quantile of F below which those lie that the remaining demand would take if it were to be met at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from darwinc.calibrators.populations import Populations
from darwinc.calibrators.training.companion import Weights
from darwinc.calibrators.training.ecology import Demand, Ecology
from darwinc.calibrators.trajectories import Trajectory
from darwinc.dynamics_options import Dynamics
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.statistics import Vector

ADAPTABILITY = 0.25
"""The exponent of adaptability: a good unit that has converged stands still too."""
LEAST_ADAPTABILITY = 0.1
LAST_QUOTA = 0.9
"""The share of the windows by which all may have gone that has to."""


class Persistence(Ecology):
    """Every unit has a fitness that remembers; those that stay below the threshold of their layer are culled.

    Args:
        score: the Darwinian Score of the network as it is, by the number of the window.
    """

    kind = "persistence"
    comparable = True

    def __init__(
        self, populations: Populations, demand: Demand, options: Dynamics, score: Callable[[int], DarwinianScore]
    ) -> None:
        super().__init__(populations, demand, options.windows)
        self.options, self.score = options, score
        self.window = 0
        self.snapshots: list[dict[str, torch.Tensor]] = []
        self._names = list(Trajectory(demand.channels).names)

    def advance(self, step: int, share: float, weights: Weights, average: Weights) -> None:
        """As ever; and the weights are remembered at the beginning and in the middle of every window."""
        now = self.rounds * share / self.until
        if not self.settled and len(self.snapshots) < 1 + (now - int(now) >= 0.5):
            self._remember(weights)
        super().advance(step, share, weights, average)

    def _remember(self, weights: Weights) -> None:
        self.snapshots.append({name: weights[name].detach().cpu().clone() for name in self._names})

    def play(self, step: int, elapsed: float, weights: Weights, average: Weights) -> Iterable[int]:
        del step, elapsed, average
        self.window += 1
        adaptability = self._adaptability(weights)
        score = self.score(self.window)
        found = np.zeros(len(self.values))
        for place in self.populations.slices():
            found[place] = score.losses(self.populations.units[place])
        found *= adaptability * self.alive
        decay = self.options.decay if self.window > 1 else 0.0
        self.values = decay * self.values + (1 - decay) * found
        below = self.choice().dead[self.populations.units] & self.alive
        self.low = np.where(below, self.low + 1, 0)
        return self._dying(score, below, adaptability)

    def _adaptability(self, weights: Weights) -> Vector:
        """NAS^r of every unit [U] over the last window; 1 where nothing is known."""
        self._remember(weights)
        states, self.snapshots = self.snapshots, self.snapshots[-1:]
        finite = all(bool(tensor.isfinite().all()) for state in states for tensor in state.values())
        if len(states) < 2 or not finite or not self._names:
            return np.ones(len(self.values))
        trajectory = Trajectory(self.demand.channels)
        for state in states:
            trajectory.add({name: tensor.float().numpy() for name, tensor in state.items()})
        found = trajectory.adaptability(self.demand.channels)[self.populations.units]
        return np.asarray(np.maximum(found, LEAST_ADAPTABILITY) ** ADAPTABILITY)

    def _dying(self, score: DarwinianScore, below: Any, adaptability: Vector) -> Iterator[int]:
        """Those that were below for long enough, the cheapest first, as long as a death has not made them worth more.

        Of two that say the same, either is worth nothing until the other has died.
        """
        quota = self.demand.need * min(1.0, self.window / (LAST_QUOTA * self.rounds))
        limits = {
            place.start: float(self.values[place][below[place]].max(initial=0.0)) for place in self.populations.slices()
        }
        starts = np.repeat(self.populations.starts[:-1], np.diff(self.populations.starts))
        ready = np.flatnonzero(self.low >= self.options.persistence)
        for unit in ready[np.argsort(self.values[ready], kind="stable")].tolist():
            if self.saved >= quota:
                return
            component = self.populations.units[unit : unit + 1]
            if float(score.losses(component)[0]) * adaptability[unit] <= limits[int(starts[unit])]:
                score.remove(component)
                yield unit

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, notes = super().state()
        states = {
            f"snapshot/{number}/{name}": tensor
            for number, snapshot in enumerate(self.snapshots)
            for name, tensor in snapshot.items()
        }
        return tensors | states, notes | {"window": self.window, "snapshots": len(self.snapshots)}

    def restore(self, tensors: Weights, notes: Mapping[str, Any]) -> None:
        super().restore({name: tensor for name, tensor in tensors.items() if "/" not in name}, notes)
        self.window = int(notes["window"])
        self.snapshots = [
            {name: tensors[f"snapshot/{number}/{name}"].cpu() for name in self._names}
            for number in range(int(notes["snapshots"]))
        ]
