"""The passes that there are: one visible table, imported only when one is asked for."""

from __future__ import annotations

import importlib
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from darwinc.pipeline import Pass

PASSES: dict[str, str] = {
    "cull": "darwinc.passes.cull:Cull",
    "select": "darwinc.passes.select:Select",
    "evolve": "darwinc.passes.evolve:Evolve",
    "excise": "darwinc.passes.excise:Excise",
    "adopt": "darwinc.passes.adopt:Adopt",
    "inherit": "darwinc.passes.inherit:Inherit",
    "recalibrate": "darwinc.passes.recalibrate:Recalibrate",
    "distill": "darwinc.passes.distill:Distill",
    "finetune": "darwinc.passes.finetune:Finetune",
}

CALIBRATORS: dict[str, str] = {
    "statistics": "second moments and curvature at every reader, in one streaming pass",
    "feature_maps": "the nuclear norm that feature maps lose without each channel",
    "refit": "rectifier-aware ridge least squares of every layer, on the compressed prefix",
    "recalibrate": "mean and variance at every BatchNormalization, and at every layer without one",
    "training": "the loop of distill and finetune, what it is told, and what it sees",
    "appraisal": "strengths of a network's channels and weights, from which offspring are drawn",
    "upbringing": "one offspring: cut, born with its parents' weights, refitted, trained, judged",
    "trajectories": "how the weights of each channel moved, from checkpoints",
    "weights_only": "white inputs at every layer, for graphs that torch can't run",
}


@dataclass(frozen=True)
class Option:
    """A field of a pass."""

    name: str
    kind: str
    default: Any


def load(name: str) -> type[Pass]:
    """A pass by name."""
    module, _, attribute = PASSES[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module), attribute)
    return found


def options(step: type[Pass]) -> list[Option]:
    """The options of a pass, with their defaults; those of an option that has some itself are listed one by one."""
    found = []
    for item in fields(step):
        inner = fields(item.default) if is_dataclass(item.default) else (item,)
        found += [
            Option(part.name, str(part.type), None if part.default is MISSING else part.default) for part in inner
        ]
    return found


def summary(step: type[Pass]) -> str:
    """The first line of a pass's docstring."""
    return (step.__doc__ or "").strip().splitlines()[0]
