"""Which samples measure, which teach, and which only judge."""

from __future__ import annotations

import numpy as np

from darwinc.data import Samples
from darwinc.errors import UsageError

MOST_CALIBRATING = 2048
"""Samples that statistics are gathered on."""
MOST_VALIDATION = 1000
"""Samples that a search for the largest cut judges by."""
DROP_SHARE = 1 / 3
FEWEST_FOR_DROP = 12

OFFSPRING_SHARE = 0.2
FEWEST_JUDGING, MOST_JUDGING = 256, 5000
"""Samples that offspring are judged by: no more than a fifth of all, and than `JUDGING_MACS` pay for."""
JUDGING_MACS = 2e11
FEWEST_FOR_OFFSPRING = 20


def calibrating(samples: Samples, seed: int) -> Samples:
    """The samples that statistics are gathered on, drawn at random, in order."""
    order = np.random.default_rng(seed).permutation(len(samples))
    return samples.take(np.sort(order[:MOST_CALIBRATING]))


def hold_out(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """The samples that a search for the largest cut judges by, drawn at random, and the others.

    Raises:
        UsageError: too few to do without any.
    """
    if len(samples) < FEWEST_FOR_DROP:
        raise UsageError(
            f"--max-drop holds out a part of --data to judge by, but {len(samples)} samples were found; "
            f"give at least {FEWEST_FOR_DROP}."
        )
    return samples.split(min(DROP_SHARE, MOST_VALIDATION / len(samples)), seed)


def hold_out_for_offspring(samples: Samples, macs: int, seed: int) -> tuple[Samples, Samples]:
    """The samples that offspring are judged by, drawn at random, and those that they learn from.

    `macs` are those of the original for one sample: many offspring are judged, so that large networks see fewer.

    Raises:
        UsageError: too few.
    """
    if len(samples) < FEWEST_FOR_OFFSPRING:
        raise UsageError(
            f"--strategy evolve holds out a part of --data to judge offspring by, but {len(samples)} samples were "
            f"found; give at least {FEWEST_FOR_OFFSPRING}."
        )
    affordable = int(min(max(JUDGING_MACS / max(macs, 1), FEWEST_JUDGING), MOST_JUDGING))
    return samples.split(min(OFFSPRING_SHARE, affordable / len(samples)), seed)
