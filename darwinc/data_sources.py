"""Where samples come from when they aren't image files: NumPy files, ONNX tensors, the user's function, datasets."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from darwinc.data_arrays import LABEL_NAMES, Array, Source, by_input, from_feeds
from darwinc.errors import InvalidData
from darwinc.runtime import Feed, InputSpec
from darwinc.user_code import current_folder_importable, named

DATASET = "torchvision:"
DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")

_MOST_BYTES = 2 * 2**30
# A damaged archive may fail in the zip reader, in the decompressor, or in NumPy.
_UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    TypeError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_array(path: Path) -> Array:
    """An `.npy` file, mapped rather than read. Raises InvalidData when it isn't one, or holds Python objects."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise InvalidData(f"{path} can't be read as a NumPy array without Python objects: {error}") from error
    if not isinstance(loaded, np.ndarray):
        raise InvalidData(f"{path} is an archive, not one array: name it .npz")
    return loaded


def load_archive(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz` file by name. Raises InvalidData when it isn't one, or holds Python objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise InvalidData(f"{path} can't be read as a NumPy archive without Python objects: {error}") from error


def tensor_folders(folder: Path) -> list[Path]:
    """The folder itself if it holds `input_*.pb`, else those of its `test_data_set_*` that do, in natural order."""
    candidates = [folder, *sorted(folder.glob("test_data_set_*"), key=lambda path: _number(path.name))]
    return [path for path in candidates if any(path.glob("input_*.pb"))]


def _number(name: str) -> int:
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else 0


def load_tensors(folder: Path, inputs: Sequence[InputSpec]) -> Feed:
    """ONNX's `input_0.pb`, `input_1.pb`, ... as a feed: by tensor name where all names fit, else by position."""
    paths = sorted(folder.glob("input_*.pb"), key=lambda path: _number(path.stem))
    tensors = [_tensor(path) for path in paths]
    named = dict(tensors)
    if all(spec.name in named for spec in inputs):
        return {spec.name: named[spec.name] for spec in inputs}
    if len(tensors) != len(inputs):
        raise InvalidData(
            f"{folder} holds {len(tensors)} tensors, but the model has {len(inputs)} inputs "
            f"({', '.join(map(str, inputs))}): give one input_K.pb for each"
        )
    return {spec.name: array for spec, (_, array) in zip(inputs, tensors, strict=True)}


def _tensor(path: Path) -> tuple[str, Array]:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return tensor.name, numpy_helper.to_array(tensor)
    except (DecodeError, OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidData(f"{path} can't be read as an ONNX tensor: {error}") from error


def call(
    spec: str, inputs: Sequence[InputSpec], limit: int | None, most_bytes: int = _MOST_BYTES
) -> tuple[Source, Array | None]:
    """Samples and labels from `package.module:callable`: arrays, tuples (x, y) or dicts, single samples or batches.

    Raises InvalidData for a module or a name that isn't there, items that don't fit, and whatever the callable raises.
    """
    with current_folder_importable():
        feeds, labels, warnings = _collect(_guarded(spec), inputs, spec, limit, most_bytes)
    source = from_feeds(feeds, inputs, spec)
    source.warnings.extend(warnings)
    return source, np.concatenate(labels) if labels else None


def _guarded(spec: str) -> Iterator[object]:
    """The callable's items. It's the user's code, so anything may come out of it: all of it is the data's fault."""
    try:
        yield from _items(spec)
    except InvalidData:
        raise
    except Exception as error:
        raise InvalidData(f"--data {spec} raised {type(error).__name__}: {error}") from error


def _items(spec: str) -> Iterable[object]:
    try:
        made = named(spec)
    except (ImportError, AttributeError) as error:
        raise InvalidData(f"--data {spec} can't be imported ({error}): give package.module:callable") from error
    items = made() if callable(made) else made
    if isinstance(items, Iterable):
        return items
    if isinstance(items, Sized) and hasattr(items, "__getitem__"):
        return (items[index] for index in range(len(items)))
    raise InvalidData(f"{spec} returned a {type(items).__name__}: return an iterable of arrays, tuples or dicts")


def _collect(
    items: Iterable[object], inputs: Sequence[InputSpec], where: str, limit: int | None, most_bytes: int
) -> tuple[list[Feed], list[Array], list[str]]:
    feeds: list[Feed] = []
    labels: list[Array] = []
    count = size = 0
    for item in islice(items, limit):
        feed, label = _item(item, inputs, where)
        feeds.append(feed)
        labels.extend([] if label is None else [np.atleast_1d(label)])
        first = inputs[0]
        count += len(feed[first.name]) if feed[first.name].ndim == len(first.shape) > 0 else 1
        size += sum(array.nbytes for array in feed.values())
        if size > most_bytes:
            stopped = f"{where} gives more than {most_bytes / 2**30:.3g} GiB: only the first {count} samples are used"
            return feeds, labels, [stopped]
        if limit is not None and count >= limit:
            break
    return feeds, labels, []


def _item(item: object, inputs: Sequence[InputSpec], where: str) -> tuple[Feed, Array | None]:
    if isinstance(item, Mapping):
        arrays = {str(name): _array(value, where) for name, value in item.items()}
        label = next((arrays[name] for name in LABEL_NAMES if name in arrays and not _is_input(name, inputs)), None)
        return by_input(arrays, inputs, where), label
    parts = list(item) if isinstance(item, tuple | list) else [item]
    if len(parts) not in (len(inputs), len(inputs) + 1):
        raise InvalidData(
            f"{where} gives tuples of {len(parts)}, but the model has {len(inputs)} inputs: give "
            f"{len(inputs)}, or {len(inputs) + 1} with the label last"
        )
    feed = {spec.name: _array(part, where) for spec, part in zip(inputs, parts, strict=False)}
    return feed, _array(parts[-1], where) if len(parts) > len(inputs) else None


def _is_input(name: str, inputs: Sequence[InputSpec]) -> bool:
    return any(spec.name == name for spec in inputs)


def _array(value: Any, where: str) -> Array:
    """A NumPy array from an array, a number or a tensor of any framework that can leave its graph and device."""
    for step in ("detach", "cpu"):
        value = getattr(value, step)() if hasattr(value, step) else value
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise InvalidData(f"{where} gives a {type(value).__name__}: give arrays of numbers")
    return array


def load_dataset(spec: str) -> tuple[Array, Array]:
    """Images as bytes [N, H, W] or [N, H, W, 3] and labels [N] from `torchvision:NAME?root=FOLDER&split=train|test`."""
    name, options = _dataset(spec)
    if name not in DATASETS or set(options) != {"root", "split"} or options["split"] not in ("train", "test"):
        raise InvalidData(
            f"'{spec}' isn't a dataset: give torchvision:NAME?root=FOLDER&split=train, with NAME one of "
            f"{', '.join(DATASETS)} and split train or test"
        )
    root = Path(options["root"]).expanduser()
    if name.startswith("CIFAR"):
        return _cifar(name, root, options["split"] == "train")
    prefix = "train" if options["split"] == "train" else "t10k"
    images, labels = (_idx(name, root, f"{prefix}-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
    return images, labels.astype(np.int64)


def rooted_dataset(spec: str) -> str:
    """The same dataset from any working directory."""
    name, options = _dataset(spec)
    root = Path(options["root"]).expanduser().absolute()
    return f"{DATASET}{name}?{urlencode(options | {'root': str(root)})}"


def _dataset(spec: str) -> tuple[str, dict[str, str]]:
    name, _, query = spec.removeprefix(DATASET).partition("?")
    return name, {"root": "data", "split": "train", **dict(parse_qsl(query))}


def _cifar(name: str, root: Path, train: bool) -> tuple[Array, Array]:
    # torchvision opens these files only after their digests are found to be the published ones.
    from torchvision import datasets

    try:
        dataset = getattr(datasets, name)(root=str(root), train=train, download=False)
    except RuntimeError as error:
        raise InvalidData(f"{name} isn't in {root}, or is damaged ({error}): give its place as ?root=FOLDER") from error
    return np.asarray(dataset.data), np.asarray(dataset.targets, np.int64)


def _idx(name: str, root: Path, stem: str) -> Array:
    """One idx file of bytes, gzipped or not, from torchvision's `root/NAME/raw` or from root itself."""
    for path in (folder / f"{stem}{suffix}" for folder in (root / name / "raw", root) for suffix in ("", ".gz")):
        if path.is_file():
            break
    else:
        raise InvalidData(f"{name} isn't in {root} ({stem} is missing): give its place as ?root=FOLDER")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rank = content[3]
        sizes = np.frombuffer(content, ">u4", rank, 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(tuple(int(size) for size in sizes))
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise InvalidData(f"{path} is damaged ({error}): fetch it again") from error
