"""A family of networks that nobody raised: figures as an evolution would have them, drawn from a seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from darwinc.report import Report, build_report
from tests.test_report import smallest

Record = dict[str, Any]
WIDTHS = (32, 32, 64, 64, 128)
ANCESTOR = "g0-00"
QUALITY = 0.989


@dataclass
class MadeUpFamily:
    """Generations that shrink geometrically to an efficiency of parameters, and lose some quality on the way."""

    generations: int = 5
    population: int = 6
    parents: int = 2
    survivors: int = 3
    widths: Sequence[int] = WIDTHS
    efficiency: float = 30.0
    trained: bool = True
    culled: bool = False
    controls: Sequence[str] = ("one-shot", "random", "scratch")
    samples: int = 1000
    name: str = ""
    seed: int = 0
    raised: list[Record] = field(default_factory=list)

    def report(self, **changes: Any) -> Report:
        """The report; `changes` are to the evolution's part."""
        values = smallest() | self.values()
        values["evolution"] |= changes
        return build_report(values)

    def values(self) -> Record:
        """The parts of a report that speak of evolution."""
        self.raised.clear()
        self._random = np.random.default_rng(self.seed)
        ancestor = self._born(ANCESTOR, "ancestor", 0, np.array(self.widths), 1.0, 1.0)
        alive, rows = [ancestor], []
        for generation in range(1, self.generations + 1):
            offspring = [self._offspring(generation, index, alive) for index in range(self.population)]
            self.raised += offspring
            pool = [found for found in [*alive, *offspring] if not found["collapsed"] and found["kind"] == "offspring"]
            alive = sorted(pool, key=lambda found: -found["fitness"])[: self.survivors] or alive
            for found in offspring:
                found["survived"] = found in alive
            rows.append(self._row(generation, offspring, alive))
        winner = alive[0]
        return {
            "before": {key: ancestor[key] for key in ("parameters", "macs", "kernels", "synapses")},
            "groups": [
                {"id": f"g{place}{self.name}", "channels_before": width, "channels_after": winner["widths"][place]}
                for place, width in enumerate(self.widths)
            ],
            "generations": rows,
            "evolution": {
                "metric": f"top1{self.name}",
                "samples": self.samples,
                "ancestor": ancestor,
                "winner": winner["id"],
                "ended": "generations",
                "pareto": self._pareto(),
                "controls": [self._control(name, winner) for name in self.controls],
                "options": {"parents": self.parents, "heredity": "both" if self.culled else "clusters"},
            },
        }

    def _offspring(self, generation: int, index: int, alive: list[Record]) -> Record:
        random, several = self._random, min(self.parents, len(alive))
        parents = [alive[place] for place in random.permutation(len(alive))[:several]]
        shares = random.dirichlet(np.full(len(parents), 3.0))
        blend = sum(share * np.array(found["widths"], float) for share, found in zip(shares, parents, strict=True))
        wanted = self.efficiency ** (min(generation / (self.generations * 2 / 3), 1) / 2)
        widths = blend * np.exp(random.normal(0, 0.15, len(self.widths)))
        aim = np.prod(np.array(self.widths) / widths) ** (1 / len(widths)) / wanted
        widths = np.clip(np.round(widths * aim), 1, self.widths).astype(int)
        kept = self.efficiency ** (-generation / self.generations / 2) if self.culled else 1.0
        found = self._born(f"g{generation}-{index:02d}{self.name}", "offspring", generation, widths, kept, wanted)
        distance = [float(np.mean(np.abs(widths - found["widths"]) / self.widths)) for found in parents]
        return found | {
            "parents": [found["id"] for found in parents],
            "shares": [float(share) for share in shares],
            "distance": distance,
        }

    def _born(
        self, name: str, kind: str, generation: int, widths: npt.NDArray[np.int64], kept: float, wanted: float
    ) -> Record:
        random = self._random
        inner = [1, *(int(width) for width in widths), 10]
        kernels = [one * other for one, other in itertools.pairwise(inner)]
        stored = sum(25 * kernel for kernel in kernels)
        lost = 0.0 if wanted == 1 else 0.006 * np.log(stored / self._stored(self.widths)) ** 2 / 4
        quality = float(QUALITY - lost + (random.normal(0, 0.003) if wanted > 1 else 0))
        collapsed = bool(wanted > 1 and random.random() < 0.07)
        quality = 0.1 + 0.05 * float(random.random()) if collapsed else quality
        cut = quality - 0.3 * float(random.random()) * (wanted > 1)
        macs = sum(kernel * 25 * (784 >> 2 * place) for place, kernel in enumerate(kernels))
        parameters = stored + sum(inner)
        return {
            "id": name,
            "kind": kind,
            "generation": generation,
            "genome": hashlib.sha256(f"{self.seed} {name}".encode()).hexdigest(),
            "widths": [int(width) for width in widths],
            "quality_raw": cut,
            "quality_before": quality - 0.1 * (quality - cut),
            "quality": quality if self.trained else None,
            "fitness": quality - 0.015 * float(np.log2(parameters / self._stored(self.widths))),
            "collapsed": collapsed,
            "parameters": parameters,
            "macs": macs,
            "bytes": 4 * parameters,
            "channels": sum(inner[1:-1]),
            "kernels": sum(kernels),
            "synapses": int(stored * kept),
            "latency_ms": 1e-6 * macs,
            "steps": 400 if self.trained else None,
        }

    @staticmethod
    def _stored(widths: Sequence[int]) -> int:
        inner = [1, *widths, 10]
        return sum(25 * one * other for one, other in itertools.pairwise(inner))

    def _row(self, generation: int, offspring: list[Record], alive: list[Record]) -> Record:
        best = alive[0]
        return {
            "generation": generation,
            "parents": sorted({name for found in offspring for name in found["parents"]}),
            "offspring": offspring,
            "survivor": best["id"],
            "survivors": [found["id"] for found in alive],
            "environment": {"clusters": 0.7**generation},
            **{key: best[key] for key in ("fitness", "parameters", "synapses", "kernels", "quality")},
        }

    def _control(self, name: str, winner: Record) -> Record:
        behind = {"one-shot": 0.004, "random": 0.02, "scratch": 0.01}.get(name, 0.0)
        worse = {key: winner[key] - behind for key in ("quality", "quality_before", "quality_raw") if winner[key]}
        genome = hashlib.sha256(name.encode()).hexdigest()
        ours = {"id": f"{name}{self.name}", "kind": "control", "name": name, "genome": genome, "survived": False}
        return winner | ours | worse | {"parents": [ANCESTOR], "shares": [1.0], "fitness": None}

    def _pareto(self) -> list[str]:
        def beaten(one: Record) -> bool:
            return any(
                other["quality_before"] >= one["quality_before"]
                and other["parameters"] <= one["parameters"]
                and other["macs"] <= one["macs"]
                and other is not one
                for other in self.raised
            )

        return [found["id"] for found in self.raised if not found["collapsed"] and not beaten(found)]
