"""Which channels make a group, what is said about barriers, and that the analysis is linear in the graph."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from darwinc import products
from darwinc.axis_flow import Flow
from darwinc.axis_record import Follower
from darwinc.axis_sizes import DIVIDES_BADLY, hold_what_goes_wrong
from darwinc.channels import Channels, Mask, Member, analyse, barriers
from darwinc.passes.excise import excise
from tests.surgery import assert_same_answers, changes, cut, parse


def groups(text: str, opset: int = 17) -> list[tuple[int, set[tuple[str, int, int]], bool]]:
    """(units, members, depthwise) of every group."""
    channels = analyse(ir.from_proto(parse(text, opset)))
    return [
        (len(group), {(member.tensor, member.axis, member.multiplicity) for member in group.members}, group.depthwise)
        for group in channels.groups
    ]


def test_a_residual_stream_is_one_group_and_the_inside_of_a_block_another() -> None:
    found = groups("""(float[N,3,8,8] x, float[6,3,1,1] w, float[8,6,1,1] i, float[6,8,1,1] o, float[4,6,1,1] v)
        => (float[N,4,8,8] y) {
        a = Conv(x, w)
        h = Conv(a, i)
        r = Relu(h)
        b = Conv(r, o)
        c = Add(a, b)
        y = Conv(c, v)
    }""")
    assert found == [
        (6, {("w", 0, 1), ("i", 1, 1), ("o", 0, 1), ("v", 1, 1)}, False),
        (8, {("i", 0, 1), ("o", 1, 1)}, False),
    ]


def test_a_depthwise_group_is_known_as_one() -> None:
    found = groups("""(float[N,3,8,8] x, float[6,3,1,1] w, float[6,1,3,3] d, float[4,6,1,1] v) => (float[N,4,6,6] y) {
        a = Conv(x, w)
        b = Conv<group: int = 6>(a, d)
        y = Conv(b, v)
    }""")
    assert found == [(6, {("w", 0, 1), ("d", 0, 1), ("v", 1, 1)}, True)]


def test_a_flattened_channel_takes_all_its_rows_along() -> None:
    found = groups("""(float[N,3,2,2] x, float[6,3,1,1] w, float[24,4] v) => (float[N,4] y) {
        a = Conv(x, w)
        b = Flatten(a)
        y = Gemm(b, v)
    }""")
    assert found == [(6, {("w", 0, 1), ("v", 0, 4)}, False)]


def test_positions_that_sit_elsewhere_are_groups_of_their_own() -> None:
    """Half of w's channels are read twice."""
    found = groups("""(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v, float[4,2,1,1] u) => (float[N,4,8,8] y)
        <int64[2] s = {2, 4}> {
        a = Conv(x, w)
        b, rest = Split<axis: int = 1>(a, s)
        c = Conv(b, u)
        d = Conv(a, v)
        y = Add(c, d)
    }""")
    assert found == [
        (2, {("w", 0, 1), ("v", 1, 1), ("u", 1, 1)}, False),
        (4, {("w", 0, 1), ("v", 1, 1)}, False),
    ]


def test_a_group_has_at_least_two_units_and_a_constant() -> None:
    assert groups("(float[N,3,8,8] x, float[4,3,1,1] w) => (float[N,4,8,8] y) { y = Conv(x, w) }") == []
    assert groups("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }") == []


def test_a_shared_vector_is_a_member_of_both_groups_and_couples_neither() -> None:
    found = groups("""(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] b, float[4,4,1,1] v)
        => (float[N,4,8,8] y) {
        a = Conv(x, w, b)
        c = Conv(a, u, b)
        y = Conv(c, v)
    }""")
    assert [members for _, members, _ in found] == [
        {("w", 0, 1), ("b", 0, 1), ("u", 1, 1)},
        {("u", 0, 1), ("b", 0, 1), ("v", 1, 1)},
    ]


def test_ids_count_up_in_graph_order() -> None:
    channels = analyse(ir.from_proto(chain(5)))
    assert [group.id for group in channels.groups] == [f"g{k}" for k in range(10)]
    pairs = {frozenset(group.members[0] for group in channels.groups[k : k + 2]) for k in range(0, 10, 2)}
    assert pairs == {frozenset({Member(f"w{k}", 0, 2), Member(f"w{k}", 0, 4)}) for k in range(5)}, "places and halves"
    assert all((np.diff(group.units) > 0).all() for group in channels.groups)


def test_living_and_extent_count_what_is_left() -> None:
    channels = analyse(ir.from_proto(chain(2)))
    axis = channels.flow.uses[0].axes[0]
    dead = channels.nobody()
    one, three = channels.owners[channels.component[axis[[1, 3]]]]
    dead[np.intersect1d(one, channels.owners[channels.component[axis[5]]])] = True
    dead[np.intersect1d(three, channels.owners[channels.component[axis[7]]])] = True
    assert channels.living(axis, dead).tolist() == [True, False, True, False] * 2, "the shuffle ties the two halves"
    assert channels.extent(axis, dead) == 4
    assert not channels.nobody().any()


def test_barriers_name_the_node_and_the_reason_once() -> None:
    channels = analyse(
        ir.from_proto(
            parse("""(float[N,3,8,8] x, float[6,3,1,1] w, float[4,6,1,1] v) => (float[N,4,8,8] y) {
                a = Conv(x, w)
                b = LRN<size: int = 3>(a)
                c = custom.Odd(b, b)
                y = Conv(c, v)
            }""")
        )
    )
    found = [(barrier.node.op_type if barrier.node else None, barrier.reason) for barrier in barriers(channels)]
    assert ("LRN", "normalises over this axis") in found
    assert len(found) == len(set(found))


def test_barriers_where_no_constant_has_a_position_are_not_told() -> None:
    channels = analyse(ir.from_proto(parse("(float[N,3] x) => (float[N,3] y) { y = Softmax(x) }")))
    assert barriers(channels) == []


def chain(length: int, width: int = 8) -> onnx.ModelProto:
    """A chain of convolutions, with a residual connection, a batch norm and a channel shuffle around each."""
    nodes, constants, last = [], [], "x"
    vectors = {name: np.ones(width, np.float32) for name in ("s", "t", "m", "d")}
    constants += [onnx.numpy_helper.from_array(array, name) for name, array in vectors.items()]
    constants.append(onnx.numpy_helper.from_array(np.array([0, 2, width // 2, 4, 4]), "wide"))
    constants.append(onnx.numpy_helper.from_array(np.array([0, width, 4, 4]), "narrow"))
    for k in range(length + 1):
        channels = 3 if k == length else width
        shape = (channels, 3 if k == 0 else width, 1, 1)
        constants.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"]))
        last = f"c{k}"
        if k < length:
            nodes += [
                helper.make_node("BatchNormalization", [last, "s", "t", "m", "d"], [f"n{k}"]),
                helper.make_node("Reshape", [f"n{k}", "wide"], [f"r{k}"]),
                helper.make_node("Transpose", [f"r{k}"], [f"p{k}"], perm=[0, 2, 1, 3, 4]),
                helper.make_node("Reshape", [f"p{k}", "narrow"], [f"q{k}"]),
            ]
            last = f"q{k}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 3, 4, 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def size(channels: Channels) -> dict[str, int]:
    """How much the analysis wrote down."""
    flow = channels.flow
    return {
        "ids": flow.count,
        "tied": sum(len(first) for first, _ in flow.ties),
        "blocked": sum(len(barrier.ids) for barrier in flow.barriers),
        "uses": len(flow.uses),
        "followers": len(flow.followers),
        "axes": sum(len(tracked.axes) for tracked in flow.values.values()),
    }


def test_the_record_grows_linearly_with_the_graph() -> None:
    """Three lengths in arithmetic progression: every figure's two steps are alike."""
    one, two, three = (size(analyse(ir.from_proto(chain(length)))) for length in (10, 40, 70))
    for name in one:
        assert three[name] - two[name] == pytest.approx(two[name] - one[name], rel=0.1, abs=8), name


def test_products_of_a_long_chain_of_shuffles_resolve_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Flow] = []
    plain = products.connect

    def counted(flow: Flow) -> tuple[npt.NDArray[np.int64], Mask]:
        rounds.append(flow)
        return plain(flow)

    monkeypatch.setattr(products, "connect", counted)
    counts = []
    for length in (5, 20, 40):
        rounds.clear()
        analyse(ir.from_proto(chain(length)))
        counts.append(len(rounds))
    assert counts[0] == counts[1] == counts[2]


def test_large_weights_are_not_read() -> None:
    """A weight that raises when it's looked at does no harm."""
    model = ir.from_proto(chain(2, width=128))

    def refuse() -> ir.TensorProtocol:
        raise AssertionError("the analysis read a weight")

    for name, value in model.graph.initializers.items():
        if name == "w1" and value.const_value is not None:
            shape = ir.Shape(value.const_value.shape.numpy())
            value.const_value = ir.LazyTensor(refuse, ir.DataType.FLOAT, shape, name=name)
    assert len(analyse(model).groups) == 4


def test_a_shape_that_inference_gets_wrong_is_measured() -> None:
    """ONNX's inference overlooks the bounds of a Slice behind Identity, and makes five axes of the four of `r`."""
    text = """(float[2,16,3] x, float[3,12] w, float[3,12] v, float[12,4] o) => (float[2,16,4] y) {
        one = Constant<value = int64[1] {1}>()
        two = Constant<value = int64[1] {2}>()
        zero = Constant<value = int64[1] {0}>()
        start = Identity(one)
        axis = Identity(zero)
        rest = Constant<value = int64[2] {-1, 6}>()
        split = Constant<value = int64[4] {2, 16, 2, 6}>()
        back = Constant<value = int64[3] {2, 16, -1}>()
        h = MatMul(x, w)
        g = MatMul(x, v)
        sizes = Shape(h)
        tokens = Slice(sizes, start, two, axis)
        wanted = Concat<axis: int = 0>(two, tokens, rest)
        r = Reshape(h, wanted)
        s = Reshape(g, split)
        turned = Transpose<perm: ints = [0, 3, 1, 2]>(r)
        other = Transpose<perm: ints = [0, 3, 1, 2]>(s)
        m = Mul(turned, other)
        t = Transpose<perm: ints = [0, 2, 3, 1]>(m)
        flat = Reshape(t, back)
        y = MatMul(flat, o)
    }"""
    result = cut(parse(text), {"w:1": [1, 7], "v:1": [1, 7]})
    assert {name: fact for name, fact in changes(result).items() if name in ("w", "v", "o")} == {
        "w": "float32[3, 10]",
        "v": "float32[3, 10]",
        "o": "float32[10, 4]",
    }


@pytest.mark.parametrize(("picked", "groups"), [([0, 3], 1), ([0, 3, 2, 1], 3), ([0, 1], 2)])
def test_a_selection_of_groups_and_places_never_vanishes(picked: list[int], groups: int) -> None:
    """Of 2 groups x 2 places the first and the last are both gone without the first group and the second place."""
    model = ir.from_proto(
        parse(f"""(float[N,3,8,8] x, float[4,3,1,1] w, float[4,2,1,1] g, float[3,4,1,1] v, float[3,{len(picked)},1,1] u)
        => (float[N,3,8,8] y, float[N,3,8,8] z) <int64[{len(picked)}] order = {{{", ".join(map(str, picked))}}}> {{
        a = Conv(x, w)
        b = Conv<group: int = 2>(a, g)
        y = Conv(b, v)
        c = Gather<axis: int = 1>(a, order)
        z = Conv(c, u)
    }}""")
    )
    channels = analyse(model)
    assert len(channels.groups) == groups
    for removed in itertools.product(*(group.units for group in channels.groups)):
        dead = channels.nobody()
        dead[list(removed)] = True
        rewritten, zeroed = (ir.to_proto(excise(model, channels, dead, zero=zero)[0]) for zero in (False, True))
        onnx.checker.check_model(rewritten, full_check=True)
        assert_same_answers(zeroed, rewritten)


@pytest.mark.parametrize(
    ("constant", "divisor", "held"), [("w", 1, False), ("w", 2, True), ("o", 4, False), ("o", 8, True)]
)
def test_a_size_is_held_where_it_may_come_to_no_multiple(constant: str, divisor: int, held: bool) -> None:
    """Six channels lose one at a time along `w`, and four at a time along `o`."""
    channels = analyse(
        ir.from_proto(
            parse("""(float[N,3,2,2] x, float[6,3,1,1] w, float[24,5] o) => (float[N,5] y) {
        a = Conv(x, w)
        f = Flatten(a)
        y = MatMul(f, o)
    }""")
        )
    )
    use = next(use for use in channels.flow.uses if use.value.name == constant)
    channels.flow.followers.append(Follower(use.node, use.index, 0, use.axes[0], divisor))
    assert hold_what_goes_wrong(channels.flow, channels) == held
    assert held == (DIVIDES_BADLY in {barrier.reason for barrier in channels.flow.barriers})
