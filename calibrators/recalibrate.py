"""Give the compressed network back the means and variances that its layers had before channels died.

Every BatchNormalization takes over the statistics of its own input. A layer without one after it (folded into its
weights, or never there) is rescaled and shifted per output channel, so that its output has the mean and variance that
the original network has there on the same samples, layer by layer on the corrected prefix: REPAIR
(Jordan et al., 2022).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from darwinc.calibrators.aftermath import Offset, Readers, find_offset, fixed_term, readers_of
from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.sites import Site, find_sites
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

Feed = Mapping[str, npt.NDArray[np.generic]]

GAINS = (0.2, 5.0)
"""The range of what a channel is multiplied by: beyond it too little of the channel is left to be scaled up."""

FLATTEST = 1e-6
"""A channel whose variance is below this share of its layer's mean variance is shifted, but not rescaled."""

UNCHANGED = 1e-5
"""A layer whose gains are this close to 1, and its shifts to 0 (in deviations), keeps its bits."""


def reestimate(twin: TorchGraph, batches: Sequence[Feed]) -> int:
    """Set each BatchNormalization's mean and variance [C] to those of its input; returns how many changed.

    Every node is run for all batches before the next one, so that later layers see re-estimated earlier ones.
    Statistics that are shared with another reader are left alone.
    """
    uses = uses_of(twin)
    changed = 0
    with torch.no_grad():
        environments = [twin.enter(feed) for feed in batches]
        for step in twin.steps:
            changed += renormalise(twin, step, environments, uses)
            for environment in environments:
                environment.update(zip(step.outputs, twin.run(step, environment), strict=False))
                for name in step.release:
                    environment.pop(name, None)
    return changed


def uses_of(twin: TorchGraph) -> Counter[int]:
    """How often the steps read each constant, by the identity of its tensor: one tensor may go by several names."""
    names = (name for step in twin.steps for name in step.inputs if name is not None and twin.is_constant(name))
    return Counter(id(twin.constant(name)) for name in names)


def renormalise(
    twin: TorchGraph, step: Step, environments: Sequence[Mapping[str, torch.Tensor]], uses: Counter[int]
) -> bool:
    """Give a BatchNormalization the statistics of its input, where it has statistics of its own."""
    if step.op_type != "BatchNormalization":
        return False
    mean, variance = (twin.weights().get(str(name)) for name in step.inputs[3:5])
    if mean is None or variance is None or uses[id(mean)] != 1 or uses[id(variance)] != 1:
        return False
    found = Moments.of((twin.value(str(step.inputs[0]), environment) for environment in environments), axis=1)
    mean.copy_(found.mean)
    variance.copy_(found.variance)
    return True


@dataclass(frozen=True)
class Moments:
    """Mean and variance [C] of a value over everything but its channels, in float64."""

    mean: torch.Tensor
    variance: torch.Tensor

    @classmethod
    def of(cls, values: Iterable[torch.Tensor], axis: int) -> Moments:
        """Over batches with channels along `axis`: the variance within them and that of their means add up."""
        counts, means, variances = [], [], []
        for value in values:
            rows = value.movedim(axis, -1).reshape(-1, value.shape[axis])
            variance, mean = torch.var_mean(rows, 0, correction=0)
            counts.append(float(len(rows)))
            means.append(mean.double())
            variances.append(variance.double())
        weight = torch.tensor(counts, dtype=torch.float64, device=means[0].device)[:, None] / sum(counts)
        mean = (weight * torch.stack(means)).sum(0)
        spread = torch.stack(variances) + (torch.stack(means) - mean).square()
        return cls(mean, (weight * spread).sum(0))


@dataclass(frozen=True)
class _Layer:
    """A linear layer without BatchNormalization after it.

    Attributes:
        weight: its own, as it is stored.
        offset: the place of its constant term; None where it has none of its own.
        output: the value that is corrected: what the layer makes, the constant term included.
    """

    site: Site
    weight: torch.nn.Parameter
    offset: Offset | None
    output: str

    def rescale(self, gain: torch.Tensor, shift: torch.Tensor) -> None:
        """Let the layer give `gain` [C] times what it gave, plus `shift` [C] where it has a constant term."""
        matrix = self.site.matrix(self.weight).double()
        scaled = matrix * gain.reshape(*matrix.shape[:2], 1, 1)
        self.weight.copy_(self.site.unmatrix(scaled, self.weight))
        if self.offset is not None:
            term, factor = self.offset.parameter, self.offset.factor
            term.copy_((gain * term.reshape(-1) + factor * shift).reshape(term.shape))


@dataclass
class Recalibrator:
    """Walks both networks in lockstep and gives every layer of the compressed one the original's mean and variance.

    Attributes:
        norms: how many BatchNormalization nodes were re-estimated.
        layers: how many layers without one were corrected.
    """

    lockstep: Lockstep
    norms: int = 0
    layers: int = 0

    def run(self, progress: Callable[[float], None] | None = None) -> None:
        """Correct everything, in topological order."""
        lockstep, twin = self.lockstep, self.lockstep.compressed
        sites, readers, uses = find_sites(twin), readers_of(twin.steps), uses_of(twin)
        waiting: dict[str, _Layer] = {}
        pairs = lockstep.steps()
        with torch.no_grad():
            for done, (first, second) in enumerate(pairs):
                lockstep.run_original(first)
                self.norms += renormalise(twin, second, lockstep.after, uses)
                lockstep.run_compressed(second)
                site = sites.get(second.outputs[0])
                layer = None if site is None else self._layer(site, readers, uses)
                if layer is not None:
                    waiting[layer.output] = layer
                if second.outputs[0] in waiting:
                    self.layers += self._correct(waiting.pop(second.outputs[0]))
                lockstep.release(first, second)
                if progress is not None:
                    progress((done + 1) / len(pairs))

    def _layer(self, site: Site, readers: Readers, uses: Counter[int]) -> _Layer | None:
        """A site as a layer to correct, unless a BatchNormalization follows or its weight is not its own."""
        twin = self.lockstep.compressed
        weight = twin.weights().get(str(site.step.inputs[site.weight]))
        if weight is None or uses[id(weight)] != 1 or _is_normalised(site.output, readers):
            return None
        value = self.lockstep.after[0][site.output]
        offset = find_offset(twin, site, readers, value.shape[site.output_axis], value.ndim)
        if offset is None or uses[id(offset.parameter)] != 1:
            return _Layer(site, weight, None, site.output)
        output = site.output if offset.own else readers[site.output][0].outputs[0]
        return None if _is_normalised(output, readers) else _Layer(site, weight, offset, output)

    def _correct(self, layer: _Layer) -> bool:
        """Correct a layer's weights, and what they have made already; says whether there was anything to correct."""
        lockstep, name, axis = self.lockstep, layer.output, layer.site.output_axis
        wanted = Moments.of((lockstep.wanted(name, batch) for batch in range(len(lockstep.before))), axis)
        found = Moments.of((environment[name] for environment in lockstep.after), axis)
        gain = _gain(wanted.variance, found.variance)
        shift = wanted.mean - gain * found.mean
        numbers = torch.stack([gain, shift])
        off = (wanted.mean - found.mean).abs() > UNCHANGED * wanted.variance.mean().sqrt()
        moved = bool(((gain - 1).abs() > UNCHANGED).any()) or (layer.offset is not None and bool(off.any()))
        if not moved or not bool(torch.isfinite(numbers).all()):
            return False
        layer.rescale(gain, shift)
        for environment in lockstep.after:
            value = environment[name]
            rank = value.ndim
            factor = _along(gain, axis, rank).to(value.dtype)
            if layer.offset is None:
                fixed = fixed_term(lockstep.compressed, layer.site, rank)
                environment[name] = (value - fixed) * factor + fixed
            else:
                environment[name] = value * factor + _along(shift, axis, rank).to(value.dtype)
        return True


def _is_normalised(name: str, readers: Readers) -> bool:
    return any(step.op_type == "BatchNormalization" and step.inputs[0] == name for step in readers.get(name, ()))


def _gain(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """What brings each channel's variance [C] to what is wanted, within `GAINS`; 1 where either is next to nothing."""
    alive = (wanted > FLATTEST * wanted.mean()) & (found > FLATTEST * found.mean())
    ratio = torch.where(alive, wanted / found.where(alive, torch.ones_like(found)), torch.ones_like(found))
    return ratio.sqrt().clamp(*GAINS)


def _along(vector: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """A vector [C] that broadcasts along one axis of `rank`."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
