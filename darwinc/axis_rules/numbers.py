"""Shape arithmetic: operators that move or compute a few numbers which came from sizes, element by element.

Exporters compute the shapes of Reshape, the bounds of Slice and the amounts of Pad in the graph. Here such values are
evaluated, each number with where it came from, so that the axis rules can ask for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import MOST_NUMBERS, Flow
from darwinc.axis_record import Tracked, fixed
from darwinc.shape_numbers import ARITHMETIC, Number, Slot, compute

Places = npt.NDArray[np.int64]
"""Which of the input's numbers stands where in the output."""


def passes(flow: Flow, node: ir.Node) -> bool:
    """Does a node do nothing but compute numbers that could be followed? Then its outputs are put."""
    if not node.inputs or not graph.is_standard(node):
        return False
    if node.op_type == "Concat":
        return _joined(flow, node)
    if node.op_type in ARITHMETIC:
        return _computed(flow, node)
    if node.op_type not in MOVES and node.op_type not in (
        "Cast",
        "ConstantOfShape",
        "Identity",
        "ReduceProd",
        "ReduceSum",
    ):
        return False
    data = flow.values.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    data = flow.tracked(node, 0) if data is not None or _is_listed(node.inputs[0]) else None
    if data is None or data.numbers is None or data.dtype is None:
        return False
    if node.op_type in ("Cast", "Identity"):
        dtype = ir.DataType(graph.integer(node, "to", 1)).numpy() if node.op_type == "Cast" else data.dtype
        flow.put(node, data.axes, numbers=_cast(flow, node, data, dtype), dtype=dtype)
        return True
    if node.op_type in ("ReduceProd", "ReduceSum"):
        return _reduced(flow, node, data)
    if node.op_type == "ConstantOfShape":
        return _filled(flow, node)
    move = MOVES.get(node.op_type)
    sizes = [len(ids) for ids in data.axes if ids is not None]
    if move is None or math.prod(sizes) != len(data.numbers):
        return False
    moved = move(flow, node, np.arange(len(data.numbers)).reshape(sizes))
    if moved is None or moved.size > MOST_NUMBERS:
        return False
    _put(flow, node, [data.numbers[place] for place in moved.ravel().tolist()], moved.shape, data.dtype)
    return True


def _cast(flow: Flow, node: ir.Node, data: Tracked, dtype: np.dtype[np.generic]) -> tuple[Number, ...] | None:
    """A size that becomes a float (an attention scale in the making) is frozen here, so that all after it stays."""
    if data.constant or dtype.kind == "i" or not all(number.storable for number in data.numbers or ()):
        return data.numbers
    flow.freeze(node, 0, data)
    return tuple(Number(number.value) for number in data.numbers or ())


def _is_listed(value: ir.Value | None) -> bool:
    """Is it a stored list of integers?"""
    tensor = graph.constant_tensor(value)
    integers = (ir.DataType.INT64, ir.DataType.INT32)
    return tensor is not None and tensor.size <= MOST_NUMBERS and tensor.dtype in integers


def _put(
    flow: Flow, node: ir.Node, numbers: Sequence[Number], shape: Sequence[int], dtype: np.dtype[np.generic]
) -> None:
    flow.put(node, tuple(fixed(size) for size in shape), numbers=tuple(numbers), dtype=dtype)


# Moving --------------------------------------------------------------------------------------------------------------


def _reshape(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    shape = flow.known(node, 1)
    if shape is None:
        return None
    return places.reshape([places.shape[k] if size == 0 else size for k, size in enumerate(shape)])


def _transpose(flow: Flow, node: ir.Node, places: Places) -> Places:
    del flow
    return places.transpose(graph.integers(node, "perm"))


def _squeeze(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    axes = _axes(flow, node)
    if axes is None and len(node.inputs) > 1:
        return None
    return places.squeeze(None if axes is None else tuple(axes))


def _unsqueeze(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    axes = _axes(flow, node)
    return None if axes is None else np.expand_dims(places, tuple(axes))


def _axes(flow: Flow, node: ir.Node) -> list[int] | None:
    given = graph.integers(node, "axes")
    return flow.known(node, 1) if given is None and len(node.inputs) > 1 else given


def _gather(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    indices, found = flow.known(node, 1), flow.axes(node, 1)
    if indices is None or found is None:
        return None
    shape = [len(ids) for ids in found if ids is not None]
    return np.take(places, np.array(indices, np.int64).reshape(shape), axis=graph.integer(node, "axis", 0))


def _slice(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    attributes = flow.opset < 10
    starts, ends, along, steps = (
        graph.integers(node, name) if attributes else flow.known(node, index)
        for index, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    )
    if starts is None or ends is None:
        return None
    cut = [slice(None)] * places.ndim
    for k, axis in enumerate(along if along is not None else range(len(starts))):
        cut[axis] = slice(starts[k], _end(ends[k], steps[k] if steps else 1), steps[k] if steps else 1)
    return places[tuple(cut)]


def _end(end: int, step: int) -> int | None:
    """Counting down, an end before the start of the axis means all of it."""
    return None if step < 0 and end < -MOST_NUMBERS else end


def _expand(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    shape = flow.known(node, 1)
    if shape is None or math.prod(shape) > MOST_NUMBERS:
        return None
    return places * np.ones(shape, np.int64)


def _tile(flow: Flow, node: ir.Node, places: Places) -> Places | None:
    repeats = flow.known(node, 1)
    if repeats is None or math.prod(repeats) > MOST_NUMBERS:
        return None
    return np.tile(places, repeats)


MOVES: dict[str, Callable[[Flow, ir.Node, Places], Places | None]] = {
    "Expand": _expand,
    "Flatten": lambda _flow, node, places: places.reshape(
        math.prod(places.shape[: graph.integer(node, "axis", 1)]), -1
    ),
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _filled(flow: Flow, node: ir.Node) -> bool:
    """The same whole number several times."""
    value = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.as_tensor().numpy()
    shape = flow.known(node, 0) if fill.dtype.kind == "i" else None
    if shape is None or math.prod(shape) > MOST_NUMBERS or len(shape) > 1:
        return False
    _put(flow, node, [Number(int(fill.ravel()[0]))] * math.prod(shape), shape, fill.dtype)
    return True


def _joined(flow: Flow, node: ir.Node) -> bool:
    """Numbers that follow each other; what isn't known of one part leaves gaps, not silence about the others."""
    parts = [flow.tracked(node, index) for index in range(len(node.inputs))]
    if all(part is None or part.numbers is None or part.dtype is None for part in parts):
        return False
    if any(part is None or any(ids is None for ids in part.axes) for part in parts):
        return False
    known = [part for part in parts if part is not None]
    if all(part.constant and part.dtype is not None and part.dtype.kind == "f" for part in known):
        return False
    joined: list[Number] = []
    places: list[Places] = []
    for index, part in enumerate(known):
        shape = [len(ids) for ids in part.axes if ids is not None]
        numbers = flow.writable(node, index, part)
        if numbers is None and math.prod(shape) > MOST_NUMBERS:
            return False
        places.append(len(joined) + np.arange(math.prod(shape)).reshape(shape))
        joined.extend(numbers if numbers is not None else [Number(None)] * math.prod(shape))
    moved = np.concatenate(places, axis=graph.integer(node, "axis", 0))
    dtype = next(part.dtype for part in known if part.dtype is not None)
    _put(flow, node, [joined[place] for place in moved.ravel().tolist()], moved.shape, dtype)
    return moved.size <= MOST_NUMBERS


# Computing -----------------------------------------------------------------------------------------------------------


def _computed(flow: Flow, node: ir.Node) -> bool:
    places = [index for index, value in enumerate(node.inputs) if value is not None]
    operands = [flow.tracked(node, index) for index in places]
    known = [operand for operand in operands if operand is not None and operand.dtype is not None]
    if len(known) < len(operands) or any(operand.numbers is None for operand in known):
        return False
    if all(operand.constant and operand.dtype is not None and operand.dtype.kind == "f" for operand in known):
        return False
    slots = [_slot(flow, node, index, operand) for index, operand in zip(places, known, strict=True)]
    result = compute(node.op_type, [slot for slot in slots if slot is not None]) if None not in slots else None
    if result is None or len(result.numbers) > MOST_NUMBERS:
        return False
    _put(flow, node, result.numbers, result.shape, result.dtype)
    return True


def _slot(flow: Flow, node: ir.Node, index: int, operand: Tracked) -> Slot | None:
    numbers = flow.writable(node, index, operand)
    if numbers is None or operand.dtype is None or any(number.value is None for number in numbers):
        return None
    return Slot(numbers, tuple(len(ids) for ids in operand.axes if ids is not None), operand.dtype)


def _reduced(flow: Flow, node: ir.Node, data: Tracked) -> bool:
    """All numbers to one: how many elements a shape has, say."""
    numbers = data.numbers or ()
    values = [int(number.value) for number in numbers if number.value is not None]
    if len(data.axes) != 1 or data.dtype is None or data.dtype.kind == "f" or len(values) < len(numbers):
        return False
    roots = tuple(root for number in numbers for root in (*number.roots, number.axis) if root is not None)
    total = math.prod(values) if node.op_type == "ReduceProd" else sum(values)
    made = Number(total, roots=roots, varies=any(number.varies for number in numbers))
    _put(flow, node, [made], (1,) if graph.integer(node, "keepdims", 1) else (), data.dtype)
    return True
