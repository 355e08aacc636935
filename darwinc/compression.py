"""The main job: analyse, calibrate, cull, rewrite, prove, inherit, write, measure, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from darwinc import graph
from darwinc.benchmark import compare as compare_latency
from darwinc.channels import analyse
from darwinc.choosing import chooser, liked_multiples
from darwinc.console import Stage, Terminal
from darwinc.cost import CostModel, measure
from darwinc.data import Samples, fitting_batches, open_data
from darwinc.errors import InvalidData, Unreachable, UsageError
from darwinc.outcome import describe, peak_memory, settle_target, stamp
from darwinc.passes.adopt import Adopt
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job, Pass, PassRun, run_pass
from darwinc.proving import guaranteed, proof_feeds, prove, prove_twin
from darwinc.quality import compare_quality
from darwinc.report import build_report, file_info, write_json
from darwinc.report_schema import Report
from darwinc.runtime import inputs_of, open_session
from darwinc.sampling import MOST_CALIBRATING, MOST_VALIDATION, calibrating, hold_out, hold_out_for_offspring
from darwinc.scoring import Scoring
from darwinc.searching.drop import drop_of
from darwinc.searching.latency import better_widths
from darwinc.settings import (
    Settings,
    Target,
    device_of,
    evolves,
    judge,
    raises,
    recovery_passes,
    trains,
    works_without_torch,
)
from darwinc.training import Training, leads, parse_outputs

__all__ = ["Result", "Scoring", "Settings", "Target", "Training", "compress"]

MOST_JUDGED = 512


@dataclass
class Result:
    """The outcome. `model` is the compressed model; `path` where it was written, None for a dry run."""

    model: ir.Model
    report: Report
    path: Path | None


@dataclass
class _Run:
    """One run's notes, which become the report."""

    source: Path
    settings: Settings
    target: Target
    command: Sequence[str]
    terminal: Terminal
    seconds: dict[str, float] = field(default_factory=dict)
    passes: list[PassRun] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    test: Samples | None = None


def compress(
    model: str | Path,
    *,
    target: Target | float,
    data: str | None = None,
    output: str | Path | None = None,
    settings: Settings | None = None,
    terminal: Terminal | None = None,
    command: Sequence[str] = (),
) -> Result:
    """Compress an ONNX file, prove the rewrite, and write the result to `output` whole or not at all.

    A plain number as `target` is the fraction of parameters to remove; `data` is a shorthand for the setting of that
    name.

    Raises:
        UsageError: a setting that doesn't exist, or that doesn't fit another one or the model.
        InvalidModel, InvalidData: what was handed in can't be used.
        OutputError: the result can't be written.
        Unreachable: the target can't be met, or nothing can be removed.
        VerificationFailed: the rewrite doesn't answer like the original; nothing is written.
    """
    settings = settings or Settings()
    settings = settings if data is None else replace(settings, data=data)
    target = target if isinstance(target, Target) else Target("sparsity", target)
    judge(settings, target)
    run = _Run(Path(model), settings, target, list(command), terminal or Terminal(quiet=True))
    destination = _destination(run.source, output, settings)
    original, released = _read(run)
    job = _job(run, original)
    recovery = _recovery(settings, job)
    with _timed(run, "alignment") as stage:
        multiples = liked_multiples(job, target, settings, stage)
    cull = chooser(target, settings, recovery, multiples)
    cull.prepare(job)
    before = measure(job.original, job.channels)
    feeds = proof_feeds(job)
    _perform(run, job, [cull, Excise()])
    if target.kind != "synapses" and (job.excision is None or not job.excision.kept):
        raise Unreachable("The target asks for so little that no whole channel has to go; ask for more.")
    with _timed(run, "prove"):
        proof = prove(job, feeds)
    twin = None
    if not settings.dry_run:
        _perform(run, job, _afterwards(settings, recovery))
        if any(entry["accepted"] for entry in job.recovery):
            with _timed(run, "prove recovery"):
                twin = prove_twin(job, feeds)
    values = describe(job, before, measure(job.model), asdict(target), proof, twin)
    values |= {
        "command": run.command,
        "seed": settings.seed,
        "input": file_info(run.source),
        "passes": [asdict(done) for done in run.passes],
    }
    values |= job.evolution or {}
    if job.calibration is not None and job.samples is not None and not settings.dry_run:
        with _timed(run, "guarantee") as stage:
            values["guarantee"] = guaranteed(job, stage)
    if destination is not None:
        stamp(job.model, values, None if job.samples is None else job.samples.preprocess)
        with _timed(run, "write"):
            graph.save_model(job.model, destination)
        values["output"] = file_info(destination)
        values |= _measured(run, job, cull, destination, released=bool(released))
    values["before"]["bytes"] = values["input"]["bytes"]
    values["after"]["bytes"] = values["output"]["bytes"] if destination is not None else graph.file_bytes(job.model)
    settle_target(values, _drop(run, job))
    if destination is not None and job.samples is None and settings.test is None:
        job.warnings.append(
            "No data was given: how good the answers still are was not measured; see with `darwinc check --data`, "
            "or give --test."
        )
    warnings = [*run.warnings, *_of_data(job.samples, run.test), *job.warnings]
    values |= {"warnings": warnings, "time": run.seconds, "peak_memory_bytes": peak_memory()}
    report = build_report(values)
    if evolves(settings) and settings.training.run_dir is not None:
        write_json(report, Path(settings.training.run_dir) / "report.json")
    return Result(job.model, report, destination)


def _afterwards(settings: Settings, recovery: list[Pass]) -> list[Pass]:
    """What follows the rewrite: of offspring each had its recovery when it was raised."""
    if evolves(settings):
        return [Adopt()]
    return [Adopt(), *recovery] if raises(settings) else recovery


def _destination(source: Path, output: str | Path | None, settings: Settings) -> Path | None:
    if settings.dry_run or output is None or not leads():
        return None
    if source.exists() and Path(output).exists() and source.samefile(output):
        raise UsageError(f"{output} is the model itself, which the result is measured against; give another name.")
    graph.check_writable(Path(output))
    return Path(output)


def _drop(run: _Run, job: Job) -> float | None:
    """The drop of the metric in points, on the samples that a search judged by; in a dry run as the search found it."""
    if job.validation is None or run.target.kind != "max-drop":
        return None
    if run.settings.dry_run:
        return float(max((row["removed"], row["achieved"]) for row in job.search if row["passed"])[1])
    with _timed(run, "validation"):
        return drop_of(graph.to_bytes(job.original), graph.to_bytes(job.model), job.validation)


def _measured(run: _Run, job: Job, cull: Cull, destination: Path, *, released: bool) -> dict[str, Any]:
    """Quality, parity and latency of the file that was written."""
    settings, found = run.settings, dict[str, Any]()
    # The file as it came would be compared with its own handicap: initializers among the inputs switch folding off.
    reference: Path | bytes = graph.to_bytes(job.original) if released else run.source
    samples, split = _judges(run, job)
    if samples is not None:
        with _timed(run, "quality"):
            whole = split == "test" or samples is job.validation
            chosen = samples if whole else samples.take(slice(0, MOST_JUDGED))
            found["quality"], found["parity"] = _compared(run, reference, destination, chosen, split)
    if settings.bench_seconds > 0:
        with _timed(run, "latency") as stage:
            feeds = None if samples is None else [next(fitting_batches(samples, inputs_of(job.original), 1)).feed]
            timing = compare_latency(
                reference,
                destination,
                threads=settings.threads,
                seconds=settings.bench_seconds,
                seed=settings.seed,
                feeds=feeds,
                progress=stage.at,
            )
            found["latency"] = timing.as_report()
            if released:
                moved = compare_latency(
                    run.source, reference, threads=settings.threads, seconds=settings.bench_seconds / 2, feeds=feeds
                )
                found["latency"]["release_speedup"] = moved.speedup
        if timing.verdict == "slower":
            with _timed(run, "latency model") as stage:
                better = better_widths(job, cull, settings.threads, stage)
            run.warnings.append(f"The compressed model is slower than the input here: {better}.")
    return found


def _compared(
    run: _Run, reference: Path | bytes, destination: Path, samples: Samples, split: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`compare_quality`. Labels of a loss of the user's own may fit no metric: no training is thrown away for that."""
    try:
        return compare_quality(reference, destination, samples, split=split)
    except InvalidData as error:
        if samples.labels is None or not trains(run.settings):
            raise
        run.warnings.append(f"{error} Quality was measured without labels.")
    return compare_quality(reference, destination, replace(samples, labels=None), split=split)


def _judges(run: _Run, job: Job) -> tuple[Samples | None, str]:
    """The samples that quality is measured on, and what they were used for before."""
    if run.test is not None:
        return run.test, "test"
    if job.validation is not None:
        return job.validation, "validation"
    return (job.samples, "calibration") if job.held_out is None else (job.held_out, "validation")


def _read(run: _Run) -> tuple[ir.Model, list[str]]:
    """The model, valid for ONNX and for ONNX Runtime, with initializers released from its inputs."""
    with run.terminal.stage("reading"):
        start = time.perf_counter()
        model = graph.load_model(run.source)
        open_session(model, optimization="disabled", label=str(run.source))
        released = graph.release_initializer_inputs(model)
        if released:
            shown = ", ".join(released[:3]) + (f" and {len(released) - 3} more" if len(released) > 3 else "")
            run.warnings.append(
                f"Initializers that were also graph inputs left the inputs ({shown}), so that ONNX Runtime can fold "
                "them."
            )
        run.seconds["read"] = time.perf_counter() - start
    return model, released


def _job(run: _Run, original: ir.Model) -> Job:
    settings, samples = run.settings, _samples(run, original)
    _judge_lessons(settings, original, samples)
    with run.terminal.stage("analysing"):
        start = time.perf_counter()
        channels = analyse(original)
        run.seconds["analyse"] = time.perf_counter() - start
    job = Job(original, channels, run.terminal, settings.seed, settings.device)
    job.samples = samples
    if samples is not None and run.target.kind == "max-drop":
        job.validation, samples = hold_out(samples, settings.seed)
        job.samples = samples
    if samples is not None and evolves(settings):
        macs = CostModel(channels).macs(channels.nobody())
        job.validation, samples = hold_out_for_offspring(samples, macs, settings.seed)
    if samples is not None and (trains(settings) or evolves(settings)):
        job.lessons, job.samples = samples, calibrating(samples, settings.seed)
    job.device = "cpu" if works_without_torch(settings) else device_of(settings.device)
    return job


def _judge_lessons(settings: Settings, original: ir.Model, samples: Samples | None) -> None:
    """What can be wrong with training and is known before any work.

    Raises:
        UsageError: labels are missing, or --outputs names what isn't in the model.
    """
    if not trains(settings):
        return
    if "finetune" in (settings.recover or ()) and samples is not None and samples.labels is None:
        raise UsageError("--recover finetune takes labels; give --labels, or use distill, which needs none.")
    made = {str(value.name) for node in original.graph for value in node.outputs}
    unknown = [name for name in parse_outputs(settings.outputs) if name not in made]
    if unknown:
        known = ", ".join(str(value.name) for value in original.graph.outputs)
        raise UsageError(f"--outputs names {unknown[0]!r}, which the model doesn't make; its outputs are {known}.")


def _samples(run: _Run, original: ir.Model) -> Samples | None:
    """Samples to calibrate on, or all that there are, where something is trained on them.

    Those of --test are opened too: what is wrong with either is said before any work.
    """
    settings, found, search = run.settings, None, run.target.kind == "max-drop"
    whole = trains(settings) or evolves(settings)
    if settings.data is not None:
        found = open_data(
            settings.data,
            inputs_of(original),
            labels=settings.labels,
            preprocess=settings.preprocess,
            limit=None if whole else MOST_CALIBRATING + (MOST_VALIDATION if search else 0),
            seed=settings.seed,
            metadata=original.metadata_props,
        )
    if settings.test is not None:
        run.test = open_data(
            settings.test,
            inputs_of(original),
            preprocess=settings.preprocess,
            seed=settings.seed,
            option="--test",
            metadata=original.metadata_props,
        )
    return found


def _of_data(*opened: Samples | None) -> list[str]:
    """What was found about the data, each thing once. An image may turn out to be damaged only when it's decoded."""
    return list(dict.fromkeys(warning for samples in opened if samples is not None for warning in samples.warnings))


def _recovery(settings: Settings, job: Job) -> list[Pass]:
    """The recovery passes, in order. By default survivors inherit where data or BatchNormalization can tell how.

    Where they inherit, statistics are re-estimated after it, for which it takes data.
    """
    names = settings.recover
    if names is None and evolves(settings):
        names = _raising(settings, job)
    if names is None and raises(settings):
        names = ("none",)
    if names is None:
        informed = job.samples is not None or any(node.op_type == "BatchNormalization" for node in job.original.graph)
        names = ("inherit",) if informed else ("none",)
    if names == ("inherit",) and job.samples is not None:
        names = ("inherit", "recalibrate")
    if evolves(settings):
        # The folder of the run is its lineage's; an offspring that was being trained begins anew.
        settings = replace(settings, training=replace(settings.training, run_dir=None, resume=False))
    return recovery_passes(settings, names)


def _raising(settings: Settings, job: Job) -> tuple[str, ...]:
    """What every offspring gets: closed forms, and training where a budget was given."""
    labelled = job.lessons is not None and job.lessons.labels is not None
    trained = ("finetune" if labelled else "distill",) if settings.training.has_budget else ()
    return ("inherit", "recalibrate", *trained)


def _perform(run: _Run, job: Job, passes: Sequence[Pass]) -> None:
    for step in passes:
        done = run_pass(step, job)
        run.passes.append(done)
        run.seconds[done.name] = done.seconds


@contextmanager
def _timed(run: _Run, name: str) -> Iterator[Stage]:
    """A stage on the terminal, and its seconds in the report."""
    start = time.perf_counter()
    with run.terminal.stage(name) as stage:
        yield stage
    run.seconds[name] = time.perf_counter() - start
