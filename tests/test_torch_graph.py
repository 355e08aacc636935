"""The torch twin: it answers like ONNX Runtime, borrows the weights by name and gives them back bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from darwinc.errors import DarwincError, InvalidData, UnsupportedOperator
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import RULES, Call

Array = npt.NDArray[Any]

# Weights as initializers, one of them also a graph input; a Constant node; an Identity of a constant; computed shapes.
NETWORK = """
    <ir_version: 8, opset_import: ["" : 13]>
    network (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 5] y, int64[4] sizes)
    <float[4, 3, 3, 3] w, float[4] b, float[4] scale, float[4] shift, float[4] mean, float[4] variance, float[64, 5] v,
     float low = {-0.5}, float high = {1.5}, int64[1] first = {0}, int64[1] rest = {-1}, int64 zero = {0}>
    {
        bias = Identity(b)
        c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, bias)
        n = BatchNormalization(c, scale, shift, mean, variance)
        r = Clip(n, low, high)
        gain = Constant<value_floats = [1.5, 0.5, 2.0, 1.0]>()
        axes = Constant<value_ints = [1, 2]>()
        g = Unsqueeze(gain, axes)
        m = Mul(r, g)
        sizes = Shape(m)
        count = Gather(sizes, zero)
        rows = Unsqueeze(count, first)
        shape = Concat<axis = 0>(rows, rest)
        f = Reshape(m, shape)
        y = MatMul(f, v)
    }
"""
SHAPES = {"w": (4, 3, 3, 3), "b": (4,), "scale": (4,), "shift": (4,), "mean": (4,), "variance": (4,), "v": (64, 5)}


def proto(text: str = NETWORK, shapes: dict[str, tuple[int, ...]] = SHAPES) -> onnx.ModelProto:
    """A model written as text, and initializers of these shapes filled with noise in [0.1, 1)."""
    model = onnx.parser.parse_model(text)
    declared = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.uniform(0.1, 1, shape).astype(onnx.helper.tensor_dtype_to_np_dtype(declared[name]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def image(samples: int = 3) -> Array:
    return np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)


def runtime(model: onnx.ModelProto, feed: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.fixture
def model() -> ir.Model:
    return ir.from_proto(proto())


@pytest.mark.parametrize("samples", [1, 3])
def test_it_answers_like_onnx_runtime(samples: int) -> None:
    source = proto()
    feed = {"x": image(samples)}
    found = TorchGraph(ir.from_proto(source))(feed)
    for name, wanted in runtime(source, feed).items():
        np.testing.assert_allclose(found[name].detach().numpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_names_are_the_models(model: ir.Model) -> None:
    twin = TorchGraph(model)
    assert twin.inputs == ("x",)
    assert twin.outputs == ("y", "sizes")
    assert twin.weights().keys() == {*SHAPES, "low", "high", "gain"}
    assert twin.constant("bias") is twin.constant("b") is twin.weights()["b"]
    assert twin.constant("first").dtype == torch.int64
    assert twin.is_constant("gain")
    assert not twin.is_constant("c")
    assert not twin.is_constant(None)
    assert {id(parameter) for parameter in twin.parameters()} == {id(weight) for weight in twin.weights().values()}


def test_steps_leave_out_what_only_makes_constants(model: ir.Model) -> None:
    steps = TorchGraph(model).steps
    operators = "Conv BatchNormalization Clip Unsqueeze Mul Shape Gather Unsqueeze Concat Reshape MatMul"
    assert [step.op_type for step in steps] == operators.split()
    assert steps[0].inputs == ("x", "w", "bias")
    assert steps[0].name == "c"


def test_every_intermediate_is_released_once_by_its_last_reader(model: ir.Model) -> None:
    twin = TorchGraph(model)
    released = [name for step in twin.steps for name in step.release]
    made = [name for step in twin.steps for name in step.outputs]
    assert sorted(released) == sorted({"x", *made} - {"y", "sizes"})
    for position, step in enumerate(twin.steps):
        later = {name for other in twin.steps[position + 1 :] for name in other.inputs}
        assert not later & set(step.release)


def test_steps_run_one_by_one_give_what_forward_gives(model: ir.Model) -> None:
    twin = TorchGraph(model)
    environment = twin.enter({"x": image()})
    for step in twin.steps:
        environment.update(zip(step.outputs, twin.run(step, environment), strict=True))
    assert torch.equal(twin.leave(environment)["y"], twin({"x": image()})["y"])


def test_gradients_reach_the_weights_but_not_the_configuration(model: ir.Model) -> None:
    twin = TorchGraph(model)
    twin({"x": image()})["y"].square().sum().backward()
    reached = {
        name for name, weight in twin.weights().items() if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert reached == {"w", "b", "scale", "shift", "v", "gain"}
    frozen = {name for name, weight in twin.weights().items() if not weight.requires_grad}
    assert frozen == {"mean", "variance", "low", "high"}


def test_a_constant_that_weighs_somewhere_is_trained_even_if_it_bounds_elsewhere() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[4] x) => (float[4] y) <float k = {0.5}>
        { a = Clip(x, , k)  copy = Identity(k)  y = Mul(a, copy) }"""
    assert TorchGraph(ir.from_proto(proto(text, {}))).weights()["k"].requires_grad


def test_writing_back_unchanged_weights_changes_no_bit(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    TorchGraph(model).write_back(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_writing_back_changes_the_trained_weights_alone(model: ir.Model) -> None:
    twin = TorchGraph(model)
    before = ir.to_proto(model)
    with torch.no_grad():
        twin.weights()["w"][0, 0, 0, 0] = 7.0
        twin.weights()["gain"][1] = 9.0
    twin.write_back(model)
    after = ir.to_proto(model)
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert (old == new) == (old.name != "w")
    feed = {"x": image()}
    wanted = runtime(after, feed)["y"]
    np.testing.assert_allclose(twin(feed)["y"].detach().numpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    reread = TorchGraph(ir.from_proto(after)).weights()
    assert all(torch.equal(weight, reread[name]) for name, weight in twin.weights().items())


def test_writing_back_to_another_model_is_refused(model: ir.Model) -> None:
    twin = TorchGraph(model)
    other = ir.from_proto(proto(shapes={**SHAPES, "v": (64, 7)}))
    with pytest.raises(DarwincError, match=r"'v' of shape \[64, 5\]"):
        twin.write_back(other)


HALF = """
    <ir_version: 7, opset_import: ["" : 11]>
    half (float16[N, 3, 8, 8] x) => (float16[N, 4, 8, 8] y) <float16[4, 3, 3, 3] w>
    { c = Conv<pads = [1, 1, 1, 1]>(x, w)  y = Sigmoid(c) }
"""


def test_half_precision_is_computed_in_single_and_stored_in_half() -> None:
    source = proto(HALF, {"w": (4, 3, 3, 3)})
    model = ir.from_proto(source)
    twin = TorchGraph(model)
    feed = {"x": image().astype(np.float16)}
    found, wanted = twin(feed)["y"], runtime(source, feed)["y"]
    assert found.dtype == torch.float16
    assert twin.weights()["w"].dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=5e-3 * np.abs(wanted).max())
    twin.write_back(model)
    assert ir.to_proto(model).graph.initializer[0].raw_data == source.graph.initializer[0].raw_data
    with torch.no_grad():
        twin.weights()["w"].add_(0.25)
    twin.write_back(model)
    stored = model.graph.initializers["w"].const_value
    assert stored is not None
    assert stored.dtype == ir.DataType.FLOAT16
    assert np.array_equal(stored.numpy(), twin.weights()["w"].detach().numpy().astype(np.float16))


def test_signed_zero_and_nan_survive_writing_back() -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) <float[2] w> { y = Add(x, w) }'
    model = ir.from_proto(proto(text, {"w": (2,)}))
    model.graph.initializers["w"].const_value = ir.tensor(np.array([0.0, np.nan], np.float32), name="w")
    twin = TorchGraph(model)
    before = model.graph.initializers["w"].const_value
    twin.write_back(model)
    assert model.graph.initializers["w"].const_value is before
    with torch.no_grad():
        twin.weights()["w"][0] = -0.0
    twin.write_back(model)
    after = model.graph.initializers["w"].const_value
    assert after is not None
    assert np.signbit(after.numpy()[0])


def test_weights_made_by_constant_of_shape_are_constants() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3] x) => (float[N, 2] y) <int64[2] s = {3, 2}>
        { w = ConstantOfShape<value = float[1] {0.5}>(s)  y = MatMul(x, w) }"""
    twin = TorchGraph(ir.from_proto(proto(text, {})))
    assert [step.op_type for step in twin.steps] == ["MatMul"]
    assert torch.equal(twin.constant("w"), torch.full((3, 2), 0.5))
    assert twin.weights() == {}


def test_a_rule_can_be_replaced(model: ir.Model) -> None:
    seen: list[str] = []

    def normalize_by_batch(call: Call) -> torch.Tensor:
        seen.append(call.step.name)
        variance, mean = torch.var_mean(call.first, (0, 2, 3), correction=0, keepdim=True)
        return (call.first - mean) / (variance + call.real("epsilon", 1e-5)).sqrt()

    twin = TorchGraph(model, rules={**RULES, "BatchNormalization": normalize_by_batch})
    environment = twin.enter({"x": image()})
    for step in twin.steps[:2]:
        environment.update(zip(step.outputs, twin.run(step, environment), strict=True))
    assert seen == ["n"]
    assert environment["n"].mean((0, 2, 3)).abs().max() < 1e-5


def test_shapes_are_computed_without_reading_the_device(model: ir.Model) -> None:
    """Tensors on the meta device hold no numbers: a rule that read one would fail."""
    twin = TorchGraph(model, device="meta")
    found = twin({"x": image(5)})
    assert found["y"].device.type == "meta"
    assert found["y"].shape == (5, 5)
    assert found["sizes"].tolist() == [5, 4, 4, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_it_answers_the_same_on_a_gpu(model: ir.Model) -> None:
    torch.backends.cudnn.allow_tf32 = False
    feed = {"x": image()}
    wanted, found = TorchGraph(model)(feed)["y"], TorchGraph(model, device="cuda")(feed)["y"].cpu()
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("spoil", ["read-only", "reversed", "double", "tensor"])
def test_any_array_of_numbers_will_do_as_a_feed(model: ir.Model, spoil: str) -> None:
    twin, x = TorchGraph(model), image()
    wanted = twin({"x": x})["y"]
    frozen = x.copy()
    frozen.flags.writeable = False
    spoiled: dict[str, Array | torch.Tensor] = {
        "read-only": frozen,
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
        "double": x.astype(np.float64),
        "tensor": torch.from_numpy(x),
    }
    assert torch.equal(twin({"x": spoiled[spoil]})["y"], wanted)


@pytest.mark.parametrize("feed", [{}, {"z": image()}, {"x": image(), "w": image()}, {"x": np.array(["a"])}])
def test_a_feed_that_does_not_fit_is_refused(model: ir.Model, feed: dict[str, Array]) -> None:
    with pytest.raises(InvalidData, match=r"model's inputs are x|numbers were expected"):
        TorchGraph(model)(feed)


REFUSED = {
    "an operator of another domain": (
        '<ir_version: 8, opset_import: ["" : 13, "mine" : 1]> g (float[4] x) => (float[4] y) { y = mine.Fancy(x) }',
        r"mine::Fancy of node 'y'",
    ),
    "an operator inside a body": (
        """<ir_version: 8, opset_import: ["" : 13, "mine" : 1]> g (bool c, float[4] x) => (float[4] y)
        { y = If(c) <then_branch = t () => (float[4] a) { a = mine.Fancy(x) },
                     else_branch = e () => (float[4] b) { b = Neg(x) }> }""",
        r"mine::Fancy of node 'a'",
    ),
    "strings": (
        '<ir_version: 8, opset_import: ["" : 13]> g (string[4] x) => (string[4] y) { y = Identity(x) }',
        r"input 'x' is of type STRING",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_rule_is_named(case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(UnsupportedOperator, match=message):
        TorchGraph(ir.from_proto(onnx.parser.parse_model(text)))


def test_training_normalises_by_the_batch_and_moves_the_running_statistics(model: ir.Model) -> None:
    twin = TorchGraph(model)
    feed = {"x": np.random.default_rng(1).normal(2.0, 3.0, (8, 3, 8, 8)).astype(np.float32)}
    inside = twin.forward(feed, also=("c", "n"))
    stored = {name: twin.constant(name).detach().clone() for name in ("mean", "variance")}
    trained = twin.train().forward(feed, also=("n",))
    reference = torch.nn.BatchNorm2d(4, eps=1e-5)
    with torch.no_grad():
        reference.weight.copy_(twin.constant("scale"))
        reference.bias.copy_(twin.constant("shift"))
        assert reference.running_mean is not None
        assert reference.running_var is not None
        reference.running_mean.copy_(stored["mean"])
        reference.running_var.copy_(stored["variance"])
    torch.testing.assert_close(trained["n"], reference(inside["c"]))
    torch.testing.assert_close(twin.constant("mean").detach(), reference.running_mean)
    torch.testing.assert_close(twin.constant("variance").detach(), reference.running_var)
    assert not torch.equal(trained["n"], inside["n"])
    torch.testing.assert_close(twin.eval().forward(feed, also=("n",))["n"], reference.eval()(inside["c"]))


def test_statistics_that_two_nodes_share_stay_while_the_twin_trains() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 13]>
        shared (float[N, 2, 4] x) => (float[N, 2, 4] y)
        <float[2] scale = {1.0, 2.0}, float[2] shift = {0.0, 1.0}, float[2] mean = {0.5, 0.25},
         float[2] variance = {2.0, 3.0}>
        {
            first = BatchNormalization(x, scale, shift, mean, variance)
            y = BatchNormalization(first, scale, shift, mean, variance)
        }
    """
    twin = TorchGraph(ir.from_onnx_text(text))
    feed = {"x": np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)}
    told = twin.forward(feed)["y"]
    assert torch.equal(twin.train().forward(feed)["y"], told)
    assert twin.constant("mean").tolist() == [0.5, 0.25]


def test_an_output_that_is_asked_for_by_name_is_not_rounded_to_half() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        half (float16[N, 3] x) => (float16[N, 3] y) { s = Mul(x, x) y = Softmax<axis = 1>(s) }
    """
    twin = TorchGraph(ir.from_onnx_text(text))
    feed = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)}
    assert twin(feed)["y"].dtype == torch.float16
    exact = twin(feed, also=("y",))["y"]
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, torch.from_numpy(feed["x"]).float().square().softmax(1))
