"""Units that compete while the network trains: who is alive, who has died, and when enough have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from darwinc.calibrators.populations import Populations
from darwinc.calibrators.training.companion import Weights
from darwinc.channels import Channels
from darwinc.cost import Terms
from darwinc.fitness.static import StaticScore
from darwinc.fitness.statistics import Vector
from darwinc.selection import SHORTFALL, Limits, Selection, floor, quantum, select

UNTIL = 0.6
"""The share of the budget in which units compete; in the rest the survivors train."""
MOST_RECORDED = 50
"""Steps at which the report says how things stood."""
MOST_SHOWN = 64
"""A group of more units is summarised."""


@dataclass
class Demand:
    """How much has to be saved, and where it may be.

    Attributes:
        terms: what channels cost; all of them live at first.
        need: what has to be saved.
    """

    channels: Channels
    terms: Terms
    need: int
    limits: Limits


class Ecology(ABC):
    """Units with a value each, of which the lowest go, never more than the demand asks for.

    Args:
        rounds: into how many the time of competition is divided.

    Attributes:
        values: of the units [U]: masses or fitness.
        alive: [U].
        extinct: the step at which each unit died [U], -1 where it lives.
        died_alone: how many of those that are gone in the end died before the final choice.
        selection: the outcome, once all is settled.
    """

    kind = ""
    comparable = False
    """Do the values of different groups compare?"""

    def __init__(self, populations: Populations, demand: Demand, rounds: int) -> None:
        self.populations, self.demand, self.rounds = populations, demand, rounds
        self.until, self.done, self.settled = UNTIL, False, False
        self.values: Vector = np.ones(len(populations))
        self.alive = np.ones(len(populations), np.bool_)
        self.low = np.zeros(len(populations), np.int64)
        self.extinct = np.full(len(populations), -1, np.int64)
        self.time, self.saved, self.died_alone = 0.0, 0, 0
        self.selection: Selection | None = None
        self.recorded: list[tuple[int, int, list[list[float]]]] = []
        self._masks: dict[str, torch.Tensor] = {}

    def observe(self, weights: Weights) -> None:
        """Nothing, unless gradients matter."""
        del weights

    @abstractmethod
    def play(self, step: int, elapsed: float, weights: Weights, average: Weights) -> Iterable[int]:
        """One round, of which `elapsed` have passed since the last: change values and weights; places of the dying."""

    def advance(self, step: int, share: float, weights: Weights, average: Weights) -> None:
        """A round where one is due; and what is gone stays gone."""
        now = self.rounds * share / self.until
        if not self.settled and int(now) > int(self.time):
            elapsed, self.time = now - self.time, now
            self._bury(step, self.play(step, elapsed, weights, average))
            every = -(-self.rounds // MOST_RECORDED)
            if int(now) // every > int(now - elapsed) // every:
                self._record(step)
        self.hold(weights, average)

    def settle(self, step: int, weights: Weights, average: Weights) -> None:
        """What the demand still lacks is chosen by value, under alignment; what alignment keeps may live again."""
        died = ~self.alive
        self._choose()
        self.died_alone = int(np.count_nonzero(died & ~self.alive))
        self.extinct[~self.alive & ~died] = step
        self.extinct[self.alive] = -1
        self._record(step)
        self.hold(weights, average)

    def _choose(self) -> None:
        """Let the choice by value be the final one."""
        self._charge(-1)
        self.selection = self.choice()
        self.alive = ~self.selection.dead[self.populations.units]
        self._charge(1)
        self.settled, self._masks = True, {}

    def choice(self) -> Selection:
        """Who would go if the demand were to be met now, by values alone; units without one count as typical."""
        terms, channels = self.demand.terms, self.demand.channels
        typical = float(self.values.mean()) if self.comparable else 1.0
        scores = {int(unit): typical for group in channels.groups for unit in group.units}
        scores |= dict(zip(self.populations.units.tolist(), self.values.tolist(), strict=True))
        groups = [group.units for group in channels.groups]
        groups = [np.concatenate(groups)] if self.comparable else groups
        chosen = select(channels, terms, StaticScore(scores, groups), self.demand.need, self.demand.limits)
        for number, group in enumerate(channels.groups):
            terms.remove(number, -int(np.count_nonzero(chosen.dead[group.units])))
        return chosen

    def _charge(self, sign: int) -> None:
        """Take the dead out of the terms, or bring them back into them."""
        for number, place in zip(self.populations.numbers, self.populations.slices(), strict=True):
            self.demand.terms.remove(number, sign * int(np.count_nonzero(~self.alive[place])))

    def _bury(self, step: int, dying: Iterable[int]) -> None:
        """Let units die in this order, until the demand is met or a group is as small as it may be."""
        demand = self.demand
        short = 0 if demand.limits.strict else SHORTFALL / 2 * (demand.terms.current() + self.saved)
        numbers = np.repeat(self.populations.numbers, np.diff(self.populations.starts))
        for unit in dying:
            if self.saved >= demand.need - short:
                break
            number = int(numbers[unit])
            group = demand.channels.groups[number]
            living = int(np.count_nonzero(self.alive & (numbers == number)))
            if living <= floor(group, quantum(group, demand.limits.align), demand.limits.max_share):
                continue
            self.saved += demand.terms.saved(number, 1)
            demand.terms.remove(number, 1)
            self.alive[unit], self.extinct[unit], self.values[unit] = False, step, 0.0
            self._masks = {}
        self.done = self.saved >= demand.need - short

    def hold(self, *tensors: Weights) -> None:
        """The columns of the dead are zero, whatever the optimiser did."""
        if self.alive.all():
            return
        with torch.no_grad():
            if not self._masks:
                names = {handle.weight for handle in self.populations.handles}
                self._masks = {name: torch.ones_like(tensors[0][name]) for name in names}
                self.populations.scale(self._masks, self.alive.astype(np.float64))
            for weights in tensors:
                for name, mask in self._masks.items():
                    weights[name].mul_(mask)

    # For the report and for checkpoints ----------------------------------------------------------------------------

    def _record(self, step: int) -> None:
        rows = []
        for place in self.populations.slices():
            row = self.values[place] * self.alive[place]
            rows.append((row if len(row) <= MOST_SHOWN else np.quantile(row, [0, 0.25, 0.5, 0.75, 1])).tolist())
        self.recorded.append((step, int(np.count_nonzero(self.alive)), rows))

    def history(self) -> dict[str, Any]:
        """The report's `dynamics`."""
        groups = []
        for index, (number, place) in enumerate(zip(self.populations.numbers, self.populations.slices(), strict=True)):
            extinct = [None if step < 0 else step for step in self.extinct[place].tolist()]
            groups.append(
                {
                    "id": self.demand.channels.groups[number].id,
                    "masses": [rows[index] for _, _, rows in self.recorded],
                    "summarised": len(extinct) > MOST_SHOWN,
                    "extinct": extinct,
                }
            )
        steps, alive = [entry[0] for entry in self.recorded], [entry[1] for entry in self.recorded]
        return {"kind": self.kind, "steps": steps, "alive": alive, "groups": groups}

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything about the units."""
        arrays: dict[str, npt.NDArray[Any]] = {"values": self.values, "alive": self.alive, "low": self.low}
        tensors = {name: torch.from_numpy(array.copy()) for name, array in (arrays | {"extinct": self.extinct}).items()}
        told = {"time": self.time, "saved": self.saved, "settled": self.settled, "died_alone": self.died_alone}
        return tensors, told | {"recorded": self.recorded}

    def restore(self, tensors: Weights, notes: Mapping[str, Any]) -> None:
        """Go on from there."""
        found = {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
        self.values, self.low, self.extinct = found["values"], found["low"], found["extinct"]
        self.time, self.saved = float(notes["time"]), int(notes["saved"])
        self.recorded = [(step, alive, rows) for step, alive, rows in notes["recorded"]]
        self.died_alone = int(notes["died_alone"])
        self.alive = found["alive"].astype(np.bool_)
        self._charge(1)
        if notes["settled"]:
            self._choose()
