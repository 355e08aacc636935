"""F_beta and mean absolute error of saliency maps, against closed forms and against counting pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.benchmarks.saliency_scores import (
    BETA_SQUARED,
    Maps,
    Masks,
    binarised,
    curve,
    maps_of,
    score,
    score_against,
    score_maps,
)

TWO_SCORES = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N, 1, H, W] x) => (float[N, 2, H, W] scores)
<float zero = {0.0}>
{
    none = Mul (x, zero)
    scores = Concat <axis = 1> (none, x)
}
"""


def made_up(seed: int = 0) -> tuple[Maps, Masks]:
    generator = np.random.default_rng(seed)
    return generator.random((5, 12, 9), np.float32), generator.random((5, 12, 9)) < 0.3


def test_a_perfect_map_scores_one_and_errs_by_nothing() -> None:
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :2] = True
    scores = score_maps(masks.astype(np.float32), masks)
    assert (scores.f_beta, scores.best_f_beta, scores.mae) == (1.0, 1.0, 0.0)


def test_half_of_the_object_found_has_its_closed_form() -> None:
    # One of ten rows is found where two are salient: precision 1, recall 1/2, error 1/10.
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :2] = True
    maps = np.zeros((1, 10, 10), np.float32)
    maps[0, :1] = 1
    expected = (1 + BETA_SQUARED) * 0.5 / (BETA_SQUARED + 0.5)
    scores = score_maps(maps, masks)
    assert scores.f_beta == pytest.approx(expected, rel=1e-12)
    assert scores.best_f_beta == pytest.approx(expected, rel=1e-12)
    assert scores.mae == pytest.approx(0.1, rel=1e-12)


def test_a_flat_map_calls_everything_salient() -> None:
    # Twice its mean is above its maximum, which binarises it instead: precision is the object's share, recall 1.
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :2] = True
    scores = score_maps(np.full((1, 10, 10), 0.6, np.float32), masks)
    assert scores.f_beta == pytest.approx(1.3 * 0.2 / (0.3 * 0.2 + 1), rel=1e-12)


def test_maps_are_binarised_at_twice_their_own_mean() -> None:
    maps = np.array([[[0.1, 0.1, 0.1, 0.7]], [[0.4, 0.4, 0.0, 0.0]]], np.float32)
    assert binarised(maps).tolist() == [[[False, False, False, True]], [[True, True, False, False]]]


def test_the_curve_is_what_counting_at_each_threshold_gives() -> None:
    maps, masks = made_up()
    expected = []
    for level in range(256):
        each = []
        for one, mask in zip(maps, masks, strict=True):
            called = one.astype(np.float64) >= level / 255
            right = (called & mask).sum()
            precision, recall = right / max(called.sum(), 1), right / mask.sum()
            below = BETA_SQUARED * precision + recall
            each.append((1 + BETA_SQUARED) * precision * recall / below if below else 0.0)
        expected.append(np.mean(each))
    np.testing.assert_allclose(curve(maps, masks), expected, rtol=1e-12)


def test_the_best_threshold_is_no_worse_than_any_other() -> None:
    maps, masks = made_up(1)
    assert score_maps(maps, masks).best_f_beta == pytest.approx(curve(maps, masks).max())


def test_a_mask_without_an_object_scores_nothing() -> None:
    maps, _ = made_up()
    scores = score_maps(maps, np.zeros(maps.shape, bool))
    assert (scores.f_beta, scores.best_f_beta) == (0.0, 0.0)
    assert scores.mae == pytest.approx(maps.mean(dtype=np.float64))


def test_a_file_is_scored_by_the_salient_share_of_its_softmax(tmp_path: Path) -> None:
    model, data = tmp_path / "tiny.onnx", tmp_path / "data.npz"
    onnx.save(onnx.parser.parse_model(TWO_SCORES), model)
    images = np.random.default_rng(0).standard_normal((45, 1, 8, 8)).astype(np.float32)
    masks = images[:, 0] > 0.5
    np.savez(data, x=images, y=masks.astype(np.int64))
    expected = (1 / (1 + np.exp(-images[:, 0].astype(np.float64)))).astype(np.float32)
    np.testing.assert_allclose(maps_of(model, images), expected, rtol=1e-6)
    assert score(model, data) == score_maps(expected, masks)
    assert score(model, data).best_f_beta > 0.9


def test_without_masks_the_ancestor_says_what_is_salient(tmp_path: Path) -> None:
    ancestor, model, data = tmp_path / "ancestor.onnx", tmp_path / "tiny.onnx", tmp_path / "data.npz"
    onnx.save(onnx.parser.parse_model(TWO_SCORES), ancestor)
    onnx.save(onnx.parser.parse_model(TWO_SCORES.replace("{0.0}", "{0.5}")), model)
    images = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    np.savez(data, x=images)
    assert score_against(ancestor, ancestor, data).f_beta == 1.0
    wanted = binarised(maps_of(ancestor, images))
    assert score_against(model, ancestor, data) == score_maps(maps_of(model, images), wanted)
