"""Channels whose cause of death was planted are found to have died of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darwinc.fitness.darwinian import DarwinianScore
from darwinc.fitness.static import StaticScore
from darwinc.fitness.statistics import Death, Matrix
from darwinc.pages.markdown import to_markdown
from darwinc.pages.texts import causes_text
from darwinc.scoring import Scoring
from tests.small_models import build, images
from tests.test_compression import QUICK, squeezed
from tests.test_fitness import inputs, reader


def death_of(z: Matrix, weights: Matrix, *units: int, scoring: Scoring | None = None) -> list[Death]:
    return DarwinianScore([reader(z, weights)], scoring or Scoring()).explain(np.array(units))


def test_a_channel_that_never_changes_collapsed() -> None:
    z, weights = inputs()
    z[:, 3] = 5.0
    assert death_of(z, weights, 4) == [Death(4, "collapsed")]


def test_a_channel_that_nobody_reads_has_no_influence() -> None:
    z, weights = inputs()
    weights[:, 6] = 0.0
    assert death_of(z, weights, 7) == [Death(7, "no_influence")]
    assert DarwinianScore([reader(z, weights)]).explain(np.array([99])) == [Death(99, "no_influence")]


def test_a_twin_is_redundant_with_its_twin() -> None:
    z, weights = inputs()
    z[:, 7] = -2 * z[:, 2]
    (death,) = death_of(z, weights, 8)
    assert death.cause == "redundant"
    ((peer, coefficient),) = death.peers
    assert peer == 3
    assert coefficient == pytest.approx(-1.0, abs=1e-3)


def test_where_all_are_twins_the_median_tells_nothing() -> None:
    half, _ = inputs(6)
    weights = inputs(12)[1]
    for death in death_of(np.hstack([half, half]), weights, *range(1, 7)):
        assert death.cause == "redundant"
        peer, coefficient = death.peers[0]
        assert peer == death.unit + 6
        assert coefficient == pytest.approx(1.0, abs=1e-3)


def test_a_linear_mix_names_what_it_is_made_of() -> None:
    z, weights = inputs()
    z[:, 2] = z[:, [0, 1, 3]] @ np.array([0.5, -2.0, 1.0])
    (death,) = death_of(z, weights, 3)
    assert death.cause == "redundant"
    assert [unit for unit, _ in death.peers] == [2, 4, 1]
    wanted = np.array([-2.0, 1.0, 0.5]) * z.std(axis=0)[[1, 3, 0]] / z[:, 2].std()
    np.testing.assert_allclose([share for _, share in death.peers], wanted, rtol=1e-3)


def test_of_twins_that_die_together_neither_answers_for_the_other() -> None:
    z, weights = inputs()
    z[:, 7], weights[:, [2, 7]] = z[:, 2], 0.1 * weights[:, [2, 7]]
    assert [death.cause for death in death_of(z, weights, 8)] == ["redundant"]
    assert [death.cause for death in death_of(z, weights, 3, 8)] == ["no_influence", "no_influence"]


def test_peers_are_survivors_of_the_same_group() -> None:
    z, weights = inputs()
    z[:, 7] = z[:, 2] + z[:, 4]
    score = DarwinianScore([reader(z, weights)])
    kin = np.zeros(13, np.int64)
    kin[5] = 1
    score.assign(np.arange(13)[:, None], kin)
    (death,) = score.explain(np.array([8]))
    assert [unit for unit, _ in death.peers] == [3]


def test_units_of_several_rows_answer_row_by_row() -> None:
    z, weights = inputs()
    z[:, 6:8] = z[:, 0:2]
    units = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    (death,) = DarwinianScore([reader(z, weights, units=units)]).explain(np.array([4]))
    assert death.cause == "redundant"
    ((peer, coefficient),) = death.peers
    assert peer == 1
    assert coefficient == pytest.approx(1.0, abs=1e-3)


def test_of_several_readers_the_one_that_is_told_most_decides() -> None:
    z, weights = inputs(8)
    deaf = weights.copy()
    deaf[:, 0] = 0.0
    z[:, 7] = z[:, 0]
    readers = [reader(z, deaf), reader(z, weights)]
    (death,) = DarwinianScore(readers).explain(np.array([1]))
    assert (death.cause, death.peers[0][0]) == ("redundant", 8)


def test_a_channel_that_stopped_moving_is_stagnant() -> None:
    score = DarwinianScore([reader(*inputs())])
    adaptability = np.ones(13)
    adaptability[5] = 1e-9
    score.adapt(adaptability)
    assert score.explain(np.array([5])) == [Death(5, "stagnant")]


def test_a_factor_that_is_left_out_kills_nobody() -> None:
    z, weights = inputs()
    z[:, 7] = z[:, 2]
    assert death_of(z, weights, 8, scoring=Scoring((0.0, 1.0, 0.25)))[0].cause == "no_influence"
    weights[:, 4] = 0.0
    assert death_of(z, weights, 5, scoring=Scoring((1.0, 0.0, 0.25)))[0].cause == "redundant"


def test_asking_why_changes_nothing() -> None:
    statistics = reader(*inputs())
    asked, unasked = DarwinianScore([statistics]), DarwinianScore([statistics])
    asked.explain(np.array([2, 9]))
    asked.explain(np.array([4, 1]))
    for score in (asked, unasked):
        score.remove(np.array([4, 1]))
    np.testing.assert_array_equal(asked.losses(np.arange(1, 13)), unasked.losses(np.arange(1, 13)))


def test_a_static_criterion_knows_of_a_low_score_only() -> None:
    assert StaticScore({}, [np.array([1, 2])]).explain(np.array([2])) == [Death(2, "low_score")]


def test_the_report_counts_the_causes_of_planted_channels(tmp_path: Path) -> None:
    """Of 16 channels one is constant, one unread, and one has a twin."""
    random = np.random.default_rng(3)
    w1, b1, w2 = random.standard_normal((16, 3, 3, 3)) / 5, np.zeros(16), random.standard_normal((4, 16, 3, 3)) / 9
    w1[3], b1[3] = 0.0, 1.0
    w2[:, 5] = 0.0
    w1[9] = w1[8]
    model = build(
        """(float[N,3,8,8] x, float[16,3,3,3] w1, float[16] b1, float[4,16,3,3] w2) => (float[N,4,4,4] y) {
            a = Conv(x, w1, b1)
            r = Relu(a)
            y = Conv(r, w2)
        }""",
        given={"w1": w1, "b1": b1, "w2": w2},
    )
    settings = replace(QUICK, align=1)
    result, _ = squeezed(tmp_path, model, 0.18, settings, data={"x": images(64, 3, 8, 8)})
    (group,) = result.report.groups
    assert group.causes == {"collapsed": 1, "no_influence": 1, "redundant": 1}
    by_unit = {death.unit: death for death in group.deaths}
    (twin,) = by_unit.keys() - {3, 5}
    assert by_unit[3].cause == "collapsed"
    assert by_unit[5].cause == "no_influence"
    assert twin in (8, 9)
    peer, coefficient = by_unit[twin].peers[0]
    assert peer == 17 - twin
    assert coefficient == pytest.approx(1.0, abs=1e-2)
    assert sorted(causes_text(result.report).split(", ")) == ["1 collapsed", "1 redundant", "1 without influence"]
    assert "- collapsed: 1\n" in to_markdown(result.report)
