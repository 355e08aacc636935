"""Where a weight mixes channels: convolutions and matrix products of the twin, seen as one linear map of rows.

A `Site` gives every such step the same view: weights as [G, O, C, T] (groups, outputs, inputs and kernel taps per
group), inputs as rows, so that moments, gradients and least squares are written once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Call, Step
from darwinc.torch_rules.windows import Window, pad_spatial

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")

SPARSE = 2
"""Pixels per pixel of all chosen windows above which an image is first cut to those pixels."""


@dataclass(frozen=True, eq=False)
class Site:
    """A step whose output is linear in a weight.

    `data` and `weight` are operand positions; `groups` is 1 for everything but grouped convolutions.
    """

    step: Step
    data: int
    weight: int
    groups: int

    @property
    def convolution(self) -> bool:
        """Does it slide over spatial axes?"""
        return self.step.op_type in CONVOLUTIONS

    @property
    def output(self) -> str:
        """The name of the value it makes."""
        return self.step.outputs[0]

    @property
    def output_axis(self) -> int:
        """The axis of the output along which its channels lie."""
        return 1 if self.convolution else -1 if self.data == 0 else -2

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as [G, O, C, T], times Gemm's alpha."""
        if self.step.op_type == "Conv":
            return weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        if self.step.op_type == "ConvTranspose":
            return weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1).transpose(1, 2)
        return (weight if self._outputs_first else weight.T)[None, :, :, None] * self._alpha

    def unmatrix(self, matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `matrix`: a weight of the shape of `like`."""
        if self.step.op_type == "Conv":
            return matrix.reshape(like.shape)
        if self.step.op_type == "ConvTranspose":
            return matrix.transpose(1, 2).reshape(like.shape)
        scaled = matrix[0, :, :, 0] / self._alpha
        return scaled if self._outputs_first else scaled.T

    @property
    def _alpha(self) -> float:
        return number(self.step, "alpha", 1.0) if self.step.op_type == "Gemm" else 1.0

    def _transposed(self, operand: int) -> bool:
        return number(self.step, "transB" if operand else "transA", 0) == 1

    @property
    def _outputs_first(self) -> bool:
        if self.step.op_type == "Gemm":
            return self._transposed(1) if self.weight == 1 else not self._transposed(0)
        return self.weight == 0

    @property
    def _data_last(self) -> bool:
        """Do the contracted positions lie on the last axis of the data?"""
        if self.step.op_type == "Gemm":
            return not self._transposed(0) if self.data == 0 else self._transposed(1)
        return self.data == 0

    @property
    def _input_axis(self) -> int:
        return 1 if self.convolution else -1 if self._data_last else -2

    def input_positions(self, x: torch.Tensor) -> int:
        """How many positions the input has, in all samples together."""
        return x.numel() // max(x.shape[self._input_axis], 1)

    def input_rows(self, x: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """The input's positions, or the `chosen` [R] of them, as rows [R, G*C], without kernel taps."""
        axis = self._input_axis
        if chosen is not None and axis == 1:
            # The others are not even read: most of a large image isn't chosen.
            flat = x.flatten(2)
            return flat[chosen // flat.shape[2], :, chosen % flat.shape[2]]
        rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        return rows if chosen is None else rows[chosen]

    def output_rows(self, y: torch.Tensor) -> torch.Tensor:
        """Every position of the output as rows [R, G*O]."""
        if self.convolution:
            return y.flatten(2).transpose(1, 2).flatten(0, 1)
        return y.movedim(self.output_axis, -1).reshape(-1, y.shape[self.output_axis])

    def positions(self, y: torch.Tensor) -> int:
        """How many output positions one sample (of the leading axis) has."""
        return max(y.numel() // max(y.shape[self.output_axis] * y.shape[0], 1), 1)

    def patches(self, x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """What the weight meets at `chosen` [P] output positions of every sample: [G, N*P, C*T]."""
        if not self.convolution:
            rows = self.input_rows(x)
            return rows.reshape(-1, self.positions(y), rows.shape[-1])[:, chosen].flatten(0, 1)[None]
        return self.windows(x, weight, y, chosen).transpose(2, 3).flatten(2)

    def windows(self, x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """A convolution's windows at `chosen` [P] output positions of every sample, in memory of their own.

        [G, N*P, T, C]: with channels last, so that each tap of a window is read and written as a whole.
        """
        window = Window.of(Call(self.step, (), 0, x.device), tuple(weight.shape[2:]))
        begins, ends = window.pads(x.shape[2:])
        padded = pad_spatial(x, begins, ends, 0.0)
        flat = padded.flatten(2)
        index = _gather_index(window, tuple(padded.shape[2:]), tuple(y.shape[2:]), chosen)
        if flat.shape[2] > SPARSE * index.numel():
            met, index = torch.unique(index, return_inverse=True)
            flat = flat.index_select(2, met)
        taken = flat.transpose(1, 2).contiguous().index_select(1, index.flatten())
        by_group = taken.reshape(x.shape[0] * index.shape[0], index.shape[1], self.groups, -1)
        return by_group.permute(2, 0, 1, 3)

    def targets(self, y: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The outputs at `chosen` [P] positions of every sample: [G, N*P, O]."""
        if self.convolution:
            taken = y.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)
        else:
            rows = self.output_rows(y)
            taken = rows.reshape(-1, self.positions(y), rows.shape[-1])[:, chosen].flatten(0, 1)
        return taken.reshape(taken.shape[0], self.groups, -1).transpose(0, 1)


def number(step: Step, name: str, default: float) -> float:
    """A numeric attribute, or its default."""
    found = step.attributes.get(name, default)
    return float(found) if isinstance(found, (int, float)) else default


def _gather_index(
    window: Window, padded: tuple[int, ...], outputs: tuple[int, ...], chosen: torch.Tensor
) -> torch.Tensor:
    """Flat places [P, T] in the padded input of every tap of the window at the chosen output positions."""
    starts = torch.unravel_index(chosen, outputs)
    taps = torch.cartesian_prod(*(torch.arange(size, device=chosen.device) for size in window.kernel)).reshape(
        -1, len(window.kernel)
    )
    index = torch.zeros((len(chosen), len(taps)), dtype=torch.long, device=chosen.device)
    for axis, size in enumerate(padded):
        place = starts[axis][:, None] * window.strides[axis] + taps[None, :, axis] * window.dilations[axis]
        index = index * size + place
    return index


def find_sites(twin: TorchGraph) -> dict[str, Site]:
    """The linear steps of a twin with one constant-made operand, by the name of their output."""
    made = _made_from_constants(twin)
    sites: dict[str, Site] = {}
    for step in twin.steps:
        if step.op_type in CONVOLUTIONS and step.inputs[1] in made and step.inputs[0] not in made:
            sites[step.outputs[0]] = Site(step, 0, 1, int(number(step, "group", 1)))
        elif step.op_type in PRODUCTS:
            constant = [name in made for name in step.inputs[:2]]
            if constant[0] != constant[1] and _is_matrix(twin, step.inputs[int(constant[1])]):
                sites[step.outputs[0]] = Site(step, int(constant[0]), int(constant[1]), 1)
    return sites


def _is_matrix(twin: TorchGraph, name: str | None) -> bool:
    """Not a stack of matrices, each of which meets data of its own (a weight that steps make is a matrix)."""
    return name is None or not twin.is_constant(name) or twin.constant(name).ndim == 2


def _made_from_constants(twin: TorchGraph) -> set[str | None]:
    """Names of stored constants, and of what is computed from them alone (a transposed weight, a reshaped one)."""
    made: set[str | None] = set()
    for step in twin.steps:
        made.update(name for name in step.inputs if name is not None and twin.is_constant(name))
        if step.inputs and all(name is None or name in made for name in step.inputs):
            made.update(step.outputs)
    return made
