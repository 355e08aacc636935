"""The operator tests that come with the onnx package, and what the twin makes of them.

A *case* is a model of one node, with operands and the answer that the standard expects. A case whose name ends in
`_expanded...` is another one's duplicate, in which the body of a function takes the operator's place; such duplicates
are run as well, but not counted among the cases. The cases are those of the onnx package that is installed.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from onnx.backend.test.loader import load_model_tests

from darwinc.errors import UnsupportedOperator
from darwinc.torch_graph import TorchGraph

Array = npt.NDArray[Any]

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
LOW_PRECISION = "bfloat16 is computed in float32, and the case allows less than one rounding of bfloat16"
RUNTIME_DIFFERS = "ONNX Runtime answers otherwise than the standard, and the twin answers like ONNX Runtime"
ROUNDING = "the exact answer is 0, and rounding noise is larger than the 1e-7 that the case allows"

KNOWN: dict[str, str] = {
    "test_attention_3d_causal_bf16": LOW_PRECISION,
    "test_attention_4d_attn_mask_causal_bf16": LOW_PRECISION,
    "test_attention_4d_causal_bf16": LOW_PRECISION,
    "test_attention_4d_causal_padded_kv_bf16": LOW_PRECISION,
    "test_attention_4d_padded_kv_bf16": LOW_PRECISION,
    "test_dft_inverse": ROUNDING,
    "test_dft_inverse_opset19": ROUNDING,
    "test_maxunpool_export_with_output_shape": RUNTIME_DIFFERS,
    "test_resize_downsample_scales_cubic_align_corners": RUNTIME_DIFFERS,
    "test_resize_downsample_scales_linear_align_corners": RUNTIME_DIFFERS,
}
"""Cases that are known not to pass, and why; a duplicate goes by the name of its original."""


OUTDATED = frozenset(
    {
        *(f"test_cast{like}_{types}" for like in ("", "like") for types in ("BFLOAT16_to_FLOAT", "FLOAT_to_BFLOAT16")),
        *(f"test_cast_{before}_to_{after}" for before in ("FLOAT", "FLOAT16") for after in ("INT4", "UINT4")),
        *(f"test_qlinearmatmul_{rank}D_int8_{kind}" for rank in (2, 3) for kind in ("float16", "float32")),
        *(f"test_attention_{rank}d_with_past_and_present_qk_matmul_bias" for rank in (3, 4)),
        *(
            f"test_attention_4d_with_past_and_present_qk_matmul_bias_{rank}d_mask{causal}"
            for rank in (3, 4)
            for causal in ("", "_causal")
        ),
        "test_attention_3d_with_past_and_present_qk_matmul_softcap",
        "test_attention_4d_with_qk_matmul_bias",
        "test_attention_4d_with_qk_matmul_softcap",
        "test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True",
        "test_l2normalization_axis_0",
    }
)
"""Cases whose expected answers are wrong in packages before 1.23: types that overflowed where the answers were made, a
window over the edge, 0 / 0, and stages of attention in another order. There they may pass or not."""


def settled(case: NodeCase) -> bool:
    """Does the installed package expect the right answer?"""
    current = tuple(map(int, onnx.__version__.split(".")[:2])) >= (1, 23)
    return current or case.original not in OUTDATED


@dataclass(frozen=True)
class NodeCase:
    """One case of the onnx package: its model, what goes in, what should come out, and how exactly."""

    name: str
    model: onnx.ModelProto
    operands: tuple[Any, ...]
    expected: tuple[Any, ...]
    rtol: float
    atol: float

    @property
    def original(self) -> str:
        """The name of the case that this one duplicates, or its own."""
        return self.name.split("_expanded")[0]

    @property
    def is_duplicate(self) -> bool:
        return self.name != self.original

    @cached_property
    def operator(self) -> str:
        """The operator, after its domain where that isn't the standard's."""
        node = self.model.graph.node[0]
        return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)

    @cached_property
    def out_of_scope(self) -> str:
        """Why the twin leaves such a case alone, or nothing."""
        domain, _, operator = self.operator.rpartition("::")
        if domain == "ai.onnx.preview.training":
            return "training"
        if self._drops() or any(node.op_type in RANDOM for node in self.model.graph.node):
            return "random"
        values = (*self.model.graph.input, *self.model.graph.output)
        kinds = {value.type.WhichOneof("value") for value in values}
        if "optional_type" in kinds or operator.startswith("Optional"):
            return "optionals"
        if "sequence_type" in kinds:
            return "sequences"
        strings = any(value.type.tensor_type.elem_type == onnx.TensorProto.STRING for value in values)
        return "strings" if strings else ""

    def _drops(self) -> bool:
        """Is this a Dropout in training mode that really drops something?"""
        if self.operator != "Dropout" or len(self.operands) < 3:
            return False
        return bool(numbers(self.operands[2])) and float(numbers(self.operands[1])) > 0

    def feed(self) -> dict[str, Array]:
        names = [value.name for value in self.model.graph.input]
        return {name: numbers(operand) for name, operand in zip(names, self.operands, strict=True)}


def numbers(value: Any) -> Array:
    """An operand or an answer as an array of a type that NumPy has: floats of less than two bytes in float32, say."""
    array = _array(value)
    return array if _is_plain(array) else array.astype(np.float32)


def _array(value: Any) -> Array:
    stored = isinstance(value, onnx.TensorProto)
    return np.asarray(ir.serde.deserialize_tensor(value).numpy() if stored else value)


def _is_plain(array: Array) -> bool:
    """Is its type one of NumPy's own?"""
    return array.dtype.type.__module__ == "numpy"


@lru_cache(maxsize=1)
def node_cases() -> tuple[NodeCase, ...]:
    """Every case of the installed package, duplicates too; building them takes seconds."""
    with warnings.catch_warnings():
        # Casting infinity and dividing by zero are what some cases are about.
        warnings.simplefilter("ignore", RuntimeWarning)
        loaded = load_model_tests(kind="node")
    made = ((case, case.model, case.data_sets[0]) for case in loaded if case.model is not None and case.data_sets)
    kept = ((case, *_from_files(Path(case.model_dir))) for case in loaded if case.model is None and case.model_dir)
    return tuple(
        NodeCase(case.name, model, tuple(operands), tuple(expected), case.rtol, case.atol)
        for case, model, (operands, expected) in itertools.chain(made, kept)
    )


def _from_files(folder: Path) -> tuple[onnx.ModelProto, tuple[list[Any], list[Any]]]:
    """A model and its first set of data, as packages before onnx 1.19 keep them; what is no tensor is left out."""
    model = onnx.load(folder / "model.onnx")
    sides = (("input", model.graph.input), ("output", model.graph.output))
    operands, expected = ([_from_file(folder, side, *pair) for pair in enumerate(values)] for side, values in sides)
    return model, (operands, expected)


def _from_file(folder: Path, side: str, position: int, value: onnx.ValueInfoProto) -> onnx.TensorProto | None:
    if value.type.WhichOneof("value") != "tensor_type":
        return None
    found = onnx.TensorProto()
    found.ParseFromString((folder / "test_data_set_0" / f"{side}_{position}.pb").read_bytes())
    return found


def complaint(case: NodeCase) -> str:
    """Why the twin doesn't pass a case, or nothing."""
    try:
        twin = TorchGraph(ir.from_proto(case.model))
        found = twin.detached(case.feed())
    except UnsupportedOperator as error:
        return error.found
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    answers = zip((found[name] for name in twin.outputs), case.expected, strict=True)
    return next(filter(None, (_difference(got, wanted, case) for got, wanted in answers)), "")


def _difference(got: torch.Tensor, wanted: Any, case: NodeCase) -> str:
    """What sets an answer apart from the expected one: its shape, its type, or its numbers."""
    wide = got.detach().float() if got.dtype == torch.bfloat16 else got.detach()
    array, expected = wide.numpy(), numbers(wanted)
    if array.shape != expected.shape:
        return f"the shape is {array.shape}, expected was {expected.shape}"
    if _is_plain(_array(wanted)) and array.dtype != expected.dtype:
        return f"the type is {array.dtype}, expected was {expected.dtype}"
    if np.allclose(array, expected, rtol=case.rtol, atol=case.atol, equal_nan=True):
        return ""
    with np.errstate(invalid="ignore"):
        furthest = np.abs(array.astype(np.float64) - expected.astype(np.float64))
    return f"an element is off by {np.nanmax(furthest, initial=0.0):.1e}"
