"""Random graphs, random removals: the rewrite is valid, and answers like the original with the removed channels zeroed.

`DARWINC_EXAMPLES=20000` runs longer, with other graphs each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.printer
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from darwinc import graph
from darwinc.channels import Channels, Mask, analyse
from darwinc.cost import CostModel, count_parameters
from darwinc.matching import matched
from darwinc.passes.excise import Excision, excise
from tests.random_graphs.attention_families import ATTENTION
from tests.random_graphs.builder import BATCH, Array, Shape
from tests.random_graphs.family import Cut, Family
from tests.random_graphs.kept_families import MUST_KEEP
from tests.random_graphs.layer_families import LAYERS, QUANTISED, RECURRENT
from tests.random_graphs.models import MAP_MOVES, SEQUENCE_MOVES, WORDS, Inapplicable, Move, build, random_models
from tests.surgery import assert_same_answers

EXAMPLES = int(os.environ.get("DARWINC_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
MOVES = tuple(dict.fromkeys((*MAP_MOVES, *SEQUENCE_MOVES)))
MUST_PRUNE = (*LAYERS, *RECURRENT, *QUANTISED, *ATTENTION)
TRIES, WANTED = 60, 6
"""How often a move is tried, and how many models it has to make."""
INPUTS = 4
"""Rounding decides on one side of a step or the other, and quotients of nearly nothing magnify it: that is a matter of
one input. A wrong rewrite is wrong on each of several."""


class Session:
    """A model in ONNX Runtime, optimisations off, on one thread."""

    def __init__(self, model: ir.Model | onnx.ModelProto) -> None:
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def answers(self, seed: int = 7) -> list[Array]:
        """All outputs for a random input `x`."""
        (given_input,) = self._session.get_inputs()
        shape, random = [BATCH, *given_input.shape[1:]], np.random.default_rng(seed)
        whole = given_input.type == "tensor(int64)"
        x = random.integers(0, WORDS, shape) if whole else random.standard_normal(shape).astype(np.float32)
        return list(self._session.run(None, {"x": x}))

    @property
    def shapes(self) -> list[Shape]:
        """What the outputs say of themselves, with the batch put in."""
        return [
            tuple(size if isinstance(size, int) else BATCH for size in output.shape)
            for output in self._session.get_outputs()
        ]


# Single moves --------------------------------------------------------------------------------------------------------


def chance(seed: int) -> Callable[[int, int], int]:
    """A source of integers of [low, high]."""
    random = np.random.default_rng(seed)
    return lambda low, high: int(random.integers(low, high + 1))


def models_with(move: Move) -> list[onnx.ModelProto]:
    """Small models in which a move is made, of many opsets and both kinds of batch."""
    found: list[onnx.ModelProto] = []
    for seed in range(TRIES):
        try:
            found.append(build(chance(seed), 0, move))
        except Inapplicable:
            continue
        if len(found) == WANTED:
            break
    return found


@pytest.mark.parametrize("move", MOVES, ids=lambda move: f"{move.__module__.rpartition('.')[2]}.{move.__name__}")
def test_a_move_makes_models_that_are_valid_and_run(move: Move) -> None:
    models = models_with(move)
    assert len(models) == WANTED
    for model in models:
        onnx.checker.check_model(model, full_check=True)
        session = Session(model)
        answers = session.answers()
        assert [answer.shape for answer in answers] == session.shapes
        assert all(np.isfinite(answer).all() for answer in answers)


# Fixed graphs --------------------------------------------------------------------------------------------------------


def single_removals(model: ir.Model) -> list[tuple[ir.Model, ir.Model]]:
    """For each group, the model without its first unit, and the original with that unit zeroed."""
    channels = analyse(model)
    found = []
    for group in channels.groups:
        dead = channels.nobody()
        dead[group.units[:1]] = True
        found.append((excise(model, channels, dead)[0], excise(model, channels, dead, zero=True)[0]))
    return found


def shapes_of_constants(model: ir.Model) -> Cut:
    return {name: tuple(tensor.shape.numpy()) for name, tensor in graph.constants(model).items()}


@pytest.mark.parametrize("family", MUST_PRUNE, ids=lambda family: family.name)
def test_what_must_be_prunable_is(family: Family) -> None:
    onnx.checker.check_model(family.model, full_check=True)
    removals = single_removals(ir.from_proto(family.model))
    for rewritten, zeroed in removals:
        onnx.checker.check_model(ir.to_proto(rewritten), full_check=True)
        assert_same_answers(ir.to_proto(zeroed), ir.to_proto(rewritten))
    found = [shapes_of_constants(rewritten) for rewritten, _ in removals]
    for cut in family.cuts:
        assert cut in [{name: shapes[name] for name in cut} for shapes in found]


@pytest.mark.parametrize("family", MUST_KEEP, ids=lambda family: family.name)
def test_what_must_stay_does(family: Family) -> None:
    onnx.checker.check_model(family.model, full_check=True)
    before = shapes_of_constants(ir.from_proto(family.model))
    assert [shapes_of_constants(rewritten) for rewritten, _ in single_removals(ir.from_proto(family.model))] in (
        [],
        [before],
    )


# Random graphs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Printed:
    """A model as text, written only where somebody wants to read it."""

    proto: onnx.ModelProto

    def __repr__(self) -> str:
        return str(onnx.printer.to_text(self.proto))


def random_dead(channels: Channels, random: np.random.Generator) -> Mask:
    """Any units of any group, but never all of one."""
    dead = channels.nobody()
    for group in channels.groups:
        count = int(random.integers(0, len(group)))
        dead[random.permutation(group.units)[:count]] = True
    return dead


@PROFILE
@given(random_models(), st.integers(0, 2**31))
def test_a_random_rewrite_answers_like_the_zeroed_original(proto: onnx.ModelProto, seed: int) -> None:
    note(Printed(proto))
    prove(proto, seed)


def prove(proto: onnx.ModelProto, seed: int) -> None:
    """Remove random channels from a model, mostly others in every head, and hold it against the zeroed original."""
    onnx.checker.check_model(proto, full_check=True)
    model = ir.from_proto(proto)
    channels, random = analyse(model), np.random.default_rng(seed)
    if seed % 3:
        channels = matched(channels, random.random(channels.count))
    dead = random_dead(channels, random)
    rewritten, excision = excise(model, channels, dead)
    zeroed, _ = excise(model, channels, dead, zero=True)
    onnx.checker.check_model(ir.to_proto(rewritten), full_check=True)
    check_answers(zeroed, rewritten)
    check_names(proto, rewritten)
    check_kept(model, rewritten, excision)
    if seed % 4 == 0:
        # A second analysis takes longer than everything else.
        check_cost(model, rewritten, channels, dead, excision)


def check_answers(zeroed: ir.Model, rewritten: ir.Model) -> None:
    """To 1e-5 of each output's scale, on at least one of several inputs."""
    one, two = Session(zeroed), Session(rewritten)
    for seed in range(INPUTS):
        pairs = list(zip(one.answers(seed), two.answers(seed), strict=True))
        assert [got.shape for _, got in pairs] == [want.shape for want, _ in pairs]
        worst = max(float(np.abs(got - want).max() / max(1.0, np.abs(want).max())) for want, got in pairs)
        if worst <= 1e-5:
            return
    raise AssertionError(f"answers differ by {worst:.1e} of their scale")


def check_names(proto: onnx.ModelProto, rewritten: ir.Model) -> None:
    after = ir.to_proto(rewritten)
    assert {node.name for node in proto.graph.node} == {node.name for node in after.graph.node}
    assert list(after.graph.input) == list(proto.graph.input)
    assert list(after.graph.output) == list(proto.graph.output)


def check_kept(model: ir.Model, rewritten: ir.Model, excision: Excision) -> None:
    """`kept` and `copies` say how each constant came from the original's, bit for bit."""
    before, after = graph.constants(model), graph.constants(rewritten)
    for name, tensor in after.items():
        source = excision.copies.get(name, name)
        if source not in before or tensor.dtype != ir.DataType.FLOAT:
            continue
        array = before[source].numpy()
        for axis, indices in sorted(excision.kept.get(name, {}).items(), reverse=True):
            if indices and isinstance(indices[0], list):
                groups = np.split(array, len(indices))
                array = np.concatenate([part[:, own] for part, own in zip(groups, indices, strict=True)])
            else:
                array = np.take(array, indices, axis=int(axis))
        assert np.array_equal(array, tensor.numpy()), name


def frozen_numbers(rewritten: ir.Model) -> int:
    """How many floats the rewrite has written down: attention scales that were computed from a shape."""
    constants = graph.constants(rewritten)
    return sum(name.startswith("darwinc/") and tensor.dtype == ir.DataType.FLOAT for name, tensor in constants.items())


def check_cost(model: ir.Model, rewritten: ir.Model, channels: Channels, dead: Mask, excision: Excision) -> None:
    """The predicted saving of parameters is the file's, where no constant came apart; so are the MACs.

    ONNX's shape inference says less about some rewrites (Expand of an axis with one channel left): those are let off.
    """
    costs, nobody, again = CostModel(channels), channels.nobody(), analyse(rewritten)
    if not excision.copies:
        fewer = costs.parameters(nobody) - costs.parameters(dead)
        assert count_parameters(model) - count_parameters(rewritten) == fewer - frozen_numbers(rewritten)
    work = [[(node.name, factor) for node, _, factor in each.flow.work] for each in (channels, again)]
    if work[0] == work[1]:
        assert costs.macs(dead) == CostModel(again).macs(again.nobody())
