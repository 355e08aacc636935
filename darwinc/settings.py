"""What a run is asked to do, and what is wrong with that whatever the model is."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darwinc.dynamics_options import DYNAMICS, Dynamics, judge_reading
from darwinc.errors import UsageError
from darwinc.evolution.environment import environment
from darwinc.evolution_options import EVOLUTION, Evolution
from darwinc.graph import check_folder
from darwinc.passes.cull import COUNTED
from darwinc.passes.distill import Distill
from darwinc.passes.finetune import Finetune
from darwinc.passes.inherit import Inherit
from darwinc.passes.recalibrate import Recalibrate
from darwinc.pipeline import Pass
from darwinc.preprocess_notes import FROM_MODEL, read_spec
from darwinc.scoring import SCORING, WEIGHTS_TELL, Scoring
from darwinc.training import TRAINING, Training, judge_loss, parse_outputs

RECOVERIES: dict[str, type[Pass]] = {
    "inherit": Inherit,
    "recalibrate": Recalibrate,
    "distill": Distill,
    "finetune": Finetune,
}
TARGETS = {
    **COUNTED,
    "latency": "fraction of latency",
    "synapses": "fraction of non-zero weights",
    "max-drop": "points of the metric",
}
TRAINED = ("distill", "finetune")
"""The recoveries that train."""
MOST_POINTS = 100.0
STRATEGIES = {
    "cull": "the least fit go; at once, or while the network trains where a budget is given",
    "select": "masses grow and shrink while the network trains, and what is extinct goes",
    "evolve": "generations of offspring are synthesised, raised and judged, and the fittest survive",
}


@dataclass(frozen=True)
class Target:
    """What is asked.

    `sparsity`, `macs`, `latency` and `synapses` are fractions removed (of parameters, of MACs, of the time in ONNX
    Runtime, of non-zero weights), `bytes` is the file's size at most, and `max-drop` the points that the metric may
    fall by, as small as that allows.
    """

    kind: str
    amount: float


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the model and the target; the defaults are the command line's.

    Attributes:
        data: calibration data (`darwinc.data.open_data`), or None for data-free mode.
        labels, preprocess: where the data needs them.
        test: labelled samples on which quality is measured and nothing else is done.
        strategy: one of `STRATEGIES`.
        dynamics: how channels compete while the network trains.
        evolution: how generations evolve.
        fitness, align, max_share, protect, only: see `passes.cull.Cull`.
        scoring: options of the `darwin` fitness.
        recover: `none`, or some of `RECOVERIES` in order; None chooses.
        training: budget and options of what trains: `distill` and `finetune`, or the competition.
        loss: what `finetune` minimises (`passes.finetune.Finetune`).
        teacher: the share of its loss that matches the original's answers.
        outputs: what outputs are, NAME=KIND,...; inferred where it isn't said.
        device: auto, cpu or cuda[:N].
        bench_seconds: how long latency is measured; 0 leaves it out.
    """

    data: str | None = None
    labels: str | None = None
    preprocess: str | None = None
    test: str | None = None
    strategy: str = "cull"
    dynamics: Dynamics = DYNAMICS
    evolution: Evolution = EVOLUTION
    fitness: str = "darwin"
    align: int = 0
    max_share: float = 0.9
    protect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    scoring: Scoring = SCORING
    recover: tuple[str, ...] | None = None
    training: Training = TRAINING
    loss: str = "auto"
    teacher: float = 0.5
    outputs: str = ""
    device: str = "auto"
    seed: int = 0
    bench_seconds: float = 5.0
    threads: int = 1
    dry_run: bool = False


def judge(settings: Settings, target: Target) -> None:
    """Refuse what is wrong whatever the model is, before it is read.

    Raises:
        UsageError: a value that doesn't exist, or that doesn't go with another one.
        OutputError: checkpoints can't be written.
    """
    _known("target", target.kind, TARGETS)
    most = {"bytes": math.inf, "max-drop": MOST_POINTS}.get(target.kind, 1.0)
    if not 0 < target.amount < most:
        range_ = "more than 0" if math.isinf(most) else f"between 0 and {most:g}"
        raise UsageError(f"The target {target.kind} was given as {target.amount:g}; it is {range_}.")
    if target.kind == "max-drop" and settings.data is None:
        raise UsageError("--max-drop takes samples on which the drop is measured; give --data.")
    settings.scoring.judge(settings.fitness)
    _known("strategy", settings.strategy, STRATEGIES)
    if target.kind == "synapses" and not evolves(settings):
        raise UsageError("--target-synapses leaves zeros in the weights that stay, which only --strategy evolve does.")
    if evolves(settings):
        _judge_evolution(settings, target)
    if raises(settings) and target.kind not in COUNTED:
        raise UsageError(
            f"The target {target.kind} is searched for, which can't be done while the network trains; use the "
            "train-free --strategy cull, or a target of parameters, MACs or bytes."
        )
    recover = settings.recover or ()
    for name in recover:
        _known("recovery", name, ("none", *RECOVERIES))
        if name in TRAINED and recover.count(name) > 1 and settings.training.run_dir is not None:
            raise UsageError(f"--recover names {name} twice, which has one checkpoint in --run-dir; name it once.")
    if not 0 <= settings.teacher <= 1:
        raise UsageError(f"--teacher was given as {settings.teacher:g}; it is a share from 0 to 1.")
    if "none" in recover and len(recover) > 1:
        raise UsageError("--recover none stands alone: it means that the weights stay as they are.")
    if trains(settings) and settings.data is None:
        what = f"--recover {','.join(recover)}" if recovers(settings) else f"--strategy {settings.strategy}"
        what = what if recovers(settings) or selects(settings) else f"{what} with a budget"
        raise UsageError(f"{what} takes samples to train on; give --data.")
    _judge_training(settings)
    if settings.labels is not None and settings.data is None:
        raise UsageError("--labels were given without --data; name the data that they belong to.")
    if settings.preprocess and settings.preprocess != FROM_MODEL:
        read_spec(settings.preprocess)
    if (raises(settings) or evolves(settings)) and settings.dry_run:
        raise UsageError(
            "--dry-run was given, but which channels go is only known once networks were trained or judged; plan with "
            "--strategy cull and no budget."
        )
    if settings.seed < 0:
        raise UsageError(f"The seed {settings.seed} is negative; give 0 or more.")
    if settings.device not in ("auto", "cpu"):
        device_of(settings.device)


def _judge_evolution(settings: Settings, target: Target) -> None:
    """What evolution can't do, and options that don't go together."""
    evolution = settings.evolution
    evolution.judge()
    if target.kind == "max-drop":
        raise UsageError("--max-drop is searched for by --strategy cull; give evolve a target of another kind.")
    if target.kind == "synapses" and evolution.heredity == "clusters":
        raise UsageError("--target-synapses takes --heredity synapses or both; clusters alone are whole channels.")
    # It refuses what this heredity can't save, whatever the goal.
    environment(evolution, target.kind, 1.0, 1)
    if settings.data is None:
        raise UsageError("--strategy evolve takes samples to judge offspring by; give --data.")
    if settings.fitness != "darwin":
        raise UsageError(
            f"--fitness {settings.fitness} was given, but evolution goes by --strength darwin or magnitude; leave it "
            "out."
        )
    if settings.training.resume is False and evolution.from_generation is not None:
        raise UsageError("--from-generation takes up an earlier run; give --resume and its --run-dir, too.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--strategy evolve starts workers of its own; run it without torchrun, with --workers.")


def _judge_training(settings: Settings) -> None:
    """Options of training that don't exist, or that nothing would read."""
    settings.training.judge()
    parse_outputs(settings.outputs)
    judge_loss(settings.loss)
    settings.dynamics.judge()
    if settings.evolution != EVOLUTION and not evolves(settings):
        raise UsageError("Options of evolution were given, but nothing evolves; add --strategy evolve.")
    judge_reading(settings.dynamics, selects=selects(settings), persists=persists(settings))
    if raises(settings) and settings.fitness != "darwin":
        raise UsageError(
            f"--fitness {settings.fitness} was given, but channels that compete while the network trains go by their "
            "own; leave it out."
        )
    if selects(settings) and settings.scoring != SCORING:
        raise UsageError("--strategy select doesn't go by the Darwinian Score; leave its options out.")
    if not trains(settings):
        training = settings.training
        options: dict[str, object] = {"steps": training.steps, "epochs": training.epochs, "minutes": training.minutes}
        options |= {"run-dir": training.run_dir, "outputs": settings.outputs or None}
        options["loss"] = None if settings.loss == "auto" else settings.loss
        options["run-dir"] = None if evolves(settings) else training.run_dir
        for name, value in options.items():
            if value is not None:
                raise UsageError(f"--{name} was given, but nothing is trained; add --recover distill or finetune.")
        return
    teaches = recovers(settings) and "finetune" not in (settings.recover or ())
    if teaches and not raises(settings) and settings.loss != "auto":
        raise UsageError("--loss was given, but distill reads no labels; add finetune to --recover.")
    # It imports torch, which takes seconds, and which training needs anyway.
    from darwinc.calibrators.training.augmentation import parse_augment

    parse_augment(settings.training.augment)
    _keep_checkpoints(settings)


def _known(what: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise UsageError(f"There is no {what} {name!r}; choose from {', '.join(names)}.")


def _keep_checkpoints(settings: Settings) -> None:
    """An earlier run's checkpoint is gone on from or left alone, never overwritten; and there is room for a new one."""
    if settings.training.run_dir is not None:
        check_folder(Path(settings.training.run_dir))
    if evolves(settings):
        return  # Its folder is a lineage, which says itself whether it's another run's.
    for name in (*TRAINED, settings.strategy) if trains(settings) else ():
        path = settings.training.checkpoint(name)
        if path is not None and path.exists() and not settings.training.resume:
            raise UsageError(
                f"{path} is the checkpoint of an earlier run; go on from it with --resume, or name another --run-dir."
            )


def recovers(settings: Settings) -> bool:
    """Is the smaller network trained?"""
    return any(name in TRAINED for name in settings.recover or ())


def selects(settings: Settings) -> bool:
    """Do channels compete by selection dynamics?"""
    return settings.strategy == "select"


def evolves(settings: Settings) -> bool:
    """Do generations evolve?"""
    return settings.strategy == "evolve"


def persists(settings: Settings) -> bool:
    """Are channels culled while the network trains? A budget says so that no recovery would use up."""
    return settings.strategy == "cull" and settings.training.has_budget and not recovers(settings)


def raises(settings: Settings) -> bool:
    """Is the whole network trained while channels leave it?"""
    return selects(settings) or persists(settings)


def trains(settings: Settings) -> bool:
    """Is anything trained?"""
    chosen = evolves(settings) and settings.recover is None and settings.training.has_budget
    return recovers(settings) or raises(settings) or chosen


def recovery_passes(settings: Settings, names: Iterable[str]) -> list[Pass]:
    """The recovery passes of these names, in order, with the settings' options."""
    made: list[Pass] = []
    shared: dict[str, Any] = {"training": settings.training, "outputs": settings.outputs}
    for name in names:
        if name == "distill":
            made.append(Distill(**shared))
        elif name == "finetune":
            made.append(Finetune(**shared, loss=settings.loss, teacher=settings.teacher))
        elif name != "none":
            made.append(RECOVERIES[name]())
    return made


def works_without_torch(settings: Settings) -> bool:
    """Is nothing measured or refitted, so that torch, which takes seconds to import, isn't needed?"""
    weighs = settings.fitness in WEIGHTS_TELL and not evolves(settings)
    return settings.device in ("auto", "cpu") and weighs and settings.recover == ("none",)


def device_of(asked: str) -> str:
    """The device that --device names, for torch.

    Raises:
        UsageError: there is no such device.
    """
    kind, _, number = asked.partition(":")
    if asked != "auto" and (kind not in ("cpu", "cuda") or (number and not number.isdigit())):
        raise UsageError(f"There is no device {asked!r}; choose auto, cpu, cuda or cuda:N.")
    # torch takes seconds to import, which nobody should wait for who misspelt a device.
    import torch

    if asked == "auto":
        # Each of the processes that torchrun starts on a machine has a GPU of its own.
        local = os.environ.get("LOCAL_RANK")
        return ("cuda" if local is None else f"cuda:{local}") if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {asked} was asked for, but torch finds no such CUDA GPU here; use --device cpu.")
    return asked
