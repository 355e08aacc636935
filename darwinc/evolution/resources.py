"""What networks of a lineage cost, resource by resource, as functions of the width of every group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import Ids
from darwinc.channels import Channels
from darwinc.cost import CostModel, Price, Terms
from darwinc.evolution.genome import Genome
from darwinc.evolution.wiring import Wiring
from darwinc.fitness.statistics import Vector

FINEST = 2.0**-16
"""Expected widths are rounded to this part of a unit: its multiples are added and taken away without a rest."""


class Clusters:
    """`cost.Price` that counts living units."""

    def __init__(self, channels: Channels) -> None:
        self._living = float(sum(map(len, channels.groups)))

    def current(self) -> float:
        """Living units of all groups."""
        return self._living

    def saved(self, group: int, units: float) -> float:  # noqa: ARG002 (a unit is a unit, whatever its group)
        """As many as die."""
        return units

    def remove(self, group: int, units: float) -> None:  # noqa: ARG002
        """Let units die (a negative number brings them back)."""
        self._living -= units


def prices(channels: Channels) -> dict[str, Price]:
    """What can be counted on the graph alone, by resource: clusters, kernels, parameters, MACs, and bytes (in bits)."""
    model = CostModel(channels)
    return {
        "clusters": Clusters(channels),
        "kernels": Terms(channels, _kernels(channels)),
        "parameters": model.terms("sparsity"),
        "macs": model.terms("macs"),
        "bytes": model.terms("bytes"),
    }


def _kernels(channels: Channels) -> Iterator[tuple[tuple[Ids, ...], int]]:
    seen: set[ir.Value] = set()
    for use in channels.flow.uses:
        source = graph.constant_source(use.value)
        if source is not None and use.node.op_type == "Conv" and use.index == 1 and source not in seen:
            seen.add(source)
            yield use.axes[:2], 1


class Ledger:
    """Several prices at once, at widths that change; in the end every price is as it was.

    A context manager: leaving it brings everybody back to life.
    """

    def __init__(self, prices: Mapping[str, Price], groups: int) -> None:
        self.prices = {name: prices[name] for name in sorted(prices)}
        self.removed = np.zeros(groups)
        self.whole = self.costs()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put(np.zeros(len(self.removed)))

    def costs(self) -> dict[str, float]:
        """What lives now costs."""
        return {name: float(price.current()) for name, price in self.prices.items()}

    def put(self, removed: Vector | Sequence[int]) -> None:
        """Let every group have lost so many units [groups], whole ones."""
        for group, count in enumerate(np.asarray(removed).tolist()):
            self.go(group, int(count))

    def go(self, group: int, removed: int) -> None:
        """Let one group have lost so many units."""
        more = removed - int(self.removed[group])
        if more:
            for price in self.prices.values():
                price.remove(group, more)
            self.removed[group] = removed

    def saved(self, group: int, more: int) -> dict[str, float]:
        """By how much the costs fall when so many more units of a group die."""
        return {name: float(price.saved(group, more)) for name, price in self.prices.items()}


class Expectation:
    """What a price is expected to be when units live with probabilities; a context manager like `Ledger`.

    Extents of different groups are independent, so the mean of their product is the product of their means, which the
    prices that count take as fractional widths. Where a group sits on two axes of one weight its variance is left out.
    Measured time is only known of whole units: means are rounded there.
    """

    def __init__(self, price: Price, groups: int) -> None:
        self._price, self._removed = price, [0.0] * groups
        self._grain = FINEST if isinstance(price, Terms | Clusters) else 1.0

    def __enter__(self) -> Expectation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.at(np.zeros(len(self._removed)))

    def at(self, removed: Vector) -> float:
        """The cost where groups are expected to have lost so many units [groups]."""
        for group, wanted in enumerate((np.round(removed / self._grain) * self._grain).tolist()):
            if wanted != self._removed[group]:
                _remove(self._price, group, wanted - self._removed[group])
                self._removed[group] = wanted
        return float(self._price.current())


def _remove(price: Price, group: int, units: float) -> None:
    if isinstance(price, Terms | Clusters):
        price.remove(group, units)  # type: ignore[arg-type]  # counts as well of parts of units
    else:
        price.remove(group, round(units))


def costs_of(
    genomes: Iterable[Genome], channels: Channels, prices: Mapping[str, Price], wiring: Wiring | None = None
) -> list[dict[str, float]]:
    """What networks cost, by resource; with a wiring, their living synapses, too. The prices stay as they are."""
    found = []
    with Ledger(prices, len(channels.groups)) as ledger:
        for genome in genomes:
            widths = genome.widths(channels.groups)
            ledger.put([len(group) - width for group, width in zip(channels.groups, widths, strict=True)])
            found.append(ledger.costs() | ({} if wiring is None else {"synapses": float(wiring.count(genome))}))
    return found
