"""Sessions load what ONNX Runtime takes and refuse the rest in one sentence; made-up feeds fit and really run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from darwinc.errors import InvalidModel, UsageError
from darwinc.runtime import InputSpec, input_specs, made_up_feed, open_session, pin, run, usable_feed


def model(text: str, opset: int = 17) -> bytes:
    parsed = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> agraph {text}')
    return bytes(parsed.SerializeToString())


def one_op(node: str, inputs: str = "float[N, 3] x", output: str = "float[N, M] y", constants: str = "") -> bytes:
    return model(f"({inputs}) => ({output}) {constants} {{ {node} }}")


def test_a_session_answers_like_the_closed_form() -> None:
    session = open_session(one_op("y = Gemm(x, w)", constants="<float[3, 2] w = {1, 2, 3, 4, 5, 6}>"))
    x = np.array([[1, 0, -1], [2, 2, 2]], np.float32)
    answer = run(session, {"x": x})
    np.testing.assert_array_equal(answer["y"], x @ np.array([[1, 2], [3, 4], [5, 6]], np.float32))


def test_the_options_reach_onnx_runtime() -> None:
    session = open_session(one_op("y = Relu(x)"), threads=3, optimization="basic")
    options = session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_external_data_is_found_beside_the_path(tmp_path: Path) -> None:
    source = onnx.load_from_string(one_op("y = Gemm(x, w)", constants="<float[3, 1] w = {1, 2, 3}>"))
    path = tmp_path / "model.onnx"
    onnx.save_model(source, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    answer = run(open_session(path), {"x": np.ones((1, 3), np.float32)})
    assert answer["y"].item() == 6


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (b"", "No graph"),
        (b"not a model", "parsing failed"),
        (one_op("y = Relu(x)")[:-9], "parsing failed"),
        (one_op("y = Frobnicate(x)"), "Frobnicate"),
        (Path("nowhere.onnx"), "not a file"),
    ],
)
def test_what_cannot_be_loaded_is_named_in_one_sentence(bad: bytes | Path, cause: str) -> None:
    with pytest.raises(InvalidModel, match=cause) as caught:
        open_session(bad)
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_a_provider_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="CPUExecutionProvider"):
        open_session(one_op("y = Relu(x)"), providers=["NoSuchExecutionProvider"])


def test_a_feed_that_does_not_fit_names_its_shapes() -> None:
    with pytest.raises(InvalidModel, match=r"'x' \[2, 4\].*Expected: 3"):
        run(open_session(one_op("y = Relu(x)")), {"x": np.zeros((2, 4), np.float32)})
    with pytest.raises(InvalidModel, match="missing"):
        run(open_session(one_op("y = Relu(x)")), {})


def test_specs_leave_out_initializers_that_are_inputs() -> None:
    text = "(float[N, 3] x, float[3] b) => (float[N, 3] y) <float[3] b = {1, 2, 3}> { y = Add(x, b) }"
    assert input_specs(open_session(model(text))) == [InputSpec("x", np.dtype("float32"), ("N", 3))]


def test_an_input_that_numpy_cannot_hold_is_refused() -> None:
    session = open_session(one_op("y = Cast<to = 1>(x)", inputs="bfloat16[N, 3] x"))
    with pytest.raises(InvalidModel, match=r"'x' is a tensor.bfloat16"):
        input_specs(session)


_TYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16", "bool", "object"]
_AXES = st.one_of(st.integers(1, 4), st.sampled_from(["N", "T", None]))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(_TYPES),
    axes=st.lists(_AXES, max_size=4),
    batch=st.integers(1, 3),
    free=st.integers(1, 5),
)
def test_made_up_feeds_have_the_type_and_the_fixed_sizes(
    dtype: str, axes: list[int | str | None], batch: int, free: int
) -> None:
    spec = InputSpec("x", np.dtype(dtype), tuple(axes))
    array = made_up_feed([spec], seed=1, batch=batch, free=free)["x"]
    assert array.dtype == spec.dtype
    symbol = axes[0] if axes and isinstance(axes[0], str) else object()
    assert array.shape == tuple(
        size if isinstance(size, int) else batch if axis == 0 or size == symbol else free
        for axis, size in enumerate(axes)
    )
    if array.dtype.kind in "iu":
        assert array.size == 0 or array.min() >= 0
    again = made_up_feed([spec], seed=1, batch=batch, free=free)["x"]
    np.testing.assert_array_equal(array, again)


def test_a_batch_symbol_counts_on_later_axes_of_other_inputs() -> None:
    specs = [
        InputSpec("x", np.dtype("float32"), ("batch", "time")),
        InputSpec("state", np.dtype("float32"), (2, "batch", 8)),
    ]
    feed = made_up_feed(specs, seed=0, batch=3, free=5)
    assert (feed["x"].shape, feed["state"].shape) == ((3, 5), (2, 3, 8))
    assert [spec.shape for spec in pin(specs, feed)] == [("batch", 5), (2, 3, 8)]


def test_a_usable_feed_finds_the_free_size_that_runs() -> None:
    node = "s = Constant<value_ints = [-1, 32]>() r = Reshape(x, s) y = Gemm(r, w)"
    weights = ", ".join(["1"] * 32)
    data = one_op(node, inputs="float[1, L] x", constants=f"<float[32, 1] w = {{{weights}}}>")
    assert usable_feed(open_session(data))["x"].shape[1] % 32 == 0
    fixed = one_op("y = MatMul(x, w)", inputs="float[N, L] x", constants=f"<float[32, 1] w = {{{weights}}}>")
    assert usable_feed(open_session(fixed))["x"].shape == (2, 32)


def test_a_usable_feed_falls_back_to_a_batch_of_one() -> None:
    node = "s = Constant<value_ints = [1, 3]>() y = Reshape(x, s)"
    assert usable_feed(open_session(one_op(node)))["x"].shape == (1, 3)


def test_a_usable_feed_keeps_indices_in_range() -> None:
    data = one_op("y = Gather(w, x)", inputs="int64[N, 4] x", constants="<float[2] w = {1.5, 2.5}>")
    assert usable_feed(open_session(data))["x"].max() <= 1


def test_a_usable_feed_avoids_nan() -> None:
    feed = usable_feed(open_session(one_op("y = Sqrt(x)")))
    assert feed["x"].min() >= 0
    mask = one_op(
        "m = Log(s) n = Sub(z, m) y = Sub(x, z)", inputs="float[N, 3] x, float[1] s", constants="<float z = {0}>"
    )
    assert np.isfinite(run(open_session(mask), usable_feed(open_session(mask)))["y"]).all()


def test_outputs_that_ignore_the_input_are_refused_unless_asked_for() -> None:
    session = open_session(one_op("z = Sub(x, x) y = Add(z, w)", constants="<float[1] w = {1}>"))
    with pytest.raises(InvalidModel, match="don't depend on its inputs"):
        usable_feed(session)
    assert usable_feed(session, demand="finite")["x"].shape == (2, 3)


def test_a_model_that_never_runs_is_refused_with_the_reason() -> None:
    weights = ", ".join(["1"] * 7)
    session = open_session(
        one_op("y = MatMul(x, w)", inputs="float[N, L] x", constants=f"<float[7, 1] w = {{{weights}}}>")
    )
    with pytest.raises(InvalidModel, match=r"no made-up input serves this model.*--data"):
        usable_feed(session)


def test_nothing_here_imports_torch() -> None:
    code = "import sys, darwinc.runtime, darwinc.benchmark, darwinc.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
