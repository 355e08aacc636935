"""ONNX Runtime's fused operators (com.microsoft): additions, normalisations and gates that its optimiser merges."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_flow import UNKNOWN_INPUT, Flow
from darwinc.axis_record import Axis, fixed, fixed_like
from darwinc.axis_rules.elementwise import broadcast
from darwinc.axis_rules.weighted import COMPUTED

NORMALISES = "normalises over this axis"


def skip_normalisation(flow: Flow, node: ir.Node) -> None:
    """SkipLayerNormalization and SkipSimplifiedLayerNormalization: a sum, normalised over its last axis."""
    operands = [flow.tracked(node, index) for index in (0, 1)]
    known = [operand for operand in operands if operand is not None]
    if len(known) < 2:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    axes = broadcast(flow, node, [operand.axes for operand in known])
    flow.block(axes[-1], node, NORMALISES)
    for index in range(2, len(node.inputs)):
        parameter = flow.tracked(node, index)
        if parameter is not None:
            flow.tie(parameter.axes[0], axes[-1], node)
    for output in range(len(node.outputs)):
        flow.put(node, (*axes[:-1], fixed(1)) if output in (1, 2) else axes, output=output)


def embedding_normalisation(flow: Flow, node: ir.Node) -> None:
    """EmbedLayerNormalization: tables [words, H] are added and normalised over H."""
    flow.barrier(node, NORMALISES)
    ids, sizes = flow.axes(node, 0), flow.shape(node.inputs[2])
    if ids is None or sizes is None:
        return
    for output, axes in enumerate(((*ids, *fixed_like(sizes[1:])), ids[:1], (*ids, *fixed_like(sizes[1:])))):
        flow.put(node, fixed_like([None if axis is None else len(axis) for axis in axes]), output=output)


def split_gelu(flow: Flow, node: ir.Node) -> None:
    """BiasSplitGelu: X [N, S, 2*D] plus a bias; the first half gates with the Gelu of the second."""
    data, bias = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or data.axes[-1] is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    whole = data.axes[-1]
    if bias is not None:
        flow.tie(whole, bias.axes[0], node)
    first, second = (np.ascontiguousarray(half) for half in whole.reshape(2, -1))
    flow.tie(first, second, node)
    flow.put(node, (*data.axes[:-1], first))


def bias_softmax(flow: Flow, node: ir.Node) -> None:
    """BiasSoftmax: a sum, normalised over all axes from one on; the bias is broadcast in either of two ways."""
    data, bias = flow.tracked(node, 0), flow.tracked(node, 1)
    if data is None or bias is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    first = graph.integer(node, "axis", 1) % max(len(data.axes), 1)
    flow.block_all(data.axes[first:], node, NORMALISES)
    flow.block_all(bias.axes, node, NORMALISES)
    held = [ids for ids in data.axes[:first] if ids is not None and len(ids) > 1]
    flow.block_all(held, node, "is shared out among the rows of a bias")
    flow.put(node, data.axes)


def distances(flow: Flow, node: ir.Node) -> None:
    """CDist: A [M, K] and B [N, K]; distances lose nothing with positions at which both are zero."""
    left, right = flow.tracked(node, 0), flow.tracked(node, 1)
    if left is None or right is None:
        flow.barrier(node, UNKNOWN_INPUT)
        return
    flow.tie(left.axes[1], right.axes[1], node)
    if not (left.is_silent(1) and right.is_silent(1)):
        flow.block(left.axes[1], node, COMPUTED)
    flow.put(node, (left.axes[0], right.axes[0]))


def packed_matmul(flow: Flow, node: ir.Node) -> None:
    """Products whose weight is packed in blocks along the inputs (MatMulNBits): what is read and made stays whole."""
    data = flow.tracked(node, 0)
    flow.barrier(node, "packs its weight in blocks")
    columns = graph.integer(node, "N", 0)
    if data is not None and columns:
        rows: list[Axis] = [None if ids is None else fixed(len(ids)) for ids in data.axes[:-1]]
        flow.put(node, (*rows, fixed(columns)))
