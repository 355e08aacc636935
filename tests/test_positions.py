"""Networks at the ancestor's positions: they answer as their files do, and parents blend where both live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from darwinc import graph
from darwinc.channels import Channels, analyse
from darwinc.cutting import Cuts, lengths, scattered, taken
from darwinc.errors import InputError
from darwinc.evolution.genome import Genome
from darwinc.evolution.positions import blended, expanded, synapse_masks, without_synapses
from darwinc.matching import matched
from darwinc.passes.excise import excise
from tests.small_models import CLASSIFIER, PLAIN, build
from tests.surgery import assert_same_answers, dead_positions

RESIDUAL = """(float[N,3,8,8] x, float[6,3,1,1] w, float[6] s, float[6] b, float[6] m, float[6] var, float[6,6,3,3] u,
    float[4,6,1,1] v) => (float[N,4,8,8] y) {
    a = Conv(x, w)
    n = BatchNormalization(a, s, b, m, var)
    r = Relu(n)
    c = Conv<pads = [1, 1, 1, 1]>(r, u)
    d = Add(c, r)
    y = Conv(d, v)
}
"""
SHARED_VECTORS = """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] s, float[4] b, float[4] m, float[4]
    var, float[4,4,1,1] v) => (float[N,4,8,8] y) {
    a = Conv(x, w)
    n = BatchNormalization(a, s, b, m, var)
    c = Conv(n, u)
    o = BatchNormalization(c, s, b, m, var)
    y = Conv(o, v)
}
"""
ALIASED = """(float[N,3,8,8] x, float[4,3,1,1] w, float[4,4,1,1] u, float[4] b, float[4,4,1,1] v)
    => (float[N,4,8,8] y) {
    same = Identity(b)
    again = Identity(same)
    a = Conv(x, w, same)
    c = Conv(a, u, again)
    y = Conv(c, v)
}
"""
GROUPED = """(float[N,3,8,8] x, float[8,3,1,1] w, float[8,4,3,3] g, float[4,8,1,1] v) => (float[N,4,6,6] y) {
    a = Conv(x, w)
    r = Relu(a)
    c = Conv<group = 2>(r, g)
    y = Conv(c, v)
}
"""
CONCAT = """(float[N,3,8,8] x, float[4,3,1,1] w, float[5,3,1,1] u, float[9] b, float[4,9,1,1] v) => (float[N,4,8,8] y) {
    a = Conv(x, w)
    c = Conv(x, u)
    j = Concat<axis = 1>(a, c)
    r = Relu(j)
    y = Conv(r, v)
}
"""
HEADS = """(float[N,5,8] x, float[8,12] mq, float[8,12] mk, float[8,12] mv, float[12,6] mo) => (float[N,5,6] y) {
    split = Constant<value_ints = [0, 0, 3, 4]>()
    join = Constant<value_ints = [0, 0, -1]>()
    half = Constant<value_float = 0.5>()
    q = MatMul(x, mq)
    k = MatMul(x, mk)
    v = MatMul(x, mv)
    qs = Reshape(q, split)
    ks = Reshape(k, split)
    vs = Reshape(v, split)
    qh = Transpose<perm = [0, 2, 1, 3]>(qs)
    kh = Transpose<perm = [0, 2, 3, 1]>(ks)
    vh = Transpose<perm = [0, 2, 1, 3]>(vs)
    scores = MatMul(qh, kh)
    scaled = Mul(scores, half)
    p = Softmax<axis = -1>(scaled)
    h = MatMul(p, vh)
    t = Transpose<perm = [0, 2, 1, 3]>(h)
    f = Reshape(t, join)
    y = MatMul(f, mo)
}
"""
STORED_IN_NODES = """(float[2,3,4,4] x, float[4,3,1,1] v) => (float[2,4,4,4] y) {
    w = Constant<value: tensor = float[3, 3, 1, 1] {1., 2., 3., 4., 5., 6., 7., 8., 9.}>()
    b = Constant<value_floats: floats = [0.5, 1.0, 2.0]>()
    same = Identity(b)
    a = Conv(x, w, same)
    y = Conv(a, v)
}
"""
HALF = """(float16[N,3,8,8] x, float16[6,3,3,3] w, float16[6] b, float16[4,6,1,1] v) => (float16[N,4,6,6] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    y = Conv(r, v)
}
"""
SHARED_CUT = {"w": [1], "u": [2, 3]}
TEXTS = {
    "classifier": CLASSIFIER,
    "plain": PLAIN,
    "residual": RESIDUAL,
    "shared_vectors": SHARED_VECTORS,
    "aliased": ALIASED,
    "grouped": GROUPED,
    "concat": CONCAT,
    "heads": HEADS,
    "constant_nodes": STORED_IN_NODES,
    "half": HALF,
}


def descend(text: str, removed: Mapping[str, Sequence[int]]) -> tuple[ir.Model, Channels, Genome, ir.Model]:
    """An ancestor, its channels, who lives in a descendant, and that network, with weights of its own."""
    ancestor = ir.from_proto(build(text))
    channels = analyse(ancestor)
    genome = Genome(dead_positions(channels, removed))
    return ancestor, channels, genome, raised(ancestor, channels, genome)


def drawn(text: str, seed: int) -> tuple[ir.Model, Channels, Genome, ir.Model]:
    """The same with a random part of each group gone, and blocks whose positions were matched at random."""
    ancestor, random = ir.from_proto(build(text)), np.random.default_rng(seed)
    found = analyse(ancestor)
    channels = matched(found, random.random(found.count))
    dead = channels.nobody()
    for group in channels.groups:
        dead[random.choice(group.units, random.integers(1, len(group)), replace=False)] = True
    return ancestor, channels, Genome(dead), raised(ancestor, channels, Genome(dead))


def raised(ancestor: ir.Model, channels: Channels, genome: Genome) -> ir.Model:
    """The ancestor without its dead, and with other weights."""
    network, _ = excise(ancestor, channels, genome.dead)
    trained(network)
    return network


def trained(network: ir.Model, seed: int = 5) -> None:
    """Change every floating weight of a network."""
    random = np.random.default_rng(seed)
    values = dict(network.graph.initializers.items())
    values |= {str(node.outputs[0].name): node.outputs[0] for node in network.graph if node.op_type == "Constant"}
    for name, tensor in graph.constants(network).items():
        if tensor.dtype.is_floating_point() and tensor.shape.numpy():
            array = tensor.numpy()
            moved = array * random.uniform(0.8, 1.2, array.shape)
            graph.set_constant(values[name], ir.tensor(moved.astype(array.dtype), name=name))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TEXTS)
def test_an_expanded_network_answers_as_its_file_does(name: str, seed: int) -> None:
    ancestor, channels, genome, network = drawn(TEXTS[name], seed)
    before = ir.to_proto(network).SerializeToString()
    full = expanded(ancestor, channels, network, genome)
    stored = graph.constants(full)
    assert all(stored[key].shape == tensor.shape for key, tensor in graph.constants(ancestor).items())
    assert_same_answers(ir.to_proto(network), ir.to_proto(full))
    assert ir.to_proto(network).SerializeToString() == before


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TEXTS)
def test_a_blended_network_cut_again_is_the_very_network(name: str, seed: int) -> None:
    ancestor, channels, genome, network = drawn(TEXTS[name], seed)
    again, _ = excise(blended(ancestor, channels, [(network, genome, 0.3)]), channels, genome.dead)
    copies = {key for key in graph.constants(network) if "__" in key}
    sources = {key.split("__")[0] for key in copies}
    for key, tensor in graph.constants(network).items():
        if key not in copies | sources:
            np.testing.assert_array_equal(graph.constants(again)[key].numpy(), tensor.numpy())


def test_parents_blend_by_their_shares_where_both_live_and_the_ancestor_stays_elsewhere() -> None:
    ancestor = ir.from_proto(build(PLAIN))
    channels = analyse(ancestor)
    genomes = [Genome(dead_positions(channels, {"w1": gone})) for gone in ([0, 1], [1, 2])]
    networks = [excise(ancestor, channels, genome.dead)[0] for genome in genomes]
    for seed, network in enumerate(networks):
        trained(network, seed)
    first, second = (graph.constants(network)["b1"].numpy().astype(np.float64) for network in networks)
    child = blended(ancestor, channels, zip(networks, genomes, (0.75, 0.5), strict=True))
    found = graph.constants(child)["b1"].numpy()
    assert found[0] == np.float32(second[0])
    assert found[1] == graph.constants(ancestor)["b1"].numpy()[1]
    assert found[2] == np.float32(first[0])
    np.testing.assert_allclose(found[3:], 0.6 * first[1:] + 0.4 * second[1:], rtol=1e-6)


def test_copies_of_one_constant_count_by_their_mean() -> None:
    ancestor, channels, genome, network = descend(SHARED_VECTORS, SHARED_CUT)
    found = graph.constants(blended(ancestor, channels, [(network, genome, 1.0)]))["s"].numpy()
    stored = graph.constants(network)
    one, two = stored["s"].numpy(), stored["s__1"].numpy()
    wanted = [(one[0] + two[0]) / 2, two[1], one[1], one[2]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_dead_synapses_count_as_dead() -> None:
    ancestor, channels, genome, network = descend(PLAIN, {"w1": [7]})
    mask = np.ones((4, 16, 3, 3), np.bool_)
    mask[0, 0, 0, 0] = mask[:, 7] = False
    sparse = Genome(genome.dead, {"w2": mask})
    silenced = without_synapses(network, channels, sparse)
    np.testing.assert_array_equal(synapse_masks(channels, sparse)["w2"], np.delete(mask, 7, axis=1))
    assert graph.constants(silenced)["w2"].numpy()[0, 0, 0, 0] == 0
    assert np.count_nonzero(graph.constants(silenced)["w2"].numpy()) == 4 * 15 * 9 - 1
    full = expanded(ancestor, channels, silenced, sparse)
    assert_same_answers(ir.to_proto(silenced), ir.to_proto(full))
    child = blended(ancestor, channels, [(silenced, sparse, 1.0)])
    assert graph.constants(child)["w2"].numpy()[0, 0, 0, 0] == graph.constants(ancestor)["w2"].numpy()[0, 0, 0, 0]


def test_parents_that_agree_leave_their_bits() -> None:
    ancestor, channels, genome, network = descend(CLASSIFIER, {"w1": [0, 3, 15], "w2": [1, 2]})
    child = blended(ancestor, channels, [(network, genome, 0.1), (network, genome, 0.7)])
    alone = blended(ancestor, channels, [(network, genome, 1.0)])
    assert ir.to_proto(child) == ir.to_proto(alone)


def test_what_does_not_fit_stays_the_ancestors() -> None:
    ancestor, channels, genome, _ = descend(CLASSIFIER, {"w1": [0, 3, 15], "w2": [1, 2]})
    other, _ = excise(ancestor, channels, dead_positions(channels, {"w1": [0]}))
    trained(other)
    child = blended(ancestor, channels, [(other, genome, 1.0)])
    before, after = graph.constants(ancestor), graph.constants(child)
    np.testing.assert_array_equal(after["w1"].numpy(), before["w1"].numpy())
    np.testing.assert_array_equal(after["b3"].numpy(), graph.constants(other)["b3"].numpy())


def test_a_mask_of_another_shape_is_refused() -> None:
    _, channels, _, network = descend(PLAIN, {"w1": [7]})
    mask = {"w2": np.ones((4, 16, 3, 3), np.bool_)}
    with pytest.raises(InputError, match=r"\[4, 16, 3, 3\] synapses in 'w2'"):
        without_synapses(network, channels, Genome(channels.nobody(), mask))


def test_scattering_undoes_taking() -> None:
    whole = np.arange(1, 1 + 4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    several: list[Cuts] = [{0: [0, 3]}, {1: [2]}, {0: [1, 2], 2: [0]}, {0: [0, 1, 3], 1: [[0, 2], [1, 2]]}]
    for cuts in several:
        left = taken(ir.tensor(whole), cuts)
        assert left.shape == lengths(cuts, whole.shape)
        back = scattered(left, cuts, whole.shape)
        living = scattered(np.ones(left.shape, np.bool_), cuts, whole.shape)
        np.testing.assert_array_equal(back, np.where(living, whole, 0))
        assert np.count_nonzero(living) == left.size
        np.testing.assert_array_equal(taken(ir.tensor(back), cuts), left)
