"""What the error of the answers is bounded by, layer by layer, beside what it is.

The bound is that of an *inheriting* network: the original without its dead channels, in which every layer that read
some of them is refitted by ridge least squares on what the original has there. With f the original and g that network,
at a node l with inputs x (those of f, cut to the living channels) and x' (those of g),

    |g_l(x') - f_l(x)| <= sum over inputs of Lip(g_l) |x' - x| + local_l,    local_l = |g_l(x) - f_l(x)|,

which goes through the graph in topological order, so that residual sums add and concatenations add as squares. Of a
linear layer local_l squared is tr(W_D C_D|L W_D'): the dead inputs' covariance given the living ones, taps told apart.
That is the matrix form of sum_i sum_o (sum_taps |W_oi|)^2 NDE_i. It is exact where that sum assumes that what the dead
leave unsaid is uncorrelated; and padding, strides and the ridge are counted as they are, because it is computed as the
difference of the two outputs at every position of the samples.

An error is the root of the mean over samples of the sum over positions and channels of the squared difference, on the
channels that live. `largest` numbers and local errors are those of the samples that are looked at: the bound holds for
these samples and the inheriting network, up to rounding in single precision. The network that is written was repaired
otherwise (on the compressed prefix, towards residual sums, with a statistic moved into a BatchNormalization, or by
training): it is compared with the bound, and may lie above it at a layer that was moved on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from darwinc.calibrators.aftermath import fixed_term, own_bias
from darwinc.calibrators.calibration import Calibration, calibration_of
from darwinc.calibrators.least_squares import LayerFit, Rows
from darwinc.calibrators.lipschitz import GATES, SLOPES, Scene, gains
from darwinc.calibrators.lockstep import Lockstep, living_cuts
from darwinc.calibrators.refit import LARGEST
from darwinc.calibrators.sites import Site, find_sites
from darwinc.cost import CostModel
from darwinc.data import samples_in
from darwinc.passes.excise import excise
from darwinc.pipeline import Job
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

Feed = Mapping[str, npt.NDArray[np.generic]]

VACUOUS = 100.0
"""Times the measured error above which a bound says nothing."""
ROUNDING = 1e-5
"""Errors below this share of a value are rounding."""
MACS = 12e9
"""The samples that are looked at are as many as this many MACs of the original pay for, within the bounds below."""
FEWEST, MOST = 8, 1024
ROWS_PER_INPUT, FEWEST_ROWS = 4, 4096
"""Rows that a layer is refitted on: so many for each of its inputs, and so many at least, where there are as many."""
HOLDOUT = 8
PER_CHANNEL = frozenset({
    *SLOPES, "Add", "AveragePool", "BatchNormalization", "Concat", "Div", "GlobalAveragePool", "MaxPool", "Mul", "Sub",
}) - {"DepthToSpace", "Flatten", "ReduceMax", "ReduceMin", "Reshape", "Softmax", "SpaceToDepth"}  # fmt: skip
"""Operators of which no output takes from a channel that isn't its own, so that deaths are no error to it."""


@dataclass
class _Error:
    """Of one value, as the root of a sum over all samples: the bound, what the node itself adds, what was measured.

    `unbounded` names the node at which the bound is lost; nothing is measured of whole numbers.
    """

    node: str
    bound: float = 0.0
    local: float = 0.0
    measured: float | None = None
    scale: float = 0.0
    unbounded: str | None = None

    def row(self, samples: int, **names: str | None) -> dict[str, Any]:
        """The report's `Bound`."""
        size = math.sqrt(max(samples, 1))
        bounded = math.isfinite(self.bound)
        ratio = None
        if bounded and self.measured is not None and self.measured > ROUNDING * self.scale:
            ratio = self.bound / self.measured
        return {
            **names,
            "bound": self.bound / size if bounded else None,
            "local": self.local / size,
            "measured": None if self.measured is None else self.measured / size,
            "scale": None if self.measured is None else self.scale / size,
            "ratio": ratio,
            "vacuous": not bounded or (ratio is not None and ratio > VACUOUS),
            "unbounded": self.unbounded,
        }


@dataclass
class Surveyor:
    """Walks original and written network in lockstep, and the inheriting one node by node beside them.

    Attributes:
        lockstep: the original and the network whose error is measured.
        cut: the twin of the original without its dead channels, of which the inheriting network is made.
        inherited: weight [G, O, C, T] and what is added to each output [G, O], of each refitted layer by its output.
    """

    lockstep: Lockstep
    cut: TorchGraph
    seed: int = 0
    inherited: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    errors: dict[str, _Error] = field(default_factory=dict)
    readers: list[str] = field(default_factory=list)
    _made: dict[str, torch.Tensor] = field(default_factory=dict)
    _gates: set[str] = field(default_factory=set)

    def run(self, progress: Callable[[float], None] | None = None) -> None:
        """Find the errors of every value, in topological order."""
        steps = {step.outputs[0]: step for step in self.cut.steps}
        sites = find_sites(self.cut)
        generator = torch.Generator().manual_seed(self.seed)
        pairs = self.lockstep.steps()
        with torch.no_grad():
            for done, (first, second) in enumerate(pairs):
                step = steps[first.outputs[0]]
                self._make(step)
                self.lockstep.run_original(first)
                local = self._local(step, sites.get(step.outputs[0]), generator)
                self.lockstep.run_compressed(second)
                self._judge(step, sites.get(step.outputs[0]), local)
                self.lockstep.release(first, second)
                if progress is not None:
                    progress((done + 1) / len(pairs))

    def _make(self, step: Step) -> None:
        """Evaluate what is made from constants alone."""
        inputs = [name for name in step.inputs if name is not None]
        if inputs and all(self.cut.is_constant(name) or name in self._made for name in inputs):
            self._made.update(zip(step.outputs, self.cut.run(step, self._made), strict=False))

    # What a node adds -----------------------------------------------------------------------------------------------

    def _cuts(self, name: str | None) -> bool:
        lockstep = self.lockstep
        computed = name is not None and name in lockstep.before[0] and name not in self._made
        return computed and bool(living_cuts(lockstep.channels, lockstep.dead, str(name), torch.device("cpu")))

    def _inputs(self, step: Step, batch: int) -> dict[str, torch.Tensor]:
        """The original's values, cut to the living channels; numbers that count channels as they are counted now."""
        before, after, found = self.lockstep.before[batch], self.lockstep.after[batch], dict(self._made)
        for name in step.inputs:
            if name is not None and name in before and name not in self._made:
                floating = before[name].is_floating_point()
                found[name] = self.lockstep.wanted(name, batch) if floating else after[name]
        return found

    def _local(self, step: Step, site: Site | None, generator: torch.Generator) -> float:
        """The difference that a node makes by itself, where it may have lost inputs."""
        if step.op_type in PER_CHANNEL or not any(map(self._cuts, step.inputs)):
            return 0.0
        error, scale = self._difference(step, site)
        if error <= ROUNDING * scale:
            return 0.0
        self.readers.append(step.outputs[0])
        if site is None or not self._inherit(site, generator):
            return error
        inherits, _ = self._difference(step, site)
        if inherits < error:
            return inherits
        del self.inherited[step.outputs[0]]
        return error

    def _difference(self, step: Step, site: Site | None) -> tuple[float, float]:
        """Of the inheriting node's output and the original's on the same inputs, and the size of the latter."""
        error = scale = 0.0
        for batch in range(len(self.lockstep.before)):
            wanted = self.lockstep.wanted(step.outputs[0], batch)
            found = self._inheriting(step, site, self._inputs(step, batch))
            error += _energy(found - wanted)
            scale += _energy(wanted)
        return math.sqrt(error), math.sqrt(scale)

    def _inheriting(self, step: Step, site: Site | None, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """The node's first output in the inheriting network."""
        if site is None or site.output not in self.inherited:
            return self.cut.run(step, values)[0]
        matrix, offset = self.inherited[site.output]
        name = str(step.inputs[site.weight])
        like = self.cut.value(name, values)
        result = self.cut.run(step, {**values, name: site.unmatrix(matrix, like).to(like.dtype)})[0]
        return result + self._along(site, offset.to(result.dtype), result.ndim)

    @staticmethod
    def _along(site: Site, offset: torch.Tensor, rank: int) -> torch.Tensor:
        shape = [1] * rank
        shape[site.output_axis] = -1
        return offset.reshape(shape)

    def _inherit(self, site: Site, generator: torch.Generator) -> bool:
        """Refit a layer on what the original has; False where there are too few samples, or it is too wide."""
        weight = self.cut.value(str(site.step.inputs[site.weight]), self._made).detach()
        matrix = site.matrix(weight)
        _, _, inputs, taps = matrix.shape
        bias = own_bias(site)
        if site.step.op_type == "ConvTranspose" or inputs * taps > LARGEST:
            return False
        if bias is not None and not self.cut.is_constant(bias):
            return False
        x, t = self._rows(site, weight, inputs * taps, generator)
        if x.shape[1] < inputs * taps:
            return False
        kept = x.shape[1] - x.shape[1] // HOLDOUT
        seen, held = Rows(x[:, :kept], t[:, :kept]), Rows(x[:, kept:], t[:, kept:])
        rows = matrix.double().flatten(2).transpose(1, 2)
        found = LayerFit(seen, held, rows, torch.zeros_like(rows[:, 0])).best()
        if found.ridge is None or found.offset is None:
            return False
        self.inherited[site.output] = found.weight.transpose(1, 2).reshape(matrix.shape), found.offset
        return True

    def _rows(
        self, site: Site, weight: torch.Tensor, width: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [G, R, C*T] and outputs [G, R, O] at random positions of all samples, without the layer's bias."""
        parts, batches = [], range(len(self.lockstep.before))
        name = str(site.step.inputs[site.data])
        samples = sum(environment[name].shape[0] for environment in self.lockstep.before)
        budget = max(ROWS_PER_INPUT * width, FEWEST_ROWS)
        for batch in batches:
            x, y = self._inputs(site.step, batch)[name], self.lockstep.wanted(site.output, batch)
            y = y - fixed_term(self.cut, site, y.ndim)
            available = site.positions(y)
            chosen = torch.randperm(available, generator=generator)[: max(1, -(-budget // max(samples, 1)))]
            chosen = chosen.to(y.device)
            parts.append((site.patches(x, weight, y, chosen), site.targets(y, chosen)))
        return torch.cat([x for x, _ in parts], 1), torch.cat([t for _, t in parts], 1)

    # What arrives ---------------------------------------------------------------------------------------------------

    def _judge(self, step: Step, site: Site | None, local: float) -> None:
        """The errors of a node's outputs."""
        error = _Error(step.name, local=local)
        arriving = [self.errors.get(str(name)) for name in step.inputs]
        if any(one is not None and one.bound > 0 for one in arriving):
            error.bound, error.unbounded = self._carried(step, site, arriving)
        error.bound += local
        if step.op_type in GATES or (step.op_type in ("Identity", "Reshape") and step.inputs[0] in self._gates):
            self._gates.add(step.outputs[0])
        for name in filter(None, step.outputs):
            self.errors[name] = replace(error)
            if name in self.readers or name in self.lockstep.original.outputs:
                self._measure(name, self.errors[name])

    def _carried(self, step: Step, site: Site | None, arriving: Sequence[_Error | None]) -> tuple[float, str | None]:
        """The bound of what comes in, as it goes out; and the node at which it is lost."""
        lost = next((one.unbounded for one in arriving if one is not None and one.unbounded is not None), None)
        factors = gains(self._scene(step, site))
        if factors is None:
            return math.inf, lost or step.name
        parts = [
            factor * one.bound
            for factor, one in zip(factors, arriving, strict=False)
            if one is not None and one.bound > 0 and factor > 0
        ]
        bound = math.hypot(*parts) if step.op_type == "Concat" else math.fsum(parts)
        return bound, lost if math.isinf(bound) else None

    def _scene(self, step: Step, site: Site | None) -> Scene:
        clean = [name for name in map(str, step.inputs) if name not in self.errors or self.errors[name].bound == 0]
        matrix = None
        if site is not None:
            weight = self.cut.value(str(step.inputs[site.weight]), self._made)
            matrix = self.inherited[site.output][0] if site.output in self.inherited else site.matrix(weight)
        return Scene(
            step, self.cut, self.lockstep.after[0], self._made, site, matrix, clean, self._gates, self._largest
        )

    def _largest(self, name: str) -> float:
        return max(float(values[name].abs().max()) for values in self.lockstep.before)

    def _measure(self, name: str, error: _Error) -> None:
        if not self.lockstep.before[0][name].is_floating_point():
            return
        squares = scale = 0.0
        for batch, after in enumerate(self.lockstep.after):
            wanted = self.lockstep.wanted(name, batch)
            squares += _energy(after[name] - wanted)
            scale += _energy(wanted)
        error.measured, error.scale = math.sqrt(squares), math.sqrt(scale)


def _energy(value: torch.Tensor) -> float:
    return float(value.double().square().sum())


def guarantee_of(job: Job, progress: Callable[[float], None] | None = None) -> dict[str, Any] | None:
    """The report's `guarantee`; None where there was no calibration data to measure on.

    `layers` are those that lost inputs, in topological order; `outputs` the network's. It looks at the last calibration
    batches, of which those that only judge come first.
    """
    if job.samples is None or job.calibration is None or not job.dead.any():
        return None
    calibration = calibration_of(job)
    if calibration.twin is None or calibration.rung != "data":
        return None
    unrepaired, _ = excise(job.original, job.channels, job.dead)
    cut, written = (calibration.twin_of(model, job.device) for model in (unrepaired, job.model))
    if cut is None or written is None:
        return None
    lockstep = Lockstep(calibration.twin, written, job.channels, job.dead)
    batches = _looked_at(job, calibration)
    lockstep.enter(batches)
    surveyor = Surveyor(lockstep, cut, job.seed)
    surveyor.run(progress)
    return rows_of(surveyor, sum(map(samples_in, batches)))


def rows_of(surveyor: Surveyor, samples: int) -> dict[str, Any]:
    """The report's `guarantee`, with errors per sample."""
    found, outputs = surveyor.errors, surveyor.lockstep.original.outputs
    return {
        "samples": samples,
        "layers": [found[name].row(samples, node=found[name].node, output=name) for name in surveyor.readers],
        "outputs": [found[name].row(samples, node=None, output=name) for name in outputs if name in found],
    }


def _looked_at(job: Job, calibration: Calibration) -> list[Feed]:
    """The last batches, as many as may be paid for."""
    macs = max(CostModel(job.channels).macs(job.channels.nobody()), 1)
    wanted, taken, found = min(max(MACS / macs, FEWEST), MOST), 0, list[Feed]()
    for feed in reversed(calibration.batches):
        if taken >= wanted:
            break
        found.append(feed)
        taken += samples_in(feed)
    return found[::-1]
