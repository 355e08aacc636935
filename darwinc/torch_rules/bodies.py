"""Operators that carry graphs: If, Loop and Scan, and how such a body is taken out of the model around it.

A body reads values from around it by name; the twin makes them operands of the node, after its own. Tensors that are
stored inside a body are used, but not trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir
import torch

from darwinc import graph as graphs

from .call import Call, Operands, Result, Rule


def standing_alone(body: ir.Graph, opsets: Mapping[str, int]) -> tuple[ir.Model, tuple[str, ...]]:
    """A body as a model, whose inputs are its own and then what it reads from around it; and the names of these."""
    inside = set(_made(body))
    around = {str(value.name): value for value in _read(body) if value.name and value.name not in inside}
    graph = ir.to_proto(body)
    for value in around.values():
        graph.input.append(ir.to_proto(value))
    imports = [onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in opsets.items()]
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, opset_import=imports)
    return ir.from_proto(model), tuple(around)


def _made(body: ir.Graph) -> Iterator[str]:
    """The names that a body gives to values, those of the bodies inside it too."""
    yield from (str(value.name) for value in body.inputs)
    yield from body.initializers
    for node in body:
        yield from (str(value.name) for value in node.outputs)
        for inner in graphs.subgraphs(node):
            yield from _made(inner)


def _read(body: ir.Graph) -> Iterator[ir.Value]:
    """The values that a body reads or gives back, those of the bodies inside it too."""
    for node in body:
        yield from (value for value in node.inputs if value is not None)
        for inner in graphs.subgraphs(node):
            yield from _read(inner)
    yield from body.outputs


def if_(call: Call) -> Result:
    """The branch that the condition says; the other one isn't computed."""
    return call.body("then_branch" if call.integers(0)[0] else "else_branch")()


def loop(call: Call) -> Result:
    """The body again and again: at most so many times, and as long as it says so.

    Gives what the last turn hands on, and then what every turn gives besides, stacked.
    """
    limit, condition, *handed_on = call.own
    most = call.integers(0)[0] if limit is not None else None
    goes_on = bool(call.integers(1)[0]) if condition is not None else True
    body, turn = call.body("body"), 0
    kept: list[list[torch.Tensor]] = []
    while goes_on and (most is None or turn < most):
        proceed, *rest = body(torch.tensor(turn), torch.tensor(goes_on), *handed_on)
        handed_on, goes_on, turn = list(rest[: len(handed_on)]), bool(proceed), turn + 1
        kept.append(rest[len(handed_on) :])
    return *_handed_on(handed_on), *_stacked(call, kept, len(handed_on))


def _handed_on(values: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    return [value for value in values if value is not None]


def _stacked(call: Call, kept: list[list[torch.Tensor]], states: int) -> list[torch.Tensor]:
    if not kept and len(call.step.outputs) > states:
        raise call.unsupported("no turn at all")
    return [torch.stack(each) for each in zip(*kept, strict=True)]


def scan(call: Call) -> Result:
    """The body over the slices of its last operands, with states that it hands on; before opset 9, sample by sample."""
    if call.opset >= 9:
        return _scan(call, call.own)
    if call.has(0):
        raise call.unsupported("lengths of sequences")
    samples = [_scan(call, row) for row in zip(*call.own[1:], strict=True)]
    return [torch.stack(each) for each in zip(*samples, strict=True)]


def _scan(call: Call, operands: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """The last states, and what every turn gives besides, stacked along the axis that is asked for."""
    given = _handed_on(operands)
    count = call.integer("num_scan_inputs", 1)
    states, sequences = given[:-count], given[-count:]
    axes = call.listed("scan_input_axes") or (0,) * count
    backwards = call.listed("scan_input_directions") or call.listed("directions") or (0,) * count
    sliced = [
        slices[::-1] if reverse else slices
        for slices, reverse in zip(map(torch.unbind, sequences, axes), backwards, strict=True)
    ]
    body, kept = call.body("body"), list[list[torch.Tensor]]()
    for row in zip(*sliced, strict=True):
        found = body(*states, *row)
        states = found[: len(states)]
        kept.append(found[len(states) :])
    return [*states, *_joined(call, kept, len(states))]


def _joined(call: Call, kept: list[list[torch.Tensor]], states: int) -> list[torch.Tensor]:
    stacked = _stacked(call, kept, states)
    axes = call.listed("scan_output_axes") or (0,) * len(stacked)
    backwards = call.listed("scan_output_directions") or (0,) * len(stacked)
    turned = (each.flip(0) if reverse else each for each, reverse in zip(stacked, backwards, strict=True))
    return [each.movedim(0, axis) for each, axis in zip(turned, axes, strict=True)]


HOST_OPERANDS: Operands = {"If": (0,), "Loop": (0, 1)}

RULES: dict[str, Rule] = {"If": if_, "Loop": loop, "Scan": scan}
