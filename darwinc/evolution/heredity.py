"""From strengths to who lives: the papers' probabilities, and a draw whose expected cost is a budget.

Sources: Shafiee, Mishra, Wong, "Deep Learning with Darwin: Evolutionary Synthesis of Deep Neural Networks" (2016) for
synapses; Shafiee, Wong, "Evolutionary Synthesis of Deep Neural Networks via Synaptic Cluster-driven Genetic Encoding"
(2016) for clusters and for the product of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from darwinc.fitness.statistics import Vector

Weights = npt.NDArray[Any]

NARROW = 1e-9
"""The bisection ends where the expected cost is this near to the budget, as a share of it."""
DEEP = 60.0
"""So many temperatures above the strongest, nobody can be expected to live."""
MOST_HALVINGS = 100


def synapse_heredity(weights: Weights, scale: float) -> Weights:
    """P(s_i | w_i) = exp(w_i / Z - 1), for weights of any shape and their layer's largest, `scale`.

    From "Deep Learning with Darwin". The papers mean strengths, so give |w|: a weight of the other sign would
    be the first to die.
    """
    return np.asarray(np.exp(np.asarray(weights, np.float64) / scale - 1.0))


def cluster_heredity(weights: Weights, scale: float, truncation: float = 0.0) -> Vector:
    """P(s_c) = exp(sum_i trunc(w_i) / Z - 1) of each cluster, for weights [C, ...]; weak synapses count as zero.

    From "Synaptic Cluster-driven Genetic Encoding". `scale` is the largest sum of one cluster; a synapse below
    `truncation` is truncated.
    """
    flat = np.asarray(weights, np.float64).reshape(len(weights), -1)
    return np.asarray(np.exp(np.where(flat < truncation, 0.0, flat).sum(axis=1) / scale - 1.0))


def network_heredity(clusters: Vector, synapses: Weights) -> float:
    """log P(H_g | H_g-1) = sum_c [log P(s_c) + sum_{j in c} log P(s_j)], for probabilities [C] and [C, S].

    The multi-factor product of "Synaptic Cluster-driven Genetic Encoding"; its logarithm, because the
    product of a real network's factors is no number that a computer holds.
    """
    return float(np.log(clusters).sum() + np.log(synapses).sum())


def papers_threshold(environment: float) -> float:
    """The threshold c at which, at temperature 1, a strength s lives with the papers' C exp(s - 1).

    C is the environment: 0.4 in the first paper.
    """
    return 1.0 - float(np.log(environment))


def living_probability(strengths: Weights, threshold: float, temperature: float) -> Weights:
    """min(1, exp((s - c) / tau)), for strengths of any shape; at temperature 0, whether s >= c."""
    if temperature == 0:
        return np.asarray(strengths >= threshold, np.float64)
    return np.asarray(np.exp(np.minimum(0.0, (strengths - threshold) / temperature)))


def perturbed(strengths: Weights, temperature: float, rng: np.random.Generator) -> Weights:
    """z = s - tau log U with U uniform in (0, 1]: z >= c has `living_probability`, whatever c.

    So one draw ranks everybody, and the threshold may move afterwards. One number is drawn for each strength, at
    temperature 0 too.
    """
    drawn = 1.0 - rng.random(strengths.shape)
    return np.asarray(strengths - temperature * np.log(drawn))


def solve_threshold(strengths: Vector, temperature: float, expected: Callable[[Vector], float], budget: float) -> float:
    """The lowest threshold c at which living with `living_probability` is expected to cost no more than the budget.

    `expected` gives the cost of probabilities [U] of the strengths [U], and never falls where one of them grows. Where
    even nobody's life costs more than the budget, the threshold at which nobody lives.
    """
    if not len(strengths) or expected(np.ones(len(strengths))) <= budget:
        return float(strengths.min(initial=np.inf)) if len(strengths) else 0.0
    if temperature == 0:
        return _deterministic(strengths, expected, budget)
    low, high = float(strengths.min()), float(strengths.max()) + DEEP * temperature
    for _ in range(MOST_HALVINGS):
        middle = 0.5 * (low + high)
        cost = expected(living_probability(strengths, middle, temperature))
        if cost > budget:
            low = middle
        else:
            high = middle
            if budget - cost <= NARROW * abs(budget):
                break
        if high - low <= NARROW * temperature:
            break
    return high


def _deterministic(strengths: Vector, expected: Callable[[Vector], float], budget: float) -> float:
    """The same at temperature 0, where the cost only changes at the strengths themselves."""
    levels = np.unique(strengths)
    levels = np.append(levels, np.nextafter(levels[-1], np.inf))
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if expected(living_probability(strengths, float(levels[middle]), 0.0)) > budget:
            low = middle + 1
        else:
            high = middle
    return float(levels[low])
