"""Open a `.pt2` exported program from a stranger without running anything that it holds.

`torch.export.load` isn't safe on its own: it unpickles the sample inputs, pickled weights and opaque constants, loads
compiled libraries, evaluates the text of shape expressions and of guards, imports modules that tree specifications
name, and pastes names into generated source. So a copy is made for it that holds none of this: the raw tensors, and a
graph of which every string has been checked against what it may be. Whatever can't do without is refused.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveWriter

from darwinc.errors import InvalidModel
from darwinc.models.exporting import FAILURES, quiet

Json = Any

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")

PLAIN = re.compile(r"(?!.*\.__\w+__|__\w+__\.)[\w.]*", re.ASCII)
"""What may be pasted into generated source: identifiers, and parameter names such as `layer1.0.weight`, but no path
through a special attribute such as `__class__.forward`."""

OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.(?!from_file\b|save\b)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(add|sub|mul|neg|floordiv|truediv|mod|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt|sum)",
    re.ASCII,
)

EXPRESSION_CALL = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Abs|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Piecewise|ExprCondPair|ceiling|floor|FloorDiv"
    r"|ModularIndexing|Where|PythonMod|CleanDiv|CeilDiv|CeilToInt|FloorToInt|LShift|RShift|PowByNatural|FloatPow"
    r"|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
)
EXPRESSION_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.UnaryOp, ast.USub, ast.BinOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
)  # fmt: skip

TREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})

FREE_TEXT = frozenset({"as_string", "as_strings", "torch_version"})
"""Keys whose strings only ever appear quoted."""

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""The format's numbers for the types of inputs."""

CPU = {"type": "cpu", "index": None}

DEFAULT_SIZE = 2
"""What a free axis without a hint is taken to be."""


@dataclass(frozen=True)
class OpenedProgram:
    """The program, on the CPU, and made-up inputs of the shapes and types that it was exported for."""

    program: torch.export.ExportedProgram
    inputs: tuple[torch.Tensor, ...]


def open_program(path: Path) -> OpenedProgram:
    """Read a `.pt2` without unpickling, importing or evaluating anything of it.

    Raises:
        InvalidModel: it isn't an exported program of today's format, needs what isn't safe to load, or was exported in
            training mode.
    """
    try:
        records = _records(path)
        model = _checked_model(records[MODEL])
        configs = {name: _checked_config(records[name]) for name in CONFIGS}
        inputs = _made_up_inputs(model)
        program = _load(_rebuilt(records, model, configs, inputs))
    except InvalidModel as error:
        raise InvalidModel(f"{path} was not loaded: {error}") from error
    except (*FAILURES, zipfile.BadZipFile, EOFError, SyntaxError) as error:
        raise InvalidModel(
            f"{path} is not an exported program that this PyTorch reads; write it with torch.export.save "
            f"of PyTorch 2.9 or later ({_line(error)})."
        ) from error
    return OpenedProgram(program, inputs)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _records(path: Path) -> dict[str, bytes]:
    """The archive's records by name, without the folder that all of them are in."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise InvalidModel("its records are compressed, which torch.export.save never does.")
        names = {entry.filename.partition("/")[2]: entry.filename for entry in archive.infolist()}
        if len(names) != len(archive.infolist()):
            raise InvalidModel("two of its records have one name.")
        if MODEL not in names or not set(CONFIGS) <= set(names):
            raise InvalidModel(
                f"it holds no {MODEL} with raw weights; older formats are pickles: save it again with "
                "torch.export.save of PyTorch 2.9 or later."
            )
        tensors = ("data/weights/weight_", "data/constants/tensor_")
        wanted = [name for name in names if name in (MODEL, *CONFIGS) or name.startswith(tensors)]
        return {name: archive.read(names[name]) for name in wanted}


def _checked_config(payload: bytes) -> Json:
    """The table of raw tensors; refuses what would be unpickled."""
    config = json.loads(payload)
    for name, entry in config["config"].items():
        path = str(entry["path_name"])
        if entry["use_pickle"] or entry["tensor_meta"] is None or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise InvalidModel(f"its {name!r} is a pickled object, which darwinc never loads; keep only plain tensors.")
    return _checked(config)


def _checked_model(payload: bytes) -> Json:
    model = _checked(json.loads(payload))
    for node in model["graph_module"]["graph"]["nodes"]:
        for argument in node["inputs"]:
            if argument["name"] in ("training", "train") and argument["arg"].get("as_bool") is True:
                raise InvalidModel("it was exported in training mode; call .eval() before torch.export.export.")
    return model


def _checked(value: Json, key: str = "") -> Json:
    """A copy in which every string is harmless, stack traces and guards are gone, and every device is the CPU."""
    if isinstance(value, dict):
        if set(value) == set(CPU):
            return dict(CPU)
        for name in value:
            _require(PLAIN, str(name), "name")
        if any(name.startswith(("as_custom_obj", "custom_obj")) and held for name, held in value.items()):
            raise InvalidModel("it holds a custom object, which could only be unpickled; keep only plain tensors.")
        kept = {name: held for name, held in value.items() if name not in ("metadata", "guards_code")}
        emptied: dict[str, Json] = {"metadata": {}, "guards_code": []}
        return {name: _checked(held, name) for name, held in kept.items()} | {
            name: empty for name, empty in emptied.items() if name in value
        }
    if isinstance(value, list):
        return [_checked(item, key) for item in value]
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _check_text(text: str, key: str) -> None:
    if key in FREE_TEXT:
        return
    if key in ("target", "as_operator"):
        _require(OPERATOR, text, "operator")
    elif key == "expr_str":
        _check_expression(text)
    elif key in ("in_spec", "out_spec"):
        _check_tree(json.loads(text)[1])
    else:
        _require(PLAIN, text, "name")


def _require(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise InvalidModel(f"the {what} {text[:60]!r} in its graph is none that is safe to load.")


def _check_expression(text: str) -> None:
    """A shape expression may call the functions of symbolic arithmetic on numbers and symbols; torch evaluates it."""
    refusal = InvalidModel(f"the shape expression {text[:60]!r} in its graph is not arithmetic on symbols.")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError) as error:
        raise refusal from error
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    symbols = {id(call.args[0]) for call in called.values() if _is_symbol(call)}
    for node in ast.walk(tree):
        if not isinstance(node, EXPRESSION_NODES):
            raise refusal
        if isinstance(node, ast.Name) and (not EXPRESSION_CALL.fullmatch(node.id) or id(node) not in called):
            raise refusal
        if (
            isinstance(node, ast.Constant)
            and not isinstance(node.value, bool | int | float)
            and id(node) not in symbols
        ):
            raise refusal


def _is_symbol(call: ast.Call) -> bool:
    """Is it `Symbol('s0', ...)`? Only there may a string stand: others evaluate the strings that they are given."""
    if not (isinstance(call.func, ast.Name) and call.func.id == "Symbol" and call.args):
        return False
    name = call.args[0]
    return isinstance(name, ast.Constant) and isinstance(name.value, str) and name.value.isidentifier()


def _check_tree(tree: Json) -> None:
    """A tree specification may hold plain containers with plain keys; others make torch import modules."""
    context = json.loads(tree["context"]) if tree["context"] is not None else None
    keys = context if isinstance(context, list) else [] if context is None else [context]
    if tree["type"] not in TREE_TYPES or not all(isinstance(key, str | int) for key in keys):
        raise InvalidModel(f"its inputs or outputs come in a {tree['type']!r}; use tensors, tuples, lists and dicts.")
    for key in keys:
        _require(PLAIN, str(key), "key")
    for child in tree["children_spec"]:
        _check_tree(child)


def _made_up_inputs(model: Json) -> tuple[torch.Tensor, ...]:
    """Random tensors of the shapes and types of the user's inputs; free axes take the sizes they were exported with."""
    return tuple(_made_up(meta) for meta in _input_metas(model))


def _input_metas(model: Json) -> Iterator[Json]:
    values = model["graph_module"]["graph"]["tensor_values"]
    for spec in model["graph_module"]["signature"]["input_specs"]:
        if "user_input" in spec:
            argument = spec["user_input"]["arg"]
            if "as_tensor" not in argument:
                raise InvalidModel("one of its inputs is not a tensor; export it with tensor inputs only.")
            yield values[argument["as_tensor"]["name"]]


def _made_up(meta: Json) -> torch.Tensor:
    shape = [size["as_int"] if "as_int" in size else _hint(size["as_expr"]) for size in meta["sizes"]]
    dtype = DTYPES[meta["dtype"]]
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _hint(expression: Json) -> int:
    hint = expression.get("hint")
    return int(hint["as_int"]) if hint else DEFAULT_SIZE


def _rebuilt(
    records: dict[str, bytes], model: Json, configs: dict[str, Json], inputs: tuple[torch.Tensor, ...]
) -> dict[str, bytes]:
    """The archive's records with the checked texts in place of the given ones, and our own sample inputs."""
    samples = io.BytesIO()
    torch.save((inputs, {}), samples)
    texts = {MODEL: model, **configs}
    return records | {name: json.dumps(text).encode() for name, text in texts.items()} | {SAMPLES: samples.getvalue()}


def _load(records: dict[str, bytes]) -> torch.export.ExportedProgram:
    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder) / "model.pt2")
        with PT2ArchiveWriter(copy) as writer:
            for name, payload in records.items():
                writer.write_bytes(name, payload)
        with quiet():
            return torch.export.load(copy)
