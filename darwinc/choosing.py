"""Which pass decides who dies, by strategy and kind of target."""

from __future__ import annotations

from collections.abc import Sequence

from darwinc.console import Stage
from darwinc.errors import DarwincError
from darwinc.passes.cull import AUTO_ALIGN, Cull
from darwinc.passes.evolve import Evolve
from darwinc.passes.select import Persist, Select
from darwinc.pipeline import Job, Pass
from darwinc.searching.drop import FitDrop
from darwinc.searching.latency import FitTime
from darwinc.settings import TRAINED, Settings, Target, evolves, raises, selects


def liked_multiples(job: Job, target: Target, settings: Settings, stage: Stage) -> tuple[int, ...]:
    """The multiple of channels that each group should keep to be fast here; none where nobody asks for time.

    Measuring takes a second or two, and nothing once it's kept on disk. A search for time measures for itself.
    """
    if settings.align or settings.bench_seconds == 0 or target.kind == "latency":
        return ()
    # It draws in scipy's optimisers, which only a question of time should wait for.
    from darwinc import latency

    asked = latency.Asked(threads=settings.threads, progress=stage.at)
    try:
        curves = latency.curves_of(job.channels, asked)
    except DarwincError as error:
        job.warnings.append(f"Which widths are fast here could not be measured ({error}); multiples of 8 stay.")
        return ()
    job.multiples = latency.by_kind(curves)
    return tuple(latency.preferred(job.channels, curves, AUTO_ALIGN))


def chooser(target: Target, settings: Settings, recovery: Sequence[Pass], multiples: tuple[int, ...] = ()) -> Cull:
    """The pass that chooses.

    `multiples` are those of `liked_multiples`, `recovery` the passes that follow, or that every offspring gets. A
    search for the largest cut tries those of them that don't train; where one does, inheritance stands for all.
    """
    shared = vars(
        Cull(
            target.kind,
            target.amount,
            settings.fitness,
            settings.align,
            settings.max_share,
            settings.protect,
            settings.only,
            settings.scoring,
            multiples,
        )
    )
    if evolves(settings):
        return Evolve(
            **shared,
            evolution=settings.evolution,
            recovery=tuple(recovery),
            data=str(settings.data),
            labels=settings.labels,
            preprocess=settings.preprocess,
            run_dir=settings.training.run_dir,
            resume=settings.training.resume,
            threads=settings.threads,
            foresees=settings.bench_seconds > 0,
        )
    if raises(settings):
        kind = Select if selects(settings) else Persist
        return kind(
            **shared,
            training=settings.training,
            dynamics=settings.dynamics,
            loss=settings.loss,
            outputs=settings.outputs,
        )
    if target.kind == "latency":
        return FitTime(**shared, threads=settings.threads, measured=not settings.dry_run)
    if target.kind == "max-drop":
        names = tuple(step.name for step in recovery)
        return FitDrop(**shared, recover=("inherit",) if set(names) & set(TRAINED) else names)
    return Cull(**shared)
