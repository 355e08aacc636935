"""Every head, every group of a convolution gives up channels of its own: where it may, where it may not, and how."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from pydantic import TypeAdapter

from darwinc import graph
from darwinc.calibrators.meetings import find_meetings
from darwinc.channels import Channels, analyse
from darwinc.console import Terminal
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.statistics import ReaderStatistics
from darwinc.matching import find_blocks, matched
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise, Kept, excise
from darwinc.pipeline import Job
from darwinc.report_schema import Axes
from darwinc.torch_graph import TorchGraph
from tests.surgery import assert_same_answers, parse

GROUPED = """(float[N,3,8,8] x, float[6,3,1,1] w1, float[6] b1, float[4,3,3,3] w2, float[5,4,1,1] w3)
    => (float[N,5,6,6] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    g = Conv<group: int = 2>(r, w2)
    s = Relu(g)
    y = Conv(s, w3)
}"""
"""Two groups of three channels, which make two each."""

ATTENTION = """(float[N,5,8] x, float[8,12] wq, float[8,12] wk, float[8,12] wv, float[12,8] wo, int64[4] split,
    int64[3] merge) => (float[N,5,8] y) {{
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qh = Transpose<perm: ints = [0, 2, 1, 3]>(q4)
    kh = Transpose<perm: ints = [0, 2, 3, 1]>(k4)
    vh = Transpose<perm: ints = [0, 2, 1, 3]>(v4)
    {scores}
    p = Softmax<axis: int = 3>(scores)
    m = MatMul(p, vh)
    mt = Transpose<perm: ints = [0, 2, 1, 3]>(m)
    {merged}
    y = MatMul(flat, wo)
}}"""
"""Three heads of four dimensions."""

PLAIN_SCORES, PLAIN_MERGE = "scores = MatMul(qh, kh)", "flat = Reshape(mt, merge)"


NUMBERS = {
    "split": [0, 0, 3, 4], "merge": [0, 0, -1], "order": [2, 0, 3, 1],
    "last": [-1], "one": [1], "two": [2], "three": [3],
}  # fmt: skip

DECLARED = ("split", "merge")


def attention(scores: str = PLAIN_SCORES, merged: str = PLAIN_MERGE) -> onnx.ModelProto:
    """With constants for whatever is done to queries or to the result."""
    extra = ", ".join(f"int64[{len(numbers)}] {name}" for name, numbers in NUMBERS.items() if name not in DECLARED)
    text = ATTENTION.format(scores=scores, merged=merged)
    text = text.replace("int64[4] split,", f"float[4] t1, float[3,1,4] t2, {extra}, int64[4] split,")
    proto = parse(text)
    for tensor in proto.graph.initializer:
        if tensor.name in NUMBERS:
            tensor.CopyFrom(numpy_helper.from_array(np.array(NUMBERS[tensor.name], np.int64), tensor.name))
    return proto


def sizes(channels: Channels) -> list[tuple[int, int]]:
    return [(len(blocks.rows), len(blocks.units)) for blocks in find_blocks(channels)]


def cut_by_rank(proto: onnx.ModelProto, losses: np.ndarray, count: int) -> Kept:
    """Let the `count` units of lowest rank of every group of positions die; what was kept, after the proof."""
    model = ir.from_proto(proto)
    found = analyse(model)
    channels, dead = matched(found, losses), found.nobody()
    for blocks in find_blocks(found):
        dead[blocks.units[: min(count, len(blocks.units) - 1)]] = True
    rewritten, excision = excise(model, channels, dead)
    zeroed, _ = excise(model, channels, dead, zero=True)
    onnx.checker.check_model(ir.to_proto(rewritten), full_check=True)
    assert_same_answers(ir.to_proto(zeroed), ir.to_proto(rewritten))
    return excision.kept


def test_groups_of_a_convolution_lose_channels_of_their_own() -> None:
    proto = parse(GROUPED)
    channels = analyse(ir.from_proto(proto))
    assert sizes(channels) == [(2, 3), (2, 2)]
    losses = np.zeros(channels.count)
    first, second = find_blocks(channels)
    losses[first.table()] = [[1, 2, 3], [3, 1, 2]]
    losses[second.table()] = [[1, 2], [2, 1]]
    kept = cut_by_rank(proto, losses, 1)
    assert kept["w1"] == {"0": [1, 2, 3, 5]}
    assert kept["b1"] == {"0": [1, 2, 3, 5]}
    assert kept["w2"] == {"0": [1, 2], "1": [[1, 2], [0, 2]]}
    assert kept["w3"] == {"1": [1, 2]}


def test_groups_that_agree_have_one_list() -> None:
    proto = parse(GROUPED)
    channels = analyse(ir.from_proto(proto))
    losses = np.zeros(channels.count)
    first, _ = find_blocks(channels)
    losses[first.table()] = [[3, 1, 2], [3, 1, 2]]
    assert cut_by_rank(proto, losses, 2)["w2"] == {"0": [1, 3], "1": [0]}


def test_a_group_that_is_gone_has_a_list_too() -> None:
    proto = parse(GROUPED)
    model = ir.from_proto(proto)
    channels = analyse(model)
    first, _ = find_blocks(channels)
    losses = np.zeros(channels.count)
    losses[first.table()] = [[1, 2, 3], [3, 1, 2]]
    channels = matched(channels, losses)
    dead = channels.nobody()
    dead[[first.units[0], first.rows[0]]] = True
    rewritten, excision = excise(model, channels, dead)
    zeroed, _ = excise(model, channels, dead, zero=True)
    assert_same_answers(ir.to_proto(zeroed), ir.to_proto(rewritten))
    assert excision.kept["w2"] == {"0": [2, 3], "1": [0, 2]}
    assert graph.constants(rewritten)["w2"].shape.numpy() == (2, 2, 3, 3)


def test_heads_lose_dimensions_of_their_own() -> None:
    proto = attention()
    channels = analyse(ir.from_proto(proto))
    assert sizes(channels) == [(3, 4), (3, 4)]
    losses = np.zeros(channels.count)
    for blocks in find_blocks(channels):
        losses[blocks.table()] = [[1, 2, 3, 4], [4, 1, 2, 3], [3, 4, 1, 2]]
    kept = cut_by_rank(proto, losses, 1)
    own = [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert kept["wq"] == kept["wk"] == kept["wv"] == {"1": own}
    assert kept["wo"] == {"0": own}


def test_units_stand_for_positions_of_the_same_rank() -> None:
    channels = analyse(ir.from_proto(attention()))
    random, losses = np.random.default_rng(0), np.zeros(channels.count)
    for blocks in find_blocks(channels):
        losses[blocks.table()] = random.random((3, 4))
    found = matched(channels, losses)
    for blocks in find_blocks(channels):
        table = blocks.table()
        for rank, unit in enumerate(blocks.units):
            wanted = np.sort(losses[table], axis=1)[:, rank]
            own = (found.owners[table] == unit).any(axis=2)
            assert own.sum(axis=1).tolist() == [1, 1, 1]
            np.testing.assert_array_equal(losses[table][own], wanted)
    np.testing.assert_array_equal(np.sort(found.owners.ravel()), np.sort(channels.owners.ravel()))


def test_nothing_is_matched_where_axes_do_not_split() -> None:
    text = "(float[N,3,8,8] x, float[6,3,1,1] w, float[5,6,1,1] v) => (y) { a = Conv(x, w)\n y = Conv(a, v)\n }"
    channels = analyse(ir.from_proto(parse(text)))
    assert matched(channels, np.zeros(channels.count)) is channels


SEES_POSITIONS = {
    "a factor per dimension": "q2 = Mul(qh, t1)",
    "a factor per head and dimension": "q2 = Mul(qh, t2)",
    "dimensions in another order": "q2 = Gather<axis: int = 3>(qh, order)",
    "a sum over heads": "t = ReduceSum<keepdims: int = 1>(qh, one)\n q2 = Mul(qh, t)",
    "unit length over heads": "q2 = LpNormalization<axis: int = 1>(qh)",
    "a running sum over heads": "q2 = CumSum(qh, one)",
    "heads that look at each other": """t = Transpose<perm: ints = [0, 1, 3, 2]>(q4)
        u = MatMul(q4, t)
        q5 = MatMul(u, q4)
        q2 = Transpose<perm: ints = [0, 2, 1, 3]>(q5)""",
    "every head times every head": """t = Unsqueeze(q4, two)
        u = Unsqueeze(q4, three)
        v5 = Mul(t, u)
        q5 = ReduceSum<keepdims: int = 0>(v5, two)
        q2 = Transpose<perm: ints = [0, 2, 1, 3]>(q5)""",
}
"""What may be done to the queries, so that it matters which position each head gives up."""

HOLDS_VALUES_TOO = (
    "unit length over heads",
    "a running sum over heads",
    "heads that look at each other",
    "every head times every head",
)
"""In the first two whole heads must stay, in the others heads meet: the dimensions of values keep step as well."""


@pytest.mark.parametrize("name", SEES_POSITIONS)
def test_heads_keep_step_where_something_sees_positions(name: str) -> None:
    """What is done to the queries says nothing of the values, unless it is the heads that meet."""
    proto = attention(f"{SEES_POSITIONS[name]}\n scores = MatMul(q2, kh)")
    channels = analyse(ir.from_proto(proto))
    free = {cell for blocks in find_blocks(channels) for cell in blocks.cells.tolist()}
    assert not free & cells_of(channels, "wq")
    assert (free >= cells_of(channels, "wv")) == (name not in HOLDS_VALUES_TOO)
    cut_by_rank(proto, np.random.default_rng(1).random(channels.count), 2)


def test_heads_keep_step_where_dimensions_vary_slowest() -> None:
    """Dimensions x heads, merged: which comes first would depend on what each head kept."""
    proto = attention(merged="mu = Transpose<perm: ints = [0, 1, 3, 2]>(mt)\n flat = Reshape(mu, merge)")
    channels = analyse(ir.from_proto(proto))
    (blocks,) = find_blocks(channels)
    assert set(blocks.cells.tolist()) >= cells_of(channels, "wq")
    assert not set(blocks.cells.tolist()) & cells_of(channels, "wv")
    cut_by_rank(proto, np.random.default_rng(1).random(channels.count), 2)


def test_a_bound_names_a_position() -> None:
    """As many dimensions lie between the first and the last in every head, but not wherever two of them went."""
    scores = "q2 = Slice(qh, one, last, three)\n k2 = Slice(kh, one, last, two)\n scores = MatMul(q2, k2)"
    proto = attention(scores)
    channels = analyse(ir.from_proto(proto))
    ends = cells_of(channels, "wq") - {cell for blocks in find_blocks(channels) for cell in blocks.cells.tolist()}
    assert len(ends) >= 6
    cut_by_rank(proto, np.random.default_rng(2).random(channels.count), 1)


@pytest.mark.parametrize("picked", [[2, 3, 4, 5], [0, 1, 6, 7], [0, 5], [*range(8), 0, 5, 2, 7]])
def test_heads_keep_step_where_an_axis_has_some_of_their_positions(picked: list[int]) -> None:
    """Of two heads of four: what an axis with a part of each loses would depend on what each head gave up."""
    listed = f"int64[{len(picked)}] i = {{{', '.join(map(str, picked))}}}"
    proto = parse(f"""(float[N,5,8] x, float[8,8] w, float[{len(picked)},3] v, float[8,3] u) => (float[N,5,3] y)
        <int64[4] s = {{0, 0, 2, 4}}, int64[3] m = {{0, 0, 8}}, {listed}> {{
        a = MatMul(x, w)
        b = Reshape(a, s)
        r = Relu(b)
        f = Reshape(r, m)
        g = Gather<axis: int = 2>(a, i)
        h = MatMul(g, v)
        k = MatMul(f, u)
        y = Add(h, k)
    }}""")
    channels = analyse(ir.from_proto(proto))
    assert not find_blocks(channels)
    for group in channels.groups:
        dead = channels.nobody()
        dead[group.units[1:]] = True
        rewritten, zeroed = (excise(ir.from_proto(proto), channels, dead, zero=zero)[0] for zero in (False, True))
        assert_same_answers(ir.to_proto(zeroed), ir.to_proto(rewritten))


def cells_of(channels: Channels, constant: str) -> set[int]:
    """The components along the outputs of a projection."""
    ids = next(use.axes[1] for use in channels.flow.uses if use.value.name == constant)
    return set(channels.component[ids].tolist()) - {0}


def test_losses_of_components_are_those_of_units_of_their_own() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((200, 6))
    covariance, weights = np.cov(rows.T), random.standard_normal((4, 6))
    components = np.array([3, 3, 5, 6, 7, 0])

    def reader() -> list[ReaderStatistics]:
        return [ReaderStatistics(components, covariance, weights.T @ weights, components, None)]

    alone = DarwinianScore(reader()).losses_of_components(9)
    np.testing.assert_allclose(alone[[3, 5, 6, 7]], DarwinianScore(reader()).losses(np.array([3, 5, 6, 7])))
    assert alone[[0, 1, 2, 4, 8]].tolist() == [0.0] * 5
    owners = np.arange(9)[:, None]
    owners[[5, 6]] = 1
    score = DarwinianScore(reader())
    score.assign(owners)
    joined = np.where(np.isin(components, (5, 6)), 1, components)
    merged = [ReaderStatistics(joined, covariance, weights.T @ weights, joined, None)]
    np.testing.assert_allclose(score.losses(np.array([1])), DarwinianScore(merged).losses(np.array([1])))


def test_a_reader_says_nothing_of_units_it_is_blind_for() -> None:
    components = np.array([1, 2])
    reader = ReaderStatistics(components, np.eye(2), np.eye(2), components, None, blind=np.array([7]))
    score = DarwinianScore([reader])
    score.assign(np.array([[0, 0], [7, 4], [7, 5]]).repeat([1, 1, 1], axis=0))
    assert score.losses(np.array([7]))[0] == 0
    assert (score.losses(np.array([4, 5])) > 0).all()


def test_kept_lists_fit_the_report() -> None:
    proto = parse(GROUPED)
    first, _ = find_blocks(channels := analyse(ir.from_proto(proto)))
    losses = np.zeros(channels.count)
    losses[first.table()] = [[1, 2, 3], [3, 1, 2]]
    kept = cut_by_rank(proto, losses, 1)
    assert TypeAdapter(dict[str, Axes]).validate_json(json.dumps(kept), strict=True) == kept
    assert kept["w2"]["1"] == [[1, 2], [0, 2]]


def test_the_smallest_filters_of_every_group_go_first() -> None:
    """The fitness, not the place, says what each group gives up."""
    proto = parse(GROUPED)
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}
    weights["w1"][[2, 3]] *= 1e-3
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    model = ir.from_proto(proto)
    job = Job(model, analyse(model), Terminal(quiet=True))
    group = next(group.id for group in job.channels.groups if len(group) == 3)
    with job.terminal.stage("cull") as stage:
        assert Cull(amount=0.2, fitness="l2", align=1, only=(group,)).run(job, stage)
        assert Excise().run(job, stage)
    assert job.excision is not None
    assert job.excision.kept["w1"] == {"0": [0, 1, 4, 5]}
    assert job.excision.kept["w2"] == {"1": [[0, 1], [1, 2]]}


def test_queries_and_keys_are_measured_head_by_head() -> None:
    """1/2 E[t^2] of every dimension of every head, told to the component that is there."""
    model = ir.from_proto(attention())
    channels = analyse(model)
    (meeting,) = find_meetings(TorchGraph(model), channels).values()
    queries = cells_of(channels, "wq")
    assert meeting.rows == 1
    assert set(meeting.components.ravel().tolist()) <= {
        cell for b in find_blocks(channels) for cell in b.cells.tolist()
    }
    owners = channels.owners[meeting.components]
    flat = channels.owners[sorted(queries)].reshape(3, 4, -1)
    np.testing.assert_array_equal(np.sort(owners), np.sort(flat))
    x, gradient = (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    meeting.x = x
    meeting.add(gradient)
    found = meeting.conclude(2)
    wanted = (x * gradient).double().sum(2).square().mean(0)
    np.testing.assert_allclose([np.diag(part.gram) for part in found], wanted, rtol=1e-5)
    assert all(part.blind.tolist() == meeting.blind.tolist() for part in found)
    assert len(meeting.blind) == 3
