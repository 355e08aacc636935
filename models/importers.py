"""Bring a model to ONNX: from torchvision, from a factory function, or from an exported program (`.pt2`)."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from darwinc.errors import InvalidModel, UsageError
from darwinc.graph import first_sentence
from darwinc.models.exporting import FAILURES, Imported, Specimen, export, leaves

__all__ = ["Imported", "import_model"]

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

IMAGE_SIZE = 224
DETECTION_SIZE = 320
FLOW_SIZE = 128
VIDEO_FRAMES = 16


def import_model(
    source: str,
    destination: Path,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    opset: int | None = None,
) -> Imported:
    """Write `source` as ONNX to `destination`, by PyTorch's new exporter or, where that fails, TorchScript's.

    Args:
        source: `torchvision:NAME` (random weights: nothing is downloaded), `package.module:factory` (a callable without
            arguments that returns a Module, or a Module and its example inputs; the current directory is importable),
            or the path of a `.pt2` exported program.
        destination: the file to write, whole or not at all; one file where the model is under 2 GB.
        shape: the input's shape, batch included; needed where the source doesn't say.
        seed: of the random weights.
        opset: the ONNX opset to write; the exporter's own choice where None.

    Raises:
        UsageError: no such source, or it needs a shape.
        InvalidModel: the model can't be built, isn't safe to load, or can't be exported.
        OutputError: the destination can't be written.
    """
    if shape is not None and (not shape or min(shape) < 1):
        raise UsageError(
            f"the shape {shape} is not one of an input; give positive sizes with the batch first, such as 1,3,224,224."
        )
    with _importable(Path.cwd()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        specimen = _find(source, shape)
        return export(specimen, destination, opset=opset)


def _find(source: str, shape: tuple[int, ...] | None) -> Specimen:
    suffix = Path(source).suffix.lower()
    if suffix == ".pt2":
        return _from_program(source, shape)
    if suffix == ".onnx":
        raise UsageError(f"{source} is ONNX already; give it to darwinc compress as it is.")
    if suffix in PICKLES and ":" not in source:
        raise UsageError(
            f"{source} is a pickle, which darwinc never loads; give a factory (package.module:function) or a .pt2."
        )
    kind, colon, name = source.partition(":")
    if not (kind and colon and name):
        raise UsageError(f"{source!r} is no source; give torchvision:NAME, package.module:factory, or a .pt2 file.")
    if kind == "torchvision":
        return _from_torchvision(name, shape)
    return _from_factory(source, kind, name, shape)


def _from_program(source: str, shape: tuple[int, ...] | None) -> Specimen:
    from darwinc.models.exported_program import open_program

    if shape is not None:
        raise UsageError(f"{source} has its input shapes inside; leave the shape out.")
    if not Path(source).is_file():
        raise UsageError(f"there is no file {source}; give the path of a .pt2 exported program.")
    opened = open_program(Path(source))
    return Specimen(source, opened.program.module(), opened.inputs, program=opened.program)


def _from_factory(source: str, module_name: str, attribute: str, shape: tuple[int, ...] | None) -> Specimen:
    made = _call(source, _resolve(source, module_name, attribute))
    network, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"{source} returned {type(network).__name__} where a torch.nn.Module was expected; "
            "return a Module, or a Module and its example inputs."
        )
    if shape is None and inputs is None:
        raise UsageError(f"{source} says nothing about its input; give a shape, or return (module, example_inputs).")
    tensors = (torch.randn(shape),) if shape is not None else _as_tensors(source, inputs)
    return Specimen(source, network.eval(), tensors)


def _as_tensors(source: str, inputs: object) -> tuple[torch.Tensor, ...]:
    items = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    tensors = tuple(item for item in items if isinstance(item, torch.Tensor)) if isinstance(items, tuple | list) else ()
    if not isinstance(items, tuple | list) or not tensors or len(tensors) != len(items):
        raise UsageError(f"the example inputs of {source} are not tensors; return a tensor, or a tuple of tensors.")
    return tensors


def _resolve(source: str, module_name: str, attribute: str) -> Callable[[], object]:
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{source} needs the module {error.name!r}, which is not installed nor in the current directory."
        ) from error
    except AttributeError as error:
        raise UsageError(f"{source} can't be found: {first_sentence(error)}") from error
    except (*FAILURES, SyntaxError) as error:
        raise InvalidModel(f"{source} can't be imported: {first_sentence(error)}") from error
    if not callable(found):
        raise UsageError(
            f"{source} is {type(found).__name__}, which can't be called; name a function or class without arguments."
        )
    return cast("Callable[[], object]", found)


def _call(source: str, factory: Callable[[], object]) -> object:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UsageError(f"{source} can't be called without arguments: {first_sentence(error)}") from error
    except ValueError:
        pass  # a builtin without a signature: calling it will tell
    try:
        return factory()
    except FAILURES as error:
        raise InvalidModel(f"{source} failed while it built the model: {first_sentence(error)}") from error


def _from_torchvision(name: str, shape: tuple[int, ...] | None) -> Specimen:
    from torchvision import models

    source = f"torchvision:{name}"
    try:
        builder = models.get_model_builder(name)
    except ValueError as error:
        close = difflib.get_close_matches(name, models.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "torchvision.models.list_models() names them all."
        raise UsageError(f"torchvision has no model {name!r}; {hint}") from error
    family = builder.__module__.removeprefix("torchvision.models.").partition(".")[0]
    network = _call(source, lambda: builder(**_torchvision_options(builder, name, family)))
    if not isinstance(network, nn.Module):
        raise InvalidModel(f"{source} is not a torch.nn.Module.")
    shapes = _torchvision_shapes(name, family) if shape is None else [shape] * (2 if family == "optical_flow" else 1)
    inputs = tuple(torch.randn(size) for size in shapes)
    if family == "detection":
        return Specimen(source, OneImageDetector(network).eval(), inputs, free_batch=False, comparable=False)
    return Specimen(source, network.eval(), inputs)


def _torchvision_options(builder: Callable[..., Any], name: str, family: str) -> dict[str, Any]:
    """Arguments that keep every weight random and quantised models in float."""
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None
    if name in ("inception_v3", "googlenet"):
        options["init_weights"] = True
    if family == "quantization":
        options["quantize"] = False
    return options


def _torchvision_shapes(name: str, family: str) -> list[tuple[int, ...]]:
    """The input shapes that the model's published preprocessing leads to; reading it downloads nothing."""
    from torchvision import models

    if family == "optical_flow":
        return [(1, 3, FLOW_SIZE, FLOW_SIZE)] * 2
    if family == "detection":
        return [(1, 3, DETECTION_SIZE, DETECTION_SIZE)]
    published = list(models.get_model_weights(name))
    preset = published[-1].transforms() if published else None
    size = list(getattr(preset, "crop_size", None) or getattr(preset, "resize_size", None) or [IMAGE_SIZE])
    height_and_width = (size[0], size[-1])
    return [(1, 3, VIDEO_FRAMES, *height_and_width) if family == "video" else (1, 3, *height_and_width)]


class OneImageDetector(nn.Module):
    """A torchvision detector between tensors: image [1, 3, H, W] to boxes, labels, scores and what else it finds."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return leaves(self.detector([image[0]]))


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in `folder` can be imported meanwhile, after what is installed."""
    entry = str(folder)
    sys.path.append(entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
