"""Are the twin's gradients right? The onnx package's cases in double precision, against finite differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto

from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import UNTRAINED
from tests.node_cases import NodeCase, numbers

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")
EXHAUSTIVE = 24
"""Up to so many elements every partial derivative is checked; beyond, one random direction of them all."""
JITTER = 0.02
"""How far operands are moved, relative to 1 or to themselves, so that they lie on no kink and no two are equal."""

DOMAINS = {
    "Acos": (-0.9, 0.9),
    "Acosh": (1.1, 9.0),
    "Asin": (-0.9, 0.9),
    "Atanh": (-0.9, 0.9),
    "Pow": (0.3, 2.5),
}
"""Where an operator is smooth, if that isn't nearly everywhere."""

STEPS = "it is constant between its steps: the gradient is 0 wherever there is one"
ROUNDS = "it rounds: the gradient passes straight through, and is no derivative"

NOT_DIFFERENTIABLE: dict[str, str] = {
    "DynamicQuantizeLinear": ROUNDS,
    "Hardmax": STEPS,
    "ai.onnx.ml::Binarizer": STEPS,
    "ai.onnx.ml::TreeEnsemble": STEPS,
}
"""Operators with floats on both sides whose gradient is no derivative, and why."""

NOT_BY: dict[tuple[str, int], str] = {
    ("RoiAlign", 1): "torchvision differentiates by the map, and not by the boxes",
}
"""Operands by which an operator can't be differentiated, and why."""


def differentiable(case: NodeCase) -> bool:
    """Does such a case count: in scope, no duplicate, with floats that go in and count, and floats that come out?"""
    if case.out_of_scope or case.is_duplicate or not _variables(case):
        return False
    return any(value.type.tensor_type.elem_type in FLOATS for value in case.model.graph.output)


def _variables(case: NodeCase) -> list[str]:
    """The inputs by which the outputs are differentiated."""
    node, graph = case.model.graph.node[0], case.model.graph
    configured = UNTRAINED.get(case.operator, ()) if case.operator != "Pow" else ()
    skipped = {name for position, name in enumerate(node.input) if position in configured}
    skipped |= {name for position, name in enumerate(node.input) if (case.operator, position) in NOT_BY}
    return [
        value.name
        for position, value in enumerate(graph.input)
        if value.type.tensor_type.elem_type in FLOATS
        and value.name not in skipped
        and numbers(case.operands[position]).size
        and (not position or np.isfinite(numbers(case.operands[position])).all())
    ]


def gradient_complaint(case: NodeCase) -> str:
    """What is wrong with the gradients of a case, or nothing."""
    twin = TorchGraph(ir.from_proto(in_double(case.model))).double()
    random = np.random.default_rng(0)
    names = _variables(case)
    feed = {value.name: _moved(case, position, names, random) for position, value in enumerate(case.model.graph.input)}

    def outputs(*variables: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = twin({**feed, **dict(zip(names, variables, strict=True))})
        floats = (value for value in found.values() if value.is_floating_point())
        # Masked scores are minus infinity, of which there is no difference.
        return tuple(torch.where(value.isfinite(), value, 0.0) for value in floats)

    variables = [feed[name].requires_grad_() for name in names]
    if not any(value.requires_grad for value in outputs(*variables)):
        return "no gradient"
    try:
        torch.autograd.gradcheck(
            outputs,
            variables,
            eps=1e-6,
            atol=1e-5,
            rtol=1e-4,
            fast_mode=sum(variable.numel() for variable in variables) > EXHAUSTIVE,
            check_undefined_grad=False,
        )
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _moved(case: NodeCase, position: int, names: Sequence[str], random: np.random.Generator) -> torch.Tensor:
    """An operand as a tensor, in double precision; one by which is differentiated, a little aside from where it was.

    Infinities and NaN of the first operand are replaced; others that hold any are masks, and not differentiated by.
    """
    operand = case.operands[position]
    array = np.asarray(numbers(operand))
    if case.model.graph.input[position].name not in names:
        kept = torch.from_numpy(array.copy())
        return kept.double() if kept.is_floating_point() else kept
    wide = array.astype(np.float64)
    wide = np.where(np.isfinite(wide), wide, random.random(wide.shape))
    if case.operator in DOMAINS:
        low, high = DOMAINS[case.operator]
        return torch.from_numpy(np.asarray(low + (high - low) * random.random(wide.shape)))
    wide = wide + random.uniform(-JITTER, JITTER, wide.shape) * np.maximum(1.0, np.abs(wide))
    return torch.from_numpy(np.asarray(wide))


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every float in double precision."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in _graphs(copy.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in FLOATS:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        _widen(graph.initializer)
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _widen([attribute.t])
    return copy


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _widen(tensors: Sequence[onnx.TensorProto]) -> None:
    for tensor in tensors:
        if tensor.data_type in FLOATS:
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers(tensor).astype(np.float64), tensor.name))
