"""From a job to the winner of an evolution: a world, a lineage, a crew, a population."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from darwinc import graph
from darwinc.calibrators.appraisal import appraise_ancestor
from darwinc.calibrators.upbringing import appraise_network, loaded, price_of, quality_of, raise_network
from darwinc.console import Stage
from darwinc.cost import Price, measure
from darwinc.data import rooted
from darwinc.errors import DarwincError, Interrupted, Unreachable, UsageError
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.crew import Crew, device_of, limited, make_crew
from darwinc.evolution.generations import Evolved, Population, World
from darwinc.evolution.genome import Genome
from darwinc.evolution.journal import End
from darwinc.evolution.lineage import Archive, Lineage
from darwinc.evolution.pareto import pareto
from darwinc.evolution.resources import prices
from darwinc.evolution.tasks import APPRAISAL, GENOME, MODEL, Habitat, Rearing
from darwinc.evolution.telling import ANCESTOR, has_run
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_options import parse_environment
from darwinc.evolution_schema import Evolution, Individual
from darwinc.passes.cull import AUTO_ALIGN
from darwinc.passes.trained import Trained
from darwinc.pipeline import Grown, Job
from darwinc.preprocess_notes import FROM_MODEL, read_spec
from darwinc.quality import Examiner
from darwinc.searching.latency import TimeModel, judge_reach, time_model
from darwinc.selection import Selection

if TYPE_CHECKING:
    from darwinc.passes.evolve import Evolve

REARING = Rearing(raise_network, appraise_network)
FEW_JUDGES = 200
FREE = ("workers", "hours", "controls", "generations", "from_generation")
"""Options that another run of the same lineage may have otherwise."""


def evolve(job: Job, order: Evolve, stage: Stage) -> None:
    """Evolve, and let the job know who won; its weights are handed over by `passes.adopt`.

    Raises:
        Unreachable: the target can't be met, or wasn't by any survivor.
        Interrupted: the user or a signal stopped it.
        InputError, UsageError, OutputError: the folder of the run, or the crew, can't be used.
    """
    # Where Ray can't be reached, that is said before work begins.
    options = order.evolution
    with make_crew(options.workers, options.offspring_threads, job.device, options.population) as crew:
        _evolve(job, order, stage, crew)


def _evolve(job: Job, order: Evolve, stage: Stage, crew: Crew) -> None:
    order = _as_begun(order)
    options = order.evolution
    foreseen = _foreseen(job, order, stage)
    ancestor = _file(job)
    with limited(options.offspring_threads):
        metric, first = _first(job, ancestor, options.offspring_threads)
    first = first.model_copy(update={"latency_ms": None if foreseen is None else foreseen.predict(first.widths)})
    folder = None if order.run_dir is None else Path(order.run_dir)
    identity = _identity(job, order, ancestor) | {"metric": metric, "samples": len(job.validation or ())}
    with Lineage.open(folder, identity, resume=order.resume, rewind=options.from_generation) as lineage:
        job.warnings += [*lineage.warnings, *_warnings(order, len(job.validation or ()))]
        strengths = _appraised(job, order, lineage, first, ancestor, stage)
        world = _world(job, order, ancestor, first, strengths, foreseen, device_of(crew, job.device))
        population = Population(world, REARING, lineage, crew, stage)
        try:
            found = population.run()
        except KeyboardInterrupt:
            raise Interrupted(_stopped(order)) from None
        job.warnings += population.warnings
        if found is None:
            raise Unreachable(_missed(order, population))
        lineage.note(End(ended=found.ended, winner=found.winner.id))
        _conclude(job, order, world, lineage, found, metric)


def _as_begun(order: Evolve) -> Evolve:
    """The order with the multiples of the run that it goes on with: they were measured, and may come out otherwise now.

    Raises:
        InputError: the journal of the run is damaged.
    """
    if not order.resume or order.run_dir is None or not has_run(Path(order.run_dir)):
        return order
    found = Archive.view(Path(order.run_dir)).identity.get("multiples")
    return replace(order, multiples=tuple(found)) if isinstance(found, list) else order  # type: ignore[arg-type]


def _file(job: Job) -> bytes:
    """The ancestor's file, which every worker gets."""
    if graph.stored_bytes(job.original) > graph.PROTOBUF_LIMIT:
        raise UsageError("--strategy evolve takes models of up to 2 GB; use --strategy cull for this one.")
    return graph.to_bytes(job.original)


def _warnings(order: Evolve, judges: int) -> list[str]:
    found = []
    if any(isinstance(step, Trained) and step.training.allowed_minutes is not None for step in order.recovery):
        found.append(
            "Every offspring is trained for some minutes, so that another run of this command gives another lineage; "
            "give --steps or --epochs for one that can be repeated."
        )
    if judges < FEW_JUDGES:
        found.append(
            f"Offspring are judged by {judges} samples alone, a fifth of --data, so that the fittest may only be the "
            "luckiest; give more samples."
        )
    return found


def _appraised(
    job: Job, order: Evolve, lineage: Lineage, first: Individual, ancestor: bytes, stage: Stage
) -> Appraisal:
    """The ancestor's strengths, and the job's channels as the whole run has them; read back where a run goes on."""
    if lineage.known(ANCESTOR) is None or not lineage.has(ANCESTOR, APPRAISAL):
        stage.say("appraising the ancestor")
        price = price_of(job.channels, order.target, order.evolution)
        with limited(order.evolution.offspring_threads):
            channels, strengths = appraise_ancestor(job, order.evolution, stage, price=price, scoring=order.scoring)
        if lineage.known(ANCESTOR) is None:
            lineage.add(first, {MODEL: ancestor, GENOME: Genome(channels.nobody()).to_bytes()})
        lineage.attach(ANCESTOR, APPRAISAL, replace(strengths, owners=channels.owners).to_bytes())
    # Read back in either case: what is stored is rounded.
    found = Appraisal.from_bytes(lineage.read(ANCESTOR, APPRAISAL))
    job.channels = replace(job.channels, owners=found.owners)
    return found


def _world(
    job: Job,
    order: Evolve,
    ancestor: bytes,
    first: Individual,
    strengths: Appraisal,
    foreseen: TimeModel | None,
    device: str,
) -> World:
    habitat = Habitat(
        ancestor,
        job.channels.owners,
        *_seen_from_afar(order),
        order.recovery,
        any(isinstance(step, Trained) for step in order.recovery),
        order.target,
        order.scoring,
        order.evolution,
        job.seed,
        device,
    )
    costs = _prices(job, foreseen)
    limits = order.limits(job.channels, strict=order.target == "bytes")
    goal = _goal(job, order, costs)
    return World(
        habitat, job.channels, limits, costs, Wiring(job.channels), order.target, goal, first, strengths, foreseen
    )


def _seen_from_afar(order: Evolve) -> tuple[str, str | None, str | None]:
    """Data, labels and preprocessing, for workers that may have another working directory."""
    steps = order.preprocess if order.preprocess in (None, FROM_MODEL) else str(read_spec(str(order.preprocess)))
    return rooted(order.data), None if order.labels is None else rooted(order.labels), steps


def _first(job: Job, ancestor: bytes, threads: int) -> tuple[str, Individual]:
    """What quality is, and the ancestor's row."""
    if job.validation is None:
        raise UsageError("--strategy evolve takes samples to judge offspring by; give --data.")
    examiner = Examiner(ancestor, job.validation, threads=threads)
    metric, quality = quality_of(examiner, ancestor)
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
        bytes=len(ancestor),
        channels=cost.channels,
        kernels=cost.kernels,
        synapses=cost.synapses,
        sha256=hashlib.sha256(ancestor).hexdigest(),
    )


def _foreseen(job: Job, order: Evolve, stage: Stage) -> TimeModel | None:
    """The model of the ancestor's latency, where it's asked for or may be asked for; kept on disk once measured.

    Raises:
        InvalidModel, UsageError: it can't be measured, and a limit is on it.
        Unreachable: no widths are predicted to save as much of it as the target asks for.
    """
    needed = order.target == "latency" or "latency" in parse_environment(order.evolution.environment)
    if not (needed or order.foresees):
        return None
    try:
        found = time_model(job, order, order.threads, stage)
    except DarwincError as error:
        if needed:
            raise
        job.warnings.append(f"Latency of offspring can't be foreseen: {error}")
        return None
    if order.target == "latency":
        judge_reach(job, order, found)
    return found


def _prices(job: Job, foreseen: TimeModel | None) -> dict[str, Price]:
    counted = prices(job.channels)
    return counted if foreseen is None else {**counted, "latency": foreseen.price()}


def _goal(job: Job, order: Evolve, costs: Mapping[str, Price]) -> float:
    """How much of the target's resource may stay, in the units of its price."""
    if order.target == "latency":
        return (1 - order.amount) * costs["latency"].current()
    if order.target == "synapses":
        # Weights that can't lose single synapses count, too, and may stay whole; zeros of the original's don't.
        stored, total = graph.constants(job.original), measure(job.original, job.channels).synapses
        here = sum(int(np.count_nonzero(stored[name].numpy())) for name in Wiring(job.channels).weights)
        return here - order.amount * total
    terms, need, _ = order.plan(job.original, job.channels)
    return terms.current() - need


def _stopped(order: Evolve) -> str:
    if order.run_dir is None:
        return "Stopped and no model written; with --run-dir it could be resumed."
    return (
        f"Stopped and no model written; every network that was raised is in {order.run_dir}, give the same command "
        "with --resume to go on."
    )


def _missed(order: Evolve, population: Population) -> str:
    target, number = f"the target {order.target}={order.amount:g}", len(population.generations)
    again = "add --resume" if order.run_dir is not None else "name a --run-dir, so that a run can go on"
    if population.ended == "collapse":
        return (
            f"Every offspring of generation {number} collapsed before {target} was met; give them more training, "
            "smaller steps (--generations or --environment), or a lower --collapse, or ask for less."
        )
    if population.ended == "budget":
        return (
            f"--hours {order.evolution.hours:g} were over after {number} generations, and no survivor meets {target}; "
            f"give more of them ({again}), or ask for less."
        )
    return (
        f"No survivor of {number} generations meets {target}; "
        f"ask for more --generations ({again}), for less, or for a harsher --environment."
    )


def _identity(job: Job, order: Evolve, ancestor: bytes) -> dict[str, JsonValue]:
    """What makes one run the same as another."""
    asked = asdict(order)
    for name in ("run_dir", "resume", "threads", "foresees"):
        asked.pop(name)
    for name in FREE:
        asked["evolution"].pop(name)
    if not order.evolution.environment:
        # The way to the target is shared out among the generations.
        asked["evolution"]["generations"] = order.evolution.generations
    if order.target == "latency":
        asked["threads"] = order.threads
    digest = hashlib.sha256(ancestor).hexdigest()
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
