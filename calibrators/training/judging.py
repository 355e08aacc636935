"""How good a network is by the validation samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from lightning_fabric import Fabric

from darwinc.calibrators.training.feeding import Feeding, TensorBatch
from darwinc.calibrators.training.objectives import Objective, Tensors
from darwinc.torch_graph import TorchGraph

ANSWER_BYTES = 256 * 2**20
"""What the teacher's answers to the validation samples may take."""


class Judge:
    """Scores networks on the validation samples, by an objective; the teacher is asked once, where answers are small.

    Args:
        teacher: the original's twin.
        samples: the validation samples.
        fabric: devices and precision; launched.
    """

    def __init__(self, teacher: TorchGraph, objective: Objective, samples: Feeding, fabric: Fabric) -> None:
        self.teacher, self.objective, self.samples, self.fabric = teacher, objective, samples, fabric
        self._answers: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def score(self, student: TorchGraph) -> tuple[float, float]:
        """`Objective.score` on all validation samples; not-a-number counts as infinite."""
        student.eval()
        names = self.objective.names[: len(self.objective.endings)]
        total, count = torch.zeros(2, dtype=torch.float64), 0
        for place, portion in enumerate(self.samples.validation()):
            with self.fabric.autocast():
                wanted, got = self._expected(place, portion, names), single(student(portion.feed, also=names))
            total += self.objective.score(got, wanted, portion.labels).double().cpu() * portion.samples
            count += portion.samples
        found = self._over_all_ranks(total, count).tolist()
        first, second = (value if math.isfinite(value) else math.inf for value in found)
        return first, second

    def _expected(self, place: int, portion: TensorBatch, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The teacher's answers to a validation batch."""
        if place < len(self._answers):
            return self._answers[place]
        found = self.teacher(portion.feed, also=names)
        wanted = single({name: found[name] for name in names})
        size = sum(value.numel() * value.element_size() for value in wanted.values())
        if place == len(self._answers) and size * (place + 1) <= ANSWER_BYTES:
            self._answers.append(wanted)
        return wanted

    def _over_all_ranks(self, total: torch.Tensor, count: int) -> torch.Tensor:
        """The mean of scores [2] whose sums and counts are spread over the processes."""
        if self.fabric.world_size > 1:
            sums = torch.cat([total, torch.tensor([float(count)], dtype=torch.float64)]).to(self.fabric.device)
            sums = self.reduced(sums, "sum").cpu()
            return sums[:2] / sums[2].clamp_min(1)
        return total / max(count, 1)

    def reduced(self, tensor: torch.Tensor, operation: str) -> torch.Tensor:
        """The sum or the mean over all processes."""
        return cast(torch.Tensor, self.fabric.all_reduce(tensor, reduce_op=operation))


def single(values: Tensors) -> dict[str, torch.Tensor]:
    """Values in single precision at least, as scores are computed."""
    return {
        name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        for name, value in values.items()
    }
