"""Inheritance in closed form: survivors take over the dead channels' part, layer by layer, on the compressed prefix.

Each linear layer of the compressed network is fitted by ridge least squares to what the *original* network has at that
point (after the residual sum, where one follows), so that errors made upstream are corrected downstream. The ridge
pulls towards the weights as they are; how strongly is chosen on held-out samples, and a layer that no fit helps stays
as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from darwinc.calibrators.aftermath import Aftermath, Readers, find_aftermath, find_offset, fixed_term, readers_of
from darwinc.calibrators.least_squares import LayerFit, Rows, Solution
from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.sites import Site, find_sites
from darwinc.calibrators.takeover import take_over

LARGEST = 4608
"""Inputs (channels times kernel taps) above which a layer is refitted by channels alone, to bound memory."""

MOST_ROWS = 131072
MOST_ELEMENTS = 2**26
"""Elements of a layer's rows, inputs and outputs together, that are held at once where the data is real."""
MOST_SYNTHETIC_ELEMENTS = 2**24


@dataclass(frozen=True)
class Fitted:
    """What became of one layer: the squared error of its output on held-out rows, relative to the output's variance."""

    node: str
    error_before: float
    error_after: float
    ridge: float | None


@dataclass
class Refitter:
    """Walks both networks in lockstep and refits every linear layer of the compressed one.

    `holdout` says how many of the last batches only judge, `elements` how much of a layer's rows is held at once.
    """

    lockstep: Lockstep
    holdout: int
    seed: int = 0
    elements: int = MOST_ELEMENTS
    results: list[Fitted] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def run(self, progress: Callable[[float], None] | None = None) -> None:
        """Refit everything, in topological order."""
        twin = self.lockstep.compressed
        sites, readers = find_sites(twin), readers_of(twin.steps)
        generator = torch.Generator().manual_seed(self.seed)
        pairs = self.lockstep.steps()
        with torch.no_grad():
            for done, (first, second) in enumerate(pairs):
                self.lockstep.run_original(first)
                site = sites.get(second.outputs[0])
                if site is not None:
                    self._refit(site, readers, generator)
                self.lockstep.run_compressed(second)
                self.lockstep.release(first, second)
                if progress is not None:
                    progress((done + 1) / len(pairs))

    def _refit(self, site: Site, readers: Readers, generator: torch.Generator) -> None:
        twin, name = self.lockstep.compressed, str(site.step.inputs[site.weight])
        weight = twin.weights().get(name)
        if weight is None or site.step.op_type == "ConvTranspose":
            self.skipped.append((site.step.name, "its weight is not used as it is stored"))
            return
        if len(readers.get(name, ())) > 1:
            self.skipped.append((site.step.name, "it shares its weight with another layer"))
            return
        matrix = site.matrix(weight)
        groups, outputs, inputs, taps = matrix.shape
        rank = self.lockstep.before[0][site.output].ndim
        offset = find_offset(twin, site, readers, groups * outputs, rank)
        fixed = fixed_term(twin, site, rank) if offset is None else 0.0
        seen, held = self._rows(site, weight, find_aftermath(self.lockstep, site, readers), fixed, generator)
        fit = LayerFit(
            seen, held, matrix.double().flatten(2).transpose(1, 2), None if offset is None else offset.value(groups)
        )
        few = seen.x.shape[1] < inputs * taps
        if few or inputs * taps > LARGEST:
            best = self._by_channels(site, name, fit, generator)
            if best is None:
                why = f"the samples have {seen.x.shape[1]} rows for its {inputs * taps} inputs"
                self.skipped.append((site.step.name, why if few else f"it has more than {LARGEST} inputs"))
                return
        else:
            best = fit.best()
        self.results.append(Fitted(site.step.name, fit.current.error, best.error, best.ridge))
        if best.ridge is None:
            return
        weight.copy_(site.unmatrix(best.weight.transpose(1, 2).reshape(matrix.shape).to(weight.dtype), weight))
        if offset is not None and best.offset is not None:
            offset.set(best.offset)

    def _by_channels(self, site: Site, name: str, fit: LayerFit, generator: torch.Generator) -> Solution | None:
        """The better of the present weights and of what channels take over; None where they can't."""
        offset = fit.current.offset
        made = take_over(self.lockstep, site, name, self.holdout, generator, centred=offset is not None)
        if made is None:
            return None
        moved = None if offset is None else offset + made.moved
        return min(fit.current, fit.judged(made.matrix.flatten(2).transpose(1, 2), moved), key=lambda one: one.error)

    def _rows(
        self,
        site: Site,
        weight: torch.Tensor,
        aftermath: Aftermath,
        fixed: torch.Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Rows, Rows]:
        """Rows to fit on, and held-out rows to judge by, from random positions of every sample.

        `fixed` is the part of the output that no fit may change.
        """
        lockstep = self.lockstep
        parts: list[tuple[torch.Tensor, ...]] = []
        data = str(site.step.inputs[site.data])
        samples = sum(environment[data].shape[0] for environment in lockstep.after)
        groups, outputs, inputs, taps = site.matrix(weight).shape
        budget = min(MOST_ROWS, self.elements // (groups * (inputs * taps + 4 * outputs)))
        for batch, environment in enumerate(lockstep.after):
            target = aftermath.target(lockstep, site, batch)
            available, wanted = site.positions(target), max(1, budget // max(samples, 1))
            chosen = torch.randperm(available, generator=generator)[:wanted].to(target.device)
            row = [site.patches(environment[data], weight, target, chosen), site.targets(target - fixed, chosen)]
            if aftermath.bounds is not None:
                ends = [
                    site.targets(aftermath.zero(lockstep, target, batch, level) - fixed, chosen)
                    for level in aftermath.bounds
                ]
                row += [torch.minimum(*ends), torch.maximum(*ends)]
            parts.append(tuple(row))
        kept = len(parts) - self.holdout
        gain = None if aftermath.scale is None else aftermath.scale.reshape(groups, 1, -1)
        return _joined(parts[:kept], gain), _joined(parts[kept:], gain)


def _joined(parts: list[tuple[torch.Tensor, ...]], gain: torch.Tensor | None) -> Rows:
    x, t, *bounds = (torch.cat(pieces, 1) for pieces in zip(*parts, strict=True))
    low, high = bounds if bounds else (None, None)
    return Rows(x, t, low, high, gain)
