"""What can be known of shapes, with and without running a model."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir
import pytest

from darwinc.measured_shapes import measure
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


def test_what_inference_cannot_tell_is_measured_and_may_vary() -> None:
    text = """(float[2,3,8,8] x, float[4,3,3,3] w) => (float[A,B] y) <int64[1] rest = {-1}> {
        a = Conv(x, w)
        p = NonZero(a)
        t = Transpose<perm: ints = [1, 0]>(p)
        f = Cast<to: int = 1>(t)
        y = Relu(f)
    }"""
    model = ir.from_proto(parse(text))
    shapes = infer(model)
    measured = measure(model, shapes)
    assert measured["p"] == (4, 2 * 4 * 6 * 6)
    assert "a" not in measured, "inference knew"
    found = replace(shapes, measured=measured)
    assert found.sizes("t") == (2 * 4 * 6 * 6, 4)
    assert found.varies("t", 0)
    assert not found.varies("t", 1)
    assert not found.varies("a", 0)


def test_a_model_that_cannot_be_run_has_no_measured_shapes() -> None:
    model = ir.from_proto(parse("(float[2,3] x) => (float[A,B] y) { a = custom.Odd(x) b = Relu(a) y = Relu(b) }"))
    assert measure(model, infer(model)) == {}


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


def test_where_inference_fails_what_is_told_remains_and_nothing_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise onnx.shape_inference.InferenceError("no")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    model = ir.from_proto(parse("(float[N,3] x, float[3,5] w) => (float[N,5] y) { a = MatMul(x, w) y = Relu(a) }"))
    shapes = infer(model)
    assert {name: shapes.sizes(name) for name in "xway"} == {"x": (1, 3), "w": (3, 5), "a": None, "y": (None, 5)}
    assert not caplog.records
