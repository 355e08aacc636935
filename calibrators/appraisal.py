"""What a network says of its channels and weights, from which its offspring are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from darwinc.calibrators.credits import credit_of, merit_of
from darwinc.calibrators.criteria import kin_of, measured_score
from darwinc.calibrators.synapses import synapse_strengths
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import CostModel, Price
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.genome import Genome
from darwinc.evolution_options import Evolution
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.rivals import cluster_strengths, unit_scores
from darwinc.fitness.statistics import Vector
from darwinc.matching import matched
from darwinc.pipeline import Job
from darwinc.scoring import SCORING, Scoring
from darwinc.selection import Limits, Path, trace

NEARLY_ALL = 1 - 1e-9
"""The share of a group that may die: all but the last unit."""


def appraise(
    full: ir.Model,
    channels: Channels,
    genome: Genome,
    job: Job,
    options: Evolution,
    stage: Stage,
    *,
    price: Price | None = None,
    eligible: Sequence[bool] | None = None,
    scoring: Scoring = SCORING,
) -> Appraisal:
    """Appraise a descendant of `job.original`, on the job's samples.

    Cluster strengths lie between 0 and 1, where what is dead has 0, and who may not die has 1:

    - `darwin`: the share of the network's price that is gone once a unit has died, when units die one by one, the least
      predicted loss for what it saves first, down to one of each group; that one has 1. So the units of at least c are
      those that greedy elimination leaves where it has saved the share c.
    - `magnitude`: `rivals.cluster_strengths` over the largest of the group, as the papers have it.

    Args:
        full: the network at the ancestor's positions, its dead channels zero (`positions.expanded`).
        channels: the ancestor's, as the whole run has them (`appraise_ancestor`).
        job: carries samples, seed, device and terminal; its original is the ancestor.
        price: of the ancestor with everybody alive, and so afterwards; its parameters if None. It has to fall with
            every death.
        eligible: which groups may lose channels; all if None.

    Raises:
        InvalidData: samples that can't be read.
    """
    inner = Job(full, channels, job.terminal, job.seed, job.device, job.samples)
    score = measured_score(inner, stage, scoring) if options.strength == "darwin" else None
    return _appraised(inner, genome, job.original, score, options, stage, price, eligible)


def appraise_ancestor(
    job: Job,
    options: Evolution,
    stage: Stage,
    *,
    price: Price | None = None,
    eligible: Sequence[bool] | None = None,
    scoring: Scoring = SCORING,
) -> tuple[Channels, Appraisal]:
    """Appraise the job's original, as `appraise` does, and settle which channels it has for the whole run.

    Units come to stand for positions of the same rank in every head or group (`matching`), once and for all.
    """
    score = measured_score(job, stage, scoring) if options.strength == "darwin" else None
    count = job.channels.count
    found = cluster_strengths(job.channels) if score is None else score.losses_of_components(count)
    job.channels = matched(job.channels, found)
    nobody = Genome(job.channels.nobody())
    return job.channels, _appraised(job, nobody, job.original, score, options, stage, price, eligible)


def _appraised(
    job: Job,
    genome: Genome,
    ancestor: ir.Model,
    score: DarwinianScore | None,
    options: Evolution,
    stage: Stage,
    price: Price | None,
    eligible: Sequence[bool] | None,
) -> Appraisal:
    """Appraise the job's original with an unassigned score, or by magnitude where there is none."""
    may = [True] * len(job.channels.groups) if eligible is None else list(eligible)
    if score is None:
        clusters = _magnitudes(job, may)
    else:
        stage.say("ranking channels")
        terms = CostModel(job.channels).constant_terms if price is None else price
        clusters = ranks(job.channels, genome, score, terms, may)
    clusters[genome.dead] = 0.0
    found = Appraisal(clusters)
    if options.heredity != "clusters":
        found = replace(found, synapses=synapse_strengths(job, genome, options.strength, stage))
    if options.favour:
        stage.say("asking what outputs owe to channels")
        found = replace(found, credit=credit_of(job, may), merit=merit_of(job, ancestor))
    return found


def ranks(channels: Channels, genome: Genome, score: DarwinianScore, price: Price, eligible: Sequence[bool]) -> Vector:
    """The share of the price that is gone once each unit [channels.count] has died along the greedy path, else 1.

    The dead of the genome are out of it from the start. `score` is used up; `price` is as before in the end.
    """
    score.assign(channels.owners, kin_of(channels))
    gone = [group.units[genome.dead[group.units]] for group in channels.groups]
    for number, units in enumerate(gone):
        if len(units):
            score.remove(units)
            price.remove(number, len(units))
    groups = tuple(replace(group, units=group.units[~genome.dead[group.units]]) for group in channels.groups)
    may = [eligible[number] and len(group) > 0 for number, group in enumerate(groups)]
    path = trace(replace(channels, groups=groups), price, score, Limits(1, NEARLY_ALL, may))
    strengths = _along(path, price, channels.count)
    for number, units in enumerate(gone):
        price.remove(number, -len(units))
    return strengths


def _along(path: Path, price: Price, count: int) -> Vector:
    """The share of what lives now that is gone once each unit [count] has died; the price is as before in the end."""
    strengths, whole, saved = np.ones(count), price.current(), 0.0
    for step in path.steps:
        for unit in step.units.tolist():
            saved += price.saved(step.group, 1)
            price.remove(step.group, 1)
            strengths[unit] = min(max(saved / max(whole, 1e-30), 0.0), 1.0)
    for number, units in enumerate(path.removed(len(path.steps))):
        price.remove(number, -units)
    return strengths


def _magnitudes(job: Job, eligible: Sequence[bool]) -> Vector:
    """`cluster_strengths` of each unit [channels.count] over the largest of its group, else 1."""
    strengths = np.ones(job.channels.count)
    scores = unit_scores(job.channels, cluster_strengths(job.channels, job.original))
    for group, may in zip(job.channels.groups, eligible, strict=True):
        if may:
            found = np.array([scores[unit] for unit in group.units.tolist()])
            strengths[group.units] = found / max(float(found.max()), 1e-30)
    return strengths
