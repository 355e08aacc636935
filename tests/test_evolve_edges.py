"""What evolution does at its edges: runs that remove no channel, that are stopped, that miss their target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from darwinc.compression import Target
from darwinc.errors import Interrupted, Unreachable
from darwinc.evolution.generations import Population
from darwinc.training import Training
from tests.test_evolve import EVOLVE, SMALL, TRAINED, everybody, evolved


def test_single_synapses_alone_may_die(tmp_path: Path) -> None:
    wires = replace(SMALL, heredity="synapses", generations=1, controls=False)
    report = evolved(tmp_path, replace(EVOLVE, evolution=wires), Target("synapses", 0.3)).report
    assert all(group.channels_after == group.channels_before for group in report.groups)
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "out.onnx").graph.initializer}
    living = sum(int(np.count_nonzero(weights[name])) for name in ("w1", "w2", "w3"))
    assert report.after is not None
    assert living == report.after.synapses
    assert living <= 0.7 * (report.before.synapses or 0)


def test_controls_of_random_widths_train_as_often_as_these_do(tmp_path: Path) -> None:
    chance = replace(SMALL, parents=0, generations=2, population=2)
    report = evolved(tmp_path, replace(TRAINED, evolution=chance, training=Training(steps=2, augment="none"))).report
    assert report.evolution is not None
    assert [each.steps for each in everybody(report)] == [2] * 4
    assert [each.steps for each in report.evolution.controls] == [2] * 3


def test_time_that_is_up_is_said_to_be(tmp_path: Path) -> None:
    brief = replace(SMALL, hours=1e-9, environment="clusters=0.99", generations=5)
    with pytest.raises(Unreachable, match="--hours 1e-09 were over after 0 generations"):
        evolved(tmp_path, replace(EVOLVE, evolution=brief), Target("macs", 0.9))


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Population, "run", stopped)
    with pytest.raises(Interrupted, match="with --resume to go on from .*run"):
        evolved(tmp_path, replace(EVOLVE, training=Training(run_dir=str(tmp_path / "run"))))
    with pytest.raises(KeyboardInterrupt):
        evolved(tmp_path, EVOLVE)
