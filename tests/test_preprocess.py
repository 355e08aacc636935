"""How images are prepared: specs come back from their steps, models say it in many ways, misfits are explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darwinc.data import InputSpec, Samples, open_data
from darwinc.errors import InvalidData, UsageError
from darwinc.preprocess import PRESETS, Preprocess, parse, plan_images
from darwinc.preprocess_notes import PREPROCESS_KEY, from_metadata, read_spec


def spec(*shape: int | str, dtype: str = "float32") -> InputSpec:
    return InputSpec("x", np.dtype(dtype), shape)


RGB = spec("N", 3, 8, 8)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    Image.new("RGB", (8, 8), (255, 0, 51)).save(tmp_path / "a.png")
    return str(tmp_path)


def first(samples: Samples) -> list[float]:
    """The first pixel's colours."""
    array = next(samples.batches(1)).feed["x"]
    return [float(value) for value in (array[0, :, 0, 0] if array.shape[1] == 3 else array[0, 0, 0])]


# --- there and back

numbers = st.floats(-300, 300).map(lambda value: value + 0.0)
deviations = st.floats(1e-6, 300)


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        Preprocess,
        size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        resize=st.none() | st.integers(1, 999),
        margin=st.floats(1, 2),
        fit=st.sampled_from(["crop", "stretch", "pad"]),
        fill=st.integers(0, 255),
        low=st.floats(-300, 0),
        high=st.floats(1e-3, 300),
        mean=st.lists(numbers, max_size=4).map(tuple),
        std=st.lists(deviations, max_size=4).map(tuple),
        order=st.sampled_from(["rgb", "bgr"]),
        layout=st.sampled_from(["auto", "nchw", "nhwc"]),
    )
)
def test_a_spec_comes_back_from_its_steps(steps: Preprocess) -> None:
    assert parse(str(steps)) == steps


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_their_names_and_changes_are_short(name: str) -> None:
    assert str(PRESETS[name]) == name
    assert parse(str(parse(f"{name},size=160x128"))) == parse(f"{name},size=160x128")
    assert str(parse("imagenet,size=160,order=bgr")) == "imagenet,size=160x160,order=bgr"
    assert str(parse("range=0-1,mean=0.5")) == "mean=0.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin=0.5", "a margin is 1 or a little more"),
        ("fill=300", "a grey is 0 to 255"),
        ("mean=nan", "have to be finite"),
        ("fit=tile", "the keys are size, resize, margin, fit, fill, range"),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


# --- what models say

WINDOWS = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_0_1"}
YOLO = {"stride": "32", "names": "{0: 'person'}", "imgsz": "[640, 480]", "task": "detect"}
OPENVINO = {
    "model_info mean_values": "123.675 116.28 103.53",
    "model_info scale_values": "58.395 57.12 57.375",
    "model_info reverse_input_channels": "False",
    "model_info resize_type": "standard",
    "model_info pad_value": "114",
}
DEEPNESS = {"standardization_mean": "[0.4, 0.5, 0.6]", "standardization_std": "[0.1, 0.2, 0.3]"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({PREPROCESS_KEY: "imagenet,size=160"}, "imagenet,size=160"),
        (WINDOWS, "range=0/1,order=bgr"),
        ({"IMAGE.BITMAPPIXELFORMAT": "gray8"}, "none"),
        ({"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "normalized_1_1"}, "signed"),
        ({"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "NominalRange_16_235"}, "range=16/235"),
        (YOLO, "size=640x480,fit=pad"),
        (YOLO | {"task": "classify", "imgsz": "[224, 224]"}, "size=224"),
        (OPENVINO, "none,fit=stretch,mean=123.675/116.28/103.53,std=58.395/57.12/57.375,order=bgr"),
        (DEEPNESS, "mean=0.4/0.5/0.6,std=0.1/0.2/0.3"),
        (WINDOWS | {PREPROCESS_KEY: "mnist"}, "mnist"),
    ],
)
def test_conventions_of_metadata(metadata: dict[str, str], expected: str) -> None:
    found = from_metadata(metadata)
    assert found is not None
    assert found[0] == parse(expected)


@pytest.mark.parametrize("metadata", [{}, {"stride": "32"}, {"onnx.infer": "onnxruntime.quant"}, {"author": "me"}])
def test_other_metadata_say_nothing(metadata: dict[str, str]) -> None:
    assert from_metadata(metadata) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({PREPROCESS_KEY: "nonsense"}, r"\(darwinc.preprocess\) can't be read: .*no preset 'nonsense'"),
        ({"Image.BitmapPixelFormat": "Nv12"}, "the pixel format nv12"),
        (WINDOWS | {"Image.ColorSpaceGamma": "Linear"}, "linear light"),
        (WINDOWS | {"Image.NominalPixelRange": "wide"}, "wide"),
        (YOLO | {"imgsz": "big"}, "Ultralytics"),
        (OPENVINO | {"model_info scale_values": "0 0 0"}, "OpenVINO.*divides by zero"),
        (OPENVINO | {"model_info mean_values": "many"}, "OpenVINO"),
        (OPENVINO | {"model_info intensity_mode": "window"}, "intensity"),
        ({"standardization_mean": "[0.4]"}, "Deepness"),
    ],
)
def test_metadata_that_cannot_be_read_are_invalid_data(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        from_metadata(metadata)


def test_metadata_are_the_default_and_the_option_goes_before_them(pictures: str) -> None:
    by_default = open_data(pictures, [RGB], metadata=WINDOWS)
    asked = open_data(pictures, [RGB], preprocess="model", metadata=WINDOWS)
    for samples in (by_default, asked):
        np.testing.assert_allclose(first(samples), [0.2, 0, 1], atol=1e-6)
        assert samples.preprocess == "order=bgr"
        assert samples.warnings == [
            "images are prepared as the model's metadata (Image.BitmapPixelFormat) say: --preprocess order=bgr"
        ]
    over = open_data(pictures, [RGB], preprocess="none", metadata={PREPROCESS_KEY: "nonsense"})
    assert first(over) == [255, 0, 51]
    assert (over.preprocess, over.warnings) == ("none", [])


def test_a_guess_is_not_stated_and_model_without_metadata_is_wrong_usage(pictures: str) -> None:
    assert open_data(pictures, [RGB]).preprocess is None
    with pytest.raises(UsageError, match="metadata don't say how images are prepared: give a preset"):
        open_data(pictures, [RGB], preprocess="model")


def test_what_one_model_is_given_another_finds_in_its_metadata(pictures: str) -> None:
    given = open_data(pictures, [RGB], preprocess="imagenet,resize=9,order=bgr")
    found = open_data(pictures, [RGB], metadata={PREPROCESS_KEY: str(given.preprocess)})
    assert first(found) == first(given)
    assert found.preprocess == given.preprocess


def test_arrays_take_no_notice_of_metadata(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3, 8, 8), np.float32))
    samples = open_data(str(tmp_path / "x.npy"), [RGB], metadata={PREPROCESS_KEY: "nonsense"})
    assert (samples.warnings, samples.preprocess) == ([], None)


def test_the_size_of_metadata_is_for_inputs_that_leave_it_open(pictures: str) -> None:
    free = open_data(pictures, [spec("N", 3, "H", "W")], metadata=YOLO)
    assert next(free.batches(1)).feed["x"].shape == (1, 3, 640, 480)
    fixed = open_data(pictures, [RGB], metadata=YOLO)
    assert next(fixed.batches(1)).feed["x"].shape == (1, 3, 8, 8)


def test_metadata_that_do_not_fit_the_input_say_who_asks(pictures: str) -> None:
    with pytest.raises(InvalidData, match=r"3 numbers as mean.*the model's metadata \(Deepness\) that ask for it"):
        open_data(pictures, [spec("N", 1, 8, 8)], metadata=DEEPNESS)


# --- files beside models


def config(path: Path, **content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 192}, "do_resize": True},
            "size=224x192,fit=stretch,mean=0.5/0.5/0.5,std=0.5/0.5/0.5",
        ),
        (
            {
                "image_processor_type": "CLIPImageProcessor",
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.4, 0.5, 0.6],
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            "size=224,resize=256,mean=0.1/0.2/0.3,std=0.4/0.5/0.6",
        ),
        (
            {
                "feature_extractor_type": "MobileViTFeatureExtractor",
                "do_flip_channel_order": True,
                "size": 288,
                "crop_size": 256,
                "do_center_crop": True,
            },
            "size=256,resize=288,order=bgr",
        ),
        (
            {"image_processor_type": "X", "do_rescale": False, "do_normalize": False, "image_mean": [1], "size": 32},
            "none,size=32,fit=stretch",
        ),
        (
            {"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875, "mean": [0.5], "std": [0.25]}},
            f"size=224,margin={1 / 0.875!r},mean=0.5,std=0.25",
        ),
        (
            {"input_size": [3, 32, 16], "crop_mode": "squash", "mean": [0.5], "std": [0.25]},
            "size=32x16,fit=stretch,mean=0.5,std=0.25",
        ),
    ],
)
def test_configurations_of_hugging_face_and_timm(tmp_path: Path, content: dict[str, Any], expected: str) -> None:
    assert read_spec(config(tmp_path / "preprocessor_config.json", **content)) == parse(expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "as JSON"),
        ('{"a": 1}', "says nothing of images"),
        ("[1]", "wasn't expected"),
        ('{"image_mean": [0.5], "size": 8}', "wasn't expected: 'image_std'"),
        ('{"image_mean": [0.5], "image_std": [0], "size": 8}', "divides by zero"),
    ],
)
def test_configurations_that_cannot_be_read_are_invalid_data(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidData, match=message):
        read_spec(str(tmp_path / "config.json"))
    with pytest.raises(InvalidData, match="can't be read as JSON"):
        read_spec(str(tmp_path / "nowhere.json"))


# --- misfits


@pytest.mark.parametrize(
    ("steps", "input_spec", "message"),
    [
        ("layout=nhwc", RGB, "says layout nhwc, but input 'x' float32 .* is nchw: leave layout out"),
        ("layout=nchw", spec("N", 8, 8, 3), "says layout nchw, but input .* is nhwc"),
        ("imagenet", spec("N", 8, 8, 3, dtype="uint8"), "from -2.12 to 2.64, .* takes uint8 from 0 to 255: give none"),
        ("unit", spec("N", 8, 8, 3, dtype="uint8"), "from 0 to 1, but the model's input takes uint8"),
        ("none", spec("N", 3, 8, 8, dtype="int8"), "give range=-128/127, without mean and std"),
        ("imagenet", spec("N", 1, 8, 8), "3 numbers as mean, but the model's images have 1 channels"),
        ("order=bgr", spec("N", 1, 8, 8), "1 channels: leave order out"),
        ("size=16", RGB, "asks for 16x16 pixels, but input .* has another size: leave size out"),
        ("unit", spec("N", 7, 8, 8), "wants 7 channels, but images have 1, 3 or 4"),
    ],
)
def test_steps_that_do_not_fit_an_input_are_explained(steps: str, input_spec: InputSpec, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        plan_images(input_spec, parse(steps))


@pytest.mark.parametrize(
    ("steps", "dtype"), [("none", "uint8"), ("none,mean=128", "int8"), ("range=-128/127", "int8"), ("none", "int32")]
)
def test_whole_numbers_that_fit_are_taken(steps: str, dtype: str) -> None:
    assert plan_images(spec("N", 3, 8, 8, dtype=dtype), parse(steps)).dtype == np.dtype(dtype)


def test_a_guess_for_signed_bytes_covers_their_range(pictures: str) -> None:
    samples = open_data(pictures, [spec("N", 3, 8, 8, dtype="int8")])
    assert first(samples) == [127, -128, -77]
    assert "bytes less 128" in samples.warnings[0]


def test_padding_keeps_the_whole_image_in_grey() -> None:
    plan = plan_images(spec("N", 3, 16, 16), parse("none,fit=pad,fill=7"))
    pixels = plan.pixels(Image.new("RGB", (32, 16), (200, 100, 50)))
    assert (pixels[:4] == 7).all()
    assert (pixels[12:] == 7).all()
    assert (pixels[4:12] == (200, 100, 50)).all()
