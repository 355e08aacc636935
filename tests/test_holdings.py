"""What barriers hold: against counting every parameter one by one, and against closed forms."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwinc import graph
from darwinc.axis_record import Ids
from darwinc.channels import Channels, analyse
from darwinc.cost import CostModel, is_quantised_weight
from darwinc.holdings import SINGLE, SPARED, Held, Holdings, Key, Kind, holdings, units_of
from darwinc.plain_words import AT_INPUT, PlainWords
from tests.random_graphs import random_models
from tests.surgery import parse
from tests.test_random_graphs import PROFILE

RESIDUAL = """(float[N,5,8] x, float[8,8] e, float[8,16] w, float[16] b, float[16,8] v, float[8,16] w2, float[16,8] v2)
    => (float[N,5,8] y) {
    x0 = MatMul(x, e)
    n = Softmax(x0)
    h = MatMul(n, w)
    a = Add(h, b)
    r = Relu(a)
    g = MatMul(r, v)
    z = Add(x0, g)
    n2 = Softmax(z)
    h2 = MatMul(n2, w2)
    r2 = Relu(h2)
    g2 = MatMul(r2, v2)
    y = Add(z, g2)
}"""
"""Two layers on one stream that both normalise: every position of it is kept by both, and by the output."""

BRANCHES = """(float[N,3,6,6] x, float[4,3,1,1] a, float[4,3,1,1] b, float[4,3,1,1] c, float[6,12,1,1] d,
    float[6] k) => (float[N,4,6,6] y, float[N,6,6,6] z, float[N,1,6,6] m) {
    p = Conv(x, a)
    q = Conv(x, b)
    r = Conv(x, c)
    j = Concat<axis: int = 1>(p, q, r)
    z = Conv(j, d, k)
    l = Concat<axis: int = 1>(q, z)
    m = ReduceMax<axes: ints = [1], keepdims: int = 1>(l)
    y = Relu(p)
}"""
"""One weight reads branches that different barriers keep; one of those keeps rows and columns of it."""

SHARED = """(float[N,3,6,6] x, float[3,3,2,2] w, float[3,2,2] k) => (float[N,3,5,5] y, float z, float[3,2,2] o) {
    y = Conv(x, w)
    z = custom.Unheard(w)
    o = Sqrt(k)
}"""
"""An operator without a rule reads a filter that a convolution reads too: kernel axes stay what they are by nature."""

QUANTISED = """(float[N,2,8,8] x, float[2,2,1,1] w, float s, uint8 z, int8[2,2,1,1] q, int8 zero,
    int8[3,2,1,1] v, int8[3] zeros, float[3] scales) => (float[N,3,8,8] y) {
    a = Conv(x, w)
    b = QuantizeLinear(a, s, z)
    c = QLinearConv(b, s, z, q, s, zero, s, z)
    d = DequantizeLinear(c, s, z)
    k = DequantizeLinear<axis: int = 0>(v, scales, zeros)
    y = Conv(d, k)
}"""
"""Integers are parameters where DequantizeLinear dequantises them and wherever an operator on integers reads them."""


def network(text: str) -> ir.Model:
    return ir.from_proto(parse(text))


def count(channels: Channels, eligible: list[bool]) -> Holdings:
    return holdings(channels, eligible, PlainWords(channels))


def one_by_one(channels: Channels, eligible: list[bool]) -> tuple[int, int, Counter[Key], Counter[Key], Counter[Kind]]:
    """Held, held by nobody, per barrier, alone per barrier, and per kind: by looking at every element."""
    root = list(range(channels.flow.count))

    def find(number: int) -> int:
        while root[number] != number:
            number = root[number]
        return number

    for first, second in channels.flow.ties:
        for one, two in zip(first.tolist(), second.tolist(), strict=True):
            root[max(find(one), find(two))] = min(find(one), find(two))
    keepers: dict[int, set[Key]] = {number: set() for number in range(channels.flow.count)}
    for barrier in channels.flow.barriers:
        for number in barrier.ids.tolist():
            keepers[find(number)].add((barrier.node, barrier.reason))
    gone, words = units_of(channels, eligible), PlainWords(channels)
    everything = units_of(channels, [True] * len(channels.groups))
    for number, component in enumerate(channels.component.tolist()):
        position = np.asarray([number])
        if component and channels.living(position, everything).all():
            keepers[find(number)].add((None, SINGLE))
        elif component and channels.living(position, gone).all():
            keepers[find(number)].add((None, SPARED))
    keepers[0] = set()
    held, nature, seen = 0, 0, set[ir.Value]()
    each: Counter[Key] = Counter()
    alone: Counter[Key] = Counter()
    kinds: Counter[Kind] = Counter()
    stored: list[tuple[Ids, ...]] = [fill.axes for fill in channels.flow.fills]
    for use in channels.flow.uses:
        source, tensor = graph.constant_source(use.value), graph.constant_tensor(use.value)
        if source is None or tensor is None or source in seen:
            continue
        if tensor.dtype.is_floating_point() or is_quantised_weight(source):
            seen.add(source)
            stored.append(use.axes)
    for axes in stored:
        for element in itertools.product(*(ids.tolist() for ids in axes)):
            if not channels.living(np.asarray(element, np.int64), gone).all():
                continue
            sets = [keepers[find(number)] for number in element]
            owners = set().union(*sets)
            held, nature = held + 1, nature + (not owners)
            each.update(owners)
            alone.update({key for keys in sets for key in keys if len(keys) == 1})
            kinds.update({("" if node is None else node.op_type, words.why(node, reason)) for node, reason in owners})
    return held, nature, each, alone, kinds


def agree(channels: Channels, eligible: list[bool]) -> None:
    found = count(channels, eligible)
    held, nature, each, alone, kinds = one_by_one(channels, eligible)
    assert (found.parameters, found.by_nature) == (held, nature)
    assert found.parameters == CostModel(channels).parameters(units_of(channels, eligible))
    assert {key: row.parameters for key, row in found.by_barrier.items() if row.parameters} == dict(each)
    assert {key: row.alone for key, row in found.by_barrier.items() if row.alone} == dict(alone)
    assert {kind: row.parameters for kind, row in found.by_kind.items() if row.parameters} == dict(kinds)


@pytest.mark.parametrize(
    "text", [RESIDUAL, BRANCHES, SHARED, QUANTISED], ids=["residual", "branches", "shared", "quantised"]
)
def test_products_of_counts_are_counts_of_products(text: str) -> None:
    channels = analyse(network(text))
    everything = [True] * len(channels.groups)
    agree(channels, everything)
    for index in range(len(channels.groups)):
        agree(channels, [number != index for number in range(len(channels.groups))])


@PROFILE
@given(random_models(), st.integers(0, 2**31))
def test_random_graphs_are_counted_right(proto: onnx.ModelProto, seed: int) -> None:
    channels = analyse(ir.from_proto(proto))
    agree(channels, (np.random.default_rng(seed).random(len(channels.groups)) < 0.7).tolist())


def test_one_stream_is_held_by_every_layer_and_counted_once() -> None:
    channels = analyse(network(RESIDUAL))
    found = count(channels, [True] * len(channels.groups))
    # The hidden units of both layers can go, and with them everything but e.
    assert found.parameters == 64
    assert found.by_kind["Softmax", "normalises over this axis"] == Held(64, 0)
    layers = [row for (node, _), row in found.by_barrier.items() if node and node.op_type == "Softmax"]
    assert layers == [Held(64, 0)] * 2
    # Its input is all that keeps the rows of the first matrix.
    assert found.by_kind["MatMul", AT_INPUT] == Held(64, 64)


def test_groups_that_may_not_lose_any_hold_what_they_are() -> None:
    channels = analyse(network(RESIDUAL))
    free, kept = count(channels, [True, True]), count(channels, [False, True])
    layer = 8 * 16 + 16 + 16 * 8
    assert kept.parameters - free.parameters == layer
    assert kept.by_kind["", SPARED] == Held(layer, layer)
    assert free.by_kind["", SPARED] == Held(0, 0)
    # The matrices of the layer also lie on the stream.
    assert kept.by_kind["Softmax", "normalises over this axis"].parameters == 8 * 8 + 2 * 8 * 16
