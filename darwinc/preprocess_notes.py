"""What a model, or a file beside it, says about how its images are prepared.

In the model's metadata (`metadata_props`), first found first taken:
    darwinc.preprocess                a spec of ours, which `darwinc` itself leaves there
    Image.BitmapPixelFormat, ...      ONNX's own, read by Windows ML (docs/MetadataProps.md of the ONNX repository)
    stride, names, imgsz              Ultralytics' YOLO: pixels 0-1, RGB, padded to shape unless it's a classifier
    model_info mean_values, ...       OpenVINO's Model API and Training Extensions: on a scale of 0-255
    standardization_mean, ..._std     Deepness for QGIS: pixels 0-1
In a file: Hugging Face's `preprocessor_config.json` and timm's `config.json`, which exports have beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from darwinc.errors import InvalidData, UsageError
from darwinc.preprocess import Fit, ImagePlan, Preprocess, parse, plan_images
from darwinc.runtime import InputSpec

PREPROCESS_KEY = "darwinc.preprocess"
FROM_MODEL = "model"

_RANGES = {
    "nominalrange_0_255": (0.0, 255.0),
    "normalized_0_1": (0.0, 1.0),
    "normalized_1_1": (-1.0, 1.0),
    "nominalrange_16_235": (16.0, 235.0),
}
_OPENVINO_FITS: dict[str, Fit] = {
    "standard": "stretch",
    "crop": "crop",
    "fit_to_window": "pad",
    "fit_to_window_letterbox": "pad",
}


def stated_plan(
    text: str | None, metadata: Mapping[str, str], spec: InputSpec, native: tuple[int, int, int] | None
) -> tuple[ImagePlan, str, bool]:
    """How images are prepared for an input: as `--preprocess` asks, else as the model's metadata say, else by a guess.

    Also a sentence to say about it, empty where there is nothing to say, and whether it's more than a guess.

    Args:
        text: a spec, the path of a JSON file, `model` for the metadata, or None.
        native: the data's own (height, width, channels), where all images share it.

    Raises:
        UsageError: a spec that can't be parsed, or `model` where the metadata say nothing.
        InvalidData: metadata or a file that can't be read, or steps that don't fit the input.
    """
    if text is not None and text != FROM_MODEL:
        return plan_images(spec, read_spec(text), native), "", True
    found = from_metadata(metadata)
    if found is not None:
        return _plan_of_metadata(*found, spec, native)
    if text == FROM_MODEL:
        raise UsageError(
            "--preprocess model was given, but the model's metadata don't say how images are prepared: give a preset, "
            "or size=, mean=, std=, range="
        )
    guess, span = ("none", "as bytes 0-255") if spec.dtype.kind in "iu" else ("unit", "scaled to 0-1")
    if spec.dtype == np.int8:
        guess, span = "range=-128/127", "bytes less 128"
    remark = f"no --preprocess was given: pixels are {span}, which may not be what the model was made for"
    return plan_images(spec, parse(guess), native), remark, False


def _plan_of_metadata(
    steps: Preprocess, convention: str, spec: InputSpec, native: tuple[int, int, int] | None
) -> tuple[ImagePlan, str, bool]:
    # A size in the metadata is for inputs that leave theirs open.
    fixed = len(spec.shape) == 4 and sum(isinstance(axis, int) for axis in spec.shape[1:]) == 3
    steps = replace(steps, size=None) if fixed else steps
    try:
        plan = plan_images(spec, steps, native)
    except InvalidData as error:
        raise InvalidData(
            f"{error} (it's the model's metadata ({convention}) that ask for it; --preprocess goes before them)"
        ) from error
    return plan, f"images are prepared as the model's metadata ({convention}) say: --preprocess {steps}", True


def read_spec(text: str) -> Preprocess:
    """A spec, or the path of a `preprocessor_config.json` (Hugging Face) or `config.json` (timm).

    Raises:
        UsageError: a spec that can't be parsed.
        InvalidData: a file that can't be read, or that says nothing of images.
    """
    if not text.endswith(".json"):
        return parse(text)
    try:
        content = json.loads(Path(text).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidData(f"--preprocess {text} can't be read as JSON: {error}") from error
    try:
        made = _hugging_face(content) or _timm(content)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InvalidData(f"--preprocess {text} holds something that wasn't expected: {error}") from error
    if made is None:
        raise InvalidData(
            f"--preprocess {text} says nothing of images: give Hugging Face's preprocessor_config.json or timm's "
            "config.json"
        )
    return _sound(made, text)


def from_metadata(metadata: Mapping[str, str]) -> tuple[Preprocess, str] | None:
    """What the metadata say about images, and whose convention that is; None where they say nothing.

    Raises:
        InvalidData: a convention is there, but its values can't be read.
    """
    for name, convention in _CONVENTIONS.items():
        try:
            made = convention(metadata)
        except (UsageError, TypeError, ValueError, KeyError, IndexError) as error:
            raise InvalidData(
                f"the model's metadata ({name}) can't be read: {error}; give --preprocess to pass them over"
            ) from error
        if made is not None:
            return _sound(made, f"the model's metadata ({name})"), name
    return None


def _sound(made: Preprocess, where: str) -> Preprocess:
    """Refuse what no spec could say."""
    try:
        return parse(str(made))
    except UsageError as error:
        raise InvalidData(f"{where} can't be used: {error}") from error


def _own(metadata: Mapping[str, str]) -> Preprocess | None:
    return parse(metadata[PREPROCESS_KEY]) if PREPROCESS_KEY in metadata else None


def _windows(metadata: Mapping[str, str]) -> Preprocess | None:
    """Keys and values are case insensitive; bytes go in as they are where no range is given."""
    values = {key.lower(): value.lower() for key, value in metadata.items()}
    pixels = values.get("image.bitmappixelformat")
    if pixels is None:
        return None
    if pixels not in ("gray8", "rgb8", "bgr8", "rgba8", "bgra8"):
        raise ValueError(f"the pixel format {pixels} is none of Gray8, Rgb8, Bgr8, Rgba8 and Bgra8")
    if values.get("image.colorspacegamma") == "linear":
        raise ValueError("images are wanted in linear light")
    low, high = _RANGES[values.get("image.nominalpixelrange", "nominalrange_0_255")]
    return Preprocess(low=low, high=high, order="bgr" if pixels.startswith("bgr") else "rgb")


def _ultralytics(metadata: Mapping[str, str]) -> Preprocess | None:
    if not {"stride", "names", "imgsz"} <= metadata.keys():
        return None
    height, width = (int(number) for number in re.findall(r"\d+", metadata["imgsz"])[-2:])
    return Preprocess(size=(height, width), fit="crop" if metadata.get("task") == "classify" else "pad")


def _openvino(metadata: Mapping[str, str]) -> Preprocess | None:
    values = {
        key.removeprefix("model_info "): value for key, value in metadata.items() if key.startswith("model_info ")
    }
    if "mean_values" not in values and "scale_values" not in values:
        return None
    if "intensity_mode" in values:
        raise ValueError("intensity modes are not known here")
    # The Model API's images are BGR unless channels are reversed.
    reverse = values.get("reverse_input_channels", "True").lower() in ("true", "yes", "1")
    return Preprocess(
        high=255.0,
        mean=_numbers(values.get("mean_values", "")),
        std=_numbers(values.get("scale_values", "")),
        order="rgb" if reverse else "bgr",
        fit=_OPENVINO_FITS[values.get("resize_type", "standard")],
        fill=int(values.get("pad_value", "0")),
    )


def _deepness(metadata: Mapping[str, str]) -> Preprocess | None:
    if "standardization_mean" not in metadata:
        return None
    return Preprocess(mean=_numbers(metadata["standardization_mean"]), std=_numbers(metadata["standardization_std"]))


_CONVENTIONS = {
    PREPROCESS_KEY: _own,
    "Image.BitmapPixelFormat": _windows,
    "Ultralytics": _ultralytics,
    "OpenVINO": _openvino,
    "Deepness": _deepness,
}


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers between brackets, commas or spaces."""
    return tuple(float(part) for part in re.split(r"[\s,\[\]()]+", text) if part)


def _hugging_face(content: Mapping[str, Any]) -> Preprocess | None:
    if (
        "image_processor_type" not in content
        and "feature_extractor_type" not in content
        and "image_mean" not in content
    ):
        return None
    factor = float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0
    made = Preprocess(high=255 * factor, order="bgr" if content.get("do_flip_channel_order") else "rgb", fit="stretch")
    if content.get("do_normalize", True) and "image_mean" in content:
        made = replace(made, mean=tuple(content["image_mean"]), std=tuple(content["image_std"]))
    resized, cut = (_edges(content.get(key)) for key in ("size", "crop_size"))
    if content.get("do_center_crop") and cut:
        made = replace(made, size=cut, fit="crop", resize=min(resized) if resized else None)
    elif resized and content.get("do_resize", True):
        made = replace(made, size=resized)
    crop = content.get("crop_pct")
    return replace(made, fit="crop", margin=1 / float(crop)) if crop and made.resize is None else made


def _edges(size: Any) -> tuple[int, int] | None:
    """Height and width from a number, from both by name, or from the shorter edge."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            size = size["shortest_edge"]
        else:
            return (int(size["height"]), int(size["width"])) if "height" in size else None
    return (int(size), int(size)) if size else None


def _timm(content: Mapping[str, Any]) -> Preprocess | None:
    found = content.get("pretrained_cfg", content)
    if "input_size" not in found or "mean" not in found:
        return None
    fits: dict[str, Fit] = {"squash": "stretch", "border": "pad"}
    _, height, width = found["input_size"]
    return Preprocess(
        size=(int(height), int(width)),
        margin=1 / float(found.get("crop_pct") or 1),
        fit=fits.get(found.get("crop_mode", "center"), "crop"),
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
    )
