"""What makes a channel fit: the criteria by name, and the options of the Darwinian Score. Needs no numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from darwinc.errors import UsageError

FITNESS = {
    "darwin": "diversity x contribution x adaptability, refreshed after each death; without a trajectory 1/2 AGC x NDE "
    "(Optimal Brain Surgeon, Hassibi and Stork, 1993, on the readers of a channel)",
    "taylor": "first-order Taylor, E|sum of z g| (Molchanov et al., 2017)",
    "fisher": "diagonal Fisher, 1/2 E(sum of z g)^2 (Optimal Brain Damage, LeCun et al., 1990; Theis et al., 2018)",
    "chip": "change of the nuclear norm of the feature maps when a channel is left out (CHIP, Sui et al., 2021)",
    "fpgm": "sum of distances to the other filters of the group (FPGM, He et al., 2019)",
    "bn": "|scale| of the BatchNormalization that a channel passes through (network slimming, Liu et al., 2017)",
    "l1": "sum of absolute weights of the filters that make a channel (Li et al., 2017)",
    "l2": "sum of squared weights of the filters that make a channel",
    "random": "by chance, for comparison",
}
WEIGHTS_TELL = ("bn", "fpgm", "l1", "l2", "random")
"""The criteria that need no measurements."""
NORMALISATIONS = ("loss", "layer")


@dataclass(frozen=True)
class Scoring:
    """Options of the Darwinian Score (floor + d)^p (floor + a / median a)^q (floor + NAS)^r.

    d is the share of a unit's variance that its peers don't explain, a its contribution, NAS its adaptability.

    Attributes:
        exponents: p of diversity, q of contribution, r of adaptability; 0 leaves a factor out.
        floor: what is added to every factor, so that none of them decides alone.
        normalise: `loss` multiplies by 1/2 median a of each reader, which makes the score the predicted loss; `layer`
            leaves it relative to its layer.
        trajectory: a folder of checkpoints, or checkpoints in order, from which adaptability is taken; where there is
            none, and nothing is trained, the last factor is left out.
    """

    exponents: tuple[float, float, float] = (1.0, 1.0, 0.25)
    floor: float = 0.0
    normalise: str = "loss"
    trajectory: tuple[str, ...] = ()

    def judge(self, fitness: str) -> None:
        """Refuse what is wrong whatever the model is.

        Raises:
            UsageError: no such criterion, a value that doesn't exist, or an option that the criterion doesn't read.
        """
        judge_fitness(fitness)
        for field in fields(self) if fitness != "darwin" else ():
            if getattr(self, field.name) != field.default:
                raise UsageError(
                    f"--{field.name} was given, but --fitness {fitness} doesn't read it; it is for --fitness darwin."
                )
        if len(self.exponents) != 3 or not all(math.isfinite(power) and power >= 0 for power in self.exponents):
            given = ",".join(f"{power:g}" for power in self.exponents)
            raise UsageError(f"--exponents was given as {given}; give three numbers of 0 or more, such as 1,1,0.25.")
        if not any(self.exponents[:2]) and not (self.trajectory and self.exponents[2]):
            raise UsageError("--exponents leaves no factor that could rank channels; give one of more than 0.")
        if not (math.isfinite(self.floor) and self.floor >= 0):
            raise UsageError(f"--floor was given as {self.floor:g}; give 0 or more.")
        if self.normalise not in NORMALISATIONS:
            raise UsageError(f"There is no --normalise {self.normalise!r}; choose from {', '.join(NORMALISATIONS)}.")

    @property
    def is_loss(self) -> bool:
        """Is the score, adaptability aside, the predicted loss itself?"""
        return self.exponents[:2] == (1.0, 1.0) and self.floor == 0 and self.normalise == "loss"


SCORING = Scoring()
"""The defaults."""


def judge_fitness(name: str) -> None:
    """Refuse a criterion that doesn't exist; whether a function of the user's can be imported shows when it's needed.

    Raises:
        UsageError: it is neither in `FITNESS` nor package.module:callable.
    """
    if name not in FITNESS and ":" not in name:
        choices = ", ".join(FITNESS)
        raise UsageError(f"There is no fitness {name!r}; choose from {choices}, or package.module:callable.")
