"""The command line: exit codes, one sentence for each mistake, and nothing half written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import onnx
import onnx.checker
import pytest
from markdown_it import MarkdownIt
from onnx import TensorProto, helper

import darwinc
from darwinc.commands.compress import compress
from darwinc.console import Stage
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job
from tests.shell import HALF, Shell
from tests.small_models import CLASSIFIER, build, floats_in, images, save, save_data


def schema() -> dict[str, Any]:
    path = Path(darwinc.__file__).with_name("report.schema.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_compress_writes_a_valid_model_a_report_and_a_page(shell: Shell) -> None:
    files = ("-o", "out.onnx", "--report", "r.json", "--markdown", "r.md", "--html", "r.html")
    timed = ("--target-sparsity", "0.4", "--bench-seconds", "0.1", "--device", "cpu", "--data", "data.npz")
    done = shell("compress", "model.onnx", *files, *timed)
    assert done.code == 0, done.err
    assert "wrote out.onnx" in done.err
    assert "proven" in done.err
    assert "latency in ONNX Runtime: " in done.err
    assert "error of " in done.err
    assert "<svg" in Path("r.html").read_text(encoding="utf-8")
    onnx.checker.check_model("out.onnx", full_check=True)
    before, after = onnx.load("model.onnx"), onnx.load("out.onnx")
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert report["before"]["parameters"] == floats_in(before)
    assert report["after"]["parameters"] == floats_in(after)
    assert report["after"]["bytes"] == report["output"]["bytes"] == Path("out.onnx").stat().st_size
    assert report["efficiency"]["parameters"] == pytest.approx(floats_in(before) / floats_in(after))
    assert report["verify"]["passed"]
    assert report["verify"]["twin"]["passed"]
    assert all(row["measured"] > 0 and row["scale"] > 0 for row in report["guarantee"]["outputs"])
    assert {row["node"] for row in report["guarantee"]["layers"]} <= {node.name for node in before.graph.node} | {None}
    assert report["latency"]["ci95"][0] <= report["latency"]["speedup"] <= report["latency"]["ci95"][1]
    assert report["command"][0] == "darwinc"
    assert [entry["name"] for entry in report["passes"]] == ["cull", "excise", "inherit", "recalibrate"]
    properties = {entry.key: entry.value for entry in after.metadata_props}
    assert properties["darwinc.version"] == darwinc.__version__
    assert properties["darwinc.source_sha256"] == report["input"]["sha256"]
    assert properties["darwinc.target"] == "sparsity=0.4"
    assert properties["darwinc.parameters"] == f"{floats_in(before)} -> {floats_in(after)}"
    page = Path("r.md").read_text(encoding="utf-8")
    assert "<table>" in MarkdownIt("commonmark").enable("table").render(page)
    assert shell.files().keys() == {"model.onnx", "data.npz", "out.onnx", "r.json", "r.md", "r.html"}


def test_quiet_says_nothing(shell: Shell) -> None:
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert Path("out.onnx").is_file()


def test_a_dry_run_shows_the_plan_and_writes_nothing(shell: Shell) -> None:
    before = shell.files()
    done = shell("compress", "model.onnx", "--dry-run", *HALF)
    assert done.code == 0
    assert "This was the plan; no model was written." in done.err
    assert "w1" in done.out
    assert shell.files() == before


def test_what_became_of_each_repair_is_said(shell: Shell) -> None:
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--data", "data.npz", "--report", "r.json")
    told = json.loads(Path("r.json").read_text(encoding="utf-8"))["recovery"]
    assert [entry["name"] for entry in told] == ["inherit", "recalibrate"]
    for entry in told:
        [line] = [text for text in done.err.splitlines() if text.startswith(f"{entry['name']}: ") and "error" in text]
        assert line.startswith(f"{entry['name']}: {'kept' if entry['accepted'] else 'dropped'}, the error")
        assert line.endswith(f"from {entry['error_before']:.3g} to {entry['error_after']:.3g}")
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF)
    assert "inherit: kept, the error against the original on made-up samples fell from" in done.err
    assert "recalibrate" not in done.err
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--recover", "recalibrate")
    assert "recalibrate: left out (it takes calibration data; give --data)" in done.err
    assert "warning: recalibrate was left out: it takes calibration data" in done.err
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--recover", "none")
    assert "no recovery: what stays keeps its values" in done.err
    assert "recovery" not in shell("compress", "model.onnx", *HALF, "--dry-run").err


def test_protected_layers_stay_whole(shell: Shell) -> None:
    sparsity = ("--target-sparsity", "0.2", "--bench-seconds", "0")
    assert shell("compress", "model.onnx", "-o", "out.onnx", "--protect", "w1", *sparsity).code == 0
    shapes = {tensor.name: list(tensor.dims) for tensor in onnx.load("out.onnx").graph.initializer}
    assert shapes["w1"] == [16, 3, 3, 3]
    assert shapes["w2"][0] < 16
    assert shell("compress", "model.onnx", "-o", "out.onnx", "--only", "Conv_0", *sparsity).code == 0
    shapes = {tensor.name: list(tensor.dims) for tensor in onnx.load("out.onnx").graph.initializer}
    assert shapes["w1"][0] < 16
    assert shapes["w3"] == [10, 16]


USAGE = {
    "no output": (["compress", "model.onnx", *HALF], "-o OUT.onnx"),
    "no target": (["compress", "model.onnx", "-o", "out.onnx"], "exactly one target"),
    "two targets": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--target-macs", "0.5"], "exactly one target"),
    "no share": (["compress", "model.onnx", "-o", "out.onnx", "--target-sparsity", "1.5"], "1.5 is not in the range"),
    "no size": (["compress", "model.onnx", "-o", "out.onnx", "--target-bytes", "few"], "'few' is no size"),
    "recovery": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--recover", "rest"], "no recovery 'rest'"),
    "fitness": (
        ["compress", "model.onnx", "-o", "out.onnx", *HALF, "--fitness", "height"],
        "There is no fitness 'height'",
    ),
    "exponents": (
        ["compress", "model.onnx", "-o", "out.onnx", *HALF, "--fitness", "l2", "--exponents", "1,1,1"],
        "--fitness l2 doesn't read it",
    ),
    "checkpoint": (
        ["compress", "model.onnx", "-o", "out.onnx", *HALF, "--trajectory", "a.onnx", "--trajectory", "./out.onnx"],
        "-o would be written over --trajectory ./out.onnx",
    ),
    "recovery and none": (
        ["compress", "model.onnx", "-o", "out.onnx", *HALF, "--recover", "none,inherit"],
        "none stands alone",
    ),
    "seed": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--seed", "-1"], "-1 is not in the range"),
    "device": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--device", "tpu"], "no device 'tpu'"),
    "itself": (["compress", "model.onnx", "-o", "model.onnx", *HALF], "would be written over the model"),
    "report over the model": (
        ["compress", "model.onnx", "--dry-run", *HALF, "--report", "./model.onnx"],
        "over the model",
    ),
    "page over the result": (
        ["compress", "model.onnx", "-o", "out.onnx", *HALF, "--markdown", "out.onnx"],
        "--markdown would be written over -o",
    ),
    "result over the data": (
        ["compress", "model.onnx", "-o", "data.npz", *HALF, "--data", "data.npz"],
        "-o would be written over --data",
    ),
    "list over the model": (["inspect", "model.onnx", "--json", "model.onnx"], "over the model"),
    "figures over a model": (["bench", "model.onnx", "--json", "model.onnx"], "over a model"),
    "picture over the report": (["report", "r.json", "--html", "r.json"], "over the report"),
    "pictures over the page": (["report", "r.json", "--html", "r.md", "--markdown", "r.md"], "over --html"),
    "page over the report": (["report", "r.json", "--markdown", "r.json"], "over the report"),
    "verdict over the budget": (
        ["check", "a.onnx", "--against", "model.onnx", "--budget", "budget.toml", "--markdown", "budget.toml"],
        "over --budget",
    ),
    "import over itself": (["import", "net.pt2", "-o", "net.pt2"], "over the source"),
    "labels": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--labels", "y.npy"], "without --data"),
    "pattern": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--protect", "zz*"], "--protect 'zz*' matches"),
    "option": (["compress", "model.onnx", "--muscle", "9"], "No such option"),
    "command": (["shrink", "model.onnx"], "No such command"),
    "preprocess": (
        ["compress", "model.onnx", "-o", "out.onnx", *HALF, "--data", "data.npz", "--preprocess", "colourful"],
        "colourful",
    ),
    "nothing to report": (["report", "r.json", "--quiet"], "would do nothing"),
    "shape": (["import", "torchvision:resnet18", "-o", "r.onnx", "--shape", "big"], "'big' is no shape"),
    "no pair": (["check", "model.onnx", "--budget", "budget.toml"], "Give either"),
    "no budget": (["check", "model.onnx", "--against", "model.onnx", "--budget", "nothing.toml"], "nothing.toml"),
    "provider": (["bench", "model.onnx", "--provider", "Abacus"], "no provider Abacus"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage_is_2(shell: Shell, arguments: list[str], message: str) -> None:
    Path("budget.toml").write_text("[budget]\nparameters = 0.7\n", encoding="utf-8")
    before = shell.files()
    done = shell(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert shell.files() == before


def test_the_readme_and_the_help_explain_every_option_of_compress() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    options = [parameter for parameter in compress.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert [option.opts[0] for option in options if not re.search(rf"`{option.opts[0]}[` ]", readme)] == []


@pytest.mark.parametrize("case", ["recovery", "recovery and none", "device", "labels", "preprocess"])
def test_what_no_model_could_make_right_is_refused_before_it_is_read(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("darwinc.compression.graph.load_model", lambda path: pytest.fail("the model was read"))
    arguments, message = USAGE[case]
    done = shell(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "reading" not in done.err


@pytest.mark.parametrize("option", ["--data", "--test"])
def test_samples_that_are_not_there_are_3_before_any_work(shell: Shell, option: str) -> None:
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, option, "nowhere")
    assert done.code == 3
    assert f"{option} nowhere doesn't exist" in done.err
    assert "analysing" not in done.err
    assert not Path("out.onnx").exists()


def foreign() -> onnx.ModelProto:
    """A model with an operator that nobody knows."""
    node = helper.make_node("Oracle", ["x"], ["y"], "asked", domain="delphi")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("delphi", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("command", ["compress", "inspect", "bench"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [("text", "text.onnx"), ("truncated", "truncated.onnx"), ("missing", "missing.onnx"), ("foreign", "delphi")],
)
def test_a_model_that_can_not_be_read_is_3(shell: Shell, command: str, kind: str, message: str) -> None:
    Path("text.onnx").write_text("this is no model", encoding="utf-8")
    Path("truncated.onnx").write_bytes(shell.model.read_bytes()[:-3000])
    save(foreign(), Path("foreign.onnx"))
    before = shell.files()
    extra = ["-o", "out.onnx", *HALF] if command == "compress" else []
    done = shell(command, f"{kind}.onnx", *extra)
    assert done.code == 3
    assert message in done.err
    assert sum(line.startswith("darwinc: ") for line in done.err.splitlines()) == 1
    assert "Traceback" not in done.err
    assert shell.files() == before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": images(8, 3, 7, 7)}, "wants"),
        ({"x": images(8, 3, 8, 8) * np.float32(np.nan)}, "NaN"),
        ({"a": images(8, 3, 8, 8), "b": images(8, 3, 8, 8)}, "name the arrays after the inputs"),
        ({"x": images(8, 3, 8, 8), "y": np.zeros(5, np.int64)}, "5 labels for 8 samples"),
    ],
)
def test_data_that_does_not_fit_is_3(shell: Shell, arrays: dict[str, Any], message: str) -> None:
    save_data(Path("odd.npz"), arrays)
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--data", "odd.npz")
    assert done.code == 3
    assert message in done.err
    assert not Path("out.onnx").exists()
    assert shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--data", "nowhere").code == 3


@pytest.mark.parametrize("option", ["-o", "--report", "--markdown"])
def test_an_unwritable_output_is_3_before_any_work(shell: Shell, option: str) -> None:
    output = [] if option == "-o" else ["-o", "out.onnx"]
    done = shell("compress", "model.onnx", *output, option, "nowhere/file", *HALF)
    assert done.code == 3
    assert "the folder nowhere doesn't exist" in done.err
    assert not Path("out.onnx").exists()


def test_a_target_out_of_reach_is_4_with_the_range_and_what_holds(shell: Shell) -> None:
    Path("out.onnx").write_bytes(b"precious")
    done = shell("compress", "model.onnx", "-o", "out.onnx", "--target-sparsity", "0.999")
    assert done.code == 4
    assert "the reachable range is 0 to 0.9" in done.err
    assert "channels are held by " in done.err
    assert "Gemm 'Gemm_7' (makes the graph's output, such as class scores, which keeps its shape)" in done.err
    assert "Conv 'Conv_0' (meets the graph's input, which keeps its shape)" in done.err
    assert Path("out.onnx").read_bytes() == b"precious"
    size = shell("compress", "model.onnx", "-o", "out.onnx", "--target-bytes", "1k")
    assert size.code == 4
    assert "1000 bytes can't be reached: at least about" in size.err


def test_a_model_without_prunable_channels_is_4(shell: Shell) -> None:
    text = """(float[N,3,8,8] x, float[4,3,3,3] w1) => (float[N,4,6,6] y) {
        y = Conv(x, w1)
    }
    """
    save(build(text), Path("fixed.onnx"))
    done = shell("compress", "fixed.onnx", "-o", "out.onnx", *HALF)
    assert done.code == 4
    assert "No channel can be removed from this model" in done.err
    assert not Path("out.onnx").exists()


def test_a_failed_verification_is_5_and_leaves_what_was_there(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def skip_a_node(self: Excise, job: Job, stage: Stage) -> bool:
        changed = honest(self, job, stage)
        job.model.graph.initializers["shift"].const_value = job.model.graph.initializers["mean"].const_value
        return changed

    honest = Excise.run
    monkeypatch.setattr(Excise, "run", skip_a_node)
    Path("out.onnx").write_bytes(b"precious")
    before = shell.files()
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--report", "r.json")
    assert done.code == 5
    assert "nothing was written" in done.err
    assert shell.files() == before


@pytest.mark.parametrize("where", ["darwinc.proving.prove_rewrite", "darwinc.graph.os.replace"])
def test_ctrl_c_is_6_and_leaves_nothing_half_written(shell: Shell, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    before = shell.files()
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--report", "r.json")
    assert done.code == 6
    assert "stopped" in done.err
    assert shell.files() == before


def test_a_bug_is_70_with_a_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, *patterns: object) -> None:
        raise ZeroDivisionError(path)

    monkeypatch.setattr("darwinc.inspection.inspect_model", broken)
    done = shell("inspect", "model.onnx")
    assert done.code == 70
    assert "Traceback" in done.err
    assert done.err.rstrip().endswith("please report it with the lines above.")


def test_verbose_shows_where_an_error_came_from(shell: Shell) -> None:
    done = shell("inspect", "missing.onnx", "--verbose")
    assert done.code == 3
    assert "Traceback" in done.err


def process(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`python -m darwinc` in a process of its own."""
    command = [sys.executable, "-m", "darwinc", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), **extra}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_is_6(tmp_path: Path, number: str) -> None:
    save(build(CLASSIFIER), tmp_path / "model.onnx")
    stop = f"import os, signal, time\ndef load():\n    os.kill(os.getpid(), signal.{number})\n    time.sleep(60)\n"
    (tmp_path / "told.py").write_text(stop, encoding="utf-8")
    done = process(tmp_path, "compress", "model.onnx", "-o", "out.onnx", *HALF, "--data", "told:load")
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"model.onnx", "told.py"}


def test_the_module_is_the_program(tmp_path: Path) -> None:
    assert process(tmp_path, "--version").stdout == f"darwinc, version {darwinc.__version__}\n"
    save(build(CLASSIFIER), tmp_path / "model.onnx")
    done = process(tmp_path, "compress", "model.onnx", "-o", "out.onnx", *HALF, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
