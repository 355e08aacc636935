"""LSTM, GRU and RNN: a hidden unit is one row of every gate, in every direction, and one column of the recurrence."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, Follower, Ids, Tracked
from darwinc.axis_rules.weighted import Operand, meet

INPUTS, WEIGHT, RECURRENCE, BIAS, LENGTHS, HIDDEN, CELL, PEEPHOLES = range(8)

KEEP_ZERO = frozenset({"affine", "elu", "leakyrelu", "relu", "scaledtanh", "softsign", "tanh", "thresholdedrelu"})
"""Activations that leave zero zero; Affine only without a shift."""

STATES = {"LSTM": (1, 2), "GRU": (1,), "RNN": (0,)}
"""Which activations of a direction must leave zero zero, for a unit without weights to stay at zero."""


def recurrent(flow: Flow, node: ir.Node) -> None:
    """X [T, B, I], W [D, g*H, I], R [D, g*H, H], B [D, 2*g*H], P [D, 3*H]; states [D, B, H], Y [T, D, B, H].

    With layout=1 the batch comes first: X [B, T, I], states [B, D, H], Y [B, T, D, H].
    """
    data, weight, recurrence = (flow.tracked(node, index) for index in (INPUTS, WEIGHT, RECURRENCE))
    if data is None or weight is None or recurrence is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    hidden = recurrence.axes[2]
    if hidden is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    batch_first = graph.integer(node, "layout", 0)
    flow.block(data.axes[1 if batch_first else 0], node, "is the order in time")
    units = flow.fresh(len(hidden))
    silent = _tie_units(flow, node, units)
    batch = data.axes[0 if batch_first else 1]
    states = [_tie_state(flow, node, index, units, batch, batch_first) for index in (HIDDEN, CELL)]
    if "hidden_size" in node.attributes:
        flow.followers.append(Follower(node, "hidden_size", None, units))
    _meet(flow, node, data, weight)
    if not recurrence.is_silent(2):
        flow.block(units, node, "feeds back through a computed weight")
    silent = silent and all(states) and _stays_at_zero(node)
    _put(flow, node, (data.axes[1 if batch_first else 0], weight.axes[0], batch, units), batch_first, silent)
    steps = flow.extent(data.axes[:2])
    flow.multiply(node, weight.axes, steps)
    flow.multiply(node, recurrence.axes, steps)


def _tie_units(flow: Flow, node: ir.Node, units: Ids) -> bool:
    """Tie the units to all gates of every parameter; is a removed unit without weights then?"""
    silent = True
    for index, axis in ((WEIGHT, 1), (RECURRENCE, 1), (RECURRENCE, 2), (BIAS, 1), (PEEPHOLES, 1)):
        tracked = flow.tracked(node, index)
        if tracked is None:
            continue
        ids = tracked.axes[axis]
        if ids is None:
            raise ValueError("a parameter of unknown size")
        flow.pin(tracked.axes[:1])
        for gate in ids.reshape(-1, len(units)):
            flow.tie(units, np.ascontiguousarray(gate), node)
        silent = silent and tracked.is_silent(axis)
    return silent


def _tie_state(flow: Flow, node: ir.Node, index: int, units: Ids, batch: Axis, batch_first: int) -> bool:
    """Tie an initial state, which may be absent; does a removed unit start at zero?"""
    state = flow.tracked(node, index)
    if state is None:
        return True
    flow.tie(units, state.axes[2], node)
    flow.pin([state.axes[1 if batch_first else 0]])
    flow.tie(batch, state.axes[0 if batch_first else 1], node)
    return state.is_silent(2)


def _meet(flow: Flow, node: ir.Node, data: Tracked, weight: Tracked) -> None:
    """The inputs meet the weights of all gates; who counts on the output by name needs one that has a name."""
    if node.outputs[0].name:
        meet(flow, node, Operand(INPUTS, data, 2), Operand(WEIGHT, weight, 2))
        return
    flow.tie(data.axes[2], weight.axes[2], node)
    if not (data.is_silent(2) or weight.is_silent(2)):
        flow.block(data.axes[2], node, "feeds a computed weight")


def _stays_at_zero(node: ir.Node) -> bool:
    """Do the activations leave a unit without weights at zero?"""
    attribute = node.attributes.get("activations")
    if attribute is None:
        return True
    names = [name.lower() for name in attribute.as_strings()]
    per_direction = {"LSTM": 3, "GRU": 2, "RNN": 1}[node.op_type]
    if "affine" in names and "activation_beta" in node.attributes:
        return False
    return all(name in KEEP_ZERO for place, name in enumerate(names) if place % per_direction in STATES[node.op_type])


def _put(flow: Flow, node: ir.Node, axes: tuple[Axis, ...], batch_first: int, silent: bool) -> None:
    time, directions, batch, units = axes
    one_step = (batch, directions, units) if batch_first else (directions, batch, units)
    whole = (batch, time, directions, units) if batch_first else (time, directions, batch, units)
    for output, value in enumerate(node.outputs):
        if value.name:
            made = whole if output == 0 else one_step
            flow.put(node, made, output=output, silent=(False,) * (len(made) - 1) + (silent,))
