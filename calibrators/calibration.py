"""What a job measures with: batches, the twin of the original, and the statistics, from data or without any.

Rungs, best first: `data`; `batchnorm`, made-up images on which every BatchNormalization is made to see the mean and deviation
that it stores; `white`, made-up images alone; `weights`, where torch has no rule for an operator and every layer's input is taken
to be white.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc.calibrators.lockstep import Footprint, footprint
from darwinc.calibrators.recalibrate import reestimate
from darwinc.calibrators.statistics import Statistics, gather
from darwinc.calibrators.weights_only import from_weights
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import CostModel
from darwinc.data import Samples, synthetic
from darwinc.errors import UnsupportedOperator
from darwinc.pipeline import Job
from darwinc.runtime import InputSpec
from darwinc.torch_graph import TorchGraph

Feed = Mapping[str, npt.NDArray[np.generic]]

BATCH = 64
MOST_SAMPLES = 2048
SYNTHETIC_MACS = 40e9
"""Made-up samples are as many as this many MACs pay for, within the bounds below."""
FEWEST_SYNTHETIC, MOST_SYNTHETIC = 8, 512
FRONTIER_BYTES = 768 * 2**20
"""What both networks' values between two nodes may take, for all samples together."""
BACKWARD_BYTES = 192 * 2**20
"""What one batch's values may take while gradients are computed."""
SYNTHETIC_FRONTIER_BYTES = 128 * 2**20
HOLDOUT = 8
"""One batch in this many only judges."""
FEWEST_BATCHES = 4


@dataclass
class Calibration:
    """The batches to measure on, and the twin to measure with.

    `twin` is None on the rung `weights`; on the rung `batchnorm` its running statistics are those of the made-up samples.
    """

    rung: str
    twin: TorchGraph | None
    batches: list[Feed]

    @property
    def holdout(self) -> int:
        """How many of the last batches only judge."""
        return max(1, len(self.batches) // HOLDOUT)

    @property
    def samples(self) -> int:
        """How many samples all batches hold."""
        return sum(_length(feed) for feed in self.batches)


def prepare(model: ir.Model, channels: Channels, samples: Samples | None, *, device: str, seed: int, limit: int = MOST_SAMPLES) -> Calibration:
    """Choose the best rung that the model and the data allow.

    Raises:
        InvalidData: samples that can't be read.
    """
    try:
        twin = TorchGraph(model, device=device)
        return _from_data(twin, samples, limit, seed) if samples is not None else _made_up(model, twin, channels, seed)
    except UnsupportedOperator:
        return Calibration("weights", None, [])


def calibration_of(job: Job) -> Calibration:
    """The job's calibration, prepared once."""
    if job.calibration is None:
        job.calibration = prepare(job.original, job.channels, job.samples, device=job.device, seed=job.seed)
        if job.calibration.twin is None:
            job.warnings.append("Torch has no rule for an operator of this model: fitness is measured on the weights alone, data is not used.")
    return job.calibration


def statistics_of(job: Job, stage: Stage) -> Statistics:
    """The statistics of every reader. They are large: whoever asks holds them as long as needed, and nobody else does."""
    calibration = calibration_of(job)
    if calibration.twin is None:
        return from_weights(job.channels)
    stage.say(f"calibrating on {calibration.samples} samples")
    found = gather(
        calibration.twin,
        job.channels,
        calibration.batches,
        rung=calibration.rung,
        seed=job.seed,
        gradients=True,
        progress=lambda done: stage.at(done / calibration.samples),
    )
    stage.at(1.0)
    return found


def _from_data(twin: TorchGraph, samples: Samples, limit: int, seed: int) -> Calibration:
    order = np.random.default_rng(seed).permutation(len(samples))[:limit]
    chosen = samples.take(order)
    probe = next(iter(chosen.take(slice(0, 1)).batches(1))).feed
    size = footprint(twin, probe)
    count = max(2, min(len(chosen), FRONTIER_BYTES // max(2 * size.frontier, 1)))
    batch = _batch_size(twin, probe, count, size)
    return Calibration("data", twin, [batch.feed for batch in chosen.take(slice(0, count)).batches(batch)])


def _made_up(model: ir.Model, twin: TorchGraph, channels: Channels, seed: int) -> Calibration:
    inputs = input_specs(model)
    probe = next(iter(synthetic(inputs, 1, seed).batches(1))).feed
    macs = max(CostModel(channels).macs(channels.nobody()), 1)
    count = int(min(max(SYNTHETIC_MACS / macs, FEWEST_SYNTHETIC), MOST_SYNTHETIC))
    size = footprint(twin, probe)
    count = max(2, min(count, SYNTHETIC_FRONTIER_BYTES // max(size.frontier, 1)))
    batches = [batch.feed for batch in synthetic(inputs, count, seed).batches(_batch_size(twin, probe, count, size))]
    changed = reestimate(twin, batches)
    return Calibration("batchnorm" if changed else "white", twin, batches)


def _batch_size(twin: TorchGraph, probe: Feed, count: int, size: Footprint) -> int:
    """How many samples go in one batch: many where the graph takes them and answers alike, so that a fixed batch isn't a trap."""
    wanted = max(1, min(BATCH, -(-count // FEWEST_BATCHES), BACKWARD_BYTES // max(size.total, 1)))
    if wanted == 1:
        return 1
    try:
        alone = list(twin.detached(probe).values())
        double = list(twin.detached({name: np.concatenate([array, array]) for name, array in probe.items()}).values())
    except (RuntimeError, ValueError, IndexError):
        return 1
    alike = all(
        two.ndim > 0 and one.ndim > 0 and two.shape[0] == 2 * one.shape[0] and bool((two[: one.shape[0]] - one).abs().max() <= 1e-3 * (1 + one.abs().max()))
        for one, two in zip(alone, double, strict=True)
    )
    return wanted if alike else 1


def input_specs(model: ir.Model) -> list[InputSpec]:
    """The graph inputs that a feed must give."""
    return [
        InputSpec(str(value.name), np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32), tuple(_sizes(value)))
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]


def _sizes(value: ir.Value) -> Iterator[int | str | None]:
    for size in value.shape or ():
        yield size if isinstance(size, int) else size.value


def _length(feed: Feed) -> int:
    return max((len(array) for array in feed.values() if array.ndim), default=1)
