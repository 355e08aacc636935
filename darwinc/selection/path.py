"""The whole way down: in which order the units of every group die, what it costs, and how to go a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darwinc.channels import Channels, Mask
from darwinc.cost import Price
from darwinc.fitness import Fitness
from darwinc.fitness.statistics import Indices, Vector
from darwinc.selection.limits import Limits, Selection, floor, quantum_of_wide


@dataclass(frozen=True, eq=False)
class Deaths:
    """Units of one group [U] that died together, least fit first; what it cost, and how old fitness was just before."""

    group: int
    units: Indices
    loss: float
    age: int


@dataclass(frozen=True, eq=False)
class Path:
    """What a joint elimination took, in its order, down to the floor of every group that may lose channels."""

    steps: tuple[Deaths, ...]
    groups: int

    def curves(self) -> list[Vector]:
        """For each group the predicted loss [D + 1] of its first 0, 1, ... D deaths, straight within those of one step.

        Groups that share readers take from each other; their curves are as they were along this path.
        """
        parts: list[list[Vector]] = [[np.zeros(1)] for _ in range(self.groups)]
        for step in self.steps:
            count = len(step.units)
            level = parts[step.group][-1][-1]
            parts[step.group].append(level + step.loss * np.arange(1, count + 1) / count)
        return [np.concatenate(found) for found in parts]

    def removed(self, steps: int) -> list[int]:
        """How many units each group has lost after so many steps."""
        counts = [0] * self.groups
        for step in self.steps[:steps]:
            counts[step.group] += len(step.units)
        return counts

    def dead(self, nobody: Mask, removed: Sequence[int]) -> Mask:
        """Who dies where each group loses so many units, in the order of the path; `nobody` [count] is all False."""
        dead, left = nobody.copy(), list(removed)
        for step in self.steps:
            units = step.units[: left[step.group]]
            dead[units] = True
            left[step.group] -= len(units)
        return dead


class Survivors:
    """Who lives, and the selection that grows as they die; `explained` says whether the dead are asked why."""

    explained = True

    def __init__(self, channels: Channels, price: Price, fitness: Fitness, limits: Limits) -> None:
        self.channels, self.price, self.fitness, self.limits = channels, price, fitness, limits
        self.steps = limits.steps(channels)
        self.living: list[npt.NDArray[np.int64]] = [group.units for group in channels.groups]
        self.outcome = Selection(channels.nobody(), limits.align)

    def take(self, index: int, units: Indices, loss: float) -> None:
        """Let units of one group die."""
        self.outcome.saved += self.price.saved(index, len(units))
        if self.explained:
            self.outcome.deaths += self.fitness.explain(units)
        self.fitness.remove(units)
        self.price.remove(index, len(units))
        self.living[index] = self.living[index][~np.isin(self.living[index], units)]
        self.outcome.dead[units] = True
        group = self.channels.groups[index]
        self.outcome.losses[group.id] = self.outcome.losses.get(group.id, 0.0) + loss
        if self.steps[index] < quantum_of_wide(group, self.limits.multiple(index)):
            self.outcome.narrow[group.id] = self.steps[index]

    def removed(self) -> list[int]:
        """How many units each group has lost."""
        return [len(group) - len(living) for group, living in zip(self.channels.groups, self.living, strict=True)]

    def restore(self) -> None:
        """Bring the price back to where everybody lives."""
        for index, count in enumerate(self.removed()):
            self.price.remove(index, -count)

    def concluded(self) -> Selection:
        """The outcome, with the groups that were left with a finer multiple than their width allows."""
        for group, living, step in zip(self.channels.groups, self.living, self.steps, strict=True):
            if len(living) < len(group) and len(living) % step:
                self.outcome.finer[group.id] = int(np.gcd(len(living), step))
        return self.outcome


def replay(
    channels: Channels, price: Price, fitness: Fitness, limits: Limits, path: Path, removed: Sequence[int]
) -> Selection:
    """Let each group lose as many units as `removed` says, in the path's order: losses are those of these deaths.

    Where fitness is as old as it was on the path, everything that these units' readers read is as it was there, because
    only deaths of the path come before: the step is repeated as it was. Elsewhere the weakest are looked for anew.
    """
    population = Survivors(channels, price, fitness, limits)
    for step in path.steps:
        living = population.living[step.group]
        left = removed[step.group] - (len(channels.groups[step.group]) - len(living))
        if left <= 0:
            continue
        if left >= len(step.units) and fitness.age(living) == step.age:
            population.take(step.group, step.units, step.loss)
        else:
            population.take(step.group, *fitness.weakest(living, min(left, len(step.units))))
    return population.concluded()


def options(channels: Channels, limits: Limits, divisor: int) -> list[Indices]:
    """How many units each group may have lost, ascending from none, where multiples are `divisor` times finer."""
    found = []
    for index, (group, step) in enumerate(zip(channels.groups, limits.steps(channels, divisor), strict=True)):
        widths = np.arange(floor(group, step, limits.max_share), len(group), step)
        found.append(np.append(0, len(group) - widths[::-1]) if limits.eligible[index] else np.zeros(1, np.int64))
    return found
