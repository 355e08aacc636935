"""When two graphs count as the same: figures by hand, and rewrites that are wrong in ways that are hard to see."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from darwinc.channels import analyse
from darwinc.equivalence import (
    BOUNDED_SCALE,
    HALF_TOLERANCE,
    TOLERANCE,
    Agreement,
    agree,
    answers,
    difference,
    is_bounded,
    is_chosen,
    prove_rewrite,
    tolerance_of,
)
from darwinc.passes.excise import excise
from tests.small_models import CLASSIFIER, Array, build, images, stored
from tests.surgery import dead_positions, parse

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("one", "two", "absolute", "relative"),
    [
        ([4.0, -8.0], [4.0, -8.0], 0.0, 0.0),
        ([4.0, -8.0], [5.0, -8.0], 1.0, 0.125),
        ([0.0, 0.0], [0.0, 1e-3], 1e-3, 1e27),
        ([INF, 2.0], [INF, 2.5], 0.5, 0.25),
        ([INF, 2.0], [2.0, 2.0], INF, INF),
        ([INF, 2.0], [-INF, 2.0], INF, INF),
        ([INF, 2.0], [NAN, 2.0], INF, INF),
        ([1.0, 2.0], [1.0, NAN], INF, INF),
        ([NAN, 2.0], [NAN, 2.0], 0.0, 0.0),
        ([], [], 0.0, 0.0),
        ([1.0, 2.0], [1.0, 2.0, 3.0], INF, INF),
    ],
)
def test_a_difference_is_told_over_the_scale_of_the_answer(
    one: list[float], two: list[float], absolute: float, relative: float
) -> None:
    found = difference(np.array(one), np.array(two))
    assert found == pytest.approx((absolute, relative))


def test_whole_numbers_differ_by_the_share_that_does() -> None:
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])) == (0.25, 0.25)
    assert difference(np.array([True, False]), np.array([True, False])) == (0.0, 0.0)


def test_small_answers_of_bounded_operators_are_held_to_their_natural_scale() -> None:
    one, two = np.array([1e-6]), np.array([2e-6])
    assert difference(one, two)[1] == pytest.approx(1.0)
    assert difference(one, two, BOUNDED_SCALE)[1] == pytest.approx(1e-4)


@given(st.lists(st.floats(-1e3, 1e3), max_size=8), st.floats(1e-3, 1e3))
def test_the_scale_of_an_output_does_not_matter(values: list[float], scale: float) -> None:
    one = np.array([1.0, *values])
    two = one + np.linspace(0, 1, len(one))
    assert difference(scale * one, scale * two)[1] == pytest.approx(difference(one, two)[1], rel=1e-6)


def test_agreement_is_that_of_the_worst_output() -> None:
    one: list[list[Array]] = [[np.array([1.0]), np.array([10.0])], [np.array([2.0]), np.array([10.0])]]
    two: list[list[Array]] = [[np.array([1.0]), np.array([10.5])], [np.array([2.2]), np.array([10.0])]]
    assert agree(one, one, [False, False], 0.0) == Agreement(2, 0.0, 0.0, True)
    found = agree(one, two, [False, False], 0.2)
    assert (found.inputs, found.max_abs_error, found.passed) == (2, 0.5, True)
    assert found.max_rel_error == pytest.approx(0.1)
    assert not agree(one, two, [False, False], 0.05).passed


def test_near_ties_behind_a_choice_count_apart_as_long_as_something_else_agrees() -> None:
    solid, one, other = np.ones(3, np.float32), np.arange(4.0), np.arange(5.0)
    found = agree([[solid, one]], [[solid, other]], [False, False], 1e-4, [False, True])
    assert (found.passed, found.near_ties, found.max_rel_error) == (True, 1, 0.0)
    assert not agree([[one]], [[other]], [False], 1e-4, [True]).passed, "nothing else was compared"
    assert not agree([[solid, one]], [[2 * solid, other]], [False, False], 1e-4, [False, True]).passed


def test_outputs_behind_a_choice_are_known() -> None:
    model = ir.from_proto(
        parse("""(float[2,6] x) => (float[2,6] y, float[2,K] v, int64[2,K] i) <int64[1] k = {3}> {
            y = Relu(x)
            t, i = TopK(y, k)
            v = Relu(t)
        }""")
    )
    assert is_chosen(model) == [False, True, True]


def test_half_precision_may_differ_more() -> None:
    assert tolerance_of(ir.from_proto(build(CLASSIFIER))) == TOLERANCE
    assert tolerance_of(ir.from_proto(build(CLASSIFIER.replace("float[", "float16[")))) == HALF_TOLERANCE


def test_which_outputs_have_a_natural_scale() -> None:
    text = "(float[N,4] x) => (y, z, x2) { y = Softmax(x)\n z = Relu(x)\n x2 = Sigmoid(z)\n }"
    assert is_bounded(ir.from_proto(build(text))) == [True, False, True]


def proven(change: dict[str, Array], text: str = CLASSIFIER) -> Agreement:
    """Cut three channels, put other values into the rewrite, and hold it against the zeroed original."""
    model = ir.from_proto(build(text))
    channels = analyse(model)
    dead = dead_positions(channels, {"w1": [2, 5], "w2": [7]})
    zeroed, _ = excise(model, channels, dead, zero=True)
    rewritten, _ = excise(model, channels, dead)
    proto = ir.to_proto(rewritten)
    for tensor in proto.graph.initializer:
        if tensor.name in change:
            tensor.CopyFrom(numpy_helper.from_array(change[tensor.name].astype(np.float32), tensor.name))
    feeds = [{"x": images(2, 3, 8, 8, seed=seed)} for seed in range(3)]
    return prove_rewrite(zeroed, ir.from_proto(proto), channels, dead, feeds)


def test_an_honest_rewrite_is_proven() -> None:
    found = proven({})
    assert found.passed
    assert (found.inputs, found.max_rel_error < 1e-6) == (3, True)
    assert found.as_dict().keys() == {"inputs", "max_abs_error", "max_rel_error", "passed", "near_ties"}


def test_a_wrong_filter_is_seen() -> None:
    first = stored(build(CLASSIFIER))["w1"]
    wrong = np.delete(first, [2, 6], 0)
    assert not proven({"w1": wrong}).passed
    assert proven({"w1": np.delete(first, [2, 5], 0)}).passed


def test_what_saturation_hides_at_the_output_is_seen_on_the_way() -> None:
    text = CLASSIFIER.replace("y = Gemm", "z = Gemm").replace(
        "w3, b3)\n", "w3, b3)\n    k = Constant<value = float {1000.0}>()\n    t = Add(z, k)\n    y = Sigmoid(t)\n"
    )
    hidden = proven({"b3": stored(build(text))["b3"] + 0.5}, text)
    assert not hidden.passed


def test_answers_come_in_the_order_of_the_outputs() -> None:
    text = "(float[N,4] x) => (y, z) { z = Relu(x)\n y = Neg(x)\n }"
    x = images(2, 4)
    ((y, z),) = answers(ir.from_proto(build(text)), [{"x": x}])
    assert np.array_equal(y, -x)
    assert np.array_equal(z, x.clip(0))
    ((again,),) = answers(ir.from_proto(build(text)), [{"x": x}], outputs=["z"])
    assert np.array_equal(again, z)


def test_the_models_are_left_as_they_were() -> None:
    model = ir.from_proto(build(CLASSIFIER))
    channels = analyse(model)
    before = ir.to_proto(model).SerializeToString()
    prove_rewrite(model, model, channels, channels.nobody(), [{"x": images(2, 3, 8, 8)}])
    assert ir.to_proto(model).SerializeToString() == before
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
