"""From a job to a training run and back: the twins, where losses are taken, the batches, and what comes of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from darwinc.batching import free_batch
from darwinc.calibrators.endings import differentiable_endings
from darwinc.calibrators.lockstep import footprint, living_cuts
from darwinc.calibrators.training.augmentation import ignored_label
from darwinc.calibrators.training.course import Course, fused
from darwinc.calibrators.training.devices import make_fabric
from darwinc.calibrators.training.features import Feature, find_features
from darwinc.calibrators.training.feeding import Feeding
from darwinc.calibrators.training.held import Held
from darwinc.calibrators.training.labels import check_labels
from darwinc.calibrators.training.objectives import Ending, Objective, infer_endings
from darwinc.calibrators.training.progress import Outcome
from darwinc.channels import Mask
from darwinc.console import Stage
from darwinc.data import Samples, fitting_batches, fixed_batch
from darwinc.errors import DarwincError, InvalidData, UsageError
from darwinc.pipeline import Job
from darwinc.runtime import InputSpec, inputs_of
from darwinc.torch_graph import TorchGraph
from darwinc.training import Training

MOST_VALIDATION = 1000
"""Samples that select, at most."""
CPU_BYTES = 3 * 2**30
"""What the values of one feed may take on a CPU; on a GPU it is a share of what is free."""
GPU_SHARE = 0.4
NOTHING_TO_TRAIN = (
    "No gradient gets from this model's outputs to its weights, so there is nothing to train; leave out distill and "
    "finetune."
)
TRAINING_COPIES = 3
"""A training step holds about this many times what the forward pass makes: values, their gradients, the teacher's."""


@dataclass(frozen=True)
class Lesson:
    """What an objective is made from.

    Attributes:
        endings: where losses are taken, and what is there.
        features: inner values that can be matched.
        answers: the teacher's values at the endings, for one feed.
        labels: those of that feed's samples, or None.
        ignored: what dense labels hold where nothing is known.
    """

    endings: Sequence[Ending]
    features: Sequence[Feature]
    answers: Mapping[str, torch.Tensor]
    labels: torch.Tensor | None
    ignored: int


def teach(
    job: Job,
    stage: Stage,
    name: str,
    training: Training,
    told: Mapping[str, str],
    make_objective: Callable[[Lesson], Objective],
    *,
    options: Mapping[str, Any],
) -> Outcome:
    """Train the job's model towards what `make_objective` makes, and keep the outcome where it is better.

    Args and errors: see `enrol`.

    Raises:
        Interrupted: the user or a signal stopped it.
    """
    course = enrol(job, stage, name, training, told, make_objective, options=options, dead=job.dead)
    held = Held(job.silent, course.student.weights()) if job.silent else None
    trainer = course.trainer(stage, held)
    outcome = trainer.run()
    job.held_out = course.held_out
    if outcome.improved:
        job.model = job.model.clone()
        course.student.write_back(job.model)
    course.warn(trainer, outcome)
    job.recovery.append(course.entry(trainer, outcome))
    return outcome


def enrol(
    job: Job,
    stage: Stage,
    name: str,
    training: Training,
    told: Mapping[str, str],
    make_objective: Callable[[Lesson], Objective],
    *,
    options: Mapping[str, Any],
    dead: Mask,
) -> Course:
    """Everything that it takes to train the job's model.

    Args:
        name: of the pass; its checkpoint is called so.
        told: what outputs are, by name, where it isn't to be inferred.
        options: everything that the pass was asked for, `training` as a mapping; another run is told by them.
        dead: the components that the model has lost, or will lose.

    Raises:
        InvalidData, UsageError, InputError: the data, an option or a checkpoint doesn't fit the model.
    """
    samples = job.lessons
    if samples is None:
        raise UsageError(f"{name} takes samples to train on; give --data.")
    start = time.perf_counter()
    device = torch.device(job.device)
    fabric = make_fabric(device, training)
    identity = _identity(job, name, options)
    if fabric.broadcast(identity) != identity:
        raise DarwincError("The processes chose different channels to remove; give all of them the same data and seed.")
    inputs = inputs_of(job.original)
    least = None if samples.source.whole else fixed_batch(inputs)
    lessons, judges = split(samples, training.validation, job.seed, least=least or 1)
    stage.say("reading samples")
    pair = _twins(job, next(fitting_batches(lessons, inputs, 1)).feed, lessons, inputs)
    size = _feed_size(pair, lessons, training, fabric.world_size)
    # A feed of fewer samples would not fit the graph.
    full = judges if pair.batch is None else judges.take(slice(0, len(judges) // size * size))
    feed = partial(
        Feeding,
        inputs=inputs,
        device=device,
        batch=size,
        seed=job.seed,
        ignored=ignored_label(samples.labels),
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    learned, judged = feed(lessons, augment=training.augment), feed(full, augment="none")
    lesson = _lesson(job, pair, learned, told, dead)
    objective = make_objective(lesson)
    if objective.supervision is not None and lessons.labels is not None and judges.labels is not None:
        scores = lesson.answers[objective.supervision.ending.name]
        check_labels(objective.supervision, scores, {"training": lessons.labels, "validation": judges.labels})
    teacher, student = (fused(model, objective, device) for model in pair.models)
    _freeze_unreached(student, objective, learned[0].feed)
    # Training needs the memory that `pair` and `lesson` hold, so nothing here refers to them.
    return Course(
        job=job,
        name=name,
        training=training,
        objective=objective,
        student=student,
        teacher=teacher,
        model=pair.models[1],
        lessons=learned,
        judges=judged,
        held_out=judges,
        fabric=fabric,
        identity=identity,
        notes=pair.notes,
        probe=pair.probe if pair.batch is None else None,
        began=start,
    )


def split(samples: Samples, share: float, seed: int, *, least: int = 1) -> tuple[Samples, Samples]:
    """Samples to train on, and samples that select: `share` of them, `MOST_VALIDATION` at most.

    Either are `least` or more, which is what the model's file takes at once.

    Raises:
        InvalidData: too few samples.
    """
    if len(samples) < 2 * least:
        raise InvalidData(
            f"Training takes {2 * least} samples at least, {least} of them to select by, but {len(samples)} were "
            "given; give more."
        )
    count = min(max(least, min(round(share * len(samples)), MOST_VALIDATION)), len(samples) - least)
    order = np.random.default_rng(seed).permutation(len(samples))
    return samples.take(np.sort(order[count:])), samples.take(np.sort(order[:count]))


@dataclass(frozen=True)
class _Pair:
    """The original's twin, and both models, for feeds of `batch` samples, or of any number where it is None.

    `crowded` names values on one axis of which samples and channels lie together.
    """

    teacher: TorchGraph
    models: tuple[ir.Model, ir.Model]
    probe: Mapping[str, npt.NDArray[np.generic]]
    batch: int | None
    notes: list[str]
    crowded: Sequence[str] = ()


def _twins(
    job: Job, probe: Mapping[str, npt.NDArray[np.generic]], samples: Samples, inputs: Sequence[InputSpec]
) -> _Pair:
    """Twins of the original and of the model that take any number of samples at once, where the graph can be made to.

    Where it can't, gradients are accumulated over feeds as the file wants them.
    """
    teacher, models = TorchGraph(job.original, device=job.device), (job.original, job.model)
    if samples.source.whole:
        return _Pair(teacher, models, probe, 1, ["each sample is a feed of its own: gradients are accumulated"])
    first = free_batch(job.original, probe, twin=teacher)
    second = free_batch(job.model, probe, device=job.device)
    for found in (first, second):
        if not found.free or set(found.axes.values()) != {0}:
            why, batch = found.reason or "samples don't lie along the first axis", fixed_batch(inputs) or 1
            return _Pair(teacher, models, probe, batch, [f"feeds of {batch}, gradients accumulated: {why}"])
    notes = ["several samples at once, although the file fixes how many it takes"] if first.twin is not teacher else []
    return _Pair(first.twin, (first.model, second.model), probe, None, notes, first.crowded(job.channels))


def _feed_size(pair: _Pair, samples: Samples, training: Training, world: int) -> int:
    """How many samples go through the network at once, over all processes: as many as memory allows."""
    if pair.batch is not None:
        return pair.batch * world
    needed = TRAINING_COPIES * max(footprint(pair.teacher, pair.probe).total, 1)
    allowed: float = CPU_BYTES
    if pair.teacher.device.type == "cuda":
        allowed = GPU_SHARE * torch.cuda.mem_get_info(pair.teacher.device)[0]
    fits = max(1, int(allowed // needed))
    wanted = max(1, min(training.batch // world, len(samples) // world))
    # Equal parts, so that every step sees as many samples.
    return max(1, wanted // -(-wanted // fits)) * world


def _lesson(job: Job, pair: _Pair, learned: Feeding, told: Mapping[str, str], dead: Mask) -> Lesson:
    names = [
        name
        for name in differentiable_endings(pair.teacher)
        if not living_cuts(job.channels, dead, name, pair.teacher.device)
    ]
    if not names:
        raise InvalidData(NOTHING_TO_TRAIN)
    batch = learned[0]
    with torch.no_grad():
        answers = pair.teacher(batch.feed, also=names)
    endings = infer_endings(pair.teacher, names, answers, told)
    features = find_features(pair.teacher, job.channels, dead, names, avoid=pair.crowded)
    return Lesson(endings, features, answers, batch.labels, learned.ignored)


def _freeze_unreached(student: TorchGraph, objective: Objective, feed: Mapping[str, torch.Tensor]) -> None:
    """Weights that no gradient reaches from where losses are taken ask for none.

    Raises:
        InvalidData: no weight is left.
    """
    values = student(feed, also=objective.names)
    ends = [values[name] for name in objective.learnt if values[name].requires_grad]
    weights = [weight for weight in student.weights().values() if weight.requires_grad]
    if not ends or not weights:
        raise InvalidData(NOTHING_TO_TRAIN)
    found = torch.autograd.grad([end.sum() for end in ends], weights, allow_unused=True)
    for weight, gradient in zip(weights, found, strict=True):
        weight.requires_grad_(gradient is not None)


def _identity(job: Job, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes one run the same as another; as JSON gives it back."""
    training = {key: value for key, value in options["training"].items() if key not in ("run_dir", "resume")}
    asked = {**options, "training": training}
    dead = hashlib.sha256(np.packbits(job.dead).tobytes()).hexdigest()
    lessons = len(job.lessons) if job.lessons is not None else 0
    found = {"pass": name, "seed": job.seed, "dead": dead, "samples": lessons, "options": asked}
    return cast(dict[str, Any], json.loads(json.dumps(found)))
