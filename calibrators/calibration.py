"""What a job measures with: batches, the twin of the original, and the statistics, from data or without any.

Rungs, best first: `data`; `batchnorm`, made-up images on which every BatchNormalization is made to see the mean and
deviation that it stores; `white`, made-up images alone; `weights`, where torch has no rule for an operator and every
layer's input is taken to be white.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc.batching import free_batch
from darwinc.calibrators.lockstep import Footprint, footprint
from darwinc.calibrators.recalibrate import reestimate
from darwinc.calibrators.statistics import Statistics, gather
from darwinc.calibrators.weights_only import from_weights
from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import CostModel
from darwinc.data import Samples, fitting_batches, fixed_batch, samples_in, synthetic
from darwinc.errors import UnsupportedOperator
from darwinc.pipeline import Job
from darwinc.runtime import InputSpec, inputs_of, open_session, pin, usable_feed
from darwinc.sampling import MOST_CALIBRATING
from darwinc.torch_graph import TorchGraph

Feed = Mapping[str, npt.NDArray[np.generic]]

BATCH = 64
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

    `twin` is None on the rung `weights`; on the rung `batchnorm` its running statistics are those of the made-up
    samples. `missing` says why there is no twin. `freed` is a feed that the file takes, where the twin is one of a copy
    that takes longer ones (`darwinc.batching`). `divisible` says that batches may be cut into shorter ones along the
    first axis of every input.
    """

    rung: str
    twin: TorchGraph | None
    batches: Sequence[Feed]
    missing: str = ""
    freed: Feed | None = None
    divisible: bool = False

    def twin_of(self, model: ir.Model, device: str) -> TorchGraph | None:
        """A twin of a rewrite of the model that takes the batches; None where it can't be made to in the same way."""
        twin = TorchGraph(model, device=device)
        if self.twin is None or self.freed is None:
            return twin
        found = free_batch(model, self.freed, twin=twin)
        return found.twin if found.free and _added(found.twin) == _added(self.twin) else None

    def cut_to(self, length: int) -> Iterator[Feed]:
        """The batches, cut into shorter ones of so many samples where they may be."""
        for feed in self.batches:
            whole = samples_in(feed)
            size = length if self.divisible else whole
            for start in range(0, whole, size):
                part = slice(start, start + size)
                yield {
                    name: array[part] if array.ndim and len(array) == whole else array for name, array in feed.items()
                }

    @property
    def holdout(self) -> int:
        """How many of the last batches only judge."""
        return max(1, len(self.batches) // HOLDOUT)

    @property
    def samples(self) -> int:
        """How many samples all batches hold."""
        return sum(samples_in(feed) for feed in self.batches)


def _added(twin: TorchGraph) -> set[str]:
    """What a freed batch has steps for that the file has not: networks run in step only where they are the same."""
    return {step.outputs[0] for step in twin.steps if step.outputs[0].startswith("darwinc/")}


def prepare(
    model: ir.Model,
    channels: Channels,
    samples: Samples | None,
    *,
    device: str,
    seed: int,
    limit: int = MOST_CALIBRATING,
) -> Calibration:
    """Choose the best rung that the model and the data allow.

    Raises:
        InvalidData: samples that can't be read.
    """
    try:
        twin = TorchGraph(model, device=device)
        if samples is not None:
            return _from_data(model, twin, channels, samples, limit, seed)
        return _made_up(model, twin, channels, seed)
    except UnsupportedOperator as error:
        return Calibration("weights", None, [], error.found)


def calibration_of(job: Job) -> Calibration:
    """The job's calibration, prepared once."""
    if job.calibration is None:
        job.calibration = prepare(job.original, job.channels, job.samples, device=job.device, seed=job.seed)
        if job.calibration.twin is None:
            unused = "" if job.samples is None else " and the data is not used"
            job.warnings.append(f"Fitness is measured on the weights alone{unused}: {job.calibration.missing}.")
    return job.calibration


def statistics_of(job: Job, stage: Stage, *, gradients: bool = True, extra: Collection[str] = ()) -> Statistics:
    """The statistics of every reader. They are large: whoever asks holds them, and nobody else does.

    `extra` are those that not every criterion needs (`statistics.gather`).
    """
    calibration = calibration_of(job)
    if calibration.twin is None:
        return from_weights(job.channels, model=job.original)
    stage.say(f"calibrating on {calibration.samples} samples")
    found = gather(
        calibration.twin,
        job.channels,
        calibration.batches,
        rung=calibration.rung,
        seed=job.seed,
        gradients=gradients,
        extra=extra,
        progress=lambda done: stage.at(done / calibration.samples),
    )
    stage.at(1.0)
    return from_weights(job.channels, found, job.original)


def _from_data(
    model: ir.Model, twin: TorchGraph, channels: Channels, samples: Samples, limit: int, seed: int
) -> Calibration:
    inputs = inputs_of(model)
    order = np.random.default_rng(seed).permutation(len(samples))[:limit]
    chosen = samples.take(order)
    least = 1 if samples.source.whole else fixed_batch(inputs) or 1
    probe = next(fitting_batches(chosen, inputs, 1)).feed
    size = footprint(twin, probe)
    count = _multiple(min(len(chosen), FRONTIER_BYTES // max(2 * size.frontier, 1)), least)
    together = _together(
        model, twin, channels, probe, least if samples.source.whole else _wanted(count, size, least), least
    )
    batches = [batch.feed for batch in chosen.take(slice(0, count)).batches(together.length)]
    return Calibration("data", together.twin, batches, freed=together.freed, divisible=together.length > least)


def _made_up(model: ir.Model, twin: TorchGraph, channels: Channels, seed: int) -> Calibration:
    inputs = _pinned(model, seed)
    least = fixed_batch(inputs) or 1
    probe = next(synthetic(inputs, least, seed).batches(least)).feed
    macs = max(CostModel(channels).macs(channels.nobody()), 1)
    count = int(min(max(SYNTHETIC_MACS / macs, FEWEST_SYNTHETIC), MOST_SYNTHETIC))
    size = footprint(twin, probe)
    count = _multiple(min(count, SYNTHETIC_FRONTIER_BYTES // max(size.frontier, 1)), least)
    made_up = synthetic(inputs, count, seed)
    together = _together(
        model, twin, channels, probe, least if made_up.source.whole else _wanted(count, size, least), least
    )
    batches = [batch.feed for batch in made_up.batches(together.length)]
    changed = reestimate(together.twin, batches)
    rung = "batchnorm" if changed else "white"
    return Calibration(rung, together.twin, batches, freed=together.freed, divisible=together.length > least)


def _multiple(count: int, least: int) -> int:
    """Whole feeds, and two at least: one of them judges."""
    return max(2, count // least) * least


def _pinned(model: ir.Model, seed: int) -> list[InputSpec]:
    """The inputs, with free axes after the first of lengths that ONNX Runtime takes."""
    inputs = inputs_of(model)
    if all(isinstance(size, int) for spec in inputs for size in spec.shape[1:]):
        return inputs
    session = open_session(model, optimization="basic")
    return pin(inputs, usable_feed(session, seed=seed, demand="finite"))


def _wanted(count: int, size: Footprint, least: int) -> int:
    """How many samples should go in one batch."""
    return max(least, min(BATCH, -(-count // FEWEST_BATCHES), BACKWARD_BYTES // max(size.total, 1)))


@dataclass(frozen=True)
class _Together:
    """The twin to measure with, how many samples it gets at once, and `Calibration.freed`."""

    twin: TorchGraph
    length: int
    freed: Feed | None = None


def _together(model: ir.Model, twin: TorchGraph, channels: Channels, probe: Feed, wanted: int, least: int) -> _Together:
    """Many samples go in one batch only where the graph answers as it does to each alone, or can be made to.

    They come first in every input and output, and lie on no axis together with channels.
    """
    if wanted == least:
        return _Together(twin, least)
    found = free_batch(model, probe, twin=twin)
    first = set(found.axes.values()) == {0} and set(found.outputs.values()) <= {0, None}
    if not found.free or not first or found.crowded(channels):
        return _Together(twin, least)
    return _Together(found.twin, wanted, None if found.twin is twin else probe)
