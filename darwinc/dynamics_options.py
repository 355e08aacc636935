"""How channels compete while the network trains. The options alone; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from darwinc.errors import UsageError

KINDS = {
    "replicator": "the fitter than average gain mass from the others; the total is conserved",
    "mutator": "the same, with a share of the mass spread evenly, annealed to zero",
    "lotka-volterra": "channels that say the same compete for one place",
}
EVIDENCE = ("curvature", "gradient")


@dataclass(frozen=True)
class Dynamics:
    """What `--strategy select` and culling while training go by; the defaults are the command line's.

    Attributes:
        dynamic: one of `KINDS`.
        evidence: what fitness is read from: curvature, the logarithm of 1/2 E(sum z g)^2 of the divergence from
            oneself; or gradient, -dL/dm averaged over steps, which is all but noise where training has converged.
        rate: what a channel one deviation fitter than its group's mean gains in a round, as an exponent; 100 rounds
            make up the time in which channels compete.
        mutation: the share of its mass that every channel gives to all, at first; `mutator` alone reads it.
        competition: beta, the weight of fitness against competition; `lotka-volterra` alone reads it.
        extinct: the share of the mean mass below which a channel counts as extinct ...
        checks: ... where it stays there for so many rounds.
        windows: how often the score is measured while channels are culled in training.
        decay: how much of a channel's fitness a window keeps, F <- decay F + (1 - decay) DS.
        persistence: windows that a channel has to stay below the threshold before it is culled.
    """

    dynamic: str = "replicator"
    evidence: str = "curvature"
    rate: float = 0.1
    mutation: float = 0.02
    competition: float = 0.5
    extinct: float = 1e-3
    checks: int = 3
    windows: int = 20
    decay: float = 0.9
    persistence: int = 3

    def judge(self) -> None:
        """Refuse what no model could make right.

        Raises:
            UsageError: a value that doesn't exist.
        """
        if self.dynamic not in KINDS:
            raise UsageError(f"There is no --dynamic {self.dynamic!r}; choose from {', '.join(KINDS)}.")
        if self.evidence not in EVIDENCE:
            raise UsageError(f"There is no --evidence {self.evidence!r}; choose from {', '.join(EVIDENCE)}.")
        for name, share, least in (("mutation", self.mutation, True), ("extinct", self.extinct, False)):
            if not 0 <= share < 1 or (share == 0 and not least):
                raise UsageError(f"--{name} was given as {share:g}; it is a share between 0 and 1.")
        if not 0 <= self.decay < 1:
            raise UsageError(f"--decay was given as {self.decay:g}; it is a share from 0 to less than 1.")
        for name, value in (("rate", self.rate), ("competition", self.competition)):
            if not value > 0:
                raise UsageError(f"--{name} was given as {value:g}; give more than 0.")
        for name, count in (("checks", self.checks), ("windows", self.windows), ("persistence", self.persistence)):
            if count < 1:
                raise UsageError(f"--{name} was given as {count}; give at least 1.")


DYNAMICS = Dynamics()
"""The defaults."""

SELECTING = ("dynamic", "evidence", "rate", "mutation", "competition", "extinct", "checks")
"""What `--strategy select` reads."""
PERSISTING = ("windows", "decay", "persistence")
"""What culling while training reads."""
OWN = {"mutation": "mutator", "competition": "lotka-volterra"}
"""Options that one dynamic alone reads."""
FLAGS = {field.name: f"--{field.name}" for field in fields(Dynamics)}


def judge_reading(dynamics: Dynamics, *, selects: bool, persists: bool) -> None:
    """Refuse an option that nothing would read.

    Raises:
        UsageError: one was given that differs from its default.
    """
    for name, flag in FLAGS.items():
        if getattr(dynamics, name) == getattr(DYNAMICS, name):
            continue
        if name in SELECTING and not selects:
            raise UsageError(f"{flag} was given, but nothing reads it; add --strategy select.")
        if name in PERSISTING and not persists:
            raise UsageError(
                f"{flag} was given, but nothing is culled while training; give --strategy cull with --steps, --epochs "
                "or --minutes and without distill and finetune."
            )
        if name in OWN and dynamics.dynamic != OWN[name]:
            raise UsageError(f"{flag} was given, but only --dynamic {OWN[name]} reads it; choose that one.")
