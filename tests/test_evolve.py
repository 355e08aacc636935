"""Generations of networks from end to end: what lives, what is reported, what a killed run has kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from darwinc.compression import Result, Settings, Target, compress
from darwinc.errors import InputError, Interrupted, Unreachable, UsageError
from darwinc.evolution.genome import Genome
from darwinc.evolution.lineage import GENOME, MODEL, Archive
from darwinc.evolution_options import Evolution
from darwinc.evolution_schema import Individual
from darwinc.pipeline import Job
from darwinc.report import load_report, to_markdown
from darwinc.report_schema import Report
from darwinc.settings import judge
from darwinc.training import Training
from tests.shell import Shell
from tests.small_models import CLASSIFIER, build, images, save, save_data
from tests.test_searching import Clock
from tests.test_selecting import labels
from tests.test_training import stop_at

SMALL = Evolution(generations=3, population=3, parents=2, survivors=2, workers="1")
EVOLVE = Settings(bench_seconds=0, device="cpu", align=1, strategy="evolve", evolution=SMALL)
TRAINED = replace(EVOLVE, training=Training(steps=6, batch=32, augment="none"))
SPARSE = replace(
    TRAINED, evolution=replace(SMALL, heredity="both", environment="clusters=0.9,synapses=0.7", generations=4)
)
HALF = Target("macs", 0.5)


def evolved(folder: Path, settings: Settings = EVOLVE, target: Target = HALF, *, labelled: bool = True) -> Result:
    """A small network, evolved on noise."""
    folder.mkdir(exist_ok=True)
    model = save(build(CLASSIFIER), folder / "model.onnx")
    known = {"y": labels()} if labelled else {}
    data = save_data(folder / "data.npz", {"x": images(240, 3, 8, 8), **known})
    return compress(model, target=target, output=folder / "out.onnx", settings=replace(settings, data=str(data)))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Without training: everybody has the ancestor's weights, and survivors inherit."""
    folder = tmp_path_factory.mktemp("closed")
    return folder, evolved(folder, replace(EVOLVE, training=Training(run_dir=str(folder / "run"))))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Clusters and synapses, trained."""
    folder = tmp_path_factory.mktemp("sparse")
    settings = replace(SPARSE, training=replace(SPARSE.training, run_dir=str(folder / "run")))
    return folder, evolved(folder, settings, Target("synapses", 0.6))


def everybody(report: Report) -> list[Individual]:
    return [each for generation in report.generations for each in generation.offspring]


def told(report: Report) -> list[dict[str, Any]]:
    """Everything about every network but the time that it took."""
    evolution = report.evolution
    assert evolution is not None
    return [each.model_dump(exclude={"seconds"}) for each in (*everybody(report), *evolution.controls)]


@pytest.mark.parametrize("kind", ["closed", "sparse"])
def test_no_two_networks_of_a_run_share_a_genome(kind: str, request: pytest.FixtureRequest) -> None:
    _, result = request.getfixturevalue(kind)
    digests = [each.genome for each in everybody(result.report)]
    assert len(digests) == SMALL.population * len(result.report.generations)
    assert len(set(digests)) == len(digests)
    assert result.report.evolution is not None
    assert result.report.evolution.ancestor.genome not in digests


@pytest.mark.parametrize("kind", ["closed", "sparse"])
def test_a_survivor_has_two_different_parents(kind: str, request: pytest.FixtureRequest) -> None:
    _, result = request.getfixturevalue(kind)
    survivors = {name for generation in result.report.generations for name in generation.survivors}
    known = {each.id for each in everybody(result.report)} | {"ancestor"}
    paired = [each for each in everybody(result.report) if each.id in survivors and len(set(each.parents)) == 2]
    assert paired
    assert all(set(each.parents) <= known for each in everybody(result.report))
    assert all(sum(each.shares) == pytest.approx(1) for each in everybody(result.report))


@pytest.mark.parametrize("kind", ["closed", "sparse"])
def test_the_winner_is_not_the_one_shot_cut(kind: str, request: pytest.FixtureRequest) -> None:
    _, result = request.getfixturevalue(kind)
    evolution = result.report.evolution
    assert evolution is not None
    winner = next(each for each in everybody(result.report) if each.id == evolution.winner)
    one_shot = next(each for each in evolution.controls if each.name == "one-shot")
    assert winner.genome != one_shot.genome


def test_the_emitted_file_is_the_winner(closed: tuple[Path, Result]) -> None:
    folder, result = closed
    report = result.report
    assert report.evolution is not None
    assert report.verify is not None
    assert report.verify.passed
    assert report.verify.twin is not None
    assert report.verify.twin.passed
    assert 0.49 <= (report.target.achieved or 0) <= 0.56
    emitted = onnx.load(folder / "out.onnx")
    onnx.checker.check_model(emitted, full_check=True)
    archive = Archive.view(folder / "run")
    assert report.evolution.winner is not None
    stored = onnx.load_model_from_string(archive.read(report.evolution.winner, MODEL))
    for one, two in zip(emitted.graph.initializer, stored.graph.initializer, strict=True):
        assert one.name == two.name
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))
    assert [group.channels_after for group in report.groups] == next(
        each.widths for each in everybody(report) if each.id == report.evolution.winner
    )


def test_the_winner_is_the_fittest_that_meets_the_target(closed: tuple[Path, Result]) -> None:
    _, result = closed
    evolution, last = result.report.evolution, result.report.generations[-1]
    assert evolution is not None
    assert last.environment["macs"] == pytest.approx(0.5 * (result.report.before.macs or 0), rel=0.01)
    assert all(each.macs is not None and each.macs <= last.environment["macs"] * 1.01 for each in last.offspring)
    # Without training every generation has the same environment, so all fitnesses can be compared.
    worth = {each.id: each.fitness or 0.0 for each in everybody(result.report)}
    assert evolution.winner is not None
    assert worth[evolution.winner] == max(worth.values()) == last.fitness


def test_every_network_is_a_file_and_a_genome(sparse: tuple[Path, Result]) -> None:
    folder, result = sparse
    archive = Archive.view(folder / "run")
    for each in everybody(result.report):
        onnx.checker.check_model(onnx.load_model_from_string(archive.read(each.id, MODEL)), full_check=True)
        assert Genome.from_bytes(archive.read(each.id, GENOME)).digest == each.genome
        assert each.steps == 6
        assert each.quality is not None
        assert each.quality_before is not None


def test_synapses_that_died_are_zero_in_the_dense_file(sparse: tuple[Path, Result]) -> None:
    folder, result = sparse
    report = result.report
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(folder / "out.onnx").graph.initializer}
    living = sum(int(np.count_nonzero(weights[name])) for name in ("w1", "w2", "w3"))
    assert report.after is not None
    assert living == report.after.synapses
    assert (report.target.achieved or 0) >= 0.59
    assert living < sum(weights[name].size for name in ("w1", "w2", "w3"))
    assert report.efficiency is not None
    assert report.efficiency.synaptic is not None
    assert report.efficiency.synaptic > (report.efficiency.parameters or 0)


def test_children_have_no_synapse_that_no_parent_had(sparse: tuple[Path, Result]) -> None:
    folder, result = sparse
    archive = Archive.view(folder / "run")
    genomes = {each.id: Genome.from_bytes(archive.read(each.id, GENOME)) for each in everybody(result.report)}
    for each in everybody(result.report):
        if "ancestor" in each.parents:
            continue
        dead = np.logical_and.reduce([genomes[parent].dead for parent in each.parents])
        assert not (dead & ~genomes[each.id].dead).any()
        for name, mask in genomes[each.id].synapses.items():
            allowed = [genomes[parent].synapses.get(name, np.ones_like(mask)) for parent in each.parents]
            assert not (mask & ~np.logical_or.reduce(allowed)).any()


def test_controls_have_the_winners_budget_and_training(sparse: tuple[Path, Result]) -> None:
    _, result = sparse
    evolution = result.report.evolution
    assert evolution is not None
    winner = next(each for each in everybody(result.report) if each.id == evolution.winner)
    controls = {each.name: each for each in evolution.controls}
    assert set(controls) == {"one-shot", "random", "scratch"}
    assert winner.synapses is not None
    trainings = {"ancestor": 0}
    for each in everybody(result.report):
        trainings[each.id] = 1 + max(trainings[parent] for parent in each.parents)
    for each in controls.values():
        assert each.synapses is not None
        assert each.synapses <= winner.synapses
        assert each.steps == 6 * trainings[winner.id]
    assert controls["scratch"].genome == winner.genome
    assert controls["scratch"].sha256 != winner.sha256


def test_seeds_make_a_difference(closed: tuple[Path, Result], tmp_path: Path) -> None:
    _, result = closed
    other = evolved(tmp_path, replace(EVOLVE, seed=1)).report
    assert {each.genome for each in everybody(other)} != {each.genome for each in everybody(result.report)}


def test_a_run_that_is_over_is_told_again_without_work(
    closed: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = closed

    def never(*_: object) -> None:
        raise AssertionError("a network was raised that is in the lineage")

    monkeypatch.setattr("darwinc.calibrators.upbringing.Nursery.job", never)
    again = evolved(folder, replace(EVOLVE, training=Training(run_dir=str(folder / "run"), resume=True)))
    assert told(again.report) == told(result.report)


def test_a_run_goes_on_from_an_earlier_generation(tmp_path: Path) -> None:
    folder = Training(run_dir=str(tmp_path / "run"))
    first = evolved(tmp_path, replace(EVOLVE, training=folder))
    settings = replace(
        EVOLVE, training=replace(folder, resume=True), evolution=replace(SMALL, from_generation=1, controls=False)
    )
    again = evolved(tmp_path, settings)
    assert [each.genome for each in everybody(again.report)] == [each.genome for each in everybody(first.report)]
    journal = [json.loads(line)["event"] for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert "rewind" in journal
    settings = replace(settings, evolution=replace(SMALL, from_generation=2, controls=False, temperature=0.2))
    other = evolved(tmp_path, settings)
    one, two = ([each.genome for each in everybody(found.report)] for found in (first, other))
    assert one[: 2 * SMALL.population] == two[: 2 * SMALL.population]
    assert set(one[2 * SMALL.population :]).isdisjoint(two[2 * SMALL.population :])
    with pytest.raises(InputError, match="was asked for something else"):
        evolved(tmp_path, replace(EVOLVE, training=replace(folder, resume=True)))


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = evolved(tmp_path / "whole", TRAINED).report
    evolved(
        tmp_path / "killed",
        replace(EVOLVE, evolution=replace(SMALL, generations=1, controls=False)),
        Target("macs", 0.1),
    )
    command = [sys.executable, "-m", "darwinc", "compress", "model.onnx", "-o", "killed.onnx", "--target-macs", "0.5"]
    command += ["--strategy", "evolve", "--data", "data.npz", "--generations", "3", "--population", "3", "--survivors"]
    command += ["2", "--workers", "1", "--steps", "6", "--batch", "32", "--augment", "none", "--align", "1"]
    command += ["--bench-seconds", "0", "--device", "cpu", "--run-dir", "run", "--resume", "--report", "r.json"]
    folder = tmp_path / "killed"
    journal = folder / "run" / "journal.jsonl"
    for lines in (3, 8):
        process = subprocess.Popen(command, cwd=folder, env=os.environ, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (journal.exists() and len(journal.read_bytes().splitlines()) >= lines):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    so_far = load_report(folder / "run")
    assert so_far.evolution is not None
    assert so_far.evolution.ended is None
    assert "not finished" in to_markdown(so_far)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    killed = load_report(folder / "run")
    assert killed == load_report(folder / "r.json")
    assert [each.id for each in everybody(killed)] == [each.id for each in everybody(whole)]
    assert [each.sha256 for each in everybody(killed)] == [each.sha256 for each in everybody(whole)]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(3, monkeypatch)
    folder = str(tmp_path / "run")
    with pytest.raises(Interrupted, match=r"every network that was raised is in .*run, give .* --resume"):
        evolved(tmp_path, replace(TRAINED, training=replace(TRAINED.training, run_dir=folder)))


def test_one_parent_is_enough(tmp_path: Path) -> None:
    alone = replace(SMALL, parents=1, survivors=1, population=2, controls=False)
    report = evolved(tmp_path, replace(EVOLVE, evolution=alone), labelled=False).report
    assert all(len(each.parents) == 1 for each in everybody(report))
    assert report.evolution is not None
    assert report.evolution.metric == "agreement"
    assert report.evolution.controls == []


def test_chance_alone_has_no_parents(tmp_path: Path) -> None:
    report = evolved(tmp_path, replace(EVOLVE, evolution=replace(SMALL, parents=0, controls=False))).report
    assert all(each.parents == [] for each in everybody(report))


@pytest.mark.parametrize(
    "evolution",
    [{"mating": "product"}, {"mating": "quorum"}, {"mates": "distant"}, {"favour": True}, {"strength": "magnitude"}],
)
def test_ways_of_mating(tmp_path: Path, evolution: dict[str, Any]) -> None:
    settings = replace(EVOLVE, evolution=replace(SMALL, **evolution, generations=2, controls=False))
    assert 0.48 <= (evolved(tmp_path, settings).report.target.achieved or 0) <= 0.6


def test_a_size_in_bytes_is_a_limit_that_is_kept(tmp_path: Path) -> None:
    settings = replace(EVOLVE, evolution=replace(SMALL, generations=2, controls=False))
    evolved(tmp_path, settings, Target("bytes", 9000))
    assert (tmp_path / "out.onnx").stat().st_size <= 9000


def test_latency_is_a_resource_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(job: Job, *_: object) -> Clock:
        job.timing = Clock(job.channels)
        return job.timing

    monkeypatch.setattr("darwinc.evolution.run.time_model", clock)
    settings = replace(EVOLVE, evolution=replace(SMALL, generations=2, environment="latency=0.8:0.7"))
    report = evolved(tmp_path, settings, Target("latency", 0.44)).report
    assert report.evolution is not None
    whole = report.evolution.ancestor.latency_ms
    assert whole == pytest.approx(1.0)
    assert [generation.environment["latency"] for generation in report.generations] == pytest.approx(
        [0.8, 0.56], abs=0.02
    )
    for generation in report.generations:
        assert all((each.latency_ms or 9) <= 1.01 * generation.environment["latency"] for each in generation.offspring)
    assert all((each.latency_ms or 9) <= 0.57 for each in report.evolution.controls)
    assert report.evolution.ended == "target"


def test_evolution_ends_where_everybody_collapses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darwinc.calibrators.upbringing.Nursery.quality", lambda *_: 0.0)
    with pytest.raises(Unreachable, match=r"Every offspring of generation 1 collapsed before the target macs=0.5"):
        evolved(tmp_path)


def test_another_command_does_not_go_on_with_a_run(closed: tuple[Path, Result]) -> None:
    folder, _ = closed
    training = Training(run_dir=str(folder / "run"))
    with pytest.raises(UsageError, match="has a run already; give --resume"):
        evolved(folder, replace(EVOLVE, training=training))
    with pytest.raises(InputError, match="was asked for something else"):
        evolved(folder, replace(EVOLVE, training=replace(training, resume=True)), Target("macs", 0.4))


@pytest.mark.parametrize(
    ("settings", "target", "said"),
    [
        (replace(EVOLVE, data=None), HALF, "takes samples to judge offspring by"),
        (replace(EVOLVE, data="x", fitness="l2"), HALF, "--strength darwin or magnitude"),
        (replace(EVOLVE, data="x"), Target("max-drop", 1.0), "--max-drop is searched for"),
        (replace(EVOLVE, data="x"), Target("synapses", 0.5), "takes --heredity synapses or both"),
        (replace(EVOLVE, data="x", strategy="cull"), HALF, "but nothing evolves"),
        (replace(EVOLVE, data="x", strategy="cull"), Target("synapses", 0.5), "which only --strategy evolve does"),
        (replace(EVOLVE, data="x", dry_run=True), HALF, "--dry-run was given"),
        (replace(EVOLVE, data="x", evolution=replace(SMALL, environment="air=1")), HALF, "--environment has 'air=1'"),
        (replace(EVOLVE, data="x", evolution=replace(SMALL, parents=5)), HALF, "can't be chosen from --survivors 2"),
        (replace(EVOLVE, data="x", evolution=replace(SMALL, from_generation=1)), HALF, "give --resume"),
        (replace(EVOLVE, data="x", evolution=replace(SMALL, workers="many")), HALF, "--workers was given as 'many'"),
    ],
)
def test_wrong_usage_is_refused_before_any_work(settings: Settings, target: Target, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge(settings, target)


def test_the_command_line_evolves_and_tells(shell: Shell) -> None:
    data = save_data(shell.folder / "many.npz", {"x": images(120, 3, 8, 8)})
    done = shell(
        "compress", shell.model, "-o", "small.onnx", "--target-macs", "0.4", "--strategy", "evolve", "--data", data,
        "--generations", "2", "--population", "2", "--survivors", "2", "--workers", "1", "--align", "1",
        "--bench-seconds", "0", "--device", "cpu", "--run-dir", "run", "--report", "report.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert [len(generation["offspring"]) for generation in report["generations"]] == [2, 2]
    assert {control["name"] for control in report["evolution"]["controls"]} == {"one-shot", "random"}
    again = shell(
        "compress", shell.model, "-o", "b.onnx", "--target-macs", "0.4", "--strategy", "evolve", "--data", data,
        "--run-dir", "run",
    )  # fmt: skip
    assert again.code == 2
    assert "has a run already" in again.err
