"""Does this graph answer like that one? The proof behind every run, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import is_fixed
from darwinc.channels import Channels, Mask
from darwinc.cost import FLOATS
from darwinc.runtime import Feed, open_session, run

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-3
"""Relative to the largest absolute value of the output."""

BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf"})
"""Their natural scale is 1: ONNX Runtime computes them to about 1e-7 of it, however small the answer is."""
BOUNDED_SCALE = 1e-2
CHOICES = frozenset({
    "ArgMax", "ArgMin", "Hardmax", "NonMaxSuppression", "NonZero", "RoiAlign", "TopK", "Unique",
})  # fmt: skip
"""Near-ties may fall the other way for a last bit, and then answers differ in order and number. (RoiAlign samples
where such a choice says.)"""
MOST_PROBES = 16


@dataclass(frozen=True)
class Agreement:
    """The largest differences over all inputs and outputs; `max_rel_error` is relative to each output's scale.

    `near_ties` counts tensors that differ only behind a choice (`CHOICES`), which are left out of the errors.
    """

    inputs: int
    max_abs_error: float
    max_rel_error: float
    passed: bool
    near_ties: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The report's `verify` entries."""
        return asdict(self)


def tolerance_of(model: ir.Model) -> float:
    """1e-4, or 5e-3 where the model computes in half precision."""
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return HALF_TOLERANCE if any(tensor.dtype in halves for tensor in graph.constants(model).values()) else TOLERANCE


def agree(
    wanted: Sequence[Sequence[Array]],
    got: Sequence[Sequence[Array]],
    bounded: Sequence[bool],
    tolerance: float,
    chosen: Sequence[bool] = (),
) -> Agreement:
    """Compare answers: one list of outputs per input, in the same order.

    Outputs that are `chosen` depend on near-ties: they may differ as long as something else was compared, and agrees.
    """
    worst_absolute = worst_relative = 0.0
    near_ties = compared = 0
    for first, second in zip(wanted, got, strict=True):
        loose = chosen or [False] * len(first)
        for one, two, is_bounded, is_chosen in zip(first, second, bounded, loose, strict=True):
            absolute, relative = difference(one, two, BOUNDED_SCALE if is_bounded else 0.0)
            if is_chosen and relative > tolerance:
                near_ties += 1
                continue
            compared += 1
            worst_absolute, worst_relative = max(worst_absolute, absolute), max(worst_relative, relative)
    passed = worst_relative <= tolerance and (compared > 0 or not near_ties)
    return Agreement(len(wanted), worst_absolute, worst_relative, passed, near_ties)


def difference(one: Array, two: Array, least_scale: float = 0.0) -> tuple[float, float]:
    """Largest absolute difference, and the same over the scale of `one`; of whole numbers, the share that differs."""
    if one.shape != two.shape:
        return float("inf"), float("inf")
    if not one.size:
        return 0.0, 0.0
    if not np.issubdtype(one.dtype, np.floating):
        share = float(np.mean(one != two))
        return share, share
    a, b = one.astype(np.float64), two.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf"), float("inf")
    absolute = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = max(float(np.abs(a[finite]).max(initial=0.0)), least_scale, 1e-30)
    return absolute, absolute / scale


def answers(model: ir.Model, feeds: Iterable[Feed], outputs: Sequence[str] | None = None) -> list[list[Array]]:
    """What ONNX Runtime answers to each feed, with only basic graph optimisation."""
    session = open_session(model, optimization="basic")
    names = [str(value.name) for value in model.graph.outputs] if outputs is None else list(outputs)
    return [[found[name] for name in names] for found in (run(session, feed) for feed in feeds)]


def prove_rewrite(
    zeroed: ir.Model, rewritten: ir.Model, channels: Channels, dead: Mask, feeds: Sequence[Feed]
) -> Agreement:
    """The rewritten graph against the original with the removed channels zeroed.

    Besides the outputs, some values on the way that lost nothing are compared, because saturation or an arg max hides
    differences.
    """
    probes = _probes(rewritten, channels, dead)
    wanted = answers(_exposed(zeroed, probes), feeds)
    got = answers(_exposed(rewritten, probes), feeds)
    bounded = is_bounded(zeroed) + [False] * len(probes)
    chosen = is_chosen(zeroed) + [False] * len(probes)
    return agree(wanted, got, bounded, tolerance_of(zeroed), chosen)


def is_bounded(model: ir.Model) -> list[bool]:
    """Which outputs come from an operator of natural scale 1."""
    producers = [value.producer() for value in model.graph.outputs]
    return [producer is not None and producer.op_type in BOUNDED for producer in producers]


def is_chosen(model: ir.Model) -> list[bool]:
    """Which outputs depend on a choice between near-ties."""
    behind = _behind_choices(model)
    return [str(value.name) in behind for value in model.graph.outputs]


def _behind_choices(model: ir.Model) -> set[str]:
    behind: set[str] = set()
    for node in model.graph:
        if node.op_type in CHOICES or any(value is not None and value.name in behind for value in node.inputs):
            behind.update(str(value.name) for value in node.outputs)
    return behind


def _probes(model: ir.Model, channels: Channels, dead: Mask) -> list[tuple[str, ir.DataType]]:
    """A few outputs of readers, spread over the graph, whose channels all live."""
    outputs = {str(value.name) for value in model.graph.outputs} | _behind_choices(model)
    found: list[tuple[str, ir.DataType]] = []
    for reader in channels.flow.readers:
        name = str(reader.node.outputs[0].name)
        tensor = graph.constant_tensor(reader.node.inputs[reader.weight])
        whole = all(
            ids is None or is_fixed(ids) or channels.living(ids, dead).all() for ids in channels.flow.values[name].axes
        )
        if whole and name not in outputs and tensor is not None and tensor.dtype in FLOATS:
            found.append((name, tensor.dtype))
    return found[:: max(1, len(found) // MOST_PROBES)][:MOST_PROBES]


def _exposed(model: ir.Model, probes: Sequence[tuple[str, ir.DataType]]) -> ir.Model:
    copy = model.clone()
    values: Mapping[str, ir.Value] = {str(value.name): value for node in copy.graph for value in node.outputs}
    for name, dtype in probes:
        value = values[name]
        value.type = ir.TensorType(dtype)
        copy.graph.outputs.append(value)
    return copy
