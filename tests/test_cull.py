"""Which groups may lose channels, by what they are judged, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from darwinc import graph
from darwinc.calibrators.criteria import make_fitness
from darwinc.channels import Channels, analyse
from darwinc.console import Terminal
from darwinc.cost import CostModel, count_parameters
from darwinc.data import InputSpec, open_data
from darwinc.eligibility import eligible, what_holds
from darwinc.errors import Unreachable, UsageError
from darwinc.fitness.rivals import magnitudes, random_scores, unit_scores
from darwinc.fitness.static import StaticScore
from darwinc.passes.cull import COUNTED, Cull
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job, run_pass
from darwinc.scoring import WEIGHTS_TELL
from tests.small_models import CLASSIFIER, build, images, save_data, stored


def job(model: onnx.ModelProto | None = None) -> Job:
    loaded = ir.from_proto(model or build(CLASSIFIER))
    return Job(loaded, analyse(loaded), Terminal(quiet=True))


def planned(cull: Cull, model: onnx.ModelProto | None = None) -> int:
    made = job(model)
    return cull.plan(made.original, made.channels)[1]


def test_the_need_is_counted_from_the_target() -> None:
    model = ir.from_proto(build(CLASSIFIER))
    assert planned(Cull("sparsity", 0.4)) == int(np.ceil(0.4 * count_parameters(model)))
    macs = 64 * 16 * (27 + 144) + 160
    assert planned(Cull("macs", 0.25)) == int(np.ceil(0.25 * macs))
    size = len(graph.to_bytes(model))
    assert 8 * 4000 <= planned(Cull("bytes", size - 4000)) < 8 * 4600
    with pytest.raises(Unreachable, match="nothing has to go"):
        planned(Cull("bytes", 1e6))


@pytest.mark.parametrize(("kind", "bits"), [("float", 32), ("float16", 16), ("uint8", 8)])
def test_a_size_is_counted_in_bits_of_what_is_stored(kind: str, bits: int) -> None:
    reader = {"float": "a = Conv(x, w)", "float16": "h = Cast<to: int = 1>(w)\n a = Conv(x, h)"}
    body = reader.get(kind, "d = DequantizeLinear(w, s, z)\n a = Conv(x, d)")
    inputs = f"float[N,6,8,8] x, {kind}[16,6,3,3] w, float[4,16,1,1] v, float s, uint8 z"
    model = build(f"({inputs}) => (y) {{ {body}\n y = Conv(a, v)\n }}")
    channels = job(model).channels
    assert [len(group) for group in channels.groups] == [16]
    assert CostModel(channels).terms("bytes").saved(0, 3) == 3 * (54 * bits + 4 * 32)


@pytest.mark.parametrize("target", COUNTED)
def test_a_target_out_of_reach_is_refused_with_what_holds(target: str) -> None:
    amount = 100.0 if target == "bytes" else 0.999
    with pytest.raises(Unreachable, match="channels are held by") as refused:
        planned(Cull(target, amount))
    assert "at most 90 % of a group" in str(refused.value)


def test_a_smaller_share_reaches_less() -> None:
    planned(Cull("sparsity", 0.9))
    with pytest.raises(Unreachable, match=r"the reachable range is 0 to 0\.691, with at most 50 % of a group"):
        planned(Cull("sparsity", 0.9, max_share=0.5))


def test_no_group_left_is_nothing_to_remove() -> None:
    with pytest.raises(Unreachable, match="No channel can be removed"):
        planned(Cull("sparsity", 0.1, protect=("*",)))


def channels() -> Channels:
    return job().channels


@pytest.mark.parametrize(
    ("protect", "only", "wanted"),
    [
        ((), (), [True, True]),
        (("w1",), (), [False, True]),
        (("Gemm_*",), (), [True, False]),
        ((), ("Conv_0",), [True, False]),
        (("b1",), ("w*",), [False, True]),
        ((), ("scale", "w1"), [True, True]),
    ],
)
def test_patterns_name_tensors_and_the_nodes_that_read_them(
    protect: tuple[str, ...], only: tuple[str, ...], wanted: list[bool]
) -> None:
    assert eligible(channels(), protect, only) == wanted


def test_a_group_has_a_name_of_its_own() -> None:
    found = channels()
    assert eligible(found, (found.groups[1].id,), ()) == [True, False]


@pytest.mark.parametrize("option", ["protect", "only"])
def test_a_pattern_that_matches_nothing_is_a_mistake(option: str) -> None:
    patterns = ("W1",)
    with pytest.raises(UsageError, match=f"--{option} 'W1' matches no group"):
        eligible(channels(), patterns if option == "protect" else (), patterns if option == "only" else ())


def test_what_holds_counts_equal_reasons() -> None:
    text = "(float[N,4,8,8] x, float[4,4,1,1] w) => (y) { a = Conv(x, w)\n b = TopK_like(a)\n y = Relu(b)\n }"
    assert "channels are held by" in what_holds(channels())
    model = build(text.replace("b = TopK_like(a)", "b = Softmax<axis = 1>(a)"))
    assert "Softmax" in what_holds(job(model).channels)
    nothing = build("(float[N,4] x) => (y) { y = Relu(x)\n }")
    assert what_holds(job(nothing).channels) == "it has no convolution or matrix product with channels of its own"


@pytest.mark.parametrize("power", [1, 2])
def test_magnitudes_are_those_of_the_filters(power: int) -> None:
    weights = stored(build(CLASSIFIER))
    found = unit_scores(channels(), magnitudes(channels(), power))
    for group, name in zip(channels().groups, ("w1", "w2"), strict=True):
        wanted = (np.abs(weights[name].astype(np.float64)) ** power).sum((1, 2, 3))
        np.testing.assert_allclose([found[int(unit)] for unit in group.units], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("made", "axis"),
    [
        ("h = Gemm(x, w)", 1),
        ("h = Gemm<transB = 1>(x, w)", 0),
        ("h = MatMul(x, w)", 1),
    ],
)
def test_the_filters_of_a_product_lie_along_its_outputs(made: str, axis: int) -> None:
    shape = "5,6" if axis else "6,5"
    text = f"(float[N,5] x, float[{shape}] w, float[6,3] v) => (y) {{ {made}\n r = Relu(h)\n y = MatMul(r, v)\n }}"
    model = build(text)
    found = job(model).channels
    scores = unit_scores(found, magnitudes(found, 1))
    wanted = np.abs(stored(model)["w"].astype(np.float64)).sum(1 - axis)
    (group,) = found.groups
    np.testing.assert_allclose([scores[int(unit)] for unit in group.units], wanted, rtol=1e-6)


def test_random_scores_follow_the_seed() -> None:
    groups = [group.units for group in channels().groups]
    assert random_scores(groups, 3) == random_scores(groups, 3)
    assert random_scores(groups, 3) != random_scores(groups, 4)


@pytest.mark.parametrize("name", WEIGHTS_TELL)
def test_what_needs_no_statistics_gathers_none(name: str) -> None:
    made = job()
    with made.terminal.stage("cull") as stage:
        assert isinstance(make_fitness(name, made, stage), StaticScore)
    assert made.calibration is None


def test_an_unknown_fitness_lists_those_there_are() -> None:
    made = job()
    with made.terminal.stage("cull") as stage, pytest.raises(UsageError, match="choose from darwin, taylor, fisher"):
        make_fitness("height", made, stage)


def test_the_smallest_filters_go_first() -> None:
    weights = stored(build(CLASSIFIER))
    small = weights["w2"].copy()
    small[[3, 8, 11, 14]] *= 1e-3
    made = job(build(CLASSIFIER, given={**weights, "w2": small}))
    run_pass(Cull("sparsity", 0.2, fitness="l1", only=("w3",)), made)
    done = run_pass(Excise(), made)
    assert done.changed
    assert made.excision is not None
    assert made.excision.kept["w2"]["0"] == [unit for unit in range(16) if unit not in (3, 8, 11, 14)]
    assert made.selection is not None
    assert made.selection.saved == 4 * (16 * 9 + 4 + 10)


def test_the_darwinian_score_lets_the_redundant_and_the_unread_go_first(tmp_path: Path) -> None:
    """Two filters are twins of others, and two are never read: each of these costs nothing, whatever its size."""
    weights = {name: array.copy() for name, array in stored(build(CLASSIFIER)).items()}
    for twin, original in ((3, 2), (9, 8)):
        weights["w1"][twin], weights["b1"][twin] = weights["w1"][original], weights["b1"][original]
    weights["w2"][:, [5, 12]] = 0
    made = job(build(CLASSIFIER, given=weights))
    data = save_data(tmp_path / "data.npz", {"x": images(128, 3, 8, 8)})
    made.samples = open_data(str(data), [InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))])
    run_pass(Cull("sparsity", 0.2, only=("w1",)), made)
    run_pass(Excise(), made)
    assert made.excision is not None
    gone = set(range(16)) - set(made.excision.kept["w1"]["0"])
    assert {5, 12} < gone
    assert len(gone & {2, 3}) == len(gone & {8, 9}) == 1
    assert made.selection is not None
    assert made.selection.loss < 1e-4


def test_finer_multiples_are_said() -> None:
    made = job()
    done = run_pass(Cull("sparsity", 0.55, fitness="l2", align=16, max_share=0.95), made)
    assert made.selection is not None
    told = {entry["node"]: entry["reason"] for entry in done.skipped}
    assert told.keys() == made.selection.finer.keys()
    assert all(": coarser multiples don't come close enough to the target" in reason for reason in told.values())
    assert done.options["align"] == 16
