"""Numbers that a graph computes from sizes: their values, and where they can be written down."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from darwinc.shape_numbers import Number, Slot, compute

NODE = ir.Node("", "Mul", [])
INT = np.dtype(np.int64)
CHANNELS = np.arange(1, 7)
BATCH = np.zeros(1, np.int64)


def slot(*numbers: Number, shape: tuple[int, ...] = ()) -> Slot:
    return Slot(numbers, shape, INT)


@pytest.mark.parametrize(
    ("op_type", "values", "wanted"),
    [
        ("Add", (5, 2), 7),
        ("Div", (-7, 2), -3),
        ("Div", (7, 2), 3),
        ("Mod", (7, 4), 3),
        ("Max", (3, 9), 9),
        ("Sub", (3, 9), -6),
    ],
)
def test_arithmetic_is_that_of_the_operator(op_type: str, values: tuple[int, ...], wanted: int) -> None:
    result = compute(op_type, [slot(Number(value)) for value in values])
    assert result is not None
    assert [number.value for number in result.numbers] == [wanted]


def test_a_result_remembers_the_axes_that_it_was_made_of() -> None:
    result = compute("Mul", [slot(Number(6, axis=CHANNELS)), slot(Number(2, (NODE, 1, 0)))])
    assert result is not None
    (number,) = result.numbers
    assert (number.value, number.varies, number.origin) == (12, False, None)
    assert number.roots == (CHANNELS,)


def test_a_product_with_a_symbolic_size_follows_at_its_stored_factor() -> None:
    batch = Number(4, axis=BATCH, varies=True)
    result = compute("Mul", [slot(batch), slot(Number(3, (NODE, 1, 0)))])
    assert result is not None
    assert (result.numbers[0].origin, result.numbers[0].divisor) == ((NODE, 1, 0), 4)


def test_a_product_with_a_size_that_may_shrink_does_not() -> None:
    """Both factors would change the product."""
    size = Number(6, axis=CHANNELS, varies=True)
    result = compute("Mul", [slot(size), slot(Number(3, (NODE, 1, 0)))])
    assert result is not None
    assert result.numbers[0].origin is None


def test_what_is_not_known_has_no_result() -> None:
    assert compute("Add", [slot(Number(None)), slot(Number(1))]) is None


def test_operands_are_broadcast() -> None:
    result = compute("Mul", [Slot((Number(2), Number(3)), (2,), INT), slot(Number(5))])
    assert result is not None
    assert result.shape == (2,)
    assert [number.value for number in result.numbers] == [10, 15]
