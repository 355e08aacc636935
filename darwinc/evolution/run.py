"""From a job to the winner of an evolution: a world, a lineage, a crew, a population."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from darwinc import graph
from darwinc.calibrators.appraisal import appraise_ancestor
from darwinc.calibrators.upbringing import appraise_network, counted, loaded, quality_of, raise_network
from darwinc.console import Stage
from darwinc.cost import Price, measure
from darwinc.data import rooted
from darwinc.errors import DarwincError, Unreachable, UsageError
from darwinc.evolution.crew import Crew, device_of, limited, make_crew
from darwinc.evolution.generations import Evolved, Population, World
from darwinc.evolution.genome import Genome
from darwinc.evolution.journal import End
from darwinc.evolution.lineage import Lineage
from darwinc.evolution.pareto import pareto
from darwinc.evolution.resources import prices
from darwinc.evolution.tasks import GENOME, MODEL, Habitat, Rearing
from darwinc.evolution.telling import ANCESTOR
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_options import parse_environment
from darwinc.evolution_schema import Evolution, Individual
from darwinc.passes.cull import AUTO_ALIGN
from darwinc.passes.trained import Trained
from darwinc.pipeline import Grown, Job
from darwinc.preprocess_notes import FROM_MODEL, read_spec
from darwinc.quality import Examiner
from darwinc.selection import Selection

if TYPE_CHECKING:
    from darwinc.latency import LatencyModel
    from darwinc.passes.evolve import Evolve

REARING = Rearing(raise_network, appraise_network)
FREE = ("workers", "hours", "controls", "generations", "from_generation")
"""Options that another run of the same lineage may have otherwise."""


def evolve(job: Job, order: Evolve, stage: Stage) -> None:
    """Evolve, and let the job know who won; its weights are handed over by `passes.adopt`.

    Raises:
        Unreachable: the target wasn't met by any survivor.
        InputError, UsageError, OutputError: the folder of the run, or the crew, can't be used.
    """
    # Where Ray can't be reached, that is said before work begins.
    options = order.evolution
    with make_crew(options.workers, options.offspring_threads, job.device, options.population) as crew:
        _evolve(job, order, stage, crew)


def _evolve(job: Job, order: Evolve, stage: Stage, crew: Crew) -> None:
    options = order.evolution
    stage.say("appraising the ancestor")
    with limited(options.offspring_threads):
        job.channels, strengths = appraise_ancestor(
            job, options, stage, price=counted(job.channels, order.target), scoring=order.scoring
        )
    habitat = _habitat(job, order, device_of(crew, job.device))
    with limited(options.offspring_threads):
        metric, first = _first(job, habitat)
    foreseen = _foreseen(job, order, stage)
    costs = _prices(job, foreseen)
    world = World(
        habitat,
        job.channels,
        order.limits(job.channels, strict=order.target == "bytes"),
        costs,
        Wiring(job.channels),
        order.target,
        _goal(job, order, costs),
        first.model_copy(update={"latency_ms": None if foreseen is None else foreseen.predict(foreseen.full)}),
        strengths,
        foreseen,
    )
    folder = None if order.run_dir is None else Path(order.run_dir)
    identity = _identity(job, order) | {"metric": metric, "samples": len(job.validation or ())}
    with Lineage.open(folder, identity, resume=order.resume, rewind=options.from_generation) as lineage:
        job.warnings += lineage.warnings
        if lineage.known(ANCESTOR) is None:
            lineage.add(world.first, {MODEL: habitat.ancestor, GENOME: world.ancestor.to_bytes()})
        found = Population(world, REARING, lineage, crew, stage).run()
        if found is None:
            raise Unreachable(_missed(order))
        lineage.note(End(ended=found.ended, winner=found.winner.id))
        _conclude(job, order, world, lineage, found, metric)


def _habitat(job: Job, order: Evolve, device: str) -> Habitat:
    if graph.stored_bytes(job.original) > graph.PROTOBUF_LIMIT:
        raise UsageError("--strategy evolve takes models of up to 2 GB; use --strategy cull for this one.")
    trains = any(isinstance(step, Trained) for step in order.recovery)
    return Habitat(
        graph.to_bytes(job.original),
        job.channels.owners,
        *_seen_from_afar(order),
        order.recovery,
        trains,
        order.target,
        order.scoring,
        order.evolution,
        job.seed,
        device,
    )


def _seen_from_afar(order: Evolve) -> tuple[str, str | None, str | None]:
    """Data, labels and preprocessing, for workers that may have another working directory."""
    steps = order.preprocess if order.preprocess in (None, FROM_MODEL) else str(read_spec(str(order.preprocess)))
    return rooted(order.data), None if order.labels is None else rooted(order.labels), steps


def _first(job: Job, habitat: Habitat) -> tuple[str, Individual]:
    """What quality is, and the ancestor's row."""
    if job.validation is None:
        raise UsageError("--strategy evolve takes samples to judge offspring by; give --data.")
    examiner = Examiner(habitat.ancestor, job.validation, threads=habitat.options.offspring_threads)
    metric, quality = quality_of(examiner, habitat.ancestor)
    cost, nobody = measure(job.original, job.channels), Genome(job.channels.nobody())
    return metric, Individual(
        id=ANCESTOR,
        kind="ancestor",
        generation=0,
        genome=nobody.digest,
        widths=nobody.widths(job.channels.groups),
        quality_raw=quality,
        quality_before=quality,
        quality=quality,
        fitness=quality,
        parameters=cost.parameters,
        macs=cost.macs,
        bytes=len(habitat.ancestor),
        channels=cost.channels,
        kernels=cost.kernels,
        synapses=cost.synapses,
        sha256=hashlib.sha256(habitat.ancestor).hexdigest(),
    )


def _foreseen(job: Job, order: Evolve, stage: Stage) -> LatencyModel | None:
    """The model of the ancestor's latency, where it's asked for or may be asked for; kept on disk once measured."""
    needed = order.target == "latency" or "latency" in parse_environment(order.evolution.environment)
    if not (needed or order.foresees):
        return None
    # It draws in scipy's optimisers, which only a question of time should wait for.
    from darwinc.latency import Asked, LatencyModel

    stage.say("measuring how widths tell on latency")
    try:
        return LatencyModel.measure(job.original, job.channels, Asked(threads=order.threads))
    except DarwincError as error:
        if needed:
            raise
        job.warnings.append(f"Latency of offspring can't be foreseen: {error}")
        return None


def _prices(job: Job, foreseen: LatencyModel | None) -> dict[str, Price]:
    counted = prices(job.channels)
    return counted if foreseen is None else {**counted, "latency": foreseen.price()}


def _goal(job: Job, order: Evolve, costs: Mapping[str, Price]) -> float:
    """How much of the target's resource may stay, in the units of its price."""
    if order.target == "latency":
        return (1 - order.amount) * costs["latency"].current()
    if order.target == "synapses":
        wiring, nobody = Wiring(job.channels), Genome(job.channels.nobody())
        return (1 - order.amount) * wiring.count(nobody)
    terms, need, _ = order.plan(job.original, job.channels)
    return terms.current() - need


def _missed(order: Evolve) -> str:
    again = "add --resume" if order.run_dir is not None else "name a --run-dir, so that a run can go on"
    return (
        f"No survivor of {order.evolution.generations} generations meets the target {order.target}={order.amount:g}; "
        f"ask for more --generations ({again}), for less, or for a gentler --environment."
    )


def _identity(job: Job, order: Evolve) -> dict[str, JsonValue]:
    """What makes one run the same as another."""
    asked = asdict(order)
    for name in ("run_dir", "resume", "threads", "foresees"):
        asked.pop(name)
    for name in FREE:
        asked["evolution"].pop(name)
    if not order.evolution.environment:
        # The way to the target is shared out among the generations.
        asked["evolution"]["generations"] = order.evolution.generations
    digest = hashlib.sha256(graph.to_bytes(job.original)).hexdigest()
    recovery = [{"pass": step.name, **options} for step, options in zip(order.recovery, asked["recovery"], strict=True)]
    return {"model": digest, "seed": job.seed, "device": job.device, **asked, "recovery": recovery}


def _conclude(job: Job, order: Evolve, world: World, lineage: Lineage, found: Evolved, metric: str) -> None:
    """The job's dead, its next model, and what the report says."""
    winner = found.winner
    genome = Genome.from_bytes(lineage.read(winner.id, GENOME))
    job.dead = genome.dead
    job.selection = Selection(genome.dead, order.align or AUTO_ALIGN)
    entry: dict[str, Any] = {
        "name": "evolve",
        "accepted": True,
        "measure": f"1 - {metric}",
        "error_before": None if winner.quality_raw is None else 1 - winner.quality_raw,
        "error_after": None if winner.quality is None else 1 - winner.quality,
        "seconds": winner.seconds,
        "notes": [f"network {winner.id} of generation {winner.generation}", *winner.notes],
    }
    job.grown = Grown(loaded(lineage.read(winner.id, MODEL)), entry)
    everybody = [each for generation in found.generations for each in generation.offspring]
    told = Evolution(
        metric=metric,
        samples=0 if job.validation is None else len(job.validation),
        ancestor=world.first,
        winner=winner.id,
        ended=found.ended,
        pareto=pareto([world.first, *everybody]),
        controls=found.controls,
        options=asdict(order.evolution),
        run_dir=order.run_dir,
    )
    job.evolution = {
        "evolution": told.model_dump(),
        "generations": [generation.model_dump() for generation in found.generations],
    }
