"""Ridge least squares for one layer, and for a layer with a rectifier behind it.

Inputs are X [G, R, D] (groups, rows, inputs times taps), targets T [G, R, O], weights [G, D, O], offsets [G, O]. A
rectifier forgives: where the target and the answer both lie beyond its bound, the answer is right whatever it is. So
the fit alternates between the weights and such free targets (after Zhang et al., 2015, "Accelerating Very Deep
Convolutional Networks").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGES = (1e-6, 1e-3, 1e-2, 1e-1, 1.0)
"""The smallest repairs exact redundancy, and lies above the rounding of moments in single precision."""
NEGLIGIBLE = 1e-9
"""A relative error below which a layer is left as it is: nothing changed before it."""
WIDEST_DOUBLE = 1024
"""Inputs above which moments are factored in single precision, whose rounding the ridge covers, and fewer are tried."""
ROUNDS = 3
WIDE_RIDGES, WIDE_ROUNDS = (1e-2, 1e-1), 1


@dataclass(frozen=True)
class Rows:
    """Rows of one layer.

    `low` and `high` are the outputs at which the rectifier starts and ends, None where there's none; `gain` [G, 1, O]
    is what the network makes of a unit of each output.
    """

    x: torch.Tensor
    t: torch.Tensor
    low: torch.Tensor | None = None
    high: torch.Tensor | None = None
    gain: torch.Tensor | None = None

    def clipped(self, answer: torch.Tensor) -> torch.Tensor:
        """What the network sees of an answer: what the rectifier lets through, times the gain."""
        seen = (
            answer
            if self.low is None or self.high is None
            else torch.minimum(torch.maximum(answer, self.low), self.high)
        )
        return seen if self.gain is None else seen * self.gain

    def forgiving(self, answer: torch.Tensor) -> torch.Tensor:
        """The target, where any answer beyond the same bound as the target is as good as the target."""
        if self.low is None or self.high is None:
            return self.t
        target = torch.where(self.t < self.low, torch.minimum(answer, self.low), self.t)
        return torch.where(self.t > self.high, torch.maximum(answer, self.high), target)


@dataclass(frozen=True)
class Solution:
    """Weights [G, D, O], offset [G, O] or None, the held-out error relative to the target's variance, and the ridge."""

    weight: torch.Tensor
    offset: torch.Tensor | None
    error: float
    ridge: float | None


class LayerFit:
    """Candidates for one layer, judged on held-out rows."""

    def __init__(self, seen: Rows, held: Rows, weight: torch.Tensor, offset: torch.Tensor | None) -> None:
        self.seen, self.held = seen, held
        self.current = Solution(weight, offset, self._error(weight, offset), None)
        self.wide = seen.x.shape[2] > WIDEST_DOUBLE
        self.factors: dict[float, torch.Tensor | None] = {}

    def _prepare(self) -> None:
        """Moments of the rows, once some candidate is wanted."""
        seen = self.seen
        centred = self.current.offset is not None
        self.mean = (
            seen.x.mean(1, dtype=torch.float64) if centred else torch.zeros_like(seen.x[:, 0], dtype=torch.float64)
        )
        precision = torch.float32 if self.wide else torch.float64
        square = (seen.x.transpose(1, 2) @ seen.x).to(precision) / seen.x.shape[1]
        mean = self.mean.to(precision)
        self.moment = square - mean.unsqueeze(2) * mean.unsqueeze(1)
        self.explained = self.moment @ self.current.weight.to(precision)

    def judged(self, weight: torch.Tensor, offset: torch.Tensor | None) -> Solution:
        """A candidate that was found by other means."""
        return Solution(weight, offset, self._error(weight, offset), 0.0)

    def best(self) -> Solution:
        """The candidate of least held-out error; the present weights (`ridge` None) where none is better."""
        if self.current.error < NEGLIGIBLE:
            return self.current
        self._prepare()
        linear = [self._solve(self.seen.t, ridge) for ridge in (WIDE_RIDGES if self.wide else RIDGES)]
        candidates = [self.current, *(candidate for candidate in linear if candidate is not None)]
        best = min(candidates, key=lambda candidate: candidate.error)
        if self.seen.low is None:
            return best
        return min((best, *self._alternate(best, best.ridge or RIDGES[-1])), key=lambda candidate: candidate.error)

    def _alternate(self, start: Solution, ridge: float) -> list[Solution]:
        found, present = [], start
        for _ in range(WIDE_ROUNDS if self.wide else ROUNDS):
            solved = self._solve(self.seen.forgiving(self._answer(self.seen, present.weight, present.offset)), ridge)
            if solved is None:
                break
            present = solved
            found.append(present)
        return found

    def _factor(self, ridge: float) -> torch.Tensor | None:
        """The Cholesky factor of the moments plus a ridge of each input's own variance; None where it doesn't exist."""
        if ridge not in self.factors:
            scale = torch.diagonal(self.moment, dim1=1, dim2=2).clamp_min(0)
            scale = scale.clamp_min(1e-8 * float(scale.mean()) + 1e-30)
            factor, failed = torch.linalg.cholesky_ex(self.moment + torch.diag_embed(scale * ridge))
            self.factors[ridge] = None if bool(failed.any()) else factor
        return self.factors[ridge]

    def _solve(self, target: torch.Tensor, ridge: float) -> Solution | None:
        factor = self._factor(ridge)
        if factor is None:
            return None
        weight, offset = self.current.weight, self.current.offset
        mean_t = (
            target.mean(1, dtype=torch.float64)
            if offset is not None
            else torch.zeros_like(target[:, 0], dtype=torch.float64)
        )
        cross = (self.seen.x.transpose(1, 2) @ target).to(factor.dtype) / target.shape[1]
        cross = cross - (self.mean.unsqueeze(2) * mean_t.unsqueeze(1)).to(factor.dtype)
        solved = weight + torch.cholesky_solve(cross - self.explained, factor).double()
        moved = None if offset is None else mean_t - (solved.transpose(1, 2) @ self.mean.unsqueeze(2)).squeeze(2)
        return Solution(solved, moved, self._error(solved, moved), ridge)

    @staticmethod
    def _answer(rows: Rows, weight: torch.Tensor, offset: torch.Tensor | None) -> torch.Tensor:
        answer = rows.x @ weight.to(rows.x.dtype)
        return answer if offset is None else answer + offset.to(answer.dtype).unsqueeze(1)

    def _error(self, weight: torch.Tensor, offset: torch.Tensor | None) -> float:
        wanted, answer = self.held.clipped(self.held.t), self.held.clipped(self._answer(self.held, weight, offset))
        error = (answer - wanted).double().square().sum()
        spread = (wanted - wanted.mean(1, keepdim=True)).double().square().sum()
        return float(error / spread.clamp_min(1e-30)) if bool(torch.isfinite(error)) else float("inf")
