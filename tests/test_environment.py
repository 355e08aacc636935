"""Limits by generation, against what they are by hand; and what networks cost against the files they become."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from darwinc.cost import measure
from darwinc.errors import Unreachable, UsageError
from darwinc.evolution.environment import environment
from darwinc.evolution.genome import Genome
from darwinc.evolution.resources import Expectation, Ledger, costs_of, prices
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_options import Evolution
from darwinc.passes.excise import excise
from tests.small_models import CLASSIFIER, PLAIN, build
from tests.test_selection import DEPTHWISE, WIDE

WHOLE = {"macs": 1000.0, "synapses": 400.0, "clusters": 64.0}


def test_the_target_is_neared_in_equal_ratios() -> None:
    options = Evolution(generations=6)
    limits = [environment(options, "macs", 100.0, number).limits(WHOLE, [])["macs"] for number in range(1, 7)]
    assert np.allclose(limits, [1000 * 0.1 ** (k / 4) for k in (1, 2, 3, 4, 4, 4)], rtol=1e-12)
    assert limits[3:] == [100.0] * 3
    assert environment(Evolution(generations=1), "macs", 100.0, 1).limits(WHOLE, []) == {"macs": 100.0}
    assert environment(options, "macs", 2000.0, 1).limits(WHOLE, []) == {"macs": 1000.0}


def test_kinds_of_targets_are_resources() -> None:
    for kind, resource in (("sparsity", "parameters"), ("latency", "latency"), ("kernels", "kernels")):
        assert environment(Evolution(), kind, 1.0, 1).resources == (resource,)
    assert environment(Evolution(), "bytes", 1.0, 1).strict
    assert not environment(Evolution(), "macs", 1.0, 1).strict


def test_shares_are_of_the_largest_parent() -> None:
    options = Evolution(environment="macs=0.5:0.9,clusters=0.7")
    parents = [{"macs": 600.0, "clusters": 30.0}, {"macs": 400.0, "clusters": 40.0}]
    first, third = (environment(options, "macs", 350.0, number).limits(WHOLE, parents) for number in (1, 3))
    # Half of 600 would be beyond the target.
    assert first == {"macs": 350.0, "clusters": 28.0}
    assert third == {"macs": 540.0, "clusters": 28.0}
    assert environment(options, "sparsity", 1.0, 1).limits(WHOLE, parents) == {"macs": 300.0, "clusters": 28.0}
    assert environment(options, "macs", 350.0, 1).limits(WHOLE, []) == {"macs": 500.0, "clusters": 0.7 * 64}


def test_a_target_in_synapses_is_halved_between_synapses_and_clusters() -> None:
    options = Evolution(heredity="both", generations=1)
    found = environment(options, "synapses", 400 / 16, 1)
    assert found.resources == ("clusters", "synapses")
    assert found.limits(WHOLE, []) == {"synapses": 25.0, "clusters": 32.0}
    assert found.limits(WHOLE, [], {"clusters": 40.0}) == {"synapses": 25.0, "clusters": 40.0}
    alone = environment(replace(options, heredity="synapses"), "synapses", 25.0, 1)
    assert alone.limits(WHOLE, []) == {"synapses": 25.0}


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        (Evolution(), "synapses", "needs --heredity synapses or both"),
        (Evolution(environment="synapses=0.5"), "macs", "needs --heredity synapses or both"),
        (Evolution(heredity="synapses"), "macs", "can't save macs"),
        (Evolution(heredity="synapses", environment="clusters=0.5"), "synapses", "can't save clusters"),
    ],
)
def test_what_a_heredity_cannot_save_is_refused(options: Evolution, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        environment(options, target, 10.0, 1)


def test_a_target_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(Unreachable, match="leaves no macs"):
        environment(Evolution(), "macs", 0.0, 1)


@pytest.mark.parametrize("text", [CLASSIFIER, PLAIN, WIDE, DEPTHWISE])
def test_costs_are_those_of_the_cut_file(text: str) -> None:
    model = ir.from_proto(build(text))
    channels, random = analyse(model), np.random.default_rng(3)
    dead = channels.nobody()
    for group in channels.groups:
        dead[random.permutation(group.units)[: len(group) // 3]] = True
    priced = prices(channels)
    wiring = Wiring(channels)
    whole, cut = costs_of([Genome(channels.nobody()), Genome(dead)], channels, priced, wiring)
    before = measure(model)

    after = measure(excise(model, channels, dead)[0])
    for name in ("macs", "kernels", "parameters", "synapses"):
        if name == "synapses" and text is DEPTHWISE:
            continue
        assert (whole[name], cut[name]) == (getattr(before, name), getattr(after, name)), name
    assert whole["clusters"] - cut["clusters"] == np.count_nonzero(dead)
    assert whole["bytes"] - cut["bytes"] == 8 * (before.bytes - after.bytes)
    assert costs_of([Genome(channels.nobody())], channels, priced, wiring)[0] == whole


@pytest.mark.parametrize("text", [CLASSIFIER, WIDE, DEPTHWISE])
def test_prices_are_left_as_they_were_found(text: str) -> None:
    channels = analyse(ir.from_proto(build(text)))
    groups, random = len(channels.groups), np.random.default_rng(0)
    for name, price in prices(channels).items():
        before = price.current(), [price.saved(group, 3) for group in range(groups)]
        with Expectation(price, groups) as expectation:
            seen = [expectation.at(random.uniform(0, 8, groups)) for _ in range(5)]
        assert (price.current(), [price.saved(group, 3) for group in range(groups)]) == before, name
        assert max(seen) < before[0]

        def interrupted() -> None:
            with Ledger({name: price}, groups) as ledger:  # noqa: B023
                ledger.put([3] * groups)
                raise KeyError

        with pytest.raises(KeyError):
            interrupted()
        assert (price.current(), [price.saved(group, 3) for group in range(groups)]) == before, name


def test_the_expectation_is_the_mean_over_draws() -> None:
    channels = analyse(ir.from_proto(build(WIDE)))
    price, random = prices(channels)["macs"], np.random.default_rng(1)
    sizes = np.array([len(group) for group in channels.groups])
    with Expectation(price, len(sizes)) as expectation:
        expected = expectation.at(0.4 * sizes)
    drawn = []
    with Ledger({"macs": price}, len(sizes)) as ledger:
        for _ in range(2000):
            ledger.put(random.binomial(sizes, 0.4).tolist())
            drawn.append(ledger.costs()["macs"])
    assert abs(float(np.mean(drawn)) - expected) < 4 * float(np.std(drawn)) / np.sqrt(len(drawn))
