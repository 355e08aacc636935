"""Who is fittest, who descends from whom, and is the winner better than its controls."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from darwinc.evolution_schema import Individual
from darwinc.pages.evolution_questions import (
    Family,
    archive,
    contests,
    family,
    fittest,
    forebears,
    is_one_shot,
    line_of_descent,
    mated,
    outcome,
    over,
    shares,
    standard_error,
    twins,
    zeros,
)
from darwinc.report import build_report
from tests.made_up_family import ANCESTOR, MadeUpFamily
from tests.test_report import smallest


def found_of(made: MadeUpFamily | None = None, **changes: Any) -> Family:
    found = family((made or MadeUpFamily()).report(**changes))
    assert found is not None
    return found


def network(**values: Any) -> Individual:
    return Individual.model_validate({"id": "n", "kind": "offspring", "generation": 1, "genome": "n"} | values)


def control(name: str = "one-shot", **values: Any) -> dict[str, Any]:
    return network(**({"id": name, "kind": "control", "name": name, "genome": name} | values)).model_dump()


def test_nothing_evolved_in_a_report_without_generations() -> None:
    assert family(build_report(smallest())) is None


def test_a_run_that_is_not_finished_has_generations_and_nothing_else() -> None:
    values = smallest() | MadeUpFamily().values()
    del values["evolution"]
    found = family(build_report(values))
    assert found is not None
    assert (found.ancestor, found.winner, list(found.controls), line_of_descent(found)) == (None, None, [], [])
    assert len(found.networks) == len(found.offspring) == 30
    assert (mated(found), is_one_shot(found), zeros(found), contests(found), archive(found)) == (
        True, None, None, [], [],
    )  # fmt: skip


def test_the_fittest_is_the_one_that_is_named() -> None:
    found = found_of()
    for generation in found.generations:
        best = fittest(found, generation)
        assert best is not None
        assert best.id == generation.survivor
        alive = [found.networks[name] for name in generation.survivors]
        assert best.fitness == max(one.fitness or 0 for one in alive)


def test_the_fittest_is_found_where_it_is_not_named() -> None:
    found = found_of()
    for generation in found.generations:
        named, generation.survivor = generation.survivor, None
        best = fittest(found, generation)
        assert best is not None
        assert best.id == named
        generation.survivors = []
        for one in generation.offspring:
            one.survived = False
        assert fittest(found, generation) is None


def test_a_fitness_that_is_no_number_is_the_least() -> None:
    found = found_of()
    generation = found.generations[0]
    generation.survivor, generation.survivors = None, [one.id for one in generation.offspring[:2]]
    for one in generation.offspring:
        one.survived = False
    generation.offspring[0].fitness, generation.offspring[1].fitness = math.nan, -5.0
    assert fittest(found, generation) is generation.offspring[1]


@pytest.mark.parametrize("parents", [1, 2, 3])
def test_the_line_of_descent_leads_to_the_ancestor_by_the_largest_share(parents: int) -> None:
    found = found_of(MadeUpFamily(parents=parents))
    line = line_of_descent(found)
    assert found.evolution is not None
    assert (line[0].id, line[-1].id) == (found.evolution.winner, ANCESTOR)
    for child, parent in itertools.pairwise(line):
        assert shares(child)[parent.id] == max(shares(child).values())
        assert parent.generation < child.generation
    assert {one.id for one in line} <= forebears(found)
    for name in forebears(found):
        assert set(found.networks[name].parents) <= forebears(found)


def test_a_damaged_family_that_runs_in_circles_ends() -> None:
    found = found_of()
    first = found.generations[0].offspring[0]
    assert found.winner is not None
    first.parents, first.shares = [found.winner.id, "nobody"], [0.5, 0.5]
    found.winner.parents, found.winner.shares = [first.id], [1.0]
    assert [one.id for one in line_of_descent(found)] == [found.winner.id, first.id]
    assert forebears(found) == {found.winner.id, first.id}


def test_shares_are_alike_where_they_are_not_known() -> None:
    assert shares(network(parents=["a", "b"])) == {"a": 0.5, "b": 0.5}
    assert shares(network(parents=["a", "b"], shares=[0.2, 0.8])) == {"a": 0.2, "b": 0.8}
    assert shares(network(parents=["a", "b"], shares=[math.nan, 0.8])) == {"a": 0.5, "b": 0.8}
    assert shares(network(parents=["a", "a"], shares=[0.25, 0.75])) == {"a": 1.0}
    assert shares(network()) == {}


def test_some_survivor_of_a_two_parent_run_has_two_different_parents() -> None:
    assert mated(found_of()) is True
    assert mated(found_of(MadeUpFamily(parents=1))) is None


def test_two_parents_of_one_genome_are_one() -> None:
    found = found_of()
    for one in found.offspring:
        one.genome = "all alike"
    assert found.ancestor is not None
    found.ancestor.genome = "all alike"
    assert mated(found) is False
    assert twins(found.offspring) == 29


def test_two_parents_that_were_asked_for_and_never_came() -> None:
    found = found_of(MadeUpFamily(parents=1), options={"parents": 2})
    assert mated(found) is False


def test_only_survivors_count_as_mated() -> None:
    found = found_of()
    for generation in found.generations:
        generation.survivors = []
        for one in generation.offspring:
            one.survived = False
    assert mated(found) is False


def test_the_winner_is_the_one_shot_cut_where_genomes_are_equal() -> None:
    found = found_of()
    assert is_one_shot(found) is False
    assert found.winner is not None
    same = found_of(controls=[control(genome=found.winner.genome)])
    assert is_one_shot(same) is True
    assert is_one_shot(found_of(controls=[control("random", genome=found.winner.genome)])) is None
    assert is_one_shot(found_of(winner="nobody")) is None


def test_quality_is_read_at_the_latest_stage() -> None:
    assert outcome(network(quality=0.9, quality_before=0.8, quality_raw=0.1)) == 0.9
    assert outcome(network(quality=math.nan, quality_before=0.8)) == 0.8
    assert outcome(network(quality_raw=0.1)) == 0.1
    assert outcome(network(quality=math.inf)) is None


def test_ratios_exist_where_both_counts_do() -> None:
    one, other = network(parameters=100), network(parameters=25)
    assert over(one, other, "parameters") == 4
    assert over(one, other, "macs") is None
    assert over(one, network(parameters=0), "parameters") is None
    assert over(None, other, "parameters") is None


def test_the_standard_error_of_a_difference() -> None:
    # (90 + 1) / 102 and (80 + 1) / 102, by hand
    one, other = 91 / 102, 81 / 102
    expected = math.sqrt((one * (1 - one) + other * (1 - other)) / 102)
    assert standard_error(0.9, 0.8, 100) == pytest.approx(expected, rel=1e-12)
    assert standard_error(1.0, 1.0, 100) == pytest.approx(math.sqrt(2 * (101 / 102) * (1 / 102) / 102), rel=1e-12)
    assert standard_error(0.9, 0.8, 0) is None


def test_the_standard_error_is_what_drawing_samples_gives() -> None:
    random = np.random.default_rng(0)
    drawn = random.binomial(500, 0.9, 20_000) / 500 - random.binomial(500, 0.8, 20_000) / 500
    assert standard_error(0.9, 0.8, 500) == pytest.approx(float(drawn.std()), rel=0.03)


@pytest.mark.parametrize(
    ("quality", "samples", "judgement"),
    [(0.9, 1000, "better"), (0.99, 1000, "worse"), (0.955, 1000, "no difference"), (0.9, 10, "no difference"),
     (0.955, 10**6, "worse"), (0.9, 0, "unknown")],
)  # fmt: skip
def test_better_than_a_control_is_what_samples_show(quality: float, samples: int, judgement: str) -> None:
    found = found_of(samples=samples, controls=[control(quality=quality)])
    assert found.winner is not None
    found.winner.quality = 0.95
    [contest] = contests(found)
    assert (contest.judgement, contest.winner, contest.other) == (judgement, 0.95, quality)


def test_networks_are_compared_at_the_same_stage() -> None:
    found = found_of(controls=[control(quality_before=0.4), control("random"), control("scratch", quality=math.nan)])
    assert found.winner is not None
    first, *others = contests(found)
    assert (first.winner, first.other) == (found.winner.quality_before, 0.4)
    assert {(contest.winner, contest.other, contest.judgement) for contest in others} == {(None, None, "unknown")}


def test_the_archive_is_sorted_by_size_and_knows_its_members() -> None:
    found = found_of()
    assert found.evolution is not None
    kept = archive(found)
    assert {one.id for one in kept} == set(found.evolution.pareto)
    assert [one.parameters for one in kept] == sorted(one.parameters or 0 for one in kept)
    assert archive(found_of(pareto=["nobody", kept[0].id, kept[0].id])) == [found.networks[kept[0].id]]


def test_zeros_are_reported_where_synapses_were_culled_in_kept_channels() -> None:
    assert zeros(found_of()) is None
    found = found_of(MadeUpFamily(culled=True))
    culled = zeros(found)
    assert culled is not None
    assert found.winner is not None
    assert found.ancestor is not None
    assert culled.synaptic == over(found.ancestor, found.winner, "synapses")
    assert culled.stored == over(found.ancestor, found.winner, "parameters")
    true = sum(25 * one * other for one, other in itertools.pairwise([1, *found.winner.widths, 10]))
    assert 0 < culled.least <= true - (found.winner.synapses or 0)


def test_zeros_show_in_the_figures_even_where_options_are_unknown() -> None:
    found = found_of(MadeUpFamily(culled=True), options={})
    assert zeros(found) is not None
    assert found.winner is not None
    found.winner.parameters = None
    assert zeros(found) is None
