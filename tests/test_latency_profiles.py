"""What ONNX Runtime's profiler writes is read, and given to the nodes of the file."""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from darwinc.errors import InvalidModel
from darwinc.latency.layers import Padding, Plan
from darwinc.latency.profiles import Event, parse
from tests.surgery import parse as parse_model


def _node(name: str, op_type: str, microseconds: int) -> dict[str, Any]:
    arguments = {"op_name": op_type, "provider": "CPUExecutionProvider", "node_index": "3"}
    return {"cat": "Node", "dur": microseconds, "ph": "X", "name": f"{name}_kernel_time", "args": arguments}


def _session(name: str) -> dict[str, Any]:
    return {"cat": "Session", "dur": 77, "ph": "X", "name": name, "args": {}}


def _run(*microseconds: int) -> list[dict[str, Any]]:
    names = [("r_nchwc", "Conv"), ("ReorderOutput_token_3", "ReorderOutput"), ("/m/Mul/QuickGeluFusion/", "QuickGelu")]
    nodes = [_node(name, op_type, took) for (name, op_type), took in zip(names, microseconds, strict=True)]
    return [*nodes, _session("SequentialExecutor::Execute"), _session("model_run")]


RECORDED = json.dumps(
    [
        _session("model_loading_uri"),
        _session("session_initialization"),
        *_run(90, 9, 50),
        *_run(20, 3, 5),
        *_run(30, 2, 4),
    ]
)


def test_the_fastest_of_the_runs_that_count_is_taken() -> None:
    assert parse(RECORDED, [True, True, True]) == (
        Event("r_nchwc", "Conv", 0.02),
        Event("ReorderOutput_token_3", "ReorderOutput", 0.002),
        Event("/m/Mul/QuickGeluFusion/", "QuickGelu", 0.004),
    )
    assert [event.milliseconds for event in parse(RECORDED, [True, False, False])] == [0.09, 0.009, 0.05]


def test_a_node_that_comes_several_times_in_a_run_counts_with_all_of_them() -> None:
    text = json.dumps([_node("a", "Add", 3), _node("a", "Add", 4), _session("model_run")])
    assert parse(text, [True]) == (Event("a", "Add", 0.007),)


@pytest.mark.parametrize(("text", "counted"), [("{", [True]), ("{}", [True]), ("[]", [True]), (RECORDED, [False] * 3)])
def test_notes_of_no_run_are_refused(text: str, counted: list[bool]) -> None:
    with pytest.raises(InvalidModel):
        parse(text, counted)


FUSED = """(float[1,3,8,8] x, float[16,3,3,3] w, float[24,16,1,1] p, float[24] b) => (float[1,24,6,6] y) {
    c = Conv(x, w)
    r = Relu(c)
    d = Conv(r, p, b)
    s = Sigmoid(d)
    y = Mul(d, s)
}"""


def _plan(*events: Event) -> Plan:
    return Plan(analyse(ir.from_proto(parse_model(FUSED))), events)


CONV, GATE = Event("r_nchwc", "Conv", 1.0), Event("Mul_4/QuickGeluFusion/", "QuickGelu", 2.0)
SECOND, MOVED = Event("d_nchwc", "Conv", 4.0), Event("ReorderOutput_token_9", "ReorderOutput", 0.5)


def test_fused_nodes_are_found_by_output_or_by_name() -> None:
    plan = _plan(CONV, SECOND, MOVED, GATE)
    assert [layer.op_type for layer in plan.layers] == ["Conv", "Conv", "Mul"]
    assert [layer.groups for layer in plan.layers] == [(0,), (0,), ()]
    assert plan.times([CONV, SECOND, MOVED, GATE]) == [1.0, 4.5, 2.0]


def test_a_layer_executed_under_another_parts_name_stays_the_same_layer() -> None:
    plan = _plan(CONV, SECOND, GATE)
    plain = Event("Conv_0", "FusedConv", 3.0)
    assert plan.times([plain, SECOND, GATE]) == [3.0, 4.0, 2.0]


def test_features_are_shares_of_the_whole_and_fill_up_blocks() -> None:
    first, second, _ = _plan(CONV, SECOND, GATE).layers
    assert first.features([16], Padding()) == [1.0, 1.0, 1.0, 0.0]
    assert first.features([4], Padding()) == [1.0, 0.25, 0.25, 0.0]
    assert first.features([4], Padding(leaving=8)) == [1.0, 0.5, 0.5, 0.0]
    assert second.features([5], Padding(entering=8)) == [1.0, 0.5, 0.5, 0.0]
