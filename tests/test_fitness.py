"""The identities that make the Darwinian Score what it claims to be."""

from __future__ import annotations

import numpy as np
import pytest

from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.reader_state import invert
from darwinc.fitness.static import StaticScore
from darwinc.fitness.statistics import Matrix, ReaderStatistics, Vector
from darwinc.scoring import Scoring


def reader(
    z: Matrix, weights: Matrix, units: list[int] | None = None, gradient: Matrix | None = None
) -> ReaderStatistics:
    """Statistics of inputs z [samples, S] read through weights [outputs, S]; G [outputs, outputs] or the identity."""
    named = np.arange(1, z.shape[1] + 1) if units is None else np.asarray(units)
    centred = z - z.mean(axis=0)
    middle = np.eye(len(weights)) if gradient is None else gradient
    return ReaderStatistics(named, centred.T @ centred / len(z), weights.T @ middle @ weights, named, None)


def least_squares(statistics: ReaderStatistics, dead: list[int]) -> float:
    """1/2 tr(W_P ([C^-1]_PP)^-1 W_P'), the joint error of removing slots when the readers refit."""
    inverse, places = invert(statistics.covariance), np.ix_(dead, dead)
    return 0.5 * float(np.trace(np.linalg.solve(inverse[places], statistics.gram[places])))


def inputs(count: int = 12, samples: int = 400, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Correlated, well-conditioned inputs [samples, count] and the weights [7, count] that read them."""
    random = np.random.default_rng(seed)
    mixing = np.eye(count) + random.standard_normal((count, count)) / count
    return random.standard_normal((samples, count)) @ mixing, random.standard_normal((7, count))


def death(score: DarwinianScore, unit: int) -> float:
    cost = float(score.losses(np.array([unit]))[0])
    score.remove(np.array([unit]))
    return cost


def test_the_score_of_one_channel_is_the_rise_of_the_refitted_error() -> None:
    z, weights = inputs()
    z -= z.mean(axis=0)
    want = []
    for gone in range(z.shape[1]):
        peers = np.delete(z, gone, axis=1)
        target = np.outer(z[:, gone], weights[:, gone])
        fit, *_ = np.linalg.lstsq(peers, target, rcond=None)
        want.append(0.5 * float(np.mean(np.sum((target - peers @ fit) ** 2, axis=1))))
    got = DarwinianScore([reader(z, weights)]).losses(np.arange(1, 13))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_sequential_costs_add_up_to_the_joint_error() -> None:
    z, weights = inputs()
    statistics = reader(z, weights, gradient=np.diag(np.linspace(0.5, 2, 7)))
    order = [3, 11, 0, 7, 8]
    score = DarwinianScore([statistics])
    total = sum(death(score, slot + 1) for slot in order)
    assert total == pytest.approx(least_squares(statistics, order), rel=1e-9)
    backwards = DarwinianScore([statistics])
    assert sum(death(backwards, slot + 1) for slot in order[::-1]) == pytest.approx(total, rel=1e-9)


def test_single_costs_do_not_bound_the_joint_one_but_the_chunk_knows() -> None:
    """Of two twins each costs nothing, both together cost everything."""
    z, weights = inputs(6)
    z[:, 5] = z[:, 4]
    statistics = reader(z, weights)
    score = DarwinianScore([statistics])
    alone = score.losses(np.array([5, 6]))
    everything = least_squares(statistics, [4, 5])
    assert (alone < 1e-5 * everything).all()
    chosen, cost = score.weakest(np.array([5, 6]), 2)
    assert sorted(chosen) == [5, 6]
    assert cost == pytest.approx(everything, rel=1e-6)


def test_one_of_each_pair_of_twins_dies_for_nothing() -> None:
    half, _ = inputs(5)
    z, weights = np.hstack([half, half]), inputs(10)[1]
    score = DarwinianScore([reader(z, weights)])
    chosen, cost = score.weakest(np.arange(1, 11), 5)
    assert sorted((chosen - 1) % 5) == [0, 1, 2, 3, 4]
    score.remove(chosen)
    survivors = np.setdiff1d(np.arange(1, 11), chosen)
    assert cost < 1e-4 * score.losses(survivors).min()


def test_a_linear_mix_of_others_dies_for_nothing() -> None:
    z, weights = inputs(6)
    z[:, 2] = z[:, [0, 1, 3]] @ np.array([0.3, -2.0, 1.1])
    losses = DarwinianScore([reader(z, weights)]).losses(np.arange(1, 7))
    assert losses[2] < 1e-4 * np.median(losses[[4, 5]])


def test_rescaling_a_channel_changes_no_score() -> None:
    z, weights = inputs()
    scale = 10.0 ** np.linspace(-3, 3, z.shape[1])
    plain = DarwinianScore([reader(z, weights)])
    scaled = DarwinianScore([reader(z * scale, weights / scale)])
    units = np.arange(1, 13)
    np.testing.assert_allclose(scaled.losses(units), plain.losses(units), rtol=1e-6)
    chosen, cost = plain.weakest(units, 4)
    assert scaled.weakest(units, 4)[0].tolist() == chosen.tolist()
    assert scaled.weakest(units, 4)[1] == pytest.approx(cost, rel=1e-6)


def test_a_dead_channel_of_no_variance_costs_nothing_and_spoils_nothing() -> None:
    z, weights = inputs(6)
    z[:, 3] = 5.0
    losses = DarwinianScore([reader(z, weights)]).losses(np.arange(1, 7))
    others = [0, 1, 2, 4, 5]
    without = DarwinianScore([reader(z[:, others], weights[:, others])]).losses(np.arange(1, 6))
    assert losses[3] < 1e-9 * losses[others].min()
    np.testing.assert_allclose(losses[others], without, rtol=1e-6)


def test_units_of_several_rows_follow_the_block_formula() -> None:
    z, weights = inputs(12)
    statistics = reader(z, weights, units=[1, 2, 3, 4] * 3)
    blocks = [[slot for slot in range(12) if slot % 4 == unit] for unit in range(4)]
    score = DarwinianScore([statistics])
    want = [least_squares(statistics, block) for block in blocks]
    np.testing.assert_allclose(score.losses(np.arange(1, 5)), want, rtol=1e-9)
    total = death(score, 2) + death(score, 4)
    assert total == pytest.approx(least_squares(statistics, blocks[1] + blocks[3]), rel=1e-9)


def test_several_readers_add_up_and_a_unit_nobody_reads_is_free() -> None:
    first, second = inputs(6, seed=1), inputs(6, seed=2)
    units = np.arange(1, 7)
    apart = [DarwinianScore([reader(*pair)]).losses(units) for pair in (first, second)]
    together = DarwinianScore([reader(*first), reader(*second)])
    np.testing.assert_allclose(together.losses(units), apart[0] + apart[1], rtol=1e-12)
    assert together.losses(np.array([9])) == 0.0


def test_a_chunk_is_as_good_as_one_by_one() -> None:
    z, weights = inputs(14)
    statistics = reader(z, weights)
    chunk, cost = DarwinianScore([statistics]).weakest(np.arange(1, 15), 6)
    score, living, total = DarwinianScore([statistics]), np.arange(1, 15), 0.0
    chosen = []
    for _ in range(6):
        (victim,), one = score.weakest(living, 1)
        score.remove(np.array([victim]))
        living, total = living[living != victim], total + one
        chosen.append(victim)
    assert chunk.tolist() == chosen
    assert cost == pytest.approx(total, rel=1e-9)
    assert cost == pytest.approx(least_squares(statistics, [unit - 1 for unit in chosen]), rel=1e-9)


def test_choosing_kills_nobody() -> None:
    z, weights = inputs(8)
    score = DarwinianScore([reader(z, weights)])
    before = score.losses(np.arange(1, 9))
    score.weakest(np.arange(1, 9), 5)
    np.testing.assert_array_equal(score.losses(np.arange(1, 9)), before)


def test_the_inverse_has_a_ridge_of_each_channels_own_variance() -> None:
    z, _ = inputs(5)
    covariance = np.cov(z.T)
    want = np.linalg.inv(covariance + 1e-3 * np.diag(np.diag(covariance)))
    np.testing.assert_allclose(invert(covariance, ridge=1e-3), want, rtol=1e-9)


def test_a_static_score_is_comparable_between_groups() -> None:
    scores = {1: 1.0, 2: 3.0, 3: 100.0, 4: 300.0}
    groups = [np.array([1, 2]), np.array([3, 4])]
    score = StaticScore(scores, groups)
    want: Vector = np.array([0.5, 1.5, 0.5, 1.5])
    np.testing.assert_allclose(score.losses(np.arange(1, 5)), want)
    units, total = score.weakest(np.arange(1, 5), 2)
    assert sorted(units) == [1, 3]
    assert total == pytest.approx(1.0)


def test_a_group_of_zero_scores_divides_by_nothing() -> None:
    assert StaticScore({}, [np.array([1, 2])]).losses(np.array([1, 2])).tolist() == [0.0, 0.0]


# Exponents, floor and normalisation ----------------------------------------------------------------------------------

OPTIONS = {
    "loss": Scoring(),
    "without diversity": Scoring((0.0, 1.0, 0.25)),
    "without contribution": Scoring((1.0, 0.0, 0.25)),
    "roots": Scoring((0.5, 0.7, 0.25)),
    "floor": Scoring(floor=0.1),
    "layer": Scoring(normalise="layer"),
    "everything": Scoring((0.5, 2.0, 0.5), 0.01, "layer"),
}


def parts_of(statistics: ReaderStatistics) -> tuple[Vector, Vector]:
    """d = 1 / (Var [C^-1]_ii) and a = K_ii Var of each slot."""
    variance = np.diag(statistics.covariance)
    return 1 / np.diag(invert(statistics.covariance)) / variance, np.diag(statistics.gram) * variance


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_score_is_the_product_of_its_factors(options: Scoring) -> None:
    statistics = reader(*inputs(), gradient=np.diag(np.linspace(0.5, 2, 7)))
    (diversity, contribution), (p, q, _) = parts_of(statistics), options.exponents
    median = float(np.median(contribution))
    want = (options.floor + diversity) ** p * (options.floor + contribution / median) ** q
    want *= 0.5 * median if options.normalise == "loss" else 1.0
    np.testing.assert_allclose(DarwinianScore([statistics], options).losses(np.arange(1, 13)), want, rtol=1e-9)


@pytest.mark.parametrize("options", [Scoring(normalise="layer"), Scoring(floor=1e-300)])
@pytest.mark.parametrize("units", [None, [1, 2, 3, 4] * 3])
def test_without_options_the_score_is_the_joint_cost(options: Scoring, units: list[int] | None) -> None:
    """Worked out factor by factor it is the same number, for units of one row and of several, after deaths too."""
    statistics = reader(*inputs(), units=units, gradient=np.diag(np.linspace(0.5, 2, 7)))
    plain, other = DarwinianScore([statistics]), DarwinianScore([statistics], options)
    every = np.unique(statistics.units)
    scale = 1.0
    if options.normalise == "layer":
        own = np.diag(statistics.gram) * np.diag(statistics.covariance)
        scale = 0.5 * float(np.median([own[statistics.units == unit].sum() for unit in every]))
    for gone in (every[:0], every[2:3]):
        plain.remove(gone)
        other.remove(gone)
        np.testing.assert_allclose(scale * other.losses(every), plain.losses(every), rtol=1e-9)


def test_diversity_of_several_rows_alone_is_their_mean_conditional_variance() -> None:
    statistics = reader(*inputs(), units=[1, 2, 3, 4] * 3)
    deviation = np.sqrt(np.diag(statistics.covariance))
    inverse = invert(statistics.covariance) * deviation[:, None] * deviation
    own = np.diag(statistics.gram) * deviation**2
    blocks = [np.flatnonzero(statistics.units == unit) for unit in range(1, 5)]
    median = np.median([own[block].sum() for block in blocks])
    want = [0.5 * median * np.trace(np.linalg.inv(inverse[np.ix_(block, block)])) / 3 for block in blocks]
    found = DarwinianScore([statistics], Scoring((1.0, 0.0, 0.25))).losses(np.arange(1, 5))
    np.testing.assert_allclose(found, want, rtol=1e-9)


def test_without_diversity_nobody_inherits() -> None:
    score = DarwinianScore([reader(*inputs())], Scoring((0.0, 1.0, 0.25)))
    before = score.losses(np.arange(1, 13))
    score.remove(np.array([3, 7]))
    living = np.setdiff1d(np.arange(1, 13), [3, 7])
    np.testing.assert_array_equal(score.losses(living), before[living - 1])
    assert score.losses(np.array([3, 7])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_rescaling_a_channel_changes_no_score_under_any_option(options: Scoring) -> None:
    z, weights = inputs()
    scale, units = 10.0 ** np.linspace(-3, 3, z.shape[1]), np.arange(1, 13)
    scores = [DarwinianScore([reader(z * by, weights / by)], options) for by in (np.ones(12), scale)]
    for gone in (units[:0], units[3:5]):
        for score in scores:
            score.remove(gone)
        np.testing.assert_allclose(scores[1].losses(units), scores[0].losses(units), rtol=1e-6)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_chunk_is_as_good_as_one_by_one_under_any_option(options: Scoring) -> None:
    statistics = reader(*inputs(14))
    chunk, cost = DarwinianScore([statistics], options).weakest(np.arange(1, 15), 6)
    score, living, total = DarwinianScore([statistics], options), np.arange(1, 15), 0.0
    for wanted in chunk.tolist():
        (victim,), one = score.weakest(living, 1)
        assert victim == wanted
        score.remove(np.array([victim]))
        living, total = living[living != victim], total + one
    assert cost == pytest.approx(total, rel=1e-9)


def test_a_unit_nobody_reads_is_free_whatever_the_floor() -> None:
    score = DarwinianScore([reader(*inputs(6))], Scoring(floor=1.0))
    assert score.losses(np.array([9])) == 0.0


def test_adaptability_multiplies_the_score() -> None:
    statistics, units = reader(*inputs()), np.arange(1, 13)
    adaptability = np.concatenate([[1.0], np.linspace(0.0, 3.0, 12)])
    for options in (Scoring(), Scoring((1.0, 1.0, 0.5), 0.1)):
        plain, adapted = (DarwinianScore([statistics], options) for _ in range(2))
        adapted.adapt(adaptability)
        factor = (options.floor + adaptability[units]) ** options.exponents[2]
        np.testing.assert_allclose(adapted.losses(units), plain.losses(units) * factor, rtol=1e-12)
        chosen, cost = adapted.weakest(units, 1)
        assert cost == pytest.approx(adapted.losses(units).min())
        assert chosen.tolist() == [units[np.argmin(adapted.losses(units))]]
