"""One small fixed graph per family of operators, and what must go from it together, or stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from tests.random_graphs.builder import MICROSOFT, Shape
from tests.surgery import parse

SMALL = {TensorProto.INT8: np.int8, TensorProto.INT32: np.int32}

Cut = dict[str, Shape]
"""The shapes of constants after the loss of one unit."""


@dataclass(frozen=True)
class Family:
    """A graph in ONNX text, and the smallest cuts that it must allow.

    Each cut is the loss of one unit of one group. Constants that a cut doesn't name may change with it or not.
    """

    name: str
    text: str
    cuts: tuple[Cut, ...]
    opset: int = 17

    @property
    def model(self) -> onnx.ModelProto:
        """The graph with random weights, quantised ones too, for every input that isn't called x."""
        proto, random = parse(self.text, self.opset), np.random.default_rng(2)
        written = {tensor.name for tensor in onnx.parser.parse_graph(f"g {self.text}").initializer}
        for tensor in proto.graph.initializer:
            if tensor.name not in written and tensor.data_type in SMALL:
                array = random.integers(-40, 41, list(tensor.dims)).astype(SMALL[tensor.data_type])
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        return proto


def each(names: str, *shape: int) -> Cut:
    """One shape for several constants."""
    return dict.fromkeys(names.split(), shape)
