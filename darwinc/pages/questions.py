"""What pages and gates ask of a report: ratios, points of a metric, barriers by reason, the groups that shrank most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from darwinc.report_schema import Barrier, Counts, Dynamics, Efficiency, Group, PopulationHistory, Quality, Recovery


@dataclass(frozen=True)
class MergedBarrier:
    """Barriers of one reason: how many nodes, of which operators, and one of them as an example."""

    reason: str
    count: int
    op_types: tuple[str, ...]
    example: str


def efficiency(before: Counts, after: Counts) -> Efficiency:
    """Before / after of every count; null where a count is missing or nothing is left."""

    def over(name: str) -> float | None:
        old, new = getattr(before, name), getattr(after, name)
        return old / new if old is not None and new else None

    return Efficiency(
        parameters=over("parameters"),
        macs=over("macs"),
        bytes=over("bytes"),
        synaptic=over("synapses"),
        cluster=over("kernels"),
    )


def points(quality: Quality) -> tuple[float | None, float | None]:
    """The metric before and after in points: 92.6 for an accuracy of 92.6 %.

    A metric whose figures both lie in [-1, 1] counts as a fraction unless `scale` says otherwise.
    """
    figures = (quality.before, quality.after)
    fraction = all(figure is None or abs(figure) <= 1 for figure in figures)
    if quality.scale == "points" or (quality.scale is None and not fraction):
        return figures
    before, after = (None if figure is None else 100 * figure for figure in figures)
    return before, after


def merge_barriers(barriers: Sequence[Barrier]) -> list[MergedBarrier]:
    """One row per reason, the most frequent first."""
    by_reason: dict[str, list[Barrier]] = {}
    for barrier in barriers:
        by_reason.setdefault(barrier.reason, []).append(barrier)
    rows = [
        MergedBarrier(reason, len(found), tuple(sorted({barrier.op_type for barrier in found})), found[0].node)
        for reason, found in by_reason.items()
    ]
    return sorted(rows, key=lambda row: -row.count)


def most_shrunk(groups: Sequence[Group], limit: int | None = 10) -> list[Group]:
    """The groups that lost channels, those that lost the largest share first."""
    shrunk = [group for group in groups if group.channels_after < group.channels_before]
    shrunk.sort(key=lambda group: (group.channels_after / group.channels_before, -group.channels_before))
    return shrunk[:limit]


def training_steps(recovery: Sequence[Recovery]) -> list[Recovery]:
    """The repairs that were trainings."""
    return [step for step in recovery if step.training is not None]


def lost_most(dynamics: Dynamics, groups: Sequence[Group]) -> list[PopulationHistory]:
    """The histories of the groups, those first that lost most: by extinctions, or by channels that are gone."""
    gone = {group.id: group.channels_before - group.channels_after for group in groups}

    def lost(history: PopulationHistory) -> int:
        return max(sum(step is not None for step in history.extinct), gone.get(history.id, 0))

    return sorted((history for history in dynamics.groups if history.masses), key=lambda history: -lost(history))


def causes_of_death(groups: Sequence[Group]) -> dict[str, int]:
    """How many channels died of what, in all groups; the most frequent cause first."""
    total: dict[str, int] = {}
    for group in groups:
        for cause, count in group.causes.items():
            total[cause] = total.get(cause, 0) + count
    return dict(sorted(total.items(), key=lambda entry: -entry[1]))
