"""Tables of an evolution as plain text, and the figures and names in them; Markdown and HTML share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from darwinc.evolution_schema import Generation, Individual
from darwinc.pages.evolution_questions import Family, archive, fittest, measured, outcome, over, shares
from darwinc.pages.texts import code_text, count_text, milliseconds_text, number_text, plain_text

SHORT = 8
"""Digits of a genome's hash: enough to tell a few thousand networks apart."""
NONE = "-"
CONTROLS = {
    "one-shot": "the one-shot cut",
    "random": "the random cut",
    "scratch": "the same shape trained from scratch",
}


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


def parents_text(found: Family, network: Individual) -> str:
    """Their genomes; with what each counted for where they didn't count alike."""
    parts = shares(network)
    even = len({round(share, 3) for share in parts.values()}) < 2
    return ", ".join(_genome(found, name) + ("" if even else f" {100 * share:.0f} %") for name, share in parts.items())


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


def generation_table(found: Family, generation: Generation) -> Table:
    """Every offspring of a generation."""
    alive, best = found.survivors, fittest(found, generation)
    columns: list[tuple[Column, Cell]] = [
        (Column("network", "name"), lambda network: network.id),
        (Column("genome", "name"), lambda network: network.genome[:SHORT]),
        (Column("parents", "name"), lambda network: parents_text(found, network) or NONE),
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


def controls_table(found: Family) -> Table | None:
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


def pareto_table(found: Family) -> Table | None:
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
