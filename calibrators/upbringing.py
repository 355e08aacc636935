"""Raising one network of an evolution: cut, born with its parents' weights, refitted, trained, judged.

What a worker does. It gets a `Habitat`, which is the same for the whole run, a `Task`, and its parents' files; nothing
else reaches the result, so that it is the same wherever it's raised.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir

from darwinc import graph
from darwinc.calibrators.appraisal import appraise
from darwinc.calibrators.calibration import calibration_of
from darwinc.calibrators.newborn import reborn
from darwinc.channels import Channels, analyse
from darwinc.console import Stage, Terminal
from darwinc.cost import CostModel, Price, measure
from darwinc.data import open_data
from darwinc.errors import Interrupted
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.environment import TARGETS
from darwinc.evolution.genome import Genome
from darwinc.evolution.positions import blended, expanded, synapse_masks, without_synapses
from darwinc.evolution.resources import prices
from darwinc.evolution.tasks import GENOME, MODEL, Habitat, Raised, Task
from darwinc.evolution_options import Evolution, parse_environment
from darwinc.evolution_schema import Individual
from darwinc.passes.excise import excise
from darwinc.passes.trained import Trained
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.quality import Examiner
from darwinc.runtime import inputs_of
from darwinc.sampling import calibrating, hold_out_for_offspring


def raise_network(habitat: Habitat, task: Task, files: Mapping[str, bytes]) -> Raised:
    """Raise a network; its `fitness` is for the driver to say."""
    start = time.perf_counter()
    # What trained the network before refers to itself, and holds a copy of the samples.
    gc.collect()
    nursery = nursery_of(habitat)
    job = nursery.job(task, files)
    raw = nursery.quality(job.model)
    steps = [_longer(step, task.training) for step in habitat.recovery if isinstance(step, Trained) or not task.reborn]
    first = next((place for place, step in enumerate(steps) if isinstance(step, Trained)), len(steps))
    repairs, lessons = steps[:first], steps[first:]
    run_passes(repairs, job)
    before = nursery.quality(job.model) if repairs else raw
    try:
        run_passes(lessons, job)
    except Interrupted:
        # Training ends at a step of its own when it's stopped; what is to be told is the run's matter.
        raise KeyboardInterrupt from None
    after = nursery.quality(job.model) if lessons else before
    data = graph.to_bytes(job.model)
    cost = measure(job.model)
    individual = Individual(
        id=task.id,
        kind=task.kind,
        generation=task.generation,
        name=task.name,
        parents=list(task.parents),
        shares=list(task.shares),
        genome=task.genome.digest,
        widths=task.genome.widths(job.channels.groups),
        quality_raw=raw,
        quality_before=before,
        quality=after,
        parameters=cost.parameters,
        macs=cost.macs,
        bytes=len(data),
        channels=cost.channels,
        kernels=cost.kernels,
        synapses=cost.synapses,
        steps=sum((entry.get("training") or {}).get("steps", 0) for entry in job.recovery) if lessons else None,
        seconds=time.perf_counter() - start,
        sha256=hashlib.sha256(data).hexdigest(),
        notes=[f"{entry['name']}: {'kept' if entry['accepted'] else 'no better, dropped'}" for entry in job.recovery],
    )
    return Raised(individual, data)


def appraise_network(habitat: Habitat, name: str, files: Mapping[str, bytes]) -> bytes:
    """The strengths of a network that was raised, as a file."""
    nursery = nursery_of(habitat)
    genome = Genome.from_bytes(files[f"{name}/{GENOME}"])
    full = expanded(nursery.ancestor, nursery.channels, loaded(files[f"{name}/{MODEL}"]), genome)
    return nursery.appraisal(full, genome).to_bytes()


@lru_cache(maxsize=1)
def nursery_of(habitat: Habitat) -> Nursery:
    """The nursery of a run in this process, made once."""
    return Nursery(habitat)


def loaded(data: bytes) -> ir.Model:
    """A network from the bytes of its file, which this run wrote."""
    return ir.from_proto(onnx.load_model_from_string(data))


class Nursery:
    """What this process needs for every network that it raises: the ancestor, samples, calibration, a judge."""

    def __init__(self, habitat: Habitat) -> None:
        self.habitat = habitat
        self.ancestor = loaded(habitat.ancestor)
        self.channels = replace(analyse(self.ancestor), owners=habitat.owners)
        samples = open_data(
            habitat.data,
            inputs_of(self.ancestor),
            labels=habitat.labels,
            preprocess=habitat.preprocess,
            seed=habitat.seed,
            metadata=self.ancestor.metadata_props,
        )
        macs = CostModel(self.channels).macs(self.channels.nobody())
        self.validation, self.lessons = hold_out_for_offspring(samples, macs, habitat.seed)
        self.examiner = Examiner(habitat.ancestor, self.validation, threads=habitat.options.offspring_threads)
        job = self._empty_job()
        calibration_of(job)
        self.calibration = job.calibration

    def _empty_job(self) -> Job:
        habitat = self.habitat
        job = Job(self.ancestor, self.channels, Terminal(quiet=True), habitat.seed, habitat.device)
        job.lessons = self.lessons
        job.samples = calibrating(self.lessons, habitat.seed)
        job.validation = self.validation
        return job

    def job(self, task: Task, files: Mapping[str, bytes]) -> Job:
        """A job of which the model is the task's network as it's born."""
        job = self._empty_job()
        job.calibration = self.calibration
        job.seed = (self.habitat.seed + int(task.genome.digest[:8], 16)) % 2**31
        whole = self.ancestor
        if task.weights:
            whole = blended(self.ancestor, self.channels, self._parents(task, files))
        job.dead = task.genome.dead
        model, job.excision = excise(whole, self.channels, job.dead)
        if task.reborn:
            model = reborn(model, job.seed)
        job.model = without_synapses(model, self.channels, task.genome)
        job.silent = synapse_masks(self.channels, task.genome)
        return job

    def _parents(self, task: Task, files: Mapping[str, bytes]) -> Iterator[tuple[ir.Model, Genome, float]]:
        for parent, share in zip(task.parents, task.shares, strict=True):
            if parent not in task.weights:
                continue
            yield loaded(files[f"{parent}/{MODEL}"]), Genome.from_bytes(files[f"{parent}/{GENOME}"]), share

    def quality(self, model: ir.Model) -> float:
        """Between 0 and 1, the higher the better, on validation samples."""
        return quality_of(self.examiner, graph.to_bytes(model))[1]

    def appraisal(self, full: ir.Model, genome: Genome) -> Appraisal:
        """Strengths of a network at the ancestor's positions."""
        habitat = self.habitat
        price = price_of(self.channels, habitat.target, habitat.options)
        job, stage = self._empty_job(), Stage("appraise")
        return appraise(full, self.channels, genome, job, habitat.options, stage, price=price, scoring=habitat.scoring)


def price_of(channels: Channels, target: str, options: Evolution) -> Price:
    """What strengths are about: the first resource that the environment limits, else the target's, if it is countable.

    Parameters where neither is.
    """
    counted = prices(channels)
    wanted = [*parse_environment(options.environment), TARGETS[target], "parameters"]
    return next(counted[resource] for resource in wanted if resource in counted)


def quality_of(examiner: Examiner, model: bytes) -> tuple[str, float]:
    """What quality is, and how much of it a model has, between 0 and 1, the higher the better."""
    found, _ = examiner.examine(model, "validation")
    value = float(found["after"]) if found["after"] is not None and np.isfinite(found["after"]) else np.inf
    if found.get("higher_is_better", True):
        return str(found["metric"]), value if np.isfinite(value) else 0.0
    return "1 / (1 + relative_error)", float(1.0 / (1.0 + value))


def _longer(step: Pass, times: float) -> Pass:
    """A pass, which has so many times its budget where it trains."""
    if times == 1.0 or not isinstance(step, Trained):
        return step
    training = step.training

    def grown(amount: float | None) -> float | None:
        return None if amount is None else times * amount

    steps = None if training.steps is None else round(times * training.steps)
    minutes = grown(training.allowed_minutes)
    return replace(step, training=replace(training, steps=steps, epochs=grown(training.epochs), minutes=minutes))
