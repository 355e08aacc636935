"""A torch twin that takes any number of samples at once, of a model whose file says how many it takes.

    found = free_batch(model, feed)
    if found.free:
        found.twin(found.join(feeds))
    else:
        print(found.batch, found.reason)

Many files have a batch of 1 written into their inputs and their reshapes. A copy of such a model is changed where
samples would be mixed, and the copy must answer for different samples at once what the model answers for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from darwinc.batching.edits import Edits
from darwinc.batching.layout import BatchHeld, Layout
from darwinc.batching.walk import RUN_ERRORS, Walk
from darwinc.channels import Channels
from darwinc.equivalence import agree, is_bounded, is_chosen, tolerance_of
from darwinc.torch_graph import TorchGraph

__all__ = ["FreeBatch", "free_batch"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
Axes = Mapping[str, int | None]
Answers = Mapping[str, torch.Tensor]

TIMES = 3
"""How many times the samples of one feed are tried."""
MOST_TRIES = 12
"""Ways in which several inputs may hold the batch that are tried, at most."""


@dataclass(frozen=True)
class FreeBatch:
    """What was found about a model's batch.

    Attributes:
        model: a copy that takes any number of samples, whose values keep their names (those that are new are called
            `darwinc/...`), or the model itself where it takes them as it is, or where it can't.
        twin: the twin of `model`.
        axes: the axis of each input that holds samples; None for an input that is the same for all of them.
        batch: how many samples a feed of `model` holds; None where it may be any number.
        reason: why it can't be any number; empty where it can.
        layouts: where values hold samples, by name; nowhere where `batch` isn't None.
        error: of several samples at once against one by one, relative to each output's scale.
    """

    model: ir.Model
    twin: TorchGraph
    axes: Axes
    batch: int | None = None
    reason: str = ""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    error: float = 0.0

    @property
    def free(self) -> bool:
        """Does `twin` take any number of samples?"""
        return self.batch is None

    @property
    def outputs(self) -> Axes:
        """The axis of each output that holds samples."""
        return {name: self.layouts[name].axis if name in self.layouts else None for name in self.twin.outputs}

    def crowded(self, channels: Channels) -> list[str]:
        """Values on one axis of which samples and channels that may be removed lie together (all heads of all samples).

        Their positions are not those of the analysis where there are more samples, so nobody may cut channels out.
        """
        found = []
        for name, layout in self.layouts.items():
            tracked = channels.flow.values.get(name)
            ids = dict(enumerate(tracked.axes if tracked is not None else ())).get(layout.axis)
            if ids is not None and channels.component[ids].any():
                found.append(name)
        return found

    def join(self, feeds: Sequence[Feed]) -> dict[str, Array]:
        """One feed of the samples of several; an input that holds none is taken from the first.

        Raises:
            ValueError: feeds whose other axes differ in length.
        """
        return _joined(feeds, self.axes)


def free_batch(
    model: ir.Model, feed: Feed, *, twin: TorchGraph | None = None, device: torch.device | str = "cpu"
) -> FreeBatch:
    """Let the model take any number of samples at once; it is not changed, nor is any weight.

    The walk runs each node for `feed` and for three times its samples, so that it takes time linear in the nodes, and
    memory for seven times what is alive between two of them.

    Args:
        model: a valid model.
        feed: what the model takes, of as few samples as it can be.
        twin: the model's twin in eval mode, where the caller has one; its weights are those of the model.
        device: where a twin is made.

    Raises:
        UnsupportedOperator: torch has no rule for a node.
        InvalidData: the feed's names are not the graph's inputs.
    """
    twin = TorchGraph(model, device=device) if twin is None else twin
    samples = _samples(model, feed)
    # In [steps, 1, features] it is the second axis that holds the batch, of 1.
    ways = [(count, axes) for count in dict.fromkeys((samples, 1)) for axes in _axes(model, feed, count)][:MOST_TRIES]
    reason = ""
    for (count, axes), insist in itertools.product(ways, (False, True)):
        try:
            return _Trial(model, twin, feed, axes, count).run(insist=insist)
        except BatchHeld as held:
            reason = reason or str(held)
    first = ways[0][1] if ways else dict.fromkeys(feed)
    return FreeBatch(model, twin, first, samples, reason or "no input has an axis for samples")


def _samples(model: ir.Model, feed: Feed) -> int:
    """How many samples a feed holds: the shortest first axis, of those that the file fixes where it fixes any."""
    shapes = {str(value.name): value.shape for value in model.graph.inputs}
    lengths = {name: len(array) for name, array in feed.items() if array.ndim}
    fixed = [length for name, length in lengths.items() if isinstance((shapes[name] or (None,))[0], int)]
    return min(fixed or list(lengths.values()), default=1)


def _axes(model: ir.Model, feed: Feed, samples: int) -> list[Axes]:
    """Which axis of each input may hold the samples, the likeliest first: those that are as long, from the first on.

    The first input with such an axis holds samples; the others may hold none.
    """
    names = [str(value.name) for value in model.graph.inputs if value.name in feed]
    choices: list[list[int | None]] = []
    for name in names:
        fitting: list[int | None] = [axis for axis, size in enumerate(feed[name].shape) if size == samples]
        leads = bool(fitting) and not any(choice[0] is not None for choice in choices)
        choices.append(fitting[:1] if leads else [*fitting, None])
    found = itertools.islice(itertools.product(*choices), MOST_TRIES)
    return [dict(zip(names, chosen, strict=True)) for chosen in found if any(axis is not None for axis in chosen)]


@dataclass(frozen=True)
class _Trial:
    """One way in which the inputs may hold the samples."""

    model: ir.Model
    twin: TorchGraph
    feed: Feed
    axes: Axes
    samples: int

    def run(self, *, insist: bool) -> FreeBatch:
        """Repair a copy, and compare its answers for several samples with the model's for each.

        `insist` is that of the walk.

        Raises:
            BatchHeld: it can't be repaired, or answers differently.
        """
        feeds = [self.feed, *(_other(self.feed, self.axes, number) for number in range(1, TIMES))]
        edits = Edits(self.model)
        layouts = {name: Layout(axis) for name, axis in self.axes.items() if axis is not None}
        few, many = self.twin.enter(self.feed), self.twin.enter(_joined(feeds, self.axes))
        for name, axis in self.axes.items():
            if axis is None:
                many[name] = few[name]
        Walk(self.twin, edits, few, many, layouts, self.samples, TIMES, insist=insist)
        alone = [self.twin.leave(few), *(self.twin.detached(feed) for feed in feeds[1:])]
        error = self._compare(alone, self.twin.leave(many), layouts)
        edits.free_shapes(layouts, self.axes, self.samples)
        twin = self.twin
        if edits.count:
            # What was computed for the walk by hand is now computed by the nodes that were added for it.
            twin = TorchGraph(edits.model, device=self.twin.device)
            try:
                found = twin.detached(_joined(feeds[1:], self.axes))
            except RUN_ERRORS as problem:
                raise BatchHeld(f"the repaired graph doesn't run: {problem}") from problem
            error = max(error, self._compare(alone[1:], found, layouts))
        return FreeBatch(edits.model, twin, self.axes, layouts=layouts, error=error)

    def _compare(self, alone: Sequence[Answers], together: Answers, layouts: Mapping[str, Layout]) -> float:
        """The largest difference, relative to each output's scale.

        Raises:
            BatchHeld: it is more than rounding explains.
        """
        kinds = {
            str(value.name): kind
            for value, *kind in zip(
                self.model.graph.outputs, is_bounded(self.model), is_chosen(self.model), strict=True
            )
        }
        wanted: list[Array] = []
        got: list[Array] = []
        bounded: list[bool] = []
        chosen: list[bool] = []
        for name, found in together.items():
            layout, parts = layouts.get(name), [answers[name] for answers in alone]
            parts = parts if layout is None else [layout.joined(parts)]
            wanted += [_array(part) for part in parts]
            got += [_array(found)] * len(parts)
            bounded += [kinds[name][0]] * len(parts)
            chosen += [kinds[name][1]] * len(parts)
        tolerance = tolerance_of(self.model)
        agreement = agree([wanted], [got], bounded, tolerance, chosen)
        if not agreement.passed:
            known = agreement.max_rel_error > tolerance
            error = f"by a relative error of {agreement.max_rel_error:.1e}" if known else "in every choice that is made"
            raise BatchHeld(
                f"the answers to {len(alone)} feeds at once differ from those one by one, {error}, and "
                f"{tolerance:.0e} is allowed"
            )
        return agreement.max_rel_error


def _array(value: torch.Tensor) -> Array:
    """NumPy has no bfloat16, and no gradients, as a weight that is an output asks for them."""
    return (value.detach().float() if value.dtype == torch.bfloat16 else value.detach()).cpu().numpy()


def _joined(feeds: Sequence[Feed], axes: Axes) -> dict[str, Array]:
    first = feeds[0]
    return {
        name: first[name] if axis is None else np.concatenate([feed[name] for feed in feeds], axis)
        for name, axis in axes.items()
    }


def _other(feed: Feed, axes: Axes, number: int) -> dict[str, Array]:
    """Other samples of the same kind: elements change places; floating ones grow smaller, or get noise where all alike.

    An input that holds no samples stays.
    """
    return {name: array if axes[name] is None else _another(array, number) for name, array in feed.items()}


def _another(array: Array, number: int) -> Array:
    moved = np.roll(array, number * (array.size // TIMES + 1))
    if array.dtype.kind != "f":
        return moved
    if array.size and np.ptp(array) == 0:
        noise = np.random.default_rng(number).standard_normal(array.shape)
        return np.asarray(array + 0.1 * noise, array.dtype)
    return np.asarray(moved * (1 - 0.1 * number), array.dtype)
