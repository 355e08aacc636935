"""Targets are met, alignment is kept or its breach is told, and nobody dies out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from darwinc.channels import ChannelGroup, Channels, Member, analyse
from darwinc.cost import CostModel, count_parameters, measure
from darwinc.fitness.static import StaticScore
from darwinc.passes.excise import excise
from darwinc.selection import SHORTFALL, Limits, Selection, floor, quantum, reachable, select
from tests.surgery import parse

WIDE = """(float[N,3,16,16] x, float[64,3,3,3] w0, float[96,64,3,3] w1, float[128,96,3,3] w2, float[64,128,1,1] w3,
    float[10,64] f) => (float[N,10] y) {
    a = Conv(x, w0)
    b = Relu(a)
    c = Conv(b, w1)
    d = Relu(c)
    e = Conv(d, w2)
    g = Conv(e, w3)
    h = GlobalAveragePool(g)
    i = Flatten(h)
    y = Gemm<transB: int = 1>(i, f)
}"""
DEPTHWISE = """(float[N,3,16,16] x, float[32,3,1,1] w0, float[32,1,3,3] d0, float[48,32,1,1] w1, float[48,1,3,3] d1,
    float[10,48] f) => (float[N,10] y) {
    a = Conv(x, w0)
    b = Conv<group: int = 32>(a, d0)
    c = Conv(b, w1)
    d = Conv<group: int = 48>(c, d1)
    h = GlobalAveragePool(d)
    i = Flatten(h)
    y = Gemm<transB: int = 1>(i, f)
}"""
NARROW = """(float[N,3,16,16] x, float[12,3,3,3] w0, float[12,12,3,3] w1, float[20,12,3,3] w2, float[10,20] f)
    => (float[N,10] y) {
    a = Conv(x, w0)
    b = Conv(a, w1)
    c = Conv(b, w2)
    h = GlobalAveragePool(c)
    i = Flatten(h)
    y = Gemm<transB: int = 1>(i, f)
}"""


def culled(
    text: str, share: float, *, kind: str = "sparsity", align: int = 8, max_share: float = 0.9, seed: int = 0
) -> tuple[ir.Model, Channels, Selection, int]:
    """A share of the parameters or MACs taken off a model under a random score; also the whole that the share is of."""
    model = ir.from_proto(parse(text))
    channels = analyse(model)
    random, groups = np.random.default_rng(seed), [group.units for group in channels.groups]
    scores = {int(unit): float(random.uniform(0.1, 1)) for group in groups for unit in group}
    terms = CostModel(channels).terms(kind)
    whole = terms.current()
    limits = Limits(align, max_share, [True] * len(groups))
    return model, channels, select(channels, terms, StaticScore(scores, groups), int(share * whole), limits), whole


def widths(channels: Channels, selection: Selection) -> list[int]:
    return [len(group) - int(selection.dead[group.units].sum()) for group in channels.groups]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("kind", ["sparsity", "macs"])
@pytest.mark.parametrize("text", [WIDE, NARROW], ids=["wide", "narrow"])
def test_targets_are_met_within_one_percent(text: str, kind: str, share: float) -> None:
    model, channels, selection, whole = culled(text, share, kind=kind, max_share=0.95)
    assert abs(selection.saved / whole - share) <= SHORTFALL
    rewritten, _ = excise(model, channels, selection.dead)
    before, after = measure(model), measure(rewritten)
    counted = before.macs - after.macs if kind == "macs" else before.parameters - after.parameters
    assert selection.saved == counted


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_wide_groups_keep_multiples_of_eight_or_say_what_else(share: float) -> None:
    _, channels, selection, _ = culled(WIDE, share)
    for group, width in zip(channels.groups, widths(channels, selection), strict=True):
        multiple = selection.finer.get(group.id, 8)
        assert width % multiple == 0
        assert multiple == 8 or width % 8 != 0
    aligned = [group.id not in selection.finer for group in channels.groups]
    assert sum(aligned) >= len(aligned) - 2, "a finer cut is for the rest that's missing, not for every group"


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_depthwise_groups_never_leave_their_multiple(share: float) -> None:
    _, channels, selection, _ = culled(DEPTHWISE, share)
    assert all(group.depthwise for group in channels.groups)
    assert all(width % 8 == 0 for width in widths(channels, selection))
    assert not selection.finer


def test_narrow_groups_go_by_finer_multiples_and_are_named() -> None:
    _, channels, selection, _ = culled(NARROW, 0.4)
    assert [quantum(group, 8) for group in channels.groups] == [2, 2, 4]
    lost = {
        group.id: quantum(group, 8)
        for group, width in zip(channels.groups, widths(channels, selection), strict=True)
        if width < len(group)
    }
    assert selection.narrow == lost


def group_of(width: int, *, depthwise: bool = False, multiplicity: int = 1) -> ChannelGroup:
    return ChannelGroup("g", np.arange(1, width + 1), (Member("w", 0, multiplicity),), depthwise)


@pytest.mark.parametrize(
    ("width", "depthwise", "multiplicity", "align", "step"),
    [
        (64, False, 1, 8, 8),
        (32, False, 1, 8, 8),
        (31, False, 1, 8, 4),
        (16, False, 1, 8, 4),
        (7, False, 1, 8, 1),
        (16, True, 1, 8, 8),
        (4, True, 1, 8, 8),
        (64, False, 1, 1, 1),
        (8, False, 64, 8, 1),
        (64, False, 2, 8, 4),
        (128, False, 1, 32, 32),
    ],
)
def test_the_quantum(width: int, depthwise: bool, multiplicity: int, align: int, step: int) -> None:
    assert quantum(group_of(width, depthwise=depthwise, multiplicity=multiplicity), align) == step


@pytest.mark.parametrize(
    ("width", "step", "share", "least"),
    [
        (64, 8, 0.9, 8),
        (64, 8, 1.0, 8),
        (64, 1, 1.0, 1),
        (64, 1, 0.9, 7),
        (64, 8, 0.5, 32),
        (4, 8, 1.0, 4),
        (10, 1, 0.9, 1),
    ],
)
def test_the_floor_is_never_nobody(width: int, step: int, share: float, least: int) -> None:
    assert floor(group_of(width), step, share) == least


@pytest.mark.parametrize("max_share", [0.3, 0.6, 0.9])
def test_no_group_loses_more_than_the_stated_share(max_share: float) -> None:
    _, channels, selection, _ = culled(WIDE, 1.0, max_share=max_share)
    for group, width in zip(channels.groups, widths(channels, selection), strict=True):
        assert width >= max(1, (1 - max_share) * len(group) - 1e-9)


@pytest.mark.parametrize("text", [WIDE, DEPTHWISE, NARROW], ids=["wide", "depthwise", "narrow"])
@pytest.mark.parametrize("max_share", [0.5, 0.9])
def test_what_is_reachable_is_known_before_and_is_what_the_most_greedy_gets(text: str, max_share: float) -> None:
    model, channels, selection, whole = culled(text, 1.0, max_share=max_share)
    terms = CostModel(channels).terms("sparsity")
    most = reachable(channels, terms, Limits(8, max_share, [True] * len(channels.groups)))
    assert terms.current() == whole, "asking changes nothing"
    assert selection.saved == most
    assert count_parameters(model) - count_parameters(excise(model, channels, selection.dead)[0]) == most


def test_the_whole_reachable_range_is_reached() -> None:
    channels = analyse(ir.from_proto(parse(WIDE)))
    terms = CostModel(channels).terms("sparsity")
    most = reachable(channels, terms, Limits(8, 0.9, [True] * len(channels.groups)))
    for share in np.linspace(0.02, 1, 25):
        _, _, selection, whole = culled(WIDE, share * most / terms.current())
        assert selection.saved >= share * most - 0.01 * whole


def test_groups_that_may_not_lose_anything_do_not() -> None:
    model = ir.from_proto(parse(WIDE))
    channels = analyse(model)
    eligible = [False, True, False, False]
    terms = CostModel(channels).terms("sparsity")
    scores = StaticScore({}, [group.units for group in channels.groups])
    selection = select(channels, terms, scores, 10**9, Limits(8, 0.9, eligible))
    changed = [width < len(group) for group, width in zip(channels.groups, widths(channels, selection), strict=True)]
    assert changed == eligible
    assert selection.saved == reachable(channels, CostModel(channels).terms("sparsity"), Limits(8, 0.9, eligible))


def test_the_least_fit_die_first() -> None:
    """Within one group, exactly the lowest scores."""
    channels = analyse(ir.from_proto(parse(WIDE)))
    terms, eligible = CostModel(channels).terms("sparsity"), [False, False, True, False]
    order = np.random.default_rng(3).permutation(channels.groups[2].units)
    ranks = {int(unit): float(rank + 1) for rank, unit in enumerate(order)}
    selection = select(
        channels, terms, StaticScore(ranks, [channels.groups[2].units]), 60_000, Limits(8, 0.9, eligible)
    )
    died = int(selection.dead.sum())
    assert 0 < died < 128
    assert selection.dead[order[:died]].all()


def test_the_same_seed_gives_the_same_dead_and_progress_climbs() -> None:
    one, two = (culled(WIDE, 0.5, seed=4)[2] for _ in range(2))
    assert np.array_equal(one.dead, two.dead)
    channels, told = analyse(ir.from_proto(parse(WIDE))), list[float]()
    scores = StaticScore({}, [group.units for group in channels.groups])
    limits = Limits(8, 0.9, [True] * len(channels.groups))
    select(channels, CostModel(channels).terms("sparsity"), scores, 50_000, limits, told.append)
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1.0
