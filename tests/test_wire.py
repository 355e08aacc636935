"""Models taken apart and put together at the level of bytes, against protobuf's own parser."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from darwinc import wire

SIZES = st.lists(st.integers(0, 400), max_size=6)


def model(sizes: list[int]) -> onnx.ModelProto:
    """A model with one weight of each size in bytes, and with fields of every kind before and after the graph."""
    weights = [numpy_helper.from_array(np.full(size, size % 251, np.uint8), f"w{size}") for size in sizes]
    node = helper.make_node("Cast", ["x"], ["y"], to=10, name="n")
    node.attribute.add(name="f", type=onnx.AttributeProto.FLOAT, f=0.5)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, [3])], [], weights, "doc")
    for tensor in weights:
        graph.value_info.append(helper.make_tensor_value_info(tensor.name, TensorProto.UINT8, tensor.dims))
    made = helper.make_model(graph, producer_name="someone", doc_string="x" * 300)
    helper.set_model_props(made, {"key": "value"})
    return made


def rejoined(proto: onnx.ModelProto, places: dict[int, wire.Place], data: bytes) -> bytes:
    size, pieces = wire.assembled(proto, {number: place.length for number, place in places.items()})
    found = [
        data[places[piece].offset :][: places[piece].length] if isinstance(piece, int) else piece for piece in pieces
    ]
    assert size == sum(map(len, found))
    return b"".join(found)


@given(SIZES, st.integers(1, 300))
def test_what_is_taken_out_lies_where_it_says_and_goes_back_in(sizes: list[int], large: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "LARGE", large)
        whole = model(sizes)
        data = whole.SerializeToString()
        inner, places = wire.outline(memoryview(data))
    hollow = onnx.ModelProto.FromString(inner)
    assert set(places) == {number for number, size in enumerate(sizes) if size >= large}
    for number, place in places.items():
        assert data[place.offset :][: place.length] == whole.graph.initializer[number].raw_data
        assert hollow.graph.initializer[number].raw_data == b""
        hollow.graph.initializer[number].raw_data = whole.graph.initializer[number].raw_data
    assert hollow == whole
    for number in places:
        hollow.graph.initializer[number].ClearField("raw_data")
    assert onnx.ModelProto.FromString(rejoined(hollow, places, data)) == whole


@given(st.integers(0, 10**6))
def test_a_torn_file_is_an_error_or_the_same_as_protobuf_reads(cut: int) -> None:
    data = model([5, 300, 7]).SerializeToString()
    data = data[: cut % len(data)]
    try:
        inner, places = wire.outline(memoryview(data))
    except ValueError:
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(data)
        return
    assert not places
    assert inner == data


@pytest.mark.parametrize("data", [b"\xff", b"\x0f", b"\x3a\x7f", b"\xff" * 12, b"hello, I am text"])
def test_what_is_not_a_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="field"):
        wire.outline(memoryview(data))
