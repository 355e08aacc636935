"""What the makers of planted units hold: rows of weights, biases, and the numbers of a BatchNormalization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.channels import Channels
from darwinc.errors import UsageError
from darwinc.models.planting import Bed, Place, Role, absorbed_by, is_absorbed

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Norm:
    """A BatchNormalization by unit of a bed: scale, mean and variance [U, m, 1 ...], and its epsilon."""

    scale: Array
    mean: Array
    variance: Array
    epsilon: float
    absorbs: bool

    @classmethod
    def of(cls, place: Place, bed: Bed, channels: Channels) -> Norm | None:
        """The one that a constant belongs to, or that absorbs what it makes; None where there is none."""
        node = place.use.node
        if node.op_type != "BatchNormalization" and is_absorbed(node):
            node = next(iter(node.outputs[0].uses()))[0]
        if node.op_type != "BatchNormalization":
            return None
        axis = next(use.axes[0] for use in channels.flow.uses if use.node is node and use.index == 1)
        owners = channels.owners[channels.component[axis]]
        places = np.stack([np.flatnonzero((owners == unit).any(axis=1)) for unit in bed.units.tolist()])
        scale, mean, variance = (stored(node.inputs[index])[places] for index in (1, 3, 4))
        epsilon = node.attributes.get("epsilon")
        return cls(
            scale, mean, variance, 1e-5 if epsilon is None else epsilon.as_float(), absorbed_by(node) is not None
        )

    @property
    def gain(self) -> Array:
        """What it multiplies each unit by [U, m]."""
        return np.asarray(self.scale / np.sqrt(self.variance + self.epsilon))

    def made_up(self, origin: int, factor: float) -> Array:
        """What the scale [m] of a copy is multiplied by, whose input is `factor` times its origin's."""
        variance = self.variance[origin]
        return np.asarray(np.sqrt((factor**2 * variance + self.epsilon) / (variance + self.epsilon)))

    def mixed(self, mix: Array) -> Array:
        """A variance [m] of a mixture, as if its terms were uncorrelated; any does, as the scale makes up for it."""
        return np.asarray(np.einsum("u,um->m", np.square(mix), np.square(self.gain) * self.variance))


@dataclass(frozen=True, eq=False)
class Making:
    """The rows [U, m, ...] of one constant for the units of a bed, and what they become for planted ones."""

    place: Place
    old: Array
    norm: Norm | None

    def row(self, kind: str, mix: Array, random: np.random.Generator) -> Array:
        """The row [m, ...] of a planted unit, which is the combination `mix` [U] of others."""
        if kind == "dead":
            return self._dead()
        if kind == "unread":
            return self._any(random)
        return self._mixture(mix) if kind == "mixture" else self._copy(int(np.flatnonzero(mix)[0]), float(mix.max()))

    def _dead(self) -> Array:
        kept = self.place.role in (Role.MEAN, Role.VARIANCE, Role.FACTOR)
        return np.asarray(self.old[0] if kept else np.zeros_like(self.old[0]))

    def _any(self, random: np.random.Generator) -> Array:
        """Another unit's numbers in another order, or the mean over all units where they stand alone."""
        if self.place.role in (Role.MAKER, Role.DEPTHWISE):
            return np.asarray(
                random.permuted(self.old[random.integers(len(self.old))].ravel()).reshape(self.old[0].shape)
            )
        return np.asarray(self.old.mean(axis=0))

    def _copy(self, origin: int, factor: float) -> Array:
        """A copy whose value is `factor` times the origin's; a BatchNormalization takes the factor where it can."""
        row, role = self.old[origin], self.place.role
        if self.norm is None or self.place.use.node.op_type != "BatchNormalization":
            absorbed = self.norm is not None
            if role is Role.DEPTHWISE:
                return np.asarray(row / factor if absorbed else row)
            return np.asarray(row if absorbed or role is Role.FACTOR else factor * row)
        if self.norm.absorbs:
            return np.asarray(factor * row if role in (Role.SCALE, Role.SHIFT) else row)
        if role is Role.VARIANCE:
            return np.asarray(factor**2 * row)
        return np.asarray(row * self.norm.made_up(origin, factor) if role is Role.SCALE else factor * row)

    def _mixture(self, mix: Array) -> Array:
        role, norm = self.place.role, self.norm
        if norm is None:
            return np.asarray(np.tensordot(mix, self.old, 1))
        if role is Role.VARIANCE:
            return norm.mixed(mix)
        if role is Role.SCALE:
            return np.asarray(np.sqrt(norm.mixed(mix) + norm.epsilon))
        if role is Role.SHIFT:
            return np.asarray(np.tensordot(mix, self.old, 1))
        weight = mix[:, None] * norm.gain
        return np.asarray(np.einsum("um,um...->m...", weight, self.old))


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol:
    tensor = graph.constant_tensor(value)
    if tensor is None:
        raise UsageError(f"{None if value is None else value.name} isn't a constant.")
    return tensor


def stored(value: ir.Value | None) -> Array:
    return np.asarray(tensor_of(value).numpy(), np.float64)
