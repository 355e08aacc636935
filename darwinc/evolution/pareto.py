"""Networks that no other one beats in everything at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from darwinc.evolution_schema import Individual
from darwinc.fitness.statistics import Matrix, Vector


def pareto(records: Sequence[Individual]) -> list[str]:
    """The ids of those that nobody dominates in (quality up; parameters, MACs and foreseen latency down), in order.

    One dominates another where it is as good in all of them and better in one, so equals all stay. Networks without a
    quality don't take part; a cost that one of the others doesn't have is not compared.
    """
    known = [record for record in records if record.quality is not None]
    columns = [[-float(record.quality or 0.0) for record in known]]
    for costs in (
        [record.parameters for record in known],
        [record.macs for record in known],
        [record.latency_ms for record in known],
    ):
        numbers = [float(cost) for cost in costs if cost is not None]
        if len(numbers) == len(known):
            columns.append(numbers)
    table: Matrix = np.array(columns).T
    return [record.id for record, row in zip(known, table, strict=True) if not _is_dominated(row, table)]


def _is_dominated(row: Vector, table: Matrix) -> bool:
    """Is a row [D] beaten by one of the table's [N, D], where less is better?"""
    return bool(((table <= row).all(axis=1) & (table < row).any(axis=1)).any())
