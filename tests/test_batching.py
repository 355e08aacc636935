"""Models with a batch written into them: freed, with the same answers for every sample; or refused, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from darwinc.batching import FreeBatch, free_batch
from darwinc.batching.layout import BatchHeld, Layout, grown_axis, reshaped
from darwinc.calibrators.calibration import Calibration, prepare
from darwinc.calibrators.statistics import Statistics, gather
from darwinc.channels import Channels, analyse
from darwinc.compression import Settings, compress
from darwinc.data import Samples, open_data, samples_in
from darwinc.equivalence import answers
from darwinc.graph import constant_tensor, constants
from darwinc.passes.repair import TOO_MANY
from darwinc.report_schema import Recovery
from darwinc.runtime import inputs_of
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, build, images, save, save_data

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


def model_of(text: str, opset: int = 17) -> ir.Model:
    return ir.from_proto(build(text, opset=opset))


def feed_of(model: ir.Model, seed: int = 0) -> dict[str, Array]:
    """Normal noise, or small integers; one sample where the file leaves the number free."""
    random = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for spec in inputs_of(model):
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        noise = random.standard_normal(shape) if spec.dtype.kind == "f" else random.integers(0, 4, shape)
        feed[spec.name] = np.asarray(noise, spec.dtype)
    return feed


def node_of(model: ir.Model, output: str) -> ir.Node:
    return next(node for node in model.graph if node.outputs[0].name == output)


def numbers(model: ir.Model, output: str, operand: int = 1) -> list[int]:
    """What a stored operand of a node lists."""
    tensor = constant_tensor(node_of(model, output).inputs[operand])
    assert tensor is not None
    return [int(number) for number in tensor.numpy()]


def freed(model: ir.Model) -> FreeBatch:
    """Free a model, and hold it to its promises, in ONNX Runtime, which takes nothing but what is valid."""
    before = ir.to_proto(model).SerializeToString()
    found = free_batch(model, feed_of(model))
    assert found.free, found.reason
    assert ir.to_proto(model).SerializeToString() == before
    stored = {name: tensor.numpy() for name, tensor in constants(found.model).items()}
    for name, tensor in constants(model).items():
        if tensor.dtype.is_floating_point():
            np.testing.assert_array_equal(stored[name], tensor.numpy())
    kept = {value.name for node in model.graph for value in node.outputs}
    made = {value.name for node in found.model.graph for value in node.outputs}
    assert kept <= made
    assert all(str(name).startswith("darwinc/") for name in made - kept)
    for count in (2, 5):
        feeds = [feed_of(model, seed) for seed in range(count)]
        for name, axis in found.axes.items():
            if axis is None:
                feeds = [{**feed, name: feeds[0][name]} for feed in feeds]
        (together,) = answers(found.model, [found.join(feeds)])
        in_torch = found.twin.detached(found.join(feeds))
        for name, whole, *alone in zip(found.twin.outputs, together, *answers(model, feeds), strict=True):
            axis = found.outputs[name]
            assert axis is not None
            wanted = np.concatenate(alone, axis)
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(whole, wanted, rtol=0, atol=1e-5 * scale)
            np.testing.assert_allclose(in_torch[name].numpy(), wanted, rtol=0, atol=1e-5 * scale)
    return found


def test_a_free_batch_stays_as_it_is() -> None:
    model = model_of("(float[N,3,4] x, float[12,5] m) => (float[N,5] y) { f = Flatten(x) y = MatMul(f, m) }")
    twin = TorchGraph(model)
    found = free_batch(model, feed_of(model), twin=twin)
    assert found.twin is twin
    assert [node.op_type for node in found.model.graph] == ["Flatten", "MatMul"]
    assert found.axes == {"x": 0}
    assert found.outputs == {"y": 0}


def test_inputs_alone_may_fix_the_batch() -> None:
    model = model_of("(float[1,3,4] x, float[4,5] m) => (float[1,3,5] y) { y = MatMul(x, m) }")
    found = freed(model)
    for value in (*found.model.graph.inputs, *found.model.graph.outputs):
        assert value.shape is not None
        assert not isinstance(value.shape[0], int)
        assert value.shape[1] == 3
    assert model.graph.inputs[0].shape == ir.Shape([1, 3, 4])


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ([1, -1], [0, -1]),  # It would have run, and made one sample of all.
        ([1, 12], [0, 12]),
        ([-1, 12], [-1, 12]),
    ],
)
def test_a_reshape_gives_the_batch_its_axis(written: list[int], found: list[int]) -> None:
    text = f"""(float[1,3,4] x, float[12,5] m) => (float[1,5] y) {{
        s = Constant<value_ints = {written}>()
        f = Reshape(x, s)
        y = MatMul(f, m)
    }}"""
    assert numbers(freed(model_of(text)).model, "f") == found


def test_a_reshape_of_the_fourth_opset_has_its_numbers_in_the_graph_too() -> None:
    text = """(float[1,3,4] x, float[12,5] m) => (float[1,5] y) {
        s = Constant<value = int64[2] {1, -1}>() f = Reshape(x, s) y = MatMul(f, m) }"""
    assert numbers(freed(model_of(text, 5)).model, "f") == [0, -1]


def test_a_reshape_finds_the_batch_behind_other_axes() -> None:
    text = """(float[1,6,8] x) => (float[1,6,2,4] y) {
        t = Transpose<perm = [1, 0, 2]>(x)
        s = Constant<value_ints = [6, 1, 2, 4]>()
        r = Reshape(t, s)
        y = Transpose<perm = [1, 0, 2, 3]>(r)
    }"""
    assert numbers(freed(model_of(text)).model, "r") == [6, 0, 2, 4]


HEADS = """(float[1,6,8] x, float[8,8] m1, float[8,8] m2, float[8,8] m3, float[8,5] m4) => (float[1,6,5] y) {
    t = Transpose<perm = [1, 0, 2]>(x)
    q0 = MatMul(t, m1)
    k0 = MatMul(t, m2)
    v0 = MatMul(t, m3)
    s = Constant<value_ints = [%s, 2, 4]>()
    q1 = Reshape(q0, s)
    k1 = Reshape(k0, s)
    v1 = Reshape(v0, s)
    q = Transpose<perm = [1, 0, 2]>(q1)
    k = Transpose<perm = [1, 2, 0]>(k1)
    v = Transpose<perm = [1, 0, 2]>(v1)
    scores = MatMul(q, k)
    weights = Softmax<axis = -1>(scores)
    o = MatMul(weights, v)
    p = Transpose<perm = [1, 0, 2]>(o)
    u = Constant<value_ints = [6, 1, 8]>()
    r = Reshape(p, u)
    z = Transpose<perm = [1, 0, 2]>(r)
    y = MatMul(z, m4)
}
"""
"""Attention as torch.nn.MultiheadAttention writes it: all heads of all samples on one axis."""


@pytest.mark.parametrize("steps", [6, -1])
def test_samples_share_an_axis_with_heads(steps: int) -> None:
    model = model_of(HEADS % steps)
    found = freed(model)
    assert found.layouts["q"] == Layout(0)
    assert "q" in found.crowded(analyse(model))
    assert "x" not in found.crowded(analyse(model))


def test_samples_share_the_rows_of_a_matrix() -> None:
    """As exporters write a linear layer over [steps, batch, features]."""
    text = """(float[1,6,8] x, float[8,5] m) => (float[1,6,5] y) {
        t = Transpose<perm = [1, 0, 2]>(x)
        s = Constant<value_ints = [6, 8]>()
        rows = Reshape(t, s)
        product = Gemm(rows, m)
        u = Constant<value_ints = [6, 1, 5]>()
        r = Reshape(product, u)
        y = Transpose<perm = [1, 0, 2]>(r)
    }"""
    found = freed(model_of(text))
    assert numbers(found.model, "rows") == [-1, 8]
    assert numbers(found.model, "r") == [6, -1, 5]
    assert found.layouts["product"] == Layout(0, outer=6)


TOKEN = """(float[1,6,8] x, float[1,1,8] token, float[1,7,8] places, float[8,5] m) => (float[1,7,5] y) {
    %s
    all = Concat<axis = 1>(one, x)
    a = Add(all, places)
    y = MatMul(a, m)
}
"""


TOKENS = TOKEN % "one = Identity(token)"


@pytest.mark.parametrize(
    "made",
    [
        "one = Identity(token)",
        "s = Constant<value_ints = [1, 1, 8]>() one = Expand(token, s)",
        "s = Constant<value_ints = [1, 1, 1]>() one = Tile(token, s)",
        "s = Constant<value_ints = [1, 1, 8]>() one = ConstantOfShape<value = float[1] {0.5}>(s)",
    ],
)
def test_a_token_is_repeated_for_every_sample(made: str) -> None:
    found = freed(model_of(TOKEN % made))
    added = [node.op_type for node in found.model.graph if str(node.outputs[0].name).startswith("darwinc/")]
    assert added == ["Shape", "Gather", "Where", "Tile"]
    assert node_of(found.model, "all").inputs[1] is found.model.graph.inputs[0]


RECURRENT = """(float[5,1,3] x, float[1,%(gates)s,3] w, float[1,%(gates)s,4] r, float[1,1,4] h0, float[1,1,4] c0)
    => (float[5,1,4] y) {
    %(lengths)s
    all = %(operator)s<hidden_size = 4>(x, w, r, , %(after)s)
    axis = Constant<value_ints = [1]>()
    y = Squeeze(all, axis)
}
"""


@pytest.mark.parametrize(
    "parts",
    [
        {"operator": "LSTM", "gates": 16, "lengths": "", "after": ", h0, c0"},
        {"operator": "GRU", "gates": 12, "lengths": "", "after": ", h0"},
        {"operator": "RNN", "gates": 4, "lengths": "n = Constant<value = int32[1] {4}>()", "after": "n, h0"},
    ],
    ids=lambda parts: str(parts["operator"]),
)
def test_states_and_lengths_are_repeated_for_every_sample(parts: dict[str, Any]) -> None:
    found = freed(model_of(RECURRENT % parts))
    assert found.axes == {"x": 1}


def test_sizes_of_a_resize_take_the_batch_from_its_input() -> None:
    text = """(float[1,3,4,4] x, float[5,3,1,1] w) => (float[1,5,8,8] y) {
        c = Conv(x, w)
        s = Constant<value_ints = [1, 5, 8, 8]>()
        y = Resize<mode = "nearest">(c, , , s)
    }"""
    assert [node.op_type for node in freed(model_of(text)).model.graph][-2:] == ["Where", "Resize"]


@pytest.mark.parametrize("end", [1, 2**31 - 1])
def test_a_slice_of_all_samples_stays_one(end: int) -> None:
    text = f"""(float[1,3,4] x, float[4,5] m) => (float[1,2,5] y) {{
        a = Constant<value_ints = [0, 1]>()
        e = Constant<value_ints = [{end}, 3]>()
        s = Slice(x, a, e)
        y = MatMul(s, m)
    }}"""
    assert numbers(freed(model_of(text)).model, "s", 2) == [2**31 - 1, 3]


def test_a_slice_of_the_ninth_opset() -> None:
    text = """(float[1,3,4] x, float[4,5] m) => (float[1,2,5] y) {
        s = Slice<starts = [0, 1], ends = [1, 3]>(x) y = MatMul(s, m) }"""
    assert list(node_of(freed(model_of(text, 9)).model, "s").attributes["ends"].as_ints()) == [2**31 - 1, 3]


@pytest.mark.parametrize(
    ("reduction", "opset"),
    [
        ("r = ReduceMean(x)", 17),
        ("r = ReduceMax<axes = [0, -1]>(x)", 17),
        ("axes = Constant<value_ints = [0, 1, 2]>() r = ReduceMean(x, axes)", 18),
    ],
)
def test_a_reduction_leaves_one_sample_alone(reduction: str, opset: int) -> None:
    freed(model_of(f"(float[1,3,4] x) => (float[1,3,4] y) {{ {reduction} y = Sub(x, r) }}", opset))


def test_a_computed_shape_gets_the_batch() -> None:
    text = """(float[1,6,8] x, float[4,5] m) => (float[1,6,2,5] y) {
        shape = Shape(x)
        one = Constant<value_ints = [1]>()
        length = Gather(shape, one)
        rest = Constant<value_ints = [2, -1]>()
        s = Concat<axis = 0>(one, length, rest)
        r = Reshape(x, s)
        y = MatMul(r, m)
    }"""
    found = freed(model_of(text))
    assert node_of(found.model, "r").inputs[1].name == "darwinc/r/numbers_1"  # type: ignore[union-attr]


def test_a_type_is_not_a_sample() -> None:
    text = "(float[1,3,4] x, double m) => (float[1,3,4] y) { c = CastLike(m, x) y = Mul(x, c) }"
    assert freed(model_of(text)).twin.steps[0].op_type == "CastLike"


def test_a_file_may_take_several_samples_at_once() -> None:
    text = """(float[2,3,4] x, float[2,12] b, float[2,1] c, float[12,5] m) => (float[2,5] y) {
        s = Constant<value_ints = [2, 12]>()
        f = Reshape(x, s)
        a = Add(f, b)
        e = Mul(a, c)
        t = Expand(e, s)
        y = MatMul(t, m)
    }"""
    model = model_of(text)
    found = free_batch(model, feed_of(model))
    assert found.free, found.reason
    feeds = [feed_of(model, seed) for seed in range(3)]
    wanted = np.concatenate([part[0] for part in answers(model, feeds)])
    np.testing.assert_allclose(answers(found.model, [found.join(feeds)])[0][0], wanted, rtol=0, atol=1e-5)


def test_a_state_may_hold_the_batch_on_another_axis() -> None:
    text = """(float[1,4,8] x, float[3,1,8] x_state) => (float[1,4,8] y, float[3,1,8] z) {
        m = ReduceMean<axes = [0], keepdims = 0>(x_state)
        one = Constant<value_ints = [1]>()
        u = Unsqueeze(m, one)
        y = Add(x, u)
        z = Mul(x_state, x_state)
    }"""
    found = freed(model_of(text))
    assert found.axes == {"x": 0, "x_state": 1}
    assert found.outputs == {"y": 0, "z": 1}


def test_a_scalar_is_the_same_for_all_samples() -> None:
    model = model_of("(float[1,3,4] x, float x_rate) => (float[1,3,4] y) { y = Mul(x, x_rate) }")
    assert freed(model).axes == {"x": 0, "x_rate": None}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = Gather<axis = 0>(x, zero)", "(Gather) takes the samples of a batch together, or some of them out"),
        ("y = ReduceMean<axes = [0], keepdims = 0>(x)", "(ReduceMean) takes the samples of a batch together"),
        ("y = Squeeze(x, axis)", "(Squeeze) gives 3 axes for more samples, and 2 for fewer"),
        ("y = CumSum(x, zero)", "differ from those one by one"),
        ("y = Softmax<axis = 0>(x)", "(Softmax) answers differently for a sample among others"),
        ("p = Softmax<axis = 0>(x) y = Sign(p)", "(Softmax) answers differently for a sample among others"),
        ("y = Concat<axis = 0>(x, x0)", "(Concat) gives [4, 3, 4] for 3 times the samples that give [2, 3, 4]"),
        ("p = Constant<value_ints = [1, 0, 0, 0, 0, 0]>() y = Pad(x, p)", "(Pad) gives [4, 3, 4] for 3 times"),
        ("y = NonZero(x)", "differ from those one by one, in every choice"),
        ("s = Shape(x) y = Cast<to = 1>(s)", "differ from those one by one"),
        ("f = Flatten<axis = 2>(x) t = Transpose(f) y = MatMul(f, t)", "(MatMul) gives [9, 9] for 3 times"),
        ("y = Flatten<axis = 0>(x)", "(Flatten) reshapes the samples of a batch into one"),
    ],
)
def test_a_graph_that_needs_its_batch_says_where(text: str, reason: str) -> None:
    head = "zero = Constant<value_int = 0>() axis = Constant<value_ints = [0]>()"
    model = model_of(f"(float[1,3,4] x, float[1,3,4] other) => (float y) {{ {head} {text.replace('x0', 'other')} }}")
    found = free_batch(model, feed_of(model))
    assert not found.free
    assert found.batch == 1
    assert found.model is model
    assert reason in found.reason


def test_old_opsets_have_nothing_to_compute_a_number_with() -> None:
    text = "(float[1,3,4] x, float[1,1,4] token) => (float[1,4,4] y) { y = Concat<axis = 1>(token, x) }"
    model = model_of(text, 8)
    assert free_batch(model, feed_of(model)).reason.startswith("node 'Concat_0' (Concat) doesn't run")


def test_a_wrong_merge_is_refused_by_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that are put where they don't belong run, step by step, and answer wrongly."""

    def elsewhere(layout: Layout, old: Any, new: Any, samples: int) -> list[Layout]:
        return [Layout(1)]

    text = """(float[1,3,4] x, float[12,5] m) => (float[1,5] y) {
        s = Constant<value_ints = [1, -1]>()
        f = Reshape(x, s)
        y = ReduceSum<keepdims = 0>(f)
    }"""
    model = model_of(text)
    monkeypatch.setattr("darwinc.batching.walk.reshaped", elsewhere)
    assert not free_batch(model, feed_of(model)).free


def test_the_walk_takes_time_linear_in_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = TorchGraph._evaluate
    for count in (40, 80):
        calls: list[int] = []
        monkeypatch.setattr(TorchGraph, "_evaluate", lambda *given, calls=calls: calls.append(1) or run(*given))
        body = " ".join(f"v{number} = Relu(v{number - 1})" for number in range(1, count))
        s = "s = Constant<value_ints = [1, 12]>() v0 = Reshape(x, s)"
        model = model_of(f"(float[1,3,4] x) => (float[1,12] v{count - 1}) {{ {s} {body} }}")
        assert free_batch(model, feed_of(model)).free
        runs.append(len(calls))
    # Once for one feed and once for three, twice for the others alone, and once on the repaired graph.
    assert runs == [5 * 40 + 1, 5 * 80 + 1]


def test_shapes_say_which_axis_grew() -> None:
    assert grown_axis((1, 3, 4), (3, 3, 4), 3) == 0
    assert grown_axis((2, 6), (2, 18), 3) == 1
    assert grown_axis((2, 6), (2, 6), 3) is None
    for many in [(2, 6, 1), (6, 18), (4, 6)]:
        with pytest.raises(BatchHeld):
            grown_axis((2, 6), many, 3)


@pytest.mark.parametrize(
    ("layout", "old", "new", "samples", "wanted"),
    [
        (Layout(0), (1, 3, 4), (1, 12), 1, Layout(0)),
        (Layout(1), (6, 1, 8), (6, 1, 2, 4), 1, Layout(1)),
        (Layout(2), (5, 1, 1, 4), (5, 1, 4), 1, Layout(1)),
        (Layout(0), (1, 5, 8), (5, 8), 1, Layout(0)),
        (Layout(1), (6, 1, 8), (6, 8), 1, Layout(0, 6)),
        (Layout(1), (6, 1, 8), (6, 2, 4), 1, Layout(1)),
        (Layout(1), (6, 1, 2, 4), (6, 8), 1, Layout(0, 6)),
        (Layout(0, 6), (6, 8), (6, 1, 8), 1, Layout(1)),
        (Layout(1), (6, 2, 8), (12, 8), 2, Layout(0, 6)),
        (Layout(0), (2, 3), (6,), 2, Layout(0)),
    ],
)
def test_a_reshape_keeps_what_lies_before_the_samples(
    layout: Layout, old: tuple[int, ...], new: tuple[int, ...], samples: int, wanted: Layout
) -> None:
    assert reshaped(layout, old, new, samples)[0] == wanted


def test_samples_between_others_are_joined_and_parted() -> None:
    import torch

    parts = [torch.arange(12).reshape(6, 2) + 100 * number for number in range(2)]
    layout = Layout(0, outer=3)
    whole = layout.joined(parts)
    assert whole[:, 0].tolist() == [0, 2, 100, 102, 4, 6, 104, 106, 8, 10, 108, 110]
    assert torch.equal(layout.first(whole, 2), parts[0])


FREE = CLASSIFIER.replace("f = Flatten(g)", "k = Constant<value = int64[2] {0, -1}>()\n    f = Reshape(g, k)")
FIXED = FREE.replace("[N,", "[1,").replace("{0, -1}", "{1, -1}")


def calibrated(model: onnx.ModelProto, folder: Path | None = None) -> tuple[Calibration, Channels]:
    """Prepared on 64 images, or without data."""
    loaded = ir.from_proto(model)
    channels = analyse(loaded)
    samples: Samples | None = None
    if folder is not None:
        path = save_data(folder / "data.npz", {"x": images(64, 3, 8, 8)})
        samples = open_data(str(path), inputs_of(loaded))
    return prepare(loaded, channels, samples, device="cpu", seed=0), channels


@pytest.mark.usefixtures("few_made_up_samples")
@pytest.mark.parametrize("with_data", [True, False])
def test_calibration_is_that_of_a_free_batch(tmp_path: Path, with_data: bool) -> None:
    found: list[Statistics] = []
    lengths: list[list[int]] = []
    for text in (FREE, FIXED):
        calibration, channels = calibrated(build(text), tmp_path if with_data else None)
        assert calibration.twin is not None
        assert (calibration.freed is None) == (text == FREE)
        lengths.append([samples_in(feed) for feed in calibration.batches])
        found.append(gather(calibration.twin, channels, calibration.batches, rung=calibration.rung))
    assert lengths[0] == lengths[1]
    assert max(lengths[1]) > 1
    for name, readers in found[0].readers.items():
        for one, other in zip(readers, found[1].readers[name], strict=True):
            np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(other.gram, one.gram, rtol=1e-4, atol=1e-6 * np.abs(one.gram).max())


def test_heads_beside_samples_are_calibrated_one_by_one() -> None:
    calibration, channels = calibrated(build(HEADS % -1))
    assert {samples_in(feed) for feed in calibration.batches} == {1}
    assert calibration.twin is not None
    gather(calibration.twin, channels, calibration.batches, rung=calibration.rung)


def recoveries(text: str, folder: Path) -> tuple[list[Recovery], list[str]]:
    """What half the size did to a network, on data."""
    data = save_data(folder / "data.npz", {"x": images(64, 3, 8, 8)})
    settings = Settings(bench_seconds=0, device="cpu", data=str(data))
    path = save(build(text), folder / "in.onnx")
    report = compress(path, target=0.4, output=folder / "out.onnx", settings=settings).report
    return report.recovery or [], report.warnings


def test_repairs_are_those_of_a_free_batch(tmp_path: Path) -> None:
    (wanted, _), (found, _) = recoveries(FREE, tmp_path), recoveries(FIXED, tmp_path)
    assert [entry.name for entry in found] == ["inherit", "recalibrate"]
    assert found[0].accepted
    for one, other in zip(wanted, found, strict=True):
        assert other.error_before == pytest.approx(one.error_before, rel=1e-3)
        assert other.error_after == pytest.approx(one.error_after, rel=1e-3)


def test_a_rewrite_that_takes_no_batches_is_not_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Calibration, "twin_of", lambda *_: None)
    entries, warnings = recoveries(FIXED, tmp_path)
    assert entries == []
    assert f"inherit was left out: {TOO_MANY}." in warnings


def test_a_twin_of_a_rewrite_takes_batches_or_is_none() -> None:
    held = model_of("(float[1,3,8,8] x) => (float[3,8,8] y) { k = Constant<value_int = 0>() y = Gather(x, k) }")
    fitting = model_of(FIXED)
    calibration = Calibration("data", TorchGraph(fitting), [], freed={"x": images(1, 3, 8, 8)})
    assert calibration.twin_of(held, "cpu") is None
    twin = calibration.twin_of(fitting, "cpu")
    assert twin is not None
    assert twin.detached({"x": images(5, 3, 8, 8)})["y"].shape == (5, 10)
    other = Calibration("data", free_batch(model_of(TOKENS), {"x": images(1, 6, 8)}).twin, [], freed=calibration.freed)
    assert other.twin_of(fitting, "cpu") is None
