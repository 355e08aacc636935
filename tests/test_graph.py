"""Reading what isn't right, writing whole or not at all, and the questions asked of a model."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from darwinc import graph
from darwinc.errors import InvalidModel, OutputError, VerificationFailed
from tests.surgery import answers, parse

TEXT = """(float[N,3,8,8] x, float[6,3,3,3] w, float[4,6,1,1] v) => (float[N,4,6,6] y) {
    a = Conv(x, w)
    i = Identity(v)
    y = Conv(a, i)
}"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(parse(TEXT), path)
    return path


def refusal(path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(InvalidModel) as caught:
        graph.load_model(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert str(path) in message
    return message


# Reading


def test_a_good_file_comes_back_as_it_was(saved: Path) -> None:
    model = graph.load_model(saved)
    assert [node.op_type for node in graph.nodes_of(model)] == ["Conv", "Identity", "Conv"]
    assert graph.opset(model) == 17
    assert graph.load_model(str(saved)).graph.name == model.graph.name


@pytest.mark.parametrize("content", [b"", b"hello, I am text\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(100)])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "ONNX" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "not a file" in refusal(tmp_path / "none.onnx")
    assert "not a file" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    refusal(saved)


def broken(change: str) -> onnx.ModelProto:
    proto = parse(TEXT)
    if change == "an unknown operator":
        proto.graph.node[0].op_type = "Convolve"
    elif change == "a value from nowhere":
        proto.graph.node[0].input[1] = "nobody"
    elif change == "no opset":
        del proto.opset_import[:]
    elif change == "a wrong shape":
        proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    elif change == "two of one name":
        proto.graph.node[1].output[0] = "a"
    return proto


@pytest.mark.parametrize(
    "change", ["an unknown operator", "a value from nowhere", "no opset", "a wrong shape", "two of one name"]
)
def test_an_invalid_graph_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(broken(change).SerializeToString())
    refusal(path)


def test_nodes_in_any_order_are_sorted(tmp_path: Path) -> None:
    proto = parse(TEXT)
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = graph.load_model(path)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert answers(ir.to_proto(model))[0].tolist() == answers(parse(TEXT))[0].tolist()


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    proto = parse(TEXT)
    proto.graph.node[0].input[0] = "y"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    refusal(path)


# External data


def with_external_data(folder: Path, location: str = "weights.bin") -> Path:
    """A model whose first weight lies in a file of its own."""
    proto = parse(TEXT)
    tensor = proto.graph.initializer[0]
    content = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(content)))):
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    if location == "weights.bin":
        (folder / location).write_bytes(content)
    return path


def test_external_data_is_read_from_beside_the_file(tmp_path: Path) -> None:
    model = graph.load_model(with_external_data(tmp_path))
    want = numpy_helper.to_array(parse(TEXT).graph.initializer[0])
    assert np.array_equal(graph.constants(model)["w"].numpy(), want)
    assert np.array_equal(graph.constants(graph.embedded(model))["w"].numpy(), want)
    embedded = onnx.load_model_from_string(graph.to_bytes(model))
    assert answers(embedded)[0].tolist() == answers(parse(TEXT))[0].tolist()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", ""])
def test_external_data_outside_the_folder_is_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    assert "outside its own folder" in refusal(with_external_data(folder, location))


def test_a_link_that_leads_outside_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert "outside its own folder" in refusal(with_external_data(folder, "link.bin"))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert "'weights.bin'" in refusal(path)


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    refusal(path)


def test_a_model_with_external_data_is_written_whole_into_another_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    model = graph.load_model(with_external_data(tmp_path / "in"))
    target = tmp_path / "out" / "small.onnx"
    graph.save_model(model, target)
    assert [path.name for path in target.parent.iterdir()] == ["small.onnx"]
    assert answers(onnx.load(target))[0].tolist() == answers(parse(TEXT))[0].tolist()


def test_a_large_model_gets_external_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "PROTOBUF_LIMIT", 100)
    model = ir.from_proto(parse(TEXT))
    before = {name: tensor.numpy().copy() for name, tensor in graph.constants(model).items()}
    target = tmp_path / "large.onnx"
    graph.save_model(model, target)
    again = graph.load_model(target)
    for name, tensor in graph.constants(again).items():
        assert np.array_equal(tensor.numpy(), before[name])
    assert {path.name for path in tmp_path.iterdir()} <= {"large.onnx", "large.onnx.data"}
    assert {name: tensor.numpy().tolist() for name, tensor in graph.constants(model).items()} == {
        name: array.tolist() for name, array in before.items()
    }


# Writing


def test_a_model_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    graph.save_model(ir.from_proto(parse(TEXT)), target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert answers(onnx.load(target))[0].tolist() == answers(parse(TEXT))[0].tolist()


def test_an_invalid_result_leaves_the_old_file_alone(saved: Path) -> None:
    before = saved.read_bytes()
    model = graph.load_model(saved)
    node = next(iter(graph.nodes_of(model)))
    node.attributes["group"] = ir.AttrInt64("group", 7)
    model.graph.outputs[0].shape = ir.Shape([1, 9, 9, 9])
    with pytest.raises(VerificationFailed, match="not valid ONNX"):
        graph.save_model(model, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.onnx"]


def test_a_file_can_be_written_over_itself(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    graph.save_model(graph.load_model(path), path)
    assert answers(onnx.load(path))[0].tolist() == answers(parse(TEXT))[0].tolist()


def test_a_full_disk_leaves_the_old_file_alone(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(graph, "pieces", full)
    with pytest.raises(OutputError, match="No space left"):
        graph.save_model(graph_of(saved), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.onnx"]


def graph_of(path: Path) -> ir.Model:
    return graph.load_model(path)


def test_a_target_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ir.from_proto(parse(TEXT))
    with pytest.raises(OutputError, match="doesn't exist"):
        graph.save_model(model, tmp_path / "none" / "out.onnx")
    with pytest.raises(OutputError, match="is a folder"):
        graph.save_model(model, tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="no permission"):
        graph.save_model(model, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


# Questions


def test_initializers_leave_the_inputs_and_the_version_rises() -> None:
    proto = parse(TEXT, ir_version=3, keep_inputs=True)
    onnx.checker.check_model(proto, full_check=True)
    model = ir.from_proto(proto)
    assert graph.release_initializer_inputs(model) == ["w", "v"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.ir_version == 4
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert answers(ir.to_proto(model))[0].tolist() == answers(parse(TEXT))[0].tolist()
    assert graph.release_initializer_inputs(model) == []


def test_a_newer_version_does_not_fall() -> None:
    model = ir.from_proto(parse(TEXT, ir_version=8, keep_inputs=True))
    assert graph.release_initializer_inputs(model) == ["w", "v"]
    assert model.ir_version == 8


CONSTANTS = """(float[2] x, float[2] w) => (float[2] y) {
    c = Constant<value: tensor = float[2] {1.0, 2.0}>()
    f = Constant<value_floats: floats = [3.0, 4.0]>()
    i = Constant<value_ints: ints = [5]>()
    s = Constant<value_float: float = 6.0>()
    t = Constant<value_string: string = "text">()
    k = Identity(c)
    kk = Identity(k)
    r = Relu(w)
    a = Add(x, kk)
    y = Add(a, f)
}"""


def test_what_counts_as_a_constant() -> None:
    model = ir.from_proto(parse(CONSTANTS))
    values = {str(output.name): output for node in model.graph for output in node.outputs}
    values["w"] = model.graph.initializers["w"]
    found = {name: graph.constant_tensor(value) for name, value in values.items()}
    numbers = {name: tensor.numpy().tolist() for name, tensor in found.items() if tensor is not None and name != "w"}
    assert numbers == {"c": [1, 2], "f": [3, 4], "i": [5], "s": 6, "k": [1, 2], "kk": [1, 2]}
    assert found["w"] is not None
    assert graph.constant_source(values["kk"]) is values["c"]
    assert graph.constant_source(values["r"]) is None
    assert graph.constant_source(None) is None
    assert set(graph.constants(model)) == {"w", "c", "f", "i", "s"}
    assert graph.stored_bytes(model) == 8 + 8 + 8 + 8 + 4


@pytest.mark.parametrize("name", ["w", "c", "f"])
def test_a_constant_can_be_replaced(name: str) -> None:
    model = ir.from_proto(parse(CONSTANTS))
    source = model.graph.initializers.get(name)
    if source is None:
        source = next(node.outputs[0] for node in model.graph if node.outputs[0].name == name)
    graph.set_constant(source, ir.tensor(np.asarray([7, 8], np.float32)))
    tensor = graph.constant_tensor(source)
    assert tensor is not None
    assert tensor.numpy().tolist() == [7, 8]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_attributes_labels_and_bodies() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "body", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    conv = ir.node("Conv", [], {"group": 2, "pads": [1, 1], "auto_pad": "VALID"})
    conv.outputs[0].name = "a"
    assert (graph.integer(conv, "group", 1), graph.integer(conv, "none", 9)) == (2, 9)
    assert (graph.integers(conv, "pads"), graph.integers(conv, "none")) == ([1, 1], None)
    assert (graph.text(conv, "auto_pad", "NOTSET"), graph.text(conv, "none", "so")) == ("VALID", "so")
    assert graph.label(conv) == "a"
    assert graph.is_standard(conv)
    assert not graph.is_standard(ir.node("Conv", [], domain="custom"))
    assert graph.subgraphs(conv) == []
    either = parse("(float[2] x, bool x_c) => (float[2] y) { y = Relu(x) }")
    either.graph.node[0].CopyFrom(helper.make_node("If", ["x_c"], ["y"], "if", then_branch=body, else_branch=body))
    assert len(graph.subgraphs(next(iter(ir.from_proto(either).graph)))) == 2
