"""Second moments of rows, streamed: half of a symmetric product is computed, in float32, and summed in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from darwinc.errors import DarwincError

BLOCK = 128
"""Columns of a symmetric product that are computed at once: what lies above the diagonal is left out in such steps."""

FEWEST_ROWS = 512
"""Rows that are waited for at least before they are multiplied, as each product is added to a whole matrix."""


@dataclass
class Moments:
    """Sums over rows [R, S], shifted by the first batch's mean for precision."""

    count: int = 0
    shift: torch.Tensor | None = None
    first: torch.Tensor | None = None
    second: torch.Tensor | None = None
    _waiting: list[torch.Tensor] = field(default_factory=list)
    _rows: int = 0

    def add(self, rows: torch.Tensor, *, own: bool = False) -> None:
        """More rows, which are multiplied when there are enough of them. With `own` their memory is used up."""
        if self.shift is None:
            self.shift = rows.mean(0)
        self._waiting.append(rows.sub_(self.shift) if own else rows - self.shift)
        self._rows += len(rows)
        if self._rows >= max(FEWEST_ROWS, rows.shape[1] // 4):
            self._fold()

    def _fold(self) -> None:
        if not self._waiting:
            return
        rows = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        first = rows.sum(0).double()
        self.first = first if self.first is None else self.first + first
        self.second = lower(rows, self.second)
        self.count += self._rows
        self._waiting, self._rows = [], 0

    def covariance(self) -> torch.Tensor:
        """The covariance of all rows seen [S, S], in place of their moments; at least one batch must have been."""
        self._fold()
        if self.first is None or self.second is None:
            raise DarwincError("no calibration batch was seen before statistics were asked for")
        offset = self.first / self.count
        mirror(self.second.div_(self.count))
        return self.second.addr_(offset, offset, alpha=-1)

    def mean(self) -> torch.Tensor:
        """The mean of all rows seen [S]; at least one batch must have been."""
        self._fold()
        if self.first is None or self.shift is None:
            raise DarwincError("no calibration batch was seen before statistics were asked for")
        return self.first / self.count + self.shift


def lower(rows: torch.Tensor, total: torch.Tensor | None = None) -> torch.Tensor:
    """Rows' rows [S, S] of rows [R, S], added to a float64 total, as far as symmetry doesn't tell (`mirror`)."""
    size = rows.shape[1]
    found = torch.empty((size, size), dtype=torch.float64, device=rows.device) if total is None else total
    for begin in range(0, size, BLOCK):
        end = min(begin + BLOCK, size)
        product = rows[:, begin:end].T @ rows[:, :end]
        if total is None:
            found[begin:end, :end] = product
        else:
            found[begin:end, :end] += product
    return found


def mirror(total: torch.Tensor) -> torch.Tensor:
    """Fill in, in place, what `lower` left out."""
    for begin in range(BLOCK, len(total), BLOCK):
        end = min(begin + BLOCK, len(total))
        total[:begin, begin:end] = total[begin:end, :begin].T
    return total
