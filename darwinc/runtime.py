"""Run a model in ONNX Runtime: sessions, what they want to be fed, and made-up feeds that they take.

A *feed* is a dict from graph-input name to array, batch included. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from darwinc.errors import InvalidModel, OutputError, UsageError
from darwinc.weight_files import outsourced

Feed = dict[str, np.ndarray[Any, Any]]
Optimization = Literal["all", "basic", "disabled"]
Kind = Literal["normal", "uniform", "wide", "first"]
Demand = Literal["runs", "finite", "varies"]

CPU = ("CPUExecutionProvider",)

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# ONNX Runtime has no common base class for its errors.
_NATIVE_ERRORS: tuple[type[Exception], ...] = (
    native.EPFail,
    native.EngineError,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
)
_RUN_ERRORS: tuple[type[Exception], ...] = (*_NATIVE_ERRORS, ValueError)

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "object",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

# 64 suits most image models; recurrent and detection models ask for the others. The batch is tried first at 2, which
# shows that the first axis really is free.
_FREE_SIZES = (64, 32, 224, 512, 1, 16, 128)
_INTEGERS_BELOW = (8, 2)


@dataclass(frozen=True)
class InputSpec:
    """One graph input: its name, NumPy type, and shape with a symbol or None on each free axis."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        axes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"'{self.name}' {self.dtype} [{axes}]"


def open_session(
    model: bytes | Path | ir.Model,
    *,
    threads: int = 1,
    providers: Sequence[str] = CPU,
    optimization: Optimization = "all",
    label: str | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A quiet session whose threads don't spin between runs; a path also finds external data beside the file.

    `label` is what messages call the model: by default its path, or "the model in memory". With `profile`, how the
    name of a file begins, the session notes what each node takes until its `end_profiling`.

    A model in memory of any size is taken with its weights in files, mapped into memory and not rearranged for speed:
    such a session opens fast and holds little, and is no measure of latency.

    Raises InvalidModel when ONNX Runtime refuses the model, UsageError when a provider isn't there or doesn't start,
    OutputError when there is no room for temporary files.
    """
    _require_providers(providers)
    if isinstance(model, Path) and not model.is_file():
        raise InvalidModel(f"{model} is not a file: give the path of an ONNX model")
    label = label or (str(model) if isinstance(model, Path) else "the model in memory")
    options = _options(threads, optimization)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not isinstance(model, ir.Model):
        return _started(model, options, providers, label)
    # On Windows a file that a session has mapped can't be removed before the session is.
    with tempfile.TemporaryDirectory(prefix="darwinc-", ignore_cleanup_errors=True) as folder:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", Path(folder).resolve().anchor
        )
        try:
            skeleton = outsourced(model, Path(folder).resolve())
        except OSError as error:
            raise OutputError(
                f"{folder} can't take the temporary files that a check in ONNX Runtime needs ({error.strerror}): make "
                "room, or name another folder in TMPDIR."
            ) from error
        return _started(skeleton, options, providers, label)


def _started(
    model: bytes | Path, options: onnxruntime.SessionOptions, providers: Sequence[str], label: str
) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model, sess_options=options, providers=list(providers)
            )
        except _NATIVE_ERRORS as error:
            raise InvalidModel(f"ONNX Runtime can't load {label}: {one_sentence(error)}") from error
    if session.get_providers()[0] != providers[0]:
        raise UsageError(
            f"{providers[0]} was asked for but doesn't start on this machine (ONNX Runtime fell back to "
            f"{session.get_providers()[0]}): install its libraries, or run on the CPU"
        )
    return session


def _options(threads: int, optimization: Optimization) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _LEVELS[optimization]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _require_providers(providers: Sequence[str]) -> None:
    available = onnxruntime.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing or not providers:
        raise UsageError(
            f"this ONNX Runtime has no provider {', '.join(missing) or '(none was named)'}: "
            f"choose from {', '.join(available)}"
        )


def one_sentence(error: Exception) -> str:
    """The cause in an ONNX Runtime error, without its codes, paths and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"^Load model from .*? failed:\s*", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", text).strip().rstrip(".")


def run(session: onnxruntime.InferenceSession, feed: Feed) -> dict[str, Any]:
    """Every output by name (an array, or a list for sequence outputs).

    Raises InvalidModel when ONNX Runtime stops: the feed doesn't fit, or an operator fails.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feed), strict=True))
    except _RUN_ERRORS as error:
        shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in feed.items())
        raise InvalidModel(f"ONNX Runtime can't run the model on {shapes}: {one_sentence(error)}") from error


def input_specs(session: onnxruntime.InferenceSession) -> list[InputSpec]:
    """What has to be fed, in the graph's order; initializers that are also inputs are left out.

    Raises InvalidModel for an input that is no tensor, or of a type that NumPy doesn't have.
    """
    return [_spec(node) for node in session.get_inputs()]


def _spec(node: onnxruntime.NodeArg) -> InputSpec:
    match = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if match is None or match[1] not in _DTYPES:
        raise InvalidModel(
            f"input '{node.name}' is a {node.type}, but only tensors of NumPy's types can be fed: "
            "change the model's input type, or cut the graph after it"
        )
    # Old exporters write 0 or -1 for an axis of any size.
    shape = tuple(None if isinstance(size, int) and size < 1 else size for size in node.shape)
    return InputSpec(node.name, np.dtype(_DTYPES[match[1]]), shape)


def pin(inputs: Sequence[InputSpec], feed: Mapping[str, np.ndarray[Any, Any]]) -> list[InputSpec]:
    """The same inputs with every free axis but a free first one set to its size in `feed`."""
    return [
        replace(
            spec,
            shape=tuple(
                size if isinstance(size, int) or axis == 0 else feed[spec.name].shape[axis]
                for axis, size in enumerate(spec.shape)
            ),
        )
        for spec in inputs
    ]


def made_up_feed(
    source: onnxruntime.InferenceSession | Sequence[InputSpec],
    *,
    seed: int,
    batch: int = 1,
    free: int = 64,
    kind: Kind = "normal",
    integers_below: int = 8,
) -> Feed:
    """Random inputs of the right types and shapes.

    A free first axis, and every other axis that goes by the same symbol, is `batch` long; other free axes are `free`.
    Floats are standard `normal`, `uniform` in [0, 1), `wide` (normal times 100, for models of raw samples or bytes), or
    normal in the `first` input and zero in the others (masks and states). Integers lie in [0, integers_below), bytes in
    the whole non-negative range of their type; strings are empty.
    """
    specs = list(source) if isinstance(source, Sequence) else input_specs(source)
    generator = np.random.default_rng(seed)
    symbols = {str(spec.shape[0]) for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    feed = {
        spec.name: made_up_array(spec.dtype, _sizes(spec, symbols, batch, free), generator, kind, integers_below)
        for spec in specs
    }
    if kind == "first":
        feed.update({spec.name: np.zeros_like(feed[spec.name]) for spec in specs[1:] if spec.dtype.kind == "f"})
    return feed


def _sizes(spec: InputSpec, batch_symbols: set[str], batch: int, free: int) -> tuple[int, ...]:
    return tuple(
        size if isinstance(size, int) else batch if axis == 0 or size in batch_symbols else free
        for axis, size in enumerate(spec.shape)
    )


def made_up_array(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    generator: np.random.Generator,
    kind: Kind = "normal",
    integers_below: int = 8,
) -> np.ndarray[Any, Any]:
    """One random tensor, as `made_up_feed` draws them."""
    if dtype.kind == "f":
        draw = generator.random(shape) if kind == "uniform" else generator.standard_normal(shape)
        return np.asarray(draw * 100 if kind == "wide" else draw, dtype)
    if dtype.kind == "b":
        return np.asarray(generator.random(shape) < 0.5)
    if dtype.kind == "O":
        return np.full(shape, "", dtype)
    high = int(np.iinfo(dtype).max) + 1 if dtype.itemsize == 1 else integers_below
    return np.asarray(generator.integers(0, high, shape), dtype)


def usable_feed(
    session: onnxruntime.InferenceSession,
    *,
    seed: int = 0,
    batches: Sequence[int] = (2, 1),
    demand: Demand = "varies",
) -> Feed:
    """A made-up feed that the model really takes: several sizes for the free axes and kinds of numbers are tried.

    `demand`: the model only has to run; to answer in finite numbers too; or, the default, also to answer differently
    to different inputs. Raises InvalidModel, with the last reason, when nothing serves.
    """
    specs = input_specs(session)
    reason = "it has no inputs" if not specs else ""
    for options in _candidates(specs, batches) if specs or demand != "varies" else ():
        feed = made_up_feed(specs, seed=seed, **options)
        try:
            reason = _complaint(session, feed, made_up_feed(specs, seed=seed + 1, **options), demand)
        except InvalidModel as error:
            reason = str(error)
            continue
        if not reason:
            return feed
    raise InvalidModel(f"no made-up input serves this model: {reason}; give real data with --data")


def _candidates(specs: Sequence[InputSpec], batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    free_first = any(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)
    free_later = any(not isinstance(size, int) for spec in specs for size in spec.shape[1:])
    types = {spec.dtype.kind for spec in specs}
    kinds = ("normal", "uniform", "wide") + (("first",) if len(specs) > 1 else ())
    for free, batch, below, kind in itertools.product(
        _FREE_SIZES if free_later else _FREE_SIZES[:1],
        batches if free_first else batches[:1],
        _INTEGERS_BELOW if types & {"i", "u"} else _INTEGERS_BELOW[:1],
        kinds if "f" in types else kinds[:1],
    ):
        yield {"free": free, "batch": batch, "integers_below": below, "kind": kind}


def _complaint(session: onnxruntime.InferenceSession, feed: Feed, other: Feed, demand: Demand) -> str:
    """Why the outputs on `feed` don't meet the demand; empty when they do."""
    outputs = run(session, feed)
    if demand == "runs":
        return ""
    if not all(_finite(value) for value in outputs.values()):
        return "its outputs hold NaN or infinity"
    if demand == "varies" and all(_same(value, run(session, other)[name]) for name, value in outputs.items()):
        return "its outputs don't depend on its inputs"
    return ""


def _finite(value: object) -> bool:
    return not isinstance(value, np.ndarray) or value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _same(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and bool(np.array_equal(first, second))
    return bool(first == second)


def inputs_of(model: ir.Model) -> list[InputSpec]:
    """The graph inputs that a feed must give."""
    return [
        InputSpec(
            str(value.name),
            np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32),
            tuple(_sizes_of(value)),
        )
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]


def _sizes_of(value: ir.Value) -> Iterator[int | str | None]:
    for size in value.shape or ():
        yield size if isinstance(size, int) else size.value
