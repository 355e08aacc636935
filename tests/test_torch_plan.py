"""Plans: what shapes alone decide is decided once for each shape of the inputs; memory formats and mixed precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from darwinc.torch_compile import compiled
from darwinc.torch_graph import PLANS_KEPT, TorchGraph
from tests.small_models import CLASSIFIER, build

# Sizes and a scale worked out node by node, as TorchScript's exporter writes them.
SPELT_OUT = """(float[N, 3, 4] x, float[4,4] w) => (float[N, 12] y) {
    zero = Constant<value_int = 0>()
    first = Constant<value_ints = [0]>()
    last = Constant<value_ints = [-1]>()
    end = Constant<value_ints = [9]>()
    sizes = Shape(x)
    count = Gather(sizes, zero)
    row = Unsqueeze(count, first)
    shape = Concat<axis = 0>(row, last)
    depth = Slice(sizes, last, end)
    real = Cast<to = 1>(depth)
    root = Sqrt(real)
    one = Constant<value_float = 1.0>()
    scale = Div(one, root)
    m = MatMul(x, w)
    s = Mul(m, scale)
    y = Reshape(s, shape)
}"""


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(0.1, 1.5, shape).astype(np.float32))


def test_what_shapes_decide_is_decided_once() -> None:
    twin = TorchGraph(ir.from_proto(build(SPELT_OUT)), fused=True)
    plan = twin.plan(twin.enter({"x": images(2, 3, 4)}))
    assert [step.op_type for step in plan.steps] == ["MatMul", "Mul", "Reshape"]
    assert {name: value.tolist() for name, value in plan.constants.items()} == {"scale": [0.5], "shape": [2, -1]}
    assert twin.plan(twin.enter({"x": images(2, 3, 4)})) is plan
    assert twin.plan(twin.enter({"x": images(3, 3, 4)})) is not plan


@pytest.mark.parametrize("samples", [1, 5])
def test_every_size_of_batch_gets_its_answers(samples: int) -> None:
    source = ir.from_proto(build(SPELT_OUT))
    x = images(samples, 3, 4)
    torch.testing.assert_close(TorchGraph(source, fused=True)({"x": x})["y"], TorchGraph(source)({"x": x})["y"])


def test_few_plans_are_kept() -> None:
    twin = TorchGraph(ir.from_proto(build(SPELT_OUT)), fused=True)
    plans = [twin.plan(twin.enter({"x": images(samples, 3, 4)})) for samples in range(1, PLANS_KEPT + 2)]
    assert twin.plan(twin.enter({"x": images(2, 3, 4)})) is plans[1]
    assert twin.plan(twin.enter({"x": images(1, 3, 4)})) is not plans[0]


def test_an_output_that_shapes_decide_is_given() -> None:
    text = "(float[N, 3] x) => (int64[2] sizes, float[N, 3] y) { sizes = Shape(x) y = Relu(x) }"
    found = TorchGraph(ir.from_proto(build(text)), fused=True)({"x": images(4, 3)})
    assert found["sizes"].tolist() == [4, 3]


def test_steps_that_need_numbers_run_as_they_are() -> None:
    text = """(float[N, 3] x) => (float[M, 3] y) { axis = Constant<value_ints = [1]>()
        zero = Constant<value_float = 0.0>() total = ReduceSum<keepdims = 0>(x, axis) more = Greater(total, zero)
        chosen = Compress<axis = 0>(x, more) s = Sigmoid(chosen) y = Mul(chosen, s) }"""
    source, x = ir.from_proto(build(text)), images(6, 3)
    torch.testing.assert_close(TorchGraph(source, fused=True)({"x": x})["y"], TorchGraph(source)({"x": x})["y"])


def test_a_learned_scale_is_still_learned() -> None:
    text = "(float[N, 3] x, float[1] t) => (float[N, 3] y) { e = Exp(t) y = Mul(x, e) }"
    twin = TorchGraph(ir.from_proto(build(text)), fused=True)
    twin({"x": images(4, 3)})["y"].sum().backward()
    gradient = twin.weights()["t"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_numbers_of_formulas_stay() -> None:
    """The half of a GELU that something else reads too, from a node and as an initializer."""
    text = """(float[N, 3] x, float[3] w) => (float[N, 3] y) <float half = {0.5}> {
        root = Constant<value_float = 1.4142135>() one = Constant<value_float = 1.0>()
        d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) g = Mul(m, half) s = Mul(g, w) y = Mul(s, half) }"""
    source = ir.from_proto(build(text, given={"half": np.array(0.5, np.float32)}))
    twin = TorchGraph(source, fused=True)
    twin({"x": images(4, 3)})["y"].sum().backward()
    assert {name for name, weight in twin.weights().items() if weight.grad is not None} == {"w"}
    assert {name for name, weight in twin.weights().items() if weight.requires_grad} == {"w"}


def test_weights_in_channels_last_order_are_written_back_in_theirs() -> None:
    source = ir.from_proto(build(CLASSIFIER))
    before = ir.to_proto(source).SerializeToString(deterministic=True)
    x = images(2, 3, 8, 8)
    twin = TorchGraph(source, fused=True)
    wanted = twin({"x": x})["y"]
    twin.to(memory_format=torch.channels_last)
    assert twin.constant("w2").is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(twin({"x": x.contiguous(memory_format=torch.channels_last)})["y"], wanted)
    twin.write_back(source)
    assert ir.to_proto(source).SerializeToString(deterministic=True) == before
    with torch.no_grad():
        twin.weights()["w2"].mul_(2.0)
    twin.write_back(source)
    torch.testing.assert_close(TorchGraph(source).constant("w2"), twin.constant("w2"), check_stride=False)


@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision_stays_near_and_gives_full_gradients(training: bool) -> None:
    source = ir.from_proto(build(CLASSIFIER))
    x = images(4, 3, 8, 8)
    plain = TorchGraph(source, fused=True).train(training)
    mixed = TorchGraph(source, fused=True).train(training).to(memory_format=torch.channels_last)
    wanted = plain({"x": x})["y"]
    with torch.autocast("cpu", torch.bfloat16):
        found = mixed({"x": x.contiguous(memory_format=torch.channels_last)})["y"]
    assert (found - wanted).abs().max() <= 0.03 * wanted.abs().max()
    wanted.square().sum().backward()
    found.float().square().sum().backward()
    for name, weight in plain.weights().items():
        other = mixed.weights()[name].grad
        if weight.grad is not None:
            assert other is not None
            assert other.dtype == torch.float32
            assert (other - weight.grad).norm() <= 0.2 * weight.grad.norm()


def test_mixed_precision_keeps_convolutions_in_half() -> None:
    text = """(float[N,3,8,8] x, float[4,3,1,1] w, float[4] scale, float[4] shift, float[4] mean, float[4] var,
        float[4,4,1,1] u) => (float[N,4,8,8] y) { c = Conv(x, w) n = BatchNormalization(c, scale, shift, mean, var)
        s = Sigmoid(n) m = Mul(n, s) d = Conv(m, u) e = Add(d, m) y = Relu(e) }"""
    names = ("c", "n", "m", "d", "e")
    twin = TorchGraph(ir.from_proto(build(text)), fused=True, keep=names).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = twin.forward({"x": images(2, 3, 8, 8)}, also=names)
    assert {name: found[name].dtype for name in names} == dict.fromkeys(names, torch.bfloat16)


def test_a_compiled_twin_answers_the_same_and_is_left_as_it_was() -> None:
    twin = TorchGraph(ir.from_proto(build(CLASSIFIER)), fused=True).train()
    before = {name: weight.detach().clone() for name, weight in twin.weights().items()}
    forward, warning = compiled(twin, {"x": images(4, 3, 8, 8)}, also=(), backend="aot_eager")
    assert warning is None
    for name, weight in twin.weights().items():
        assert torch.equal(weight, before[name])
        assert weight.grad is None
    for samples in (4, 3):
        x = images(samples, 3, 8, 8)
        torch.testing.assert_close(forward({"x": x})["y"], twin({"x": x})["y"])


def test_without_a_compiler_the_twin_runs_as_it_is() -> None:
    def none(*_: object) -> None:
        raise RuntimeError("no compiler here\nand more")

    twin = TorchGraph(ir.from_proto(build(CLASSIFIER)), fused=True)
    x = images(2, 3, 8, 8)
    forward, warning = compiled(twin, {"x": x}, backend=none)
    assert warning is not None
    assert "goes on without" in warning
    assert "\n" not in warning
    assert torch.equal(forward({"x": x})["y"], twin({"x": x})["y"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("compile_it", [False, True])
def test_mixed_precision_on_a_gpu_stays_near(compile_it: bool) -> None:
    source = ir.from_proto(build(CLASSIFIER))
    x = images(4, 3, 8, 8)
    wanted = TorchGraph(source).train()({"x": x})["y"]
    twin = TorchGraph(source, device="cuda", fused=True).train().to(memory_format=torch.channels_last)
    feed = {"x": x.cuda().contiguous(memory_format=torch.channels_last)}
    with torch.autocast("cuda", torch.bfloat16):
        forward = compiled(twin, feed)[0] if compile_it else twin.forward
        found = forward(feed)["y"]
    torch.autograd.backward(found.float().sum())
    assert (found.cpu() - wanted).abs().max() <= 0.05 * wanted.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_plans_put_numbers_in_host_memory_and_data_on_the_gpu() -> None:
    source = ir.from_proto(build(SPELT_OUT))
    x = images(2, 3, 4)
    twin = TorchGraph(source, device="cuda", fused=True)
    plan = twin.plan(twin.enter({"x": x}))
    assert {name: value.device.type for name, value in plan.constants.items()} == {"scale": "cuda", "shape": "cpu"}
    torch.testing.assert_close(twin({"x": x})["y"].cpu(), TorchGraph(source)({"x": x})["y"])
