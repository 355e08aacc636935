"""Single synapses of offspring: their limit holds, they descend from parents, and unread clusters go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from darwinc.evolution.environment import environment
from darwinc.evolution.genome import Genome
from darwinc.evolution.mating import Parent
from darwinc.evolution.synthesis import Offspring, one_shot, synthesise
from darwinc.evolution_options import Evolution
from tests.offspring import World, check, world

SEEDS = st.integers(0, 2**32 - 1)


def test_random_synapses_ignore_strengths_too() -> None:
    place = world("classifier")
    options = Evolution(parents=0, heredity="both", generations=1)
    habitat = environment(options, "synapses", 0.2 * place.whole["synapses"], 1)
    found = [place.offspring([place.ancestor(seed)], place.limits(), habitat, options, 3) for seed in (0, 1)]
    assert found[0].genome.digest == found[1].genome.digest
    assert place.wiring.count(found[0].genome) == int(0.2 * place.whole["synapses"])


@given(
    SEEDS,
    st.sampled_from(["classifier", "wide", "residual", "shared"]),
    st.sampled_from(["synapses", "both"]),
    st.sampled_from(["sum", "product", "quorum"]),
    st.floats(0.2, 0.9),
)
@settings(max_examples=30, deadline=None)
def test_synapses_hold_their_limit_and_descend(seed: int, name: str, heredity: str, mating: str, share: float) -> None:
    place = world(name)
    options = Evolution(heredity=heredity, mating=mating, generations=3)
    pool, known = [place.ancestor(seed % 1000)], list[Genome]()
    for generation in (1, 2, 3):
        habitat = environment(options, "synapses", share * place.whole["synapses"], generation)
        born = []
        for number in range(2):
            child = place.offspring(pool, place.limits(4), habitat, options, seed + 10 * generation + number, *known)
            if heredity == "both":
                check(place, child, place.limits(4), pool)
            living = place.wiring.count(child.genome)
            assert living == place.costs(child.genome)["synapses"] <= child.limits["synapses"]
            descend(place, child, pool, mating)
            known.append(child.genome)
            born.append(place.parent(f"{generation}.{number}", child.genome, seed % 1000 + number))
        pool = born
    assert len({genome.digest for genome in known}) == len(known)


def synapses(place: World, genome: Genome, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    living = place.wiring.living(name, genome.dead)
    return living & genome.synapses.get(name, living)


def descend(place: World, child: Offspring, pool: list[Parent], mating: str) -> None:
    """A synapse lives where enough parents have it, and a layer keeps one."""
    mates = [parent for parent in pool if parent.id in child.parents]
    least = {"sum": 1, "product": len(mates), "quorum": min(2, len(mates))}[mating]
    for name in place.wiring.weights:
        lives = np.sum([synapses(place, mate.genome, name) for mate in mates], axis=0)
        assert (lives[synapses(place, child.genome, name)] >= least).all()


def test_only_synapses_die_where_only_they_are_inherited() -> None:
    place = world("wide")
    options = Evolution(heredity="synapses", generations=1)
    habitat = environment(options, "synapses", 0.5 * place.whole["synapses"], 1)
    child = place.offspring([place.ancestor()], place.limits(), habitat, options, 0)
    assert not child.genome.dead.any()
    assert place.wiring.count(child.genome) == int(0.5 * place.whole["synapses"])
    assert min(np.count_nonzero(mask) for mask in child.genome.synapses.values()) > 0


def test_the_strongest_synapses_live() -> None:
    place = world("classifier")
    appraisal = place.appraisal(0)
    bounds = {"synapses": 0.3 * place.whole["synapses"]}
    cut = one_shot(appraisal, place.channels, place.prices, place.limits(), bounds, place.wiring, "synapses")
    assert not cut.dead.any()
    kept = np.concatenate([appraisal.synapses[name][mask] for name, mask in cut.synapses.items()])
    lost = np.concatenate([appraisal.synapses[name][~mask] for name, mask in cut.synapses.items()])
    assert len(kept) == int(bounds["synapses"])
    assert kept.min() > lost.max()


def test_who_comes_back_is_wired() -> None:
    place = world("classifier")
    options = Evolution(heredity="both", environment="clusters=1,synapses=1")
    (half, _), random = place.halves(), np.random.default_rng(0)
    masks = {name: random.random(weight.shape) < 0.5 for name, weight in place.wiring.weights.items()}
    parent = replace(half, genome=place.wiring.canonical(Genome(half.genome.dead, masks)))
    habitat = environment(options, "synapses", 1.0, 1)
    settled = (place.limits(), habitat, options, place.wiring, random, set[str]())
    child = synthesise(
        [parent], place.channels, place.prices, *settled, revive=True, ancestor=place.appraisal(9)
    ).genome
    back = half.genome.dead & ~child.dead
    assert back.any()
    assert place.wiring.count(child) == place.wiring.count(parent.genome)
    between = place.wiring.living("w2", half.genome.dead) & place.wiring.living("w2", child.dead)
    assert not (synapses(place, child, "w2") & between & ~masks["w2"]).any()
    assert (synapses(place, child, "w2") & ~place.wiring.living("w2", half.genome.dead)).any()


def test_unread_clusters_die_and_make_room() -> None:
    place = world("classifier")
    bounds = {"synapses": 0.02 * place.whole["synapses"]}
    cut = one_shot(place.appraisal(0), place.channels, place.prices, place.limits(), bounds, place.wiring, "synapses")
    assert cut.dead.any()
    assert place.wiring.count(cut) == int(bounds["synapses"])
    assert not len(place.wiring.orphans(cut))
    aligned = one_shot(
        place.appraisal(0), place.channels, place.prices, place.limits(4), bounds, place.wiring, "synapses"
    )
    assert all(width % 4 == 0 for width in aligned.widths(place.channels.groups))


def test_dead_synapses_stay_dead_where_clusters_are_inherited() -> None:
    place = world("classifier")
    random, nobody = np.random.default_rng(0), place.channels.nobody()
    masks = [{"w2": random.random((16, 16, 3, 3)) < 0.5} for _ in range(2)]
    pool = [place.parent(str(number), Genome(nobody, mask), number) for number, mask in enumerate(masks)]
    for mating, wanted in (("sum", masks[0]["w2"] | masks[1]["w2"]), ("product", masks[0]["w2"] & masks[1]["w2"])):
        options = Evolution(mating=mating, generations=1)
        habitat = environment(options, "macs", 0.6 * place.whole["macs"], 1)
        child = place.offspring(pool, place.limits(), habitat, options, 0)
        assert set(child.genome.synapses) == {"w2"}
        living = place.wiring.living("w2", child.genome.dead)
        assert np.array_equal(child.genome.synapses["w2"], wanted & living)
