"""The world of made-up samples: both networks see each BatchNormalization's stored mean and deviation there.

On made-up inputs the running statistics don't fit. So the original's are replaced by those that it has on these inputs
(`recalibrate.reestimate`), the compressed network takes over the same ones while it is refitted, and afterwards gets
its own back, moved by what the refit added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from darwinc.calibrators.calibration import Calibration
from darwinc.channels import Channels, Mask
from darwinc.torch_graph import TorchGraph


@dataclass
class _Statistic:
    parameter: torch.nn.Parameter
    real: torch.Tensor
    made_up: torch.Tensor


@dataclass
class Domain:
    """The compressed network's running statistics, real and made up."""

    statistics: list[_Statistic]

    @classmethod
    def enter(cls, calibration: Calibration, compressed: TorchGraph, channels: Channels, dead: Mask) -> Domain:
        """Give the compressed network the original's statistics on made-up samples; with real data nothing changes."""
        if calibration.rung != "batchnorm" or calibration.twin is None:
            return cls([])
        originals = {step.outputs[0]: step for step in calibration.twin.steps if step.op_type == "BatchNormalization"}
        found: list[_Statistic] = []
        weights, seen = compressed.weights(), set()
        for step in compressed.steps:
            original = originals.get(step.outputs[0])
            if original is None:
                continue
            for place in (3, 4):
                name = str(step.inputs[place])
                if name not in weights or name in seen:
                    continue
                seen.add(name)
                vector = calibration.twin.value(str(original.inputs[place]), {}).detach()
                tracked = channels.flow.values[step.outputs[0]]
                ids = tracked.axes[1]
                living = np.flatnonzero(channels.living(ids, dead)) if ids is not None else np.arange(len(vector))
                made_up = vector[torch.from_numpy(living).to(vector.device)].clone()
                found.append(_Statistic(weights[name], weights[name].detach().clone(), made_up))
        for statistic in found:
            statistic.parameter.data.copy_(statistic.made_up)
        return cls(found)

    def leave(self) -> None:
        """Back to the real statistics, moved as the refit moved the made-up ones."""
        for statistic in self.statistics:
            moved = statistic.parameter.detach() - statistic.made_up
            statistic.parameter.data.copy_(statistic.real + moved)
