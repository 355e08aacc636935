"""What happens to a layer's output before channels mix again: its constant term, a residual sum, a rectifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.sites import Site, number
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

Readers = Mapping[str, Sequence[Step]]

FLATTEST = 1e-2
"""A BatchNormalization whose smallest scale is below this share of the median can't be undone."""


def readers_of(steps: Sequence[Step]) -> dict[str, list[Step]]:
    """The steps that read each value."""
    found: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            if name is not None:
                found.setdefault(name, []).append(step)
    return found


@dataclass(frozen=True)
class Offset:
    """Where a layer's constant term goes: its own bias, an Add, or the mean of the BatchNormalization after it.

    The target of a fit is the layer's own output, so only its own bias is part of what is fitted; elsewhere the term
    starts at zero. `factor` is what a unit of the term is in the parameter.
    """

    parameter: torch.nn.Parameter
    factor: float
    own: bool

    def value(self, groups: int) -> torch.Tensor:
        """The term as it is [G, O]."""
        present = self.parameter.detach().double().reshape(groups, -1)
        return present / self.factor if self.own else torch.zeros_like(present)

    def set(self, value: torch.Tensor) -> None:
        """Let the term be `value` [G, O]."""
        present = 0.0 if self.own else self.parameter.double()
        self.parameter.copy_((present + self.factor * value.reshape(self.parameter.shape)).to(self.parameter.dtype))


def find_offset(twin: TorchGraph, site: Site, readers: Readers, outputs: int, rank: int) -> Offset | None:
    """The place for a constant term per output, if there is one that no other layer shares.

    `rank` is that of the layer's output.
    """
    weights = twin.weights()

    def private(name: str | None, factor: float, *, own: bool, last: bool) -> Offset | None:
        found = weights.get(name) if name is not None and len(readers.get(name, ())) == 1 else None
        if found is None or found.numel() != outputs or (last and found.shape[-1] != outputs):
            return None
        return Offset(found, factor, own)

    if own_bias(site) is not None:
        scale = number(site.step, "beta", 1.0) if site.step.op_type == "Gemm" else 1.0
        fits = site.convolution or (site.data == 0 and scale != 0)
        return private(own_bias(site), 1 / scale, own=True, last=not site.convolution) if fits else None
    after = readers.get(site.output, ())
    if len(after) != 1:
        return None
    step = after[0]
    if step.op_type == "BatchNormalization" and step.inputs[0] == site.output and channels_second(site, rank):
        return private(step.inputs[3], -1.0, own=False, last=True)
    if step.op_type == "Add" and site.step.op_type == "MatMul" and site.data == 0:
        other = step.inputs[1] if step.inputs[0] == site.output else step.inputs[0]
        return private(other, 1.0, own=False, last=True)
    return None


def own_bias(site: Site) -> str | None:
    """The name of the layer's own bias."""
    return site.step.inputs[2] if site.step.op_type != "MatMul" and len(site.step.inputs) > 2 else None


def channels_second(site: Site, rank: int) -> bool:
    """Do the layer's outputs lie along the second axis of what it makes, as BatchNormalization's channels do?"""
    return site.convolution or (rank == 2 and site.data == 0)


def fixed_term(twin: TorchGraph, site: Site, rank: int) -> torch.Tensor | float:
    """What the layer's own bias adds to its output, as it broadcasts."""
    name = own_bias(site)
    if name is None:
        return 0.0
    bias = twin.value(name, {}).detach()
    if site.convolution:
        return bias.reshape((1, -1) + (1,) * (rank - 2))
    return bias * number(site.step, "beta", 1.0)


@dataclass
class Aftermath:
    """z = scale * (y - mean) + shift + other: from a layer's output y to the value before the next nonlinearity.

    Attributes:
        scale, mean, shift: per channel [O], of the BatchNormalization on the way; None for identity.
        other: the other operand of a residual sum, already known in both networks.
        bounds: the range that a rectifier after it lets through; None where there's none.
    """

    scale: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    other: str | None = None
    bounds: tuple[float, float] | None = None

    def target(self, lockstep: Lockstep, site: Site, batch: int) -> torch.Tensor:
        """What the layer should give so that z is the original's: its former output and what the other branch lacks."""
        own = lockstep.wanted(site.output, batch)
        if self.other is None:
            return own
        missing = lockstep.wanted(self.other, batch) - lockstep.after[batch][self.other]
        return own + (missing if self.scale is None else missing / _channels(self.scale, missing))

    def zero(self, lockstep: Lockstep, like: torch.Tensor, batch: int, level: float) -> torch.Tensor:
        """The output at which z equals `level`, element by element."""
        rest = torch.full_like(like, level)
        if self.other is not None:
            rest = rest - lockstep.after[batch][self.other]
        if self.scale is None or self.mean is None or self.shift is None:
            return rest
        return (rest - _channels(self.shift, like)) / _channels(self.scale, like) + _channels(self.mean, like)


def _channels(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return vector.reshape((1, -1) + (1,) * (like.ndim - 2))


def find_aftermath(lockstep: Lockstep, site: Site, readers: Readers) -> Aftermath:
    """Follow the output while each value has one reader and the way is affine per channel."""
    twin, found, name = lockstep.compressed, Aftermath(), site.output
    second = channels_second(site, lockstep.before[0][site.output].ndim)
    while len(after := readers.get(name, ())) == 1:
        step = after[0]
        if (
            step.op_type == "BatchNormalization"
            and step.inputs[0] == name
            and found.scale is None
            and found.other is None
        ):
            if not second or not _pass_batch_norm(twin, step, found):
                break
        elif step.op_type == "Add" and site.convolution and found.other is None:
            other = str(step.inputs[1] if step.inputs[0] == name else step.inputs[0])
            if not _is_known_alike(lockstep, other, site.output):
                break
            found.other = other
        elif step.op_type in ("Relu", "Clip"):
            found.bounds = _bounds(step)
            break
        elif step.op_type not in ("Identity", "Dropout"):
            break
        name = step.outputs[0]
    return found


def _pass_batch_norm(twin: TorchGraph, step: Step, found: Aftermath) -> bool:
    gamma, beta, mean, variance = (twin.value(str(name), {}).detach() for name in step.inputs[1:5])
    scale = gamma / (variance + number(step, "epsilon", 1e-5)).sqrt()
    if float(scale.abs().min()) < FLATTEST * float(scale.abs().median()):
        return False
    found.scale, found.mean, found.shift = scale, mean.clone(), beta
    return True


def _is_known_alike(lockstep: Lockstep, other: str, output: str) -> bool:
    if lockstep.compressed.is_constant(other) or other not in lockstep.after[0] or other not in lockstep.before[0]:
        return False
    wanted = lockstep.wanted(output, 0)
    return lockstep.after[0][other].shape == wanted.shape == lockstep.wanted(other, 0).shape


def _bounds(step: Step) -> tuple[float, float] | None:
    if step.op_type == "Relu":
        return 0.0, float("inf")
    limits = [step.literals.get(place, (default,)) for place, default in ((1, float("-inf")), (2, float("inf")))]
    low = number(step, "min", limits[0][0])
    high = number(step, "max", limits[1][0])
    return (low, high) if low > float("-inf") else None
