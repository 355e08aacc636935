"""Inheritance in closed form: survivors take over the dead channels' part, layer by layer, on the compressed prefix.

Each linear layer of the compressed network is fitted by ridge least squares to what the *original* network has at that point (after
the residual sum, where one follows), so that errors made upstream are corrected downstream. The ridge pulls towards the weights as
they are; how strongly is chosen on held-out samples, and a layer that no fit helps stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.sites import Site, find_sites
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LARGEST = 6144
"""Inputs (channels times kernel taps) above which a layer is not refitted: its moments would not fit a bounded memory."""

ROWS_PER_INPUT = 100
FEWEST_ROWS, MOST_ROWS = 32768, 262144


@dataclass(frozen=True)
class Fitted:
    """What became of one layer: the squared error of its output on held-out samples, relative to the output's variance."""

    node: str
    error_before: float
    error_after: float
    ridge: float | None


@dataclass
class _Sums:
    """Moments of augmented rows for each group: inputs x [R, D] and targets t [R, O]."""

    count: int = 0
    x: torch.Tensor | float = 0.0
    t: torch.Tensor | float = 0.0
    xx: torch.Tensor | float = 0.0
    xt: torch.Tensor | float = 0.0
    tt: torch.Tensor | float = 0.0

    def add(self, x: torch.Tensor, t: torch.Tensor) -> None:
        self.count += x.shape[1]
        self.x = self.x + x.sum(1, dtype=torch.float64)
        self.t = self.t + t.sum(1, dtype=torch.float64)
        self.xx = self.xx + (x.transpose(1, 2) @ x).double()
        self.xt = self.xt + (x.transpose(1, 2) @ t).double()
        self.tt = self.tt + t.double().square().sum(1)


@dataclass
class Refitter:
    """Walks both networks in lockstep and refits every linear layer of the compressed one.

    Attributes:
        holdout: how many of the last batches only judge.
        corrected: fit towards the original after the residual sum, rather than towards the layer's own former response.
    """

    lockstep: Lockstep
    holdout: int
    seed: int = 0
    corrected: bool = True
    results: list[Fitted] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def run(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Refit everything, in topological order."""
        twin = self.lockstep.compressed
        sites = find_sites(twin)
        readers = _readers(twin.steps)
        generator = torch.Generator().manual_seed(self.seed)
        pairs = self.lockstep.steps()
        with torch.no_grad():
            for done, (first, second) in enumerate(pairs):
                self.lockstep.run_original(first)
                site = sites.get(second.outputs[0])
                if site is not None:
                    self._refit(site, readers, generator)
                self.lockstep.run_compressed(second)
                self.lockstep.release(first, second)
                if progress is not None:
                    progress(done + 1, len(pairs))

    def _refit(self, site: Site, readers: dict[str, list[Step]], generator: torch.Generator) -> None:
        twin = self.lockstep.compressed
        name = site.step.inputs[site.weight]
        weight = twin.weights().get(str(name))
        if weight is None or site.step.op_type == "ConvTranspose":
            self.skipped.append((site.step.name, "its weight is not stored as it is used"))
            return
        matrix = site.matrix(weight)
        if matrix.shape[2] * matrix.shape[3] > LARGEST:
            self.skipped.append((site.step.name, f"it has more than {LARGEST} inputs"))
            return
        offset = _find_offset(twin, site, readers)
        seen, held = self._collect(site, weight, readers, generator)
        if held.count < 2 or seen.count < 2:
            return
        current = matrix.double().flatten(2).transpose(1, 2)
        fit = _Fit(seen, held, current, offset.value(matrix.shape[0]) if offset is not None else None)
        best = fit.best()
        self.results.append(Fitted(site.step.name, fit.before, best.error, best.ridge))
        if best.ridge is None:
            return
        weight.copy_(site.unmatrix(best.weight.transpose(1, 2).reshape(matrix.shape).to(weight.dtype), weight))
        if offset is not None and best.offset is not None:
            offset.set(best.offset)

    def _collect(
        self, site: Site, weight: torch.Tensor, readers: dict[str, list[Step]], generator: torch.Generator
    ) -> tuple[_Sums, _Sums]:
        lockstep = self.lockstep
        seen, held = _Sums(), _Sums()
        correction = _find_correction(lockstep, site, readers) if self.corrected else None
        matrix = site.matrix(weight)
        budget = min(max(ROWS_PER_INPUT * matrix.shape[2] * matrix.shape[3], FEWEST_ROWS), MOST_ROWS)
        samples = sum(_samples(environment) for environment in lockstep.after)
        for batch, environment in enumerate(lockstep.after):
            target = lockstep.wanted(site.output, batch)
            if correction is not None:
                target = target + correction.shift(lockstep, batch)
            x = lockstep.compressed.value(str(site.step.inputs[site.data]), environment)
            available = site.positions(target)
            wanted = max(1, -(-budget // max(samples, 1)))
            chosen = torch.randperm(available, generator=generator)[:wanted] if wanted < available else torch.arange(available)
            chosen = chosen.to(target.device)
            rows, answers = site.patches(x, weight, target, chosen), site.targets(target, chosen)
            (held if batch >= len(lockstep.after) - self.holdout else seen).add(rows, answers)
        return seen, held


def _samples(environment: dict[str, torch.Tensor]) -> int:
    return max((value.shape[0] for value in environment.values() if value.ndim), default=1)


@dataclass(frozen=True)
class _Candidate:
    weight: torch.Tensor
    offset: torch.Tensor | None
    error: float
    ridge: float | None


class _Fit:
    """Ridge candidates for one layer, judged on held-out rows. Weights are [G, D, O]."""

    def __init__(self, seen: _Sums, held: _Sums, current: torch.Tensor, offset: torch.Tensor | None) -> None:
        self.seen, self.held, self.current, self.offset = seen, held, current, offset
        self.before = self._error(current, offset)

    def best(self) -> _Candidate:
        """The candidate of least held-out error; the weights as they are (`ridge` None) where nothing is better."""
        candidates = [_Candidate(self.current, self.offset, self.before, None)]
        seen = self.seen
        mean_x, mean_t = _tensor(seen.x) / seen.count, _tensor(seen.t) / seen.count
        xx, xt = _tensor(seen.xx) / seen.count, _tensor(seen.xt) / seen.count
        if self.offset is not None:
            xx = xx - mean_x.unsqueeze(2) * mean_x.unsqueeze(1)
            xt = xt - mean_x.unsqueeze(2) * mean_t.unsqueeze(1)
        gap = xt - xx @ self.current
        scale = torch.diagonal(xx, dim1=1, dim2=2).clamp_min(0)
        scale = scale.clamp_min(1e-8 * float(scale.mean()) + 1e-30)
        for ridge in RIDGES:
            regular = xx + torch.diag_embed(scale * ridge)
            factor, failed = torch.linalg.cholesky_ex(regular)
            if bool(failed.any()):
                continue
            weight = self.current + torch.cholesky_solve(gap, factor)
            offset = None if self.offset is None else mean_t - (weight.transpose(1, 2) @ mean_x.unsqueeze(2)).squeeze(2)
            candidates.append(_Candidate(weight, offset, self._error(weight, offset), ridge))
        return min(candidates, key=lambda candidate: candidate.error)

    def _error(self, weight: torch.Tensor, offset: torch.Tensor | None) -> float:
        """The mean squared held-out error over the variance of the target."""
        held = self.held
        xx, xt, tt, x, t = (_tensor(part) / held.count for part in (held.xx, held.xt, held.tt, held.x, held.t))
        error = (weight * (xx @ weight)).sum(1) - 2 * (weight * xt).sum(1) + tt
        if offset is not None:
            error = error + offset.square() + 2 * offset * ((weight.transpose(1, 2) @ x.unsqueeze(2)).squeeze(2) - t)
        variance = (tt - t.square()).sum()
        return float(error.sum() / variance.clamp_min(1e-30))


def _tensor(value: torch.Tensor | float) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)


@dataclass(frozen=True)
class _Offset:
    """Where a layer's constant term goes: its own bias, an Add after it, or the mean of the BatchNormalization after it.

    The target is the layer's own output, so only its own bias is part of what is fitted; elsewhere the term starts at zero.
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


def _find_offset(twin: TorchGraph, site: Site, readers: dict[str, list[Step]]) -> _Offset | None:
    weights = twin.weights()

    def private(name: str | None) -> torch.nn.Parameter | None:
        return weights.get(name) if name is not None and len(readers.get(name, ())) == 1 else None

    bias = site.step.inputs[2] if len(site.step.inputs) > 2 else None
    outputs = site.matrix(weights[str(site.step.inputs[site.weight])])
    width = outputs.shape[0] * outputs.shape[1]
    if bias is not None:
        found = private(bias)
        return _Offset(found, 1.0, own=True) if found is not None and found.numel() == width else None
    after = readers.get(site.output, [])
    if len(after) != 1:
        return None
    step = after[0]
    if step.op_type == "BatchNormalization" and step.inputs[0] == site.output:
        found = private(step.inputs[3])
        return _Offset(found, -1.0, own=False) if found is not None else None
    if step.op_type == "Add":
        found = private(step.inputs[1] if step.inputs[0] == site.output else step.inputs[0])
        return _Offset(found, 1.0, own=False) if found is not None and found.numel() == width else None
    return None


@dataclass(frozen=True)
class _Correction:
    """The residual sum after a layer: what the other branch lacks, in units of the layer's own output."""

    other: str
    scale: torch.Tensor | None

    def shift(self, lockstep: Lockstep, batch: int) -> torch.Tensor:
        missing = lockstep.wanted(self.other, batch) - lockstep.after[batch][self.other]
        if self.scale is None:
            return missing
        shape = (1, -1) + (1,) * (missing.ndim - 2)
        return missing / self.scale.reshape(shape)


def _find_correction(lockstep: Lockstep, site: Site, readers: dict[str, list[Step]]) -> _Correction | None:
    """Follow the output through BatchNormalization, constant Add and Identity to a sum whose other operand is already known."""
    twin = lockstep.compressed
    name, scale = site.output, None
    while True:
        after = readers.get(name, [])
        if len(after) != 1:
            return None
        step = after[0]
        if step.op_type == "BatchNormalization" and step.inputs[0] == name and scale is None:
            gamma, variance = (twin.value(str(step.inputs[place]), {}) for place in (1, 4))
            scale = gamma / (variance + float(step.attributes.get("epsilon", 1e-5))).sqrt()  # type: ignore[arg-type]
            if float(scale.abs().min()) < 1e-2 * float(scale.abs().median()):
                return None
        elif step.op_type == "Add" and len(step.inputs) == 2:
            other = str(step.inputs[1] if step.inputs[0] == name else step.inputs[0])
            if not twin.is_constant(other):
                known = other in lockstep.after[0] and other in lockstep.before[0]
                same = known and lockstep.after[0][other].shape[1:] == lockstep.wanted(site.output, 0).shape[1:]
                return _Correction(other, scale) if same else None
        elif step.op_type not in ("Identity", "Dropout"):
            return None
        name = step.outputs[0]


def _readers(steps: Sequence[Step]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            if name is not None:
                found.setdefault(name, []).append(step)
    return found
