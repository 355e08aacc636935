"""What pages and the terminal say of an evolution; Markdown and HTML share these texts.

Texts are plain: names in them come from models and command lines, and the pages escape them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from darwinc.evolution_questions import (
    Contest,
    Family,
    Zeros,
    archive,
    contests,
    family,
    fittest,
    is_one_shot,
    mated,
    measured,
    outcome,
    over,
    shares,
    twins,
    zeros,
)
from darwinc.evolution_schema import Generation, Individual
from darwinc.report_page import code_text, count_text, milliseconds_text, number_text, plain_text
from darwinc.report_schema import Report

SHORT = 8
"""Digits of a genome's hash: enough to tell a few thousand networks apart."""
LONG = 12
"""Offspring above which Markdown folds each generation up."""
NONE = "-"
ENDINGS = {
    "target": "the target was met",
    "generations": "all generations were raised",
    "collapse": "every offspring of a generation had collapsed",
    "budget": "the time was used up",
}
CONTROLS = {
    "one-shot": "the one-shot cut",
    "random": "the random cut",
    "scratch": "the same shape trained from scratch",
}
LEGEND = (
    "Quality is in points, 100 being perfect, on validation samples: right after the cut, after survivors inherited, "
    "and after training. A distance is the share of the ancestor's channels that live in one of both networks alone. "
    "2x fewer is half. The winner was chosen on the samples that it is compared on, and its controls were not, which "
    "flatters it a little."
)
COUNTS = {"parameters": "parameters", "macs": "MACs", "kernels": "kernels", "synapses": "synapses"}


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, and what is in it: a figure, a name (shown as code), or words."""

    head: str
    kind: str = "words"


@dataclass(frozen=True)
class Table:
    """A table as plain text [rows, columns], and its title."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


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
        controls=_controls(found),
        pareto=_pareto(found),
        synapses=_synapses(found),
        generations=[_generation(found, generation) for generation in found.generations if generation.offspring],
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
        _winner(found, "winner: "),
        f"controls: {'; '.join(against)}" if against else "",
        _synapses(found),
    ]
    return [*(line.rstrip(".") for line in lines if line), *(remark.rstrip(".") for remark in _warnings(found))]


def table_text(table: Table) -> str:
    """A table as Markdown."""
    heads = [column.head for column in table.columns]
    rules = ["---:" if column.kind == "figure" else "---" for column in table.columns]
    body = [
        [
            code_text(cell) if column.kind == "name" and cell != NONE else plain_text(cell)
            for column, cell in zip(table.columns, row, strict=True)
        ]
        for row in table.rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, rules, *body])


# Figures --------------------------------------------------------------------------------------------------------------


def points_text(quality: float | None) -> str:
    """0.97412 -> "97.41", in points; a dash where it wasn't measured."""
    found = measured(quality)
    return NONE if found is None else f"{100 * found:.2f}"


def times_text(ratio: float | None) -> str:
    """139.24 -> "139x"; a dash where it doesn't exist."""
    if measured(ratio) is None or ratio is None:
        return NONE
    return f"{ratio:,.0f}x" if ratio >= 999.5 else f"{ratio:.3g}x"


def name_text(control: Individual) -> str:
    """What a control is, in words."""
    return CONTROLS.get(control.name or "", control.name or control.id)


def _genome(found: Family, name: str) -> str:
    """A network's genome, shortened; its id where it isn't known."""
    network = found.networks.get(name)
    return (network.genome if network is not None else name)[:SHORT]


def _parents(found: Family, network: Individual) -> str:
    """Their genomes; with what each counted for where they didn't count alike."""
    parts = shares(network)
    even = len({round(share, 3) for share in parts.values()}) < 2
    return ", ".join(_genome(found, name) + ("" if even else f" ({share:.2g})") for name, share in parts.items())


def _counted(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


# Sentences ------------------------------------------------------------------------------------------------------------


def _course(found: Family) -> str:
    born, collapsed = found.offspring, sum(network.collapsed for network in found.offspring)
    fallen = f", of which {collapsed:,} collapsed" if collapsed else ""
    raised = f"{_counted(len(found.generations), 'generation')}, {len(born):,} offspring{fallen}"
    if found.evolution is None:
        return f"{raised}; not finished"
    return f"{raised}; it ended because {ENDINGS[found.evolution.ended]}"


def _winner(found: Family, before: str) -> str:
    winner, ancestor, evolution = found.winner, found.ancestor, found.evolution
    if winner is None or ancestor is None or evolution is None:
        return ""
    if winner.id == ancestor.id:
        return f"{before}the ancestor itself: no offspring was fitter"
    smaller = [
        f"{times_text(ratio)} fewer {word}" for key, word in COUNTS.items() if (ratio := over(ancestor, winner, key))
    ]
    good = (
        f"{evolution.metric} {points_text(outcome(winner))} of the ancestor's {points_text(outcome(ancestor))} points"
    )
    where = f" on {_counted(evolution.samples, 'validation sample')}" if evolution.samples else ""
    parents = f" (parents {_parents(found, winner)})" if winner.parents else ""
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
    return f", but only {times_text(culled.stored)} fewer numbers{least} in the file"


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
    doubt = f"{figures}, standard error of the difference {100 * contest.error:.2g}"
    if contest.judgement == "no difference":
        return f"Between the winner and {other} there is no difference that the samples could show ({doubt})."
    return f"The winner is {contest.judgement} than {other} ({doubt})."


def _short_contest(contest: Contest) -> str:
    other = name_text(contest.control)
    if contest.winner is None or contest.other is None:
        return f"{other} not measured"
    difference = f"{100 * (contest.winner - contest.other):+.2f}"
    if contest.error is not None:
        difference += f", standard error {100 * contest.error:.2g}"
    words = {
        "better": f"better than {other}",
        "worse": f"worse than {other}",
        "no difference": f"no difference to {other} that the samples could show",
        "unknown": f"undecided against {other}",
    }
    return f"{words[contest.judgement]} ({difference} points)"


# Tables ---------------------------------------------------------------------------------------------------------------

Cell = Callable[[Individual], str]


def _sizes(found: Family) -> list[tuple[Column, Cell]]:
    def smaller(count: str) -> Cell:
        return lambda network: times_text(over(found.ancestor, network, count))

    return [
        (Column("parameters", "figure"), lambda network: _count(network.parameters)),
        (Column("kernels", "figure"), lambda network: _count(network.kernels)),
        (Column("synapses", "figure"), lambda network: _count(network.synapses)),
        (Column("fewer MACs", "figure"), smaller("macs")),
    ]


def _count(count: int | None) -> str:
    return NONE if count is None else count_text(count)


QUALITIES: list[tuple[Column, Cell]] = [
    (Column("cut", "figure"), lambda network: points_text(network.quality_raw)),
    (Column("inherited", "figure"), lambda network: points_text(network.quality_before)),
    (Column("trained", "figure"), lambda network: points_text(network.quality)),
]


def _table(title: str, columns: Sequence[tuple[Column, Cell]], networks: Sequence[Individual]) -> Table:
    """A row for each network; a column that is empty for all of them is left out, but for the first."""
    rows = [[show(network) for _, show in columns] for network in networks]
    used = [place for place in range(len(columns)) if not place or any(row[place] not in ("", NONE) for row in rows)]
    return Table(title, [columns[place][0] for place in used], [[row[place] for place in used] for row in rows])


def _generation(found: Family, generation: Generation) -> Table:
    """Every offspring of a generation."""
    alive, best = found.survivors, fittest(found, generation)
    columns: list[tuple[Column, Cell]] = [
        (Column("network", "name"), lambda network: network.id),
        (Column("genome", "name"), lambda network: network.genome[:SHORT]),
        (Column("parents", "name"), lambda network: _parents(found, network) or NONE),
        (
            Column("distance", "figure"),
            lambda network: ", ".join(number_text(measured(far), 2) for far in network.distance),
        ),
        *_sizes(found),
        *QUALITIES,
        (Column("fitness", "figure"), lambda network: _fitness(network)),
        (Column("survived"), lambda network: _fate(found, network, alive)),
    ]
    lived = sum(network.id in alive for network in generation.offspring)
    title = f"Generation {generation.generation}: {len(generation.offspring)} offspring, {lived} survived"
    if best is not None and outcome(best) is not None:
        title += f", the fittest has {points_text(outcome(best))} points"
    return _table(title, columns, generation.offspring)


def _fitness(network: Individual) -> str:
    fitness = measured(network.fitness)
    return NONE if fitness is None else number_text(fitness, 4)


def _fate(found: Family, network: Individual, alive: set[str]) -> str:
    if found.winner is not None and network.id == found.winner.id:
        return "winner"
    if network.collapsed:
        return "collapsed"
    return "yes" if network.id in alive else "no"


def _controls(found: Family) -> Table | None:
    """The controls beside the winner and the ancestor."""
    if found.winner is None or not found.controls:
        return None
    kinds = {"ancestor": "the ancestor", "offspring": "the winner"}
    columns: list[tuple[Column, Cell]] = [
        (Column("network"), lambda network: kinds.get(network.kind) or name_text(network)),
        *_sizes(found),
        *QUALITIES,
        (Column("steps of training", "figure"), lambda network: _count(network.steps)),
    ]
    compared = [network for network in (found.winner, *found.controls, found.ancestor) if network is not None]
    return _table("The winner and its controls", columns, compared)


def _pareto(found: Family) -> Table | None:
    """The networks that no other one beats in everything."""
    kept = archive(found)
    if not kept:
        return None
    columns: list[tuple[Column, Cell]] = [
        (Column("network", "name"), lambda network: network.id),
        (Column("generation", "figure"), lambda network: str(network.generation)),
        *_sizes(found),
        (Column("latency foreseen", "figure"), _latency),
        (Column("quality", "figure"), lambda network: points_text(outcome(network))),
    ]
    return _table("Pareto archive", columns, kept)


def _latency(network: Individual) -> str:
    found = measured(network.latency_ms)
    return NONE if found is None else milliseconds_text(found)
