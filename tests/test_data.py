"""Data reach the model's inputs exactly as stated, whatever they come from, and what doesn't fit is said clearly."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image

from darwinc import data_sources
from darwinc.data import InputSpec, Samples, open_data, rooted, synthetic
from darwinc.errors import InvalidData, UsageError
from darwinc.images import ImageSource
from darwinc.preprocess import PRESETS, Preprocess, parse, plan_images
from darwinc.synthetic import pink_image

Array = np.ndarray[Any, Any]


def spec(*shape: int | str | None, name: str = "x", dtype: str = "float32") -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)


def joined(samples: Samples, name: str = "x", size: int = 3) -> Array:
    return np.concatenate([batch.feed[name] for batch in samples.batches(size)])


def labels_of(samples: Samples, size: int = 3) -> list[int]:
    return [int(label) for batch in samples.batches(size) if batch.labels is not None for label in batch.labels]


def save_npz(folder: Path, **arrays: Array) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


# --- NumPy files


def test_arrays_are_named_after_inputs_and_labels_come_along(tmp_path: Path) -> None:
    a, b = np.arange(20, dtype=np.float32).reshape(5, 4), np.arange(5, dtype=np.int32).reshape(5, 1)
    path = save_npz(tmp_path, b=b, a=a, labels=np.array([4, 3, 2, 1, 0]))
    samples = open_data(path, [spec("N", 4, name="a"), spec("N", 1, name="b", dtype="int64")])
    assert len(samples) == 5
    batches = list(samples.batches(2))
    assert [len(batch.feed["a"]) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(joined(samples, "a"), a)
    assert batches[0].feed["b"].dtype == np.int64
    assert labels_of(samples) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("name", ["x", "anything"])
def test_one_float_array_under_any_name_will_do(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).standard_normal((4, 3))
    samples = open_data(save_npz(tmp_path, **{name: values, "y": np.arange(4)}), [spec("N", 3, name="input.1")])
    np.testing.assert_allclose(joined(samples, "input.1"), values, rtol=1e-6)
    assert samples.labels is not None


def test_an_input_called_y_is_an_input_and_not_a_label(tmp_path: Path) -> None:
    samples = open_data(save_npz(tmp_path, y=np.ones((2, 3), np.float32)), [spec("N", 3, name="y")])
    assert samples.labels is None
    assert joined(samples, "y").shape == (2, 3)


def test_npy_files_are_mapped_and_labels_lie_beside(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "one_hot.npy", np.eye(3)[[0, 2, 1, 0, 1, 2]])
    samples = open_data(str(tmp_path / "x.npy"), [spec("N", 3, 4, 4)], labels=str(tmp_path / "one_hot.npy"))
    np.testing.assert_array_equal(joined(samples), values)
    assert labels_of(samples) == [0, 2, 1, 0, 1, 2]


def test_missing_and_needless_axes_of_length_one_are_put_right(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)
    first = open_data(save_npz(tmp_path, x=values), [spec("N", 1, 4, 6)])
    np.testing.assert_array_equal(joined(first), values[:, None])
    whole = open_data(save_npz(tmp_path, x=values[:, None, None]), [spec(1, 1, 4, 6)])
    np.testing.assert_array_equal(joined(whole), values[:, None])


def test_half_precision_inputs_get_half_precision(tmp_path: Path) -> None:
    samples = open_data(save_npz(tmp_path, x=np.full((2, 2), 1.5)), [spec("N", 2, dtype="float16")])
    assert joined(samples).dtype == np.float16
    assert (joined(samples) == 1.5).all()


def test_bytes_for_a_float_input_are_used_and_warned_about(tmp_path: Path) -> None:
    samples = open_data(save_npz(tmp_path, x=np.full((2, 2), 200, np.uint8)), [spec("N", 2)])
    assert (joined(samples) == 200).all()
    assert "uint8" in samples.warnings[0]


@pytest.mark.parametrize(
    ("values", "wanted", "message"),
    [
        (np.zeros((9, 3, 32, 32)), spec("N", 32, 32, 3), r"\[9, 3, 32, 32\].*\[N, 32, 32, 3\].*put channels last"),
        (np.zeros((9, 32, 32, 3)), spec("N", 3, 32, 32), r"transpose\(array, \(0, 3, 1, 2\)\)"),
        (np.zeros((9, 3, 64, 64)), spec("N", 3, 32, 32), "resize the images to 32x32 pixels"),
        (np.zeros((9, 3, 64, 64)), spec("N", 32, 32, 3), "resize the images to 32x32 pixels and put channels last"),
        (np.zeros((9, 5)), spec("N", 6), "reshape"),
        (np.array(["a", "b"]), spec("N"), "float32 values"),
        (np.zeros((0, 6)), spec("N", 6), "above 0"),
    ],
)
def test_what_does_not_fit_says_what_to_do(tmp_path: Path, values: Array, wanted: InputSpec, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        open_data(save_npz(tmp_path, x=values), [wanted])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1.0, np.nan], "float32"), ([1.0, np.inf], "float32"), ([1e9], "float16"), ([1.5], "int64"), ([300], "uint8")],
)
def test_values_that_the_type_cannot_hold_are_refused(tmp_path: Path, values: list[float], dtype: str) -> None:
    samples = open_data(save_npz(tmp_path, x=np.array(values)), [spec("N", dtype=dtype)])
    with pytest.raises(InvalidData, match="'x'"):
        list(samples.batches(2))


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("bomb.npy", "bomb.npz"):
        save = np.save if name.endswith("npy") else np.savez
        save(tmp_path / name, np.array([Bomb()], dtype=object), allow_pickle=True)
        with pytest.raises(InvalidData, match="without Python objects"):
            open_data(str(tmp_path / name), [spec("N")])
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04truncated", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_invalid_data(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidData, match=name):
        open_data(str(tmp_path / name), [spec("N")])


def test_an_archive_cut_short_is_invalid_data(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=np.zeros((50, 50))))
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(range(100))
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidData, match=r"data\.npz"):
        open_data(str(path), [spec("N", 50)])


def test_inputs_without_a_batch_axis_take_whole_feeds(tmp_path: Path) -> None:
    inputs = [spec("B", 4, name="x"), spec(2, "B", 3, name="state"), spec(name="rate", dtype="int64")]
    path = save_npz(
        tmp_path,
        x=np.arange(12.0).reshape(3, 1, 4),
        state=np.ones((3, 2, 1, 3)),
        rate=np.array(16000),
        y=np.array([7, 8, 9]),
    )
    batches = list(open_data(path, inputs).batches(64))
    assert [batch.feed["x"].shape for batch in batches] == [(1, 4)] * 3
    assert batches[1].feed["state"].shape == (2, 1, 3)
    assert batches[2].feed["rate"].shape == ()
    assert [list(batch.labels) for batch in batches if batch.labels is not None] == [[7], [8], [9]]
    with pytest.raises(InvalidData, match=r"every sample is a whole feed.*\[5, B, 4\]"):
        open_data(save_npz(tmp_path, x=np.zeros((5, 4)), state=np.ones((5, 2, 1, 3)), rate=np.array(1)), inputs)


def test_names_that_do_not_match_are_listed(tmp_path: Path) -> None:
    path = save_npz(tmp_path, a=np.zeros((2, 3)), c=np.zeros((2, 3)))
    with pytest.raises(InvalidData, match=r"'a', 'c'.*'b' float32 \[N, 3\]"):
        open_data(path, [spec("N", 3, name="a"), spec("N", 3, name="b")])


def test_uneven_counts_and_wrong_label_counts_are_refused(tmp_path: Path) -> None:
    inputs = [spec("N", 3, name="a"), spec("N", 3, name="b")]
    with pytest.raises(InvalidData, match="2 for 'a', 4 for 'b'"):
        open_data(save_npz(tmp_path, a=np.zeros((2, 3)), b=np.zeros((4, 3))), inputs)
    with pytest.raises(InvalidData, match="3 labels for 2 samples"):
        open_data(save_npz(tmp_path, x=np.zeros((2, 3)), y=np.zeros(3)), [spec("N", 3)])


# --- choosing samples


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 30), fraction=st.floats(0, 1), seed=st.integers(0, 99), size=st.integers(1, 40))
def test_a_split_is_a_partition_and_batches_lose_nothing(count: int, fraction: float, seed: int, size: int) -> None:
    samples = synthetic([spec("N", 2)], count, seed)
    first, second = samples.split(fraction, seed)
    assert len(first) == round(fraction * count)
    assert sorted([*first.indices, *second.indices]) == list(range(count))
    np.testing.assert_array_equal(joined(samples, size=size), joined(samples, size=1))


def test_take_keeps_labels_with_their_samples(tmp_path: Path) -> None:
    samples = open_data(save_npz(tmp_path, x=np.arange(6.0)[:, None], y=np.arange(6)), [spec("N", 1)])
    for selection in (slice(1, None, 2), [5, 0, 3], np.arange(6) % 2 == 0):
        part = samples.take(selection)
        assert list(joined(part)[:, 0]) == labels_of(part) == list(np.arange(6)[selection])


def test_a_limit_is_a_seeded_random_choice_in_order(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=np.arange(100.0)[:, None], y=np.arange(100) // 50)
    first, again, other = (open_data(path, [spec("N", 1)], limit=20, seed=seed) for seed in (0, 0, 1))
    assert len(first) == 20
    assert list(first.indices) == list(again.indices) == sorted(first.indices)
    assert list(first.indices) != list(other.indices)
    assert set(labels_of(first)) == {0, 1}


# --- images


def test_class_folders_are_labels_and_pixels_are_scaled(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png", (255, 0, 51))
    picture(tmp_path / "dog" / "1.png", (0, 255, 0))
    (tmp_path / "dog" / ".hidden.png").write_bytes(b"")
    samples = open_data(str(tmp_path), [spec("N", 3, 8, 8)], preprocess="unit")
    values = joined(samples)
    assert labels_of(samples) == [0, 1]
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0, :, 0, 0], [1, 0, 0.2], atol=1e-6)
    assert samples.warnings == []


def test_numbered_class_folders_keep_their_numbers_and_parts_of_a_dataset_are_no_classes(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        picture(tmp_path / "numbered" / name / "a.png", (0, 0, 0))
    for name in ("images", "masks"):
        picture(tmp_path / "parts" / name / "a.png", (0, 0, 0))
    assert sorted(labels_of(open_data(str(tmp_path / "numbered"), [spec("N", 3, 8, 8)]))) == [0, 2, 10]
    assert open_data(str(tmp_path / "parts"), [spec("N", 3, 8, 8)]).labels is None


def test_a_folder_of_parts_of_a_dataset_has_no_labels_and_says_so(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            picture(tmp_path / part / name / "a.png", (0, 0, 0))
    samples = open_data(str(tmp_path), [spec("N", 3, 8, 8)], preprocess="unit")
    assert (len(samples), samples.labels) == (4, None)
    assert samples.warnings[0].endswith(f"such as {tmp_path / 'train'}")
    assert labels_of(open_data(str(tmp_path / "val"), [spec("N", 3, 8, 8)], preprocess="unit")) == [0, 1]


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "a.png")
    values = joined(open_data(str(tmp_path), [spec("N", 1, 8, 8)], preprocess="none"))
    np.testing.assert_array_equal(values[0, 0], shades >> 8)


def test_without_preprocess_a_warning_says_what_was_done(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (255, 255, 255))
    floats = open_data(str(tmp_path), [spec("N", 3, 8, 8)])
    assert "scaled to 0-1" in floats.warnings[0]
    integers = open_data(str(tmp_path), [spec("N", 8, 8, 3, dtype="uint8")])
    assert (joined(integers) == 255).all()
    assert joined(integers).dtype == np.uint8


def test_images_that_cannot_be_read_are_counted_and_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for index in range(5):
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:3000])
    (tmp_path / "3.png").write_bytes(b"not an image")
    np.save(tmp_path / "labels.npy", np.arange(5))
    samples = open_data(str(tmp_path), [spec("N", 3, 64, 64)], labels=str(tmp_path / "labels.npy"), preprocess="unit")
    assert labels_of(samples, 2) == [0, 2, 4]
    assert joined(samples).shape[0] == 3
    assert samples.warnings == ["2 of 5 images can't be read and are left out: 3.png, 1.png"]


def test_a_folder_in_which_nothing_can_be_read_is_invalid_data(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(InvalidData, match=r"no sample that can be read.*a\.png"):
        open_data(str(tmp_path), [spec("N", 3, 8, 8)])


def test_decoded_images_are_kept_within_the_bound(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / f"{index}.png", (index, 0, 0))
    source = ImageSource("x", sorted(tmp_path.glob("*.png")), plan_images(spec("N", 3, 8, 8), Preprocess()))
    source.cache_bytes = 2 * 8 * 8 * 3
    source.read(range(4))
    assert len(source._cache) == 2
    for path in sorted(tmp_path.glob("*.png"))[:2]:
        path.unlink()
    assert source.read(range(4))[1] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "5\n7\n9\n"),
        ("a.txt", "c.png 9\na.png 5\nsub/b.png 7\n"),
        ("a.csv", "image,label\nb,7\nc,9\na,5\n"),
        ("a.csv", "label\n5\n7\n9\n"),
    ],
)
def test_label_files(tmp_path: Path, name: str, content: str) -> None:
    for image in ("a.png", "sub/b.png", "c.png"):
        picture(tmp_path / "images" / image, (0, 0, 0))
    (tmp_path / name).write_text(content)
    order = sorted(["a.png", "c.png", "sub/b.png"])
    samples = open_data(str(tmp_path / "images"), [spec("N", 3, 8, 8)], labels=str(tmp_path / name))
    by_name = {"a.png": 5, "sub/b.png": 7, "c.png": 9}
    positional = [5, 7, 9]
    expected = positional if "png" not in content and "b,7" not in content else [by_name[image] for image in order]
    assert labels_of(samples) == expected


def test_labels_in_words_are_numbered_and_bad_label_files_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    data, path = str(tmp_path / "x.npy"), tmp_path / "labels.txt"
    path.write_text("dog\ncat\ndog\n")
    assert labels_of(open_data(data, [spec("N", 2)], labels=str(path))) == [1, 0, 1]
    for content, message in (("", "no labels"), ("a 1\nb 2\nc 3", "names images"), ("1\n2", "2 labels for 3")):
        path.write_text(content)
        with pytest.raises(InvalidData, match=message):
            open_data(data, [spec("N", 2)], labels=str(path))
    with pytest.raises(InvalidData, match="doesn't exist"):
        open_data(data, [spec("N", 2)], labels=str(tmp_path / "nowhere.txt"))


def test_images_need_a_model_that_takes_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (0, 0, 0))
    for inputs, message in (
        ([spec("N", 3, 8, 8), spec("N", 2, name="z")], "2 inputs"),
        ([spec("N", 5, 8, 8)], "5 channels"),
        ([spec("N", 10)], "doesn't take images"),
        ([spec("N", 3, "H", "W")], "size=224"),
    ):
        with pytest.raises(InvalidData, match=message):
            open_data(str(tmp_path), inputs)
    sized = open_data(str(tmp_path), [spec("N", 3, "H", "W")], preprocess="size=16x12")
    assert joined(sized).shape == (1, 3, 16, 12)


# --- preprocessing


def test_presets_give_the_published_numbers() -> None:
    pixels = np.full((1, 2, 2, 3), (255, 0, 128), np.uint8)
    values = plan_images(spec("N", 3, 2, 2), PRESETS["imagenet"]).numbers(pixels)[0, :, 0, 0]
    np.testing.assert_allclose(values, [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225], rtol=1e-5)
    values = plan_images(spec("N", 2, 2, 3), PRESETS["caffe"]).numbers(pixels)[0, 0, 0]
    np.testing.assert_allclose(values, [128 - 103.939, 0 - 116.779, 255 - 123.68], rtol=1e-5)
    values = plan_images(spec("N", 3, 2, 2), PRESETS["signed"]).numbers(pixels)[0, :, 0, 0]
    np.testing.assert_allclose(values, [1, -1, 128 / 127.5 - 1], atol=1e-6)


def test_a_spec_is_a_preset_with_changes() -> None:
    made = parse("imagenet,size=160,order=bgr,range=0-255,mean=1/2/3,std=2,layout=nhwc,fit=stretch,resize=170")
    assert made == Preprocess((160, 160), 170, 256 / 224, "stretch", 0.0, 255.0, (1.0, 2.0, 3.0), (2.0,), "bgr", "nhwc")
    assert parse("range=-1-1") == parse("range=-1/1") == parse("signed")
    assert parse("size=224").mean == ()


@pytest.mark.parametrize(
    "text", ["foo", "size=big", "size=0", "std=0", "range=1-0", "order=cmy", "colour=red", "mean="]
)
def test_specs_that_cannot_be_read_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--preprocess"):
        parse(text)


def test_steps_that_do_not_fit_the_model_are_invalid_data() -> None:
    for steps, inputs, message in (
        ("size=16", spec("N", 3, 8, 8), "16x16 pixels"),
        ("mean=1/2", spec("N", 3, 8, 8), "2 numbers as mean"),
        ("order=bgr", spec("N", 1, 8, 8), "1 channels"),
    ):
        with pytest.raises(InvalidData, match=message):
            plan_images(inputs, parse(steps))


def test_the_middle_is_cut_out_of_the_resized_image() -> None:
    """A ramp from left to right, 4 times as wide as high: the middle square spans 3/8 to 5/8 of it."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 256).astype(np.uint8), (64, 1)))
    cut = plan_images(spec("N", 1, 64, 64), parse("none")).pixels(ramp)[..., 0]
    np.testing.assert_allclose(cut[0, [0, -1]], [96, 159], atol=1.5)
    squeezed = plan_images(spec("N", 1, 64, 64), parse("none,fit=stretch")).pixels(ramp)[..., 0]
    np.testing.assert_allclose(squeezed[0, [0, -1]], [1.5, 253.5], atol=1.5)
    closer = plan_images(spec("N", 1, 32, 32), parse("none,resize=64")).pixels(ramp)[..., 0]
    np.testing.assert_allclose(closer[0, [0, -1]], [112, 143], atol=1.5)


# --- ONNX tensors


def save_tensors(folder: Path, *arrays: Array, names: tuple[str, ...] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, array in enumerate(arrays):
        tensor = numpy_helper.from_array(array, names[index] if names else "")
        (folder / f"input_{index}.pb").write_bytes(tensor.SerializeToString())


def test_onnx_test_data_sets_are_joined_in_natural_order(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        save_tensors(tmp_path / f"test_data_set_{number}", np.full((2, 3), number, np.float32))
    values = joined(open_data(str(tmp_path), [spec("N", 3)]), size=4)
    assert list(values[:, 0]) == [0, 0, 2, 2, 10, 10]


def test_tensors_go_to_inputs_by_name_or_else_by_position(tmp_path: Path) -> None:
    one, two = np.ones((1, 3), np.float32), np.full((1, 3), 2, np.float32)
    inputs = [spec(1, 3, name="a"), spec(1, 3, name="b")]
    save_tensors(tmp_path / "named", two, one, names=("b", "a"))
    save_tensors(tmp_path / "unnamed", one, two)
    for folder in ("named", "unnamed"):
        batch = next(open_data(str(tmp_path / folder), inputs).batches(1))
        assert (batch.feed["a"][0, 0], batch.feed["b"][0, 0]) == (1, 2)
    with pytest.raises(InvalidData, match="2 tensors, but the model has 1 inputs"):
        open_data(str(tmp_path / "unnamed"), [spec(1, 3)])


def test_tensors_of_different_lengths_stay_apart(tmp_path: Path) -> None:
    for number, length in enumerate((4, 6)):
        save_tensors(tmp_path / f"test_data_set_{number}", np.ones((1, length), np.float32))
    shapes = [batch.feed["x"].shape for batch in open_data(str(tmp_path), [spec("N", "T")]).batches(8)]
    assert shapes == [(1, 4), (1, 6)]


def test_a_damaged_tensor_is_invalid_data(tmp_path: Path) -> None:
    (tmp_path / "input_0.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(InvalidData, match=r"input_0\.pb"):
        open_data(str(tmp_path), [spec("N", 3)])


# --- the user's function

MODULE = """
import numpy as np
def singles():
    return [(np.full(3, i), i) for i in range(5)]
def batches():
    for i in range(3):
        yield np.full((2, 3), float(i)), np.array([i, i])
def tables():
    return [{"x": np.full(3, 1.0 * i), "labels": i} for i in range(2)]
def endless():
    while True:
        yield np.zeros(3)
class Dataset:
    def __len__(self): return 2
    def __getitem__(self, i): return np.full(3, i)
dataset = Dataset()
def broken():
    yield np.zeros(3)
    raise RuntimeError("out of luck")
def number(): return 3
def words(): return ["a"]
def triples(): return [(1, 2, 3)]
def nothing(): return []
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "made_for_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)
    yield "made_for_test"
    sys.modules.pop("made_for_test", None)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "values", "labels"),
    [
        ("singles", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ("batches", [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),
        ("tables", [0, 1], [0, 1]),
        ("dataset", [0, 1], []),
    ],
)
def test_a_callable_gives_samples_or_batches(module: str, name: str, values: list[int], labels: list[int]) -> None:
    samples = open_data(f"{module}:{name}", [spec("N", 3)])
    assert list(joined(samples)[:, 0]) == values
    assert labels_of(samples) == labels


def test_an_endless_callable_stops_at_the_limit_or_at_the_bound_of_memory(module: str) -> None:
    assert len(open_data(f"{module}:endless", [spec("N", 3)], limit=7)) == 7
    source, _ = data_sources.call(f"{module}:endless", [spec("N", 3)], None, most_bytes=1000)
    assert len(source) == 1000 // 24 + 1
    assert "only the first 42 samples" in source.warnings[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "can't be imported"),
        ("broken", "raised RuntimeError: out of luck"),
        ("number", "returned a int"),
        ("words", "values for input"),
        ("triples", "tuples of 3"),
        ("nothing", "no samples"),
    ],
)
def test_a_callable_that_fails_is_invalid_data(module: str, name: str, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        open_data(f"{module}:{name}", [spec("N", 3)])


# --- datasets


def save_idx(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(("folder", "suffix"), [("KMNIST/raw", ""), (".", ".gz")])
def test_a_dataset_on_disk_is_read_in_torchvisions_layout(tmp_path: Path, folder: str, suffix: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    save_idx(tmp_path / folder / f"t10k-images-idx3-ubyte{suffix}", images)
    save_idx(tmp_path / folder / f"t10k-labels-idx1-ubyte{suffix}", np.array([3, 1, 4, 1], np.uint8))
    name = f"torchvision:KMNIST?root={tmp_path}&split=test"
    for shape in ((1, 1, 28, 28), (1, 784, 1), (1, 28, 28, 1)):
        samples = open_data(name, [spec(*shape)], preprocess="none")
        np.testing.assert_array_equal(joined(samples).reshape(4, 28, 28), images)
    assert labels_of(samples) == [3, 1, 4, 1]


def test_data_are_the_same_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.mkdir()
    save_idx(there / "a b&c" / "train-images-idx3-ubyte", np.full((2, 28, 28), 7, np.uint8))
    save_idx(there / "a b&c" / "train-labels-idx1-ubyte", np.array([1, 0], np.uint8))
    np.save(there / "x.npy", np.ones((3, 1, 28, 28), np.float32))
    np.save(there / "y.npy", np.array([2, 1, 0]))
    monkeypatch.chdir(there)
    dataset, array, labels = map(rooted, ("torchvision:MNIST?root=a b%26c", "x.npy", "y.npy"))
    monkeypatch.chdir(tmp_path)
    assert labels_of(open_data(dataset, [spec("N", 1, 28, 28)])) == [1, 0]
    assert labels_of(open_data(array, [spec("N", 1, 28, 28)], labels=labels)) == [2, 1, 0]
    assert rooted("package.module:callable") == "package.module:callable"
    assert rooted("torchvision:MNIST") == rooted(f"torchvision:MNIST?root={tmp_path}/data&split=train")


def test_a_dataset_that_is_not_there_or_not_known_is_invalid_data(tmp_path: Path) -> None:
    for name in (f"MNIST?root={tmp_path}", f"CIFAR10?root={tmp_path}", "Imaginary", "MNIST?split=dev", "MNIST?a=b"):
        with pytest.raises(InvalidData, match="root=FOLDER"):
            open_data(f"torchvision:{name}", [spec("N", 1, 28, 28)])


def test_data_that_does_not_exist_lists_the_choices() -> None:
    with pytest.raises(InvalidData, match=r"nowhere doesn't exist: give a folder.*torchvision:NAME"):
        open_data("nowhere", [spec("N", 3)])


# --- made-up samples


def test_pink_noise_has_unit_variance_correlated_colours_and_a_spectrum_of_one_over_f() -> None:
    generator = np.random.default_rng(0)
    images = np.stack([pink_image(3, 48, 48, generator) for _ in range(400)])  # [N, C, H, W]
    assert images.mean() == pytest.approx(0, abs=0.05)
    assert images.var() == pytest.approx(1, abs=0.08)
    colours = np.corrcoef(images.transpose(1, 0, 2, 3).reshape(3, -1))
    np.testing.assert_allclose(colours[np.triu_indices(3, 1)], 0.9, atol=0.02)
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=(0, 1))
    radius = np.hypot(np.fft.fftfreq(48)[:, None], np.fft.fftfreq(48)[None, :])
    slope, _ = np.polyfit(np.log(radius[radius > 0]), 0.5 * np.log(power[radius > 0]), 1)
    assert slope == pytest.approx(-1, abs=0.03)


@pytest.mark.parametrize(("height", "width"), [(1, 7), (8, 5), (5, 8), (1, 1)])
def test_pink_noise_of_any_size(height: int, width: int) -> None:
    assert np.isfinite(pink_image(1, height, width, np.random.default_rng(0))).all()


def test_made_up_samples_fit_every_input_and_depend_on_seed_and_index_alone() -> None:
    inputs = [
        spec("N", 3, 16, "W"),
        spec("N", 16, 16, 3, name="last", dtype="float16"),
        spec("N", 5, name="row"),
        spec("N", 2, name="ids", dtype="int64"),
    ]
    samples = synthetic(inputs, 6, seed=4, free=12)
    feed = next(samples.batches(6)).feed
    assert {name: array.shape for name, array in feed.items()} == {
        "x": (6, 3, 16, 12),
        "last": (6, 16, 16, 3),
        "row": (6, 5),
        "ids": (6, 2),
    }
    assert feed["last"].dtype == np.float16
    assert feed["ids"].min() >= 0
    np.testing.assert_array_equal(feed["x"], joined(synthetic(inputs, 6, seed=4, free=12), size=4))
    np.testing.assert_array_equal(feed["last"][3], joined(samples.take([3]), "last")[0])
    assert not np.array_equal(feed["x"], joined(synthetic(inputs, 6, seed=5, free=12)))


def test_white_noise_is_white_and_states_are_whole_feeds() -> None:
    white = joined(synthetic([spec("N", 3, 32, 32)], 50, 0, "white"), size=50)
    neighbours = np.corrcoef(white[..., :-1].ravel(), white[..., 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(0, abs=0.01)
    assert white.var() == pytest.approx(1, abs=0.02)
    inputs = [spec(1, 3, 8, 8), spec(2, 1, 4, name="state")]
    feeds = [batch.feed for batch in synthetic(inputs, 3, 0).batches(2)]
    assert [(feed["x"].shape, feed["state"].shape) for feed in feeds] == [((1, 3, 8, 8), (2, 1, 4))] * 3
