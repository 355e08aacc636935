"""Re-estimate the running statistics of every BatchNormalization on calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import Step

Feed = Mapping[str, npt.NDArray[np.generic]]


def reestimate(twin: TorchGraph, batches: Sequence[Feed]) -> int:
    """Set each BatchNormalization's mean and variance [C] to those of its input; returns how many changed.

    Every node is run for all batches before the next one, so that later layers see re-estimated earlier ones.
    Statistics that are shared with another reader are left alone.
    """
    weights = twin.weights()
    uses: dict[str, int] = {}
    for step in twin.steps:
        for name in step.inputs:
            if name is not None:
                uses[name] = uses.get(name, 0) + 1
    changed = 0
    with torch.no_grad():
        environments = [twin.enter(feed) for feed in batches]
        for step in twin.steps:
            if step.op_type == "BatchNormalization":
                mean, variance = (weights.get(str(name)) for name in step.inputs[3:5])
                private = all(uses[str(name)] == 1 for name in step.inputs[3:5])
                if mean is not None and variance is not None and private:
                    found = input_statistics(twin, step, environments)
                    mean.copy_(found[0])
                    variance.copy_(found[1])
                    changed += 1
            for environment in environments:
                environment.update(zip(step.outputs, twin.run(step, environment), strict=False))
                for name in step.release:
                    environment.pop(name, None)
    return changed


def input_statistics(
    twin: TorchGraph, step: Step, environments: Sequence[Mapping[str, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [C] of a step's first operand [N, C, *spatial] over all batches."""
    count = 0
    first = second = torch.zeros(())
    for environment in environments:
        x = twin.value(str(step.inputs[0]), environment)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        first = first + x.sum(axes, dtype=torch.float64)
        second = second + x.square().sum(axes, dtype=torch.float64)
        count += x.numel() // x.shape[1]
    mean = first / count
    return mean, (second / count - mean.square()).clamp_min(0)
