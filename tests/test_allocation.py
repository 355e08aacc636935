"""Widths of all groups at once: exact on small problems, honest about losses, on prices that fall in steps and rise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from darwinc.channels import Channels, analyse
from darwinc.cost import CostModel
from darwinc.fitness import Fitness
from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.static import StaticScore
from darwinc.fitness.statistics import ReaderStatistics
from darwinc.selection import (
    SHORTFALL,
    TOLERANCE,
    Limits,
    Path,
    allocate,
    allocation,
    floor,
    furthest,
    quantum,
    reachable,
    replay,
    select,
    trace,
)
from tests.surgery import parse


@dataclass
class Steps:
    """A price in milliseconds: each group takes a time per started block of its width, more off the block than on it.

    Times multiply with those of the next group, as in a chain of layers; so they are bilinear, stepped, and rise.
    """

    widths: list[int]
    block: int = 8
    penalty: float = 1.3
    whole: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.whole = list(self.widths)

    def _blocks(self, width: int) -> float:
        return -(-width // self.block) * (1.0 if width % self.block == 0 else self.penalty)

    def current(self) -> float:
        sizes = [3.0, *(self._blocks(width) for width in self.widths), 10.0]
        return 0.01 * sum(one * two for one, two in itertools.pairwise(sizes))

    def saved(self, group: int, units: int) -> float:
        before = self.current()
        self.remove(group, units)
        after = self.current()
        self.remove(group, -units)
        return before - after

    def remove(self, group: int, units: int) -> None:
        self.widths[group] -= units


def chain(widths: Sequence[int], sides: Sequence[int] = ()) -> Channels:
    """The channels of convolutions in a row, 1x1 where no sides are given."""
    sizes = [3, *widths, 10]
    kernels = [*sides, *[1] * len(sizes)]
    weights = ", ".join(
        f"float[{after},{before},{kernels[place]},{kernels[place]}] w{place}"
        for place, (before, after) in enumerate(itertools.pairwise(sizes))
    )
    body = "\n".join(f"h{place + 1} = Conv(h{place}, w{place})" for place in range(len(sizes) - 1))
    side = 16 + sum(kernels[: len(sizes) - 1])
    return analyse(
        ir.from_proto(
            parse(f"(float[N,3,{side},{side}] h0, {weights}) => (float[N,K,A,B] h{len(sizes) - 1}) {{ {body} }}")
        )
    )


def scores(channels: Channels, seed: int) -> StaticScore:
    random, groups = np.random.default_rng(seed), [group.units for group in channels.groups]
    return StaticScore({int(unit): float(random.uniform(0.1, 1) ** 3) for units in groups for unit in units}, groups)


def limits_of(channels: Channels, align: int = 1, max_share: float = 0.9) -> Limits:
    return Limits(align, max_share, [True] * len(channels.groups))


def removals(channels: Channels, limits: Limits, steps: Sequence[int]) -> list[list[int]]:
    """All numbers of units that each group may lose."""
    found = []
    for group, step in zip(channels.groups, steps, strict=True):
        least = floor(group, step, limits.max_share)
        found.append([0, *(len(group) - width for width in range(least, len(group)) if width % step == 0)])
    return found


def savings(channels: Channels, choices: Sequence[Sequence[int]]) -> np.ndarray:
    """What every combination saves, counted on the products themselves."""
    model, base = CostModel(channels), channels.nobody()
    whole = model.parameters(base)
    found = []
    for removed in itertools.product(*choices):
        dead = channels.nobody()
        for group, count in zip(channels.groups, removed, strict=True):
            dead[group.units[:count]] = True
        found.append(whole - model.parameters(dead))
    return np.array(found)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    widths=some.lists(some.integers(2, 9), min_size=1, max_size=3),
    sides=some.lists(some.sampled_from([1, 3]), min_size=4, max_size=4),
    share=some.floats(0.02, 0.95),
    align=some.sampled_from([1, 2, 4]),
    seed=some.integers(0, 3),
    strict=some.booleans(),
)
def test_no_target_that_any_widths_meet_is_missed_by_more_than_a_per_cent(
    widths: list[int], sides: list[int], share: float, align: int, seed: int, strict: bool
) -> None:
    channels = chain(widths, sides)
    limits = Limits(align, 0.9, [True] * len(channels.groups), strict)
    terms = CostModel(channels).terms("sparsity")
    whole, need = terms.current(), share * terms.current()
    selection = select(channels, terms, scores(channels, seed), need, limits)
    window = (need - (0 if strict else SHORTFALL * whole), need + SHORTFALL * whole)
    found = savings(channels, removals(channels, limits, [1] * len(widths)))
    if ((window[0] <= found) & (found <= window[1])).any():
        assert window[0] <= selection.saved <= window[1]
    aligned = savings(channels, removals(channels, limits, [quantum(group, align) for group in channels.groups]))
    if selection.finer and window[0] <= selection.saved <= window[1]:
        assert not ((window[0] <= aligned) & (aligned <= window[1])).any()
    assert selection.saved == CostModel(channels).parameters(channels.nobody()) - CostModel(channels).parameters(
        selection.dead
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    widths=some.lists(some.integers(4, 10), min_size=2, max_size=3),
    share=some.floats(0.1, 0.7),
    seed=some.integers(0, 5),
)
def test_allocation_is_the_best_there_is_on_small_problems(widths: list[int], share: float, seed: int) -> None:
    """On a price that falls in steps and rises."""
    channels, price = chain(widths), Steps(list(widths), block=2)
    limits, fitness = limits_of(channels), scores(channels, seed)
    path = trace(channels, CostModel(channels).terms("macs"), fitness.fork(), limits)
    curves, whole = path.curves(), price.current()
    window = ((share - TOLERANCE) * whole, (share + TOLERANCE) * whole)
    losses, inside = [], []
    for removed in itertools.product(*removals(channels, limits, [1] * len(widths))):
        saved = whole - Steps([width - count for width, count in zip(widths, removed, strict=True)], block=2).current()
        if window[0] <= saved <= window[1]:
            inside.append(removed)
            losses.append(sum(curve[count] for curve, count in zip(curves, removed, strict=True)))
    found = allocate(channels, price, curves, limits, window)
    assert price.widths == widths, "asking changes nothing"
    if found is None:
        assert not inside
        return
    assert tuple(found) in inside
    assert sum(curve[count] for curve, count in zip(curves, found, strict=True)) == pytest.approx(min(losses))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_the_search_comes_near_the_best_where_not_everything_is_tried(
    share: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = [32, 48, 40, 64]
    channels, limits = chain(widths), Limits(4, 0.9, [True] * len(widths))
    path = trace(channels, CostModel(channels).terms("macs"), scores(channels, seed), limits)
    price, curves = Steps(list(widths)), path.curves()
    window = ((share - 0.01) * price.current(), (share + 0.01) * price.current())
    best = allocate(channels, price, curves, limits, window, divisors=(1,))
    monkeypatch.setattr(allocation, "MOST_COMBINATIONS", 0)
    found = allocate(channels, price, curves, limits, window, divisors=(1,))
    assert best is not None
    assert found is not None
    losses = [
        sum(float(curve[count]) for curve, count in zip(curves, removed, strict=True)) for removed in (best, found)
    ]
    assert losses[0] <= losses[1] + 1e-12
    assert losses[1] <= 1.1 * losses[0]


def test_widths_keep_to_each_groups_own_multiple() -> None:
    channels, price = chain([64, 96, 64]), Steps([64, 96, 64], block=16)
    limits = Limits(8, 0.9, [True, True, True], multiples=[16, 8, 32])
    path = trace(channels, CostModel(channels).terms("macs"), scores(channels, 0), limits)
    window = (0.49 * price.current(), 0.51 * price.current())
    found = allocate(channels, price, path.curves(), limits, window)
    assert found is not None
    left = [width - count for width, count in zip((64, 96, 64), found, strict=True)]
    assert [width % multiple for width, multiple in zip(left, (16, 8, 16), strict=True)] == [0, 0, 0]


def test_the_furthest_is_what_exhaustion_finds() -> None:
    channels, price = chain([12, 9, 10]), Steps([12, 9, 10], block=4, penalty=2.0)
    limits = limits_of(channels, max_share=0.7)
    choices = removals(channels, limits, [1, 1, 1])
    times = [
        Steps([12 - one, 9 - two, 10 - three], block=4, penalty=2.0).current()
        for one, two, three in itertools.product(*choices)
    ]
    assert furthest(channels, price, limits) == pytest.approx(price.current() - min(times))
    assert price.widths == [12, 9, 10]


def readers(channels: Channels, seed: int, shared: bool) -> list[ReaderStatistics]:
    """Statistics at the readers of each group alone, and where `shared` at one of all of them too."""
    random = np.random.default_rng(seed)
    slots = [group.units for group in channels.groups]
    slots += [np.concatenate(slots)] if shared else []
    found = []
    for units in slots:
        samples, weights = random.normal(size=(300, len(units))), random.normal(size=(len(units), 5))
        samples[:, ::3] = samples[:, 1::3][:, : samples[:, ::3].shape[1]].repeat(3, axis=1)[
            :, : samples[:, ::3].shape[1]
        ]
        found.append(ReaderStatistics(units, np.cov(samples.T), weights @ weights.T, units, None))
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_a_replayed_selection_costs_what_its_deaths_cost(shared: bool) -> None:
    """Losses of the replay are those of a score that is asked for the same deaths in the same order."""
    channels = chain([16, 24, 16])
    limits, terms = limits_of(channels, 4), CostModel(channels).terms("sparsity")
    fitness = DarwinianScore(readers(channels, 1, shared))
    path = trace(channels, terms, fitness.fork(), limits)
    assert [len(curve) for curve in path.curves()] == [15, 22, 15]
    removed = [4, 20, 8]
    again: Fitness = fitness.fork()
    selection = replay(channels, terms, fitness, limits, path, removed)
    total, living = 0.0, [group.units for group in channels.groups]
    done = [0, 0, 0]
    for step in path.steps:
        count = min(len(step.units), removed[step.group] - done[step.group])
        if count > 0:
            units, loss = again.weakest(living[step.group], count)
            again.remove(units)
            living[step.group] = living[step.group][~np.isin(living[step.group], units)]
            done[step.group] += count
            total += loss
    assert selection.loss == pytest.approx(total, rel=1e-9)
    assert [int(selection.dead[group.units].sum()) for group in channels.groups] == removed
    for group, alive in zip(channels.groups, living, strict=True):
        assert not selection.dead[alive].any()
        assert len(alive) == len(group) - int(selection.dead[group.units].sum())


def test_a_fork_dies_alone() -> None:
    channels = chain([16, 24])
    fitness = DarwinianScore(readers(channels, 2, shared=True))
    units = channels.groups[0].units
    before = fitness.losses(units)
    fork = fitness.fork()
    fork.remove(units[:5])
    np.testing.assert_array_equal(fitness.losses(units), before)
    assert fork.age(units) == fitness.age(units) - 10
    assert not np.allclose(fork.losses(units[5:]), before[5:])


def test_the_path_reaches_every_floor_and_leaves_the_price_alone() -> None:
    channels = chain([40, 64, 7])
    terms, limits = CostModel(channels).terms("macs"), limits_of(channels, 8, 0.8)
    whole, told = terms.current(), list[float]()
    path = trace(channels, terms, scores(channels, 4), limits, told.append)
    assert terms.current() == whole
    assert path.removed(len(path.steps)) == [
        len(group) - floor(group, 1, limits.max_share) for group in channels.groups
    ]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert all((np.diff(curve) >= 0).all() for curve in path.curves())
    assert isinstance(path, Path)


def test_the_greedy_is_left_alone_where_it_meets_the_target() -> None:
    channels = chain([64, 64, 64], [3, 3, 3, 1])
    terms, limits = CostModel(channels).terms("sparsity"), limits_of(channels, 8)
    selection = select(channels, terms, scores(channels, 1), 0.5 * terms.current(), limits)
    assert not selection.finer
    assert abs(selection.saved / (terms.current() + selection.saved) - 0.5) <= SHORTFALL
    assert selection.saved < reachable(channels, CostModel(channels).terms("sparsity"), limits)
