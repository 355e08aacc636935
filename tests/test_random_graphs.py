"""Random graphs, random removals: the rewrite is valid, and answers like the original with the removed channels zeroed.

`DARWINC_EXAMPLES=20000` runs longer, with other graphs each time.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darwinc import graph
from darwinc.channels import Channels, Mask, analyse
from darwinc.cost import CostModel, count_parameters
from darwinc.passes.excise import Excision, excise
from tests.random_graphs import BATCH, Array, random_models

EXAMPLES = int(os.environ.get("DARWINC_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def answers(model: ir.Model | onnx.ModelProto) -> list[Array]:
    """All outputs of a model in ONNX Runtime, for one fixed random input `x`."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (given_input,) = session.get_inputs()
    x = np.random.default_rng(7).standard_normal([BATCH, *given_input.shape[1:]]).astype(np.float32)
    return list(session.run(None, {"x": x}))


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
    model = ir.from_proto(proto)
    channels = analyse(model)
    dead = random_dead(channels, np.random.default_rng(seed))
    rewritten, excision = excise(model, channels, dead)
    zeroed, _ = excise(model, channels, dead, zero=True)
    onnx.checker.check_model(ir.to_proto(rewritten), full_check=True)
    for want, got in zip(answers(zeroed), answers(rewritten), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1.0, float(np.abs(want).max())))
    check_names(proto, rewritten)
    check_kept(model, rewritten, excision)
    check_cost(model, rewritten, channels, dead, excision)


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
        for axis, indices in excision.kept.get(name, {}).items():
            array = np.take(array, indices, axis=int(axis))
        assert np.array_equal(array, tensor.numpy()), name


def check_cost(model: ir.Model, rewritten: ir.Model, channels: Channels, dead: Mask, excision: Excision) -> None:
    """The predicted saving of parameters is the file's, where no constant came apart; so are the MACs.

    ONNX's shape inference says less about some rewrites (Expand of an axis with one channel left): those are let off.
    """
    costs, nobody, again = CostModel(channels), channels.nobody(), analyse(rewritten)
    if not excision.copies:
        fewer = costs.parameters(nobody) - costs.parameters(dead)
        assert count_parameters(model) - count_parameters(rewritten) == fewer
    work = [[(node.name, factor) for node, _, factor in each.flow.work] for each in (channels, again)]
    if work[0] == work[1]:
        assert costs.macs(dead) == CostModel(again).macs(again.nobody())
