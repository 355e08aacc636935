"""Which channels die: by the loss that their deaths are predicted to cost and by what they save, under alignment.

Greedy elimination (`greedy`) meets a number of parameters, MACs or bytes. It also records whole paths: the order of
death in every group and what it costs (`path`). On such curves the widths for any price are allocated (`allocation`).
"""

from darwinc.selection.allocation import allocate, furthest
from darwinc.selection.greedy import select, trace
from darwinc.selection.limits import (
    SHORTFALL,
    TOLERANCE,
    Limits,
    Selection,
    floor,
    quantum,
    reachable,
)
from darwinc.selection.path import Path, replay

__all__ = [
    "SHORTFALL",
    "TOLERANCE",
    "Limits",
    "Path",
    "Selection",
    "allocate",
    "floor",
    "furthest",
    "quantum",
    "reachable",
    "replay",
    "select",
    "trace",
]
