"""LSTM, GRU and RNN on sequences [N, T, D], with what exporters put around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.random_graphs import verbs
from tests.random_graphs.builder import BATCH, Builder
from tests.random_graphs.sequences import batch_and

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Layer:
    """An operator and its sizes; its outputs are Y [T, directions, N, hidden] and Y_h [directions, N, hidden]."""

    op_type: str
    hidden: int
    directions: int


def recur(b: Builder, x: str) -> str:
    """One or two layers; all steps or the last state."""
    turned = verbs.transpose(b, x, [1, 0, 2])
    for _ in range(b.number(0, 1)):
        turned = _joined(b, _run(b, turned, _some_layer(b))[0])
    steps, last = _run(b, turned, _some_layer(b))
    if b.coin():
        return verbs.transpose(b, _joined(b, steps), [1, 0, 2])
    return _last(b, steps, last)


def _some_layer(b: Builder) -> Layer:
    return Layer(b.choose(tuple(GATES)), b.number(2, 5), b.number(1, 2))


def _run(b: Builder, x: str, layer: Layer) -> tuple[str, str]:
    """The operator, with optional inputs or without; `x` [T, N, D]."""
    t, n, depth = b.shapes[x]
    gates, hidden, directions = GATES[layer.op_type], layer.hidden, layer.directions
    inputs = [
        x,
        b.weight((directions, gates * hidden, depth), depth),
        b.weight((directions, gates * hidden, hidden), hidden),
        b.weight((directions, 2 * gates * hidden), 1) if b.coin() else "",
    ]
    if b.coin():
        inputs += ["", _state(b, x, layer)]
        if layer.op_type == "LSTM":
            inputs += [_state(b, x, layer)] if b.coin() else []
    if layer.op_type == "LSTM" and b.rarely():
        inputs += [""] * (7 - len(inputs)) + [b.weight((directions, 3 * hidden), 1)]
    shapes = [(t, directions, n, hidden), (directions, n, hidden)]
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": _direction(b, directions)}
    if layer.op_type == "GRU":
        attributes["linear_before_reset"] = b.number(0, 1)
    if layer.op_type == "RNN" and b.coin():
        attributes["activations"] = [b.choose(("Relu", "Tanh", "Sigmoid")) for _ in range(directions)]
    if layer.op_type == "LSTM" and b.coin():
        shapes.append((directions, n, hidden))
    steps, last, *_ = b.add_many(layer.op_type, inputs, shapes, **attributes)
    return steps, last


def _direction(b: Builder, directions: int) -> str:
    return "bidirectional" if directions == 2 else b.choose(("forward", "reverse"))


def _state(b: Builder, x: str, layer: Layer) -> str:
    """An initial state [directions, N, hidden]: stored, or expanded to the batch; zeros or not."""
    shape = (layer.directions, BATCH, layer.hidden)
    if b.shapes[x][1] == BATCH and not b.symbolic and b.coin():
        return b.constant((b.random.standard_normal(shape) * b.number(0, 1)).astype(np.float32))
    learnt = b.weight((layer.directions, 1, layer.hidden), 1)
    first = verbs.transpose(b, x, [1, 0, 2])
    wanted = batch_and(b, first, (layer.directions, layer.hidden))
    return verbs.transpose(
        b, b.add("Expand", [verbs.transpose(b, learnt, [1, 0, 2]), wanted], (shape[1], shape[0], shape[2])), [1, 0, 2]
    )


def _joined(b: Builder, steps: str) -> str:
    """Y with both directions in one axis: [T, N, directions * hidden]."""
    t, directions, n, hidden = b.shapes[steps]
    if directions == 1 and b.coin():
        return verbs.squeeze(b, steps, [1])
    turned = verbs.transpose(b, steps, [0, 2, 1, 3])
    return verbs.reshape(b, turned, (t, n, directions * hidden), batch=1)


def _last(b: Builder, steps: str, last: str) -> str:
    """A sequence of one token: the last states, or the last step of Y."""
    directions, n, hidden = b.shapes[last]
    if b.coin():
        joined = verbs.gather(b, _joined(b, steps), 0, b.shapes[steps][0] - 1)
        return verbs.unsqueeze(b, joined, [1])
    if directions == 2 and b.coin():
        rows = verbs.concat(b, [verbs.gather(b, last, 0, place) for place in (0, 1)], 1)
        return verbs.unsqueeze(b, rows, [1])
    turned = verbs.transpose(b, last, [1, 0, 2])
    return verbs.reshape(b, turned, (n, 1, directions * hidden))
