"""Adaptability is what the formula says of checkpoints, and what isn't a trajectory is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import save_file

from darwinc.calibrators.trajectories import Trajectory, from_checkpoints
from darwinc.channels import Channels, analyse
from darwinc.errors import InvalidData
from darwinc.matching import matched
from darwinc.scoring import Scoring
from tests.small_models import CLASSIFIER, Array, Arrays, build, images, save, stored
from tests.test_compression import QUICK, squeezed
from tests.test_rivals import GROUPED

FOLLOWED = ("w1", "w2", "w3")


def walk(model: onnx.ModelProto, steps: int = 4, seed: int = 1) -> list[dict[str, Array]]:
    """Weights after each of some random steps."""
    random, weights = np.random.default_rng(seed), {name: array.copy() for name, array in stored(model).items()}
    path = []
    for _ in range(steps):
        path.append({name: array.copy() for name, array in weights.items()})
        for array in weights.values():
            array += (0.1 * random.standard_normal(array.shape)).astype(array.dtype)
    return path


def channels_of(model: onnx.ModelProto) -> Channels:
    return analyse(ir.from_proto(model))


def followed(channels: Channels, path: list[dict[str, Array]]) -> Trajectory:
    trajectory = Trajectory(channels)
    for weights in path:
        trajectory.add(weights)
    return trajectory


def by_hand(thetas: Array) -> Array:
    """NAS of units, from the weights [T, U, K] that make and read them."""
    thetas = thetas.astype(np.float64)
    steps = np.linalg.norm(np.diff(thetas, axis=0), axis=2)
    relative = (steps / np.linalg.norm(thetas[:-1], axis=2)).mean(0)
    straight = np.linalg.norm(thetas[-1] - thetas[0], axis=1) / steps.sum(0)
    return np.asarray(relative / np.median(relative) * (0.5 + straight / 2))


def test_adaptability_is_what_the_formula_says() -> None:
    model = build(CLASSIFIER)
    channels, path = channels_of(model), walk(model)
    found = followed(channels, path).adaptability(channels)
    first = [np.hstack([at["w1"].reshape(16, -1), at["w2"].swapaxes(0, 1).reshape(16, -1)]) for at in path]
    second = [np.hstack([at["w2"].reshape(16, -1), at["w3"].T]) for at in path]
    for group, thetas in zip(channels.groups, (first, second), strict=True):
        np.testing.assert_allclose(found[group.units], by_hand(np.stack(thetas)), rtol=1e-6)


def test_units_of_several_positions_move_as_one() -> None:
    """The channels that two groups of a convolution lose together."""
    model = build(GROUPED)
    channels, path = channels_of(model), walk(model)
    trajectory = followed(channels, path)
    ordered = matched(channels, np.random.default_rng(0).random(channels.count))
    use = next(use for use in channels.flow.uses if str(use.value.name) == "w2")
    cells = channels.component[use.axes[0]]
    named = ordered.owners[cells]
    (group,) = (group for group in ordered.groups if len(group) == 4 and np.isin(named, group.units).any())
    thetas = []
    for unit in group.units:
        own = np.flatnonzero((named == unit).any(axis=1))
        thetas.append([np.concatenate([at["w2"][own].ravel(), at["w3"][:, own].ravel()]) for at in path])
    wanted = by_hand(np.array(thetas).swapaxes(0, 1))
    np.testing.assert_allclose(trajectory.adaptability(ordered)[group.units], wanted, rtol=1e-6)


def test_who_does_not_move_does_not_adapt_and_a_still_layer_says_nothing() -> None:
    model = build(CLASSIFIER)
    channels, path = channels_of(model), walk(model)
    for weights in path[1:]:
        weights["w1"][3], weights["w2"][:, 3] = path[0]["w1"][3], path[0]["w2"][:, 3]
    found = followed(channels, path).adaptability(channels)
    assert found[channels.groups[0].units][3] == 0.0
    assert (np.delete(found[channels.groups[0].units], 3) > 0).all()
    still = followed(channels, [path[0], path[0]]).adaptability(channels)
    assert (still == 1).all()


def test_scaling_all_weights_changes_nothing() -> None:
    model = build(CLASSIFIER)
    channels, path = channels_of(model), walk(model)
    scaled = [{name: 100 * array for name, array in weights.items()} for weights in path]
    np.testing.assert_allclose(
        followed(channels, scaled).adaptability(channels), followed(channels, path).adaptability(channels), rtol=1e-5
    )


def as_onnx(model: onnx.ModelProto, weights: Arrays, path: Path) -> None:
    save(build(CLASSIFIER, given=weights), path.with_suffix(".onnx"))


def as_tensors(model: onnx.ModelProto, weights: Arrays, path: Path) -> None:
    save_file({name: np.ascontiguousarray(weights[name]) for name in FOLLOWED}, path.with_suffix(".safetensors"))


@pytest.mark.parametrize("write", [as_onnx, as_tensors])
def test_checkpoints_are_read_in_the_order_of_their_names(
    tmp_path: Path, write: Callable[[onnx.ModelProto, Arrays, Path], None]
) -> None:
    model = build(CLASSIFIER)
    channels, path = channels_of(model), walk(model)
    for number in (2, 0, 3, 1):
        write(model, path[number], tmp_path / f"epoch{number}")
    (tmp_path / "notes.txt").write_text("not a checkpoint", encoding="utf-8")
    wanted = followed(channels, path).adaptability(channels)
    np.testing.assert_array_equal(from_checkpoints(channels, [str(tmp_path)]).adaptability(channels), wanted)
    files = [str(next(tmp_path.glob(f"epoch{number}.*"))) for number in range(4)]
    np.testing.assert_array_equal(from_checkpoints(channels, files).adaptability(channels), wanted)


def broken(name: str, folder: Path) -> list[str]:
    """Paths of a trajectory that can't be one."""
    weights = {name: stored(build(CLASSIFIER))[name] for name in FOLLOWED}
    save_file(weights, folder / "a.safetensors")
    second = dict(weights)
    if name == "one":
        return [str(folder)]
    if name == "pickle":
        (folder / "b.pt").write_bytes(b"x")
        return [str(folder / "a.safetensors"), str(folder / "b.pt")]
    if name == "nowhere":
        return [str(folder / "nowhere")]
    if name == "shape":
        second["w2"] = weights["w2"][:8].copy()
    if name == "lacking":
        del second["w2"]
    if name == "numbers":
        second["w1"] = np.full_like(weights["w1"], np.nan)
    if name == "strange":
        save_file({"other": weights["w1"]}, folder / "a.safetensors")
    if name == "onnx":
        (folder / "b.onnx").write_bytes(b"nonsense")
        return [str(folder)]
    save_file(second, folder / "b.safetensors")
    if name == "nonsense":
        (folder / "b.safetensors").write_bytes(b"nonsense")
    return [str(folder)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one", r"names 1 checkpoint \(.onnx or .safetensors\); give at least two"),
        ("pickle", "pickles are not read"),
        ("nowhere", "isn't there"),
        ("shape", r"b.safetensors: .* 'w2' in the shape \[8, 16, 3, 3\], where the model has \[16, 16, 3, 3\]"),
        ("lacking", "lacks 'w2', which the first has"),
        ("numbers", "no numbers"),
        ("strange", "has none of the model's 3 weights with channels, such as 'w1'"),
        ("nonsense", "b.safetensors: it can't be read"),
        ("onnx", "b.onnx: it can't be read"),
    ],
)
def test_what_is_no_trajectory_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        from_checkpoints(channels_of(build(CLASSIFIER)), broken(name, tmp_path))


def test_one_step_is_no_trajectory() -> None:
    model = build(CLASSIFIER)
    channels = channels_of(model)
    trajectory = followed(channels, walk(model)[:1])
    assert trajectory.steps == 0
    with pytest.raises(InvalidData, match="at least two"):
        trajectory.adaptability(channels)


def test_a_trajectory_decides_who_dies(tmp_path: Path) -> None:
    """With adaptability alone those go that never moved."""
    model = build(CLASSIFIER)
    path = walk(model, steps=3)
    still = [1, 6, 11, 12]
    for weights in path[1:]:
        weights["w1"][still], weights["w2"][:, still] = path[0]["w1"][still], path[0]["w2"][:, still]
    (tmp_path / "run").mkdir()
    for number, weights in enumerate(path):
        as_tensors(model, weights, tmp_path / "run" / str(number))
    scoring = Scoring((0.0, 0.0, 1.0), trajectory=(str(tmp_path / "run"),))
    settings = replace(QUICK, align=1, scoring=scoring, only=("w1",))
    result, _ = squeezed(tmp_path, model, 0.23, settings, data={"x": images(32, 3, 8, 8)})
    group = result.report.groups[0]
    assert {death.unit for death in group.deaths} == set(still)
    assert group.causes == {"stagnant": 4}
