"""The wire format of ONNX files, as far as it takes to leave weights where they are.

`outline` takes the bytes of large initializers out of a serialized model before it is parsed, and says where they lie;
`assembled` puts such bytes into a model that is written, piece by piece. A parse or a copy of the whole never happens.
(Protocol Buffers, "Encoding": a message is a sequence of fields, each a key and a payload, in any order.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx

LARGE = 2**16
"""Bytes from which an initializer is left where it lies. Shape inference reads smaller ones."""

GRAPH_OF_MODEL, INITIALIZER_OF_GRAPH, RAW_DATA_OF_TENSOR = 7, 5, 9
_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5

Change = Callable[[int, int], bytes | None]
"""From the start and end of a payload to what replaces it; None leaves it."""


@dataclass(frozen=True)
class Place:
    """Where bytes lie in a file."""

    offset: int
    length: int


def outline(data: memoryview) -> tuple[bytes, dict[int, Place]]:
    """A serialized model without the bytes of its large initializers, and where those of the n-th initializer lie.

    Raises:
        ValueError: this isn't a sequence of fields.
    """
    outliner = _Outliner(data)
    try:
        return outliner.model(), outliner.places
    except IndexError as error:
        raise ValueError("the bytes end within a field") from error


class _Outliner:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.places: dict[int, Place] = {}
        self._initializers = 0

    def model(self) -> bytes:
        changed = self._changed(0, len(self.data), GRAPH_OF_MODEL, self._graph)
        return bytes(self.data) if changed is None else changed

    def _graph(self, start: int, end: int) -> bytes | None:
        return self._changed(start, end, INITIALIZER_OF_GRAPH, self._initializer)

    def _initializer(self, start: int, end: int) -> bytes | None:
        self._initializers += 1
        return self._changed(start, end, RAW_DATA_OF_TENSOR, self._raw_data) if end - start >= LARGE else None

    def _raw_data(self, start: int, end: int) -> bytes | None:
        if end - start < LARGE:
            return None
        self.places[self._initializers - 1] = Place(start, end - start)
        return b""

    def _changed(self, start: int, end: int, wanted: int, change: Change) -> bytes | None:
        """The message at [start, end) with some of its fields changed; None where none is."""
        parts: list[bytes | memoryview] = []
        copied = start
        for number, field, payload, stop in _fields(self.data, start, end):
            made = change(payload, stop) if number == wanted else None
            if made is not None:
                parts += [self.data[copied:field], _head(wanted, len(made)), made]
                copied = stop
        return b"".join([*parts, self.data[copied:end]]) if parts else None


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the field, start and end of the payload); the number is 0 unless a length was given."""
    at = start
    while at < end:
        field = at
        key, at = _varint(data, at)
        payload, kind = at, key & 7
        if kind == _LENGTH_DELIMITED:
            length, payload = _varint(data, at)
            at = payload + length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"there is no field of kind {kind}")
        if at > end:
            raise ValueError("a field is longer than its message")
        yield key >> 3 if kind == _LENGTH_DELIMITED else 0, field, payload, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    number, shift = byte & 127, 7
    while byte >= 128:
        at += 1
        byte = data[at]
        number |= (byte & 127) << shift
        shift += 7
    return number, at + 1


def _head(number: int, length: int) -> bytes:
    """The key and length before a payload."""
    return _number(number << 3 | _LENGTH_DELIMITED) + _number(length)


def _number(number: int) -> bytes:
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def assembled(proto: onnx.ModelProto, lengths: Mapping[int, int]) -> tuple[int, Iterator[bytes | int]]:
    """A model as a file: its size in bytes, and its pieces in order.

    `lengths` gives the bytes of initializers that `proto` holds without data, by number; the piece that stands for
    such bytes is that number. `proto` is emptied.
    """
    pieces: list[bytes | int] = []
    for number, tensor in enumerate(proto.graph.initializer):
        head, length = tensor.SerializeToString(), lengths.get(number)
        if length is None:
            pieces += [_head(INITIALIZER_OF_GRAPH, len(head)) + head]
        else:
            data = _head(RAW_DATA_OF_TENSOR, length)
            pieces += [_head(INITIALIZER_OF_GRAPH, len(head) + len(data) + length) + head + data, number]
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    model = proto.SerializeToString()
    inner = len(graph) + sum(lengths[piece] if isinstance(piece, int) else len(piece) for piece in pieces)
    front = model + _head(GRAPH_OF_MODEL, inner) + graph
    return len(front) + inner - len(graph), iter([front, *pieces])
