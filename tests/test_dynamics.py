"""Selection dynamics against what is known of them in closed form."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwinc.dynamics import (
    annealed,
    deviations,
    extinction_time,
    lotka_volterra,
    mean_fitness,
    replicator,
    replicator_flow,
    replicator_mutator,
)
from darwinc.dynamics_options import Dynamics, judge_reading
from darwinc.errors import UsageError

Vector = npt.NDArray[np.float64]


def drawn(seed: int, count: int) -> tuple[Vector, Vector]:
    random = np.random.default_rng(seed)
    return random.uniform(0.1, 2.0, count), random.standard_normal(count)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0.001, 5.0))
def test_the_replicator_conserves_the_total_mass(seed: int, count: int, rate: float) -> None:
    masses, fitness = drawn(seed, count)
    assert replicator_flow(masses, fitness).sum() == pytest.approx(0.0, abs=1e-12 * count)
    assert replicator(masses, fitness, rate).sum() == pytest.approx(masses.sum(), rel=1e-12)
    assert replicator_mutator(masses, fitness, rate, 0.3).sum() == pytest.approx(masses.sum(), rel=1e-12)


@given(st.integers(0, 1000))
def test_small_steps_follow_the_flow(seed: int) -> None:
    masses, fitness = drawn(seed, 8)
    moved = (replicator(masses, fitness, 1e-6) - masses) / 1e-6
    assert moved == pytest.approx(replicator_flow(masses, fitness), abs=1e-4)


def test_the_loss_falls_as_fast_as_fitness_varies() -> None:
    """dL/dt = -sum m (f - f_mean)^2 on L = 1/2 |A m - b|^2, by finite differences along the flow."""
    random = np.random.default_rng(3)
    matrix, wanted, masses = random.standard_normal((6, 5)), random.standard_normal(6), random.uniform(0.5, 1.5, 5)

    def loss(at: Vector) -> float:
        return 0.5 * float(np.square(matrix @ at - wanted).sum())

    fitness = -matrix.T @ (matrix @ masses - wanted)
    foreseen = -float(masses @ np.square(fitness - mean_fitness(masses, fitness)))
    found = (loss(replicator(masses, fitness, 1e-7)) - loss(masses)) / 1e-7
    assert foreseen < 0
    assert found == pytest.approx(foreseen, rel=1e-4)


def test_extinction_takes_the_logarithm_of_the_mass_over_the_gap() -> None:
    fitness, step = np.array([1.0, 0.4]), 0.01
    masses, time = np.array([1.0, 1.0]), 0.0
    while masses[1] / masses[0] > 1e-3:
        masses, time = replicator(masses, fitness, step), time + step
    assert time == pytest.approx(extinction_time(1.0, 1e-3, 0.6), abs=2 * step)
    assert extinction_time(1.0, 1e-3, 0.6) == pytest.approx(math.log(1000) / 0.6)


def test_mutation_keeps_everyone_alive_until_it_has_come_down_to_zero() -> None:
    fitness, masses = np.linspace(-1, 1, 10), np.ones(10)
    for number in range(200):
        mutation = annealed(0.05, number / 200)
        masses = replicator_mutator(masses, fitness, 0.2, mutation)
        if number < 90:
            assert masses.min() > 1e-3
    assert annealed(0.05, 0.5) == annealed(0.05, 1.0) == 0.0
    assert masses.min() < 1e-3


def test_of_two_that_say_the_same_one_lives() -> None:
    overlap = np.eye(3)
    overlap[0, 1] = overlap[1, 0] = 1.0
    masses, fitness = np.ones(3), np.array([0.1, 0.0, -0.1])
    for _ in range(2000):
        masses = lotka_volterra(masses, fitness, overlap, 0.1, 0.5)
    assert masses[1] < 1e-3
    assert masses[[0, 2]] == pytest.approx([1.05, 0.95], abs=1e-2)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_deviations_know_no_scale(seed: int, scale: float) -> None:
    _, fitness = drawn(seed, 12)
    assert deviations(scale * fitness + 7) == pytest.approx(deviations(fitness), abs=1e-6)
    assert not deviations(np.full(5, scale)).any()


@pytest.mark.parametrize(
    ("dynamics", "said"),
    [
        (Dynamics(dynamic="war"), "There is no --dynamic 'war'; choose from replicator, mutator, lotka-volterra"),
        (Dynamics(evidence="hearsay"), "There is no --evidence 'hearsay'"),
        (Dynamics(rate=0.0), "--rate was given as 0; give more than 0"),
        (Dynamics(extinct=0.0), "--extinct was given as 0; it is a share between 0 and 1"),
        (Dynamics(mutation=1.0), "--mutation was given as 1; it is a share"),
        (Dynamics(decay=1.0), "--decay was given as 1"),
        (Dynamics(checks=0), "--checks was given as 0; give at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(dynamics: Dynamics, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        dynamics.judge()


@pytest.mark.parametrize(
    ("dynamics", "selects", "persists", "said"),
    [
        (Dynamics(checks=5), False, True, "--checks was given, but nothing reads it; add --strategy select"),
        (Dynamics(windows=5), True, False, "--windows was given, but nothing is culled while training"),
        (Dynamics(persistence=5), False, False, "--persistence was given, but nothing is culled"),
        (Dynamics(mutation=0.1), True, False, "--mutation was given, but only --dynamic mutator reads it"),
        (Dynamics(competition=2.0), True, False, "--competition was given, but only --dynamic lotka-volterra"),
    ],
)
def test_options_that_nobody_reads_are_refused(dynamics: Dynamics, selects: bool, persists: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge_reading(dynamics, selects=selects, persists=persists)
