"""What a generation may keep: limits of resources, which fall until the target holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from darwinc.errors import Unreachable, UsageError
from darwinc.evolution_options import Evolution, parse_environment

TARGETS = {
    "sparsity": "parameters",
    "macs": "macs",
    "bytes": "bytes",
    "latency": "latency",
    "synapses": "synapses",
}
"""The resource that each kind of target limits."""
APPROACH = 2 / 3
"""In this share of the generations the target is reached; the others stay there."""
QUARTER = 0.25
"""Synapses go with the square of widths; where clusters and synapses both may die, each does half of it."""


@dataclass(frozen=True)
class Environment:
    """What the offspring of one generation may keep.

    Attributes:
        target: the resource that the target is about.
        goal: how much of it the target allows, in the units of its price (bits for bytes, a count for synapses).
        nearness: how much of the way there this generation has to be, as an exponent between 0 and 1.
        shares: by resource, what may be kept of the parents' largest; empty where the target alone limits.
        halved: do clusters die for a target in synapses as well?
        strict: may the goal not be exceeded by a little?
    """

    target: str
    goal: float
    nearness: float
    shares: Mapping[str, float]
    halved: bool = False
    strict: bool = False

    @property
    def resources(self) -> tuple[str, ...]:
        """Everything that `limits` limits, in alphabetical order."""
        return tuple(sorted(self.shares or {self.target, *(["clusters"] if self.halved else [])}))

    def limits(
        self,
        ancestor: Mapping[str, float],
        parents: Sequence[Mapping[str, float]],
        least: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """The most that offspring may have of every resource, in absolute numbers.

        `ancestor` and `parents` are costs by resource (no parents: the ancestor's), `least` what must be kept. Without
        shares the target's resource falls in equal ratios, whole (goal / whole)^nearness. With shares, every resource
        may be its share of the parents' largest; the target's never has to fall below the goal.
        """
        parents = parents or [ancestor]
        if self.shares:
            found = {name: share * max(costs[name] for costs in parents) for name, share in self.shares.items()}
            if self.target in found:
                found[self.target] = max(found[self.target], self.goal)
            return found
        whole = ancestor[self.target]
        share = min(1.0, self.goal / whole) ** self.nearness if whole > 0 else 1.0
        found = {self.target: self.goal if self.nearness >= 1 else share * whole}
        if self.halved:
            found["clusters"] = max(share**QUARTER * ancestor["clusters"], (least or {}).get("clusters", 0.0))
        return found


def environment(options: Evolution, target: str, goal: float, generation: int, *, gradual: bool = True) -> Environment:
    """The environment of a generation (from 1).

    `target` is a kind of target (`TARGETS`) or a resource, and `goal` how much of that resource it allows in the end,
    in the units of its price. Unless it's `gradual`, the first generation meets it already: where nobody is trained
    there is nothing that smaller steps could save. A size in bytes is a limit, the others may be exceeded by
    `selection.TOLERANCE`.

    Raises:
        UsageError: a resource that this heredity can't save.
        Unreachable: the target leaves nothing.
    """
    resource = TARGETS.get(target, target)
    shares = {name: options.share(name, generation) or 1.0 for name in sorted(parse_environment(options.environment))}
    for name in (resource, *shares):
        if name == "synapses" and options.heredity == "clusters":
            raise UsageError(
                "A limit on synapses needs --heredity synapses or both; with clusters, single synapses don't die."
            )
        if name != "synapses" and options.heredity == "synapses":
            raise UsageError(
                f"--heredity synapses removes no channel, so it can't save {name}; use clusters or both, or a target "
                "in synapses."
            )
    if not goal > 0:
        raise Unreachable(f"The target leaves no {resource} at all; ask for less.")
    steps = math.ceil(APPROACH * options.generations - 1e-9) if gradual else 1
    halved = resource == "synapses" and options.heredity == "both" and not shares
    return Environment(resource, goal, min(1.0, generation / steps), shares, halved=halved, strict=resource == "bytes")
