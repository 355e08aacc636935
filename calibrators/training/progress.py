"""How far a training is, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What became of a training.

    Attributes:
        steps, epochs, seconds: what was used up.
        ended: budget, patience or divergence.
        before, best: the score of the network as it came and of the state that is handed back (see
            `Objective.score`).
        history: [step, training loss, score] at every evaluation.
    """

    steps: int
    epochs: float
    seconds: float
    ended: str
    before: tuple[float, float]
    best: tuple[float, float]
    history: list[list[float]] = field(default_factory=list)

    @property
    def improved(self) -> bool:
        """Is the state that is handed back better than the one that came?"""
        return self.best < self.before

    @property
    def reached(self) -> float:
        """The best error that training came to, be it worse than before."""
        return self.best[0] if self.improved else min((row[2] for row in self.history), default=self.before[0])


@dataclass
class Progress:
    """How far training is; `began_anew` says that survivors went on from the weights that training began with."""

    step: int = 0
    seconds: float = 0.0
    before: tuple[float, float] = (math.inf, math.inf)
    best: tuple[float, float] = (math.inf, math.inf)
    evaluated: int = 0
    asking: float = 0.0
    stale: int = 0
    ended: str = ""
    first_loss: float = math.nan
    high: int = 0
    began_anew: bool = False
    history: list[list[float]] = field(default_factory=list)
