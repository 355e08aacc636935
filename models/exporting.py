"""From a torch module to a checked, tidy, self-contained ONNX file, by whichever of PyTorch's exporters can."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from darwinc import graph, runtime
from darwinc.errors import InvalidModel
from darwinc.models.tidying import tidy

Exporter = Literal["dynamo", "torchscript"]

EXPORTER_NAMES: dict[Exporter, str] = {"dynamo": "PyTorch's new exporter", "torchscript": "TorchScript's exporter"}

TOLERANCE = 1e-3
"""Largest difference from torch, relative to an output's largest value, that an export may show in ONNX Runtime."""

FAILURES = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, ImportError,
    OSError,
)  # fmt: skip
"""What torch, its exporters and a user's own module raise when something in a model is beyond them."""


@dataclass(frozen=True)
class Imported:
    """The file that was written, the exporter that made it, and what the user should know."""

    path: Path
    exporter: Exporter
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Specimen:
    """What is to be exported: a module in eval mode, inputs that it takes, and the exported program it is from, if any.

    `free_batch`: a free batch axis makes sense; a program's axes are as free as they were exported. `comparable`: ONNX
    Runtime must answer like torch; random detectors don't, their boxes all score the same. `names`: of the input and
    the output in the file, for a network of one each; the exporter's own where None.
    """

    label: str
    network: nn.Module
    inputs: tuple[torch.Tensor, ...]
    program: torch.export.ExportedProgram | None = None
    free_batch: bool = True
    comparable: bool = True
    names: tuple[str, str] | None = None


@dataclass(frozen=True)
class Attempt:
    """One way to export."""

    exporter: Exporter
    free_batch: bool


def export(specimen: Specimen, destination: Path, *, opset: int | None = None) -> Imported:
    """Write the first export that is valid and answers like torch in ONNX Runtime; a free batch axis is tried first.

    Raises:
        InvalidModel: no exporter manages, with the reason of each.
        OutputError: the destination can't be written.
    """
    graph.check_writable(destination)
    reasons: dict[Attempt, str] = {}
    for attempt in _attempts(specimen):
        try:
            with quiet():
                model = _export_once(specimen, attempt, opset)
        except (*FAILURES, InvalidModel, onnx.checker.ValidationError) as error:
            reasons[attempt] = _root_cause(error)
            continue
        graph.save_model(model, destination)
        return Imported(destination, attempt.exporter, tuple(_remarks(specimen, attempt, reasons, model)))
    said = {EXPORTER_NAMES[attempt.exporter]: reason for attempt, reason in reasons.items()}
    raise InvalidModel(
        f"{specimen.label} can't be exported to ONNX: "
        + "; ".join(f"{name} says: {reason.rstrip('.')}" for name, reason in said.items())
        + "."
    )


def _attempts(specimen: Specimen) -> list[Attempt]:
    if specimen.program is not None:
        return [Attempt("dynamo", True), Attempt("torchscript", False)]
    exporters: tuple[Exporter, ...] = ("dynamo", "torchscript")
    return [Attempt(exporter, free) for free in (True, False) if free <= specimen.free_batch for exporter in exporters]


def _export_once(specimen: Specimen, attempt: Attempt, opset: int | None) -> ir.Model:
    run = _dynamo if attempt.exporter == "dynamo" else _torchscript
    model = tidy(run(specimen, attempt.free_batch, opset), frozenset(specimen.network.state_dict()))
    if specimen.names is not None:
        model.graph.inputs[0].name, model.graph.outputs[0].name = specimen.names
    if opset is not None and graph.opset(model) != opset:
        raise InvalidModel(f"it writes opset {graph.opset(model)} where {opset} was asked for.")
    if graph.stored_bytes(model) <= graph.PROTOBUF_LIMIT:
        payload = graph.to_bytes(model)
        onnx.checker.check_model(payload, full_check=True)
        _check_answers(specimen, payload)
    return model


def _dynamo(specimen: Specimen, free_batch: bool, opset: int | None) -> ir.Model:
    if specimen.program is not None:
        exported = torch.onnx.export(specimen.program, dynamo=True, opset_version=opset, verbose=False, optimize=False)
    else:
        inputs = with_batch(specimen.inputs, 2) if free_batch else specimen.inputs
        shapes = tuple({0: "batch"} if _carries_batch(tensor, inputs) else None for tensor in inputs)
        exported = torch.onnx.export(
            specimen.network,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes if free_batch else None,
            opset_version=opset,
            verbose=False,
            # The exporter's own optimization folds BatchNormalization away; tidy doesn't.
            optimize=False,
        )
    if exported is None:
        raise InvalidModel("it returned no model.")
    return exported.model


def _torchscript(specimen: Specimen, free_batch: bool, opset: int | None) -> ir.Model:
    inputs = with_batch(specimen.inputs, 2) if free_batch else specimen.inputs
    names = _input_names(specimen)
    axes = {name: {0: "batch"} for name, tensor in zip(names, inputs, strict=True) if _carries_batch(tensor, inputs)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            specimen.network,
            inputs,
            str(path),
            dynamo=False,
            input_names=names,
            dynamic_axes=axes if free_batch else None,
            opset_version=opset,
            # The module is in eval mode; TrainingMode.EVAL would also fold BatchNormalization away.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        return graph.embedded(ir.load(path))


def _input_names(specimen: Specimen) -> list[str]:
    names = list(inspect.signature(specimen.network.forward).parameters)
    count = len(specimen.inputs)
    return names[:count] if len(names) >= count and "args" not in names else [f"input_{i}" for i in range(count)]


def with_batch(inputs: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
    """The same inputs with `size` samples; further samples are the given ones rolled along their last axis."""
    return tuple(
        torch.stack([tensor[row % len(tensor)].roll(row // len(tensor), -1) for row in range(size)])
        if _carries_batch(tensor, inputs)
        else tensor
        for tensor in inputs
    )


def _carries_batch(tensor: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> bool:
    return tensor.ndim >= 2 and len(tensor) == len(inputs[0])


def _check_answers(specimen: Specimen, payload: bytes) -> None:
    """Compare ONNX Runtime with torch on the example inputs and, where the batch axis is free, on three samples."""
    session = runtime.open_session(payload, threads=torch.get_num_threads(), optimization="basic")
    specs = runtime.input_specs(session)
    free = [not isinstance(spec.shape[0], int) for spec in specs if spec.shape]
    trials = [specimen.inputs]
    if specimen.program is None and free and all(free):
        trials = [with_batch(specimen.inputs, 1), with_batch(specimen.inputs, 3)]
    for inputs in trials:
        feed = {spec.name: tensor.detach().numpy() for spec, tensor in zip(specs, inputs, strict=True)}
        with torch.no_grad():
            expected = leaves(specimen.network(*inputs))
        found = list(runtime.run(session, feed).values())
        if specimen.comparable:
            _compare(found, expected)


def _compare(found: list[np.ndarray], expected: list[torch.Tensor]) -> None:
    if len(found) != len(expected):
        raise InvalidModel(f"its file has {len(found)} outputs where torch has {len(expected)}.")
    for array, tensor in zip(found, expected, strict=True):
        reference = tensor.detach().numpy()
        if array.shape != reference.shape:
            raise InvalidModel(f"its file answers {list(array.shape)} where torch answers {list(reference.shape)}.")
        if not array.size:
            continue
        error = np.abs(array.astype(np.float64) - reference.astype(np.float64)).max()
        scale = max(float(np.abs(reference.astype(np.float64)).max()), float(np.finfo(np.float32).tiny))
        if not error <= TOLERANCE * scale:
            raise InvalidModel(
                f"its file answers differently from torch, by {error / scale:.2g} of the output's scale."
            )


def leaves(output: object) -> list[torch.Tensor]:
    """The tensors of a module's output, in order, whatever lists, tuples and dicts they come in."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in leaves(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in leaves(value)]
    return []


def _remarks(specimen: Specimen, attempt: Attempt, reasons: dict[Attempt, str], model: ir.Model) -> Iterator[str]:
    """What the exporters that failed before this one said, and what follows for the user."""
    said = {failed.exporter: reason for failed, reason in reasons.items()}
    if attempt.exporter == "torchscript" and "dynamo" in said:
        yield f"PyTorch's new exporter failed, so TorchScript's was used: {said['dynamo']}"
    free = [failed for failed in reasons if failed.free_batch]
    if specimen.program is None and free and not attempt.free_batch:
        yield f"the batch axis is fixed at {len(specimen.inputs[0])}: {reasons[free[0]]}"
    if not specimen.comparable:
        yield "its answers were not compared with torch's: random weights give every box the same score."
    if graph.stored_bytes(model) > graph.PROTOBUF_LIMIT:
        yield "the model is over 2 GB, so its answers were not compared with torch's."


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return graph.first_sentence(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters print, warn and log; what matters of it is in their exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
