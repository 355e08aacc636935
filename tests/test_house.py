"""Guards of the house: what is packaged, what is linked, how large rooms get, and what a command may import."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[1]
ROOMS = ("passes", "calibrators", "models")
LONGEST_MODULE = 400
LONGEST_FRONT_DOOR = 40


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def modules() -> list[Path]:
    """Every module of the package, each once: the links inside darwinc/ lead to rooms that are listed themselves."""
    hall = ROOT / "darwinc"
    halls = [path for path in hall.rglob("*.py") if path.relative_to(hall).parts[0] not in ROOMS]
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted(halls + rooms)


def package_name(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "darwinc" else ("darwinc", *parts))


def test_every_package_is_listed_and_mapped() -> None:
    settings = project()["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted({package_name(path.parent) for path in modules()})
    folders = set(ROOMS) | {
        path.parent.relative_to(ROOT).as_posix() for path in modules() if path.relative_to(ROOT).parts[0] in ROOMS
    }
    mapped = {f"darwinc.{folder.replace('/', '.')}": folder for folder in folders}
    assert settings["package-dir"] == {"darwinc": "darwinc"} | mapped


def test_every_package_has_its_init() -> None:
    assert [folder for folder in {path.parent for path in modules()} if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_links_lead_to_the_rooms(room: str) -> None:
    link = ROOT / "darwinc" / room
    leads_to = link.readlink().as_posix() if link.is_symlink() else link.read_text(encoding="utf-8").strip()
    assert leads_to == f"../{room}"


def test_files_that_are_not_modules_ship_too() -> None:
    found = project()["tool"]["setuptools"]["package-data"]
    shipped = {
        path.name
        for package, patterns in found.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = {path.name for path in (ROOT / "darwinc").rglob("*.*") if path.is_file() and path.suffix != ".py"}
    assert {name for name in others - set(ROOMS) if not name.endswith((".pyc", ".so"))} <= shipped
    assert {"py.typed", "report.schema.json", "report.md.jinja", "report.html.jinja"} <= shipped


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_of_a_size_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("folder", ["darwinc", *ROOMS, "tests"])
def test_rooms_are_imported_through_the_hall(folder: str) -> None:
    bare = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            bare += [f"{path.name}: {name}" for name in names if name.split(".")[0] in ROOMS]
    assert bare == []


def test_the_front_door_is_small_and_opens_lazily() -> None:
    door = ROOT / "darwinc" / "__init__.py"
    assert len(door.read_text(encoding="utf-8").splitlines()) <= LONGEST_FRONT_DOOR
    run(
        "import darwinc, sys\n"
        "assert isinstance(darwinc.__version__, str)\n"
        "assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
        "assert callable(darwinc.compress) and isinstance(darwinc.Result, type)\n"
        "assert {'compress', 'Result', '__version__'} <= set(dir(darwinc))"
    )


def test_one_version_everywhere() -> None:
    import darwinc

    version = project()["project"]["version"]
    assert darwinc.__version__ == version
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "--help"], ["passes"]], ids=" ".join)
def test_light_commands_leave_torch_alone(arguments: list[str]) -> None:
    without_torch(arguments)


def test_inspecting_a_model_leaves_torch_alone(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 1, 1], [0.5] * 24)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 4, 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    without_torch(["inspect", str(tmp_path / "m.onnx")])


def without_torch(arguments: list[str]) -> None:
    """Run a command in a process of its own, as `python -m darwinc` would, and look what it imported."""
    run(
        "import sys\n"
        "from darwinc.cli import main\n"
        "try:\n"
        f"    main({arguments!r}, prog_name='darwinc')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
