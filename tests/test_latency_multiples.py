"""The multiples that a machine likes are found, and reach the groups that they matter to."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from darwinc.channels import analyse
from darwinc.cost import CostModel
from darwinc.fitness.static import StaticScore
from darwinc.latency import Asked, wanted_multiples
from darwinc.latency.curves import Curve, Curves, read
from darwinc.latency.kinds import DEPTHWISE, GROUPED, OTHER, POINTWISE, PRODUCT, SPATIAL, kind_of, sides_of
from darwinc.latency.multiples import MOST_MACS, WIDTHS, by_kind, measure, preferred, probes
from darwinc.selection import Limits, quantum, select
from tests.made_up_machine import MadeUpMachine
from tests.surgery import parse
from tests.test_latency import network

KINDS = """(float[1,8,6,6] x, float[12,8,1,1] w0, float[12,4,3,3] w1, float[12,1,3,3] w2, float[6,12,3,3] w3,
    float[6,20] w4, float[10,20] w5) => (float[1,10] y) {
    a = Conv(x, w0)
    b = Conv<group: int = 3, pads: ints = [1, 1, 1, 1]>(a, w1)
    c = Conv<group: int = 12, pads: ints = [1, 1, 1, 1]>(b, w2)
    d = Conv(c, w3)
    e = GlobalAveragePool(d)
    f = Flatten(e)
    g = MatMul(f, w4)
    y = Gemm<transB: int = 1>(g, w5)
}"""


def _times(multiple: int, fixed: float = 0.0) -> dict[int, float]:
    """A staircase."""
    return {width: fixed + multiple * math.ceil(width / multiple) for width in WIDTHS}


@pytest.mark.parametrize("multiple", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("fixed", [0.0, 8.0])
def test_a_staircase_is_read(multiple: int, fixed: float) -> None:
    """Steps of 2 waste less than is told apart."""
    assert read(_times(multiple, fixed)).multiple == multiple


def test_noise_of_two_per_cent_moves_no_step() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        times = {width: time * generator.uniform(1.0, 1.02) for width, time in _times(16).items()}
        assert read(times).multiple == 16


def test_a_width_off_the_fast_kernel_is_told_by_how_much() -> None:
    times = {width: time * (5.0 if width % 4 else 1.0) for width, time in _times(16).items()}
    curve = read(times)
    assert curve.multiple == 16
    assert curve.factor(63) == pytest.approx(5.0)
    assert curve.factor(1001) == pytest.approx(5.0)
    assert curve.factor(1002) == pytest.approx(5.0)
    assert curve.factor(1004) == curve.factor(1008) == curve.factor(60) == 1.0


def test_kinds_and_sides_of_operators() -> None:
    nodes = list(ir.from_proto(parse(KINDS)).graph)
    assert [kind_of(node) for node in nodes] == [
        POINTWISE, GROUPED, DEPTHWISE, SPATIAL, OTHER, OTHER, PRODUCT, PRODUCT
    ]  # fmt: skip
    found = [(sides_of(node).entering, sides_of(node).leaving) for node in nodes if kind_of(node) != OTHER]
    assert found == [(1, 0), (1, 0), (None, 0), (1, 0), (0, 1), (1, 0)]


def test_every_probe_is_a_model_that_runs() -> None:
    channels = analyse(ir.from_proto(parse(KINDS)))
    found = probes(channels)
    assert {probe.kind for probe in found} == {POINTWISE, GROUPED, DEPTHWISE, SPATIAL, PRODUCT}
    for probe in found:
        for side, width in (("in", 20), ("out", 31)):
            subject = probe.at("in" if side == "in" else "out", width).subject()
            onnx.checker.check_model(onnx.load_from_string(subject.model), full_check=True)
            session = onnxruntime.InferenceSession(subject.model, providers=["CPUExecutionProvider"])
            (made,) = session.run(None, subject.feed)
            assert np.isfinite(made).all()
            axis = -1 if probe.kind == PRODUCT else 1
            varied = made.shape[axis] if side == "out" else subject.feed["x"].shape[axis]
            assert varied == width * (probe.groups if probe.kind == GROUPED else 1)


def test_lone_layers_take_about_as_long_whatever_the_network() -> None:
    _, channels = network()
    found = {probe.kind: probe for probe in probes(channels)}
    assert found[SPATIAL].kernel == (3, 3)
    for kind in (POINTWISE, SPATIAL, DEPTHWISE):
        probe = found[kind]
        other = 1 if kind == DEPTHWISE else 128
        macs = 64 * other * math.prod(probe.kernel) * math.prod(probe.image)
        assert 0.7 * MOST_MACS < macs < 1.4 * MOST_MACS
    assert found[PRODUCT].image == (1,)


@pytest.mark.parametrize(("entering", "leaving"), [(16, 16), (4, 8), (1, 32)])
def test_the_machines_multiples_are_found(entering: int, leaving: int) -> None:
    _, channels = network()
    curves = measure(probes(channels), MadeUpMachine(entering, leaving))
    found = by_kind(curves)
    assert found["pointwise conv, in"] == found["spatial conv, in"] == entering
    assert found["pointwise conv, out"] == found["spatial conv, out"] == leaving
    assert found["depthwise conv, out"] >= 4
    assert preferred(channels, curves) == [max(entering, leaving)] * len(channels.groups)


def test_wanted_multiples_are_kept_on_disk(tmp_path: Path) -> None:
    _, channels = network()
    machine = MadeUpMachine(16, 4)
    asked = Asked(timer=machine, cache=tmp_path)
    assert wanted_multiples(channels, asked) == [16, 16, 16]
    counted = len(machine.asked)
    assert wanted_multiples(channels, asked) == [16, 16, 16]
    assert len(machine.asked) == counted


def test_layers_too_short_to_tell_say_nothing() -> None:
    _, channels = network()
    curves = measure(probes(channels), MadeUpMachine())
    assert not any(kind == PRODUCT for kind, _ in curves)


def test_groups_of_no_measured_kind_get_the_default() -> None:
    _, channels = network()
    assert preferred(channels, {}, 8) == [8] * len(channels.groups)
    only: Curves = {(DEPTHWISE, "out"): Curve(4)}
    assert preferred(channels, only, 8) == [8, 4, 8]


def test_selection_keeps_each_groups_own_multiple() -> None:
    _, channels = network()
    units = [group.units for group in channels.groups]
    scores = StaticScore({int(unit): 1.0 for group in units for unit in group}, units)
    terms = CostModel(channels).terms("macs")
    eligible = [True] * len(units)
    need = int(0.5 * terms.current())
    limits = Limits(8, 0.9, eligible, multiples=[4, 32, 16])
    selection = select(channels, terms, scores, need, limits)
    for group, multiple in zip(channels.groups, (4, 32, 16), strict=True):
        living = np.count_nonzero(~selection.dead[group.units])
        assert group.id in selection.finer or living % quantum(group, multiple) == 0
    assert any(np.count_nonzero(~selection.dead[group]) < len(group) for group in units)
