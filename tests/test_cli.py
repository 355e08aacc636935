"""The command line: exit codes, one sentence for each mistake, and nothing half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx.checker
import pytest
from markdown_it import MarkdownIt
from onnx import TensorProto, helper

import darwinc
from darwinc.cli import main
from darwinc.console import Stage
from darwinc.gate import SUMMARY_FILES
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job
from tests.small_models import CLASSIFIER, build, floats_in, images, save, save_data

HALF = ("--target-sparsity", "0.4", "--bench-seconds", "0", "--device", "cpu")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands in this process, in a folder that holds a model and data for it."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capture = folder, capture
        self.model = save(build(CLASSIFIER), folder / "model.onnx")
        self.data = save_data(folder / "data.npz", {"x": images(32, 3, 8, 8)})

    def __call__(self, *arguments: str | Path) -> Outcome:
        self.capture.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments], prog_name="darwinc")
        told = self.capture.readouterr()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, told.out, told.err)

    def files(self) -> dict[str, bytes]:
        """Everything in the folder, hidden files too."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    for name in (*SUMMARY_FILES, "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield Shell(tmp_path, capsys)
    signal.signal(signal.SIGTERM, handler)


def schema() -> dict[str, Any]:
    path = Path(darwinc.__file__).with_name("report.schema.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_compress_writes_a_valid_model_a_report_and_a_page(shell: Shell) -> None:
    files = ("-o", "out.onnx", "--report", "r.json", "--markdown", "r.md")
    timed = ("--target-sparsity", "0.4", "--bench-seconds", "0.1", "--device", "cpu", "--data", "data.npz")
    done = shell("compress", "model.onnx", *files, *timed)
    assert done.code == 0, done.err
    assert "wrote out.onnx" in done.err
    assert "proven" in done.err
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
    assert shell.files().keys() == {"model.onnx", "data.npz", "out.onnx", "r.json", "r.md"}


def test_quiet_says_nothing(shell: Shell) -> None:
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert Path("out.onnx").is_file()


def test_a_dry_run_shows_the_plan_and_writes_nothing(shell: Shell) -> None:
    before = shell.files()
    done = shell("compress", "model.onnx", "--dry-run", *HALF)
    assert done.code == 0
    assert "This was the plan; nothing was written." in done.err
    assert "w1" in done.out
    assert shell.files() == before


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
    "fitness": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--fitness", "height"], "'height' is not one of"),
    "device": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--device", "tpu"], "no device 'tpu'"),
    "itself": (["compress", "model.onnx", "-o", "model.onnx", *HALF], "is the model itself"),
    "labels": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--labels", "y.npy"], "without --data"),
    "pattern": (["compress", "model.onnx", "-o", "out.onnx", *HALF, "--protect", "zz*"], "--protect 'zz*' matches"),
    "option": (["compress", "model.onnx", "--strength", "9"], "No such option"),
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
    assert "Gemm 'Gemm_7' (reaches a graph output)" in done.err
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


@pytest.mark.parametrize("where", ["darwinc.compression.prove_rewrite", "darwinc.graph.os.replace"])
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
    def broken(path: Path) -> None:
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


def test_inspect_as_json(shell: Shell) -> None:
    done = shell("inspect", "model.onnx", "--json", "facts.json")
    assert done.code == 0
    found = json.loads(Path("facts.json").read_text(encoding="utf-8"))
    assert found["schema"] == "darwinc.inspect/1"
    assert found["cost"]["parameters"] == floats_in(onnx.load("model.onnx"))
    assert [group["channels"] for group in found["groups"]] == [16, 16]
    first, second = found["groups"]
    # A channel of the first Conv: its filter, its bias, and the plane that every filter of the second reads it with.
    assert first["parameters_per_channel"] == 3 * 9 + 1 + 16 * 9
    assert second["parameters_per_channel"] == 16 * 9 + 4 + 10
    assert first["macs_per_channel"] == 64 * (3 * 9 + 16 * 9)
    # At most 90 % of 16 channels: 2 stay in either group.
    left = 2 * 27 + 2 + 2 * 2 * 9 + 4 * 2 + 2 * 10 + 10
    assert found["reachable_sparsity"] == pytest.approx(1 - left / found["cost"]["parameters"])
    assert found["barriers"]
    assert "w1" in done.out


def test_bench_of_one_model_and_of_two(shell: Shell) -> None:
    done = shell("bench", "model.onnx", "--seconds", "0.1", "--json", "one.json")
    assert done.code == 0, done.err
    one = json.loads(Path("one.json").read_text(encoding="utf-8"))
    assert one["schema"] == "darwinc.bench/1"
    assert [model["path"] for model in one["models"]] == ["model.onnx"]
    assert shell("bench", "model.onnx", "model.onnx", "--seconds", "0.1", "--json", "two.json").code == 0
    two = json.loads(Path("two.json").read_text(encoding="utf-8"))
    assert len(two["models"]) == 2
    assert two["verdict"] in ("faster", "slower", "indistinguishable")
    assert two["ci95"][0] <= two["speedup"] <= two["ci95"][1]
    assert two["models"][0]["median_ms"] <= two["models"][0]["p90_ms"] <= two["models"][0]["p99_ms"]


@pytest.fixture
def compressed(shell: Shell) -> Shell:
    """The shell, with out.onnx and its r.json."""
    files = ("-o", "out.onnx", "--report", "r.json")
    assert shell("compress", "model.onnx", *files, *HALF, "--data", "data.npz").code == 0
    return shell


BUDGETS = {
    "holds": ("parameters = 0.7\nmacs = 0.9\nbytes = 1.0\nkernels = 1.0", 0),
    "violated": ("parameters = 0.3\nmacs = 0.9", 1),
    "misspelt": ("parameter = 0.3", 2),
    "quality": ("quality_drop = 100\nparity = 10.0", 0),
}


@pytest.mark.parametrize(("text", "code"), BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize("what", ["pair", "report"])
def test_the_gate(compressed: Shell, monkeypatch: pytest.MonkeyPatch, what: str, text: str, code: int) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("budget.toml").write_text(f"[budget]\n{text}\n", encoding="utf-8")
    pair = ["out.onnx", "--against", "model.onnx", "--data", "data.npz"]
    source = pair if what == "pair" else ["--report", "r.json"]
    done = compressed("check", *source, "--budget", "budget.toml", "--markdown", "gate.md")
    assert done.code == code, done.err
    if code == 2:
        assert "parameters" in done.err
        return
    page = Path("gate.md").read_text(encoding="utf-8")
    assert Path("summary.md").read_text(encoding="utf-8").strip() == page.strip()
    assert ("error: parameters: " in done.err) == (code == 1)
    assert "error: macs" not in done.err


def test_a_key_without_its_data_is_wrong_usage(compressed: Shell) -> None:
    Path("budget.toml").write_text("[budget]\nquality_drop = 1\n", encoding="utf-8")
    done = compressed("check", "out.onnx", "--against", "model.onnx", "--budget", "budget.toml")
    assert done.code == 2
    assert "quality_drop" in done.err
    Path("budget.toml").write_text("[budget]\nlatency = 1\n", encoding="utf-8")
    done = compressed("check", "--report", "r.json", "--budget", "budget.toml")
    assert done.code == 2
    assert "latency" in done.err


def test_latency_is_measured_when_the_budget_asks(compressed: Shell) -> None:
    Path("budget.toml").write_text("[budget]\nlatency = 9\n", encoding="utf-8")
    pair = ("out.onnx", "--against", "model.onnx", "--bench-seconds", "0.1")
    assert compressed("check", *pair, "--budget", "budget.toml").code == 0


def test_a_report_becomes_a_page(compressed: Shell) -> None:
    printed = compressed("report", "r.json")
    assert printed.code == 0
    assert compressed("report", "r.json", "--markdown", "page.md", "--quiet").code == 0
    assert Path("page.md").read_text(encoding="utf-8").strip() == printed.out.strip()
    assert "model.onnx" in printed.out


def test_passes_lists_every_option(shell: Shell) -> None:
    done = shell("passes")
    assert done.code == 0
    for words in ("cull", "excise", "inherit", "recalibrate", "align = 0", "max_share = 0.9", "refit"):
        assert words in done.out


def test_import_brings_torchvision_models(shell: Shell) -> None:
    done = shell("import", "torchvision:squeezenet1_1", "-o", "squeeze.onnx", "--shape", "1,3,32,32")
    assert done.code == 0, done.err
    assert "wrote squeeze.onnx" in done.err
    assert floats_in(onnx.load("squeeze.onnx")) == 1_235_496
    assert shell("import", "torchvision:nonsense", "-o", "no.onnx").code in (2, 3)
    assert not Path("no.onnx").exists()


def test_the_demo_needs_no_arguments(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr("darwinc.models.digits.EPOCHS", 1)
    monkeypatch.setattr("darwinc.compression.MOST_SAMPLES", 128)
    monkeypatch.setattr("darwinc.compression.Settings.bench_seconds", 0.1)
    before = shell.files()
    done = shell("demo", "--report", "demo.json")
    assert done.code == 0, done.err
    report = json.loads(Path("demo.json").read_text(encoding="utf-8"))
    assert report["target"]["achieved"] == pytest.approx(0.5, abs=0.03)
    assert (report["quality"]["metric"], report["quality"]["split"]) == ("top1", "test")
    assert shell.files().keys() == before.keys() | {"demo.json"}


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
