"""Floats of a byte or less: computed in float32, and rounded to what the type holds where a node makes them.

The formats are those of Micikevicius et al., 2022 (https://arxiv.org/abs/2209.05433), Noune et al., 2022
(https://arxiv.org/abs/2206.02915) for those without a negative zero, and the OCP's microscaling formats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir
import torch


@dataclass(frozen=True)
class Format:
    """What a small float can hold.

    Attributes:
        mantissa: bits after the leading one.
        lowest: the exponent below which numbers are subnormal.
        largest: the largest finite number.
        beyond: what a number turns into that doesn't fit, where it doesn't saturate.
    """

    mantissa: int
    lowest: int
    largest: float
    beyond: float = math.nan


FORMATS: dict[ir.DataType, Format] = {
    ir.DataType.FLOAT8E4M3FN: Format(3, -6, 448.0),
    ir.DataType.FLOAT8E4M3FNUZ: Format(3, -7, 240.0),
    ir.DataType.FLOAT8E5M2: Format(2, -14, 57344.0, math.inf),
    ir.DataType.FLOAT8E5M2FNUZ: Format(2, -15, 57344.0),
    # It has neither NaN, which becomes 0, nor infinity: it always saturates.
    ir.DataType.FLOAT4E2M1: Format(1, 0, 6.0, 6.0),
}


def rounded(x: torch.Tensor, dtype: ir.DataType, saturate: bool = True) -> torch.Tensor:
    """x as this type holds it, half to even; a type that isn't small leaves it as it is.

    The gradient passes straight through the rounding (Bengio et al., 2013, https://arxiv.org/abs/1308.3432) and stops
    where a number doesn't fit.
    """
    if dtype not in FORMATS:
        return x
    form = FORMATS[dtype]
    fitting = x.clamp(-form.largest, form.largest)
    exponent = torch.frexp(x.detach()).exponent - 1
    step = torch.ldexp(torch.ones_like(x), exponent.clamp_min(form.lowest) - form.mantissa)
    found = (x.detach() / step).round() * step
    beyond = form.largest if saturate else form.beyond
    found = torch.where(found.abs() > form.largest, torch.sign(x.detach()) * beyond, found)
    if dtype == ir.DataType.FLOAT4E2M1:
        found = torch.where(x.isnan(), 0.0, found)
        fitting = fitting.nan_to_num(0.0)
    # Adding 0 keeps every bit, and has the gradient of what fits.
    return found + (fitting - fitting.detach())


def power_of_two(x: torch.Tensor, mode: str) -> torch.Tensor:
    """|x| as FLOAT8E8M0 holds it, which has no mantissa: 2^-127 to 2^127, saturated.

    `mode` is "up", "down" or "nearest". There is no gradient: such numbers are scales.
    """
    fraction, exponent = torch.frexp(x.detach().double())
    fraction = fraction.abs()
    more = {"up": fraction > 0.5, "nearest": fraction >= 0.75}.get(mode, torch.zeros_like(x, dtype=torch.bool))
    exponent = torch.where(x == 0, -127, exponent - 1 + more.int()).clamp(-127, 127)
    found = torch.ldexp(torch.ones_like(fraction), exponent).to(x.dtype)
    found = torch.where(x.isinf(), 2.0**127, found)
    return torch.where(x.isnan(), x, found)
