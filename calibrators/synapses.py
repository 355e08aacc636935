"""How strong single weights are: what their loss is predicted to cost, or how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from darwinc import graph
from darwinc.calibrators.calibration import Feed, calibration_of
from darwinc.calibrators.statistics import curvature_objective
from darwinc.channels import Mask
from darwinc.console import Stage
from darwinc.data import samples_in
from darwinc.evolution.appraisal import Strengths
from darwinc.evolution.genome import Genome
from darwinc.evolution.wiring import Wiring
from darwinc.pipeline import Job
from darwinc.torch_graph import TorchGraph

SLICE = 4
"""Samples of a batch whose gradients are squared together."""
PASSES = 128
"""So many squares are averaged, at most."""

Arrays = dict[str, npt.NDArray[np.float32]]


def synapse_strengths(job: Job, genome: Genome, strength: str, stage: Stage) -> dict[str, Strengths]:
    """Of every weight that may lose synapses, by name, in the shape of the job's original; 0 for what is dead.

    `magnitude` is |w| over the largest of its layer. `darwin` is the rank, among all living synapses of the network,
    of the loss that its removal is predicted to cost: 1/2 w^2 E[g^2] (Optimal Brain Damage, LeCun et al., 1990, with
    the diagonal of the Fisher information), ties by magnitude. It takes gradients: where torch has no rule for an
    operator, it is the rank of the magnitude.
    """
    stored, wiring, whole = graph.constants(job.original), Wiring(job.channels), np.ones((), np.bool_)
    living = {name: wiring.living(name, genome.dead) & genome.synapses.get(name, whole) for name in wiring.weights}
    sizes = {name: _relative(stored[name].numpy()) * mask for name, mask in living.items()}
    if strength == "magnitude":
        return sizes
    costs = {name: np.zeros(mask.shape, np.float32) for name, mask in living.items()}
    calibration = calibration_of(job)
    if calibration.twin is not None:
        stage.say("weighing synapses")
        squares = squared_gradients(calibration.twin, list(living), islice(calibration.cut_to(SLICE), PASSES), job.seed)
        for name, found in squares.items():
            costs[name] = np.asarray(0.5 * np.square(stored[name].numpy(), dtype=np.float32) * found, np.float32)
    return _ranked(living, costs, sizes)


def squared_gradients(twin: TorchGraph, names: list[str], feeds: Iterator[Feed], seed: int) -> Arrays:
    """E[g^2] of weights by name, with g the gradient for one sample of a label-free curvature objective.

    Gradients of samples with labels, or directions, of their own are independent and have mean zero: the expectation
    of their sum's square is the sum of their squares, so that several samples can be squared together.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: weight for name, weight in twin.weights().items() if name in names and weight.requires_grad}
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    samples = 0
    for feed in feeds:
        objective = curvature_objective(list(twin(feed).values()), generator)
        samples += samples_in(feed)
        if objective is None or not weights:
            continue
        found = torch.autograd.grad(objective, list(weights.values()), allow_unused=True)
        for total, gradient in zip(totals.values(), found, strict=True):
            if gradient is not None:
                total += gradient.square()
    return {name: (total.detach() / max(samples, 1)).cpu().numpy() for name, total in totals.items()}


def _relative(weight: npt.NDArray[np.generic]) -> Strengths:
    """|w| over the largest of its layer."""
    found = np.abs(np.asarray(weight, np.float32))
    return np.asarray(found / max(float(found.max(initial=0.0)), 1e-30), np.float32)


def _ranked(living: Mapping[str, Mask], costs: Arrays, sizes: Arrays) -> Arrays:
    """Ranks among all that live over their number, the dearest 1: by cost, then by size."""
    if not living:
        return {}
    cost, size = (np.concatenate([of[name][mask] for name, mask in living.items()]) for of in (costs, sizes))
    ranks = np.empty(len(cost), np.float32)
    ranks[np.lexsort((size, np.nan_to_num(cost)))] = np.arange(1, len(cost) + 1) / max(len(cost), 1)
    found, start = {}, 0
    for name, mask in living.items():
        found[name] = np.zeros(mask.shape, np.float32)
        count = int(np.count_nonzero(mask))
        found[name][mask] = ranks[start : start + count]
        start += count
    return found
