"""Read, check and write a model, and the questions that everything else asks of an `onnx_ir` model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from darwinc import wire
from darwinc.errors import InvalidModel, OutputError, VerificationFailed
from darwinc.weight_files import StoredTensor, WeightFile, checkable, pieces, skeleton, stored_length, write_beside
from darwinc.wire import Place

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes above which a model can't be one file: protobuf's limit, less what the graph itself may take."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model, with its large weights left in the file, or in its external data, until somebody looks at them.

    Raises:
        InvalidModel: no such file, not ONNX, truncated, external data outside the model's folder, or refused by ONNX's
            full check.
    """
    path = Path(path)
    proto, stored = _parse(path)
    _check_external_data(proto, path)
    stored |= _leave_outside(proto, path)
    problem = _problem(proto, _numbers(proto, stored))
    if problem is not None and "topologically sorted" in problem:
        proto = _sorted(proto, path)
        problem = _problem(proto, _numbers(proto, stored))
    if problem is not None:
        raise InvalidModel(f"{path} is not valid ONNX: {problem}")
    model = ir.from_proto(proto)
    for name, tensor in stored.items():
        model.graph.initializers[name].const_value = tensor
    return model


def _numbers(proto: onnx.ModelProto, names: Collection[str]) -> set[int]:
    return {number for number, tensor in enumerate(proto.graph.initializer) if tensor.name in names}


def _problem(proto: onnx.ModelProto, hollow: Collection[int]) -> str | None:
    """What ONNX's full check has against a model without the bytes of some initializers, by number."""
    try:
        onnx.checker.check_model(checkable(proto, hollow), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return first_sentence(error)
    return None


def _sorted(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """ONNX Runtime takes nodes in any order, the standard doesn't."""
    try:
        model = ir.from_proto(proto)
        model.graph.sort()
    except (ValueError, ir.serde.SerdeError) as error:
        raise InvalidModel(f"{path} is not valid ONNX: {first_sentence(error.__cause__ or error)}") from error
    return ir.to_proto(model)


def _parse(path: Path) -> tuple[onnx.ModelProto, dict[str, StoredTensor]]:
    """A model without the bytes of its large initializers, and these, by name."""
    if not path.is_file():
        raise InvalidModel(f"{path} is not a file; give the path of an ONNX model.")
    proto = onnx.ModelProto()
    try:
        file = WeightFile(path)
        data = file.bytes_at(Place(0, path.stat().st_size))
        inner, places = wire.outline(data)
        proto.ParseFromString(inner)
    except (DecodeError, ValueError) as error:
        raise InvalidModel(
            f"{path} is not an ONNX file, or is truncated: its bytes can't be parsed as a model."
        ) from error
    except OSError as error:
        raise InvalidModel(f"{path} can't be read: {error.strerror}.") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise InvalidModel(f"{path} is not an ONNX model: it holds no graph or names no opset.")
    tensors = [(proto.graph.initializer[number], place) for number, place in places.items()]
    return proto, {tensor.name: _stored(tensor, file, place, path) for tensor, place in tensors}


def _stored(tensor: onnx.TensorProto, file: WeightFile, place: Place, path: Path) -> StoredTensor:
    wanted = stored_length(tensor)
    if wanted != place.length:
        raise InvalidModel(f"{path} is not valid ONNX: {tensor.name!r} takes {wanted} bytes, and has {place.length}.")
    return StoredTensor(file, place, tensor)


def _leave_outside(proto: onnx.ModelProto, path: Path) -> dict[str, StoredTensor]:
    """Take the external data of small tensors, and of those in subgraphs, in; the others by name."""
    large = {id(tensor): tensor for tensor in proto.graph.initializer if (stored_length(tensor) or 0) >= wire.LARGE}
    files: dict[str, WeightFile] = {}
    stored: dict[str, StoredTensor] = {}
    for tensor in onnx.external_data_helper._get_all_tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        info = onnx.external_data_helper.ExternalDataInfo(tensor)
        if info.location not in files:
            files[info.location] = WeightFile(path.parent / info.location)
        length = stored_length(tensor) or 0
        place = Place(info.offset or 0, length if info.length is None else info.length)
        left = _stored(tensor, files[info.location], place, path)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        if id(tensor) in large:
            stored[tensor.name] = left
        else:
            tensor.raw_data = left.tobytes()
    return stored


def _check_external_data(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in onnx.external_data_helper._get_all_tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        pure = PurePosixPath(location)
        if (
            not location
            or pure.is_absolute()
            or ".." in pure.parts
            or not (folder / pure).resolve().is_relative_to(folder)
        ):
            raise InvalidModel(
                f"{path} names external data outside its own folder ({location!r}, for {tensor.name!r}); "
                "it was not read."
            )
        if not (folder / pure).is_file():
            raise InvalidModel(f"{path} needs the external data file {location!r} beside it, and there is none.")
        numbers = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key in ("offset", "length")}
        if (folder / pure).stat().st_size < numbers.get("offset", 0) + numbers.get("length", 0):
            raise InvalidModel(f"{path} needs more of {tensor.name!r} than {location!r} holds; the file is truncated.")


def first_sentence(error: BaseException) -> str:
    """The first line of an error that says something, as the tail of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model whole or not at all: into a temporary folder beside the target, then renamed.

    Models of over 2 GB get external data in `<name>.data` beside the file.

    Raises:
        OutputError: the target can't be written.
        VerificationFailed: the result is refused by ONNX's full check.
    """
    path = Path(path)
    check_writable(path)
    proto, weights = skeleton(model)
    problem = _problem(proto, weights)
    if problem is not None:
        raise VerificationFailed(f"The rewritten model is not valid ONNX, and nothing was written: {problem}")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            staged = Path(folder) / path.name
            _write(model, staged)
            for part in sorted(Path(folder).iterdir(), key=lambda item: item == staged):
                os.replace(part, path.parent / part.name)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}.") from error
    except EncodeError as error:
        raise OutputError(f"{path} can't be written: {first_sentence(error)}") from error


def _write(model: ir.Model, path: Path) -> None:
    if stored_bytes(model) > PROTOBUF_LIMIT:
        proto, weights = skeleton(model)
        write_beside(proto, weights, path.with_name(f"{path.name}.data"), f"{path.name}.data")
        path.write_bytes(proto.SerializeToString())
        return
    with path.open("wb") as file:
        for piece in pieces(model)[1]:
            file.write(piece)


def check_writable(path: Path) -> None:
    """Refuse, before any work, a target that can't be written.

    Raises:
        OutputError: no such folder, no permission, or the target is a folder.
    """
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file to write.")
    if not folder.is_dir():
        raise OutputError(f"{path} can't be written: the folder {folder} doesn't exist.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} can't be written: no permission to write in {folder}.")


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that can't be written into, or that can't be made.

    Raises:
        OutputError: it or what it would lie in is a file, or no permission.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"{folder} can't be a folder: {place} is a file; give another name.")
    if not os.access(place, os.W_OK):
        raise OutputError(f"{folder} can't be written: no permission to write in {place}; give another name.")


def to_bytes(model: ir.Model) -> bytes:
    """The model as one serialized file, external data included (under 2 GB only)."""
    return b"".join(pieces(model)[1])


def file_bytes(model: ir.Model) -> int:
    """The size of the file as it would be written, in bytes."""
    stored = stored_bytes(model)
    return pieces(model)[0] if stored <= PROTOBUF_LIMIT else stored


def embedded(model: ir.Model) -> ir.Model:
    """A copy whose tensors are all in memory, so that it stands alone."""
    copy = model.clone()
    ir.external_data.load_to_model(copy)
    return copy


def opset(model: ir.Model) -> int:
    """The version of the standard operator set that the model imports."""
    return model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))


def is_standard(node: ir.Node) -> bool:
    """Is this node's operator from the ONNX standard?"""
    return node.domain in STANDARD_DOMAINS


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """The top-level nodes, in topological order."""
    yield from model.graph


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The bodies that a control-flow node carries."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def integers(node: ir.Node, name: str) -> list[int] | None:
    """A list of integers, or None where the attribute is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else list(attribute.as_ints())


def text(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def label(node: ir.Node) -> str:
    """What messages and reports call a node: its name, or its first output where it has none."""
    return node.name or next((str(output.name) for output in node.outputs if output.name), node.op_type)


def constant_source(value: ir.Value | None) -> ir.Value | None:
    """The initializer or Constant output behind a value, seen through Identity; None for computed values."""
    while value is not None:
        node = value.producer()
        if node is None:
            return value if value.is_initializer() else None
        if not is_standard(node):
            return None
        if node.op_type == "Constant":
            return value
        if node.op_type != "Identity":
            return None
        value = node.inputs[0]
    return None


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a constant value: an initializer, a Constant node's output, or an Identity of one."""
    source = constant_source(value)
    if source is None:
        return None
    node = source.producer()
    return source.const_value if node is None else _constant_node_tensor(node)


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for name, attribute in node.attributes.items():
        if name == "value":
            # `as_tensor` asks whether it is one, by a protocol, which takes long where constants are many.
            return cast(ir.TensorProtocol, attribute.value)
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.asarray(attribute.value, np.int64))
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.asarray(attribute.value, np.float32))
    return None


def constants(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Every constant that the file stores, by name: initializers and Constant nodes, not their Identity copies."""
    found: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            found[name] = value.const_value
    for node in model.graph:
        if node.op_type == "Constant" and is_standard(node) and node.outputs[0].name:
            tensor = _constant_node_tensor(node)
            if tensor is not None:
                found[node.outputs[0].name] = tensor
    return found


def set_constant(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Replace the tensor of an initializer or of a Constant node's output."""
    node = value.producer()
    if node is None:
        value.const_value = tensor
    else:
        for name in ("value_int", "value_ints", "value_float", "value_floats"):
            node.attributes.pop(name, None)
        node.attributes["value"] = ir.AttrTensor("value", tensor)
    if value.type is not None:
        value.shape = ir.Shape(tensor.shape.numpy())


def release_initializer_inputs(model: ir.Model) -> list[str]:
    """Take initializers out of the graph inputs, so that ONNX Runtime may fold them; returns their names.

    Before IR version 4 every initializer had to be an input as well; the version is raised where needed.
    """
    names = [str(value.name) for value in model.graph.inputs if value.name in model.graph.initializers]
    if names:
        kept = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
        model.ir_version = max(model.ir_version or 4, 4)
    return names


def stored_bytes(model: ir.Model) -> int:
    """Bytes of all constants that the file stores."""
    return sum(tensor.nbytes for tensor in constants(model).values())
