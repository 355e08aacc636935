"""What training is told: kinds of outputs, the teacher's part, the labels' part, and where losses can be taken."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from darwinc.calibrators.endings import differentiable_endings
from darwinc.calibrators.training.labels import check_labels
from darwinc.calibrators.training.objectives import Ending, Objective, infer_endings, missed_share, supervise
from darwinc.errors import InvalidData, UsageError
from darwinc.torch_graph import TorchGraph
from darwinc.training import Training, parse_outputs

CHOICE = """
    <ir_version: 8, opset_import: ["" : 17]>
    detector (float[N, 4] x, float[4, 6] w) => (float[N, 2] best, int64[N, 2] places, float[N, 6] p)
    <float[4, 6] w, int64[1] two = {2}>
    {
        scores = MatMul(x, w)
        p = Sigmoid(scores)
        best, places = TopK(p, two)
    }
"""
MASK = """
    <ir_version: 8, opset_import: ["" : 17]>
    masked (float[N, 4] x, float[4, 6] w) => (float[N, 6] y, float[N] count)
    <float[4, 6] w, float zero = {0.0}, int64[1] last = {1}>
    {
        scores = MatMul(x, w)
        positive = Greater(scores, zero)
        y = Where(positive, scores, zero)
        ones = Cast<to = 1>(positive)
        count = ReduceSum<keepdims = 0>(ones, last)
    }
"""


def twin(text: str) -> TorchGraph:
    model = ir.from_onnx_text(text)
    weights = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    model.graph.register_initializer(ir.Value(name="w", const_value=ir.tensor(weights.numpy(), name="w")))
    return TorchGraph(model)


def graph(body: str, output: str) -> TorchGraph:
    return TorchGraph(
        ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => ({output}) {{ {body} }}')
    )


def test_losses_are_taken_before_a_choice_and_at_the_outputs_beside_it() -> None:
    assert differentiable_endings(twin(CHOICE)) == ["p"]


def test_a_mask_stops_no_gradient_but_a_count_does() -> None:
    assert differentiable_endings(twin(MASK)) == ["scores", "y"]


def test_softened_divergence_is_hintons() -> None:
    wanted, got = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    ending = Ending("y", "classes")
    soft = [(scores / 3).softmax(1) for scores in (wanted, got)]
    expected = 9 * (soft[0] * (soft[0] / soft[1]).log()).sum(1).mean()
    torch.testing.assert_close(ending.divergence(wanted, got, 3.0), expected)


def test_scores_after_a_softmax_are_matched_as_the_logits_before_it_are() -> None:
    wanted, got = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(2))
    logits = Ending("y", "classes").divergence(wanted, got, 4.0)
    chances = Ending("y", "classes", True).divergence(wanted.softmax(1), got.softmax(1), 4.0)
    torch.testing.assert_close(chances, logits, rtol=1e-4, atol=1e-6)


def test_maps_are_matched_pixel_by_pixel() -> None:
    wanted, got = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    rows = [scores.permute(0, 2, 3, 1).reshape(-1, 4) for scores in (wanted, got)]
    found = Ending("y", "dense").divergence(wanted, got, 2.0)
    torch.testing.assert_close(found, Ending("y", "classes").divergence(rows[0], rows[1], 2.0))


@pytest.mark.parametrize("kind", ["classes", "dense", "binary", "values"])
def test_the_teachers_own_answer_costs_nothing_and_any_other_something(kind: str) -> None:
    wanted = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    wanted = wanted[:, :, 0, 0] if kind == "classes" else wanted
    ending = Ending("y", kind)
    assert abs(float(ending.divergence(wanted, wanted, 4.0))) < 1e-6
    assert float(ending.divergence(wanted, wanted.flip(0), 4.0)) > 1e-3


def test_guessing_the_mean_misses_all_of_the_spread() -> None:
    wanted = torch.randn(50, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, 100.0, 0.1])
    guess = wanted.mean(0, keepdim=True).expand_as(wanted)
    assert float(missed_share(wanted, guess)) == pytest.approx(1.0, rel=5e-3)
    half = torch.where(torch.tensor([True, False, False]), guess, wanted)
    assert float(missed_share(wanted, half)) == pytest.approx(1 / 3, rel=5e-3)


def test_an_output_that_never_varies_is_measured_by_its_size() -> None:
    wanted = torch.full((4, 2), 3.0)
    assert float(missed_share(wanted, 1.01 * wanted)) == pytest.approx(1.0, rel=5e-3)


@pytest.mark.parametrize(
    ("body", "value", "kind"),
    [
        ("y = Softmax<axis = 1>(x)", torch.tensor([[0.2, 0.3, 0.5]]), "classes"),
        ("y = Sigmoid(x)", torch.tensor([[0.2, 0.9, 0.5]]), "binary"),
        ("s = HardSigmoid(x) y = Transpose(s)", torch.tensor([[0.2, 0.9, 0.5]]), "binary"),
        ("y = Identity(x)", torch.tensor([[9.0, 0.0, 0.0]]), "classes"),
        ("y = Identity(x)", torch.tensor([[0.1, 0.0, 0.05]]), "values"),
    ],
)
def test_what_an_output_is_follows_from_its_values_and_from_what_made_it(
    body: str, value: torch.Tensor, kind: str
) -> None:
    found = infer_endings(graph(body, "float[N, 3] y"), ["y"], {"y": value}, {})
    assert [ending.kind for ending in found] == [kind]


def test_what_an_output_is_can_be_told() -> None:
    answers = {"y": torch.tensor([[0.1, 0.0, 0.05]])}
    model = graph("y = Identity(x)", "float[N, 3] y")
    told = parse_outputs("y=classes")
    assert infer_endings(model, ["y"], answers, told)[0].kind == "classes"
    with pytest.raises(UsageError, match="losses are taken at y"):
        infer_endings(model, ["y"], answers, parse_outputs("z=values"))


@pytest.mark.parametrize("text", ["y", "y=boxes", "=values"])
def test_a_kind_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=KIND"):
        parse_outputs(text)


def test_cross_entropy_reads_logits_and_probabilities_alike() -> None:
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(6))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    wanted = F.cross_entropy(scores, labels)
    for ending, answers in ((Ending("y", "classes"), scores), (Ending("y", "classes", True), scores.softmax(1))):
        supervision = supervise("auto", [ending], {"y": answers}, labels)
        assert supervision.kind == "cross-entropy"
        torch.testing.assert_close(supervision.loss({"y": answers}, labels), wanted, rtol=1e-4, atol=1e-6)
        wrong = (scores.argmax(1) != labels).float().mean()
        assert float(supervision.mistakes({"y": answers}, labels)) == float(wrong)


def test_maps_are_resized_to_their_labels_and_ignored_pixels_do_not_count() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(3, (2, 8, 8), generator=torch.Generator().manual_seed(8))
    labels[:, :4] = 255
    supervision = supervise("auto", [Ending("y", "values")], {"y": scores}, labels)
    assert supervision.kind == "dense"
    large = F.interpolate(scores, (8, 8), mode="bilinear")[:, :, 4:]
    wanted = F.cross_entropy(large, labels[:, 4:])
    torch.testing.assert_close(supervision.loss({"y": scores}, labels), wanted)
    wrong = (large.argmax(1) != labels[:, 4:]).float().mean()
    torch.testing.assert_close(supervision.mistakes({"y": scores}, labels), wrong)


def test_several_yes_or_no_labels_are_binary() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(9))
    labels = (logits > 0.3).long()
    supervision = supervise("auto", [Ending("y", "values")], {"y": logits}, labels)
    assert supervision.kind == "binary"
    wanted = F.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(supervision.loss({"y": logits}, labels), wanted)
    after = supervise("binary", [Ending("y", "binary")], {"y": logits.sigmoid()}, labels)
    torch.testing.assert_close(after.loss({"y": logits.sigmoid()}, labels), wanted, rtol=1e-4, atol=1e-6)


def test_labels_that_fit_no_output_are_explained() -> None:
    with pytest.raises(InvalidData, match=r"Labels of shape \[4\].*y \[4, 3, 2, 2\]"):
        supervise("auto", [Ending("y", "values")], {"y": torch.zeros(4, 3, 2, 2)}, torch.zeros(4, dtype=torch.long))


def user_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return (outputs["y"] - labels).abs().mean()


def test_a_loss_of_the_users_own_is_called_with_outputs_and_labels() -> None:
    answers = {"y": torch.tensor([[1.0, 2.0]])}
    labels = torch.tensor([[0.0, 0.0]])
    supervision = supervise(f"{__name__}:user_loss", [Ending("y", "values")], answers, labels)
    assert float(supervision.loss(answers, labels)) == 1.5
    assert float(supervision.mistakes(answers, labels)) == 1.5
    for spec in (f"{__name__}:missing", "no.such.module:loss", "nonsense"):
        with pytest.raises(UsageError):
            supervise(spec, [Ending("y", "values")], answers, labels)


def raising_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return outputs["logits"].sum()


def plain_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> float:
    return 1.0


def long_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return outputs["y"] - labels


def cut_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return outputs["y"].detach().sum()


def test_an_answer_that_is_not_finite_or_empty_is_not_matched() -> None:
    source, bad = twin(CHOICE), torch.tensor([[1.0, math.nan]])
    with pytest.raises(InvalidData, match=r"'p' holds values that aren't finite.*--outputs p=ignore"):
        infer_endings(source, ["p"], {"p": bad}, {})
    assert infer_endings(source, ["p"], {"p": bad}, {"p": "ignore"})[0].kind == "ignore"
    assert infer_endings(source, ["p"], {"p": torch.zeros(2, 0)}, {})[0].kind == "ignore"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raising_loss", r"raised KeyError \('logits'\); it is given the outputs y"),
        ("plain_loss", "returned a float; return a tensor"),
        ("long_loss", r"returned shape \[1, 2\]"),
        ("cut_loss", "no gradient leads to"),
    ],
)
def test_what_is_wrong_with_a_loss_of_the_users_own_is_said(name: str, said: str) -> None:
    answers = {"y": torch.tensor([[1.0, 2.0]], requires_grad=True)}
    labels = torch.tensor([[0.0, 0.0]])
    supervision = supervise(f"{__name__}:{name}", [Ending("y", "values")], answers, labels)
    with pytest.raises(UsageError, match=said):
        supervision.loss(answers, labels)


def test_labels_and_teacher_share_the_loss() -> None:
    scores, answers = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(10))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    ending = Ending("y", "classes")
    supervision = supervise("auto", [ending], {"y": scores}, labels)
    both = Objective([ending], temperature=2.0, supervision=supervision, share=0.25)
    wanted = 0.75 * F.cross_entropy(scores, labels) + 0.25 * ending.divergence(answers, scores, 2.0)
    torch.testing.assert_close(both.loss({"y": scores}, {"y": answers}, labels), wanted)
    mistakes, loss = both.score({"y": scores}, {"y": answers}, labels).tolist()
    assert mistakes == pytest.approx(float((scores.argmax(1) != labels).float().mean()))
    assert loss == pytest.approx(float(F.cross_entropy(scores, labels)))
    assert both.measure == "top-1 error"


def test_an_output_that_is_ignored_is_not_matched() -> None:
    endings = [Ending("a", "values"), Ending("b", "ignore")]
    right, wrong = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(11))
    objective = Objective(endings)
    assert float(objective.loss({"a": right, "b": wrong}, {"a": right, "b": right}, None)) == 0.0
    assert math.isclose(float(objective.score({"a": right, "b": wrong}, {"a": right, "b": right}, None)[0]), 0.0)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (Training(steps=0), "--steps"),
        (Training(minutes=-1.0), "--minutes"),
        (Training(batch=0), "--batch"),
        (Training(optimizer="newton"), "choose from adamw, sgd"),
        (Training(precision="int8"), "choose from auto, fp32"),
        (Training(validation=1.0), "--validation"),
        (Training(resume=True), "--run-dir"),
    ],
)
def test_what_no_model_could_make_right_is_refused(training: Training, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        training.judge()


def test_a_batch_of_ignored_labels_costs_nothing() -> None:
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(12))
    labels = torch.full((4,), 255)
    supervision = supervise("auto", [Ending("y", "classes")], {"y": scores}, labels)
    assert float(supervision.loss({"y": scores}, labels)) == 0.0
    assert float(supervision.mistakes({"y": scores}, labels)) == 0.0


def test_a_byte_is_a_class_where_there_are_that_many() -> None:
    scores = torch.randn(4, 300, generator=torch.Generator().manual_seed(13))
    labels = torch.tensor([255, 255, 0, 1])
    supervision = supervise("auto", [Ending("y", "classes")], {"y": scores}, labels)
    torch.testing.assert_close(supervision.loss({"y": scores}, labels), F.cross_entropy(scores, labels))


def test_labels_pass_by_an_output_without_axes() -> None:
    answers, labels = {"l": torch.tensor(1.0), "y": torch.zeros(4, 3)}, torch.tensor([0, 1, 2, 0])
    assert supervise("auto", [Ending("l", "values"), Ending("y", "classes")], answers, labels).ending.name == "y"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 3], "label of 3 was found, but the output 'y' has 3 classes"),
        ([0, -1, 2], "label of -1 was found"),
        ([255, 255, 255], "All labels of the samples for validation are 255"),
        ([[0.0, 1.0, 20.0]], "label of 20 was found, but the binary loss"),
        ([[0.0, 1.0, math.nan]], "label of nan was found"),
    ],
)
def test_labels_that_no_loss_can_read_are_refused(labels: Any, said: str) -> None:
    given, scores = torch.tensor(labels), torch.zeros(len(labels), 3)
    supervision = supervise("auto", [Ending("y", "values")], {"y": scores}, given)
    with pytest.raises(InvalidData, match=said):
        check_labels(supervision, scores, {"validation": given.numpy()})


def test_what_is_ignored_altogether_teaches_nothing() -> None:
    scores, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(14)), torch.tensor([0, 1, 2, 0])
    endings = [Ending("y", "ignore")]
    with pytest.raises(UsageError, match="ignore of every output"):
        Objective(endings)
    supervision = supervise("auto", endings, {"y": scores}, labels)
    objective = Objective(endings, supervision=supervision, share=0.5)
    wanted = F.cross_entropy(scores, labels)
    torch.testing.assert_close(objective.loss({"y": scores}, {"y": scores}, labels), wanted)
    torch.testing.assert_close(objective.score({"y": scores}, {"y": scores}, labels)[1], wanted)
