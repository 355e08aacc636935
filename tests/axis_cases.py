"""Cases of the axis rules: before in ONNX text, what a cut changes in the file (and nothing else), and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tests.surgery import Cut, changes, cut, parse, reasons


@dataclass(frozen=True)
class Case:
    """A graph, the positions that go, and every fact that changes; `given` are the values of some constants."""

    name: str
    text: str
    removed: Mapping[str, Sequence[int]]
    changed: Mapping[str, str]
    opset: int = 17
    given: Mapping[str, npt.ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """A graph whose constant `w` can't lose anything along `axis`, and one of the reasons."""

    name: str
    text: str
    reason: str
    axis: int = 0
    opset: int = 17


def build(case: Case) -> onnx.ModelProto:
    """The model of a case."""
    model = parse(case.text, case.opset, 13 if case.opset > 24 else 10 if case.opset > 20 else 8)
    for tensor in model.graph.initializer:
        if tensor.name in case.given:
            array = np.asarray(case.given[tensor.name], numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def check(case: Case) -> Cut:
    """The cut changes what the case says and nothing else, and answers like the zeroed original."""
    result = cut(build(case), case.removed)
    assert changes(result) == case.changed
    return result


def check_held(held: Held) -> None:
    """Nothing can be removed along the axis, and the reason is among those told."""
    found = reasons(parse(held.text, held.opset, 10 if held.opset > 20 else 8), "w", held.axis)
    assert found is not None, "positions could be removed"
    assert not held.reason or held.reason in found
