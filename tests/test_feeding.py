"""Training sees the same batches wherever samples wait, however often it resumes, however many share the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darwinc.calibrators.training.augmentation import Augmentation, Moves, choose, parse_augment
from darwinc.calibrators.training.feed_store import FromSource, InMemory, WholeFeeds, in_background, numbers
from darwinc.calibrators.training.feeding import Feeding, TensorBatch
from darwinc.data import Samples, open_data
from darwinc.data_arrays import ArraySource, FeedSource
from darwinc.errors import InvalidData, UsageError
from darwinc.preprocess import parse, plan_images
from darwinc.runtime import InputSpec

Array = np.ndarray[Any, Any]
IMAGE = InputSpec("x", np.dtype("float32"), ("N", 3, 16, 16))


def array_samples(count: int, shape: tuple[int, ...] = (3, 16, 16), labels: Array | None = None) -> Samples:
    """Samples whose every number is their position, from 1."""
    values = np.broadcast_to(
        np.arange(1.0, count + 1, dtype=np.float32).reshape(-1, *[1] * len(shape)), (count, *shape)
    )
    source = ArraySource({"x": np.array(values)}, [InputSpec("x", np.dtype("float32"), ("N", *shape))], "test")
    return Samples(source, np.arange(count), np.arange(count) if labels is None else labels, source.warnings)


def folder(path: Path, count: int, damaged: tuple[int, ...] = ()) -> Path:
    """Images of one grey each, 10 times their number; damaged ones look like images from their first bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path.mkdir(parents=True)
    for index in range(count):
        file = path / f"{index:02}.png"
        if index in damaged:
            Image.fromarray(noise).save(file)
            file.write_bytes(file.read_bytes()[:3000])
        else:
            Image.new("RGB", (20, 16), (10 * index, 0, 0)).save(file)
    np.save(path.parent / "labels.npy", np.arange(count))
    return path


def image_samples(path: Path, preprocess: str = "imagenet") -> Samples:
    return open_data(str(path), [IMAGE], labels=str(path.parent / "labels.npy"), preprocess=preprocess)


def feeding(samples: Samples, **options: Any) -> Feeding:
    chosen: dict[str, Any] = {"device": "cpu", "batch": 4, "seed": 3, "augment": "none"} | options
    return Feeding(samples, [IMAGE], **chosen)


def positions(batch: TensorBatch) -> list[int]:
    return [int(value) - 1 for value in batch.feed["x"].flatten(1)[:, 0]]


def same(one: TensorBatch, two: TensorBatch) -> bool:
    labels = (one.labels is None and two.labels is None) or (
        one.labels is not None and two.labels is not None and torch.equal(one.labels, two.labels)
    )
    return (
        labels and one.samples == two.samples and all(torch.equal(one.feed[name], two.feed[name]) for name in two.feed)
    )


# --- order


def test_an_epoch_is_a_permutation_and_drops_its_short_rest() -> None:
    fed = feeding(array_samples(10))
    assert fed.steps_per_epoch == 2
    seen = [positions(batch) for batch in islice(fed.batches(), 4)]
    for epoch in (seen[:2], seen[2:]):
        flat = epoch[0] + epoch[1]
        assert len(set(flat)) == len(flat) == 8
    assert seen[:2] != seen[2:]
    expected = np.random.default_rng((3, 0, 1)).permutation(10)
    assert seen[2] + seen[3] == list(expected[:8])


def test_labels_keep_to_their_samples_and_are_whole_numbers() -> None:
    for batch in islice(feeding(array_samples(9)).batches(), 5):
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == positions(batch)


def test_fewer_samples_than_a_batch_are_one_batch() -> None:
    fed = feeding(array_samples(3), batch=64)
    assert fed.steps_per_epoch == 1
    assert sorted(positions(fed[5])) == [0, 1, 2]


def test_validation_is_in_order_and_keeps_its_rest() -> None:
    parts = [positions(batch) for batch in feeding(array_samples(10), augment="auto").validation()]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_resumed_training_sees_what_an_uninterrupted_one_sees() -> None:
    straight = list(islice(feeding(array_samples(10), augment="auto").batches(), 7))
    resumed = list(islice(feeding(array_samples(10), augment="auto").batches(3), 4))
    assert all(same(one, two) for one, two in zip(straight[3:], resumed, strict=True))
    other = next(feeding(array_samples(10), augment="auto", seed=4).batches())
    assert not same(straight[0], other)


@pytest.mark.parametrize("most_bytes", [None, 0])
def test_ranks_share_what_one_process_would_see(most_bytes: int | None) -> None:
    options = {"augment": "auto", "batch": 6, "most_bytes": most_bytes}
    alone = feeding(array_samples(13), **options)
    ranks = [feeding(array_samples(13), rank=rank, world=3, **options) for rank in range(3)]
    for step in range(4):
        parts = [rank[step] for rank in ranks]
        assert [part.samples for part in parts] == [2, 2, 2]
        assert torch.equal(torch.cat([part.feed["x"] for part in parts]), alone[step].feed["x"])
    seen = [position for rank in ranks for batch in rank.validation() for position in positions(batch)]
    assert sorted(seen) == list(range(13))


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 4"):
        feeding(array_samples(10), batch=6, world=4)
    with pytest.raises(InvalidData, match="3 samples for 4 processes"):
        feeding(array_samples(3), batch=4, world=4)


# --- where samples wait


def test_kept_and_streamed_images_make_the_same_batches(tmp_path: Path) -> None:
    path = folder(tmp_path / "images", 11, damaged=(2, 7))
    kept, streamed = (feeding(image_samples(path), augment="auto", most_bytes=most) for most in (None, 0))
    assert isinstance(kept._store, InMemory)
    assert isinstance(streamed._store, FromSource)
    for one, two in islice(zip(kept.batches(), streamed.batches(), strict=True), 9):
        assert same(one, two)
    for one, two in zip(kept.validation(), streamed.validation(), strict=True):
        assert same(one, two)


@pytest.mark.parametrize("most_bytes", [None, 0])
def test_damaged_images_are_left_out_once_and_for_all(tmp_path: Path, most_bytes: int | None) -> None:
    samples = image_samples(folder(tmp_path / "images", 9, damaged=(0, 4)), "none")
    fed = feeding(samples, batch=3, most_bytes=most_bytes)
    assert fed.steps_per_epoch == 3
    seen = set()
    for batch in islice(fed.batches(), 6):
        assert batch.samples == 3
        assert batch.labels is not None
        assert (batch.feed["x"][:, 0, 0, 0] / 10).tolist() == batch.labels.tolist()
        seen |= set(batch.labels.tolist())
    assert seen <= set(range(9)) - {0, 4}
    judged = [batch.labels for batch in fed.validation()]
    assert [label for labels in judged if labels is not None for label in labels.tolist()] == [1, 2, 3, 5, 6, 7, 8]
    assert len(samples.warnings) == 1
    assert samples.warnings[0].startswith("2 of 9 images can't be read and are left out: ")
    assert {"00.png", "04.png"} == set(samples.warnings[0].rpartition(": ")[2].split(", "))


def test_the_next_sample_of_the_order_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    samples = image_samples(folder(tmp_path / "images", 6, damaged=(1,)), "none")
    order = [int(position) for position in np.random.default_rng((3, 0, 0)).permutation(6)]
    place = order.index(1)
    expected = [order[(place + 1) % 6] if position == 1 else position for position in order]
    batch = feeding(samples, batch=6)[0]
    assert batch.labels is not None
    assert batch.labels.tolist() == expected


@pytest.mark.parametrize("most_bytes", [None, 0])
def test_nothing_that_can_be_read_is_invalid_data(tmp_path: Path, most_bytes: int | None) -> None:
    path = folder(tmp_path / "images", 2, damaged=(0, 1))
    with pytest.raises(InvalidData, match="none of the samples can be read: 2 of 2 images"):
        feeding(image_samples(path), most_bytes=most_bytes)


def test_kept_images_are_decoded_once(tmp_path: Path) -> None:
    path = folder(tmp_path / "images", 5)
    fed = feeding(image_samples(path))
    for file in path.iterdir():
        file.unlink()
    assert sum(batch.samples for batch in fed.validation()) == 5


@pytest.mark.parametrize(
    ("shape", "steps", "dtype"),
    [
        (("N", 3, 8, 8), "imagenet", "float32"),
        (("N", 8, 8, 3), "caffe", "float32"),
        (("N", 3, 8, 8), "signed,mean=0.1,std=0.3", "float16"),
        (("N", 8, 8, 3), "none", "uint8"),
        (("N", 3, 8, 8), "range=-128/127", "int8"),
        (("N", 192), "unit,size=8", "float32"),
    ],
)
def test_numbers_on_the_device_are_those_of_the_plan(shape: tuple[Any, ...], steps: str, dtype: str) -> None:
    plan = plan_images(InputSpec("x", np.dtype(dtype), shape), parse(steps))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    found = numbers(plan, torch.from_numpy(pixels))
    expected = plan.numbers(pixels)
    assert found.numpy().dtype == expected.dtype
    np.testing.assert_array_equal(found.numpy(), expected)


def test_whole_feeds_come_one_at_a_time_and_several_inputs_go_together() -> None:
    inputs = [InputSpec("a", np.dtype("float32"), ("T", 2)), InputSpec("b", np.dtype("int64"), ())]
    feeds = [{"a": np.full((length, 2), length, np.float32), "b": np.array(length)} for length in (1, 2, 3)]
    source = FeedSource(feeds, inputs, "test")
    samples = Samples(source, np.arange(3), np.array([10, 20, 30]), [])
    for most_bytes in (None, 0, 20):
        fed = Feeding(samples, inputs, device="cpu", batch=8, seed=0, most_bytes=most_bytes)
        assert isinstance(fed._store, WholeFeeds)
        assert fed.augmentation is None
        assert fed.steps_per_epoch == 3
        for _ in range(2):
            seen = [(batch.feed["a"].shape[0], int(batch.feed["b"]), batch.labels) for batch in fed.validation()]
            assert [(length, number) for length, number, _ in seen] == [(1, 1), (2, 2), (3, 3)]
            assert [labels.tolist() for _, _, labels in seen if labels is not None] == [[10], [20], [30]]
        assert sorted(int(batch.feed["b"]) for batch in islice(fed.batches(), 3)) == [1, 2, 3]
    with pytest.raises(UsageError, match=r"--augment flip .* whole feeds.*--augment none"):
        Feeding(samples, inputs, device="cpu", batch=8, seed=0, augment="flip")


def test_two_inputs_with_a_batch_axis_keep_together() -> None:
    inputs = [InputSpec("a", np.dtype("float32"), ("N", 2)), InputSpec("b", np.dtype("bool"), ("N",))]
    arrays = {"a": np.arange(12.0, dtype=np.float32).reshape(6, 2), "b": np.arange(6) % 2 == 0}
    samples = Samples(ArraySource(arrays, inputs, "test"), np.array([5, 1, 3, 4]), None, [])
    fed = Feeding(samples, inputs, device="cpu", batch=2, seed=0)
    rows = [int(row) // 2 for batch in fed.validation() for row in batch.feed["a"][:, 0]]
    assert rows == [5, 1, 3, 4]
    for batch in islice(fed.batches(), 4):
        assert torch.equal(batch.feed["a"][:, 0] % 4 == 0, batch.feed["b"])
        assert batch.labels is None


def test_words_are_refused() -> None:
    inputs = [InputSpec("x", np.dtype("object"), ("N",))]
    samples = Samples(ArraySource({"x": np.array(["a", "b"])}, inputs, "test"), np.arange(2), None, [])
    with pytest.raises(InvalidData, match="numbers alone"):
        Feeding(samples, inputs, device="cpu", batch=2, seed=0)


@dataclass
class Slow:
    """Counts how many samples were asked for."""

    asked: list[int] = field(default_factory=list)

    def __call__(self, item: int) -> int:
        self.asked.append(item)
        return item * item


def test_work_in_the_background_keeps_its_order_and_stays_a_few_ahead() -> None:
    work = Slow()
    results = in_background(work, iter(range(1000)))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    results.close()
    assert len(work.asked) < 100
    assert list(in_background(Slow(), range(3))) == [0, 1, 4]
    assert list(in_background(Slow(), [])) == []


def test_errors_of_the_background_come_out() -> None:
    source = ArraySource({"x": np.full((4, 3, 16, 16), np.nan)}, [IMAGE], "test")
    samples = Samples(source, np.arange(4), None, [])
    with pytest.raises(InvalidData, match="NaN"):
        feeding(samples)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_sees_the_same_batches(tmp_path: Path) -> None:
    path = folder(tmp_path / "images", 9, damaged=(3,))
    here, there, streamed = (
        feeding(image_samples(path), augment="auto", device=device, most_bytes=most)
        for device, most in (("cpu", None), ("cuda", None), ("cuda", 0))
    )
    for one, two, three in islice(zip(here.batches(), there.batches(), streamed.batches(), strict=True), 5):
        assert two.feed["x"].is_cuda
        assert torch.equal(two.feed["x"], three.feed["x"])
        torch.testing.assert_close(two.feed["x"].cpu(), one.feed["x"], rtol=1e-6, atol=1e-6)


# --- augmentation


def moves(down: list[int], right: list[int], mirrored: list[bool]) -> Moves:
    return Moves(np.array(down), np.array(right), np.array(mirrored))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("edge", [False, True])
def test_moves_are_those_of_numpy(last: bool, edge: bool) -> None:
    images = torch.randn(5, 3, 18, 20)
    labels = torch.randint(0, 9, (5, 18, 20))
    chosen = moves([0, 2, -2, 1, 0], [0, -2, 1, 0, 2], [False, False, True, True, False])
    augmentation = Augmentation("x", 3 if last else 1, (18, 20), ("flip", "shift"), edge, True, 255)
    found = augmentation.images(images.permute(0, 2, 3, 1) if last else images, chosen)
    found = found.permute(0, 3, 1, 2) if last else found
    for index in range(5):
        down, right = int(chosen.down[index]), int(chosen.right[index])
        flipped = [array.flip(-1) if chosen.mirrored[index] else array for array in (images[index], labels[index])]
        padded = np.pad(flipped[0].numpy(), ((0, 0), (2, 2), (2, 2)), "edge" if edge else "constant")
        window = (slice(2 - down, 20 - down), slice(2 - right, 22 - right))
        np.testing.assert_array_equal(found[index].numpy(), padded[(slice(None), *window)])
        padded = np.pad(flipped[1].numpy(), 2, constant_values=255)
        np.testing.assert_array_equal(augmentation.labels(labels, chosen)[index].numpy(), padded[window])


def test_draws_stay_in_an_eighth_and_depend_on_seed_and_step_alone() -> None:
    augmentation = Augmentation("x", 1, (16, 32), ("flip", "shift"), False, False, 255)
    drawn = augmentation.draw(1, 2, 4000)
    assert set(drawn.down) == set(range(-2, 3))
    assert set(drawn.right) == set(range(-4, 5))
    assert drawn.mirrored.mean() == pytest.approx(0.5, abs=0.04)
    again, other = augmentation.draw(1, 2, 4000), augmentation.draw(1, 3, 4000)
    np.testing.assert_array_equal(drawn.down, again.down)
    assert not np.array_equal(drawn.down, other.down)
    only = Augmentation("x", 1, (16, 32), ("flip",), False, False, 255).draw(1, 2, 50)
    assert not only.down.any()
    assert not only.right.any()


def test_what_moves_in_is_zero_in_colour_and_the_edge_in_grey() -> None:
    for channels, filled in ((3, {0.0}), (1, set[float]())):
        spec = InputSpec("x", np.dtype("float32"), ("N", channels, 16, 16))
        samples = array_samples(8, (channels, 16, 16))
        fed = Feeding(samples, [spec], device="cpu", batch=8, seed=0)
        batch = fed[0]
        assert batch.labels is not None
        for image, label in zip(batch.feed["x"], batch.labels, strict=True):
            assert set(image.unique().tolist()) <= {float(label) + 1} | filled
        assert ((batch.feed["x"] == 0).any().item()) == bool(filled)


def test_dense_labels_move_with_their_images() -> None:
    values = np.random.default_rng(0).integers(1, 9, (6, 16, 24)).astype(np.uint8)
    inputs = [InputSpec("x", np.dtype("float32"), ("N", 3, 16, 24))]
    images = np.repeat(values[:, np.newaxis], 3, axis=1).astype(np.float32)
    samples = Samples(ArraySource({"x": images}, inputs, "test"), np.arange(6), values, [])
    fed = Feeding(samples, inputs, device="cpu", batch=6, seed=1)
    assert fed.ignored == 255
    batch = fed[0]
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    outside = batch.labels == 255
    assert outside.any()
    assert torch.equal(batch.feed["x"][:, 0] == 0, outside)
    assert torch.equal(batch.feed["x"][:, 1][~outside], batch.labels[~outside].float())


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        (None, ("flip", "shift")),
        (np.arange(4), ("flip", "shift")),
        (np.array([[0.0, 1, 1]] * 4), ("flip", "shift")),
        (np.array([[0.2, 0.3, 0.5]] * 4), ("flip", "shift")),
        (np.zeros((4, 16, 16), np.int64), ("flip", "shift")),
        (np.array([[3.5, 7.5, 1.0]] * 4), None),
        (np.array([0.5, 1.5, 2.5, 3.5]), None),
        (np.zeros((4, 2, 4)), None),
        (np.zeros((4, 8, 8), np.int64), None),
    ],
)
def test_images_are_moved_only_where_labels_stay_true(labels: Array | None, kinds: tuple[str, ...] | None) -> None:
    found = choose(None, [IMAGE], (3, 16, 16), labels)
    assert (found.kinds if found else None) == kinds
    if kinds is None:
        with pytest.raises(UsageError, match="may say where something is"):
            choose(("shift",), [IMAGE], (3, 16, 16), labels)


@pytest.mark.parametrize(
    ("spec", "shape", "kinds"),
    [
        (InputSpec("x", np.dtype("float32"), (1, 1, 28, 28)), (1, 28, 28), ("shift",)),
        (InputSpec("x", np.dtype("float16"), ("N", 32, 32, 4)), (32, 32, 4), ("shift",)),
        (InputSpec("x", np.dtype("float32"), ("N", "H", "W", 3)), (32, 20, 3), ("flip", "shift")),
        (InputSpec("x", np.dtype("float32"), ("N", 3, 8, 32)), (3, 8, 32), None),
        (InputSpec("x", np.dtype("uint8"), ("N", 3, 32, 32)), (3, 32, 32), None),
        (InputSpec("x", np.dtype("float32"), ("N", 5, 32, 32)), (5, 32, 32), None),
        (InputSpec("x", np.dtype("float32"), ("N", 784)), (784,), None),
    ],
)
def test_inputs_that_are_images_are_moved(
    spec: InputSpec, shape: tuple[int, ...], kinds: tuple[str, ...] | None
) -> None:
    found = choose(None, [spec], shape, None)
    assert (found.kinds if found else None) == kinds
    if kinds is None:
        with pytest.raises(UsageError, match="--augment flip,shift moves images, but "):
            choose(("flip", "shift"), [spec], shape, None)
    else:
        flipped = choose(("flip",), [spec], shape, None)
        assert flipped is not None
        assert flipped.kinds == ("flip",)


def test_labels_beyond_a_byte_are_ignored_as_minus_one() -> None:
    assert feeding(array_samples(4, labels=np.full((4, 16, 16), 300))).ignored == -1
    assert feeding(array_samples(4, labels=np.full((4, 16, 16), -1))).ignored == -1
    assert feeding(array_samples(4, labels=np.full((4, 16, 16), 20))).ignored == 255


def test_augment_specs() -> None:
    assert parse_augment("auto") is None
    assert parse_augment("none") == ()
    assert parse_augment("flip, shift") == ("flip", "shift")
    for text, message in (("turn", "knows no 'turn'"), ("none,flip", "stands alone"), ("", "auto, none, or a list of")):
        with pytest.raises(UsageError, match=message):
            parse_augment(text)
