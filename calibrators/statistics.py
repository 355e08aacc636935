"""One streaming pass over calibration data: second moments at every reader, and the curvature of the loss at its output.

Memory is bounded by the widths of the layers, not by the data. Labels are never needed: the gradient of a divergence from oneself
is zero, so its curvature is sampled instead, with labels drawn from the model's own softmax, or with random directions for outputs
that are no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from darwinc.axis_flow import Reader
from darwinc.channels import Channels
from darwinc.calibrators.sites import Site, find_sites
from darwinc.fitness import ReaderStatistics
from darwinc.torch_graph import TorchGraph

Feed = Mapping[str, npt.NDArray[np.generic]]

POSITIONS = 64
"""Positions of each sample that enter the moments; every one where a layer has fewer."""


@dataclass
class _Moments:
    """Sums over rows [R, S], shifted by the first batch's mean for precision."""

    count: int = 0
    shift: torch.Tensor | None = None
    first: torch.Tensor | None = None
    second: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        if self.shift is None or self.first is None or self.second is None:
            self.shift = rows.mean(0)
            self.first = torch.zeros_like(self.shift, dtype=torch.float64)
            self.second = torch.zeros((rows.shape[1],) * 2, dtype=torch.float64, device=rows.device)
        centred = rows - self.shift
        self.first += centred.sum(0, dtype=torch.float64)
        self.second += (centred.T @ centred).double()
        self.count += rows.shape[0]

    def mean(self) -> torch.Tensor:
        assert self.shift is not None and self.first is not None  # noqa: S101, PT018 - set by the first batch
        return self.shift.double() + self.first / self.count

    def covariance(self) -> torch.Tensor:
        assert self.first is not None and self.second is not None  # noqa: S101, PT018 - set by the first batch
        offset = self.first / self.count
        return self.second / self.count - torch.outer(offset, offset)


@dataclass
class _Slots:
    """How the input positions of a reader map to slots: one slot per unit where every unit has equally many positions."""

    units: npt.NDArray[np.int64]
    order: torch.Tensor | None
    taps: int

    @classmethod
    def of(cls, units: npt.NDArray[np.int64]) -> _Slots:
        distinct, counts = np.unique(units, return_counts=True)
        if len(distinct) < len(units) and distinct[0] > 0 and (counts == counts[0]).all():
            order = torch.from_numpy(np.argsort(units, kind="stable"))
            return cls(distinct, order, int(counts[0]))
        return cls(units, None, 1)

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        if self.order is None:
            return rows
        return rows[:, self.order.to(rows.device)].reshape(len(rows), -1, self.taps).transpose(1, 2).flatten(0, 1)

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """[O, C, T] by slot: [O, S, taps * T]."""
        if self.order is None:
            return matrix
        return matrix[:, self.order.to(matrix.device)].reshape(matrix.shape[0], len(self.units), -1)


@dataclass
class _Part:
    """One group of one reader."""

    slots: _Slots
    inputs: slice
    outputs: int
    moments: _Moments = field(default_factory=_Moments)
    curvature: torch.Tensor | None = None
    taylor: torch.Tensor | None = None


@dataclass(frozen=True)
class Statistics:
    """What one pass over the data found.

    `readers[output name]` has one entry per group of the convolution; `samples` counts what was seen; `classifier` says whether
    the outputs were taken for class scores.
    """

    readers: dict[str, list[ReaderStatistics]]
    samples: int
    rung: str


def gather(
    twin: TorchGraph,
    channels: Channels,
    batches: Iterable[Feed],
    *,
    rung: str,
    seed: int = 0,
    gradients: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Stream `batches` through the twin and collect statistics at every reader of a prunable channel."""
    sites = find_sites(twin)
    watched = {reader.node.outputs[0].name: reader for reader in channels.flow.readers}
    chosen = {name: (sites[name], watched[name]) for name in sites if name in watched and channels.component[watched[name].ids].any()}
    parts = {name: _parts(site, reader, channels) for name, (site, reader) in chosen.items()}
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    weights: dict[str, torch.Tensor] = {}
    for feed in batches:
        weights.update(_batch(twin, {name: site for name, (site, _) in chosen.items()}, parts, feed, generator, gradients=gradients))
        samples += len(next(iter(feed.values())))
        if progress is not None:
            progress(samples)
    readers = {name: _conclude(site, weights[name], parts[name], samples) for name, (site, _) in chosen.items() if name in weights}
    return Statistics(readers, samples, rung)


def _parts(site: Site, reader: Reader, channels: Channels) -> list[_Part]:
    units = channels.component[reader.ids]
    width = len(units) // site.groups
    return [_Part(_Slots.of(units[k * width : (k + 1) * width]), slice(k * width, (k + 1) * width), k) for k in range(site.groups)]


def _batch(
    twin: TorchGraph, sites: Mapping[str, Site], parts: Mapping[str, list[_Part]], feed: Feed, generator: torch.Generator, *, gradients: bool
) -> dict[str, torch.Tensor]:
    """One batch: moments of the inputs on the way forward, curvature of the outputs on the way back."""
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    with torch.set_grad_enabled(gradients):
        environment = twin.enter(feed)
        for step in twin.steps:
            results = twin.run(step, environment)
            if (site := sites.get(step.outputs[0])) is not None:
                name = site.output
                inputs[name] = twin.value(str(step.inputs[site.data]), environment)
                outputs[name] = results[0]
                weights[name] = twin.value(str(step.inputs[site.weight]), environment).detach()
                _add_moments(site, parts[name], inputs[name].detach(), generator)
                if not gradients:
                    inputs.pop(name), outputs.pop(name)
            environment.update(zip(step.outputs, results, strict=False))
            for gone in step.release:
                environment.pop(gone, None)
        final = twin.leave(environment)
    if gradients:
        _add_gradients(sites, parts, inputs, outputs, final, generator)
    return weights


def _add_moments(site: Site, parts: list[_Part], x: torch.Tensor, generator: torch.Generator) -> None:
    rows = site.input_rows(x)
    limit = POSITIONS * max(x.shape[0], 1)
    if rows.shape[0] > limit:
        rows = rows[torch.randint(rows.shape[0], (limit,), generator=generator).to(rows.device)]
    for part in parts:
        part.moments.add(part.slots.rows(rows[:, part.inputs]))


def _add_gradients(
    sites: Mapping[str, Site],
    parts: Mapping[str, list[_Part]],
    inputs: Mapping[str, torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
    final: Mapping[str, torch.Tensor],
    generator: torch.Generator,
) -> None:
    objective = curvature_objective(list(final.values()), generator)
    names = [name for name in outputs if outputs[name].requires_grad]
    if objective is None or not names:
        return
    targets = [outputs[name] for name in names] + [inputs[name] for name in names if inputs[name].requires_grad]
    found = torch.autograd.grad(objective, targets, allow_unused=True)
    at_inputs = iter(found[len(names) :])
    for name, gradient in zip(names, found[: len(names)], strict=True):
        at_input = next(at_inputs) if inputs[name].requires_grad else None
        if gradient is None:
            continue
        rows = sites[name].output_rows(gradient)
        for part in parts[name]:
            _add_curvature(part, rows, sites[name].groups, generator)
            if at_input is not None:
                _add_taylor(sites[name], part, inputs[name].detach() * at_input)


def _add_curvature(part: _Part, rows: torch.Tensor, groups: int, generator: torch.Generator) -> None:
    """The sum over positions of delta delta' [O, O], estimated from some of them where there are many."""
    width = rows.shape[1] // groups
    delta = rows[:, part.outputs * width : (part.outputs + 1) * width]
    limit = 16384
    scale = 1.0
    if delta.shape[0] > limit:
        scale = delta.shape[0] / limit
        delta = delta[torch.randint(delta.shape[0], (limit,), generator=generator).to(delta.device)]
    moment = (delta.T @ delta).double() * scale
    part.curvature = moment if part.curvature is None else part.curvature + moment


def _add_taylor(site: Site, part: _Part, product: torch.Tensor) -> None:
    """E|sum over positions of z g| by slot."""
    if site.convolution:
        summed = product.flatten(2).sum(2)
    else:
        summed = site.input_rows(product)
    summed = summed[:, part.inputs]
    if part.slots.order is not None:
        summed = summed[:, part.slots.order.to(summed.device)].reshape(len(summed), -1, part.slots.taps).sum(2)
    total = summed.abs().sum(0).double()
    part.taylor = total if part.taylor is None else part.taylor + total


def curvature_objective(outputs: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor | None:
    """A scalar whose gradients, squared and averaged, are the curvature of the divergence from the model itself.

    Class scores [N, K]: the log-likelihood of labels drawn from the model's own softmax (true Fisher). Other outputs f: v . f / rms(f)
    with v ~ N(0, I). Outputs that aren't floating point say nothing.
    """
    terms = [_term(output, generator) for output in outputs if output.requires_grad and output.is_floating_point() and output.numel()]
    return torch.stack(terms).sum() if terms else None


def _term(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    scores = class_log_probabilities(output)
    if scores is not None:
        drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(output.device)
        return -scores.gather(1, drawn).sum()
    noise = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
    return (noise * output).sum() / output.detach().square().mean().sqrt().clamp_min(1e-12)


def class_log_probabilities(output: torch.Tensor) -> torch.Tensor | None:
    """Log-probabilities [N, K] where an output looks like class scores: probabilities, log-probabilities, or peaked logits."""
    if output.ndim != 2 or output.shape[1] < 2:
        return None
    values = output.detach()
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
        return (output + 1e-12).log()
    if bool((values <= 1e-6).all()) and bool(((values.exp().sum(1) - 1).abs() < 1e-3).all()):
        return output
    confidence = values.softmax(1).amax(1).mean()
    return output.log_softmax(1) if float(confidence) > max(0.5, 3.0 / output.shape[1]) or output.shape[1] == 2 else None


def _conclude(site: Site, weight: torch.Tensor, parts: list[_Part], samples: int) -> list[ReaderStatistics]:
    found = []
    for part in parts:
        matrix = part.slots.weight(site.matrix(weight)[part.outputs].detach()).double()
        covariance = part.moments.covariance()
        gram = _gram(matrix, None if part.curvature is None else part.curvature / samples, covariance)
        taylor = torch.zeros(len(part.slots.units)) if part.taylor is None else part.taylor / samples
        found.append(
            ReaderStatistics(
                part.slots.units,
                part.moments.mean().cpu().numpy(),
                covariance.cpu().numpy(),
                gram.cpu().numpy(),
                taylor.double().cpu().numpy(),
            )
        )
    return found


def _gram(matrix: torch.Tensor, curvature: torch.Tensor | None, covariance: torch.Tensor) -> torch.Tensor:
    """The sum over taps of W' G W [S, S]; without gradients G = I / tr(W C W')."""
    by_tap = matrix.permute(2, 0, 1)
    if curvature is None:
        gram = torch.einsum("tos,tor->sr", by_tap, by_tap)
        return gram / torch.sum(gram * covariance).clamp_min(1e-30)
    return torch.einsum("tos,tor->sr", by_tap, torch.matmul(curvature, by_tap))
