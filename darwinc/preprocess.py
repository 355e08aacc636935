"""From an image to what a model is fed: `--preprocess`, and the plan that fits it to one input.

A spec is a preset's name, `key=value` pairs, or a preset with pairs that change it: `imagenet`, `size=224,range=0-1`,
`imagenet,size=160,order=bgr`. Values are scaled from bytes to `range`, then `mean` is taken off and `std` divided out,
both given in the order in which the model gets its channels. `str` of a Preprocess is such a spec.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from math import isfinite, prod
from typing import Any, Literal

import numpy as np
from PIL import Image

from darwinc.errors import InvalidData, UsageError
from darwinc.runtime import InputSpec

Layout = Literal["auto", "nchw", "nhwc"]
Fit = Literal["crop", "stretch", "pad"]
Array = np.ndarray[Any, Any]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FEWEST_GREYS = 127


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes numbers; sizes are (height, width) in pixels.

    `margin` is how much longer than the model's side the shorter side of the image is before its middle is cut out
    (ImageNet: 256 / 224); `resize` gives that length itself. With `fit` pad the whole image lies in the middle of grey
    `fill`, as detectors want it.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    margin: float = 1.0
    fit: Fit = "crop"
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    order: Literal["rgb", "bgr"] = "rgb"
    layout: Layout = "auto"
    fill: int = 114

    def __str__(self) -> str:
        """The shortest spec from which `parse` makes the same Preprocess."""
        return min((text for name in PRESETS if (text := _spec(name, self))), key=len)


PRESETS: dict[str, Preprocess] = {
    "unit": Preprocess(),
    "none": Preprocess(high=255.0),
    "signed": Preprocess(low=-1.0),
    "imagenet": Preprocess(margin=256 / 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "caffe": Preprocess(margin=256 / 224, high=255.0, mean=(103.939, 116.779, 123.68), order="bgr"),
    "cifar10": Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Preprocess(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    "mnist": Preprocess(mean=(0.1307,), std=(0.3081,)),
}

_KEYS = "size, resize, margin, fit, fill, range, mean, std, order, layout"


def parse(text: str) -> Preprocess:
    """The Preprocess that a spec names. Raises UsageError for an unknown preset, key or value."""
    first, *rest = [part.strip() for part in text.split(",")]
    if "=" in first:
        first, rest = "unit", [first, *rest]
    if first not in PRESETS:
        raise UsageError(f"--preprocess names no preset '{first}': choose from {', '.join(PRESETS)}, or give {_KEYS}")
    made = PRESETS[first]
    for pair in rest:
        key, _, value = pair.partition("=")
        made = _with(made, key.strip(), value.strip())
    if any(deviation == 0 for deviation in made.std) or made.low >= made.high:
        raise UsageError(f"--preprocess '{text}' divides by zero: no std may be 0, and range goes from low to high")
    return made


def _with(made: Preprocess, key: str, value: str) -> Preprocess:
    try:
        match key:
            case "size":
                height, _, width = value.partition("x")
                return replace(made, size=(_positive(height), _positive(width or height)))
            case "resize":
                return replace(made, resize=_positive(value))
            case "margin":
                return replace(made, margin=_margin(value))
            case "fill":
                return replace(made, fill=_grey(value))
            case "range":
                low, high = _range(value)
                return replace(made, low=low, high=high)
            case "mean":
                return replace(made, mean=_floats(value))
            case "std":
                return replace(made, std=_floats(value))
            case "fit" if value in ("crop", "stretch", "pad"):
                fits: dict[str, Fit] = {"crop": "crop", "stretch": "stretch", "pad": "pad"}
                return replace(made, fit=fits[value])
            case "order" if value in ("rgb", "bgr"):
                return replace(made, order="rgb" if value == "rgb" else "bgr")
            case "layout" if value in ("nchw", "nhwc", "auto"):
                layouts: dict[str, Layout] = {"nchw": "nchw", "nhwc": "nhwc", "auto": "auto"}
                return replace(made, layout=layouts[value])
    except ValueError as error:
        raise UsageError(f"--preprocess can't read '{key}={value}': {error}") from error
    raise UsageError(
        f"--preprocess doesn't know '{key}={value}': the keys are {_KEYS}, as in "
        "size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225,layout=nchw,order=rgb,range=0-1,fit=crop"
    )


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(f"{text} pixels are not enough")
    return int(text)


def _margin(text: str) -> float:
    if not 1 <= float(text) < 10:
        raise ValueError("a margin is 1 or a little more, as 256/224 = 1.143")
    return float(text)


def _grey(text: str) -> int:
    if not 0 <= int(text) <= 255:
        raise ValueError("a grey is 0 to 255")
    return int(text)


def _floats(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split("/"))
    if not all(map(isfinite, values)):
        raise ValueError("the numbers have to be finite")
    return values


def _spec(name: str, made: Preprocess) -> str:
    """A preset, and the pairs that make `made` of it; empty where it has something that pairs can't take away."""
    preset = PRESETS[name]
    changed = {field.name for field in fields(made) if getattr(made, field.name) != getattr(preset, field.name)}
    if any(not getattr(made, key) for key in changed & {"size", "resize", "mean", "std"}):
        return ""
    pairs = {
        "size": "x".join(map(str, made.size or ())),
        "resize": str(made.resize),
        "margin": _text(made.margin),
        "fit": made.fit,
        "fill": str(made.fill),
        "low": f"{_text(made.low)}/{_text(made.high)}",
        "mean": "/".join(map(_text, made.mean)),
        "std": "/".join(map(_text, made.std)),
        "order": made.order,
        "layout": made.layout,
    }
    named = changed - {"high"} | ({"low"} if "high" in changed else set())
    parts = [f"{'range' if key == 'low' else key}={value}" for key, value in pairs.items() if key in named]
    return ",".join(parts if name == "unit" and parts else [name, *parts])


def _text(number: float) -> str:
    """Every digit, and no exponent, which a range couldn't be told from."""
    return np.format_float_positional(number, trim="-")


def _range(text: str) -> tuple[float, float]:
    match = re.fullmatch(r"(-?[\d.]+)[-/:](-?[\d.]+)", text)
    if match is None:
        raise ValueError("a range is two numbers, as in 0-1, 0-255 or -1/1")
    return float(match[1]), float(match[2])


@dataclass(frozen=True)
class ImagePlan:
    """A Preprocess fitted to one input: `height`, `width` and `channels` are fixed, and so is `shape`, a sample's."""

    steps: Preprocess
    height: int
    width: int
    channels: int
    channels_first: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def pixels(self, image: Image.Image) -> Array:
        """The image as bytes [height, width, channels], resized and cut to size."""
        image = _bytes(image).convert(_MODES[self.channels])
        image = self._placed(image, Image.Resampling.BILINEAR, self.steps.fill)
        return np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels)

    def classes(self, mask: Image.Image) -> Array:
        """A label image's grey values, or places in its palette, as int32 [height, width]; -1 beyond its edges.

        It's resized and cut like its image, and no value is mixed with another. Raises ValueError for colours.
        """
        if mask.mode not in ("1", "L", "P") and not mask.mode.startswith("I"):
            raise ValueError(f"a {mask.mode} image")
        # Pillow resizes 32-bit images like any other, and they hold every class number and -1.
        numbers = Image.fromarray(np.asarray(mask).astype(np.int32))
        return np.asarray(self._placed(numbers, Image.Resampling.NEAREST, -1), np.int32)

    def _placed(self, image: Image.Image, resampling: Image.Resampling, fill: int) -> Image.Image:
        """The image at the model's size."""
        if image.size == (self.width, self.height):
            return image
        if self.steps.fit == "stretch":
            return image.resize((self.width, self.height), resampling)
        if self.steps.fit == "pad":
            return self._padded(image, resampling, fill)
        shorter = self.steps.resize or round(min(self.height, self.width) * self.steps.margin)
        # Never so small that the cut would reach beyond the image.
        scale = max(shorter / min(image.size), self.width / image.width, self.height / image.height)
        size = (max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale)))
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        image = image.resize(size, resampling)
        return image.crop((left, top, left + self.width, top + self.height))

    def _padded(self, image: Image.Image, resampling: Image.Resampling, fill: int) -> Image.Image:
        scale = min(self.width / image.width, self.height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        colour = fill if len(image.getbands()) == 1 else (fill,) * 3 + (255,) * (len(image.getbands()) - 3)
        canvas = Image.new(image.mode, (self.width, self.height), colour)
        canvas.paste(image.resize(size, resampling), ((self.width - size[0]) // 2, (self.height - size[1]) // 2))
        return canvas

    def numbers(self, pixels: Array) -> Array:
        """Bytes [N, height, width, channels] -> what the input is fed, [N, *shape]."""
        if self.steps.order == "bgr":
            pixels = pixels[..., ::-1]
        values: Array = (
            pixels.astype(np.float32) * np.float32((self.steps.high - self.steps.low) / 255) + self.steps.low
        )
        if self.steps.mean:
            values = values - np.asarray(self.steps.mean, np.float32)
        if self.steps.std:
            values = values / np.asarray(self.steps.std, np.float32)
        if self.channels_first:
            values = values.transpose(0, 3, 1, 2)
        if self.dtype.kind in "iu":
            values = np.rint(values).clip(np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        return np.ascontiguousarray(values.reshape(len(values), *self.shape), self.dtype)


def _bytes(image: Image.Image) -> Image.Image:
    """Of 16-bit grey the upper eight bits: Pillow itself would make white of all above 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def plan_images(spec: InputSpec, steps: Preprocess, native: tuple[int, int, int] | None = None) -> ImagePlan:
    """Fit the steps to an input; `native` is the data's own (height, width, channels), where all images share it.

    Raises InvalidData when the input takes no images, or leaves their size open and nothing says it.
    """
    if len(spec.shape) != 4:
        return _flat_plan(spec, steps, native)
    first = _channels_first(spec, steps.layout)
    axes = spec.shape[1:] if first else (spec.shape[3], spec.shape[1], spec.shape[2])
    channels = axes[0] if isinstance(axes[0], int) else native[2] if native else 3
    if channels not in _MODES:
        raise InvalidData(f"input {spec} wants {channels} channels, but images have 1, 3 or 4: give arrays in an .npz")
    height, width = _size(spec, axes[1:], steps, native)
    shape = (channels, height, width) if first else (height, width, channels)
    return _checked(ImagePlan(steps, height, width, channels, first, shape, spec.dtype))


def _channels_first(spec: InputSpec, layout: Layout) -> bool:
    if layout != "auto":
        asked, other = (spec.shape[1], spec.shape[3]) if layout == "nchw" else (spec.shape[3], spec.shape[1])
        if isinstance(asked, int) and asked not in _MODES and other in _MODES:
            right = "nhwc" if layout == "nchw" else "nchw"
            raise InvalidData(f"--preprocess says layout {layout}, but input {spec} is {right}: leave layout out")
        return layout == "nchw"
    return spec.shape[1] in _MODES or spec.shape[3] not in _MODES


def _size(
    spec: InputSpec, axes: tuple[int | str | None, ...], steps: Preprocess, native: tuple[int, int, int] | None
) -> tuple[int, int]:
    asked = steps.size or (native[:2] if native else None)
    if steps.size and any(isinstance(axis, int) and axis != side for axis, side in zip(axes, steps.size, strict=True)):
        raise InvalidData(
            f"--preprocess asks for {steps.size[0]}x{steps.size[1]} pixels, but input {spec} has another size: "
            "leave size out, or give the model's"
        )
    if asked is None and not all(isinstance(axis, int) for axis in axes):
        raise InvalidData(f"input {spec} leaves the image size free: say it, as in --preprocess size=224")
    sides = [axis if isinstance(axis, int) else (asked or (0, 0))[index] for index, axis in enumerate(axes)]
    return sides[0], sides[1]


def _flat_plan(spec: InputSpec, steps: Preprocess, native: tuple[int, int, int] | None) -> ImagePlan:
    """For a perceptron that takes an image as a row of numbers: only where the count of numbers says that it fits."""
    tail = [size for size in spec.shape[1:] if isinstance(size, int)]
    if tail and len(tail) == len(spec.shape) - 1:
        for channels in (native[2],) if native else (1, 3):
            side = steps.size or (native[:2] if native else None)
            if side and prod(tail) == side[0] * side[1] * channels:
                first = steps.layout != "nhwc"
                return _checked(ImagePlan(steps, *side, channels, first, tuple(tail), spec.dtype))
    raise InvalidData(
        f"input {spec} doesn't take images, which are [N, C, H, W] or [N, H, W, C]: give arrays of its shape in an .npz"
    )


def _checked(plan: ImagePlan) -> ImagePlan:
    for name, values in (("mean", plan.steps.mean), ("std", plan.steps.std)):
        if len(values) not in (0, 1, plan.channels):
            raise InvalidData(
                f"--preprocess gives {len(values)} numbers as {name}, but the model's images have {plan.channels} "
                f"channels: give 1 or {plan.channels}"
            )
    if plan.steps.order == "bgr" and plan.channels != 3:
        raise InvalidData(
            f"--preprocess asks for order bgr, but the model's images have {plan.channels} channels: leave order out"
        )
    if plan.dtype.kind in "iu":
        _require_whole_numbers(plan)
    return plan


def _require_whole_numbers(plan: ImagePlan) -> None:
    """Whole numbers have to hold what the steps make, and to tell at least every second grey from the next."""
    steps, limits = plan.steps, np.iinfo(plan.dtype)
    mean, std = np.array(steps.mean or (0,)), np.array(steps.std or (1,))
    ends = np.stack([(value - mean) / std for value in (steps.low, steps.high)])
    low, high = float(ends.min()), float(ends.max())
    if low < limits.min - 0.5 or high > limits.max + 0.5 or np.abs(ends[1] - ends[0]).min() < _FEWEST_GREYS:
        fitting = "range=-128/127" if plan.dtype == np.int8 else "none"
        raise InvalidData(
            f"--preprocess makes numbers from {low:.3g} to {high:.3g}, but the model's input takes {plan.dtype} from "
            f"{limits.min} to {limits.max}: give {fitting}, without mean and std"
        )
