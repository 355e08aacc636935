"""Counts against closed forms, and against real rewrites."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from darwinc.channels import Channels, Mask, analyse
from darwinc.cost import CostModel, count_parameters, measure
from darwinc.passes.excise import excise
from tests.surgery import parse

NETWORK = """(float[N,3,16,16] x, float[16,3,3,3] w, float[16] b, float[16] s, float[16] t, float[16] m, float[16] var,
    float[16,1,3,3] d, float[24,16,1,1] p, float[24,8,3,3] g, float[10,600] f, float[10] c) => (float[N,10] y) {
    a = Conv<pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]>(x, w, b)
    n = BatchNormalization(a, s, t, m, var)
    e = Conv<group: int = 16>(n, d)
    h = Conv(e, p)
    r = Relu(h)
    k = Conv<group: int = 3, pads: ints = [0, 0, 0, 0], strides: ints = [1, 1]>(r, g)
    q = AveragePool<kernel_shape: ints = [1, 1]>(r)
    z = GlobalAveragePool(k)
    u = Add(q, z)
    o = Slice(u, start, end, axis)
    v = Flatten(o)
    y = Gemm<transB: int = 1>(v, f, c)
}"""


def network() -> ir.Model:
    """16x16 -> 8x8 -> 6x6 -> 5x5 of 24 channels -> 10."""
    proto = parse(NETWORK)
    for name, numbers in (("start", [0, 0]), ("end", [5, 5]), ("axis", [2, 3])):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(numbers), name))
    return ir.from_proto(proto)


def half_dead(channels: Channels, share: float = 0.5, seed: int = 0) -> Mask:
    random, dead = np.random.default_rng(seed), channels.nobody()
    for group in channels.groups:
        dead[random.permutation(group.units)[: int(share * len(group))]] = True
    return dead


def test_a_network_by_hand() -> None:
    cost = measure(network())
    weights = {"w": 16 * 3 * 9, "d": 16 * 9, "p": 24 * 16, "g": 24 * 8 * 9, "f": 10 * 600}
    assert cost.parameters == sum(weights.values()) + 16 + 4 * 16 + 10
    assert cost.synapses == sum(weights.values())
    assert cost.kernels == 16 * 3 + 16 + 24 * 16 + 24 * 8
    assert cost.bytes == 4 * cost.parameters + 3 * 2 * 8
    macs = {"w": 8 * 8 * weights["w"], "d": 6 * 6 * weights["d"], "p": 6 * 6 * weights["p"], "g": 4 * 4 * weights["g"]}
    assert cost.macs == sum(macs.values()) + weights["f"]
    assert set(cost.as_dict()) == {"parameters", "macs", "bytes", "channels", "kernels", "synapses"}


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ("(float[N,3] x, float[3,4] w) => (float[N,4] y) { y = MatMul(x, w) }", 12),
        ("(float[5,3] x, float[3,4] w) => (float[5,4] y) { y = Gemm(x, w) }", 60),
        ("(float[2,7,3] x, float[3,4] w) => (float[2,7,4] y) { y = MatMul(x, w) }", 2 * 7 * 12),
        ("(float[2,3,7] x, float[4,3] w) => (float[2,4,7] y) { y = MatMul(w, x) }", 2 * 7 * 12),
        ("(float[2,7,3] x, float[2,3,5] xx) => (float[2,7,5] y) { y = MatMul(x, xx) }", 2 * 7 * 3 * 5),
        ("(float[3] x, float[3,4] w) => (float[4] y) { y = MatMul(x, w) }", 12),
        ("(float[N,4,5,5] x, float[4,6,2,2] w) => (float[N,6,6,6] y) { y = ConvTranspose(x, w) }", 25 * 4 * 6 * 4),
        ("(float[N,3,H,W] x, float[4,3,1,1] w) => (float[N,4,H,W] y) { y = Conv(x, w) }", 224 * 224 * 12),
        ("(float[N,4,8] x, float[4,2,3] w) => (float[N,4,6] y) { y = Conv<group: int = 2>(x, w) }", 6 * 4 * 2 * 3),
    ],
)
def test_macs_of_one_operator(text: str, macs: int) -> None:
    assert measure(ir.from_proto(parse(text))).macs == macs


def test_zeros_are_no_synapses_and_an_empty_plane_no_kernel() -> None:
    proto = parse("(float[N,3,8,8] x, float[4,3,2,2] w) => (float[N,4,7,7] y) { y = Conv(x, w) }")
    array = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    array[0, 1], array[2, 2, 0, 0] = 0, 0
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    cost = measure(ir.from_proto(proto))
    assert (cost.parameters, cost.synapses, cost.kernels) == (48, 48 - 4 - 1, 12 - 1)


def test_a_constant_that_two_readers_share_counts_once() -> None:
    text = """(float[N,4,8,8] x, float[4,4,1,1] w) => (float[N,4,8,8] y) {
        i = Identity(w)
        a = Conv(x, w)
        y = Conv(a, i)
    }"""
    cost = measure(ir.from_proto(parse(text)))
    assert (cost.parameters, cost.synapses, cost.kernels) == (16, 16, 16)
    assert cost.macs == 2 * 64 * 16


def test_integers_count_where_they_are_weights() -> None:
    table = numpy_helper.from_array(np.ones((4, 3), np.int8), "q")
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
            helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
            helper.make_node("Reshape", ["h", "shape"], ["y"]),
        ],
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
        [
            table,
            numpy_helper.from_array(np.asarray(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.asarray([-1]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert count_parameters(ir.from_proto(model)) == 12 + 1


def test_fills_and_constant_nodes_count_integers_do_not() -> None:
    text = """(float[2,3,4,4] x) => (float[2,4,4,4] y)
        <int64[4] s = {6, 3, 1, 1}, int64[4] t = {4, 6, 1, 1}, int64[1] one = {1}> {
        w = ConstantOfShape<value: tensor = float[1] {0.5}>(s)
        v = ConstantOfShape(t)
        b = Constant<value_floats: floats = [0.1, 0.2, 0.3, 0.4]>()
        a = Conv(x, w)
        i = ConstantOfShape<value: tensor = int64[1] {1}>(one)
        y = Conv(a, v, b)
    }"""
    model = ir.from_proto(parse(text))
    assert count_parameters(model) == 18 + 24 + 4
    channels = analyse(model)
    dead, costs = half_dead(channels), CostModel(channels)
    saved = costs.parameters(channels.nobody()) - costs.parameters(dead)
    assert saved == 3 * 3 + 4 * 3
    assert count_parameters(model) - count_parameters(excise(model, channels, dead)[0]) == saved


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_cost_model_is_the_recount_of_the_rewrite(share: float) -> None:
    model = network()
    channels = analyse(model)
    dead, costs = half_dead(channels, share), CostModel(channels)
    after = measure(excise(model, channels, dead)[0])
    before = measure(model, channels)
    assert costs.macs(dead) == after.macs
    assert costs.parameters(channels.nobody()) - costs.parameters(dead) == before.parameters - after.parameters
    left = [int(np.count_nonzero(~dead[group.units])) for group in channels.groups]
    assert after.channels == sum(count for count in left if count > 1), "a last channel can't go"


@pytest.mark.parametrize("kind", ["sparsity", "macs"])
def test_terms_follow_deaths_one_by_one(kind: str) -> None:
    channels = analyse(network())
    terms, dead = CostModel(channels).terms(kind), channels.nobody()
    assert terms.current() == terms.total(dead)
    for index, group in enumerate(channels.groups):
        count = len(group) // 2
        expected = terms.saved(index, count)
        dead[group.units[:count]] = True
        before = terms.current()
        terms.remove(index, count)
        assert before - terms.current() == expected
        assert terms.current() == terms.total(dead)


def test_deaths_can_be_taken_back() -> None:
    channels = analyse(network())
    terms = CostModel(channels).terms("sparsity")
    before = terms.current()
    terms.remove(0, 3)
    assert terms.current() < before
    terms.remove(0, -3)
    assert terms.current() == before
