"""Selection dynamics as pure functions: how the masses of competing populations change with their fitness.

A unit i of a layer has mass m_i >= 0 and fitness f_i = -dL/dm_i. Where f is the true gradient, the replicator's loss
falls as fast as fitness varies, dL/dt = -sum_i m_i (f_i - f_mean)^2, and a unit that is `gap` less fit than its rivals
is extinct after ln(m_0 / eps) / gap. Sources: Peter Taylor and Leo Jonker, *Evolutionarily Stable Strategies and Game
Dynamics*, 1978; Josef Hofbauer and Karl Sigmund, *Evolutionary Games and Population Dynamics*, 1998.
"""

from __future__ import annotations

import math

import numpy as np

from darwinc.fitness.statistics import Matrix, Vector

FARTHEST = 2.0
"""How many deviations from the mean fitness counts at most: one giant shouldn't starve a whole layer at once."""
ANNEALED = 0.5
"""The share of the time at which mutation has come down to zero."""


def mean_fitness(masses: Vector, fitness: Vector) -> float:
    """The mean of m f over the total mass."""
    return float(masses @ fitness / max(float(masses.sum()), 1e-300))


def replicator_flow(masses: Vector, fitness: Vector) -> Vector:
    """dm_i/dt = m_i (f_i - f_mean) [U]; it sums to zero."""
    return masses * (fitness - mean_fitness(masses, fitness))


def replicator(masses: Vector, fitness: Vector, rate: float) -> Vector:
    """m_i <- m_i exp(rate f_i) over what keeps the total: the flow's exact solution for constant fitness [U]."""
    grown = masses * np.exp(rate * (fitness - fitness.max(initial=-math.inf)))
    return np.asarray(grown * (masses.sum() / grown.sum()))


def replicator_mutator(masses: Vector, fitness: Vector, rate: float, mutation: float) -> Vector:
    """The replicator's step, of which a share `mutation` is spread evenly over all [U]."""
    selected = replicator(masses, fitness, rate)
    return np.asarray((1 - mutation) * selected + mutation * selected.mean())


def annealed(mutation: float, share: float) -> float:
    """The mutation at a share of the time, 0 to 1: it falls in a line, to zero at `ANNEALED`. Else nothing dies."""
    return mutation * max(0.0, 1 - share / ANNEALED)


def lotka_volterra(masses: Vector, fitness: Vector, overlap: Matrix, rate: float, weight: float) -> Vector:
    """m_i <- m_i exp(rate (1 + weight f_i - sum_j a_ij m_j)) [U], for fitness in deviations.

    `overlap` a [U, U] is the squared correlation of what two units say, 1 on the diagonal: a unit that shares nothing
    settles at 1 + weight f_i, and of two that say the same the fitter one lives.
    """
    return np.asarray(masses * np.exp(rate * (1 + weight * fitness - overlap @ masses)))


def deviations(fitness: Vector) -> Vector:
    """Fitness in standard deviations from its mean [U], within `FARTHEST`; zeros where all are alike."""
    spread = float(fitness.std())
    if not math.isfinite(spread) or spread <= 1e-12 * float(np.abs(fitness).max(initial=0.0)):
        return np.zeros(len(fitness))
    return np.asarray(np.clip((fitness - fitness.mean()) / spread, -FARTHEST, FARTHEST))


def extinction_time(mass: float, extinct: float, gap: float) -> float:
    """When a unit that is `gap` less fit than the mean falls from `mass` to `extinct`: ln(m_0 / eps) / gap."""
    return math.log(mass / extinct) / gap
