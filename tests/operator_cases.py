"""One operator at a time, on small tensors: what ONNX Runtime makes of it, and what the twin does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

from darwinc.torch_graph import TorchGraph

Array = npt.NDArray[Any]
TOLERANCE = 1e-5
VERSIONS = {"ai.onnx.ml": 5}


def noise(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def flags(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 2, shape).astype(bool)


def whole(*shape: int, low: int = -9, high: int = 9, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


@dataclass
class Case:
    """One node: operands (None where left out), attributes, opset, number of outputs, and which of them are left out.

    `op` is the key of its rule: outside the standard, the domain comes first ("com.microsoft::Gelu").
    `reference` asks ONNX's reference instead of ONNX Runtime, which has no such kernel on the CPU; `closed` asks a
    closed form, which is given all operands.
    `slack` is how far an integer answer may be off: 1 where ONNX Runtime rounds quantized values in another order.
    """

    op: str
    operands: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    reference: bool = False
    slack: float = 0.0
    closed: Callable[..., tuple[Array, ...]] | None = None
    omitted: tuple[int, ...] = ()

    def __str__(self) -> str:
        shown = {
            key: value
            for key, value in self.attributes.items()
            if not isinstance(value, onnx.TensorProto | onnx.GraphProto)
        }
        told = ",".join(f"{key}={value}" for key, value in shown.items())
        return f"{self.op}-{self.opset}-{told}"

    def model(self, constant: bool) -> onnx.ModelProto:
        """The node alone; all operands but the first are initializers where `constant`."""
        names = ["" if operand is None else f"operand{position}" for position, operand in enumerate(self.operands)]
        made = ["" if position in self.omitted else f"output{position}" for position in range(self.outputs)]
        domain, _, op_type = self.op.rpartition("::")
        node = helper.make_node(op_type, names, made, name="node", domain=domain, **self.attributes)
        given = [(name, operand) for name, operand in zip(names, self.operands, strict=True) if operand is not None]
        stored = [
            onnx.numpy_helper.from_array(operand, name) for name, operand in given if constant and name != "operand0"
        ]
        entering = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(operand.dtype), operand.shape)
            for name, operand in given
            if not (constant and name != "operand0")
        ]
        leaving = [onnx.ValueInfoProto(name=name) for name in made if name]
        graph = helper.make_graph([node], "case", entering, leaving, stored)
        imports = [
            helper.make_opsetid("", self.opset),
            *([helper.make_opsetid(domain, VERSIONS.get(domain, 1))] if domain else []),
        ]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model)
        for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
            if known.type.tensor_type.elem_type:
                value.CopyFrom(known)
        return model

    def feed(self, model: onnx.ModelProto) -> dict[str, Array]:
        given = {f"operand{position}": operand for position, operand in enumerate(self.operands) if operand is not None}
        return {value.name: given[value.name] for value in model.graph.input}


def answers(case: Case, model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    if case.closed is not None:
        return list(case.closed(*case.operands))
    if case.reference:
        return list(ReferenceEvaluator(model).run(None, feed))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


X4 = noise(2, 4, 7, 6)
X3 = noise(2, 4, 9)
X5 = noise(1, 2, 4, 5, 4)
PAIR = [noise(2, 3, 4), noise(3, 1, seed=1)]
UNIT = noise(3, 4, low=-0.9, high=0.9)
POSITIVE = noise(3, 4, low=0.2, high=3.0)
WIDE = noise(3, 4, low=-9.0, high=9.0)


def ways(cases: Iterable[Case]) -> list[tuple[Case, bool]]:
    """Every case with its other operands as initializers, and where it has some, as graph inputs too."""
    return [(case, constant) for case in cases for constant in (True, False) if constant or len(case.operands) > 1]


def check(case: Case, constant: bool = True) -> None:
    """The twin answers like ONNX Runtime; other operands are initializers where `constant`."""
    model = case.model(constant)
    feed = case.feed(model)
    expected = answers(case, model, feed)
    for value, wanted in zip(model.graph.output, expected, strict=True):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(wanted.dtype)
    found = TorchGraph(ir.from_proto(model))(feed)
    for name, wanted in zip([value.name for value in model.graph.output], expected, strict=True):
        got = found[name].detach().numpy()
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        finite = np.abs(wanted[np.isfinite(wanted)]) if wanted.dtype == np.float32 else np.zeros(0)
        slack = max(case.slack, TOLERANCE * max(1.0, finite.max(initial=0.0)))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=slack)
