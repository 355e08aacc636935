"""Fused steps: where a pattern is fused and where it isn't, and that values and gradients stay what they were."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from darwinc.errors import DarwincError
from darwinc.torch_graph import TorchGraph
from tests.small_models import build

SHAPE = (2, 6, 5)
TYPES = "(float[N, 6, 5] x{more}) => (float[N, 6, 5] y)"


def model(body: str, *, more: str = "", opset: int = 17) -> ir.Model:
    """A graph from x [N, 6, 5] to y; `more` declares weights."""
    return ir.from_proto(build(f"{TYPES.format(more=more)} {{ {body} }}", opset=opset))


def operators(twin: TorchGraph, feed: dict[str, torch.Tensor]) -> Counter[str]:
    return Counter(step.op_type for step in twin.plan(twin.enter(feed)).steps)


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(0.1, 1.5, shape or SHAPE).astype(np.float32))


def gradients(twin: TorchGraph, feed: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """y, and the gradients of a weighted sum of it by the feed and the weights."""
    twin.zero_grad()
    given = {name: value.clone().requires_grad_() for name, value in feed.items()}
    y = twin(given)["y"]
    weights = torch.from_numpy(np.random.default_rng(4).normal(size=tuple(y.shape))).to(y.dtype)
    (y * weights).sum().backward()
    sources = {**given, **twin.weights()}
    return y.detach(), {name: value.grad for name, value in sources.items() if value.grad is not None}


def check(source: ir.Model, fused: str | None, feed: dict[str, torch.Tensor] | None = None) -> Counter[str]:
    """The plan has this fused operator, or none at all, and computes and differentiates as the unfused twin does."""
    feed = {"x": images()} if feed is None else feed
    plain, quick = TorchGraph(source), TorchGraph(source, fused=True)
    found = operators(quick, feed)
    assert [name for name in found if name.startswith("fused::")] == ([] if fused is None else [f"fused::{fused}"])
    wanted, wanted_gradients = gradients(plain, feed)
    got, got_gradients = gradients(quick, feed)
    torch.testing.assert_close(got, wanted, rtol=2e-6, atol=2e-6)
    trained = {name for name in wanted_gradients if name in feed or plain.weights()[name].numel() > 1}
    assert trained <= got_gradients.keys()
    for name in trained:
        torch.testing.assert_close(got_gradients[name], wanted_gradients[name], rtol=1e-5, atol=1e-5)
    return found


GELU = """half = Constant<value_float = 0.5>() one = Constant<value_float = 1.0>()
    root = Constant<value_float = 1.4142135>() inverse = Constant<value_float = 0.70710677>()"""
TANH = """half = Constant<value_float = 0.5>() one = Constant<value_float = 1.0>() three = Constant<value_float = 3.0>()
    c = Constant<value_float = 0.044715>() r = Constant<value_float = 0.7978845608>()"""

FUSED = {
    "silu": ("s = Sigmoid(x) y = Mul(x, s)", "Silu"),
    "silu, gate first": ("s = Sigmoid(x) y = Mul(s, x)", "Silu"),
    "silu through Identity": ("i = Identity(x) s = Sigmoid(i) y = Mul(x, s)", "Silu"),
    "hard swish": ("s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s)", "HardSwish"),
    "hard sigmoid": ("y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)", "HardSigmoid"),
    "hard swish spelt out": (
        """three = Constant<value_float = 3.0>()
        six = Constant<value_float = 6.0>() zero = Constant<value_float = 0.0>()
        a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)""",
        "HardSwish",
    ),
    "mish": ("p = Softplus(x) t = Tanh(p) y = Mul(x, t)", "Mish"),
    "gelu": (f"{GELU} d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)", "Gelu"),
    "gelu, half first": (f"{GELU} h = Mul(half, x) d = Div(x, root) e = Erf(d) a = Add(one, e) y = Mul(h, a)", "Gelu"),
    "gelu, inverse root": (
        f"{GELU} d = Mul(x, inverse) e = Erf(d) a = Add(e, one) m = Mul(a, half) y = Mul(x, m)",
        "Gelu",
    ),
    "gelu by tanh": (
        f"""{TANH} p = Pow(x, three) q = Mul(p, c) s = Add(x, q) k = Mul(s, r) t = Tanh(k) a = Add(t, one)
        m = Mul(x, a) y = Mul(m, half)""",
        "Gelu",
    ),
    "gelu by tanh, cube spelt out": (
        f"""{TANH} p = Mul(x, x) o = Mul(p, x) q = Mul(c, o) s = Add(x, q) k = Mul(r, s) t = Tanh(k) a = Add(one, t)
        h = Mul(half, x) y = Mul(h, a)""",
        "Gelu",
    ),
    "clip": (
        "low = Constant<value_float = 0.0>() high = Constant<value_float = 6.0>() y = Clip(x, low, high)",
        "HardTanh",
    ),
}

APART = {
    "the gate of something else": "n = Neg(x) s = Sigmoid(n) y = Mul(x, s)",
    "a gate that somebody else reads": "s = Sigmoid(x) m = Mul(x, s) y = Mul(m, s)",
    "silu times two": "two = Constant<value_float = 2.0>() s = Sigmoid(x) t = Mul(s, two) y = Mul(x, t)",
    "another slope": "s = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, s)",
    "another half": (
        f"{GELU} h = Constant<value_float = 0.49>() "
        "d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, h)"
    ),
    "another root": (
        f"{GELU} o = Constant<value_float = 1.41>() "
        "d = Div(x, o) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)"
    ),
    "another one": (
        f"{GELU} o = Constant<value_float = 1.1>() "
        "d = Div(x, root) e = Erf(d) a = Add(e, o) m = Mul(x, a) y = Mul(m, half)"
    ),
    "another cube": (
        f"""{TANH} d = Constant<value_float = 0.0447>() p = Pow(x, three) q = Mul(p, d) s = Add(x, q) k = Mul(s, r)
        t = Tanh(k) a = Add(t, one) m = Mul(x, a) y = Mul(m, half)"""
    ),
    "one bound": "low = Constant<value_float = 0.0>() y = Clip(x, low)",
}


@pytest.mark.parametrize("case", FUSED)
def test_activations_are_fused(case: str) -> None:
    body, operator = FUSED[case]
    assert sum(check(model(body), operator).values()) == 1


@pytest.mark.parametrize("case", APART)
def test_what_only_looks_like_a_pattern_is_left(case: str) -> None:
    check(model(APART[case]), None)


def test_a_number_that_widens_is_no_scale() -> None:
    body = (
        f"{GELU} wide = Reshape(half, shape) d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, wide)"
    )
    text = f"(float[N, 5] x) => (float[1, N, 5] y) {{ shape = Constant<value_ints = [1, 1, 1]>() {body} }}"
    check(ir.from_proto(build(text)), None, {"x": images(3, 5)})


def test_values_that_are_kept_stay_visible() -> None:
    source = model("s = Sigmoid(x) y = Mul(x, s)")
    x = images()
    twin = TorchGraph(source, fused=True, keep=("s",))
    assert operators(twin, {"x": x}) == {"Sigmoid": 1, "Mul": 1}
    assert torch.equal(twin.forward({"x": x}, also=("s",))["s"], torch.sigmoid(x))
    with pytest.raises(DarwincError, match="doesn't hold s; name"):
        TorchGraph(source, fused=True).forward({"x": x}, also=("s",))


def test_an_output_stays_visible() -> None:
    text = "(float[N, 4] x) => (float[N, 4] y, float[N, 4] s) { s = Sigmoid(x) y = Mul(x, s) }"
    twin = TorchGraph(ir.from_proto(build(text)), fused=True)
    x = images(2, 4)
    assert operators(twin, {"x": x}) == {"Sigmoid": 1, "Mul": 1}
    assert torch.equal(twin({"x": x})["s"], torch.sigmoid(x))


LINEAR = {
    "a stored matrix": ("m = MatMul(x, w) y = Add(m, b)", ", float[5,5] w, float[5] b"),
    "the bias first": ("m = MatMul(x, w) y = Add(b, m)", ", float[5,5] w, float[5] b"),
    "a transposed matrix": (
        "t = Transpose<perm = [1, 0]>(w) m = MatMul(x, t) y = Add(m, b)",
        ", float[5,5] w, float[5] b",
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_layers_are_fused(case: str) -> None:
    body, more = LINEAR[case]
    assert sum(check(model(body, more=more), "Linear").values()) == 1


@pytest.mark.parametrize("bias", ["1", "6,1", "6,5"])
def test_a_sum_that_is_no_bias_is_left(bias: str) -> None:
    found = check(
        model("m = MatMul(x, w) n = Neg(m) s = Add(n, b) y = Neg(s)", more=f", float[5,5] w, float[{bias}] b"), None
    )
    assert found["MatMul"] == found["Add"] == 1


def test_a_matrix_that_somebody_else_reads_is_transposed_for_both() -> None:
    body = "t = Transpose<perm = [1, 0]>(w) m = MatMul(x, t) s = Add(m, b) z = Add(s, c) k = MatMul(z, t) y = Neg(k)"
    source = model(body, more=", float[5,5] w, float[5] b, float[6,5] c")
    assert operators(TorchGraph(source, fused=True), {"x": images()})["Transpose"] == 1


NORMAL = """two = Constant<value_float = 2.0>() e = Constant<value_float = 1e-5>() m = ReduceMean<axes = [-1]>(x)
    d = Sub(x, m) p = {square} v = ReduceMean<axes = [{axis}]>(p) a = Add(v, e) r = Sqrt(a) n = Div(d, r)
    s = Mul(n, w) y = Add(s, b)"""


@pytest.mark.parametrize("square", ["Pow(d, two)", "Mul(d, d)"])
def test_layer_normalization_is_fused(square: str) -> None:
    body = NORMAL.format(square=square, axis=-1)
    assert sum(check(model(body, more=", float[5] w, float[5] b"), "LayerNormalization").values()) == 1


@pytest.mark.parametrize(
    ("square", "axis", "bias"), [("Mul(d, x)", -1, "5"), ("Mul(d, d)", 1, "5"), ("Mul(d, d)", -1, "6,5")]
)
def test_another_normalization_is_left(square: str, axis: int, bias: str) -> None:
    body = NORMAL.format(square=square, axis=axis).replace("r = Sqrt(a)", "q = Abs(a) r = Sqrt(q)")
    check(model(body, more=f", float[5] w, float[{bias}] b"), None)


ATTENTION = "(float[N,2,4,3] x, float[2,2,5,3] k, float[2,2,5,6] v{more}) => (float[2,2,4,6] y) {{ {body} }}"
SCALE = "s = Constant<value_float = 0.4>() o = Constant<value_float = 0.8>()"
TURN = "t = Transpose<perm = [0, 1, 3, 2]>(k)"
ATTENTIONS = {
    "plain": f"{TURN} l = MatMul(x, t) p = Softmax(l) y = MatMul(p, v)",
    "a scale on the logits": f"{SCALE} {TURN} l = MatMul(x, t) m = Mul(l, s) p = Softmax(m) y = MatMul(p, v)",
    "a divisor": f"{SCALE} {TURN} l = MatMul(x, t) m = Div(l, s) p = Softmax<axis = 3>(m) y = MatMul(p, v)",
    "scales on both": f"{SCALE} {TURN} a = Mul(x, s) b = Mul(t, o) l = MatMul(a, b) p = Softmax(l) y = MatMul(p, v)",
}


def attending(body: str, more: str = "") -> tuple[ir.Model, dict[str, torch.Tensor]]:
    return ir.from_proto(build(ATTENTION.format(body=body, more=more))), {"x": images(2, 2, 4, 3)}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_is_fused(case: str) -> None:
    source, feed = attending(ATTENTIONS[case])
    assert check(source, "Attention", feed)["Softmax"] == 0


@pytest.mark.parametrize("shape", ["4,5", "2,4,5", "2,1,5", "1,1,4,5"])
def test_attention_with_a_mask_is_fused(shape: str) -> None:
    body = f"{SCALE} {TURN} l = MatMul(x, t) m = Mul(l, s) a = Add(m, mask) p = Softmax(a) y = MatMul(p, v)"
    source, feed = attending(body, f", float[{shape}] mask")
    assert check(source, "Attention", feed)["Softmax"] == 0


SUM = "s = ReduceSum(p) y = Mul(m, s)"
NO_ATTENTION = {
    "over another axis": f"{TURN} l = MatMul(x, t) p = Softmax<axis = 2>(l) y = MatMul(p, v)",
    "weights that others read": f"{TURN} l = MatMul(x, t) p = Softmax(l) m = MatMul(p, v) {SUM}",
    "logits that others read": f"{TURN} l = MatMul(x, t) p = Softmax(l) m = MatMul(p, v) {SUM}".replace(
        "Sum(p)", "Sum(l)"
    ),
}


@pytest.mark.parametrize("case", NO_ATTENTION)
def test_what_is_no_attention_is_left(case: str) -> None:
    source, feed = attending(NO_ATTENTION[case])
    check(source, None, feed)


RESIDUAL = """(float[N,3,8,8] x, float[4,3,3,3] w1, float[4,4,3,3] w2, float[4] scale, float[4] shift, float[4] mean,
    float[4] var, float[4,4,3,3] w3) => (float[N,4,8,8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1)
    b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, w2)
    d = BatchNormalization(c, scale, shift, mean, var)
    e = Add(b, d)
    f = Relu(e)
    y = Conv<pads = [1, 1, 1, 1]>(f, w3)
}"""


@pytest.mark.parametrize("training", [False, True])
def test_memory_is_written_over_only_where_nobody_reads_it(training: bool) -> None:
    source = ir.from_proto(build(RESIDUAL))
    feed = {"x": images(2, 3, 8, 8)}
    plain, quick = TorchGraph(source).train(training), TorchGraph(source, fused=True).train(training)
    assert operators(quick, feed) == {
        "fused::Conv": 3,
        "fused::ReluInto": 2,
        "BatchNormalization": 1,
        "fused::AddInto": 1,
    }
    (step,) = (step for step in quick.plan(quick.enter(feed)).steps if step.op_type == "fused::AddInto")
    assert step.inputs == ("d", "b")
    wanted, wanted_gradients = gradients(plain, feed)
    got, got_gradients = gradients(quick, feed)
    torch.testing.assert_close(got, wanted)
    assert wanted_gradients.keys() == got_gradients.keys()
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient)
    assert torch.equal(plain.constant("mean"), quick.constant("mean"))
    assert not training or not torch.equal(quick.constant("mean"), TorchGraph(source).constant("mean"))


def test_kept_values_are_not_written_over() -> None:
    source = ir.from_proto(build(RESIDUAL))
    feed = {"x": images(2, 3, 8, 8)}
    names = ("a", "c", "d", "e")
    wanted = TorchGraph(source).forward(feed, also=names)
    found = TorchGraph(source, fused=True, keep=names).forward(feed, also=names)
    for name in names:
        torch.testing.assert_close(found[name], wanted[name])
