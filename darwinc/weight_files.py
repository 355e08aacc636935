"""Weights that stay in their file until somebody looks at them, and leave memory again afterwards."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from darwinc import wire
from darwinc.wire import Place


class WeightFile:
    """An open file: it stays the one that was opened, also when another takes its name.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)

    def bytes_at(self, place: Place) -> memoryview:
        """Bytes of the file, mapped into memory as long as somebody holds them."""
        if not place.length:
            return memoryview(b"")
        lead = place.offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._descriptor, lead + place.length, access=mmap.ACCESS_READ, offset=place.offset - lead)
        return memoryview(mapped)[lead : lead + place.length]

    def is_still_there(self) -> bool:
        """Does the name still lead to this file?"""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False


class StoredTensor(ir.LazyTensor):
    """A tensor of a file; nothing of it stays in memory that nobody holds."""

    def __init__(self, file: WeightFile, place: Place, proto: onnx.TensorProto) -> None:
        self.file, self.place = file, place
        kind, shape = ir.DataType(proto.data_type), ir.Shape(proto.dims)
        super().__init__(
            partial(_read, file, place, kind, shape),
            kind,
            shape,
            name=proto.name,
            doc_string=proto.doc_string,
            metadata_props={entry.key: entry.value for entry in proto.metadata_props},
        )


def _read(file: WeightFile, place: Place, kind: ir.DataType, shape: ir.Shape) -> ir.TensorProtocol:
    data = file.bytes_at(place)
    if kind.bitwidth % 8:
        return ir.TensorProtoTensor(onnx.TensorProto(data_type=kind, dims=shape.numpy(), raw_data=data.tobytes()))
    array: npt.NDArray[Any] = np.frombuffer(data, kind.numpy()).reshape(shape.numpy())
    return ir.Tensor(array if array.flags.aligned else array.copy(), kind)


def stored_length(proto: onnx.TensorProto) -> int | None:
    """How many bytes a tensor of this type and shape takes; None for strings, and where type or shape are wrong."""
    try:
        kind = ir.DataType(proto.data_type)
    except ValueError:
        return None
    if kind in (ir.DataType.STRING, ir.DataType.UNDEFINED) or any(size < 0 for size in proto.dims):
        return None
    return -(-int(np.prod(proto.dims, dtype=object)) * kind.bitwidth // 8)


def skeleton(model: ir.Model, large: int | None = None) -> tuple[onnx.ModelProto, dict[int, ir.TensorProtocol]]:
    """The model without the bytes of its large initializers, and these, by number; `large` are `wire.LARGE` bytes."""
    least = wire.LARGE if large is None else large
    weights: dict[int, ir.TensorProtocol] = {}
    values = list(model.graph.initializers.values())
    for number, value in enumerate(values):
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= least:
            weights[number] = tensor
    try:
        for number, tensor in weights.items():
            values[number].const_value = _hollow(tensor)
        return faithful(model), weights
    finally:
        for number, tensor in weights.items():
            values[number].const_value = tensor


def faithful(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf, with what `onnx_ir` leaves out, and without what it adds.

    Outputs without a name at the end of a list are part of a node; types of initializers are told by their tensors.
    """
    proto = ir.to_proto(model)
    for node, written in zip(model.graph, proto.graph.node, strict=True):
        written.output.extend([""] * (len(node.outputs) - len(written.output)))
    told = {tensor.name for tensor in proto.graph.initializer}
    kept = [info for info in proto.graph.value_info if info.name not in told]
    if len(kept) < len(proto.graph.value_info):
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(kept)
    return proto


def checkable(proto: onnx.ModelProto, hollow: Collection[int]) -> onnx.ModelProto:
    """A copy in which the initializers without their bytes, by number, are graph inputs: ONNX wants bytes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph, known = copy.graph, {value.name for value in proto.graph.input}
    del graph.initializer[:]
    for number, tensor in enumerate(proto.graph.initializer):
        if number not in hollow:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def _hollow(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    proto = onnx.TensorProto(
        name=tensor.name or "",
        data_type=tensor.dtype,
        dims=tensor.shape.numpy(),
        doc_string=tensor.doc_string or "",
    )
    for key, text in tensor.metadata_props.items():
        proto.metadata_props.add(key=key, value=text)
    return ir.TensorProtoTensor(proto)


def pieces(model: ir.Model) -> tuple[int, Iterator[bytes | memoryview]]:
    """The model as one file: its size in bytes, and what to write one after another."""
    proto, weights = skeleton(model)
    size, parts = wire.assembled(proto, {number: tensor.nbytes for number, tensor in weights.items()})
    return size, (bytes_of(weights[part]) if isinstance(part, int) else part for part in parts)


def bytes_of(tensor: ir.TensorProtocol) -> memoryview:
    """What a file holds of a tensor."""
    if isinstance(tensor, StoredTensor):
        return tensor.file.bytes_at(tensor.place)
    if tensor.dtype.bitwidth % 8:
        return memoryview(tensor.tobytes())
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data


def write_beside(proto: onnx.ModelProto, weights: Mapping[int, ir.TensorProtocol], path: Path, location: str) -> None:
    """Write initializers of `proto`, by number, to a file, each at the start of a page; `location` is its name."""
    with path.open("wb") as file:
        for number, tensor in weights.items():
            file.seek(-file.tell() % mmap.ALLOCATIONGRANULARITY, os.SEEK_CUR)
            point_at(proto.graph.initializer[number], location, Place(file.tell(), tensor.nbytes))
            file.write(bytes_of(tensor))


def point_at(tensor: onnx.TensorProto, location: str, place: Place) -> None:
    """Let a tensor have its bytes outside."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", str(place.offset)), ("length", str(place.length))):
        tensor.external_data.add(key=key, value=text)


def outsourced(model: ir.Model, folder: Path) -> bytes:
    """The model for a session whose external data lies under `folder.anchor`.

    Weights that nobody changed stay where they are; the others are written into `folder`, which is as large as they
    are, and not needed any more when the session is open.
    """
    proto, weights = skeleton(model)
    changed = dict(weights)
    for number, tensor in weights.items():
        location = _location(tensor.file, folder.anchor) if isinstance(tensor, StoredTensor) else None
        if location is not None and isinstance(tensor, StoredTensor):
            point_at(proto.graph.initializer[number], location, tensor.place)
            del changed[number]
    if changed:
        path = folder.resolve() / "weights"
        write_beside(proto, changed, path, path.relative_to(path.anchor).as_posix())
    return bytes(proto.SerializeToString())


def _location(file: WeightFile, anchor: str) -> str | None:
    """Where a file lies under `anchor`; None where it doesn't any more, or can't be named in a model."""
    path = file.path.resolve()
    if path.anchor != anchor or not file.is_still_there() or not str(path).isprintable():
        return None
    return path.relative_to(anchor).as_posix()
