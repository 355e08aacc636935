"""The rewrite: constants that readers share, integers that were implied, and all that must stay as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from darwinc import graph
from darwinc.channels import analyse
from darwinc.cost import count_parameters
from darwinc.passes.excise import excise
from tests.surgery import answers, assert_same_answers, changes, cut, dead_positions, facts, parse

NEWEST = onnx.defs.onnx_opset_version()


@dataclass(frozen=True)
class Case:
    """A graph, the positions that go, every fact that changes, and the copies that are made."""

    name: str
    text: str
    removed: Mapping[str, Sequence[int]]
    changed: Mapping[str, str]
    opset: int = 17


SHARING = [
    Case(
        "constant_node",
        """(float[2,3,4,4] x, float[4,3,1,1] v) => (float[2,4,4,4] y) {
            w = Constant<value: tensor = float[3, 3, 1, 1] {1., 2., 3., 4., 5., 6., 7., 8., 9.}>()
            b = Constant<value_floats: floats = [0.5, 1.0, 2.0]>()
            a = Conv(x, w, b)
            y = Conv(a, v)
        }
        """,
        {"w": [1]},
        {"v": "float32[4, 2, 1, 1]", "w": "float32[2, 3, 1, 1]", "b": "float32[2]"},
    ),
    Case(
        "float16",
        """(float16[N,3,8,8] x, float16[6,3,3,3] w, float16[6] b, float16[4,6,1,1] v) => (float16[N,4,6,6] y) {
            a = Conv(x, w, b)
            r = Relu(a)
            y = Conv(r, v)
        }
        """,
        {"w": [1, 4]},
        {"w": "float16[4, 3, 3, 3]", "b": "float16[4]", "v": "float16[4, 4, 1, 1]"},
    ),
    Case(
        "shared_vectors_apart",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] s, float[4] b, float[4] m, float[4]
            var, float[4,4,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            n = BatchNormalization(a, s, b, m, var)
            c = Conv(n, u)
            o = BatchNormalization(c, s, b, m, var)
            y = Conv(o, v)
        }
        """,
        {"w": [1], "u": [2, 3]},
        {
            "w": "float32[3, 3, 1, 1]",
            "u": "float32[2, 3, 1, 1]",
            "s": "float32[3]",
            "b": "float32[3]",
            "m": "float32[3]",
            "var": "float32[3]",
            "v": "float32[4, 2, 1, 1]",
            "s__1": "float32[2]",
            "b__1": "float32[2]",
            "m__1": "float32[2]",
            "var__1": "float32[2]",
            "BatchNormalization_3.inputs": "c s__1 b__1 m__1 var__1",
        },
    ),
    Case(
        "shared_vectors_one",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] s, float[4] b, float[4] m, float[4]
            var, float[4,4,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            n = BatchNormalization(a, s, b, m, var)
            c = Conv(n, u)
            o = BatchNormalization(c, s, b, m, var)
            y = Conv(o, v)
        }
        """,
        {"u": [2, 3]},
        {
            "u": "float32[2, 4, 1, 1]",
            "v": "float32[4, 2, 1, 1]",
            "s__1": "float32[2]",
            "b__1": "float32[2]",
            "m__1": "float32[2]",
            "var__1": "float32[2]",
            "BatchNormalization_3.inputs": "c s__1 b__1 m__1 var__1",
        },
    ),
    Case(
        "shared_vectors_alike",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] s, float[4] b, float[4] m, float[4]
            var, float[4,4,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            n = BatchNormalization(a, s, b, m, var)
            c = Conv(n, u)
            o = BatchNormalization(c, s, b, m, var)
            y = Conv(o, v)
        }
        """,
        {"w": [1], "u": [1]},
        {
            "w": "float32[3, 3, 1, 1]",
            "u": "float32[3, 3, 1, 1]",
            "s": "float32[3]",
            "b": "float32[3]",
            "m": "float32[3]",
            "var": "float32[3]",
            "v": "float32[4, 3, 1, 1]",
        },
    ),
    Case(
        "shared_weight",
        """(float[N,4,8,8] x, float[4,4,1,1] w, float[4,4,1,1] u, float[4,4,1,1] v) => (float[N,4,8,8] y) {
            a = Conv(x, u)
            b = Conv(a, w)
            c = Relu(b)
            d = Conv(c, w)
            y = Conv(d, v)
        }
        """,
        {"u": [1]},
        {"w": "float32[3, 3, 1, 1]", "u": "float32[3, 4, 1, 1]", "v": "float32[4, 3, 1, 1]"},
    ),
    Case(
        "shared_identity",
        """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] b, float[4,4,1,1] v) =>
            (float[N,4,8,8] y) {
            i = Identity(b)
            a = Conv(x, w, b)
            c = Conv(a, u, i)
            y = Conv(c, v)
        }
        """,
        {"w": [0], "u": [2]},
        {
            "w": "float32[3, 3, 1, 1]",
            "u": "float32[3, 3, 1, 1]",
            "b": "float32[3]",
            "v": "float32[4, 3, 1, 1]",
            "i__1": "float32[3]",
            "Conv_2.inputs": "a u i__1",
        },
    ),
    Case(
        "shared_size",
        """(float[N,3,2,2] x, float[6,3,1,1] w, float[6,3,1,1] u, float[24,4] v) => (float[N,4] y) <int64[2] s
            = {-1,24}> {
            a = Conv(x, w)
            b = Reshape(a, s)
            c = Conv(x, u)
            d = Reshape(c, s)
            e = MatMul(b, v)
            f = MatMul(d, v)
            y = Add(e, f)
        }
        """,
        {"w": [1]},
        {"s": "[-1, 20]", "w": "float32[5, 3, 1, 1]", "u": "float32[5, 3, 1, 1]", "v": "float32[20, 4]"},
    ),
    Case(
        "shared_size_apart",
        """(float[N,3,2,2] x, float[6,3,1,1] w, float[6,3,1,1] u, float[24,4] v, float[24,4] t) => (float[N,4]
            y) <int64[2] s = {-1,24}> {
            a = Conv(x, w)
            b = Reshape(a, s)
            c = Conv(x, u)
            d = Reshape(c, s)
            e = MatMul(b, v)
            f = MatMul(d, t)
            y = Add(e, f)
        }
        """,
        {"w": [1]},
        {"w": "float32[5, 3, 1, 1]", "v": "float32[20, 4]", "s__1": "[-1, 20]", "Reshape_1.inputs": "a s__1"},
    ),
]


@pytest.mark.parametrize("case", SHARING, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    assert changes(cut(parse(case.text, case.opset), case.removed)) == case.changed


SMALL = """(float[N,3,8,8] x, float[6,3,3,3] w, float[6] b, float[6] s, float[6] t, float[6] m, float[6] var,
    float[4,6] v) => (float[N,4] y) {
    a = Conv<pads: ints = [1, 1, 1, 1]>(x, w, b)
    n = BatchNormalization(a, s, t, m, var)
    r = Relu(n)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = Identity(f)
    y = Gemm<transB: int = 1>(z, v%s)
}"""


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset_from_7_to_the_newest(opset: int) -> None:
    text = SMALL % ("" if opset >= 11 else ", c")
    proto = parse(text if opset >= 11 else text.replace("float[4,6] v", "float[4,6] v, float[4] c"), opset)
    if not runs(opset):
        pytest.skip("this ONNX Runtime is older than this opset")
    result = cut(proto, {"w": [0, 5]})
    assert result.after.opset_import[0].version == opset
    assert set(changes(result)) == {"w", "b", "s", "t", "m", "var", "v"}


def runs(opset: int) -> bool:
    try:
        answers(parse("(float[1] x) => (float[1] y) { y = Identity(x) }", opset))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no public class for this
        return "opset" not in str(error)
    return True


def test_initializers_that_are_inputs_too_are_cut_in_both_places() -> None:
    proto = parse(SMALL % "", ir_version=3, keep_inputs=True)
    result = cut(proto, {"w": [0, 5]})
    inputs = {value.name: value for value in result.after.graph.input}
    assert [dim.dim_value for dim in inputs["w"].type.tensor_type.shape.dim] == [4, 3, 3, 3]
    assert list(inputs) == [value.name for value in proto.graph.input]
    assert result.after.ir_version == 3


def test_recorded_shapes_follow() -> None:
    proto = onnx.shape_inference.infer_shapes(parse(SMALL % ""))
    result = cut(proto, {"w": [0, 5]})
    changed = changes(result)
    assert changed["a: shape"] == "FLOAT, Nx4x8x8"
    assert changed["f: shape"] == "FLOAT, Nx4"
    want = facts(onnx.shape_inference.infer_shapes(result.after, strict_mode=True))
    assert {key: fact for key, fact in want.items() if key.endswith(": shape")}.items() <= facts(result.after).items()


def test_everything_that_a_file_says_about_itself_stays() -> None:
    proto = parse(SMALL % "")
    proto.doc_string, proto.producer_name, proto.model_version = "about", "somebody", 7
    proto.graph.doc_string, proto.graph.node[0].doc_string = "of the graph", "of the node"
    proto.metadata_props.add(key="labels", value="a,b")
    after = cut(proto, {"w": [1]}).after
    assert (after.doc_string, after.producer_name, after.model_version) == ("about", "somebody", 7)
    assert (after.graph.doc_string, after.graph.node[0].doc_string) == ("of the graph", "of the node")
    assert [(entry.key, entry.value) for entry in after.metadata_props] == [("labels", "a,b")]
    assert after.graph.input == proto.graph.input
    assert after.graph.output == proto.graph.output


def test_survivors_stay_bit_for_bit_and_kept_says_which() -> None:
    result = cut(parse(SMALL % ""), {"w": [0, 5]})
    assert result.excision.kept["w"] == {"0": [1, 2, 3, 4]}
    assert result.excision.kept["v"] == {"1": [1, 2, 3, 4]}
    for name in ("w", "v"):
        before, after = (graph.constants(ir.from_proto(proto))[name].numpy() for proto in (result.before, result.after))
        assert np.array_equal(before[1:5] if name == "w" else before[:, 1:5], after)


def test_nothing_dead_changes_nothing() -> None:
    result = cut(parse(SMALL % ""), {})
    assert result.after == result.before == result.zeroed
    assert not result.excision.kept


def test_what_loses_nothing_keeps_its_own_way_of_writing() -> None:
    """Bounds from the end and implied sizes of a branch that isn't cut stay as they are."""
    text = """(float[2,3,8,8] x, float[5,3,1,1] w, float[5,3,1,1] u, float[4,2,1,1] v, float[4,3,1,1] q)
        => (float[2,4,8,8] y) <int64[1] start = {-2}, int64[1] end = {9}, int64[1] axis = {1}> {
        a = Conv(x, w)
        first, rest = Split<axis: int = 1, num_outputs: int = 2>(a)
        b = Slice(a, start, end, axis)
        c = Conv(x, u)
        d = Slice(c, start, end, axis)
        e = Conv(b, v)
        f = Conv(d, v)
        g = Conv(first, q)
        h = Add(e, f)
        y = Add(g, h)
    }"""
    result = cut(parse(text, 18), {"u": [0]})
    assert changes(result) == {"u": "float32[4, 3, 1, 1]", "start__1": "[2]", "end__1": "[4]"} | {
        "Slice_4.inputs": "c start__1 end__1 axis"
    }


def test_zeroing_keeps_every_shape_and_leaves_divisors_alone() -> None:
    result = cut(parse(SMALL % ""), {"w": [0, 5]})
    constants = graph.constants(ir.from_proto(result.zeroed))
    assert facts(result.zeroed) == facts(result.before)
    for name in ("w", "b", "s", "t"):
        assert not constants[name].numpy()[[0, 5]].any()
    assert (constants["var"].numpy() > 0).all()


def test_a_shared_constant_leaves_no_unread_original() -> None:
    text = """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] b, float[4,4,1,1] v)
        => (float[N,4,8,8] y) {
        a = Conv(x, w, b)
        c = Conv(a, u, b)
        y = Conv(c, v)
    }"""
    result = cut(parse(text), {"w": [0, 1], "u": [2]})
    read = {name for node in result.after.graph.node for name in node.input}
    assert {tensor.name for tensor in result.after.graph.initializer} <= read
    assert result.excision.copies == {"b__1": "b"}
    assert count_parameters(ir.from_proto(result.after)) == 2 * 3 + 2 + 3 * 2 + 3 + 4 * 3


def test_a_copy_takes_a_name_that_nobody_has() -> None:
    text = """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] b, float[4] b__1, float[4,4,1,1] v,
        float[4,4,1,1] q)
        => (float[N,4,8,8] y) {
        a = Conv(x, w, b)
        b__2 = Conv(a, u, b)
        c = Conv(b__2, v, b__1)
        y = Conv(c, q)
    }"""
    assert cut(parse(text), {"w": [0]}).excision.copies == {"b__3": "b"}


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_what_a_subgraph_reads_stays(kind: str) -> None:
    """`a` is captured and `u` isn't: only u's channels go, and the shared bias comes apart."""
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "b4"], ["inner"])]
        + [helper.make_node("Identity", ["go"], ["again"])] * (kind == "Loop"),
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ]
        * (kind == "Loop"),
        [helper.make_tensor_value_info("again", TensorProto.BOOL, [])] * (kind == "Loop")
        + [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    text = """(float[2,3,8,8] x, bool x_go, float[4,3,1,1] w, float[4,1,1] b4, float[4,4,1,1] u, float[4,4,1,1] v)
        => (float[2,4,8,8] y) {
        a = Conv(x, w)
        c = Conv(a, u)
        d = Mul(c, b4)
        e = Conv(d, v)
        y = Add(e, s)
    }"""
    proto = parse(text)
    node = (
        helper.make_node("If", ["x_go"], ["s"], name="branch", then_branch=body, else_branch=body)
        if kind == "If"
        else helper.make_node("Loop", ["one", "x_go"], ["scanned"], name="branch", body=body)
    )
    proto.graph.node.insert(1, node)
    if kind == "Loop":
        proto.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [], [1]))
        proto.graph.node.insert(2, helper.make_node("ReduceSum", ["scanned", "axis"], ["s"], name="sum", keepdims=0))
        proto.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [0]))
    result = cut(proto, {"u": [1, 2]})
    assert changes(result) == {
        "u": "float32[2, 4, 1, 1]",
        "v": "float32[4, 2, 1, 1]",
        "b4__1": "float32[2, 1, 1]",
        f"{next(node.name for node in proto.graph.node if node.op_type == 'Mul')}.inputs": "c b4__1",
    }
    assert "is read inside a subgraph" in {barrier.reason for barrier in result.channels.flow.barriers}


def test_float16_runs_within_its_own_tolerance() -> None:
    text = (SMALL % "").replace("float[", "float16[")
    result = cut(parse(text), {"w": [0, 5]})
    assert all(tensor.data_type == TensorProto.FLOAT16 for tensor in result.after.graph.initializer)


def test_cutting_twice_is_cutting_once() -> None:
    proto = parse(SMALL % "")
    once = cut(proto, {"w": [0, 5]})
    first = cut(proto, {"w": [0]})
    second = cut(first.after, {"w": [4]})
    assert second.after == once.after


def test_the_model_that_was_handed_in_is_only_read() -> None:
    model = ir.from_proto(parse(SMALL % ""))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    channels = analyse(model)
    rewritten, _ = excise(model, channels, dead_positions(channels, {"w": [1, 2]}))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert_same_answers(ir.to_proto(model), ir.to_proto(model))
    assert count_parameters(rewritten) < count_parameters(model)
