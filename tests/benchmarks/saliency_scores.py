"""How good saliency maps are, by F_beta and mean absolute error, for an ONNX file and an archive of images.

    python tests/benchmarks/saliency_scores.py MODEL.onnx DATA.npz [--ancestor ANCESTOR.onnx]

Against the masks y of DATA.npz, or, where it has none, against what the ancestor holds for salient: its maps,
binarised. A map is the salient class' share of the softmax of two scores [N, 2, H, W].

F_beta = (1 + beta^2) P R / (beta^2 P + R) with beta^2 = 0.3 of precision and recall (Achanta et al. 2009,
*Frequency-tuned Salient Region Detection*), for every image by itself; means over images are given. A mask without a
salient pixel scores 0.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from darwinc.data_sources import load_archive
from darwinc.runtime import open_session, run

Maps = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
BETA_SQUARED = 0.3
LEVELS = 256
"""The map is binarised at k / 255 for k from 0 to 255 where the best threshold is sought."""
BATCH = 20


@dataclass(frozen=True)
class Scores:
    """Means over images.

    Attributes:
        f_beta: of maps binarised at twice their own mean.
        best_f_beta: at the one threshold, the same for all images, that is best for them: an upper bound.
        mae: mean |map - mask|.
    """

    f_beta: float
    best_f_beta: float
    mae: float

    def __str__(self) -> str:
        return f"F_beta {self.f_beta:.4f}, at the best threshold {self.best_f_beta:.4f}, MAE {self.mae:.4f}"


def binarised(maps: Maps) -> Masks:
    """Maps [N, H, W] at twice their mean each, or at their maximum where that is less, so that something is left."""
    flat = maps.reshape(len(maps), -1)
    limits = np.minimum(2 * flat.mean(1), flat.max(1))
    called: Masks = maps >= limits[:, None, None]
    return called


def f_beta(found: npt.NDArray[Any], right: npt.NDArray[Any], there: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """From counts of pixels, of any shape: called salient, rightly so, and salient in truth.

    (1 + b) P R / (b P + R) with P = right / found and R = right / there is (1 + b) right / (b there + found).
    """
    below = BETA_SQUARED * there + found
    scores: npt.NDArray[np.float64] = np.zeros(below.shape)
    np.divide((1 + BETA_SQUARED) * right, below, out=scores, where=below > 0)
    return scores


def curve(maps: Maps, masks: Masks) -> npt.NDArray[np.float64]:
    """Mean F_beta over images at each of the thresholds [256]; a pixel counts from map >= threshold on."""
    levels = np.floor(maps.astype(np.float64) * (LEVELS - 1) + 1e-9).astype(np.int64).reshape(len(maps), -1)
    flat = masks.reshape(len(masks), -1)
    total = np.zeros(LEVELS)
    for level, mask in zip(levels, flat, strict=True):
        found, right = (
            np.bincount(part, minlength=LEVELS)[::-1].cumsum()[::-1].astype(np.float64) for part in (level, level[mask])
        )
        total += f_beta(found, right, np.full(LEVELS, float(mask.sum())))
    return np.asarray(total / len(maps))


def score_maps(maps: Maps, masks: Masks) -> Scores:
    """Maps [N, H, W] from 0 to 1 against masks [N, H, W]."""
    called, axes = binarised(maps), (1, 2)
    each = f_beta(called.sum(axes), (called & masks).sum(axes), masks.sum(axes))
    mae = np.abs(maps.astype(np.float64) - masks).mean()
    return Scores(float(each.mean()), float(curve(maps, masks).max()), float(mae))


def maps_of(model: Any, images: npt.NDArray[np.float32]) -> Maps:
    """The maps [N, H, W] of a file, or a model, in ONNX Runtime."""
    session = open_session(model)
    name = session.get_inputs()[0].name
    maps = []
    for start in range(0, len(images), BATCH):
        scores = next(iter(run(session, {name: images[start : start + BATCH]}).values())).astype(np.float64)
        maps.append((1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))).astype(np.float32))
    return np.concatenate(maps)


def score(model: Any, data: Path) -> Scores:
    """A model against the masks y of an archive."""
    arrays = load_archive(data)
    return score_maps(maps_of(model, arrays["x"]), arrays["y"] > 0)


def score_against(model: Any, ancestor: Any, data: Path) -> Scores:
    """A descendant against its ancestor's binarised maps, on an archive's images, which need no masks."""
    images = load_archive(data)["x"]
    return score_maps(maps_of(model, images), binarised(maps_of(ancestor, images)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ancestor", type=Path)
    asked = parser.parse_args()
    if asked.ancestor is None:
        print(score(asked.model, asked.data))
    else:
        print(score_against(asked.model, asked.ancestor, asked.data))


if __name__ == "__main__":
    main()
