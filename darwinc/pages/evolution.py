"""What pages and the terminal say of an evolution; Markdown and HTML share these texts.

Texts are plain: names in them come from models and command lines, and the pages escape them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from darwinc.pages.evolution_questions import (
    Contest,
    Family,
    Zeros,
    contests,
    family,
    is_one_shot,
    mated,
    outcome,
    over,
    twins,
    zeros,
)
from darwinc.pages.evolution_tables import (
    CONTROLS,
    Table,
    controls_table,
    generation_table,
    name_text,
    parents_text,
    pareto_table,
    points_text,
    times_text,
)
from darwinc.pages.texts import count_text
from darwinc.report_schema import Report

LONG = 12
"""Offspring above which Markdown folds each generation up."""
ENDINGS = {
    "target": "the target was met",
    "generations": "all generations were raised",
    "collapse": "every offspring of a generation had collapsed",
    "budget": "the time was used up",
    "exhausted": "nothing new fits the environment any more",
}
LEGEND = (
    "Quality is in points, 100 being perfect, on validation samples: right after the cut, after survivors inherited, "
    "and after training. A distance is the share of the ancestor's channels that live in one of both networks alone. "
    "2x fewer is half. The winner was chosen on the samples that it is compared on, and its controls were not, which "
    "flatters it a little."
)
COUNTS = {"parameters": "parameters", "macs": "MACs", "kernels": "kernels", "synapses": "synapses"}


@dataclass(frozen=True)
class EvolutionPage:
    """The section on evolution.

    Attributes:
        summary: what was raised, how it ended, and who won.
        remarks: what a reader must know besides; a sentence each.
        contests: the winner against each control; a sentence each.
        synapses: what culling single synapses was worth; empty where none was culled.
        generations: every offspring, a table for each generation.
        folded: are the generations' tables too long to stand open?
    """

    summary: Sequence[str]
    remarks: Sequence[str]
    contests: Sequence[str]
    controls: Table | None
    pareto: Table | None
    synapses: str
    generations: Sequence[Table]
    folded: bool


def evolution_page(report: Report) -> EvolutionPage | None:
    """The section on evolution; None where nothing evolved."""
    found = family(report)
    if found is None:
        return None
    return EvolutionPage(
        summary=[f"{line}." for line in (_course(found), _winner(found, "The winner is ")) if line],
        remarks=_remarks(found),
        contests=_contests(found),
        controls=controls_table(found),
        pareto=pareto_table(found),
        synapses=_synapses(found),
        generations=[generation_table(found, generation) for generation in found.generations if generation.offspring],
        folded=len(found.offspring) > LONG,
    )


def evolution_lines(report: Report) -> list[str]:
    """What became of an evolution, a line each, for the terminal; none where nothing evolved."""
    found = family(report)
    if found is None:
        return []
    against = [_short_contest(contest) for contest in contests(found)]
    lines = [
        f"evolution: {_course(found)}",
        _winner(found, "winner: ", ("parameters", "macs")),
        f"controls: the winner is {'; '.join(against)}" if against else "",
        _synapses(found),
    ]
    return [line[:1].lower() + line[1:].rstrip(".") for line in [*lines, *_warnings(found)] if line]


# Sentences ------------------------------------------------------------------------------------------------------------


def _counted(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _course(found: Family) -> str:
    born, collapsed = found.offspring, sum(network.collapsed for network in found.offspring)
    fallen = f", of which {collapsed:,} collapsed" if collapsed else ""
    raised = f"{_counted(len(found.generations), 'generation')}, {len(born):,} offspring{fallen}"
    if found.evolution is None or found.evolution.ended is None:
        return f"{raised}; not finished"
    return f"{raised}; it ended because {ENDINGS[found.evolution.ended]}"


def _winner(found: Family, before: str, counts: Iterable[str] = tuple(COUNTS)) -> str:
    winner, ancestor, evolution = found.winner, found.ancestor, found.evolution
    if winner is None or ancestor is None or evolution is None:
        return ""
    if winner.id == ancestor.id:
        return f"{before}the ancestor itself: no offspring was fitter"
    smaller = [f"{times_text(ratio)} fewer {COUNTS[key]}" for key in counts if (ratio := over(ancestor, winner, key))]
    good = (
        f"{evolution.metric} {points_text(outcome(winner))} of the ancestor's {points_text(outcome(ancestor))} points"
    )
    where = f" on {_counted(evolution.samples, 'validation sample')}" if evolution.samples else ""
    word = "parent" if len(set(winner.parents)) == 1 else "parents"
    parents = f" ({word} {parents_text(found, winner)})" if winner.parents else ""
    return f"{before}{winner.id} of generation {winner.generation}{parents}: {', '.join([*smaller, good])}{where}"


def _warnings(found: Family) -> list[str]:
    """What an evolution should not have been."""
    same = twins(found.offspring)
    found_out = [
        (is_one_shot(found), "The winner has the genome of the one-shot cut: evolution found nothing else."),
        (mated(found) is False, "No survivor has two different parents, though offspring were to have several."),
        (same, f"{_counted(same, 'offspring has', 'offspring have')} the genome of another one."),
    ]
    return [sentence for is_so, sentence in found_out if is_so]


def _remarks(found: Family) -> list[str]:
    good = []
    if is_one_shot(found) is False:
        good.append("The winner's genome isn't the one-shot cut's.")
    if mated(found):
        good.append("Some survivors have two different parents.")
    notes = [f"Winner: {note}" for note in (found.winner.notes if found.winner is not None else [])]
    return [*_warnings(found), *good, *notes]


def _synapses(found: Family) -> str:
    culled = zeros(found)
    if culled is None:
        return ""
    least = f", at least {count_text(culled.least)} of them zeros," if culled.least else ""
    return (
        f"Synaptic efficiency: {times_text(culled.synaptic)} fewer synapses than the ancestor{_stored(culled, least)}. "
        "Synapses that were culled inside kept channels are zeros in a dense file: they make nothing faster, and the "
        "file no smaller"
    )


def _stored(culled: Zeros, least: str) -> str:
    if culled.stored is None:
        return ""
    little = "but only" if culled.stored < culled.synaptic else "and"
    return f", {little} {times_text(culled.stored)} fewer numbers{least} in the file"


def _contests(found: Family) -> list[str]:
    if found.evolution is None:
        return []
    fought = contests(found)
    missing = [word for name, word in CONTROLS.items() if name not in {contest.control.name for contest in fought}]
    lines = [_contest(contest) for contest in fought]
    if missing:
        lines.append(f"Not raised: {', '.join(missing)}; the winner can't be compared with what wasn't.")
    return lines


def _contest(contest: Contest) -> str:
    other = name_text(contest.control)
    if contest.winner is None or contest.other is None:
        return f"{other[:1].upper()}{other[1:]} was not measured beside the winner."
    figures = f"{points_text(contest.winner)} against {points_text(contest.other)} points"
    if contest.error is None:
        return (
            f"The winner and {other}: {figures}; how many samples were used isn't known, so neither is called better."
        )
    doubt = f"{figures}, standard error of the difference {100 * contest.error:.2f}"
    if contest.judgement == "no difference":
        return f"The winner is not shown to be better than {other}: the samples show no difference ({doubt})."
    return f"The winner is {contest.judgement} than {other} ({doubt})."


def _short_contest(contest: Contest) -> str:
    other = name_text(contest.control)
    if contest.winner is None or contest.other is None:
        return f"not comparable with {other}, which was not measured"
    difference = f"{100 * (contest.winner - contest.other):+.2f}"
    if contest.error is not None:
        difference += f", standard error {100 * contest.error:.2f}"
    words = {
        "better": f"better than {other}",
        "worse": f"worse than {other}",
        "no difference": f"not shown to be better than {other}",
        "unknown": f"undecided against {other}",
    }
    return f"{words[contest.judgement]} ({difference} points)"
