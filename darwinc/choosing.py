"""Which pass decides who dies, by strategy and kind of target."""

from __future__ import annotations

from collections.abc import Sequence

from darwinc.passes.cull import Cull
from darwinc.passes.select import Persist, Select
from darwinc.pipeline import Pass
from darwinc.searching.drop import FitDrop
from darwinc.searching.latency import FitTime
from darwinc.settings import TRAINED, Settings, Target, raises, selects


def chooser(target: Target, settings: Settings, recovery: Sequence[Pass]) -> Cull:
    """The pass that chooses.

    `recovery` are the passes that follow. A search for the largest cut tries those that don't train; where one does,
    inheritance stands for all of them.
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
        )
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
