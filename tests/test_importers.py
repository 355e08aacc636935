"""Importers: what they write answers like torch, and strangers' files run nothing."""

from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from darwinc import graph, runtime
from darwinc.errors import InvalidModel, OutputError, UsageError
from darwinc.models import exporting
from darwinc.models.exported_program import open_program
from darwinc.models.exporting import with_batch
from darwinc.models.importers import import_model
from darwinc.models.lenet import lenet_mnist

FACTORIES = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        return self.head(self.drop(torch.relu(self.norm(self.conv(image))).mean((2, 3))))


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(4, 6) @ torch.ones(6, 2)


class DataDependent(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x * 3


class TwoInputs(nn.Module):
    def forward(self, left, right):
        return {"sum": left + right, "parts": [left * right]}


def bare():
    return Net()


def with_inputs():
    return Net(), torch.randn(1, 3, 10, 12)


def two():
    return TwoInputs(), (torch.randn(1, 4), torch.randn(1, 4))


def fixed():
    return FixedBatch(), (torch.randn(4, 6),)


def branching():
    return DataDependent(), torch.randn(2, 3)


def number():
    return 7


def needs(width):
    return Net()


def broken():
    raise ValueError("no such layer")


def odd_inputs():
    return Net(), ["image"]


constant = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of factories in the current directory."""
    name = f"factories_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def answers(path: Path, *arrays: np.ndarray) -> list[np.ndarray]:
    session = runtime.open_session(path)
    feed = {spec.name: array for spec, array in zip(runtime.input_specs(session), arrays, strict=True)}
    return list(runtime.run(session, feed).values())


def first_axis(path: Path) -> object:
    return runtime.input_specs(runtime.open_session(path))[0].shape[0]


def test_a_factory_becomes_one_valid_file_that_answers_like_torch(factories: str, tmp_path: Path) -> None:
    destination = tmp_path / "out" / "net.onnx"
    destination.parent.mkdir()
    imported = import_model(f"{factories}:with_inputs", destination, seed=5)
    assert (imported.path, imported.exporter, imported.warnings) == (destination, "dynamo", ())
    assert list(destination.parent.iterdir()) == [destination]
    onnx.checker.check_model(str(destination), full_check=True)
    torch.manual_seed(5)
    network = sys.modules[factories].bare().eval()
    images = torch.randn(7, 3, 10, 12)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(answers(destination, images.numpy())[0], expected, atol=1e-5)


def test_weights_keep_their_names_and_batch_norm_its_statistics(factories: str, tmp_path: Path) -> None:
    import_model(f"{factories}:with_inputs", tmp_path / "net.onnx")
    model = graph.load_model(tmp_path / "net.onnx")
    floats = {name for name, tensor in graph.constants(model).items() if tensor.dtype.is_floating_point()}
    norm = {f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    assert floats == {"conv.weight", "head.weight", "head.bias"} | norm
    assert [node.op_type for node in model.graph if node.op_type not in ("Reshape", "Gemm", "ReduceMean")] == [
        "Conv",
        "BatchNormalization",
        "Relu",
    ]
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


def test_the_seed_decides_the_weights_and_leaves_torch_alone(factories: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    paths = [tmp_path / f"{i}.onnx" for i in range(3)]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        import_model(f"{factories}:bare", path, shape=(1, 3, 10, 12), seed=seed)
    first, same, other = (path.read_bytes() for path in paths)
    assert first == same
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)
    assert str(tmp_path) not in sys.path


def test_several_inputs_share_a_free_batch_and_nested_outputs_stay_in_order(factories: str, tmp_path: Path) -> None:
    import_model(f"{factories}:two", tmp_path / "two.onnx")
    left, right = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    total, product = answers(tmp_path / "two.onnx", left, right)
    np.testing.assert_allclose(total, left + right, rtol=1e-6)
    np.testing.assert_allclose(product, left * right, rtol=1e-6)


def test_a_batch_that_the_module_fixes_stays_fixed_and_is_said(factories: str, tmp_path: Path) -> None:
    imported = import_model(f"{factories}:fixed", tmp_path / "fixed.onnx")
    assert first_axis(tmp_path / "fixed.onnx") == 4
    assert any("the batch axis is fixed at 4" in line for line in imported.warnings)


def test_where_the_new_exporter_fails_torchscript_takes_over_and_says_so(
    factories: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imported = import_model(f"{factories}:branching", tmp_path / "net.onnx")
    assert imported.exporter == "torchscript"
    assert "PyTorch's new exporter failed" in imported.warnings[0]
    assert capfd.readouterr() == ("", "")


def test_the_asked_opset_is_written(factories: str, tmp_path: Path) -> None:
    imported = import_model(f"{factories}:with_inputs", tmp_path / "net.onnx", opset=13)
    assert graph.opset(graph.load_model(tmp_path / "net.onnx")) == 13
    assert imported.exporter in ("dynamo", "torchscript")


def test_an_export_that_answers_differently_is_refused(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_dynamo", _off_by_one_percent(exporting._dynamo))
    monkeypatch.setattr(exporting, "_torchscript", _off_by_one_percent(exporting._torchscript))
    with pytest.raises(InvalidModel, match="answers differently from torch"):
        import_model(f"{factories}:with_inputs", tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def _off_by_one_percent(export: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any) -> Any:
        model = export(*arguments)
        for name in ("head.weight", "head.bias"):
            value = model.graph.initializers[name]
            graph.set_constant(value, ir.tensor(np.float32(1.01) * value.const_value.numpy()))
        return model

    return wrong


def test_torchvision_comes_with_random_weights_and_its_own_input_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", _no_download)
    import_model("torchvision:squeezenet1_1", tmp_path / "net.onnx")
    (spec,) = runtime.input_specs(runtime.open_session(tmp_path / "net.onnx"))
    assert spec.shape[1:] == (3, 224, 224)


def _no_download(*arguments: Any, **options: Any) -> None:
    raise AssertionError("weights would have been downloaded")


@pytest.mark.parametrize(
    ("name", "family", "shapes"),
    [
        ("inception_v3", "inception", [(1, 3, 299, 299)]),
        ("fcn_resnet50", "segmentation", [(1, 3, 520, 520)]),
        ("r3d_18", "video", [(1, 3, 16, 112, 112)]),
        ("raft_small", "optical_flow", [(1, 3, 128, 128)] * 2),
        ("ssd300_vgg16", "detection", [(1, 3, 320, 320)]),
    ],
)
def test_every_torchvision_family_has_its_input(name: str, family: str, shapes: list[tuple[int, ...]]) -> None:
    from darwinc.models.importers import _torchvision_shapes

    assert _torchvision_shapes(name, family) == shapes


@pytest.mark.parametrize(
    ("source", "shape", "error", "message"),
    [
        ("nonsense", None, UsageError, "is no source"),
        ("model.onnx", None, UsageError, "ONNX already"),
        ("weights.pth", None, UsageError, "pickle"),
        ("absent.pt2", None, UsageError, "there is no file"),
        ("torchvision:resnet81", None, UsageError, "did you mean resnet18"),
        ("no_such_module:factory", None, UsageError, "'no_such_module', which is not installed"),
        ("{f}:absent", None, UsageError, "no attribute 'absent'"),
        ("{f}:constant", None, UsageError, "can't be called"),
        ("{f}:needs", None, UsageError, "can't be called without arguments"),
        ("{f}:number", None, UsageError, "returned int"),
        ("{f}:bare", None, UsageError, "give a shape"),
        ("{f}:bare", (0, 3), UsageError, "positive sizes"),
        ("{f}:odd_inputs", None, UsageError, "are not tensors"),
        ("{f}:broken", None, InvalidModel, "no such layer"),
        ("{f}:bare", (1, 2, 10, 12), InvalidModel, "can't be exported"),
    ],
)
def test_mistakes_get_one_sentence_and_no_file(
    factories: str, tmp_path: Path, source: str, shape: tuple[int, ...] | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        import_model(source.format(f=factories), tmp_path / "out.onnx", shape=shape)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_an_unwritable_destination_is_an_output_error(factories: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="doesn't exist"):
        import_model(f"{factories}:with_inputs", tmp_path / "nowhere" / "net.onnx")


def test_more_samples_are_the_given_ones_rolled() -> None:
    image = torch.arange(12.0).reshape(2, 6)
    (grown,) = with_batch((image,), 4)
    torch.testing.assert_close(grown, torch.cat([image, image.roll(1, -1)]))


# Exported programs: below, a stranger's file tries to create `MARKER` when it is loaded.

MARKER = "touched-by-a-stranger"


class Touch:
    """Unpickling one creates the marker."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet with a free batch axis, as `torch.export.save` writes it."""
    torch.manual_seed(3)
    network, _ = lenet_mnist()
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(network.eval(), (torch.randn(2, 1, 32, 32),), dynamic_shapes=({0: batch},))
    path = tmp_path_factory.mktemp("pt2") / "lenet.pt2"
    torch.export.save(program, path)
    return path


def tampered(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a `.pt2` with its records, by their names below the top folder, changed."""
    with zipfile.ZipFile(source) as archive:
        top = archive.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(target, "w") as archive:
        for name, payload in records.items():
            archive.writestr(f"{top}/{name}", payload)
    return target


def in_json(record: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(records: dict[str, bytes]) -> None:
        value = json.loads(records[record])
        change(value)
        records[record] = json.dumps(value).encode()

    return apply


def in_graph(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    return in_json("models/model.json", lambda model: change(model["graph_module"]))


def test_an_exported_program_answers_like_the_module(exported: Path, tmp_path: Path) -> None:
    import_model(str(exported), tmp_path / "net.onnx")
    torch.manual_seed(3)
    network = lenet_mnist()[0].eval()
    images = torch.randn(5, 1, 32, 32)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(answers(tmp_path / "net.onnx", images.numpy())[0], expected, atol=1e-5)
    assert not isinstance(first_axis(tmp_path / "net.onnx"), int)


def test_pickles_and_libraries_that_are_not_needed_are_never_opened(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def change(records: dict[str, bytes]) -> None:
        records["data/sample_inputs/model.pt"] = pickle.dumps(Touch())
        records["data/aotinductor/model/model.so"] = b"not a library"
        records["models/second.json"] = b"{}"
        in_json("models/model.json", lambda m: m.update(guards_code=[f"__import__('os').mkdir({MARKER!r})"]))(records)

    opened = open_program(tampered(exported, tmp_path / "net.pt2", change))
    assert opened.inputs[0].shape == (2, 1, 32, 32)
    assert opened.program.module()(*opened.inputs).shape == (2, 10)
    assert not Path(MARKER).exists()


def rename_input(module: Any) -> None:
    text = json.dumps(module).replace('"x"', json.dumps(f"x=__import__('os').mkdir({MARKER!r})"))
    module.clear()
    module.update(json.loads(text))


def set_expression(text: str) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        sizes = module["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text

    return change


def set_tree(tree: dict[str, Any]) -> Callable[[Any], None]:
    return lambda module: module["module_call_graph"][0]["signature"].update(out_spec=json.dumps([1, tree]))


def rename_parameter(module: Any) -> None:
    module["signature"]["input_specs"][0]["parameter"]["parameter_name"] = "__class__.forward"


def set_target(target: str) -> Callable[[Any], None]:
    return lambda module: module["graph"]["nodes"][0].update(target=target)


def pickle_weight(records: dict[str, bytes]) -> None:
    def change(config: Any) -> None:
        config["config"]["conv1.weight"].update(use_pickle=True, path_name="weight_99")

    records["data/weights/weight_99"] = pickle.dumps(Touch())
    in_json("data/weights/model_weights_config.json", change)(records)


def legacy_weights(records: dict[str, bytes]) -> None:
    del records["data/weights/model_weights_config.json"]
    records["data/weights/model.pt"] = pickle.dumps(Touch())


def custom_object(records: dict[str, bytes]) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    in_json("data/constants/model_constants_config.json", lambda held: held["config"].update(thing=entry))(records)
    records["data/constants/opaque_obj_0"] = pickle.dumps(Touch())


ENUM = {"__enum__": True, "fqn": "antigravity:X", "name": "A"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_graph(rename_input), "none that is safe"),
        (in_graph(rename_parameter), "none that is safe"),
        (in_graph(set_expression(f"__import__('os').mkdir({MARKER!r})")), "not arithmetic"),
        (in_graph(set_expression(f"Max('mkdir({MARKER!r})', 1)")), "not arithmetic"),
        (in_graph(set_expression("Symbol.__class__")), "not arithmetic"),
        (in_graph(set_expression("(lambda: 1)()")), "not arithmetic"),
        (in_graph(set_expression("s77 +")), "not arithmetic"),
        (in_graph(set_target("torch.hub.load")), "operator 'torch.hub.load'"),
        (in_graph(set_target("torch.ops.aten.from_file.default")), "from_file"),
        (in_graph(set_tree({"type": "builtins.dict", "context": json.dumps([ENUM]), "children_spec": []})), "come in"),
        (in_graph(set_tree({"type": "collections.defaultdict", "context": "{}", "children_spec": []})), "defaultdict"),
        (pickle_weight, "pickled object"),
        (legacy_weights, "older formats are pickles"),
        (custom_object, "pickled object"),
    ],
)
def test_what_would_run_a_strangers_code_is_refused(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, bytes]], None],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidModel, match=message) as caught:
        open_program(tampered(exported, tmp_path / "net.pt2", change))
    assert "\n" not in str(caught.value)
    assert not Path(MARKER).exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("damage", ["cut", "compressed", "text"])
def test_damaged_archives_are_refused(exported: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "net.pt2"
    payload = exported.read_bytes()
    if damage == "compressed":
        with zipfile.ZipFile(exported) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
    else:
        path.write_bytes(payload[: len(payload) // 2] if damage == "cut" else b"hello")
    with pytest.raises(InvalidModel):
        import_model(str(path), tmp_path / "net.onnx")


def test_a_program_in_training_mode_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    torch.export.save(torch.export.export(network, (torch.randn(2, 4),)), tmp_path / "net.pt2")
    with pytest.raises(InvalidModel, match="training mode"):
        open_program(tmp_path / "net.pt2")
