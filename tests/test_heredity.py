"""The papers' probabilities in closed form, and draws whose expected cost is the budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwinc.evolution.heredity import (
    cluster_heredity,
    living_probability,
    network_heredity,
    papers_threshold,
    perturbed,
    solve_threshold,
    synapse_heredity,
)
from darwinc.fitness.statistics import Vector

SEEDS = st.integers(0, 2**32 - 1)


def test_a_synapse_by_hand() -> None:
    found = synapse_heredity(np.array([[4.0, 2.0], [0.0, 1.0]]), 4.0)
    assert np.allclose(found, [[1.0, math.exp(-0.5)], [math.exp(-1), math.exp(-0.75)]], rtol=1e-15)


def test_a_cluster_by_hand() -> None:
    weights = np.array([[[3.0, 1.0]], [[0.4, 2.0]], [[0.4, 0.3]]])
    assert np.allclose(cluster_heredity(weights, 4.0, 0.5), np.exp([0.0, -0.5, -1.0]), rtol=1e-15)
    assert np.allclose(cluster_heredity(weights, 4.0), np.exp([0.0, 0.6 - 1, 0.175 - 1]), rtol=1e-15)


def test_a_network_is_the_product_of_its_factors() -> None:
    clusters, synapses = np.array([0.5, 0.8]), np.array([[0.9, 0.7], [0.6, 1.0]])
    assert math.isclose(math.exp(network_heredity(clusters, synapses)), 0.5 * 0.9 * 0.7 * 0.8 * 0.6, rel_tol=1e-12)


@pytest.mark.parametrize("environment", [0.4, 0.7])
def test_the_papers_draw_is_temperature_one(environment: float) -> None:
    strengths = np.linspace(0, 1, 11)
    ours = living_probability(strengths, papers_threshold(environment), 1.0)
    assert np.allclose(ours, environment * synapse_heredity(strengths, 1.0), rtol=1e-14)


def test_probabilities_by_hand() -> None:
    strengths = np.array([0.2, 0.5, 0.6])
    assert np.allclose(living_probability(strengths, 0.5, 0.1), [math.exp(-3), 1, 1], rtol=1e-12)
    assert living_probability(strengths, 0.5, 0.0).tolist() == [0, 1, 1]


@given(SEEDS, st.floats(0.01, 2.0), st.floats(0.05, 0.95), st.integers(2, 200))
@settings(max_examples=60, deadline=None)
def test_what_is_expected_is_the_budget(seed: int, temperature: float, share: float, count: int) -> None:
    random = np.random.default_rng(seed)
    strengths, prices = random.random(count), random.uniform(0.5, 2, count)
    budget = share * float(prices.sum())

    def expected(living: Vector) -> float:
        return float(living @ prices)

    threshold = solve_threshold(strengths, temperature, expected, budget)
    assert math.isclose(expected(living_probability(strengths, threshold, temperature)), budget, rel_tol=1e-7)


@given(SEEDS, st.floats(0.0, 1.0), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_without_temperature_the_strongest_live(seed: int, share: float, count: int) -> None:
    strengths = np.random.default_rng(seed).random(count)
    budget = math.floor(share * count)
    threshold = solve_threshold(strengths, 0.0, lambda living: float(living.sum()), budget)
    assert np.flatnonzero(strengths >= threshold).tolist() == sorted(np.argsort(-strengths)[:budget].tolist())


def test_budgets_beyond_reach() -> None:
    strengths = np.array([0.1, 0.5, 0.9])
    for temperature in (0.0, 0.1):
        everybody = solve_threshold(strengths, temperature, lambda living: float(living.sum()), 3.0)
        assert living_probability(strengths, everybody, temperature).tolist() == [1, 1, 1]
        nobody = solve_threshold(strengths, temperature, lambda living: 9 + float(living.sum()), 3.0)
        assert living_probability(strengths, nobody, temperature).max() < 1e-20
    assert solve_threshold(np.zeros(0), 0.1, lambda living: 0.0, 1.0) == 0.0


def test_draws_keep_the_budget_on_average() -> None:
    random = np.random.default_rng(5)
    strengths, prices, budget, draws = random.random(40), random.uniform(0.5, 2, 40), 22.0, 4000
    threshold = solve_threshold(strengths, 0.2, lambda living: float(living @ prices), budget)
    chances = living_probability(strengths, threshold, 0.2)
    lived = np.array([perturbed(strengths, 0.2, random) >= threshold for _ in range(draws)])
    deviation = math.sqrt(float((prices**2) @ (chances * (1 - chances))) / draws)
    assert abs(float((lived @ prices).mean()) - budget) < 4 * deviation
    each = np.sqrt(chances * (1 - chances) / draws)
    # Forty of them, each beyond 4.5 deviations with a chance of 7e-6.
    assert (np.abs(lived.mean(axis=0) - chances) <= 4.5 * each).all()


def test_a_draw_without_temperature_is_none() -> None:
    strengths = np.random.default_rng(0).random((3, 4))
    assert np.array_equal(perturbed(strengths, 0.0, np.random.default_rng(1)), strengths)
