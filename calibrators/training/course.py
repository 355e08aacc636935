"""One training run: its networks, batches and options, and what the report says of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from lightning_fabric import Fabric

from darwinc.batching import free_batch
from darwinc.calibrators.training.companion import Companion
from darwinc.calibrators.training.devices import precision_of
from darwinc.calibrators.training.feeding import Feeding
from darwinc.calibrators.training.objectives import Objective
from darwinc.calibrators.training.progress import Outcome
from darwinc.calibrators.training.trainer import Trainer
from darwinc.console import Stage
from darwinc.data import Samples
from darwinc.pipeline import Job
from darwinc.torch_graph import TorchGraph
from darwinc.training import Training


@dataclass
class Course:
    """All that a training run is made of.

    Attributes:
        student, teacher: twins made for speed; the student's weights are the job's model's.
        model: what the student is a twin of, which takes any number of samples where it can be made to.
        lessons, judges: batches to train on, and batches that select.
        held_out: the samples of `judges`, and those that make up no whole feed.
        identity: what another run is told by.
        probe: one feed, where models are made to take any number of samples; else None.
        began: `time.perf_counter` when it all began.
    """

    job: Job
    name: str
    training: Training
    objective: Objective
    student: TorchGraph
    teacher: TorchGraph
    model: ir.Model
    lessons: Feeding
    judges: Feeding
    held_out: Samples
    fabric: Fabric
    identity: Mapping[str, Any]
    notes: list[str]
    probe: Mapping[str, npt.NDArray[np.generic]] | None
    began: float

    def trainer(self, stage: Stage, companion: Companion | None = None) -> Trainer:
        """The loop, ready to run."""
        _tell_of_checkpoint(self.job, self.name, self.training)
        return Trainer(
            self.student,
            self.teacher,
            self.objective,
            self.lessons,
            self.judges,
            self.training,
            fabric=self.fabric,
            stage=stage,
            checkpoint=self.training.checkpoint(self.name),
            identity=self.identity,
            companion=companion,
        )

    def twin(self, model: ir.Model) -> TorchGraph:
        """A twin for speed of another rewrite of the original, which takes the same batches."""
        taken = model if self.probe is None else free_batch(model, self.probe, device=self.job.device).model
        return fused(taken, self.objective, torch.device(self.job.device))

    def entry(self, trainer: Trainer, outcome: Outcome) -> dict[str, Any]:
        """What the report says of the run."""
        device, training = torch.device(self.job.device), self.training
        augmentation = self.lessons.augmentation
        return {
            "name": self.name,
            "accepted": outcome.improved,
            "measure": self.objective.measure,
            "error_before": outcome.before[0],
            "error_after": outcome.reached,
            "seconds": time.perf_counter() - self.began,
            "notes": self.notes,
            "training": {
                "steps": outcome.steps,
                "epochs": outcome.epochs,
                "seconds": outcome.seconds,
                "ended": outcome.ended,
                "history": outcome.history,
                "optimizer": training.optimizer,
                "augmentation": None if augmentation is None else ", ".join(augmentation.kinds),
                "samples": len(self.lessons.samples),
                "validation": len(self.judges.samples),
                "batch": self.lessons.batch * trainer.accumulate,
                "device": str(device),
                "devices": self.fabric.world_size,
                "compiled": trainer.compiled,
                "precision": precision_of(device, training),
                "endings": {ending.name: ending.kind for ending in self.objective.endings},
                "features": [feature.name for feature in self.objective.features],
            },
        }

    def warn(self, trainer: Trainer, outcome: Outcome) -> None:
        """What went wrong on the way."""
        self.job.warnings.extend(trainer.warnings)
        if outcome.ended == "divergence":
            began = math.isfinite(outcome.before[0])
            self.job.warnings.append(
                f"{self.name} stopped at step {outcome.steps}, because its loss diverged; the best state so far was "
                "kept. "
                + ("Try a lower --learning-rate." if began else "It was no number before the first step either.")
            )


def _tell_of_checkpoint(job: Job, name: str, training: Training) -> None:
    """A resumed run says that it is one; and so does one that finds nothing to go on from."""
    path = training.checkpoint(name)
    if not training.resume or path is None:
        return
    if path.exists():
        job.terminal.note(f"{name}: going on from {path}")
    else:
        said = f"There is no checkpoint {path} to go on from: {name} starts from the beginning."
        job.terminal.warn(said)
        job.warnings.append(said)


def fused(model: ir.Model, objective: Objective, device: torch.device) -> TorchGraph:
    """A twin made for speed, which still gives what the objective reads."""
    twin = TorchGraph(model, device=device, fused=True, keep=objective.names)
    ranks = {weight.ndim for weight in twin.weights().values()}
    if 4 in ranks and 5 not in ranks:
        twin.to(memory_format=torch.channels_last)
    return twin
