"""One streaming pass over calibration data: second moments at every reader, and the loss's curvature at its output.

Memory is bounded by the widths of the layers, not by the data. Labels are never needed: the gradient of a divergence
from oneself is zero, so its curvature is sampled instead, with labels drawn from the model's own softmax, or with
random directions for outputs that are no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from darwinc.calibrators.feature_maps import FeatureMaps
from darwinc.calibrators.meetings import Meeting, find_meetings
from darwinc.calibrators.moments import Moments, lower, mirror
from darwinc.calibrators.sites import Site, find_sites
from darwinc.channels import Channels
from darwinc.data import samples_in
from darwinc.fitness.statistics import ReaderStatistics, Vector
from darwinc.torch_graph import TorchGraph

Feed = Mapping[str, npt.NDArray[np.generic]]

POSITIONS = 64
"""Positions of each sample that enter the moments; every one where a layer has fewer."""

BLOCK_LIMIT = 1200
"""Channels times kernel taps up to which a layer's moments tell the taps apart."""

CERTAIN = 0.9
"""Mean confidence above which labels drawn from the model's own softmax say too little."""

CURVATURE_ROWS = 16384
"""Positions of a batch that enter the curvature, at most."""


@dataclass
class _Part:
    """One group of one reader, and how its input positions map to slots.

    Attributes:
        number: which group of the convolution.
        units: component of each slot [S].
        block: one slot per channel and kernel tap, rather than per channel.
        channels: input positions [C].
        order: positions sorted by unit, where every unit has the same number of positions (a flattened image): those
            become taps.
        taps: positions per unit.
    """

    number: int
    units: npt.NDArray[np.int64]
    block: bool
    channels: int
    order: torch.Tensor | None = None
    taps: int = 1
    moments: Moments = field(default_factory=Moments)
    curvature: torch.Tensor | None = None
    taylor: torch.Tensor | None = None
    fisher: torch.Tensor | None = None

    @classmethod
    def of(cls, number: int, units: npt.NDArray[np.int64], taps: int) -> _Part:
        """Choose the finest slots that memory allows."""
        if len(units) * taps <= BLOCK_LIMIT:
            return cls(number, np.repeat(units, taps), taps > 1, len(units))
        distinct, counts = np.unique(units, return_counts=True)
        if len(distinct) < len(units) and distinct[0] > 0 and (counts == counts[0]).all():
            order = torch.from_numpy(np.argsort(units, kind="stable"))
            return cls(number, distinct, False, len(units), order, int(counts[0]))
        return cls(number, units, False, len(units))

    def by_slot(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [R, positions] as rows of slots."""
        if self.order is None:
            return rows
        return rows[:, self.order.to(rows.device)].reshape(len(rows), -1, self.taps).transpose(1, 2).flatten(0, 1)

    def covariance(self) -> torch.Tensor:
        """Of the slots [S, S]; windows come with channels last, slots go by channel."""
        found = self.moments.covariance()
        if not self.block:
            return found
        taps = len(self.units) // self.channels
        by_tap = found.reshape(taps, self.channels, taps, self.channels)
        return by_tap.permute(1, 0, 3, 2).reshape(found.shape)

    def mean(self) -> torch.Tensor:
        """Of the slots [S], which go by channel."""
        found = self.moments.mean()
        return found.reshape(-1, self.channels).T.flatten() if self.block else found

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """A weight [O, C, T] by slot [O, S, T']."""
        if self.block:
            return matrix.flatten(1).unsqueeze(2)
        if self.order is None:
            return matrix
        return matrix[:, self.order.to(matrix.device)].reshape(matrix.shape[0], len(self.units), -1)


@dataclass(frozen=True)
class Statistics:
    """What one pass over the data found.

    `readers[output name]` has one entry per group of the convolution; `samples` counts what was seen; `rung` is where
    it comes from (`calibration.Calibration`). `chip` [count] is the nuclear norm that feature maps lose without each
    component (`feature_maps`), where that was asked for.
    """

    readers: dict[str, list[ReaderStatistics]]
    samples: int
    rung: str
    chip: Vector | None = None


@dataclass
class _Watch:
    """One reader under observation; `squares` says whether diagonal Fisher is wanted."""

    site: Site
    positions: npt.NDArray[np.int64]
    squares: bool = False
    parts: list[_Part] = field(default_factory=list)
    weight: torch.Tensor | None = None
    x: torch.Tensor | None = None
    y: torch.Tensor | None = None

    def see(
        self, x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, generator: torch.Generator, *, keep: bool
    ) -> None:
        """Add a batch's moments, and keep its tensors for the way back."""
        self.weight = weight.detach()
        if not self.parts:
            taps = self.site.matrix(self.weight).shape[3] if self.site.step.op_type == "Conv" else 1
            by_group = self.positions.reshape(self.site.groups, -1)
            self.parts = [_Part.of(number, by_group[number], taps) for number in range(self.site.groups)]
        _add_moments(self.site, self.parts, x.detach(), self.weight, y.detach(), generator)
        if keep:
            self.x, self.y = x, y

    def conclude(self, samples: int) -> list[ReaderStatistics]:
        """The statistics of every group."""
        if self.weight is None:
            return []
        matrix = self.site.matrix(self.weight)
        by_group = self.positions.reshape(self.site.groups, -1)
        return [_conclude(part, matrix[part.number], by_group[part.number], samples) for part in self.parts]


def gather(
    twin: TorchGraph,
    channels: Channels,
    batches: Iterable[Feed],
    *,
    rung: str,
    seed: int = 0,
    gradients: bool = True,
    extra: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Stream `batches` through the twin and collect statistics at every reader of a prunable channel.

    `extra` are those that not every criterion needs: fisher (with gradients), chip.
    """
    readers = {str(reader.node.outputs[0].name): channels.component[reader.ids] for reader in channels.flow.readers}
    watches = {
        name: _Watch(site, readers[name], "fisher" in extra)
        for name, site in find_sites(twin).items()
        if name in readers and readers[name].any()
    }
    meetings = find_meetings(twin, channels)
    maps = FeatureMaps(channels.count) if "chip" in extra else None
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    for feed in batches:
        _batch(twin, watches, meetings, maps, feed, generator, gradients=gradients)
        samples += samples_in(feed)
        if progress is not None:
            progress(samples)
    # Moments are given up one by one, as the statistics made of them are as large.
    found = {name: watches.pop(name).conclude(samples) for name in list(watches)}
    found |= {name: meeting.conclude(samples) for name, meeting in meetings.items()}
    return Statistics(found, samples, rung, None if maps is None else maps.scores())


def _batch(
    twin: TorchGraph,
    watches: Mapping[str, _Watch],
    meetings: Mapping[str, Meeting],
    maps: FeatureMaps | None,
    feed: Feed,
    generator: torch.Generator,
    *,
    gradients: bool,
) -> None:
    """One batch: moments of the inputs on the way forward, curvature of the outputs on the way back."""
    with torch.set_grad_enabled(gradients):
        environment = twin.enter(feed)
        for step in twin.steps:
            results = twin.run(step, environment)
            if (watch := watches.get(step.outputs[0])) is not None:
                x, weight = (
                    twin.value(str(step.inputs[place]), environment) for place in (watch.site.data, watch.site.weight)
                )
                watch.see(x, weight, results[0], generator, keep=gradients)
                if maps is not None:
                    rows = watch.site.input_rows(x)
                    maps.see(str(watch.site.step.inputs[watch.site.data]), by_sample(x, rows), watch.positions)
            if (meeting := meetings.get(step.outputs[0])) is not None:
                name = str(step.inputs[meeting.operand])
                met = twin.value(name, environment)
                meeting.x = met if gradients else None
                if maps is not None:
                    for row, (found, components) in enumerate(meeting.maps(met)):
                        maps.see(f"{name}/{row}", found, components)
            environment.update(zip(step.outputs, results, strict=False))
            for gone in step.release:
                environment.pop(gone, None)
        if gradients:
            outputs = list(twin.leave(environment).values())
            _add_gradients(list(watches.values()), list(meetings.values()), outputs, generator)


def _add_moments(
    site: Site, parts: list[_Part], x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, generator: torch.Generator
) -> None:
    if any(part.block for part in parts):
        chosen = torch.randperm(site.positions(y), generator=generator)[:POSITIONS].to(y.device)
        windows = site.windows(x, weight, y, chosen)
        for part in parts:
            part.moments.add(windows[part.number].flatten(1), own=True)
        return
    available, limit = site.input_positions(x), POSITIONS * max(x.shape[0], 1)
    if available > limit:
        rows = site.input_rows(x, torch.randint(available, (limit,), generator=generator).to(x.device))
    else:
        rows = site.input_rows(x)
    rows = rows.reshape(len(rows), site.groups, -1)
    for part in parts:
        part.moments.add(part.by_slot(rows[:, part.number]))


def _add_gradients(
    watches: Sequence[_Watch], meetings: Sequence[Meeting], outputs: list[torch.Tensor], generator: torch.Generator
) -> None:
    objective = curvature_objective(outputs, generator)
    ends = [(watch, watch.y) for watch in watches if watch.y is not None and watch.y.requires_grad]
    starts = [(watch, watch.x) for watch in watches if watch.x is not None and watch.x.requires_grad]
    met = [(meeting, meeting.x) for meeting in meetings if meeting.x is not None and meeting.x.requires_grad]
    tensors = [*(tensor for _, tensor in ends + starts), *(tensor for _, tensor in met)]
    if objective is not None and tensors:
        found = torch.autograd.grad(objective, tensors, allow_unused=True)
        for (watch, _), gradient in zip(ends, found, strict=False):
            if gradient is not None:
                _add_curvature(watch, gradient, generator)
        for (watch, x), gradient in zip(starts, found[len(ends) :], strict=False):
            if gradient is not None:
                _add_taylor(watch, x.detach() * gradient)
        for (meeting, _), gradient in zip(met, found[len(ends) + len(starts) :], strict=True):
            if gradient is not None:
                meeting.add(gradient)
    for watch in watches:
        watch.x = watch.y = None
    for meeting in meetings:
        meeting.x = None


def _add_curvature(watch: _Watch, gradient: torch.Tensor, generator: torch.Generator) -> None:
    """The sum over positions of delta delta' [O, O], estimated from some of them where there are many."""
    delta, scale = watch.site.output_rows(gradient), 1.0
    if delta.shape[0] > CURVATURE_ROWS:
        scale = delta.shape[0] / CURVATURE_ROWS
        delta = delta[torch.randint(delta.shape[0], (CURVATURE_ROWS,), generator=generator).to(delta.device)]
    delta = delta.reshape(len(delta), watch.site.groups, -1)
    for part in watch.parts:
        moment = (delta[:, part.number].T @ delta[:, part.number]).double() * scale
        part.curvature = moment if part.curvature is None else part.curvature + moment


def by_sample(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows [R, P] of a site's input, which has samples on its first axis, as [N, places, P]; a vector is one sample."""
    samples = x.shape[0] if x.ndim > 1 and len(rows) % max(x.shape[0], 1) == 0 else 1
    return rows.reshape(samples, -1, rows.shape[1])


def _add_taylor(watch: _Watch, product: torch.Tensor) -> None:
    """E|sum over positions of z g| by input position of the reader; 1/2 E(sum over positions of z g)^2 if wanted."""
    summed = product.flatten(2).sum(2) if watch.site.convolution else watch.site.input_rows(product)
    total = summed.reshape(len(summed), watch.site.groups, -1).abs().sum(0).double()
    for part in watch.parts:
        part.taylor = total[part.number] if part.taylor is None else part.taylor + total[part.number]
    if watch.squares:
        sums = summed if watch.site.convolution else by_sample(product, summed).sum(1)
        squares = _squares(sums.double(), watch.positions).reshape(watch.site.groups, -1)
        for part in watch.parts:
            part.fisher = squares[part.number] if part.fisher is None else part.fisher + squares[part.number]


def _squares(sums: torch.Tensor, positions: npt.NDArray[np.int64]) -> torch.Tensor:
    """1/2 sum over samples of (z g)^2 of each component, of sums [N, P]; shared evenly among its positions [P]."""
    components, of, counts = np.unique(positions, return_inverse=True, return_counts=True)
    index = torch.from_numpy(of).to(sums.device)
    together = sums.new_zeros(len(sums), len(components)).index_add_(1, index, sums)
    return (together.square().sum(0) / 2 / torch.from_numpy(counts).to(sums.device))[index]


def curvature_objective(outputs: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor | None:
    """A scalar whose gradients, squared and averaged, are the curvature of the divergence from the model itself.

    Class scores [N, K]: the log-likelihood of labels drawn from the model's own softmax (true Fisher). Other outputs f:
    v . f / rms(f) with v ~ N(0, I). Outputs that aren't floating point say nothing.
    """
    terms = [
        _term(output, generator)
        for output in outputs
        if output.requires_grad and output.is_floating_point() and output.numel()
    ]
    return torch.stack(terms).sum() if terms else None


def _term(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    scores = class_log_probabilities(output)
    if scores is not None and float(scores.detach().exp().amax(1).mean()) < CERTAIN:
        drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(output.device)
        return -scores.gather(1, drawn).sum()
    output = output if scores is None else scores - scores.mean(1, keepdim=True)
    noise = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
    return (noise * output).sum() / output.detach().square().mean().sqrt().clamp_min(1e-12)


def class_log_probabilities(output: torch.Tensor) -> torch.Tensor | None:
    """Log-probabilities [N, K] where an output looks like class scores: (log-)probabilities, or peaked logits."""
    if output.ndim != 2 or output.shape[1] < 2:
        return None
    values = output.detach()
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
        return (output + 1e-12).log()
    if bool((values <= 1e-6).all()) and bool(((values.exp().sum(1) - 1).abs() < 1e-3).all()):
        return output
    confidence = values.softmax(1).amax(1).mean()
    return (
        output.log_softmax(1)
        if float(confidence) > max(0.5, min(0.75, 3.0 / output.shape[1])) or output.shape[1] == 2
        else None
    )


def _conclude(part: _Part, matrix: torch.Tensor, positions: npt.NDArray[np.int64], samples: int) -> ReaderStatistics:
    covariance = part.covariance()
    gram = _gram(part.weight(matrix), None if part.curvature is None else part.curvature / samples, covariance)
    taylor, fisher = (
        None if total is None else (total / samples).cpu().numpy() for total in (part.taylor, part.fisher)
    )
    return ReaderStatistics(
        part.units,
        covariance.cpu().numpy(),
        gram.cpu().numpy(),
        positions,
        taylor,
        fisher=fisher,
        mean=part.mean().cpu().numpy(),
    )


def _gram(matrix: torch.Tensor, curvature: torch.Tensor | None, covariance: torch.Tensor) -> torch.Tensor:
    """The sum over taps of W' G W [S, S], of a weight [O, S, T]; without gradients G = I / tr(W C W')."""
    by_tap = matrix.permute(2, 0, 1)
    if curvature is None:
        gram = mirror(lower(by_tap.reshape(-1, matrix.shape[1])))
        return gram.div_(torch.dot(gram.flatten(), covariance.flatten()).clamp_min(1e-30))
    by_tap = by_tap.double()
    return torch.einsum("tos,tor->sr", by_tap, torch.matmul(curvature, by_tap))
