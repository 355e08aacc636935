"""What a network says of its channels and weights: against the greedy path, and in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from darwinc import graph
from darwinc.calibrators.appraisal import appraise, appraise_ancestor
from darwinc.calibrators.criteria import kin_of, measured_score
from darwinc.calibrators.synapses import squared_gradients
from darwinc.channels import Channels, analyse
from darwinc.console import Stage, Terminal
from darwinc.cost import CostModel
from darwinc.data import Samples
from darwinc.data_arrays import from_arrays
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.genome import Genome
from darwinc.evolution.positions import expanded
from darwinc.evolution_options import Evolution
from darwinc.fitness.rivals import WEAK
from darwinc.passes.excise import excise
from darwinc.pipeline import Job
from darwinc.runtime import inputs_of
from darwinc.selection import Limits, trace
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, Array, build, dead, images

HIDDEN = """(float[N,6] x, float[6,9] m1, float[9,3] m2) => (float[N,3] y) {
    h = MatMul(x, m1)
    r = Relu(h)
    y = MatMul(r, m2)
}
"""
LINEAR = "(float[N,6] x, float[6,4] m1) => (float[N,4] y) { y = MatMul(x, m1) }"
GROUPED = """(float[N,3,8,8] x, float[8,3,1,1] w, float[8,4,3,3] g, float[4,8,1,1] v) => (float[N,4,6,6] y) {
    a = Conv(x, w)
    r = Relu(a)
    c = Conv<group = 2>(r, g)
    y = Conv(c, v)
}
"""
ODD = """(float[N,3,8,8] x, float[8,3,1,1] w, float[4,8,1,1] v) => (float[N,4,8,8] y) {
    a = Conv(x, w)
    r = Relu(a)
    c = Conv(r, v)
    y = custom.Odd(c)
}
"""
SYNAPSES = Evolution(heredity="synapses")
FAVOUR = Evolution(favour=True)


def job_of(proto: onnx.ModelProto, x: Array | None = None, labels: Array | None = None) -> Job:
    model = ir.from_proto(proto)
    samples = None
    if x is not None:
        samples = Samples(from_arrays({"x": x}, inputs_of(model), "a test"), np.arange(len(x)), labels, [])
    return Job(model, analyse(model), Terminal(quiet=True), seed=3, samples=samples)


def classifier(labels: Array | None = None) -> Job:
    return job_of(build(CLASSIFIER), images(160, 3, 8, 8), labels)


def fork(m2: Array | None = None, labels: Array | None = None) -> Job:
    given = {} if m2 is None else {"m2": m2}
    return job_of(build(HIDDEN, given=given), images(120, 6), labels)


def descend(job: Job, genome: Genome, options: Evolution) -> Appraisal:
    """The appraisal of the ancestor without its dead."""
    network, _ = excise(job.original, job.channels, genome.dead)
    full = expanded(job.original, job.channels, network, genome)
    return appraise(full, job.channels, genome, job, options, Stage("test"))


def hidden(channels: Channels) -> Array:
    """The units of the only group, in order."""
    (group,) = channels.groups
    return group.units


def test_the_order_of_strengths_is_that_of_the_greedy_path() -> None:
    job = classifier()
    score = measured_score(classifier(), Stage("test"))
    channels, found = appraise_ancestor(job, Evolution(), Stage("test"))
    score.assign(channels.owners, kin_of(channels))
    price = CostModel(channels).constant_terms
    path = trace(channels, price, score, Limits(1, 0.999, [True] * len(channels.groups)))
    died = np.concatenate([step.units for step in path.steps])
    units = np.concatenate([group.units for group in channels.groups])
    assert died.tolist() == [unit for unit in units[np.argsort(found.clusters[units], kind="stable")] if unit in died]
    survivors = np.setdiff1d(units, died)
    assert len(survivors) == len(channels.groups)
    assert (found.clusters[survivors] == 1).all()
    assert (found.clusters[died] < 1).all()
    assert (found.clusters[0], len(found.synapses), found.credit.size) == (1, 0, 0)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_who_is_stronger_than_a_threshold_lives_where_that_share_has_gone(threshold: float) -> None:
    channels, found = appraise_ancestor(classifier(), Evolution(), Stage("test"))
    model = CostModel(channels)
    whole = model.parameters(channels.nobody())
    gone = found.clusters < threshold
    further = gone | (found.clusters == found.clusters[~gone].min())
    assert 1 - model.parameters(gone) / whole < threshold
    assert 1 - model.parameters(further) / whole >= threshold


def test_the_dead_are_worth_nothing_and_shares_are_those_of_the_living() -> None:
    job = classifier()
    job.channels, _ = appraise_ancestor(job, Evolution(), Stage("test"))
    genome = Genome(dead(job.channels, {"w1": [2, 5], "w2": [0, 7, 9]}))
    found = descend(job, genome, Evolution(heredity="both", favour=True))
    assert (found.clusters[genome.dead] == 0).all()
    assert (found.clusters[~genome.dead] > 0).all()
    assert (found.credit[genome.dead] == 0).all()
    assert (found.synapses["w2"][[0, 7, 9]] == 0).all()
    assert (found.synapses["w2"][:, [2, 5]] == 0).all()
    assert np.count_nonzero(found.synapses["w2"]) == 13 * 14 * 9
    model = CostModel(job.channels)
    first = genome.dead | (found.clusters == found.clusters[~genome.dead].min())
    share = 1 - model.parameters(first) / model.parameters(genome.dead)
    assert found.clusters[~genome.dead].min() == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize("strength", ["darwin", "magnitude"])
def test_an_ancestor_is_appraised_as_a_descendant_that_lost_nothing(strength: str) -> None:
    options = Evolution(strength=strength, heredity="both", favour=True)
    job = classifier()
    job.channels, found = appraise_ancestor(job, options, Stage("test"))
    again = descend(job, Genome(job.channels.nobody()), options)
    assert found.to_bytes() == again.to_bytes()


def test_one_of_two_twins_goes_first_and_the_other_one_stays() -> None:
    proto = build(HIDDEN)
    m1, m2 = (graph.constants(ir.from_proto(proto))[name].numpy().copy() for name in ("m1", "m2"))
    m1[:, 1] = m1[:, 0]
    m2[:2] *= 10
    job = job_of(build(HIDDEN, given={"m1": m1, "m2": m2}), images(120, 6))
    channels, found = appraise_ancestor(job, Evolution(), Stage("test"))
    strengths = found.clusters[hidden(channels)]
    assert strengths.argmin() in (0, 1)
    assert strengths[:2].max() == 1


def test_what_may_not_die_has_full_strength() -> None:
    channels, found = appraise_ancestor(classifier(), Evolution(), Stage("test"), eligible=[False, True])
    assert (found.clusters[channels.groups[0].units] == 1).all()
    assert found.clusters[channels.groups[1].units].min() < 0.1


def test_a_price_of_ones_own_is_left_as_it_was() -> None:
    job = classifier()
    price = CostModel(job.channels).work_terms
    before = price.current()
    _, found = appraise_ancestor(job, Evolution(), Stage("test"), price=price)
    _, other = appraise_ancestor(classifier(), Evolution(), Stage("test"))
    assert price.current() == before
    assert not np.allclose(found.clusters, other.clusters)


def test_units_of_a_descendant_stand_for_the_positions_that_the_ancestor_matched() -> None:
    job = job_of(build(GROUPED), images(96, 3, 8, 8))
    before = job.channels
    job.channels, found = appraise_ancestor(job, Evolution(), Stage("test"))
    assert not np.array_equal(job.channels.owners, before.owners)
    weakest = min(
        (unit for group in job.channels.groups for unit in group.units.tolist()), key=lambda u: found.clusters[u]
    )
    gone = job.channels.nobody()
    gone[weakest] = True
    after = descend(job, Genome(gone), Evolution())
    assert after.clusters[weakest] == 0
    assert (np.delete(after.clusters, weakest) > 0).all()


def test_magnitudes_are_sums_without_weak_synapses_over_the_largest_of_the_group() -> None:
    job = fork()
    m1 = np.abs(graph.constants(job.original)["m1"].numpy())
    relative = m1 / m1.max()
    sums = np.where(relative < WEAK, 0, relative).sum(axis=0)
    channels, found = appraise_ancestor(job, Evolution(strength="magnitude"), Stage("test"))
    np.testing.assert_allclose(found.clusters[hidden(channels)], sums / sums.max(), rtol=1e-6)
    genome = Genome(channels.nobody())
    m1[:, 4] *= 3
    other = ir.from_proto(build(HIDDEN, given={"m1": m1}))
    moved = appraise(other, channels, genome, job, Evolution(strength="magnitude"), Stage("test"))
    assert moved.clusters[hidden(channels)][4] == 1


def test_synapses_that_carry_nothing_are_the_first_to_go_the_smaller_ones_before_the_larger() -> None:
    x = images(96, 6)
    x[:, 2] = 0
    job = job_of(build(HIDDEN), x)
    _, found = appraise_ancestor(job, SYNAPSES, Stage("test"))
    silent = np.abs(graph.constants(job.original)["m1"].numpy()[2])
    every = np.concatenate([found.synapses["m1"].ravel(), found.synapses["m2"].ravel()])
    assert np.sort(every).tolist() == (np.arange(1, 82) / 81).astype(np.float32).tolist()
    ranks = found.synapses["m1"][2]
    assert np.sort(ranks).tolist() == (np.arange(1, 10) / 81).astype(np.float32).tolist()
    np.testing.assert_array_equal(np.argsort(ranks), np.argsort(silent))


def test_dead_synapses_have_no_strength() -> None:
    job = fork()
    mask = np.ones((6, 9), np.bool_)
    mask[0, :4] = False
    found = descend(job, Genome(job.channels.nobody(), {"m1": mask}), SYNAPSES)
    np.testing.assert_array_equal(found.synapses["m1"] > 0, mask)


def test_squared_gradients_of_a_linear_model_are_those_of_the_formula() -> None:
    twin = TorchGraph(ir.from_proto(build(LINEAR)))
    weight, x = twin.weights()["m1"].detach().numpy(), 0.1 * images(10, 6)
    found = squared_gradients(twin, ["m1"], iter([{"x": row[None]} for row in x]), seed=5)["m1"]
    generator, wanted = torch.Generator().manual_seed(5), np.zeros((6, 4))
    for row in x:
        noise = torch.randn((1, 4), generator=generator).numpy()[0]
        wanted += np.square(np.outer(row, noise)) / np.square(row @ weight).mean()
    np.testing.assert_allclose(found, wanted / 10, rtol=1e-4)


def test_samples_squared_together_say_what_they_say_one_by_one() -> None:
    twin = TorchGraph(ir.from_proto(build(LINEAR, given={"m1": np.eye(6, 4)})))
    x = np.sign(images(4096, 6))
    alone, together = (
        squared_gradients(twin, ["m1"], iter([{"x": part} for part in np.split(x, len(x) // size)]), seed=size)["m1"]
        for size in (1, 4)
    )
    # Directions are normal, and everything else is 1: E[g^2] = 1, with a relative deviation of sqrt(2 / 1024) at most.
    np.testing.assert_allclose(alone.mean(), 1, atol=0.05)
    np.testing.assert_allclose(together.mean(), 1, atol=0.05)


def test_synapses_by_magnitude_are_relative_to_their_layer() -> None:
    job = fork()
    _, found = appraise_ancestor(job, replace(SYNAPSES, strength="magnitude"), Stage("test"))
    for name in ("m1", "m2"):
        weight = np.abs(graph.constants(job.original)[name].numpy())
        np.testing.assert_allclose(found.synapses[name], weight / weight.max(), rtol=1e-6)


def test_a_unit_that_alone_feeds_a_class_has_all_its_credit() -> None:
    m2 = np.zeros((9, 3))
    m2[[1, 4, 8], [0, 1, 2]] = [1, -2, 3]
    channels, found = appraise_ancestor(fork(m2), FAVOUR, Stage("test"))
    assert found.credit.shape == (channels.count, 3)
    wanted = np.zeros((9, 3))
    wanted[[1, 4, 8], [0, 1, 2]] = 1
    np.testing.assert_allclose(found.credit[hidden(channels)], wanted, atol=1e-12)


def test_credit_is_what_units_add_to_the_scores() -> None:
    job = fork()
    channels, found = appraise_ancestor(job, FAVOUR, Stage("test"))
    m1, m2 = (graph.constants(job.original)[name].numpy().astype(np.float64) for name in ("m1", "m2"))
    added = np.abs(np.maximum(images(120, 6) @ m1, 0).sum(axis=0)[:, None] * m2)
    np.testing.assert_allclose(found.credit[hidden(channels)], added / added.sum(axis=0), rtol=1e-4)


def test_merit_is_the_accuracy_by_class() -> None:
    labels = np.random.default_rng(1).integers(0, 2, 120)
    job = fork(labels=labels)
    _, found = appraise_ancestor(job, FAVOUR, Stage("test"))
    m1, m2 = (graph.constants(job.original)[name].numpy() for name in ("m1", "m2"))
    right = (np.maximum(images(120, 6) @ m1, 0) @ m2).argmax(1) == labels
    wanted = [right[labels == 0].mean(), right[labels == 1].mean(), right.mean()]
    np.testing.assert_allclose(found.merit, wanted, rtol=1e-12)


def test_merit_without_labels_is_the_agreement_with_the_ancestor() -> None:
    job = fork()
    job.channels, found = appraise_ancestor(job, FAVOUR, Stage("test"))
    assert found.merit.tolist() == [1, 1, 1]
    m1, m2 = (graph.constants(job.original)[name].numpy() for name in ("m1", "m2"))
    scores = np.maximum(images(120, 6) @ m1, 0)
    wanted = (scores @ m2).argmax(1)
    genome = Genome(dead(job.channels, {"m1:1": [0, 1, 2, 3]}))
    got = (scores[:, 4:] @ m2[4:]).argmax(1)
    merit = descend(job, genome, FAVOUR).merit
    np.testing.assert_allclose(merit, [np.mean(got[wanted == each] == each) for each in range(3)], rtol=1e-12)


def test_what_is_no_classifier_has_no_credit() -> None:
    job = job_of(build(GROUPED), images(96, 3, 8, 8))
    _, found = appraise_ancestor(job, FAVOUR, Stage("test"))
    assert (found.credit.shape[1], found.merit.size) == (0, 0)


def test_where_torch_knows_no_rule_the_weights_of_the_descendant_tell() -> None:
    job = job_of(build(ODD))
    options = Evolution(heredity="both", favour=True)
    channels, found = appraise_ancestor(job, options, Stage("test"))
    assert (found.credit.shape[1], found.merit.size) == (0, 0)
    sizes = np.abs(graph.constants(job.original)["v"].numpy())
    np.testing.assert_array_equal(np.argsort(found.synapses["v"], axis=None), np.argsort(sizes, axis=None))
    v = graph.constants(job.original)["v"].numpy().copy()
    v[:, 6] = 0
    other = ir.from_proto(build(ODD, given={"v": v}))
    moved = appraise(other, channels, Genome(channels.nobody()), job, Evolution(), Stage("test"))
    assert moved.clusters[hidden(channels)].argmin() == 6


def test_an_appraisal_repeats_itself() -> None:
    options = Evolution(heredity="both", favour=True)
    one, two = (appraise_ancestor(classifier(), options, Stage("test"))[1].to_bytes() for _ in range(2))
    assert one == two
