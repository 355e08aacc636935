"""A generation's offspring from its parents: mated, drawn, repaired, and unlike everybody before.

What a network is drawn from is an `Inheritance`: strengths, and who may live at all. A draw perturbs the strengths, the
threshold is solved so that the expected cost of who lives is the environment's budget, and the repair (`repair`) makes
widths of it that alignment, floors and limits allow. Single synapses are then chosen among those that are left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from darwinc.channels import Channels, Mask
from darwinc.cost import Price
from darwinc.errors import Unreachable, UsageError
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.environment import Environment
from darwinc.evolution.genome import Genome
from darwinc.evolution.heredity import perturbed, solve_threshold
from darwinc.evolution.inheritance import Inheritance, at_random, from_ancestor, from_parents, of_random_widths
from darwinc.evolution.mating import Parent, choose_mates, shares
from darwinc.evolution.repair import Ranking, Repair, choices, rank
from darwinc.evolution.resources import Expectation, Ledger, costs_of
from darwinc.evolution.synapses import wire
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_options import Evolution
from darwinc.fitness.statistics import Indices, Vector
from darwinc.selection import Limits, floor
from darwinc.selection.limits import DIVISORS

STIR = 0.02
"""By how much the drift of groups grows with each draw that had been known before; later the temperature, too."""
PATIENCE = 8
"""So many known draws, and the temperature grows: drift alone gives no other units at the same widths."""
LONG_PATIENCE = 16
"""So many known draws, and the environment becomes tighter, too: all that fits best may be known already."""
TIGHTER = 0.005
"""By this share of a limit with the first further draw, by twice as much again with the second, and so on."""
MOST_DRAWS = 64


@dataclass(frozen=True, eq=False)
class Offspring:
    """A network to be raised.

    Attributes:
        genome: who lives.
        parents: their ids, in the order in which they were chosen; none where strengths were random.
        shares: the weights that the parents' strengths had.
        limits: the most that it might have of every resource.
        divisor: by what multiples had to be divided to come near to the limits.
        draws: how many draws it took to find one that wasn't known.
    """

    genome: Genome
    parents: tuple[str, ...]
    shares: tuple[float, ...]
    limits: Mapping[str, float]
    divisor: int = 1
    draws: int = 1


@dataclass(frozen=True, eq=False)
class _Ground:
    """Where networks live: one ancestor, with what its channels cost and what may be done to them."""

    channels: Channels
    prices: Mapping[str, Price]
    limits: Limits
    wiring: Wiring
    heredity: str

    def least(self) -> dict[str, float]:
        """What stays where every group that may lose units has as few as may be."""
        everybody = np.ones(self.channels.count, np.bool_)
        ranking = rank(self.channels, np.zeros(self.channels.count), everybody, ~everybody)
        widths = [int(choice[0]) for choice in choices(self.channels, self.limits, ranking, (), DIVISORS[-1])]
        return costs_of([Genome(_first(self.channels, widths))], self.channels, self.prices)[0]

    def priced(self, names: Collection[str]) -> Mapping[str, Price]:
        """The prices of some resources, but for synapses, which are counted.

        Raises:
            UsageError: a resource that has no price here.
        """
        missing = sorted(set(names) - set(self.prices) - {"synapses"})
        if missing:
            raise UsageError(
                f"--environment limits {missing[0]}, which isn't known of this model; latency needs a latency model."
            )
        return {name: self.prices[name] for name in names if name != "synapses"}


def synthesise(
    parents: Sequence[Parent],
    channels: Channels,
    prices: Mapping[str, Price],
    limits: Limits,
    environment: Environment,
    options: Evolution,
    wiring: Wiring,
    rng: np.random.Generator,
    known: Collection[str],
    *,
    revive: bool = False,
    ancestor: Appraisal | None = None,
) -> Offspring:
    """One offspring of mates from a pool of parents; its digest is none of the `known` ones, and no mate's.

    `prices` are by resource (`resources.prices`, and `latency` where it is limited). Units that are dead in all
    parents stay dead; with `revive` they may come back by the strength that the `ancestor` gives them. With no parents
    in the options, everybody of the ancestor may live, and widths are random; without its appraisal, who lives is, too.
    All that is random comes from `rng`.

    Raises:
        Unreachable: nothing fits the environment, or nothing that isn't known.
        UsageError: the environment limits a resource that has no price.
    """
    ground = _Ground(channels, prices, limits, wiring, options.heredity)
    ground.priced(environment.resources)
    mates = choose_mates(parents, options.parents, options.mates, rng)
    if mates:
        inheritance = from_parents(mates, channels, wiring, options, ancestor if revive else None)
    elif ancestor is not None:
        inheritance = of_random_widths(ancestor, channels, wiring, options.heredity, rng)
    else:
        inheritance = at_random(channels, wiring, options.heredity, rng)
    least = ground.least()
    found = costs_of([Genome(channels.nobody()), *(mate.genome for mate in mates)], channels, prices, wiring)
    bounds = environment.limits(found[0], found[1:], least)
    draw = _Draw(ground, inheritance, environment.strict or limits.strict, options.temperature, options.drift)
    genome, divisor, draws = _unknown(draw, bounds, least, rng, {*known, *(mate.genome.digest for mate in mates)})
    weights = tuple(shares([mate.fitness for mate in mates]).tolist())
    return Offspring(genome, tuple(mate.id for mate in mates), weights, bounds, divisor, draws)


def one_shot(
    appraisal: Appraisal,
    channels: Channels,
    prices: Mapping[str, Price],
    limits: Limits,
    bounds: Mapping[str, float],
    wiring: Wiring,
    heredity: str,
    *,
    strict: bool = False,
) -> Genome:
    """The control: what the ancestor's strengths alone would keep within bounds by resource, nothing being random.

    Raises what `synthesise` does.
    """
    inheritance = from_ancestor(appraisal, channels, wiring)
    return _control(inheritance, _Ground(channels, prices, limits, wiring, heredity), bounds, strict=strict)


def random_cut(
    channels: Channels,
    prices: Mapping[str, Price],
    limits: Limits,
    bounds: Mapping[str, float],
    wiring: Wiring,
    heredity: str,
    rng: np.random.Generator,
    *,
    strict: bool = False,
) -> Genome:
    """The control: the same with random strengths. Raises what `synthesise` does."""
    inheritance = at_random(channels, wiring, heredity, rng)
    return _control(inheritance, _Ground(channels, prices, limits, wiring, heredity), bounds, strict=strict)


def _control(inheritance: Inheritance, ground: _Ground, bounds: Mapping[str, float], *, strict: bool) -> Genome:
    strict = strict or ground.limits.strict
    return _Draw(ground, inheritance, strict, 0.0, 0.0).once(bounds, np.random.default_rng(0))[0]


def _unknown(
    draw: _Draw, bounds: Mapping[str, float], least: Mapping[str, float], rng: np.random.Generator, known: set[str]
) -> tuple[Genome, int, int]:
    """Draw until a genome isn't known, with ever more drift; later also hotter, and within ever tighter bounds."""
    for number in range(MOST_DRAWS):
        late = max(0, number - LONG_PATIENCE)
        hotter = draw.temperature + STIR * max(0, number - PATIENCE)
        share = (1.0 - TIGHTER) ** (late * (late + 1) / 2)
        tighter = {name: max(share * bound, min(bound, least.get(name, 1.0))) for name, bound in bounds.items()}
        genome, divisor = replace(draw, temperature=hotter, drift=draw.drift + number * STIR).once(tighter, rng)
        if genome.digest not in known:
            return genome, divisor, number + 1
    raise Unreachable(
        f"{MOST_DRAWS} draws in a row gave networks that are known already: the limits leave hardly any choice; raise "
        "--drift or --temperature, or ask for fewer generations or a smaller population."
    )


@dataclass(frozen=True, eq=False)
class _Draw:
    """How genomes are drawn from an inheritance."""

    ground: _Ground
    inheritance: Inheritance
    strict: bool
    temperature: float
    drift: float

    def once(self, bounds: Mapping[str, float], rng: np.random.Generator) -> tuple[Genome, int]:
        """A genome within the bounds, and the divisor of multiples that it took."""
        channels, heritage = self.ground.channels, self.inheritance
        strengths = _drifted(channels, heritage.clusters, self.drift, rng)
        values = _perturbed_units(channels, strengths, self.temperature, rng)
        ranking = rank(channels, values, heritage.may, heritage.reserve)
        prices = self.ground.priced([name for name in bounds if name != "synapses"])
        if self.ground.heredity == "synapses":
            widths, divisor = self._inherited(ranking), 1
        elif prices:
            widths, divisor = self._fit(strengths, values, ranking, prices, bounds)
        else:
            widths, divisor = [int(choice[-1]) for choice in self._choices(ranking, 1)], 1
        dead = ranking.dead(channels.nobody(), [group.units for group in channels.groups], widths)
        return self._wired(dead, values, ranking, divisor, bounds, rng), divisor

    def _choices(self, ranking: Ranking, divisor: int) -> list[Indices]:
        return choices(self.ground.channels, self.ground.limits, ranking, self.inheritance.widths, divisor)

    def _inherited(self, ranking: Ranking) -> list[int]:
        """All that may live, and of others only as many as a group needs."""
        groups, share = self.ground.channels.groups, self.ground.limits.max_share
        return [
            min(max(most, floor(group, 1, share)), len(order))
            for group, most, order in zip(groups, ranking.drawn, ranking.orders, strict=True)
        ]

    def _fit(
        self,
        strengths: Vector,
        values: Vector,
        ranking: Ranking,
        prices: Mapping[str, Price],
        bounds: Mapping[str, float],
    ) -> tuple[list[int], int]:
        """Draw the widths at the threshold that the tightest bound needs, and repair them."""
        groups = self.ground.channels.groups
        threshold = max(self._threshold(strengths, ranking, price, bounds[name]) for name, price in prices.items())
        drawn = [
            int(np.count_nonzero(values[order[:most]] >= threshold))
            for order, most in zip(ranking.orders, ranking.drawn, strict=True)
        ]
        with Ledger(prices, len(groups)) as ledger:
            repair = Repair(ledger, ranking, list(map(len, groups)), {name: bounds[name] for name in prices})
            divisor = repair.run(drawn, lambda finer: self._choices(ranking, finer), strict=self.strict)
            return repair.widths, divisor

    def _threshold(self, strengths: Vector, ranking: Ranking, price: Price, budget: float) -> float:
        """Where the expected cost is the budget; groups that can't lose that much are expected at their least width."""
        groups = self.ground.channels.groups
        least = np.array([choice[0] for choice in self._choices(ranking, 1)], np.float64)
        units = [order[:most] for order, most in zip(ranking.orders, ranking.drawn, strict=True)]
        numbers = np.repeat(np.arange(len(groups)), list(map(len, units)))
        sizes = np.array(list(map(len, groups)), np.float64)
        with Expectation(price, len(groups)) as expectation:

            def expected(probabilities: Vector) -> float:
                living = np.bincount(numbers, probabilities, minlength=len(groups))
                return expectation.at(sizes - np.maximum(living, least))

            drawn = strengths[np.concatenate(units)] if units else np.zeros(0)
            return solve_threshold(drawn, self.temperature, expected, budget)

    def _wired(
        self,
        dead: Mask,
        values: Vector,
        ranking: Ranking,
        divisor: int,
        bounds: Mapping[str, float],
        rng: np.random.Generator,
    ) -> Genome:
        """The genome of these clusters, with its synapses drawn where they are inherited."""
        wiring = self.ground.wiring
        if self.ground.heredity == "clusters":
            kept = {name: self.inheritance.allowed(name) for name in self.inheritance.masked}
            return wiring.canonical(Genome(dead, kept))
        budget = bounds.get("synapses")
        widths = self._choices(ranking, divisor)
        return wire(wiring, self.inheritance, dead, budget, widths, values, (self.temperature, self.drift), rng)


def _drifted(channels: Channels, strengths: Vector, drift: float, rng: np.random.Generator) -> Vector:
    """Strengths [count] with each group's shifted as a whole; one number is drawn for each group."""
    found = strengths.copy()
    for group, shift in zip(channels.groups, rng.standard_normal(len(channels.groups)).tolist(), strict=True):
        found[group.units] += drift * shift
    return found


def _perturbed_units(channels: Channels, strengths: Vector, temperature: float, rng: np.random.Generator) -> Vector:
    """`heredity.perturbed` strengths [count] of the units of all groups, in their order; others stay."""
    found = strengths.copy()
    if channels.groups:
        units = np.concatenate([group.units for group in channels.groups])
        found[units] = perturbed(strengths[units], temperature, rng)
    return found


def _first(channels: Channels, widths: Sequence[int]) -> Mask:
    dead = channels.nobody()
    for group, width in zip(channels.groups, widths, strict=True):
        dead[group.units[width:]] = True
    return dead
