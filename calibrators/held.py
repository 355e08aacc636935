"""Weights of which single synapses are gone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

Masks = Mapping[str, npt.NDArray[np.bool_]]
"""Which synapses of some weights live, by name."""


def silence(weights: Mapping[str, torch.Tensor], living: Masks | Mapping[str, torch.Tensor]) -> None:
    """Set what doesn't live to zero, in place; the masks have the weights' shapes."""
    with torch.no_grad():
        for name, mask in living.items():
            weights[name].mul_(torch.as_tensor(mask, device=weights[name].device))
