"""What can be known of shapes without running a model."""

from __future__ import annotations

import onnx_ir as ir

from darwinc.shapes import FREE_BATCH, FREE_EXTENT, infer
from tests.surgery import parse


def test_static_shapes_are_known_and_assumed_alike() -> None:
    text = "(float[2,3,8,8] x, float[4,3,3,3] w) => (float[2,4,6,6] y) { a = Conv(x, w) y = Relu(a) }"
    shapes = infer(ir.from_proto(parse(text)))
    assert shapes.known["a"] == shapes.assumed["a"] == (2, 4, 6, 6)
    assert shapes.known["w"] == (4, 3, 3, 3)


def test_symbolic_axes_are_unknown_and_assumed() -> None:
    text = "(float[N,3,H,W] x, float[4,3,1,1] w) => (float[N,4,H,W] y) { a = Conv(x, w) y = Relu(a) }"
    shapes = infer(ir.from_proto(parse(text)))
    assert shapes.known["a"] == (None, 4, None, None)
    assert shapes.assumed["a"] == (FREE_BATCH, 4, FREE_EXTENT, FREE_EXTENT)


def test_sizes_that_the_graph_computes_are_folded() -> None:
    text = """(float[2,3,8,8] x) => (float[2,P] y) <int64 first = {0}, int64[1] axis = {0}, int64[1] rest = {-1}> {
        s = Shape(x)
        g = Gather(s, first)
        u = Unsqueeze(g, axis)
        i = Identity(rest)
        c = Concat<axis: int = 0>(u, i)
        y = Reshape(x, c)
    }"""
    assert infer(ir.from_proto(parse(text))).known["y"] == (2, 192)


def test_what_one_round_settles_helps_the_next() -> None:
    """The slice's bound comes through Identity; the chain of sizes after it needs the slice's shape."""
    text = """(float[2,6,8,8] x) => (float[A,B,C] y)
        <int64[1] start = {1}, int64[1] end = {4}, int64[1] axis = {1}, int64[2] two = {0, 1}, int64[1] rest = {-1}> {
        i = Identity(start)
        a = Slice(x, i, end, axis)
        s = Shape(a)
        g = Gather(s, two)
        c = Concat<axis: int = 0>(g, rest)
        r = Reshape(a, c)
        t = Shape(r)
        y = Reshape(r, t)
    }"""
    shapes = infer(ir.from_proto(parse(text)))
    assert shapes.known["a"] == (2, 3, 8, 8)
    assert shapes.known["r"] == (2, 3, 64)


def test_a_value_of_unknown_rank_is_absent() -> None:
    text = "(float[2,3] x) => (float[A,B] y) { a = custom.Odd(x) b = Relu(a) y = Relu(x) }"
    shapes = infer(ir.from_proto(parse(text)))
    assert "b" not in shapes.known
    assert shapes.known["y"] == (2, 3)


def test_the_model_is_only_read() -> None:
    model = ir.from_proto(parse("(float[N,3] x) => (float[N,3] y) { a = Relu(x) y = Relu(a) }"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    infer(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
