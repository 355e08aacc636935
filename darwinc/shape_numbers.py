"""Numbers that a graph computes from sizes: what each is worth, where it is stored, and what it was made of.

Exporters compute shapes, slice bounds and attention scales in the graph. When channels go, each such number must either
follow the axis that it describes or stay what it was; both need to know where it can be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

    from darwinc.axis_record import Axis

Place = tuple["ir.Node", int, int]
"""Reader, input index and flat element index."""
Value = int | float | bool


@dataclass(frozen=True, eq=False)
class Number:
    """One number of a shape-like value.

    Attributes:
        value: what it is (symbolic sizes count as `shapes` assumes them); None where that is unknown.
        origin: where it can be written down: a stored constant's reader, or a reader of a computed number that can be
            replaced by a stored one.
        axis: the axis whose size this is, when Shape computed it: it follows by itself.
        roots: the axes from whose sizes it was computed.
        varies: does it depend on a symbolic size? Then it can't be stored.
        divisor: the stored number is this many times smaller than the value (a product with a symbolic size).
    """

    value: Value | None
    origin: Place | None = None
    axis: Axis = None
    roots: tuple[Axis, ...] = ()
    varies: bool = False
    divisor: int = 1

    @property
    def storable(self) -> bool:
        """Could it be replaced by a stored number?"""
        return self.value is not None and not self.varies


@dataclass(frozen=True, eq=False)
class Slot:
    """An input that computes numbers which may have to be written down."""

    numbers: tuple[Number, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def array(self) -> npt.NDArray[Any]:
        """What the input holds before anything is removed."""
        return np.array([number.value for number in self.numbers], self.dtype).reshape(self.shape)


def stored_at(numbers: Sequence[Number], node: ir.Node, index: int) -> tuple[Number, ...]:
    """The same numbers, to be written down at an input of `node`."""
    return tuple(replace(number, origin=(node, index, k), divisor=1) for k, number in enumerate(numbers))


def _divide(a: Any, b: Any) -> Any:
    """ONNX: integers are divided towards zero."""
    if np.issubdtype(np.asarray(a).dtype, np.integer) and np.issubdtype(np.asarray(b).dtype, np.integer):
        return np.trunc(np.true_divide(a, b)).astype(np.int64)
    return np.true_divide(a, b)


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Ceil": np.ceil,
    "Div": _divide,
    "Equal": np.equal,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Max": lambda *operands: np.maximum.reduce(np.broadcast_arrays(*operands)),
    "Min": lambda *operands: np.minimum.reduce(np.broadcast_arrays(*operands)),
    "Mod": np.mod,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Where": np.where,
}
"""What is computed with sizes on the way to a shape or a scale."""


def compute(op_type: str, operands: Sequence[Slot]) -> Slot | None:
    """The result of an arithmetic operator on numbers; None where something isn't known.

    Where a symbolic size that no channel changes is multiplied with one number that can be stored, the product can be
    made to follow there.
    """
    if any(number.value is None for operand in operands for number in operand.numbers):
        return None
    with np.errstate(all="ignore"):
        result = np.asarray(ARITHMETIC[op_type](*(operand.array() for operand in operands)))
    if op_type not in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where"):
        result = result.astype(operands[0].dtype)
    elif op_type == "Where":
        result = result.astype(operands[1].dtype)
    places = [
        np.broadcast_to(np.arange(len(operand.numbers)).reshape(operand.shape), result.shape).ravel()
        for operand in operands
    ]
    numbers = tuple(
        _result(op_type, value, [operand.numbers[place[k]] for operand, place in zip(operands, places, strict=True)])
        for k, value in enumerate(result.ravel().tolist())
    )
    return Slot(numbers, result.shape, result.dtype)


def _result(op_type: str, value: Value, parts: Sequence[Number]) -> Number:
    roots = tuple({id(root): root for part in parts for root in (*part.roots, part.axis) if root is not None}.values())
    varies = any(part.varies for part in parts)
    made = Number(value, roots=roots, varies=varies)
    if op_type != "Mul" or len(parts) != 2 or not varies:
        return made
    for part, factor in (parts, parts[::-1]):
        lasting = all(root is None or not root.any() for root in (*factor.roots, factor.axis))
        whole = isinstance(factor.value, int) and factor.value > 0
        if lasting and whole and part.origin is not None and factor.origin is None:
            return replace(made, origin=part.origin, divisor=part.divisor * int(factor.value or 1))
    return made
