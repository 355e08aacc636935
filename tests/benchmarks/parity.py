"""The torch twin against ONNX Runtime on published files: how far its answers are off, and what its gradient reaches.

    MODELS=... python -m tests.benchmarks.parity [mnist_cntk yunet_n_320 ...]

`$MODELS` holds the ONNX files (SOURCES.md). Both compute in float32, ONNX Runtime with its graph optimisation disabled.
The error is the largest difference over the largest absolute value, of the worst output; beside it stands how far ONNX
Runtime with all its optimisation is off by the same measure. Outputs count that are finite, change with the input, and
where they are bounded (a Sigmoid, say) reach a hundredth. The input is the first of `INPUTS` for which all outputs
count and the error is below 1e-4, or else the best one; the first that is passed over for its error is remarked on,
with how far both are from the twin in double precision. A gradient of a random projection of the outputs reaches a
weight if it isn't 0 for some input; weights are idle if no answer to these inputs changes when they all do. The exit
code is 1 where an error is over 1e-4.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from darwinc import graph
from darwinc.equivalence import BOUNDED_SCALE, difference, is_bounded
from darwinc.errors import DarwincError, InvalidModel
from darwinc.runtime import Feed, open_session, run, usable_feed
from darwinc.torch_graph import TorchGraph
from tests.node_gradients import in_double

Array = npt.NDArray[Any]

BAR = 1e-4
COLUMNS = ("file", "outputs", "relative error", "ONNX Runtime's own", "weights reached / trainable", "input", "remark")


FIRST = "normal, others 0"
"""Zeros in every input but the first."""


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(random.standard_normal(shape))


def uniform(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(random.random(shape))


def pixels(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Noise between 0 and 255."""
    return 255 * random.random(shape)


def scene(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Like a photograph, between 0 and 1: what neighbours have in common counts most."""
    found = random.standard_normal(shape)
    for axis in (axis for axis, size in enumerate(shape) if size >= 16):
        found = np.cumsum(found - found.mean(axis, keepdims=True), axis)
    found = found - found.min()
    return np.asarray(found / max(float(found.max()), 1e-9))


def bright_scene(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The same between 0 and 255."""
    return 255 * scene(random, shape)


def zeros(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape)


INPUTS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": normal,
    "uniform 0-1": uniform,
    "scene 0-1": scene,
    "uniform 0-255": pixels,
    "scene 0-255": bright_scene,
    FIRST: normal,
    "zeros": zeros,
}


@dataclass(frozen=True)
class Trial:
    """What ONNX Runtime makes of one kind of input, and which of its outputs mean something."""

    kind: str
    feed: Feed
    answers: dict[str, Array]
    sound: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs to compare: all, where none means anything."""
        return self.sound or tuple(self.answers)


def trials(session: onnxruntime.InferenceSession, bounded: Mapping[str, bool]) -> Iterator[Trial]:
    """One for each kind of input that the model takes; integers and sizes stay those of the first one that runs."""
    usual = usable_feed(session, demand="runs")
    for kind in INPUTS:
        feed, other = drawn(usual, kind, 0), drawn(usual, kind, 1)
        try:
            answers, others = run(session, feed), run(session, other)
        except InvalidModel:
            continue
        sound = (name for name, answer in answers.items() if is_sound(answer, others[name], bounded[name]))
        yield Trial(kind, feed, answers, tuple(sound))


def drawn(usual: Feed, kind: str, seed: int) -> Feed:
    """Floats drawn anew, the rest as it was (another seed rolls it)."""
    random = np.random.default_rng(seed)
    found = {}
    for position, (name, array) in enumerate(usual.items()):
        draw = zeros if kind == FIRST and position else INPUTS[kind]
        floats = array.dtype.kind == "f"
        found[name] = draw(random, array.shape).astype(array.dtype) if floats else np.roll(array, seed)
    return found


def is_sound(answer: Array, other: Array, bounded: bool) -> bool:
    """Is an answer finite, not the same for another input, and of a scale that single precision has digits for?"""
    if not answer.size or np.array_equal(answer, other):
        return False
    if answer.dtype.kind != "f":
        return True
    return bool(np.isfinite(answer).all()) and (not bounded or float(np.abs(answer).max()) >= BOUNDED_SCALE)


def compare(model: Path) -> tuple[str, bool]:
    """One row, and whether the error is under the bar."""
    source = graph.load_model(model)
    bounded = dict(zip((str(value.name) for value in source.graph.outputs), is_bounded(source), strict=True))
    found: list[Trial] = []
    more = trials(open_session(model, optimization="disabled"), bounded)
    twin = TorchGraph(source)
    remarks: list[str] = []
    worst = math.inf
    while worst > BAR and (trial := next(more, None)):
        found.append(trial)
        if len(trial.sound) == len(trial.answers) and (worst := error_of(twin, trial)) > BAR and not remarks:
            remarks.append(f"{trial.kind}: {worst:.1e}, {from_double(model, twin, trial)}")
    best = max(found, key=lambda trial: (len(trial.sound), -error_of(twin, trial)))
    worst = error_of(twin, best)
    reached, trainable, told = reach(twin, itertools.chain(found, more))
    own = furthest(best.answers, run(open_session(model), best.feed), best.names)
    counted = f"{len(best.sound)} of {len(best.answers)}"
    remark = "; ".join([*remarks, *([told] if told else [])])
    row = f"| `{model.name}` | {counted} | {worst:.1e} | {own:.1e} | {reached} / {trainable} | {best.kind} | {remark} |"
    return row, worst <= BAR


def error_of(twin: TorchGraph, trial: Trial) -> float:
    """How far the twin is from ONNX Runtime."""
    return furthest(trial.answers, arrays(twin.detached(trial.feed)), trial.names)


def from_double(model: Path, twin: TorchGraph, trial: Trial) -> str:
    """How far either is from the twin in double precision."""
    exact_twin = TorchGraph(ir.from_proto(in_double(onnx.load(model)))).double()
    wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in trial.feed.items()}
    exact = arrays(exact_twin.detached(wide))
    twins = furthest(exact, arrays(twin.detached(trial.feed)), trial.names)
    return f"from double precision the twin {twins:.1e}, ONNX Runtime {furthest(exact, trial.answers, trial.names):.1e}"


def arrays(found: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in found.items()}


def furthest(wanted: Mapping[str, Array], got: Mapping[str, Array], names: Iterable[str]) -> float:
    """The relative error of the worst of these outputs."""
    return max(difference(wanted[name], got[name])[1] for name in names)


def reach(twin: TorchGraph, found: Iterable[Trial]) -> tuple[int, int, str]:
    """How many of the trainable weights some input's gradient reaches, of how many, and a word on the others."""
    weights = {name: weight for name, weight in twin.weights().items() if weight.requires_grad}
    missing, seen = set(weights), list[Trial]()
    generator = torch.Generator().manual_seed(0)
    for trial in found:
        seen.append(trial)
        outputs = [value for value in twin(trial.feed).values() if value.requires_grad]
        if not outputs:
            return 0, len(weights), "no output can be differentiated"
        parts = [(value * torch.randn(value.shape, generator=generator)).nan_to_num().sum() for value in outputs]
        names = sorted(missing)
        gradients = torch.autograd.grad(torch.stack(parts).sum(), [weights[name] for name in names], allow_unused=True)
        arrived = zip(names, gradients, strict=True)
        missing -= {name for name, gradient in arrived if gradient is not None and bool((gradient != 0).any())}
        if not missing:
            break
    told = f"{len(missing)} {'idle' if are_idle(twin, missing, seen) else 'not reached'}" if missing else ""
    return len(weights) - len(missing), len(weights), told


def are_idle(twin: TorchGraph, names: Iterable[str], seen: Iterable[Trial]) -> bool:
    """Do all answers stay what they are, bit for bit, when these weights all change by a thousandth of their scale?"""
    before = [twin.detached(trial.feed) for trial in seen]
    with torch.no_grad():
        for name in names:
            weight = twin.weights()[name]
            weight.add_(0.001 * weight.abs().nan_to_num(posinf=0.0).max())
    after = [twin.detached(trial.feed) for trial in seen]
    pairs = zip(before, after, strict=True)
    return all(torch.equal(old[name].nan_to_num(), new[name].nan_to_num()) for old, new in pairs for name in old)


def main() -> int:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    folder = Path(os.environ["MODELS"])
    names = parser.parse_args().names or sorted(path.stem for path in folder.glob("*.onnx"))
    print(f"| {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * 4} --- | --- |")
    passed = True
    for name in names:
        model = folder / f"{name.removesuffix('.onnx')}.onnx"
        try:
            row, good = compare(model)
        except DarwincError as error:
            reason = str(error).replace("|", "/").replace(str(model), "the file")[:160]
            row, good = f"| `{model.name}` | - | - | - | - | - | {type(error).__name__}: {reason} |", True
        passed = passed and good
        print(row, flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
