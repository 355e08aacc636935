"""How much a node can enlarge an error: a Lipschitz constant for each of its inputs, or none that is known.

Norms are Euclidean, over everything that a value holds, samples and positions included; so reshaping, slicing and
splitting keep them or make them smaller. One table, `RULES`, is keyed by operator; an operator without a row is
unbounded. Values are constants of the compressed graph on these samples: a rule may look at weights and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from darwinc.calibrators.sites import Site, number
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Call, Step
from darwinc.torch_rules.windows import Window

Gains: TypeAlias = tuple[float, ...] | None
"""A constant for each input of a step, in order; None where none is known."""

GATES = ("Sigmoid", "HardSigmoid", "Softmax")
"""What they make lies between zero and one."""

SLOPES: dict[str, float] = {
    **dict.fromkeys(("Identity", "Dropout", "Cast", "Neg", "Abs", "Relu", "Clip", "Tanh", "Softplus", "Softsign"), 1.0),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split", "DepthToSpace"), 1.0),
    **dict.fromkeys(("SpaceToDepth", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Sin", "Cos", "Celu"), 1.0),
    "Sigmoid": 0.25,
    "Softmax": 0.5,
    "Erf": 2 / math.sqrt(math.pi),
    **dict.fromkeys(("Shape", "Size"), 0.0),
    "Gelu": 1.13,
    "HardSwish": 1.5,
    "Mish": 1.09,
    "Selu": 1.7581,
}
"""The steepest slope of operators whose first input alone carries an error."""

SPREADERS = frozenset({
    "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Pad", "Resize", "Upsample", "Expand", "Tile",
    "Gather", "GatherND", "Slice",
})  # fmt: skip
"""Linear in their first input, with coefficients that are never negative."""

FREQUENCIES = 8
"""Frequencies along an axis, per degree of the trigonometric polynomial that a kernel is."""
SYMBOL_WORK = 3e8
"""Multiplications above which a convolution's norm is bounded by its taps, rather than by its frequencies."""


@dataclass(frozen=True)
class Scene:
    """One step, and what its inputs are on these samples.

    Attributes:
        step: of the compressed network.
        twin: whose constants it reads.
        values: what is computed, by name, for one batch.
        made: names of what is made from constants alone.
        site: the step as a linear layer, with the weight [G, O, C, T] that it is taken to have.
        matrix: that weight.
        clean: names of values that are the same in both networks.
        gates: names of values between zero and one.
        largest: the largest absolute number of a value of the original, over all samples.
    """

    step: Step
    twin: TorchGraph
    values: Mapping[str, torch.Tensor]
    made: Mapping[str, torch.Tensor]
    site: Site | None
    matrix: torch.Tensor | None
    clean: Collection[str]
    gates: Collection[str]
    largest: Callable[[str], float]

    def constant(self, place: int) -> torch.Tensor | None:
        """An input that no sample changes."""
        name = self.step.inputs[place] if place < len(self.step.inputs) else None
        if name is None or not (self.twin.is_constant(name) or name in self.made):
            return None
        return self.twin.value(name, self.made).detach()

    def is_clean(self, place: int) -> bool:
        """Does an input carry no error?"""
        name = self.step.inputs[place]
        return name is None or name in self.clean or self.constant(place) is not None

    def spread(self, place: int) -> float:
        """What broadcasting does to the norm of an input."""
        name = str(self.step.inputs[place])
        size = self.values[name].numel() if name in self.values else 1
        return math.sqrt(max(1.0, self.values[self.step.outputs[0]].numel() / max(size, 1)))


def gains(scene: Scene) -> Gains:
    """The constants of a step's inputs; zero for those whose error doesn't reach its outputs."""
    slope, rule = SLOPES.get(scene.step.op_type), RULES.get(scene.step.op_type)
    if slope is not None:
        return _first(scene, slope)
    return None if rule is None else rule(scene)


def _first(scene: Scene, slope: float) -> Gains:
    """An operator that passes an error on from its first input, if its others carry none."""
    others = range(1, len(scene.step.inputs))
    return (slope, *(0.0 for _ in others)) if all(map(scene.is_clean, others)) else None


def _attribute(name: str, default: float) -> Callable[[Scene], Gains]:
    """A slope that is an attribute, or one where that is less (a leaky rectifier)."""
    return lambda scene: _first(scene, max(1.0, abs(number(scene.step, name, default))))


def _hard_sigmoid(scene: Scene) -> Gains:
    return _first(scene, abs(number(scene.step, "alpha", 0.2)))


def _prelu(scene: Scene) -> Gains:
    slope = scene.constant(1)
    return None if slope is None else _first(scene, max(1.0, float(slope.abs().max())))


def _batch_norm(scene: Scene) -> Gains:
    gamma, variance = scene.constant(1), scene.constant(4)
    if gamma is None or variance is None:
        return None
    scale = gamma.abs() / (variance + number(scene.step, "epsilon", 1e-5)).sqrt()
    return _first(scene, float(scale.max()))


def _sum(scene: Scene) -> Gains:
    """Of sums and of the larger of two: what comes in comes out, once for every place it is broadcast to."""
    return tuple(scene.spread(place) for place in range(len(scene.step.inputs)))


def _product(scene: Scene) -> Gains:
    """By a constant; or by a gate g in [0, 1], as a g - a' g' = a (g - g') + g' (a - a')."""
    factors = [scene.constant(place) for place in range(2)]
    for place, factor in enumerate(factors):
        if factor is not None:
            gain = float(factor.abs().max()) * scene.spread(1 - place)
            return (0.0, gain) if place == 0 else (gain, 0.0)
    for place, name in enumerate(scene.step.inputs[:2]):
        if name in scene.gates:
            other = 1 - place
            by_gate = scene.largest(str(scene.step.inputs[other])) * scene.spread(place)
            return (by_gate, scene.spread(other)) if place == 0 else (scene.spread(other), by_gate)
    return None


def _quotient(scene: Scene) -> Gains:
    divisor = scene.constant(1)
    if divisor is None or not bool(divisor.all()):
        return None
    return (float((1 / divisor.double()).abs().max()) * scene.spread(0), 0.0)


def _log_softmax(scene: Scene) -> Gains:
    """The Jacobian I - 1 p' is largest where p is certain: the root of the number of classes."""
    shape, axis = scene.values[scene.step.outputs[0]].shape, int(number(scene.step, "axis", 1))
    return _first(scene, math.sqrt(math.prod(shape[axis:])))


def _max_pool(scene: Scene) -> Gains:
    """Every input can be the largest of as many windows as hold it."""
    kernel = scene.step.attributes.get("kernel_shape")
    if not isinstance(kernel, tuple):
        return None
    window = Window.of(Call(scene.step, (), 0, torch.device("cpu")), tuple(map(int, kernel)))
    sizes = zip(window.kernel, window.extents, window.strides, strict=True)
    return (math.sqrt(math.prod(min(taps, -(-extent // stride)) for taps, extent, stride in sizes)),)


def _spreader(scene: Scene) -> Gains:
    """The root of the largest row sum times the largest column sum, which bounds a matrix's norm (Schur's test)."""
    name, step = str(scene.step.inputs[0]), scene.step
    if step.attributes.get("mode") in ("cubic", b"cubic") or name not in scene.values:
        return None
    if not scene.values[name].is_floating_point():
        return None
    zero = torch.zeros_like(scene.values[name])
    with torch.enable_grad():
        ones = torch.ones_like(zero).requires_grad_(True)
        out = scene.twin.run(step, {**scene.values, **scene.made, name: ones})[0]
        (columns,) = torch.autograd.grad(out.sum(), ones)
    rows = out.detach() - scene.twin.run(step, {**scene.values, **scene.made, name: zero})[0]
    return _first(scene, math.sqrt(float(rows.max()) * float(columns.max())))


def _linear(scene: Scene) -> Gains:
    if scene.site is None or scene.matrix is None:
        return None
    site, found = scene.site, [0.0] * len(scene.step.inputs)
    window = None
    if site.convolution:
        weight = scene.twin.value(str(site.step.inputs[site.weight]), scene.made)
        window = Window.of(Call(site.step, (), 0, weight.device), tuple(weight.shape[2:]))
    found[site.data] = layer_norm(scene.matrix, window)
    if len(found) > 2 and not scene.is_clean(2):
        found[2] = abs(number(scene.step, "beta", 1.0)) * scene.spread(2)
    return tuple(found)


RULES: dict[str, Callable[[Scene], Gains]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _linear),
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min"), _sum),
    **dict.fromkeys(SPREADERS, _spreader),
    "BatchNormalization": _batch_norm,
    "Concat": lambda scene: tuple(1.0 for _ in scene.step.inputs),
    "Div": _quotient,
    "Elu": _attribute("alpha", 1.0),
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _attribute("alpha", 0.01),
    "LogSoftmax": _log_softmax,
    "MaxPool": _max_pool,
    "Mul": _product,
    "PRelu": _prelu,
}


def layer_norm(matrix: torch.Tensor, window: Window | None) -> float:
    """An upper bound of the norm of a linear layer [G, O, C, T]; groups are apart, so the largest counts.

    A matrix product's is the spectral norm. A convolution's is the lesser of two: the sum over taps of the spectral
    norm of each, taps that a stride keeps apart adding up as squares; and the largest norm of the kernel's symbol.
    Padding and cropping are with zeros, so they make it smaller; a transposed convolution is an adjoint.
    """
    if matrix.numel() == 0:
        return 0.0
    matrix = matrix.detach().double()
    taps = torch.linalg.matrix_norm(matrix.permute(0, 3, 1, 2), 2)
    if window is None or matrix.shape[3] == 1:
        return float(taps.sum(1).max())
    places = torch.cartesian_prod(*(torch.arange(size) for size in window.kernel)).reshape(-1, len(window.kernel))
    apart = places * torch.tensor(window.dilations) % torch.tensor(window.strides)
    _, phase = torch.unique(apart, dim=0, return_inverse=True)
    phases = torch.zeros((len(taps), int(phase.max()) + 1), dtype=taps.dtype, device=taps.device)
    phases.index_add_(1, phase.to(taps.device), taps)
    by_taps = float(phases.square().sum(1).sqrt().max())
    return min(by_taps, _symbol_norm(matrix, window.kernel))


def _symbol_norm(matrix: torch.Tensor, kernel: tuple[int, ...]) -> float:
    """The supremum over frequencies w of the spectral norm of sum_t W_t exp(i w t), from above.

    It is found on a grid of N frequencies along each axis. For fixed vectors the symbol between them is a trigonometric
    polynomial of degree m (its square, for even kernels), which falls at most to cos(pi m / N) of its maximum at the
    nearest frequency of the grid (Bernstein and Szegö; as in Ehlich and Zeller, 1964). Infinite where that takes long.
    """
    groups, outputs, inputs, _ = matrix.shape
    grid = [1 if size == 1 else FREQUENCIES * (size // 2 if size % 2 else size - 1) for size in kernel]
    if groups * math.prod(grid) * outputs * inputs * min(outputs, inputs) > SYMBOL_WORK:
        return math.inf
    kernels = matrix.reshape(groups, outputs, inputs, *kernel)
    symbol = torch.fft.fftn(kernels, s=grid, dim=tuple(range(3, 3 + len(kernel)))).flatten(3).permute(0, 3, 1, 2)
    largest = torch.linalg.matrix_norm(symbol, 2).max()
    slack = math.prod(_slack(size, count) for size, count in zip(kernel, grid, strict=True))
    return float(largest) * slack


def _slack(size: int, count: int) -> float:
    if size == 1:
        return 1.0
    if size % 2:
        return 1 / math.cos(math.pi * (size // 2) / count)
    return 1 / math.sqrt(math.cos(math.pi * (size - 1) / count))
