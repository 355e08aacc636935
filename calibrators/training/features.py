"""Values inside the network that a student is held to, besides its outputs.

Adriana Romero et al., *FitNets: Hints for Thin Deep Nets*, 2015; here no projection is needed, because the student's
channels are some of the teacher's, and each is compared with its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from darwinc.calibrators.lockstep import living_cuts
from darwinc.channels import Channels, Mask
from darwinc.torch_graph import TorchGraph

MOST_FEATURES = 6
MIXERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Feature:
    """A value by name, and which positions of the teacher's axes the student still has."""

    name: str
    cuts: tuple[tuple[int, torch.Tensor], ...]

    def wanted(self, value: torch.Tensor) -> torch.Tensor:
        """The teacher's value, cut to the channels that live."""
        for axis, index in self.cuts:
            value = value.index_select(axis, index)
        return value


def find_features(
    twin: TorchGraph,
    channels: Channels,
    dead: Mask,
    endings: Sequence[str],
    *,
    avoid: Collection[str] = (),
    most: int = MOST_FEATURES,
) -> list[Feature]:
    """A few values spread over the depth of the network, where it branches; where it doesn't, after its layers.

    Where several readers meet is where blocks begin: the residual stream, the levels of a feature pyramid.

    Args:
        twin: of the original.
        channels, dead: what it has lost.
        endings: where losses are taken anyway.
        avoid: values whose positions aren't those of the analysis.
        most: how many.
    """
    readers = Counter(name for step in twin.steps for name in step.inputs if name)
    before = set(endings) | set(avoid)
    last = max((place for place, step in enumerate(twin.steps) if set(endings) & set(step.outputs)), default=0)
    tracked = channels.flow.values
    made = [
        (step.op_type, name)
        for step in twin.steps[:last]
        for name in step.outputs[:1]
        if name in tracked and name not in before and any(ids is not None for ids in tracked[name].axes)
    ]
    branching = [name for kind, name in made if readers[name] > 1 and kind != "Shape"]
    found = branching if len(branching) >= 2 else [name for kind, name in made if kind in MIXERS]
    count = min(most, len(found))
    chosen = [found[(2 * place + 1) * len(found) // (2 * count)] for place in range(count)]
    return [Feature(name, tuple(living_cuts(channels, dead, name, twin.device))) for name in chosen]
