"""Fourier transforms and the windows that go with them. Complex numbers are pairs on a last axis of length 2."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir
import torch

from .call import Call, Operands, Rule

WindowFunction = Callable[[int, bool], torch.Tensor]


def dft(call: Call) -> torch.Tensor:
    """Along one signal axis of x [..., 1 or 2]; the axis became an operand in opset 20."""
    x = call.first
    axis = call.integer("axis", 1) if call.opset < 20 else int(call.number(2, -2) or 0)
    axis = axis % x.ndim
    length = call.integers(1)[0] if call.has(1) else None
    inverse, half = bool(call.integer("inverse", 0)), bool(call.integer("onesided", 0))
    if inverse and half:
        real: torch.Tensor = torch.fft.irfft(torch.view_as_complex(x.contiguous()), length, axis)
        return real.unsqueeze(-1)
    if x.shape[-1] == 1:
        if half:
            return torch.view_as_real(torch.fft.rfft(x[..., 0], length, axis))
        signal = x[..., 0]
    else:
        signal = torch.view_as_complex(x.contiguous())
    return torch.view_as_real((torch.fft.ifft if inverse else torch.fft.fft)(signal, length, axis))


def stft(call: Call) -> torch.Tensor:
    """The spectra of windows that slide along a signal [N, length, 1 or 2]: [N, frames, bins, 2]."""
    x, window = call.first, call.optional(2)
    step = call.integers(1)[0]
    length = call.integers(3)[0] if call.has(3) else len(window) if window is not None else x.shape[1]
    signal = x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    frames = signal.reshape(x.shape[:2]).unfold(1, length, step)
    frames = frames if window is None else frames * window
    half = call.integer("onesided", 1) and not frames.is_complex()
    return torch.view_as_real((torch.fft.rfft if half else torch.fft.fft)(frames))


def _window(function: WindowFunction) -> Rule:
    def rule(call: Call) -> torch.Tensor:
        dtype = call.data_type("output_datatype", ir.DataType.FLOAT)
        return function(call.integers(0)[0], bool(call.integer("periodic", 1))).to(call.device, dtype)

    return rule


def _hann(size: int, periodic: bool) -> torch.Tensor:
    return torch.hann_window(size, periodic)


def _hamming(size: int, periodic: bool) -> torch.Tensor:
    """With the coefficients of the standard, 25/46 and 21/46."""
    return torch.hamming_window(size, periodic, 25 / 46, 21 / 46)


def _blackman(size: int, periodic: bool) -> torch.Tensor:
    return torch.blackman_window(size, periodic)


def mel_weights(call: Call) -> torch.Tensor:
    """Triangles [bins of a spectrum, mel bins] that make of a spectrum one whose pitches are evenly spaced, in mel."""
    count, length, rate = (int(call.numbers(position)[0]) for position in range(3))
    low, high = (2595 * math.log10(1 + call.numbers(position)[0] / 700) for position in (3, 4))
    pitches = low + torch.arange(count + 2, dtype=torch.float64) * (high - low) / (count + 2)
    corners = ((length + 1) * 700 * (10 ** (pitches / 2595) - 1) / rate).floor()
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    place = torch.arange(length // 2 + 1, dtype=torch.float64)[:, None]
    rising = torch.where(centre > left, (place - left) / (centre - left), (place == centre).double())
    falling = torch.where(right > centre, (right - place) / (right - centre), (place == centre).double())
    found = torch.where(place <= centre, rising, falling).clamp_min(0.0)
    return found.to(call.device, call.data_type("output_datatype", ir.DataType.FLOAT))


HOST_OPERANDS: Operands = {
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "DFT": (1, 2),
    "STFT": (1, 3),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "BlackmanWindow": (0,),
}

RULES: dict[str, Rule] = {
    "DFT": dft,
    "STFT": stft,
    "MelWeightMatrix": mel_weights,
    "HannWindow": _window(_hann),
    "HammingWindow": _window(_hamming),
    "BlackmanWindow": _window(_blackman),
}
