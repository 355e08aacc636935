"""What pages ask of an evolution: who is fittest, who descends from whom, and was it worth more than its controls.

Pure functions of a report; figures that are missing or not finite count as not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from darwinc.evolution_schema import Evolution, Generation, Individual
from darwinc.report_schema import Report

Judgement = Literal["better", "worse", "no difference", "unknown"]
STAGES = ("quality", "quality_before", "quality_raw")
"""Where quality is read, the latest first: after training, after survivors inherited, right after the cut."""
SURE = 1.96
"""Standard errors on either side of a 95 % interval."""
ONE_SHOT = "one-shot"


@dataclass(frozen=True)
class Family:
    """Every network of an evolution; `evolution` is None where a report has generations alone.

    Attributes:
        generations: in their order.
        networks: ancestor and offspring by id, in the order of their birth.
    """

    generations: Sequence[Generation]
    networks: Mapping[str, Individual]
    evolution: Evolution | None = None

    @property
    def ancestor(self) -> Individual | None:
        """The network that all descend from."""
        return self.evolution.ancestor if self.evolution is not None else None

    @property
    def winner(self) -> Individual | None:
        """The network that was chosen in the end."""
        named = None if self.evolution is None else self.evolution.winner
        return None if named is None else self.networks.get(named)

    @property
    def controls(self) -> Sequence[Individual]:
        """What the winner is compared with."""
        return self.evolution.controls if self.evolution is not None else ()

    @property
    def offspring(self) -> list[Individual]:
        """All that were raised."""
        return [network for generation in self.generations for network in generation.offspring]

    @property
    def survivors(self) -> set[str]:
        """Ids of all that survived some generation."""
        named = {name for generation in self.generations for name in generation.survivors}
        return named | {network.id for network in self.offspring if network.survived}


@dataclass(frozen=True)
class Contest:
    """The winner against a control.

    Attributes:
        winner: its quality, between 0 and 1, at the latest stage at which both were measured; None where there is none.
        other: the control's, at the same stage.
        error: the standard error of the difference; None where the number of samples isn't known.
        judgement: better and worse are what 95 % intervals say.
    """

    control: Individual
    winner: float | None = None
    other: float | None = None
    error: float | None = None
    judgement: Judgement = "unknown"


@dataclass(frozen=True)
class Zeros:
    """Synapses that were culled inside kept channels: they are stored as zeros.

    Attributes:
        synaptic: the ancestor's synapses over the winner's.
        stored: the ancestor's parameters over the winner's; None where they weren't counted.
        least: how many numbers of the winner's file are zeros, at least.
    """

    synaptic: float
    stored: float | None
    least: int


def family(report: Report) -> Family | None:
    """The evolution of a report; None where nothing evolved."""
    if report.evolution is None and not report.generations:
        return None
    generations = sorted(report.generations, key=lambda found: found.generation)
    first = [report.evolution.ancestor] if report.evolution is not None else []
    born = [network for generation in generations for network in generation.offspring]
    return Family(generations, {network.id: network for network in [*first, *born]}, report.evolution)


def measured(figure: float | None) -> float | None:
    """The figure where it is one."""
    return figure if figure is not None and math.isfinite(figure) else None


def outcome(network: Individual) -> float | None:
    """Quality between 0 and 1 at the latest stage that was measured."""
    found = (measured(getattr(network, stage)) for stage in STAGES)
    return next((figure for figure in found if figure is not None), None)


def over(ancestor: Individual | None, network: Individual | None, count: str) -> float | None:
    """The ancestor's count over the network's: 2.0 is half the size."""
    old, new = (measured(getattr(one, count)) if one is not None else None for one in (ancestor, network))
    return old / new if old is not None and new else None


def fittest(found: Family, generation: Generation) -> Individual | None:
    """The fittest that survived a generation, which may be from an earlier one; None where none did."""
    if generation.survivor is not None and generation.survivor in found.networks:
        return found.networks[generation.survivor]
    names = [*generation.survivors, *(network.id for network in generation.offspring if network.survived)]
    alive = [found.networks[name] for name in dict.fromkeys(names) if name in found.networks]
    return max(alive, key=_fitness, default=None)


def _fitness(network: Individual) -> float:
    fitness = measured(network.fitness)
    return -math.inf if fitness is None else fitness


def line_of_descent(found: Family) -> list[Individual]:
    """From the winner back to the ancestor, at each step by the parent with the largest share."""
    line: dict[str, Individual] = {}
    network = found.winner
    while network is not None and network.id not in line:
        line[network.id] = network
        known = [(share, name) for name, share in shares(network).items() if name in found.networks]
        network = found.networks[max(known, key=lambda parent: parent[0])[1]] if known else None
    return list(line.values())


def forebears(found: Family) -> set[str]:
    """Ids of the winner and of everything that it descends from."""
    seen: set[str] = set()
    ahead = [found.winner] if found.winner is not None else []
    while ahead:
        network = ahead.pop()
        seen.add(network.id)
        ahead += [found.networks[name] for name in network.parents if name in found.networks and name not in seen]
    return seen


def shares(network: Individual) -> dict[str, float]:
    """What each parent counted for; alike where that isn't known."""
    even = 1 / max(len(network.parents), 1)
    known = [measured(share) for share in network.shares] if len(network.shares) == len(network.parents) else []
    found: dict[str, float] = {}
    for place, name in enumerate(network.parents):
        share = known[place] if known else None
        found[name] = found.get(name, 0.0) + (even if share is None else share)
    return found


def of_two_parents(found: Family, network: Individual) -> bool:
    """Has it parents of different genomes?"""
    return len({found.networks[name].genome if name in found.networks else name for name in network.parents}) > 1


def mated(found: Family) -> bool | None:
    """Has any survivor two different parents? None where no offspring was to have several."""
    asked = found.evolution.options.get("parents") if found.evolution is not None else None
    several = isinstance(asked, int) and asked > 1
    if not several and all(len(network.parents) < 2 for network in found.offspring):
        return None
    alive = found.survivors
    return any(network.id in alive and of_two_parents(found, network) for network in found.offspring)


def is_one_shot(found: Family) -> bool | None:
    """Is the winner merely the deterministic cut? None where that can't be told."""
    cuts = [control.genome for control in found.controls if control.name == ONE_SHOT]
    return found.winner.genome in cuts if cuts and found.winner is not None else None


def twins(networks: Iterable[Individual]) -> int:
    """How many have the genome of another one before them; 0 where evolution did as it should."""
    genomes = [network.genome for network in networks]
    return len(genomes) - len(set(genomes))


def contests(found: Family) -> list[Contest]:
    """The winner against each control."""
    samples = found.evolution.samples if found.evolution is not None else 0
    return [_contest(found.winner, control, samples) for control in found.controls]


def _contest(winner: Individual | None, control: Individual, samples: int) -> Contest:
    for stage in STAGES:
        ours = measured(getattr(winner, stage)) if winner is not None else None
        theirs = measured(getattr(control, stage))
        if ours is not None and theirs is not None:
            error = standard_error(ours, theirs, samples)
            return Contest(control, ours, theirs, error, _judged(ours - theirs, error))
    return Contest(control)


def _judged(difference: float, error: float | None) -> Judgement:
    if error is None:
        return "unknown"
    if abs(difference) <= SURE * error:
        return "no difference"
    return "better" if difference > 0 else "worse"


def standard_error(one: float, other: float, samples: int) -> float | None:
    """Of the difference of two qualities between 0 and 1, each a mean over as many samples; None without samples.

    A mean p of figures between 0 and 1 has a variance of at most p (1 - p) / n. One success and one failure are added
    to each, so that a perfect score doesn't count as certain (Agresti and Caffo, The American Statistician 54, 2000).
    Both networks saw the same samples, which makes the true error smaller as a rule.
    """
    if samples <= 0:
        return None
    means = [(min(max(quality, 0.0), 1.0) * samples + 1) / (samples + 2) for quality in (one, other)]
    return math.sqrt(sum(mean * (1 - mean) for mean in means) / (samples + 2))


def archive(found: Family) -> list[Individual]:
    """The networks that no other one beats in everything, the smallest first."""
    names = found.evolution.pareto if found.evolution is not None else []
    known = [found.networks[name] for name in dict.fromkeys(names) if name in found.networks]
    return sorted(known, key=lambda network: (network.parameters is None, network.parameters or 0, network.id))


def zeros(found: Family) -> Zeros | None:
    """What culling single synapses left in the winner; None where none was culled.

    Whatever a file stores beside non-zero weights (biases, tables, zeros) only shrinks with its channels; where there
    is more of it than in the ancestor, the excess are zeros.
    """
    ratio = over(found.ancestor, found.winner, "synapses")
    if found.evolution is None or found.winner is None or ratio is None:
        return None
    beside, first = _beside(found.winner), _beside(found.evolution.ancestor)
    least = max(beside - first, 0) if beside is not None and first is not None else 0
    if found.evolution.options.get("heredity") not in ("synapses", "both") and not least:
        return None
    return Zeros(ratio, over(found.ancestor, found.winner, "parameters"), least)


def _beside(network: Individual) -> int | None:
    """Numbers that are stored and aren't synapses."""
    if network.parameters is None or network.synapses is None:
        return None
    return network.parameters - network.synapses
