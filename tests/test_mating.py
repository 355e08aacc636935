"""Strengths of several parents against their formulas, and mates against the chances that they have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.genome import Genome
from darwinc.evolution.mating import Parent, choose_mates, distance, mated, merits, needed, shares, votes

COUNT = 6


def parent(
    name: str,
    fitness: float,
    strengths: list[float],
    dead: list[int] | None = None,
    credit: list[list[float]] | None = None,
    merit: list[float] | None = None,
) -> Parent:
    gone = np.isin(np.arange(len(strengths)), dead or [])
    appraisal = Appraisal(
        np.array(strengths),
        credit=np.zeros((0, 0)) if credit is None else np.array(credit),
        merit=np.array(merit or []),
    )
    return Parent(name, Genome(gone), appraisal, fitness)


A = parent("a", 3.0, [0.1, 0.2, 0.4, 0.8, 1.0, 0.0], [5])
B = parent("b", 1.0, [0.5, 0.5, 0.1, 0.0, 0.2, 0.6], [3])


def test_shares_are_of_fitness() -> None:
    assert shares([3.0, 1.0]).tolist() == [0.75, 0.25]
    assert shares([3.0, -1.0, float("nan"), float("-inf")]).tolist() == [1, 0, 0, 0]
    assert shares([-1.0, -2.0]).tolist() == [0.5, 0.5]
    assert shares([]).tolist() == []


def test_the_weighted_sum_by_hand() -> None:
    found, synapses = mated([A, B], "sum")
    assert np.allclose(found, [0.2, 0.275, 0.325, 0.6, 0.8, 0.15], rtol=1e-12)
    assert synapses == {}


def test_the_product_lives_where_all_do() -> None:
    found, _ = mated([A, B], "product")
    wanted = np.array([0.1, 0.2, 0.4, 0, 1, 0]) ** 0.75 * np.array([0.5, 0.5, 0.1, 0, 0.2, 0]) ** 0.25
    assert np.allclose(found, wanted, rtol=1e-12)


def test_a_quorum_has_to_have_it() -> None:
    third = parent("c", 4.0, [0.5] * 6, [0, 5])
    found, _ = mated([A, B, third], "quorum", 2)
    total, _ = mated([A, B, third], "sum")
    assert votes([A, B, third]).tolist() == [2, 3, 3, 2, 3, 1]
    assert found[:5].tolist() == total[:5].tolist()
    assert found[5] == 0 < total[5]
    assert needed(3, "quorum", 5) == needed(3, "product", 1) == 3


def test_one_parent_passes_on_what_it_has() -> None:
    for how in ("sum", "product", "quorum"):
        assert np.allclose(mated([A], how, 1)[0], A.appraisal.clusters, rtol=1e-12)


def with_synapses(fitness: float, strengths: list[float], mask: list[bool] | None) -> Parent:
    values = np.array([strengths], np.float32)
    masks = {} if mask is None else {"w": np.array([mask])}
    nobody = np.zeros(2, np.bool_)
    return Parent("p", Genome(nobody, masks), Appraisal(np.ones(2), {"w": values}), fitness)


def test_synapses_mate_like_clusters() -> None:
    one = with_synapses(1.0, [0.2, 0.4, 0.6], [True, False, True])
    other = with_synapses(3.0, [0.8, 0.8, 0.2], None)
    for how, wanted in (
        ("sum", [0.65, 0.6, 0.3]),
        ("product", [0.2**0.25 * 0.8**0.75, 0, 0.6**0.25 * 0.2**0.75]),
        ("quorum", [0.65, 0.0, 0.3]),
    ):
        found = mated([one, other], how, 2)[1]["w"]
        assert found.dtype == np.float32
        assert np.allclose(found, [wanted], rtol=1e-6)


def test_favour_by_hand() -> None:
    credit = [[0.5, 0.0], [0.25, 0.25], [0.0, 0.75], [0.25, 0.0]]
    good = parent("a", 1.0, [0.4] * 4, None, credit, [0.9, 0.6])
    bad = parent("b", 1.0, [0.4] * 4, None, credit, [0.3, 0.6])
    factors = merits([good, bad])
    assert np.allclose(factors[0], [1.5, 1.25, 1, 1.5], rtol=1e-12)
    assert np.allclose(factors[1], [0.5, 0.75, 1, 0.5], rtol=1e-12)
    # Who has nothing to do with any output, or networks of which nothing is known, keep their strengths.
    assert merits([A, B]) == [1.0, 1.0]
    assert merits([good, A]) == [1.0, 1.0]
    idle = parent("c", 1.0, [0.4] * 2, None, [[1.0], [0.0]], [0.0])
    assert np.asarray(merits([idle, idle])[0]).tolist() == [1, 1]
    other = parent("b", 1.0, [0.4] * 4, [0], credit, [0.3, 0.6])
    favoured, plain = mated([good, other], "sum", favour=True)[0], mated([good, other], "sum")[0]
    assert favoured[0] > plain[0] == 0.2


def test_distances_by_hand() -> None:
    assert distance(A.genome, A.genome) == 0
    assert distance(A.genome, B.genome) == pytest.approx(2 / 6)
    one = Genome(A.genome.dead, {"v": np.array([True, False]), "w": np.array([True, False])})
    other = Genome(A.genome.dead, {"w": np.array([False, True])})
    assert distance(one, other) == pytest.approx(3 / 4) == distance(other, one)


def drawn(how: str, count: int, draws: int = 3000) -> dict[tuple[str, ...], float]:
    far = parent("c", 1.0, [0.5] * 6, [0, 1, 2, 3, 5])
    random, pool = np.random.default_rng(2), [A, B, far]
    found: dict[tuple[str, ...], float] = {}
    for _ in range(draws):
        key = tuple(mate.id for mate in choose_mates(pool, count, how, random))
        found[key] = found.get(key, 0) + 1 / draws
    return found


def test_mates_are_drawn_by_their_chances() -> None:
    # Four deviations of a share of 3000 draws are below 0.037.
    fitness, uniform, distant = drawn("fitness", 1), drawn("uniform", 1), drawn("distant", 2)
    assert fitness == pytest.approx({("a",): 0.6, ("b",): 0.2, ("c",): 0.2}, abs=0.037)
    assert uniform == pytest.approx({("a",): 1 / 3, ("b",): 1 / 3, ("c",): 1 / 3}, abs=0.037)
    # From a, b differs in two clusters and c in four; both are as fit.
    assert distant[("a", "c")] == pytest.approx(0.6 * 4 / 6, abs=0.037)
    assert distant[("a", "b")] == pytest.approx(0.6 * 2 / 6, abs=0.037)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from(["fitness", "uniform", "distant"]))
@settings(max_examples=60, deadline=None)
def test_mates_are_different_networks(seed: int, count: int, how: str) -> None:
    pool = [A, parent("x", 0.0, [0.1] * 6, [1]), parent("y", float("nan"), [0.1] * 6, [2]), B]
    mates = choose_mates(pool, count, how, np.random.default_rng(seed))
    assert len({mate.id for mate in mates}) == len(mates) == min(count, 4)
    assert mates == choose_mates(pool, count, how, np.random.default_rng(seed))
