"""The options of evolution, which reach a command as one `evolution: Evolution`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from darwinc.commands.options import gathered
from darwinc.evolution_options import EVOLUTION, HEREDITIES, MATES, MATINGS, STRENGTHS, Evolution

Function = Callable[..., Any]
_COUNT = click.IntRange(1)
_AMOUNT = click.FloatRange(0)

OPTIONS = (
    click.option(
        "--generations", type=_COUNT, default=EVOLUTION.generations, show_default=True, help="Of evolve: at most."
    ),
    click.option(
        "--population",
        type=_COUNT,
        default=EVOLUTION.population,
        show_default=True,
        help="Of evolve: offspring of each generation.",
    ),
    click.option(
        "--parents",
        type=click.IntRange(0),
        default=EVOLUTION.parents,
        show_default=True,
        help="Of evolve: of each offspring; 0 draws widths at random, as a control.",
    ),
    click.option(
        "--survivors",
        type=_COUNT,
        default=EVOLUTION.survivors,
        show_default=True,
        help="Of evolve: networks that parents are chosen from.",
    ),
    click.option(
        "--heredity",
        type=click.Choice(HEREDITIES),
        default=EVOLUTION.heredity,
        show_default=True,
        help="Of evolve: what is drawn. clusters: whole channels, which are removed; synapses: single weights, which "
        "become zeros and make nothing faster; both.",
    ),
    click.option(
        "--strength",
        type=click.Choice(STRENGTHS),
        default=EVOLUTION.strength,
        show_default=True,
        help="Of evolve: what survival goes by.",
    ),
    click.option(
        "--mating",
        type=click.Choice(MATINGS),
        default=EVOLUTION.mating,
        show_default=True,
        help="Of evolve: how strengths of several parents come together.",
    ),
    click.option(
        "--quorum",
        type=_COUNT,
        default=EVOLUTION.quorum,
        show_default=True,
        help="Of --mating quorum: parents that must have a channel.",
    ),
    click.option(
        "--mates",
        type=click.Choice(MATES),
        default=EVOLUTION.mates,
        show_default=True,
        help="Of evolve: how parents are chosen from the survivors.",
    ),
    click.option(
        "--favour/--no-favour",
        default=EVOLUTION.favour,
        show_default=True,
        help="Of evolve: channels count for more that their parent does well with, class by class.",
    ),
    click.option(
        "--environment",
        default=EVOLUTION.environment,
        metavar="SPEC",
        help="Of evolve: what offspring may keep of their parents', as RESOURCE=SHARE,... (clusters, synapses, "
        "kernels, parameters, macs, bytes, latency), with colons from generation to generation: "
        "clusters=0.7,synapses=0.5:0.7. "
        "[default: the target; neared in equal ratios over two thirds of the generations where offspring are trained]",
    ),
    click.option(
        "--temperature",
        type=_AMOUNT,
        default=EVOLUTION.temperature,
        show_default=True,
        help="Of evolve: of the draw; 0 is the deterministic cut.",
    ),
    click.option(
        "--drift",
        type=_AMOUNT,
        default=EVOLUTION.drift,
        show_default=True,
        help="Of evolve: by how much the strength of a whole group shifts in an offspring.",
    ),
    click.option(
        "--price",
        type=_AMOUNT,
        default=EVOLUTION.price,
        show_default=True,
        help="Of evolve: the quality that half the cost is worth, as a fraction.",
    ),
    click.option(
        "--collapse",
        type=click.FloatRange(0, 1, max_open=True),
        default=EVOLUTION.collapse,
        show_default=True,
        help="Of evolve: the share of the original's quality below which an offspring has collapsed.",
    ),
    click.option(
        "--hours",
        type=click.FloatRange(0, min_open=True),
        metavar="H",
        help="Of evolve: no generation begins later than so many hours after the start.",
    ),
    click.option(
        "--controls/--no-controls",
        default=EVOLUTION.controls,
        show_default=True,
        help="Of evolve: raise the one-shot cut, a random one and the winner's shape from scratch for comparison.",
    ),
    click.option(
        "--workers",
        default=EVOLUTION.workers,
        show_default=True,
        metavar="N|ray://...",
        help="Of evolve: processes that raise offspring, ray for this machine's cluster, or ray://HOST:PORT; "
        "auto: one for each core, or each GPU.",
    ),
    click.option(
        "--offspring-threads",
        type=_COUNT,
        default=EVOLUTION.offspring_threads,
        show_default=True,
        help="Of evolve: threads of each worker.",
    ),
    click.option(
        "--from-generation",
        type=click.IntRange(0),
        metavar="G",
        help="Of evolve, with --resume: go on from this generation of the run in --run-dir.",
    ),
)


def evolution_options(function: Function) -> Function:
    """--generations, --population and the rest of `Evolution`, as the argument `evolution`."""
    return gathered(function, "evolution", Evolution, OPTIONS)
