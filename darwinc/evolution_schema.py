"""What a report, and the journal of a run, say of evolution: every network that was raised, and what became of it."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from darwinc.schema_part import Part

Kind = Literal["ancestor", "offspring", "control"]
Ending = Literal["target", "generations", "collapse", "budget", "exhausted"]


class Individual(Part):
    """One network of an evolution.

    `genome` is the SHA-256 of which clusters and synapses live, by the ancestor's positions; `parents` are ids, with
    the `shares` that their strengths had. `distance` is to each parent: the share of the ancestor's clusters that live
    in one of both alone. `widths` are the living channels of each group, in the order of the report's groups.
    `quality_raw` is read right after the cut, `quality_before` after survivors inherited, `quality` after training, all
    on validation samples; `latency_ms` is foreseen by the latency model.
    """

    id: str
    kind: Kind
    generation: int
    name: str | None = None
    parents: list[str] = []
    shares: list[float] = []
    genome: str
    distance: list[float] = []
    widths: list[int] = []
    quality_raw: float | None = None
    quality_before: float | None = None
    quality: float | None = None
    fitness: float | None = None
    survived: bool = False
    collapsed: bool = False
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    channels: int | None = None
    kernels: int | None = None
    synapses: int | None = None
    latency_ms: float | None = None
    steps: int | None = None
    seconds: float | None = None
    sha256: str | None = None
    notes: list[str] = []


class Generation(Part):
    """One generation: its environment (the most that each resource may be), its offspring, and who survived.

    `survivor` is the fittest; the figures beside it are its own. `survivors` may come from earlier generations.
    """

    generation: int
    parents: list[str] = []
    offspring: list[Individual] = []
    survivor: str | None = None
    survivors: list[str] = []
    environment: dict[str, float] = {}
    fitness: float | None = None
    parameters: int | None = None
    synapses: int | None = None
    kernels: int | None = None
    quality: float | None = None


class Evolution(Part):
    """What the generations have in common.

    While a run goes on `ended` is null, and `winner` the fittest so far. `metric` is what quality is, between 0 and 1,
    the higher the better, on `samples` validation samples. `pareto` names the networks that no other one beats in
    quality, parameters, MACs and foreseen latency at once. `controls` have the winner's budget and training: `one-shot`
    (the deterministic cut of the ancestor), `random` (a random one), `scratch` (the winner's shape with new weights).
    """

    metric: str
    samples: int
    ancestor: Individual
    winner: str | None = None
    ended: Ending | None = None
    pareto: list[str] = []
    controls: list[Individual] = []
    options: dict[str, JsonValue] = {}
    run_dir: str | None = None
