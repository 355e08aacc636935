"""Made-up inputs for when there is no data.

Images get 1/f ("pink") noise, whose amplitude falls with spatial frequency as in photographs (Field 1987, "Relations
between the statistics of natural images and the response properties of cortical cells"), and colours that mostly agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from darwinc.data_arrays import Array, batchable
from darwinc.runtime import Feed, InputSpec, made_up_array

Colour = Literal["pink", "white"]

_COLOUR_CORRELATION = 0.9
_IMAGE_CHANNELS = (1, 3, 4)


def channel_axis(spec: InputSpec) -> int | None:
    """The axis that holds an image's colours, or None for an input that isn't image-like."""
    if spec.dtype.kind != "f" or len(spec.shape) != 4:
        return None
    return next((axis for axis in (1, 3) if spec.shape[axis] in _IMAGE_CHANNELS), None)


def pink_image(channels: int, height: int, width: int, generator: np.random.Generator) -> Array:
    """Noise [C, H, W] with amplitude 1/f, mean 0 and expected variance 1 at each pixel; channels correlate by 0.9."""
    vertical, horizontal = np.fft.fftfreq(height)[:, np.newaxis], np.fft.fftfreq(width)[np.newaxis, :]
    # The mean of an image varies like its lowest frequency.
    frequency = np.maximum(np.hypot(vertical, horizontal), 1 / max(height, width))
    amplitude = 1 / frequency
    amplitude /= np.sqrt(np.mean(amplitude**2))
    white = generator.standard_normal((channels + 1, height, width))
    noise = np.fft.irfft2(np.fft.rfft2(white) * amplitude[:, : width // 2 + 1], s=(height, width))
    shared, own = noise[:1], noise[1:]
    mixed: Array = np.sqrt(_COLOUR_CORRELATION) * shared + np.sqrt(1 - _COLOUR_CORRELATION) * own
    return own if channels == 1 else mixed


@dataclass
class SyntheticSource:
    """Made-up samples that depend on the seed and their index alone, made when they are asked for."""

    inputs: Sequence[InputSpec]
    count: int
    seed: int
    colour: Colour
    free: int
    warnings: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not batchable(self.inputs)

    def __len__(self) -> int:
        return self.count

    def probe(self, index: int) -> bool:
        return 0 <= index < self.count

    def read(self, indices: Sequence[int]) -> tuple[Feed, list[int]]:
        samples = [self._sample(index) for index in indices]
        if self.whole:
            return samples[0], [indices[0]]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}, list(indices)

    def _sample(self, index: int) -> Feed:
        feed: Feed = {}
        for number, spec in enumerate(self.inputs):
            generator = np.random.default_rng((self.seed, index, number))
            feed[spec.name] = self._array(spec, generator)
        return feed

    def _array(self, spec: InputSpec, generator: np.random.Generator) -> Array:
        """One sample of an input: its shape without the batch axis, or the whole shape where samples are feeds."""
        sizes = [
            size if isinstance(size, int) else 1 if axis == 0 else self.free for axis, size in enumerate(spec.shape)
        ]
        axis = channel_axis(spec)
        if axis is None or self.colour == "white":
            return made_up_array(spec.dtype, tuple(sizes if self.whole else sizes[1:]), generator)
        height, width = (sizes[2], sizes[3]) if axis == 1 else (sizes[1], sizes[2])
        images = np.stack(
            [pink_image(sizes[axis], height, width, generator) for _ in range(sizes[0] if self.whole else 1)]
        )
        ordered: np.ndarray[Any, Any] = np.moveaxis(images, 1, axis).astype(spec.dtype)
        return ordered if self.whole else ordered[0]
