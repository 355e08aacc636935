"""Every rival of the Darwinian Score against its definition, worked out another way."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from darwinc.calibrators.calibration import Calibration
from darwinc.calibrators.criteria import make_fitness
from darwinc.calibrators.feature_maps import SAMPLES, SIDE, FeatureMaps, without_each
from darwinc.calibrators.statistics import Statistics, curvature_objective, gather
from darwinc.channels import Channels, analyse
from darwinc.console import Terminal
from darwinc.data import open_data
from darwinc.errors import UsageError
from darwinc.fitness.population import Census, Population
from darwinc.fitness.rivals import JUDGES, geometric_median, users_judge
from darwinc.fitness.statistics import Vector
from darwinc.pipeline import Job
from darwinc.runtime import inputs_of
from darwinc.scoring import FITNESS
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, PLAIN, Array, build, images, save_data, stored

FLAT = """(float[N,2,3,3] x, float[5,2,1,1] w1, float[45,4] m2) => (float[N,4] y) {
    a = Conv(x, w1)
    r = Relu(a)
    f = Flatten(r)
    y = MatMul(f, m2)
}
"""
"""A convolution whose image is flattened: each channel is nine positions of the product's input."""

TOKENS = """(float[N,6,5] x, float[5,7] m1, float[7,4] m2) => (float[N,6,4] y) {
    a = MatMul(x, m1)
    r = Relu(a)
    y = MatMul(r, m2)
}
"""
"""Two products of tokens: places lie on the middle axis."""

GROUPED = """(float[N,3,6,6] x, float[8,3,1,1] w1, float[8,4,3,3] w2, float[4,8,1,1] w3) => (float[N,4,4,4] y) {
    a = Conv(x, w1)
    r = Relu(a)
    g = Conv<group = 2>(r, w2)
    s = Relu(g)
    y = Conv(s, w3)
}
"""
"""A convolution of two groups, each of which may lose channels of its own."""


def job(model: onnx.ModelProto | None = None) -> Job:
    loaded = ir.from_proto(model or build(CLASSIFIER))
    return Job(loaded, analyse(loaded), Terminal(quiet=True))


def with_data(made: Job, folder: Path, **arrays: Array) -> Job:
    made.samples = open_data(str(save_data(folder / "data.npz", arrays)), inputs_of(made.original))
    return made


def losses(name: str, made: Job) -> list[Vector]:
    with made.terminal.stage("cull") as stage:
        fitness = make_fitness(name, made, stage)
    return [fitness.losses(group.units) for group in made.channels.groups]


def measured(model: onnx.ModelProto, x: Array, *extra: str) -> tuple[Channels, Statistics]:
    loaded = ir.from_proto(model)
    channels = analyse(loaded)
    return channels, gather(TorchGraph(loaded), channels, [{"x": x}], rung="data", seed=5, extra=extra)


def census(channels: Channels, statistics: Statistics) -> Census:
    return Census(channels, channels.owners, statistics.readers, measured=True, chip=statistics.chip)


def relative(scores: Array) -> Array:
    return np.asarray(scores / scores.mean())


# FPGM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 600])
def test_fpgm_is_the_sum_of_distances(count: int) -> None:
    filters = np.random.default_rng(0).standard_normal((count, 12)).astype(np.float32)
    filters[1] = filters[0]
    wanted = np.linalg.norm(filters[:, None].astype(np.float64) - filters[None], axis=-1).sum(1)
    np.testing.assert_allclose(geometric_median(Population("g", filters)), wanted, rtol=1e-9)


def test_fpgm_sees_the_filters_of_a_group() -> None:
    model = build(CLASSIFIER)
    first, second = losses("fpgm", job(model))
    for found, name in ((first, "w1"), (second, "w2")):
        rows = stored(model)[name].reshape(16, -1).astype(np.float64)
        wanted = np.linalg.norm(rows[:, None] - rows[None], axis=-1).sum(1)
        np.testing.assert_allclose(found, relative(wanted), rtol=1e-6)


# BatchNormalization --------------------------------------------------------------------------------------------------


def test_bn_is_the_size_of_the_scale_and_says_where_there_is_none() -> None:
    model = build(CLASSIFIER, given={"scale": np.linspace(-2, 1, 16)})
    made = job(model)
    first, second = losses("bn", made)
    np.testing.assert_allclose(second, relative(np.abs(np.linspace(-2, 1, 16))), rtol=1e-6)
    rows = np.abs(stored(model)["w1"].reshape(16, -1)).sum(1)
    np.testing.assert_allclose(first, relative(rows), rtol=1e-5)
    assert made.warnings == [
        "Groups g0 are ranked by L1 instead of bn: none of their channels pass through a BatchNormalization."
    ]


def test_bn_without_any_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no channels pass through a BatchNormalization; use darwin, fpgm, l1"):
        losses("bn", job(build(PLAIN)))


# Diagonal Fisher -----------------------------------------------------------------------------------------------------


def fisher_by_sample(model: onnx.ModelProto, x: Array, units: int, generator: torch.Generator) -> Array:
    """1/2 E(sum z g)^2 of the value `r`, with a backward pass for each sample; the noise is that of the whole batch."""
    twin = TorchGraph(ir.from_proto(model))
    environment = twin.enter({"x": x})
    with torch.enable_grad():
        for step in twin.steps:
            results = twin.run(step, environment)
            environment.update(zip(step.outputs, results, strict=False))
            if "r" in step.outputs:
                hidden = environment["r"] = environment["r"].detach().requires_grad_()
        y = environment["y"]
        objective = curvature_objective([y], generator)
        assert objective is not None
        (gradient,) = torch.autograd.grad(objective, [y], retain_graph=True)
        squares = np.zeros(units)
        for sample in range(len(x)):
            (found,) = torch.autograd.grad((y[sample] * gradient[sample]).sum(), [hidden], retain_graph=True)
            product = (hidden * found).detach()[sample].double()
            squares += product.reshape(units, -1).sum(1).square().numpy() / 2
    return squares / len(x)


@pytest.mark.parametrize(("text", "sizes", "drawn"), [(PLAIN, (3, 8, 8), 16), (FLAT, (2, 3, 3), 0)])
def test_fisher_is_half_the_mean_square_of_a_channel_times_its_gradient(
    text: str, sizes: tuple[int, ...], drawn: int
) -> None:
    """`drawn` positions of the moments come from the same generator, before the noise."""
    model, x = build(text), images(6, *sizes)
    channels, statistics = measured(model, x, "fisher")
    (group,) = channels.groups
    found = census(channels, statistics).of(group.id, group.units).fisher
    assert found is not None
    generator = torch.Generator().manual_seed(5)
    torch.randperm(drawn, generator=generator)
    np.testing.assert_allclose(found, fisher_by_sample(model, x, len(group), generator), rtol=1e-4)


def test_fisher_of_tokens_sums_over_them() -> None:
    model, x = build(TOKENS), images(9, 6, 5)
    channels, statistics = measured(model, x, "fisher")
    (group,) = channels.groups
    found = census(channels, statistics).of(group.id, group.units).fisher
    weights = stored(model)
    hidden = np.maximum(x @ weights["m1"], 0)
    answers = hidden @ weights["m2"]
    noise = torch.randn(answers.shape, generator=torch.Generator().manual_seed(5)).numpy()
    gradient = noise / np.sqrt(np.square(answers).mean()) @ weights["m2"].T
    assert found is not None
    np.testing.assert_allclose(found, np.square((hidden * gradient).sum(1)).mean(0) / 2, rtol=1e-4)


def test_what_was_not_asked_for_is_not_collected() -> None:
    channels, statistics = measured(build(PLAIN), images(4, 3, 8, 8))
    (group,) = channels.groups
    population = census(channels, statistics).of(group.id, group.units)
    assert population.fisher is None
    assert population.chip is None
    assert population.taylor is not None


# CHIP ----------------------------------------------------------------------------------------------------------------


def nuclear(matrix: Array) -> float:
    return float(np.linalg.svd(matrix.astype(np.float64), compute_uv=False).sum())


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_chip_is_the_fall_of_the_nuclear_norm(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    components = np.arange(shape[0])
    found, changes = without_each(torch.from_numpy(matrix), components)
    assert found.tolist() == list(range(1, shape[0]))
    wanted = [nuclear(matrix) - nuclear(np.delete(matrix, row, axis=0)) for row in range(1, shape[0])]
    np.testing.assert_allclose(changes, wanted, rtol=1e-6)


def test_chip_leaves_out_all_rows_of_a_channel() -> None:
    matrix = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    _, changes = without_each(torch.from_numpy(matrix), np.array([1, 1, 2, 2, 3, 3]))
    wanted = [nuclear(matrix) - nuclear(np.delete(matrix, [2 * unit, 2 * unit + 1], axis=0)) for unit in range(3)]
    np.testing.assert_allclose(changes, wanted, rtol=1e-6)


def test_chip_looks_at_a_bounded_part_of_large_maps() -> None:
    matrix = torch.randn(SIDE + 5, 4 * SIDE, generator=torch.Generator().manual_seed(0))
    chosen = matrix[:, torch.linspace(0, 4 * SIDE - 1, SIDE, dtype=torch.float64).round().long()].numpy()
    _, changes = without_each(matrix, np.arange(1, SIDE + 6))
    assert changes[3] == pytest.approx(nuclear(chosen) - nuclear(np.delete(chosen, 3, axis=0)), rel=1e-6)
    maps = FeatureMaps(3)
    for _ in range(3):
        maps.see("v", torch.ones(SAMPLES - 1, 4, 2), np.array([1, 2]))
    assert maps.seen.tolist() == [0, SAMPLES, SAMPLES]
    assert np.isnan(maps.scores()[0])


def test_chip_of_a_network_is_the_mean_over_samples() -> None:
    model, x = build(PLAIN), images(4, 3, 8, 8)
    channels, statistics = measured(model, x, "chip")
    (group,) = channels.groups
    found = census(channels, statistics).of(group.id, group.units).chip
    weights = stored(model)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    maps = np.einsum("nchwij,ocij->nohw", windows, weights["w1"]) + weights["b1"][:, None, None]
    rows = np.maximum(maps, 0).reshape(4, 16, -1)
    wanted = [np.mean([nuclear(one) - nuclear(np.delete(one, unit, axis=0)) for one in rows]) for unit in range(16)]
    assert found is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_chip_without_places_takes_the_batch_for_them() -> None:
    maps, x = FeatureMaps(4), np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    maps.see("v", torch.from_numpy(x)[:, None], np.array([1, 2, 3]))
    wanted = [nuclear(x.T) - nuclear(np.delete(x.T, row, axis=0)) for row in range(3)]
    np.testing.assert_allclose(maps.scores()[1:], wanted, rtol=1e-6)


# What a function of the user's gets ----------------------------------------------------------------------------------


def test_a_population_holds_what_was_measured() -> None:
    model, x = build(CLASSIFIER), images(40, 3, 8, 8)
    channels, statistics = measured(model, x, "fisher")
    first, second = (census(channels, statistics).of(group.id, group.units) for group in channels.groups)
    weights = stored(model)
    np.testing.assert_array_equal(first.filters, weights["w1"].reshape(16, -1))
    np.testing.assert_array_equal(second.filters, weights["w2"].reshape(16, -1))
    assert first.bn is None
    assert second.bn is not None
    np.testing.assert_allclose(second.bn, np.abs(weights["scale"]), rtol=1e-6)
    assert second.covariance is not None
    assert second.mean is not None
    assert second.contribution is not None
    (reader,) = statistics.readers["y"]
    np.testing.assert_allclose(second.covariance, reader.covariance)
    np.testing.assert_allclose(second.contribution, np.diag(reader.gram) * np.diag(reader.covariance))
    assert (second.mean > 0).all()
    assert len(second) == 16


def test_means_and_covariances_of_taps_are_averaged() -> None:
    model, x = build(PLAIN), images(64, 3, 8, 8)
    channels, statistics = measured(model, x)
    (group,) = channels.groups
    found = census(channels, statistics).of(group.id, group.units)
    (reader,) = statistics.readers["y"]
    by_tap = reader.covariance.reshape(16, 9, 16, 9)
    assert found.covariance is not None
    assert found.mean is not None
    assert reader.mean is not None
    np.testing.assert_allclose(found.covariance, np.einsum("atbt->ab", by_tap) / 9)
    np.testing.assert_allclose(found.mean, reader.mean.reshape(16, 9).mean(1))
    assert (found.mean > 0).all()


USERS = """import numpy as np
seen = []
def score(group):
    seen.append((group.id, len(group), group.filters.shape, group.covariance is not None, group.fisher is not None))
    return np.abs(group.filters).sum(1)
def short(group): return [1.0]
def words(group): return "fit"
def failing(group): raise KeyError("gone")
def nan(group): return np.full(len(group), np.nan)
def negative(group): return -np.ones(len(group))
number = 3
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / f"mine_{tmp_path.name}.py").write_text(USERS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return f"mine_{tmp_path.name}"


def test_a_function_of_the_users_ranks_groups(users: str, tmp_path: Path) -> None:
    made = with_data(job(), tmp_path, x=images(16, 3, 8, 8))
    for mine, wanted in zip(losses(f"{users}:score", made), losses("l1", job()), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5)
    seen = importlib.import_module(users).seen
    assert seen == [("g0", 16, (16, 27), True, True), ("g1", 16, (16, 144), True, True)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"returned the shape \[1\] for group g; return one score for each of its 4 units"),
        ("words", "returned a str for group g; return 4 scores"),
        ("failing", "failed for group g with KeyError"),
        ("nan", "negative or no numbers"),
        ("negative", "negative or no numbers"),
    ],
)
def test_scores_that_are_none_are_wrong_usage(users: str, name: str, message: str) -> None:
    judge = users_judge(f"{users}:{name}")
    with pytest.raises(UsageError, match=message):
        judge(Population("g", np.ones((4, 2), np.float32)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nowhere:f", "can't be imported"), ("MODULE:height", "can't be"), ("MODULE:number", "no function")],
)
def test_a_function_that_is_not_there_is_wrong_usage(users: str, spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        users_judge(spec.replace("MODULE", users))


# All of them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["taylor", "fisher", "chip"])
def test_what_takes_measurements_is_refused_on_the_weights_alone(name: str) -> None:
    model = build("(float[N,4] x, float[4,6] m1, float[6,3] m2) => (y) { h = MatMul(x, m1)\n y = MatMul(h, m2)\n }")
    made = job(model)
    made.calibration = Calibration("weights", None, [], "no rule")
    with pytest.raises(UsageError, match=f"The {name} fitness needs .*, but no rule; use darwin, fpgm, l1 or l2"):
        losses(name, made)


@pytest.mark.parametrize("name", sorted(JUDGES.keys() - {"bn"}))
def test_groups_of_a_convolution_lose_their_own_by_every_rival(name: str, tmp_path: Path) -> None:
    """Each unit stands for one channel in each group, of the same rank: its score is the sum of theirs."""
    made = with_data(job(build(GROUPED)), tmp_path, x=images(24, 3, 6, 6))
    found = losses(name, made)
    assert all((np.isfinite(scores) & (scores >= 0)).all() for scores in found)
    assert all(scores.max() > scores.min() for scores in found if len(scores) > 2)
    assert made.warnings == []


def test_every_criterion_says_where_it_comes_from() -> None:
    assert all(source for source in FITNESS.values())
    assert set(JUDGES) < set(FITNESS)


def test_the_rank_within_a_group_of_a_convolution_is_that_of_its_own_filters() -> None:
    model = build(GROUPED)
    weights = stored(model)["w2"].reshape(2, 4, -1).astype(np.float64)
    distances = np.stack([np.linalg.norm(own[:, None] - own[None], axis=-1).sum(1) for own in weights])
    made = job(model)
    with made.terminal.stage("cull") as stage:
        make_fitness("fpgm", made, stage)
    use = next(use for use in made.channels.flow.uses if str(use.value.name) == "w2")
    cells = made.channels.component[use.axes[0]].reshape(2, 4)
    ranks = np.argsort(np.argsort(distances, axis=1), axis=1)
    named = made.channels.owners[cells]
    (own,) = (group.units for group in made.channels.groups if len(group) == 4 and np.isin(named, group.units).any())
    columns = np.where(np.isin(named, own), named, 0).max(axis=2)
    assert (columns > 0).all()
    assert np.array_equal(columns[0][np.argsort(ranks[0])], columns[1][np.argsort(ranks[1])])
