"""What evolution does at its edges: runs that remove no channel, that are stopped, that miss their target."""

from __future__ import annotations

import pickle
import weakref
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from darwinc.calibrators.training.progress import Outcome
from darwinc.calibrators.training.trainer import Trainer
from darwinc.calibrators.upbringing import nursery_of, raise_network
from darwinc.channels import analyse
from darwinc.compression import Settings, Target, compress
from darwinc.errors import Interrupted, Unreachable, UsageError
from darwinc.evolution.generations import Population
from darwinc.evolution.genome import Genome
from darwinc.evolution.tasks import Habitat, Task
from darwinc.evolution.telling import is_open
from darwinc.passes.distill import Distill
from darwinc.passes.recalibrate import Recalibrate
from darwinc.pipeline import Job
from darwinc.scoring import SCORING
from darwinc.settings import judge
from darwinc.training import Training
from tests.small_models import CLASSIFIER, build, images, save, save_data
from tests.test_evolve import EVOLVE, HALF, SMALL, TRAINED, everybody, evolved
from tests.test_searching import Clock


def test_single_synapses_alone_may_die(tmp_path: Path) -> None:
    wires = replace(SMALL, heredity="synapses", generations=1, controls=False)
    report = evolved(tmp_path, replace(EVOLVE, evolution=wires), Target("synapses", 0.3)).report
    assert all(group.channels_after == group.channels_before for group in report.groups)
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "out.onnx").graph.initializer}
    living = sum(int(np.count_nonzero(weights[name])) for name in ("w1", "w2", "w3"))
    assert report.after is not None
    assert living == report.after.synapses
    assert living <= 0.7 * (report.before.synapses or 0)
    assert all(group.scores == {} for group in report.groups)


def test_controls_of_random_widths_train_as_often_as_these_do(tmp_path: Path) -> None:
    chance = replace(SMALL, parents=0, generations=2, population=2)
    report = evolved(tmp_path, replace(TRAINED, evolution=chance, training=Training(steps=2, augment="none"))).report
    assert report.evolution is not None
    assert [each.steps for each in everybody(report)] == [2] * 4
    assert [each.steps for each in report.evolution.controls] == [2] * 3


def test_time_that_is_up_is_said_to_be(tmp_path: Path) -> None:
    brief = replace(SMALL, hours=1e-15, environment="clusters=0.99", generations=5)
    with pytest.raises(Unreachable, match="--hours 1e-15 were over after 0 generations"):
        evolved(tmp_path, replace(EVOLVE, evolution=brief), Target("macs", 0.9))


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Population, "run", stopped)
    with pytest.raises(Interrupted, match=r"run, give the same command with --resume to go on"):
        evolved(tmp_path, replace(EVOLVE, training=Training(run_dir=str(tmp_path / "run"))))
    with pytest.raises(Interrupted, match="with --run-dir it could be resumed"):
        evolved(tmp_path, EVOLVE)


def test_synapses_that_were_zero_before_are_not_counted_as_removed(tmp_path: Path) -> None:
    model = build(CLASSIFIER)
    weight = next(each for each in model.graph.initializer if each.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[:, ::2] = 0.0
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    data = save_data(tmp_path / "data.npz", {"x": images(120, 3, 8, 8)})
    wires = replace(SMALL, heredity="synapses", generations=1, population=1, controls=False)
    report = compress(
        save(model, tmp_path / "model.onnx"),
        target=Target("synapses", 0.6),
        data=str(data),
        output=tmp_path / "out.onnx",
        settings=replace(EVOLVE, evolution=wires),
    ).report
    assert report.target.achieved == pytest.approx(0.6, abs=0.01)


def test_latency_is_foreseen_before_any_work_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(job: Job, *_: object) -> Clock:
        clock = Clock(job.channels)
        job.timing = clock
        return clock

    monkeypatch.setattr("darwinc.evolution.run.time_model", timed)
    settings = replace(EVOLVE, evolution=replace(SMALL, generations=1, controls=False))
    report = evolved(tmp_path, settings, Target("latency", 0.3)).report
    assert report.latency_model is not None
    assert report.target.achieved == pytest.approx(1 - report.latency_model.after_ms / report.latency_model.before_ms)
    assert 0.295 <= (report.target.achieved or 0) <= 0.4
    monkeypatch.setattr("darwinc.evolution.run.appraise_ancestor", lambda *_: pytest.fail("there was work"))
    with pytest.raises(Unreachable, match="the reachable range, as predicted, is 0 to 0"):
        evolved(tmp_path, settings, Target("latency", 0.99))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (replace(EVOLVE, recover=("inherit",), training=Training(epochs=1)), "--epochs was given, but nothing is"),
        (replace(EVOLVE, evolution=replace(SMALL, heredity="synapses")), "it can't save macs"),
        (replace(EVOLVE, evolution=replace(SMALL, environment="synapses=0.5")), "needs --heredity synapses"),
    ],
)
def test_options_that_would_do_nothing_are_refused(settings: Settings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge(replace(settings, data="x"), HALF)


def test_a_run_is_open_until_its_report_is_written(tmp_path: Path) -> None:
    alone = replace(SMALL, generations=1, population=1, controls=False)
    evolved(tmp_path, replace(EVOLVE, evolution=alone, training=Training(run_dir=str(tmp_path / "run"))))
    assert not is_open(tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    assert is_open(tmp_path / "run")


def habitat(folder: Path, *, device: str = "cpu") -> Habitat:
    """Of a small network that is trained for two steps, and then recalibrated."""
    model = build(CLASSIFIER)
    data = save_data(folder / "data.npz", {"x": images(120, 3, 8, 8)})
    recovery = (Distill(training=Training(steps=2, augment="none")), Recalibrate())
    owners = analyse(ir.from_proto(model)).owners
    return Habitat(
        model.SerializeToString(), owners, str(data), None, None, recovery, True, "macs", SCORING, SMALL, 0, device
    )


def test_a_worker_opens_the_data_once_however_often_it_is_sent_the_context(tmp_path: Path) -> None:
    mine = habitat(tmp_path)
    nursery_of.cache_clear()
    assert nursery_of(mine) is nursery_of(pickle.loads(pickle.dumps(mine)))
    assert mine != replace(mine, seed=1)
    assert mine != replace(mine, owners=mine.owners + 1)


def test_recovery_comes_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    place, dead = habitat(tmp_path), nursery_of(habitat(tmp_path)).channels.nobody()
    group = nursery_of(place).channels.groups[0]
    dead[group.units[: len(group) // 2]] = True
    notes = raise_network(place, Task("t", 1, Genome(dead)), {}).individual.notes
    assert [note.partition(":")[0] for note in notes] == ["distill", "recalibrate"]


def test_one_training_at_a_time_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[weakref.ref[Trainer]] = []
    alive: list[int] = []

    class Watched(Trainer):
        def run(self) -> Outcome:
            born.append(weakref.ref(self))
            alive.append(sum(each() is not None for each in born))
            return super().run()

    monkeypatch.setattr("darwinc.calibrators.training.course.Trainer", Watched)
    evolved(tmp_path, replace(TRAINED, evolution=replace(SMALL, generations=2, population=3, controls=False)))
    assert len(alive) == 6
    assert max(alive) == 1
