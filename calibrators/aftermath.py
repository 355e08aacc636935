"""What happens to a layer's output before the next layer that mixes channels: its constant term, a residual sum, a rectifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.sites import Site
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
    """Where a layer's constant term goes: its own bias, an Add after it, or the mean of the BatchNormalization after it.

    The target of a fit is the layer's own output, so only its own bias is part of what is fitted; elsewhere the term starts at zero.
    """

    parameter: torch.nn.Parameter
    sign: float
    own: bool

    def value(self, groups: int) -> torch.Tensor:
        """The term as it is [G, O]."""
        present = self.parameter.detach().double() if self.own else torch.zeros_like(self.parameter, dtype=torch.float64)
        return present.reshape(groups, -1)

    def set(self, value: torch.Tensor) -> None:
        """Let the term be `value` [G, O]."""
        present = 0.0 if self.own else self.parameter.double()
        self.parameter.copy_((present + self.sign * value.reshape(self.parameter.shape)).to(self.parameter.dtype))


def find_offset(twin: TorchGraph, site: Site, readers: Readers, outputs: int) -> Offset | None:
    """The place for a constant term per output, if there is one that no other layer shares."""
    weights = twin.weights()

    def private(name: str | None, sign: float, *, own: bool) -> Offset | None:
        found = weights.get(name) if name is not None and len(readers.get(name, ())) == 1 else None
        return Offset(found, sign, own) if found is not None and found.numel() == outputs else None

    if len(site.step.inputs) > 2 and site.step.inputs[2] is not None:
        return private(site.step.inputs[2], 1.0, own=True)
    after = readers.get(site.output, ())
    if len(after) != 1:
        return None
    step = after[0]
    if step.op_type == "BatchNormalization" and step.inputs[0] == site.output:
        return private(step.inputs[3], -1.0, own=False)
    if step.op_type == "Add" and site.step.op_type == "MatMul":
        return private(step.inputs[1] if step.inputs[0] == site.output else step.inputs[0], 1.0, own=False)
    return None


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
        """What the layer should give so that z is the original's: its own former output, plus what the other branch lacks."""
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
    while len(after := readers.get(name, ())) == 1:
        step = after[0]
        if step.op_type == "BatchNormalization" and step.inputs[0] == name and found.scale is None and found.other is None:
            if not _pass_batch_norm(twin, step, found):
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
    scale = gamma / (variance + float(step.attributes.get("epsilon", 1e-5))).sqrt()  # type: ignore[arg-type]
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
    low = float(step.attributes.get("min", limits[0][0]))  # type: ignore[arg-type]
    high = float(step.attributes.get("max", limits[1][0]))  # type: ignore[arg-type]
    return (low, high) if low > float("-inf") else None
