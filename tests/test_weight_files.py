"""Weights that stay in files: every type comes back as it was, whatever happens to the file's name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from darwinc import graph, weight_files, wire
from darwinc.channels import analyse
from darwinc.errors import InvalidModel, OutputError
from darwinc.passes.excise import excise
from darwinc.runtime import open_session, run
from darwinc.weight_files import StoredTensor
from tests.small_models import CLASSIFIER, build

TYPES = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN,
    TensorProto.INT8, TensorProto.UINT16, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT4, TensorProto.UINT4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LARGE", 2)


def of_all_types() -> onnx.ModelProto:
    """One weight of seven elements of each type, each under an output of its own."""
    random = np.random.default_rng(0)
    weights = []
    for kind in TYPES:
        array = random.integers(0, 2, 7).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor = numpy_helper.from_array(array, f"w{kind}")
        assert tensor.data_type == kind
        tensor.doc_string = f"about {kind}"
        weights.append(tensor)
    nodes = [helper.make_node("Identity", [tensor.name], [f"y{tensor.name}"]) for tensor in weights]
    outputs = [helper.make_tensor_value_info(f"y{tensor.name}", tensor.data_type, [7]) for tensor in weights]
    made = helper.make_graph(nodes, "g", [], outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(params=["inside", "outside"])
def typed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    outside = request.param == "outside"
    onnx.save(of_all_types(), path, save_as_external_data=outside, size_threshold=0, location="w.bin")
    return path


def arrays(proto: onnx.ModelProto) -> dict[str, list[float]]:
    return {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float64).tolist() for tensor in proto.graph.initializer
    }


def test_every_type_is_read_and_written_as_it_was(typed: Path, tmp_path: Path) -> None:
    model = graph.load_model(typed)
    found = {str(name): value.const_value for name, value in model.graph.initializers.items()}
    assert all(isinstance(tensor, StoredTensor) for tensor in found.values())
    wanted = arrays(of_all_types())
    assert {name: tensor.numpy().astype(np.float64).tolist() for name, tensor in found.items() if tensor} == wanted
    assert all(tensor is not None and tensor.numpy().flags.aligned for tensor in found.values())
    assert arrays(onnx.load_model_from_string(graph.to_bytes(model))) == wanted
    graph.save_model(model, tmp_path / "out.onnx")
    again = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(again, full_check=True)
    assert arrays(again) == wanted
    assert [tensor.doc_string for tensor in again.graph.initializer] == [f"about {kind}" for kind in TYPES]
    assert graph.file_bytes(model) == (tmp_path / "out.onnx").stat().st_size


def test_over_the_limit_weights_are_written_beside(
    typed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "PROTOBUF_LIMIT", 10)
    graph.save_model(graph.load_model(typed), tmp_path / "out.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out.onnx", "out.onnx.data"}
    hollow = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in hollow.graph.initializer)
    assert arrays(onnx.load(tmp_path / "out.onnx")) == arrays(of_all_types())


def test_a_file_that_was_replaced_is_still_the_one_that_was_read(typed: Path) -> None:
    model = graph.load_model(typed)
    for path in typed.parent.iterdir():
        other = path.with_suffix(".new")
        other.write_bytes(b"\xff" * path.stat().st_size)
        os.replace(other, path)
    assert arrays(onnx.load_model_from_string(graph.to_bytes(model))) == arrays(of_all_types())


def test_a_weight_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    proto = of_all_types()
    proto.graph.initializer[0].raw_data += b"\0\0\0\0"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidModel, match="takes 28 bytes, and has 32"):
        graph.load_model(path)


# Sessions


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_session_answers_alike_with_weights_in_files_changed_ones_too(
    tmp_path: Path, temporary: Path, replaced: bool
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build(CLASSIFIER), path)
    model = graph.load_model(path)
    if replaced:
        os.replace(path, tmp_path / "moved.onnx")
        path.write_bytes(b"something else")
    name, value = next(iter(model.graph.initializers.items()))
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * 2, name=name)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    wanted = run(open_session(graph.to_bytes(model), optimization="basic"), feed)
    found = run(open_session(model, optimization="basic"), feed)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def test_no_room_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(weight_files, "write_beside", full)
    with pytest.raises(OutputError, match="TMPDIR"):
        open_session(ir.from_proto(build(CLASSIFIER)))


@pytest.mark.parametrize("zero", [False, True])
def test_weights_of_a_large_model_are_cut_when_looked_at(monkeypatch: pytest.MonkeyPatch, zero: bool) -> None:
    model = ir.from_proto(build(CLASSIFIER))
    channels = analyse(model)
    dead = channels.nobody()
    dead[channels.groups[0].units[:2]] = True
    at_once, noted = excise(model, channels, dead, zero=zero)
    monkeypatch.setattr(graph, "PROTOBUF_LIMIT", 10)
    lazily, noted_lazily = excise(model, channels, dead, zero=zero)
    tensors = [value.const_value for value in lazily.graph.initializers.values()]
    assert any(isinstance(tensor, ir.LazyTensor) for tensor in tensors)
    assert graph.to_bytes(lazily) == graph.to_bytes(at_once)
    assert noted_lazily == noted


def test_what_is_written_is_neither_less_nor_more_than_what_was_read() -> None:
    """Outputs without a name at the end stay, and no types of initializers are added."""
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y", "", ""], hidden_size=3)
    arrays = {"w": np.ones((1, 12, 2), np.float32), "r": np.ones((1, 12, 3), np.float32)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [4, 1, 2])],
        [value("y", TensorProto.FLOAT, [4, 1, 1, 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = weight_files.faithful(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])))
    assert list(proto.graph.node[0].output) == ["y", "", ""]
    assert not proto.graph.value_info
