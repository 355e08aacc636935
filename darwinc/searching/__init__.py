"""Targets that can't be counted on the graph: they are searched for, with measurements of what a cut does."""

from __future__ import annotations

from collections.abc import Sequence

from darwinc.passes.cull import Cull
from darwinc.pipeline import Pass
from darwinc.searching.drop import FitDrop
from darwinc.searching.latency import FitTime
from darwinc.settings import TRAINED, Settings, Target


def chooser(target: Target, settings: Settings, recovery: Sequence[Pass]) -> Cull:
    """The pass that chooses who dies for this kind of target.

    `recovery` are the passes that follow. A search for the largest cut tries those that don't train; where one does,
    inheritance stands for all of them.
    """
    shared = Cull(
        target.kind,
        target.amount,
        settings.fitness,
        settings.align,
        settings.max_share,
        settings.protect,
        settings.only,
        settings.scoring,
    )
    if target.kind == "latency":
        return FitTime(**vars(shared), threads=settings.threads, measured=not settings.dry_run)
    if target.kind == "max-drop":
        names = tuple(step.name for step in recovery)
        return FitDrop(**vars(shared), recover=("inherit",) if set(names) & set(TRAINED) else names)
    return shared
