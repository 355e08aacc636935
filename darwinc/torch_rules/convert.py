"""Between ONNX tensors and torch's: types, values, attributes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from darwinc.errors import InvalidData, UnsupportedOperator

Attribute: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | torch.Tensor
FeedValue: TypeAlias = "torch.Tensor | npt.NDArray[np.generic]"

# Floats of two bytes or less are computed in float32, and integers that torch hardly knows in a wider type.
TORCH_TYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float32,
    ir.DataType.BFLOAT16: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT8E4M3FN: torch.float32,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float32,
    ir.DataType.FLOAT8E5M2: torch.float32,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float32,
    ir.DataType.FLOAT8E8M0: torch.float32,
    ir.DataType.FLOAT4E2M1: torch.float32,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT16: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.UINT64: torch.int64,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
}

# The first of the types that are computed in a torch type.
ONNX_TYPES: dict[torch.dtype, ir.DataType] = {dtype: onnx for onnx, dtype in reversed(TORCH_TYPES.items())}

# Outputs of these types are computed in another one and cast at the end. Quantized values are among them because they
# are floats while a gradient passes through them. Floats of a byte or less stay in float32.
DECLARED_TYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
}

# Types that torch can hold, bit for bit, as ONNX stores them.
STORED_TYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
    **DECLARED_TYPES,
}

# numpy types for what torch can't read.
WIDENED: dict[ir.DataType, type[np.generic]] = {
    ir.DataType.BFLOAT16: np.float32,
    ir.DataType.FLOAT8E4M3FN: np.float32,
    ir.DataType.FLOAT8E4M3FNUZ: np.float32,
    ir.DataType.FLOAT8E5M2: np.float32,
    ir.DataType.FLOAT8E5M2FNUZ: np.float32,
    ir.DataType.FLOAT8E8M0: np.float32,
    ir.DataType.FLOAT4E2M1: np.float32,
    ir.DataType.INT4: np.int8,
    ir.DataType.UINT4: np.uint8,
    ir.DataType.INT2: np.int8,
    ir.DataType.UINT2: np.uint8,
}


def torch_type(data_type: ir.DataType | int, where: str) -> torch.dtype:
    """The torch type that an ONNX type is computed in.

    Raises:
        UnsupportedOperator: strings and complex numbers.
    """
    data_type = ir.DataType(data_type)
    if data_type not in TORCH_TYPES:
        raise UnsupportedOperator(
            f"torch computes only floats, integers and booleans, and {where} is of type {data_type.name}"
        )
    return TORCH_TYPES[data_type]


def input_type(value: ir.Value) -> torch.dtype:
    """The torch type that a graph input is computed in."""
    return torch.float32 if value.dtype is None else torch_type(value.dtype, f"the input {value.name!r}")


def output_type(value: ir.Value) -> torch.dtype | None:
    """The type that a graph output is cast to, or None where it is computed in the declared type."""
    return None if value.dtype is None else DECLARED_TYPES.get(value.dtype)


def to_torch(tensor: ir.TensorProtocol, where: str) -> torch.Tensor:
    """A copy, in the type it is computed in.

    Raises:
        UnsupportedOperator: a type that the twin doesn't compute.
    """
    dtype = torch_type(tensor.dtype, where)
    array = np.array(tensor.numpy())
    if tensor.dtype in WIDENED:
        array = array.astype(WIDENED[tensor.dtype])
    return torch.from_numpy(array).to(dtype)


def to_onnx(value: torch.Tensor, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """A copy, in the type that the model stores."""
    return ir.tensor(value.detach().cpu().numpy().astype(dtype.numpy(), order="C"), dtype=dtype, name=name)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal to the last bit, NaN and the sign of zero included."""
    return left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes()


def from_feed(value: FeedValue, dtype: torch.dtype, name: str) -> torch.Tensor:
    """An array of a feed in the type that its input is computed in, without a copy where none is needed.

    Raises:
        InvalidData: the array doesn't hold numbers.
    """
    if isinstance(value, torch.Tensor):
        return value.to(dtype)
    if not (np.issubdtype(value.dtype, np.number) or value.dtype == np.bool_):
        raise InvalidData(
            f"The array for input {name!r} holds {value.dtype}, but numbers were expected; convert it first."
        )
    # torch takes neither read-only arrays nor negative strides.
    array = np.asarray(value, order="C")
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(dtype)


def attributes(node: ir.Node, name: str) -> dict[str, Attribute]:
    """A node's attributes as Python values and torch tensors, graphs left out.

    Raises:
        UnsupportedOperator: an attribute that holds a sparse tensor, a type or a list of graphs.
    """
    found: dict[str, Attribute] = {}
    for key, attribute in node.attributes.items():
        kind = attribute.type
        if kind == ir.AttributeType.TENSOR:
            found[key] = to_torch(attribute.as_tensor(), f"the attribute {key!r} of node {name!r}")
        elif kind in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
            found[key] = tuple(attribute.value)
        elif kind in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
            found[key] = attribute.value
        elif kind != ir.AttributeType.GRAPH:
            raise UnsupportedOperator(
                f"torch has no rule for {node.op_type} with a {kind.name} as its {key!r}, as node {name!r} has it"
            )
    return found
