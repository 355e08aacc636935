"""What the report calls quality and parity, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from darwinc.data import InputSpec, Samples, fitting_batches, fixed_batch, open_data, samples_in
from darwinc.errors import InvalidData
from darwinc.quality import compare_quality
from tests.small_models import CLASSIFIER, PLAIN, Array, build, images, save, save_data, stored

NORMAL = np.dtype(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A classifier, and the same with other weights in its last layer."""
    first = build(CLASSIFIER)
    noise = np.random.default_rng(1).standard_normal((10, 16))
    second = build(CLASSIFIER, given={**stored(first), "w3": stored(first)["w3"] + noise})
    return save(first, tmp_path / "one.onnx"), save(second, tmp_path / "two.onnx")


def samples(folder: Path, arrays: dict[str, Array], shape: tuple[int | str, ...] = ("N", 3, 8, 8)) -> Samples:
    return open_data(str(save_data(folder / "data.npz", arrays)), [InputSpec("x", NORMAL, shape)])


def scores(model: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": x})[0]
    return found


def test_with_labels_it_is_accuracy(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    x = images(150, 3, 8, 8)
    one, two = (scores(model, x).argmax(1) for model in pair)
    labels = np.where(np.arange(150) % 3 == 0, (one + 1) % 10, one)
    quality, parity = compare_quality(*pair, samples(tmp_path, {"x": x, "y": labels}), split="test")
    assert (quality["metric"], quality["samples"], quality["split"]) == ("top1", 150, "test")
    assert quality["before"] == pytest.approx(2 / 3)
    assert quality["after"] == pytest.approx((two == labels).mean())
    assert (one != two).any()
    assert parity["samples"] == 150
    assert parity["relative_error"] > 0


def test_without_labels_it_is_agreement(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    x = images(100, 3, 8, 8)
    one, two = (scores(model, x).argmax(1) for model in pair)
    quality, _ = compare_quality(*pair, samples(tmp_path, {"x": x}), split="calibration")
    assert quality["metric"] == "agreement"
    assert (quality["before"], quality["after"]) == (1.0, pytest.approx((one == two).mean()))
    same, parity = compare_quality(pair[0], pair[0].read_bytes(), samples(tmp_path, {"x": x}), split="calibration")
    assert (same["after"], parity["relative_error"]) == (1.0, 0.0)


def test_answers_that_are_no_classes_are_told_by_their_error(tmp_path: Path) -> None:
    first = build(PLAIN)
    second = build(PLAIN, given={**stored(first), "w2": stored(first)["w2"] * np.float32(1.1)})
    pair = save(first, tmp_path / "one.onnx"), save(second, tmp_path / "two.onnx")
    quality, parity = compare_quality(*pair, samples(tmp_path, {"x": images(20, 3, 8, 8)}), split="calibration")
    assert quality["metric"] == "relative_error"
    assert not quality["higher_is_better"]
    assert quality["after"] == parity["relative_error"] == pytest.approx(0.1, rel=1e-3)
    labelled = samples(tmp_path, {"x": images(20, 3, 8, 8), "y": np.zeros(20, np.int64)})
    with pytest.raises(InvalidData, match="one class number per sample goes with scores"):
        compare_quality(*pair, labelled, split="test")


def test_labels_that_are_no_classes_are_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    odd = samples(tmp_path, {"x": images(20, 3, 8, 8), "y": np.linspace(0, 1, 20)})
    with pytest.raises(InvalidData, match="one class number per sample goes with scores"):
        compare_quality(*pair, odd, split="test")


def test_a_fixed_batch_is_filled(tmp_path: Path) -> None:
    model = build(CLASSIFIER.replace("[N,", "[4,"))
    path = save(model, tmp_path / "m.onnx")
    quality, _ = compare_quality(path, path, samples(tmp_path, {"x": images(19, 3, 8, 8)}, (4, 3, 8, 8)), split="test")
    assert (quality["samples"], quality["after"]) == (16, 1.0)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ([("N", 3)], None),
        ([(4, 3)], 4),
        ([(4, 3), (4, 2)], 4),
        ([("N", 3), (1, 2)], 1),
        ([(4, 3), (2, 2)], None),
        ([()], None),
    ],
)
def test_how_many_samples_the_inputs_fix(shapes: list[tuple[int | str, ...]], wanted: int | None) -> None:
    assert fixed_batch([InputSpec(f"x{number}", NORMAL, shape) for number, shape in enumerate(shapes)]) == wanted


def test_batches_fit_the_inputs(tmp_path: Path) -> None:
    free, fixed = [InputSpec("x", NORMAL, ("N", 3))], [InputSpec("x", NORMAL, (4, 3))]
    found = samples(tmp_path, {"x": images(10, 3)}, ("N", 3))
    assert [samples_in(batch.feed) for batch in fitting_batches(found, free, 8)] == [8, 2]
    assert [samples_in(batch.feed) for batch in fitting_batches(found, fixed, 8)] == [4, 4]
    with pytest.raises(InvalidData, match="3 samples were given, but the model takes 4 at once"):
        next(fitting_batches(found.take(slice(0, 3)), fixed, 8))


def test_a_feed_holds_as_many_samples_as_its_longest_first_axis() -> None:
    assert samples_in({"a": np.zeros(()), "b": np.zeros((5, 2)), "c": np.zeros((1, 9))}) == 5
    assert samples_in({"a": np.zeros(())}) == 1


MAPS = """(float[N,3,8,8] x, float[4,3,1,1] w1) => (float[N,4,8,8] y) {
    y = Conv(x, w1)
}
"""


def test_maps_are_judged_by_overlap(tmp_path: Path) -> None:
    one, two = (save(build(MAPS, seed=seed), tmp_path / f"{seed}.onnx") for seed in (0, 1))
    x = images(70, 3, 8, 8)
    guesses = [scores(model, x).argmax(1) for model in (one, two)]
    labels = guesses[0].copy()
    labels[:, :2] = 255
    labels[:, 2] = 3
    quality, _ = compare_quality(one, two, samples(tmp_path, {"x": x, "y": labels}), split="test")
    known = labels != 255
    wanted = [
        np.mean([
            ((guess == k) & (labels == k) & known).sum() / (((guess == k) | (labels == k)) & known).sum()
            for k in range(4)
        ])
        for guess in guesses
    ]  # fmt: skip
    assert quality["metric"] == "mean_iou"
    assert (quality["before"], quality["after"]) == pytest.approx(wanted)


def test_small_maps_are_enlarged_to_their_labels(tmp_path: Path) -> None:
    one = save(build(MAPS), tmp_path / "one.onnx")
    x = np.repeat(images(4, 3, 1, 1), 64, axis=1).reshape(4, 3, 8, 8)
    labels = np.broadcast_to(scores(one, x).argmax(1)[:, :1, :1], (4, 16, 24)).astype(np.int64)
    quality, _ = compare_quality(one, one, samples(tmp_path, {"x": x, "y": labels}), split="test")
    assert quality["before"] == 1.0


def test_several_labels_a_sample_are_counted_one_by_one(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    x = images(50, 3, 8, 8)
    one, two = (scores(model, x) for model in pair)
    labels = (one >= 0).astype(np.int64)
    quality, _ = compare_quality(*pair, samples(tmp_path, {"x": x, "y": labels}), split="test")
    assert quality["metric"] == "label_accuracy"
    assert (quality["before"], quality["after"]) == (1.0, pytest.approx(((two >= 0) == labels).mean()))


def test_probabilities_of_each_pixel_agree_or_not(tmp_path: Path) -> None:
    text = MAPS.replace("y = Conv(x, w1)", "c = Conv(x, w1)\n    y = Softmax<axis = 1>(c)")
    one, two = (save(build(text, seed=seed), tmp_path / f"{seed}.onnx") for seed in (0, 1))
    x = images(20, 3, 8, 8)
    quality, _ = compare_quality(one, two, samples(tmp_path, {"x": x}), split="test")
    assert quality["metric"] == "pixel_agreement"
    same = scores(one, x).argmax(1) == scores(two, x).argmax(1)
    assert (quality["before"], quality["after"]) == (1.0, pytest.approx(same.mean()))
