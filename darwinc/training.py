"""How a network is trained: budget, optimiser, precision. The options alone; nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from darwinc.errors import UsageError
from darwinc.user_code import current_folder_importable, named

DEFAULT_MINUTES = 5.0
"""The budget where none was given."""
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILING = ("auto", "on", "off")
LOSSES = ("cross-entropy", "binary", "dense")
OUTPUT_KINDS = ("classes", "dense", "binary", "values", "ignore")


@dataclass(frozen=True)
class Training:
    """What `distill` and `finetune` have in common; the defaults are the command line's.

    Attributes:
        steps, epochs, minutes: the budget. Training ends where the first of them is used up; with none of them after
            `DEFAULT_MINUTES`.
        batch: samples per step, over all devices.
        optimizer: adamw or sgd (with Nesterov's momentum).
        learning_rate: the peak; None for the optimiser's own. For adamw it is relative to the root mean square of
            each tensor, so that it suits weights of any scale.
        weight_decay: decoupled for adamw; for matrices and filters only.
        precision: fp32, or autocast to bf16 or fp16; auto is bf16 on a CUDA GPU that has it, else fp32.
        compile: torch.compile; auto is on for a CUDA GPU where the budget is long enough to pay.
        augment: auto, none, or a list of flip and shift.
        validation: the share of the samples that selects and is never trained on.
        patience: evaluations without an improvement after which training stops; 20 make up the budget. Most of what
            training wins it wins at the end, when steps are small.
        run_dir: where checkpoints go; None for none.
        resume: go on from the checkpoint there.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch: int = 64
    optimizer: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float | None = None
    precision: str = "auto"
    compile: str = "auto"
    augment: str = "auto"
    validation: float = 0.1
    patience: int = 15
    run_dir: str | None = None
    resume: bool = False

    def judge(self) -> None:
        """Refuse what no model could make right.

        Raises:
            UsageError: a value that doesn't exist or doesn't go with another one.
        """
        for name, value in (("steps", self.steps), ("epochs", self.epochs), ("minutes", self.minutes)):
            if value is not None and not value > 0:
                raise UsageError(f"--{name} was given as {value:g}; give more than 0.")
        if self.batch < 1:
            raise UsageError(f"--batch was given as {self.batch}; give at least 1.")
        for name, word, choices in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, PRECISIONS),
            ("compile", self.compile, COMPILING),
        ):
            if word not in choices:
                raise UsageError(f"There is no --{name} {word!r}; choose from {', '.join(choices)}.")
        for name, rate in (("learning-rate", self.learning_rate), ("weight-decay", self.weight_decay)):
            if rate is not None and not rate >= 0:
                raise UsageError(f"--{name} was given as {rate:g}; give 0 or more.")
        if not 0 < self.validation < 1:
            raise UsageError(f"--validation was given as {self.validation:g}; it is a share between 0 and 1.")
        if self.resume and self.run_dir is None:
            raise UsageError("--resume was given without --run-dir; name the folder of the run that is to go on.")

    @property
    def allowed_minutes(self) -> float | None:
        """The budget in minutes: the default where no budget was given."""
        return self.minutes if self.has_budget else DEFAULT_MINUTES

    @property
    def has_budget(self) -> bool:
        """Was any budget given?"""
        return not (self.steps is None and self.epochs is None and self.minutes is None)

    def checkpoint(self, name: str) -> Path | None:
        """Where the pass of this name keeps its checkpoint."""
        return None if self.run_dir is None else Path(self.run_dir) / f"{name}.safetensors"


TRAINING = Training()
"""The defaults."""


def judge_loss(loss: str) -> None:
    """Refuse a loss that doesn't exist, or a function of the user's that can't be found.

    Raises:
        UsageError: it is neither `auto`, one of `LOSSES`, nor package.module:function.
    """
    if ":" in loss:
        find_loss(loss)
    elif loss not in ("auto", *LOSSES):
        choices = ", ".join(LOSSES)
        raise UsageError(f"There is no --loss {loss!r}; choose from auto, {choices}, or package.module:function.")


def find_loss(spec: str) -> Callable[..., object]:
    """The function that `package.module:function` names; modules in the current folder are found too.

    Raises:
        UsageError: there is none.
    """
    try:
        with current_folder_importable():
            found = named(spec)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--loss {spec} can't be imported ({error}); give package.module:function.") from error
    if not callable(found):
        raise UsageError(f"--loss {spec} is no function; name one that takes outputs by name and labels.")
    return found


def leads() -> bool:
    """Is this the process that writes, of those that torchrun started? A process alone is."""
    return os.environ.get("RANK", "0") == "0"


def parse_outputs(text: str | None) -> dict[str, str]:
    """`boxes=values,scores=binary` as kinds by output name.

    Raises:
        UsageError: a part that isn't NAME=KIND.
    """
    kinds: dict[str, str] = {}
    for part in (text or "").split(","):
        name, _, kind = part.strip().rpartition("=")
        if not part.strip():
            continue
        if not name or kind not in OUTPUT_KINDS:
            raise UsageError(
                f"--outputs has {part.strip()!r}; write NAME=KIND, where KIND is one of {', '.join(OUTPUT_KINDS)}."
            )
        kinds[name] = kind
    return kinds
