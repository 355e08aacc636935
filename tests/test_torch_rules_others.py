"""Torch rules of losses, of bodies, of classic models, and of what turns files and tokens into numbers."""

from __future__ import annotations

import io
import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from darwinc.errors import UnsupportedOperator
from darwinc.torch_graph import TorchGraph
from darwinc.torch_rules import small_floats
from tests.operator_cases import Array, Case, check, ints, noise, scalar, ways, whole

SCORES = noise(4, 5, 3)
LABELS = whole(4, 3, low=0, high=5)
CLASSES = noise(5, seed=2, low=0.1, high=1.0)
LOSSES = [
    *(
        Case(op, [SCORES, LABELS, *weights], {"reduction": reduction, **ignored}, opset=13)
        for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
        for weights in ([], [CLASSES])
        for reduction in ("none", "sum", "mean")
        for ignored in ({}, {"ignore_index": 2}, {"ignore_index": -1})
    ),
    Case("SoftmaxCrossEntropyLoss", [noise(4, 5), whole(4, low=0, high=5)], opset=13, outputs=2),
]


def value(name: str, data_type: int = TensorProto.FLOAT, shape: tuple[int, ...] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, data_type, shape)


def stored(name: str, array: Array) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(array, name)


def branch(operator: str) -> onnx.GraphProto:
    nodes = [helper.make_node(operator, ["factor"], ["out"])]
    return helper.make_graph(nodes, operator, [], [value("out")], [stored("factor", noise(3))])


def turns() -> onnx.GraphProto:
    """total + step, as long as there are fewer than three turns; the square of each total besides."""
    nodes = [
        helper.make_node("Cast", ["turn"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["total", "number"], ["next"]),
        helper.make_node("Mul", ["next", "next"], ["square"]),
        helper.make_node("Less", ["number", "limit"], ["proceed"]),
    ]
    given = [value("turn", TensorProto.INT64, ()), value("goes", TensorProto.BOOL, ()), value("total", shape=(3,))]
    made = [value("proceed", TensorProto.BOOL, ()), value("next", shape=(3,)), value("square", shape=(3,))]
    return helper.make_graph(nodes, "turns", given, made, [stored("limit", scalar(2.0))])


def running(*states: str) -> onnx.GraphProto:
    """The sum so far of one sequence, plus another."""
    nodes = [helper.make_node("Add", [*states, "x"], ["sum"]), helper.make_node("Mul", ["sum", "y"], ["out"])]
    given = [*(value(name, shape=(2,)) for name in states), value("x", shape=(2,)), value("y", shape=(2,))]
    return helper.make_graph(nodes, "running", given, [value("sum", shape=(2,)), value("out", shape=(2,))])


def doubled(name: str) -> onnx.GraphProto:
    nodes = [helper.make_node("Mul", [name, "two"], ["out"])]
    return helper.make_graph(nodes, name, [value(name)], [value("out")], [stored("two", scalar(2.0))])


def flexible(query: Array, key: Array, values: Array) -> tuple[Array, ...]:
    scores = 2 * np.einsum("bhtd,bhsd->bhts", query, np.repeat(key, 2, 1)) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (2 * weights / weights.sum(-1, keepdims=True) @ np.repeat(values, 2, 1),)


SLICED = {"num_scan_inputs": 2, "body": running("state")}
BODIES = [
    *(
        Case("If", [np.array(holds)], {"then_branch": branch("Neg"), "else_branch": branch("Abs")})
        for holds in (True, False)
    ),
    Case("Loop", [np.array(5), np.array(True), noise(3)], {"body": turns()}, outputs=2),
    Case("Loop", [np.array(2), None, noise(3)], {"body": turns()}, outputs=2),
    Case("Loop", [None, np.array(True), noise(3)], {"body": turns()}, outputs=2),
    Case("Scan", [noise(2), noise(4, 2), noise(4, 2, seed=1)], SLICED, outputs=2),
    Case(
        "Scan",
        [noise(2), noise(2, 4), noise(4, 2, seed=1)],
        {
            **SLICED,
            "scan_input_axes": [1, 0],
            "scan_input_directions": [0, 1],
            "scan_output_axes": [1],
            "scan_output_directions": [1],
        },
        outputs=2,
    ),
    Case(
        "ai.onnx.preview::FlexAttention",
        [noise(1, 4, 3, 8), noise(1, 2, 5, 8, seed=1), noise(1, 2, 5, 6, seed=2)],
        {"score_mod": doubled("scores"), "prob_mod": doubled("weights")},
        opset=23,
        closed=flexible,
    ),
]


def picture(mode: str) -> tuple[Array, Array]:
    """The bytes of a PNG file, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    image, data = Image.fromarray(pixels).convert(mode), io.BytesIO()
    image.save(data, "PNG")
    return np.frombuffer(data.getvalue(), np.uint8).copy(), np.asarray(image)


FILE, PIXELS = picture("RGB")
GREY_FILE, GREY = picture("L")
POOL = {
    "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
    "ngram_counts": [0, 4],
    "ngram_indexes": [0, 1, 2, 3, 4, 5, 6],
    "min_gram_length": 1,
    "max_gram_length": 2,
}
TOKENS = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], np.int32)
SPECTRUM = [np.array(8, np.int64), np.array(64, np.int64), np.array(8192, np.int64), scalar(20.0), scalar(4000.0)]
DECODING = [
    Case("ImageDecoder", [FILE], {"pixel_format": "RGB"}, opset=20, closed=lambda _: (PIXELS,)),
    Case("ImageDecoder", [FILE], {"pixel_format": "BGR"}, opset=20, closed=lambda _: (PIXELS[..., ::-1],)),
    Case("ImageDecoder", [GREY_FILE], {"pixel_format": "Grayscale"}, opset=20, closed=lambda _: (GREY[..., None],)),
    Case("TfIdfVectorizer", [TOKENS], {**POOL, "mode": "TF", "max_skip_count": 0}),
    Case("TfIdfVectorizer", [TOKENS[0]], {**POOL, "mode": "TF", "max_skip_count": 5}),
    *(
        Case(
            "TfIdfVectorizer", [TOKENS], {**POOL, "mode": mode, "max_skip_count": 2, "weights": [0.5, 1, 2, 3, 4, 5, 6]}
        )
        for mode in ("IDF", "TFIDF")
    ),
    Case("MelWeightMatrix", SPECTRUM),
    *(
        Case("BitCast", [x], {"to": to}, opset=26, closed=lambda x, kind=kind: (x.view(kind),))
        for x, to, kind in (
            (noise(2, 3), TensorProto.INT32, np.int32),
            (noise(2, 3).astype(np.float16), TensorProto.UINT16, np.uint16),
            (np.arange(3, dtype=np.int64), TensorProto.DOUBLE, np.float64),
        )
    ),
]

TREE = {
    "aggregate_function": 1,
    "n_targets": 2,
    "nodes_falseleafs": [0, 1, 1],
    "nodes_falsenodeids": [2, 1, 3],
    "nodes_featureids": [0, 0, 1],
    "nodes_missing_value_tracks_true": [0, 1, 0],
    "nodes_modes": stored("nodes_modes", np.zeros(3, np.uint8)),
    "nodes_splits": stored("nodes_splits", np.array([0.1, -0.7, 0.4], np.float32)),
    "nodes_trueleafs": [0, 1, 1],
    "nodes_truenodeids": [1, 0, 2],
    "tree_roots": [0, 2],
    "leaf_targetids": [0, 1, 0, 1],
    "leaf_weights": stored("leaf_weights", np.array([5.2, 12.1, -3.0, 7.1], np.float32)),
}
CLASSIC = [
    Case("ai.onnx.ml::ArrayFeatureExtractor", [noise(3, 4), ints(2, 0)]),
    Case("ai.onnx.ml::ArrayFeatureExtractor", [noise(4), ints(2, 0)]),
    Case("ai.onnx.ml::Binarizer", [noise(3, 4)], {"threshold": 0.3}),
    *(Case("ai.onnx.ml::TreeEnsemble", [noise(9, 2)], {**TREE, "aggregate_function": kind}) for kind in (0, 1, 2, 3)),
]

CASES = [*LOSSES, *BODIES, *DECODING, *CLASSIC]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)


AROUND = """
    <ir_version: 8, opset_import: ["" : 16]>
    g (float[3] x, bool[] c) => (float[3] y) <float[3] w = {1.0, 2.0, 3.0}>
    {
        h = Mul(x, w)
        y = If(c) <
            then_branch = yes () => (float[3] a) <float[3] inner = {1.0, 1.0, 1.0}> {
                b = Add(h, w)
                a = If(c) <
                    then_branch = deep () => (float[3] d) { d = Mul(b, inner) },
                    else_branch = other () => (float[3] e) { e = Neg(x) }
                >
            },
            else_branch = no () => (float[3] f) { f = Mul(h, h) }
        >
    }
"""


@pytest.mark.parametrize("holds", [True, False])
def test_a_body_reads_what_is_around_it_and_a_gradient_goes_back(holds: bool) -> None:
    twin = TorchGraph(ir.from_proto(onnx.parser.parse_model(AROUND)))
    x = torch.tensor([1.0, 2.0, 3.0])
    out = twin({"x": x, "c": torch.tensor(holds)})["y"]
    w = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(out, x * w + w if holds else (x * w) ** 2)
    (gradient,) = torch.autograd.grad(out.sum(), twin.weights()["w"])
    assert torch.allclose(gradient, x + 1 if holds else 2 * x * x * w)


def test_what_a_body_stores_is_not_trained() -> None:
    twin = TorchGraph(ir.from_proto(onnx.parser.parse_model(AROUND)))
    assert twin.weights().keys() == {"w"}
    assert sum(parameter.requires_grad for parameter in twin.parameters()) == 1


def test_no_turn_at_all_is_refused_where_something_would_have_to_be_stacked() -> None:
    case = Case("Loop", [np.array(0), np.array(True), noise(3)], {"body": turns()}, outputs=2)
    with pytest.raises(UnsupportedOperator, match="no turn at all"):
        TorchGraph(ir.from_proto(case.model(constant=True)))(case.feed(case.model(constant=True)))


@pytest.mark.parametrize("dtype", small_floats.FORMATS, ids=lambda dtype: dtype.name)
def test_small_floats_are_rounded_as_their_type_rounds(dtype: ir.DataType) -> None:
    form = small_floats.FORMATS[dtype]
    x = (
        noise(4000, low=-1.2, high=1.2)
        * np.float32(form.largest)
        * 2.0 ** -np.arange(4000, dtype=np.float32).__mod__(25)
    )
    x = np.clip(x, -form.largest, form.largest).astype(np.float32)
    found = small_floats.rounded(torch.from_numpy(x), dtype).numpy()
    np.testing.assert_array_equal(found, x.astype(dtype.numpy()).astype(np.float32))


def test_a_gradient_passes_a_small_float_where_it_fits() -> None:
    x = torch.tensor([0.3, 700.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(small_floats.rounded(x, ir.DataType.FLOAT8E4M3FN).sum(), x)
    assert gradient.tolist() == [1.0, 0.0]
    assert small_floats.rounded(x, ir.DataType.FLOAT8E5M2, saturate=False).tolist() == [0.3125, 640.0]


@pytest.mark.parametrize(
    ("mode", "wanted"), [("up", [2.0, 2.0, 4.0]), ("down", [1.0, 1.0, 4.0]), ("nearest", [1.0, 2.0, 4.0])]
)
def test_scales_are_powers_of_two(mode: str, wanted: list[float]) -> None:
    assert small_floats.power_of_two(torch.tensor([1.4, 1.5, 4.0]), mode).tolist() == wanted
