"""Models from ONNX text, channels removed from them by name, and what changed in the file and in the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper

from darwinc.channels import Channels, Mask, analyse
from darwinc.passes.excise import Excision, excise

Array = npt.NDArray[Any]
Facts = dict[str, str]


def parse(text: str, opset: int = 17, ir_version: int = 8, *, keep_inputs: bool = False) -> onnx.ModelProto:
    """A model from the text of its graph; inputs that aren't called x... become random initializers.

    With `keep_inputs` they stay inputs as well, as before IR version 4.
    """
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "custom" : 1, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header} g {text}")
    random = np.random.default_rng(1)
    for value in list(model.graph.input):
        if value.name.startswith("x"):
            continue
        tensor_type = value.type.tensor_type
        shape = [dimension.dim_value for dimension in tensor_type.shape.dim]
        array = random.uniform(0.2, 1.0, shape) * random.choice([-1, 1], shape)
        array = np.abs(array) if value.name.startswith("var") else array
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(array.astype(dtype), value.name))
        if not keep_inputs:
            model.graph.input.remove(value)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


@dataclass(frozen=True)
class Cut:
    """A model before and after, its zeroed twin, and the analysis."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    zeroed: onnx.ModelProto
    excision: Excision
    channels: Channels


def dead_positions(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Mask:
    """The mask for positions of constants: {"w": [1, 3]} along axis 0, {"w:1": [0]} along axis 1."""
    dead = channels.nobody()
    for place, positions in removed.items():
        name, _, axis = place.partition(":")
        fills = [fill.axes for fill in channels.flow.fills if fill.node.outputs[0].name == name]
        axes = next((use.axes for use in channels.flow.uses if use.value.name == name), None) or fills[0]
        owners = channels.owners[channels.component[axes[int(axis or 0)]]]
        assert owners[list(positions)].any(axis=1).all(), f"{place} can't lose {list(positions)}"
        wanted = np.isin(np.arange(len(owners)), list(positions))
        for unit in np.unique(owners[list(positions)]).tolist():
            own = (owners == unit).any(axis=1)
            shared = (owners[own] > 0).sum(axis=1).max() > 1
            dead[unit] |= unit > 0 and bool(wanted[own].all() if shared else wanted[own].any())
        assert not channels.living(axes[int(axis or 0)], dead)[wanted].any(), f"{place} can't lose {list(positions)}"
    return dead


def cut(proto: onnx.ModelProto, removed: Mapping[str, Sequence[int]]) -> Cut:
    """Remove positions; the result is valid and answers like the zeroed original."""
    model = ir.from_proto(proto)
    channels = analyse(model)
    dead = dead_positions(channels, removed)
    rewritten, excision = excise(model, channels, dead)
    zeroed, _ = excise(model, channels, dead, zero=True)
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(ir.from_proto(proto)).SerializeToString()
    result = Cut(ir.to_proto(model), ir.to_proto(rewritten), ir.to_proto(zeroed), excision, channels)
    onnx.checker.check_model(result.after, full_check=True)
    assert_same_answers(result.zeroed, result.after)
    return result


def assert_same_answers(one: onnx.ModelProto, two: onnx.ModelProto, batch: int = 2, side: int = 8) -> None:
    """Both answer alike in ONNX Runtime, to 1e-5 of the output's scale (5e-3 in float16), and not with zeros."""
    for want, got in zip(answers(one, batch, side), answers(two, batch, side), strict=True):
        half = want.dtype == np.float16
        scale = float(np.abs(want.astype(np.float64)).max(initial=0))
        assert np.isfinite(scale)
        np.testing.assert_allclose(got, want, rtol=0, atol=(5e-3 if half else 1e-5) * max(scale, 1e-3))


def answers(proto: onnx.ModelProto, batch: int = 2, side: int = 8) -> list[Array]:
    """All outputs for a fixed random input; symbolic axes are `batch` first and `side` elsewhere."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random, feed = np.random.default_rng(7), {}
    stored = {tensor.name for tensor in proto.graph.initializer}
    for value in session.get_inputs():
        if value.name in stored:
            continue
        shape = [size if isinstance(size, int) else side if axis else batch for axis, size in enumerate(value.shape)]
        if value.type == "tensor(int64)":
            feed[value.name] = random.integers(0, 2, shape)
        elif value.type == "tensor(bool)":
            feed[value.name] = np.ones(shape, np.bool_)
        else:
            kind = np.float16 if value.type == "tensor(float16)" else np.float32
            feed[value.name] = random.standard_normal(shape).astype(kind)
    return list(session.run(None, feed))


def facts(proto: onnx.ModelProto) -> Facts:
    """All that a rewrite may not change unasked, as text.

    Constants by type and shape (integers by value), attributes, the inputs of nodes, recorded shapes, the nodes.
    """
    found: Facts = {tensor.name: _constant(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        found[f"{node.name}.inputs"] = " ".join(node.input)
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            key = node.output[0] if node.op_type == "Constant" else f"{node.name}.{attribute.name}"
            found[key] = _constant(value) if isinstance(value, onnx.TensorProto) else str(value)
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        if value.name in found:
            continue
        found[f"{value.name}: shape"] = onnx.helper.printable_type(value.type)
    found["nodes"] = " ".join(f"{node.name}:{node.op_type}" for node in proto.graph.node)
    return found


def _constant(tensor: onnx.TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind == "i":
        return str(array.tolist())
    return f"{array.dtype}{list(array.shape)}"


def changes(result: Cut) -> Facts:
    """The facts that are new, different or gone after the cut."""
    before, after = facts(result.before), facts(result.after)
    gone = dict.fromkeys(before.keys() - after.keys(), "gone")
    return gone | {key: fact for key, fact in after.items() if before.get(key) != fact}


def reasons(proto: onnx.ModelProto, constant: str, axis: int = 0) -> set[str] | None:
    """What holds positions in this model; None where any along the axis of the constant may go."""
    channels = analyse(ir.from_proto(proto))
    ids = next(use.axes[axis] for use in channels.flow.uses if use.value.name == constant)
    if channels.component[ids].any():
        return None
    return {barrier.reason for barrier in channels.flow.barriers}
