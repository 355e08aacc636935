"""Take measurements: of a model at several widths, and of lone layers; or take them from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.benchmark import made_up
from darwinc.channels import Channels
from darwinc.errors import UsageError
from darwinc.latency.curves import Curve, Curves
from darwinc.latency.kinds import SIDES, Side
from darwinc.latency.multiples import Probe, measure, preferred, probes
from darwinc.latency.profiles import Profile, RuntimeTimer, Subject, Timer
from darwinc.latency.store import Conditions, Measured, Store, default_folder, shapes_of, signature
from darwinc.latency.widths import Widths, full, mask_of, sample
from darwinc.passes.excise import excise
from darwinc.runtime import CPU, Feed, open_session

SESSIONS_BYTES = 1_000_000_000
MOST_SESSIONS = 8
"""How many sessions are open at once, and how many bytes of weights they may hold."""


@dataclass(frozen=True)
class Asked:
    """How to measure.

    Attributes:
        threads, providers: of the sessions.
        seed: of the widths that are timed and of the order.
        configurations: how many widths are timed, besides the model's own.
        align: the multiple of channels that they are of, where widths allow.
        eligible: which groups may lose channels; all by default.
        feed: what the model is fed; made up by default.
        cache: the folder in which measurements are kept; None keeps nothing.
        timer: what times; ONNX Runtime by default.
        progress: is told the fraction done.
    """

    threads: int = 1
    providers: tuple[str, ...] = CPU
    seed: int = 0
    configurations: int = 24
    align: int = 8
    eligible: Sequence[bool] | None = None
    feed: Feed | None = None
    cache: Path | None = field(default_factory=default_folder)
    timer: Timer | None = None
    progress: Callable[[float], None] = lambda _: None

    def part(self, start: float, end: float) -> Asked:
        """The same, with progress told as a part of a longer way."""
        return replace(self, progress=lambda done: self.progress(start + (end - start) * done))

    @property
    def store(self) -> Store:
        """Where measurements under these conditions are kept."""
        return Store(self.cache, Conditions.here(self.providers[0], self.threads))

    @property
    def clock(self) -> Timer:
        """What times."""
        return self.timer or RuntimeTimer(self.threads, self.providers, self.seed)


def curves_of(channels: Channels, asked: Asked) -> Curves:
    """The curves of the kinds of operators in a model.

    Raises:
        InvalidModel: ONNX Runtime can't load or run a lone layer.
        UsageError: another provider than the processor, or a model of over 2 GB.
    """
    store, found = asked.store, dict[tuple[str, Side], Curve]()
    missing = []
    for probe in probes(channels):
        if not all(store.knows_curve(_key(probe, side)) for side in SIDES):
            missing.append(probe)
            continue
        known = {side: store.curve(_key(probe, side)) for side in SIDES}
        found |= {(probe.kind, side): curve for side, curve in known.items() if curve is not None}
    if missing:
        made = measure(missing, asked.clock, asked.progress)
        for probe in missing:
            for side in SIDES:
                store.keep_curve(_key(probe, side), made.get((probe.kind, side)))
        found |= made
    return dict(sorted(found.items()))


def wanted_multiples(channels: Channels, asked: Asked | None = None, default: int = 8) -> list[int]:
    """The multiple of channels that each group should keep to be fast here; `default` where no operator cares.

    Takes a second or two, and nothing once it's kept on disk. Raises what `curves_of` does.
    """
    return preferred(channels, curves_of(channels, asked or Asked()), default)


def _key(probe: Probe, side: Side) -> str:
    return signature([asdict(probe), side])


def profiles_of(model: ir.Model, channels: Channels, asked: Asked) -> Measured:
    """Profiles of a model at its own widths, which come first, and at others.

    Raises:
        InvalidModel: ONNX Runtime can't load, run or profile it.
        UsageError: another provider than the processor, or a model of over 2 GB.
    """
    if graph.stored_bytes(model) > graph.PROTOBUF_LIMIT:
        raise UsageError(
            "The model is larger than 2 GB, which is too much for its latency to be modelled; use --target-macs."
        )
    eligible = asked.eligible if asked.eligible is not None else [True] * len(channels.groups)
    feed = _feed(model, asked)
    key = signature(_description(model, channels, asked, eligible, feed))
    store = asked.store
    known = store.measured(key, len(channels.groups))
    if known is not None and list(known.widths[0]) == full(channels):
        return known
    count = asked.configurations if any(eligible) and channels.groups else 0
    configurations = sample(channels, eligible, count, asked.align, asked.seed)
    measured = _profiled(model, channels, configurations, feed, asked)
    store.keep_measured(key, measured)
    return measured


def times_of(
    model: ir.Model, channels: Channels, configurations: Sequence[Widths], asked: Asked | None = None
) -> list[float]:
    """Milliseconds of a run of the model as it is, then at each configuration of widths: really rewritten and timed.

    All are timed in turn, so that their ratios hold on a machine that is busy with other things too.

    Raises:
        InvalidModel: ONNX Runtime can't load or run it.
        UsageError: another provider than the processor, or a model of over 2 GB.
    """
    asked = asked or Asked()
    feed = _feed(model, asked)
    subjects = [_subject(model, channels, widths, feed) for widths in (full(channels), *configurations)]
    return [profile.wall_ms for profile in asked.clock.profile(subjects)]


def _feed(model: ir.Model, asked: Asked) -> Feed:
    return made_up(open_session(model, providers=asked.providers), asked.seed, 1) if asked.feed is None else asked.feed


def _profiled(
    model: ir.Model, channels: Channels, configurations: Sequence[Widths], feed: Feed, asked: Asked
) -> Measured:
    """Every batch of sessions has one of the model as it is, so that nothing else is known as well as that."""
    size = int(np.clip(SESSIONS_BYTES // max(graph.stored_bytes(model), 1), 2, MOST_SESSIONS)) - 1
    starts = range(0, max(len(configurations), 1), size)
    widths: list[Widths] = []
    batches: list[int] = []
    profiles: list[Profile] = []
    for batch, start in enumerate(starts):
        some = [full(channels), *configurations[start : start + size]]
        profiles += asked.clock.profile([_subject(model, channels, each, feed) for each in some])
        widths += some
        batches += [batch] * len(some)
        asked.progress((batch + 1) / len(starts))
    return Measured(
        tuple(tuple(each) for each in widths),
        tuple(batches),
        tuple(profile.events for profile in profiles),
        tuple(profile.wall_ms for profile in profiles),
    )


def _subject(model: ir.Model, channels: Channels, widths: Widths, feed: Feed) -> Subject:
    rewritten, _ = excise(model, channels, mask_of(channels, widths))
    return Subject(graph.to_bytes(rewritten), feed)


def _description(
    model: ir.Model, channels: Channels, asked: Asked, eligible: Sequence[bool], feed: Feed
) -> Iterator[Any]:
    """All that the times depend on: operators, attributes and shapes, not what the weights are."""
    yield [asked.seed, asked.configurations, asked.align, list(eligible), full(channels)]
    yield sorted((name, str(array.dtype), list(array.shape)) for name, array in feed.items())
    for node in model.graph:
        shapes = [None if value is None else _shape(channels, value) for value in (*node.inputs, *node.outputs)]
        attributes = sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
        yield [node.domain, node.op_type, node.name, attributes, shapes]


def _shape(channels: Channels, value: ir.Value) -> list[int | None] | None:
    tensor = graph.constant_tensor(value)
    sizes = channels.flow.shape(value) if tensor is None else tensor.shape.numpy()
    return None if sizes is None else shapes_of(sizes)
