"""Which pass decides who dies, and with which multiples."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from darwinc import latency
from darwinc.channels import analyse
from darwinc.choosing import chooser, liked_multiples
from darwinc.console import Terminal
from darwinc.dynamics_options import Dynamics
from darwinc.errors import InvalidModel
from darwinc.latency.curves import Curve
from darwinc.passes.cull import Cull
from darwinc.passes.select import Persist, Select
from darwinc.pipeline import Job
from darwinc.searching.drop import FitDrop
from darwinc.searching.latency import FitTime
from darwinc.settings import Settings, Target
from darwinc.training import Training
from tests.small_models import CLASSIFIER, build


@pytest.mark.parametrize(
    ("target", "settings", "wanted"),
    [
        (Target("macs", 0.5), Settings(), Cull),
        (Target("latency", 0.5), Settings(), FitTime),
        (Target("max-drop", 0.5), Settings(data="x.npz"), FitDrop),
        (Target("macs", 0.5), Settings(data="x.npz", strategy="select", dynamics=Dynamics()), Select),
        (Target("macs", 0.5), Settings(data="x.npz", training=Training(steps=10)), Persist),
    ],
)
def test_the_pass_follows_from_target_and_strategy(target: Target, settings: Settings, wanted: type[Cull]) -> None:
    assert type(chooser(target, settings, [])) is wanted


@pytest.fixture
def job() -> Job:
    original = ir.from_proto(build(CLASSIFIER))
    return Job(original, analyse(original), Terminal(quiet=True))


def measured(job: Job, target: Target, settings: Settings) -> tuple[int, ...]:
    with job.terminal.stage("alignment") as stage:
        return liked_multiples(job, target, settings, stage)


def test_auto_takes_what_is_measured_to_be_fast(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [("spatial conv", "in"), ("spatial conv", "out"), ("matrix product", "in")]
    curves = {kind: Curve(4) for kind in kinds}
    monkeypatch.setattr(latency, "curves_of", lambda channels, asked: curves)
    target = Target("macs", 0.5)
    found = measured(job, target, Settings())
    assert set(found) == {4}
    assert set(job.multiples.values()) == {4}
    cull = chooser(target, Settings(), [], found)
    assert [cull.limits(job.channels).multiple(index) for index in range(len(found))] == list(found)
    aligned = chooser(target, Settings(align=2), [], found)
    assert aligned.limits(job.channels).multiple(0) == 2


def test_nothing_is_timed_where_nobody_asks_for_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "curves_of", lambda channels, asked: pytest.fail("layers were timed"))
    assert measured(job, Target("macs", 0.5), Settings(bench_seconds=0)) == ()
    assert measured(job, Target("macs", 0.5), Settings(align=16)) == ()
    assert chooser(Target("macs", 0.5), Settings(), []).limits(job.channels).multiple(0) == 8


def test_layers_that_can_not_be_timed_leave_the_usual_multiple(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(channels: object, asked: object) -> None:
        raise InvalidModel("it can't be loaded")

    monkeypatch.setattr(latency, "curves_of", refuse)
    assert measured(job, Target("macs", 0.5), Settings()) == ()
    assert any("multiples of 8 stay" in warning for warning in job.warnings)
