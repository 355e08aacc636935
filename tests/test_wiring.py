"""Single synapses: who has them, how many live, and that whoever nobody reads may go without a difference."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from darwinc.channels import Channels, analyse
from darwinc.evolution.genome import Genome
from darwinc.evolution.wiring import Wiring
from darwinc.passes.excise import excise
from tests.small_models import CLASSIFIER, PLAIN, Array, build, images, stored
from tests.test_selection import DEPTHWISE, WIDE

CHAIN = """(float[N,3,8,8] x, float[4,3,1,1] w1, float[5,4,1,1] w2, float[6,5,1,1] w3, float[2,6] w4)
    => (float[N,2] y) {
    a = Conv(x, w1)
    b = Relu(a)
    c = Conv(b, w2)
    d = Relu(c)
    e = Conv(d, w3)
    g = GlobalAveragePool(e)
    f = Flatten(g)
    y = Gemm<transB = 1>(f, w4)
}
"""
RESIDUAL = """(float[N,3,8,8] x, float[6,3,1,1] w1, float[6,6,1,1] w2, float[4,6,1,1] w3, float[6,4,1,1] w4,
    float[2,6,1,1] w5) => (float[N,2,8,8] y) {
    a = Conv(x, w1)
    b = Conv(a, w2)
    r = Add(a, b)
    c = Conv(r, w3)
    s = Relu(c)
    e = Conv(s, w4)
    t = Add(r, e)
    y = Conv(t, w5)
}
"""
SHARED = """(float[N,4] x, float[4,6] m1, float[6,6] m2, float[6,4] m3) => (float[N,4] y) {
    a = MatMul(x, m1)
    b = MatMul(a, m2)
    c = MatMul(b, m2)
    y = MatMul(c, m3)
}
"""
SUMMED = """(float[N,3,8,8] x, float[6,3,1,1] w1, float[2,6,1,1] w2) => (float[N,2,8,8] y) {
    a = Conv(x, w1)
    s = ReduceSum<keepdims = 1>(a, axes)
    b = Conv(a, w2)
    y = Add(b, s)
}
"""


def wired(text: str) -> tuple[onnx.ModelProto, Channels, Wiring]:
    proto = build(text)
    if "axes" in text:
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    channels = analyse(ir.from_proto(proto))
    return proto, channels, Wiring(channels)


def some_dead(channels: Channels, random: np.random.Generator, share: float = 0.4) -> Genome:
    dead = channels.nobody()
    for group in channels.groups:
        dead[random.permutation(group.units)[: int(share * len(group))]] = True
    return Genome(dead)


def with_masks(wiring: Wiring, genome: Genome, random: np.random.Generator, share: float) -> Genome:
    masks = {name: random.random(weight.shape) < share for name, weight in wiring.weights.items()}
    return Genome(genome.dead, {name: mask for name, mask in masks.items() if random.random() < 0.8})


def answers(model: onnx.ModelProto, x: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_which_weights_have_synapses() -> None:
    assert {name: weight.shape for name, weight in wired(CLASSIFIER)[2].weights.items()} == {
        "w1": (16, 3, 3, 3),
        "w2": (16, 16, 3, 3),
        "w3": (10, 16),
    }
    assert [weight.read for weight in wired(CLASSIFIER)[2].weights.values()] == [1, 1, 1]
    assert sorted(wired(DEPTHWISE)[2].weights) == ["f", "w0", "w1"]
    assert sorted(wired(SHARED)[2].weights) == ["m1", "m3"]
    assert wired(SHARED)[2].weights["m3"].read == 0


@pytest.mark.parametrize("text", [CLASSIFIER, PLAIN, WIDE, DEPTHWISE, RESIDUAL, SHARED])
def test_synapses_between_living_channels_are_those_of_the_cut_file(text: str) -> None:
    proto, channels, wiring = wired(text)
    genome = some_dead(channels, np.random.default_rng(0))
    rewritten, _ = excise(ir.from_proto(proto), channels, genome.dead)
    cut = stored(ir.to_proto(rewritten))
    for name, whole in stored(proto).items():
        if name in wiring.weights:
            living = wiring.living(name, genome.dead)
            assert living.shape == whole.shape
            assert np.array_equal(whole[living].reshape(cut[name].shape), cut[name])
    assert wiring.count(genome) == sum(cut[name].size for name in wiring.weights)
    assert wiring.terms().total(genome.dead) == wiring.count(genome)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_genome_has_one_way_of_being_written(seed: int, share: float) -> None:
    _, channels, wiring = wired(RESIDUAL)
    random = np.random.default_rng(seed)
    genome = with_masks(wiring, some_dead(channels, random), random, share)
    once = wiring.canonical(genome)
    twice = wiring.canonical(once)
    assert once.digest == twice.digest
    assert wiring.count(genome) == wiring.count(once)
    for name in wiring.weights:
        living = wiring.living(name, genome.dead)
        before, after = genome.synapses.get(name, living) & living, once.synapses.get(name, living)
        assert np.array_equal(before, after)
        assert name not in once.synapses or not np.array_equal(after, living)
    full = {name: np.ones(weight.shape, np.bool_) for name, weight in wiring.weights.items()}
    unknown = {**full, "elsewhere": np.zeros(3, np.bool_)}
    assert wiring.canonical(Genome(genome.dead, unknown)).digest == Genome(genome.dead).digest


def test_orphans_by_hand() -> None:
    _, channels, wiring = wired(CHAIN)
    first, second, third = (group.units for group in channels.groups)
    masks = {name: np.ones(weight.shape, np.bool_) for name, weight in wiring.weights.items()}
    masks["w4"][:, 2] = False
    masks["w3"][[0, 1, 3, 4, 5], 1] = False
    masks["w2"][[0, 2, 3, 4], 3] = False
    # Unit 2 of the last layer isn't read; it alone reads unit 1 of the one before, which alone reads unit 3.
    genome = Genome(channels.nobody(), masks)
    assert wiring.orphans(genome).tolist() == sorted([third[2], second[1], first[3]])
    assert wiring.orphans(Genome(channels.nobody())).tolist() == []


def test_no_group_loses_its_last_unit() -> None:
    _, channels, wiring = wired(CHAIN)
    genome = Genome(channels.nobody(), {"w4": np.zeros((2, 6), np.bool_)})
    gone = wiring.orphans(genome)
    assert [len(np.setdiff1d(group.units, gone)) for group in channels.groups] == [4, 5, 1]
    strengths = np.zeros(channels.count)
    strengths[channels.groups[2].units[4]] = 1
    best = np.setdiff1d(channels.groups[2].units, wiring.orphans(genome, None, strengths))
    assert best.tolist() == [channels.groups[2].units[4]]
    widths = [np.array([4]), np.array([5]), np.array([2, 4, 6])]
    assert len(wiring.orphans(genome, widths)) == 4


def test_who_is_read_otherwise_is_no_orphan() -> None:
    for text, name in ((SUMMED, "w2"), (DEPTHWISE, "w1"), (SHARED, "m3")):
        _, channels, wiring = wired(text)
        mask = np.zeros(wiring.weights[name].shape, np.bool_)
        assert wiring.orphans(Genome(channels.nobody(), {name: mask})).tolist() == [], text


@pytest.mark.parametrize("text", [CLASSIFIER, PLAIN, CHAIN, RESIDUAL, SUMMED])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_orphans_go_without_a_difference(text: str, share: float) -> None:
    proto, channels, wiring = wired(text)
    random = np.random.default_rng(7)
    masks = {name: random.random(weight.shape) < share for name, weight in wiring.weights.items()}
    for tensor in proto.graph.initializer:
        if tensor.name in masks:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * masks[tensor.name], tensor.name))
    genome = Genome(channels.nobody(), masks)
    orphans = wiring.orphans(genome)
    dead = channels.nobody()
    dead[orphans] = True
    assert not len(wiring.orphans(Genome(dead, masks)))
    rewritten, _ = excise(ir.from_proto(proto), channels, dead)
    x = images(4, 3, 8, 8)
    assert np.allclose(answers(proto, x), answers(ir.to_proto(rewritten), x), rtol=1e-5, atol=1e-6)
    if text is CHAIN and share == 0.05:
        assert len(orphans)
