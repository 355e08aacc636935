"""Options of fitness: what doesn't exist, or what nobody would read, is refused."""

from __future__ import annotations

from dataclasses import asdict

import click
import pytest
from click.testing import CliRunner

from darwinc.commands.scoring import scoring_options
from darwinc.errors import UsageError
from darwinc.passes.cull import Cull
from darwinc.recipe import options
from darwinc.scoring import FITNESS, SCORING, Scoring


def parsed(*arguments: str) -> tuple[str, Scoring]:
    found: list[tuple[str, Scoring]] = []

    @click.command()
    @scoring_options
    def command(fitness: str, scoring: Scoring) -> None:
        found.append((fitness, scoring))

    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return found[0]


def test_the_defaults_of_the_command_line_are_those_of_the_class() -> None:
    assert parsed() == ("darwin", SCORING)


def test_every_option_reaches_its_field() -> None:
    given = ["--fitness", "l2", "--exponents", "0.5,2,0", "--floor", "0.1", "--normalise", "layer"]
    fitness, scoring = parsed(*given, "--trajectory", "a", "--trajectory", "b")
    assert fitness == "l2"
    assert scoring == Scoring((0.5, 2.0, 0.0), 0.1, "layer", ("a", "b"))


def test_exponents_that_are_no_numbers_are_wrong_usage() -> None:
    with pytest.raises(UsageError, match="write P,Q,R"):
        parsed("--exponents", "1,x,2")


@pytest.mark.parametrize(
    ("fitness", "scoring", "message"),
    [
        ("height", Scoring(), "There is no fitness 'height'; choose from darwin, taylor"),
        ("l2", Scoring((1.0, 1.0, 0.5)), "--exponents was given, but --fitness l2 doesn't read it"),
        ("taylor", Scoring(floor=0.1), "--floor was given"),
        ("mine:score", Scoring(normalise="layer"), "--normalise was given, but --fitness mine:score"),
        ("random", Scoring(trajectory=("run",)), "--trajectory was given"),
        ("darwin", Scoring((1.0, 1.0)), "given as 1,1; give three numbers"),  # type: ignore[arg-type]
        ("darwin", Scoring((1.0, -1.0, 0.0)), "three numbers of 0 or more"),
        ("darwin", Scoring((1.0, float("nan"), 0.0)), "three numbers of 0 or more"),
        ("darwin", Scoring((0.0, 0.0, 1.0)), "leaves no factor"),
        ("darwin", Scoring((0.0, 0.0, 0.0), trajectory=("run",)), "leaves no factor"),
        ("darwin", Scoring(floor=-1.0), "give 0 or more"),
        ("darwin", Scoring(normalise="model"), "no --normalise 'model'; choose from loss, layer"),
    ],
)
def test_what_is_wrong_is_said(fitness: str, scoring: Scoring, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scoring.judge(fitness)


@pytest.mark.parametrize("fitness", [*FITNESS, "mine:score"])
def test_every_criterion_goes_with_the_defaults(fitness: str) -> None:
    SCORING.judge(fitness)
    Scoring((0.0, 0.0, 1.0), trajectory=("run",)).judge("darwin")


def test_the_options_are_listed_with_the_pass() -> None:
    listed = {option.name: option.default for option in options(Cull)}
    assert {name: listed[name] for name in asdict(SCORING)} == asdict(SCORING)
