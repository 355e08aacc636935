"""Every command but `compress`: its files, its figures, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
from PIL import Image

from tests.shell import HALF, Shell
from tests.small_models import floats_in


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
    monkeypatch.setattr("darwinc.sampling.MOST_CALIBRATING", 128)
    monkeypatch.setattr("darwinc.compression.Settings.bench_seconds", 0.1)
    before = shell.files()
    done = shell("demo", "--report", "demo.json")
    assert done.code == 0, done.err
    report = json.loads(Path("demo.json").read_text(encoding="utf-8"))
    assert report["target"]["achieved"] == pytest.approx(0.5, abs=0.03)
    assert (report["quality"]["metric"], report["quality"]["split"]) == ("top1", "test")
    assert shell.files().keys() == before.keys() | {"demo.json"}


def test_what_is_found_out_about_images_is_said_whenever_it_is_found_out(shell: Shell) -> None:
    """The model says how images are prepared; one looks sound from its first bytes and isn't."""
    model = onnx.load(shell.model)
    onnx.helper.set_model_props(model, {"Image.BitmapPixelFormat": "Bgr8"})
    onnx.save(model, shell.model)
    generator = np.random.default_rng(0)
    Path("images").mkdir()
    for index in range(17):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(f"images/{index:02}.png")
    Path("images/05.png").write_bytes(Path("images/05.png").read_bytes()[:3000])
    said = (
        "images are prepared as the model's metadata (Image.BitmapPixelFormat) say: --preprocess none,order=bgr",
        "1 of 17 images can't be read and are left out: 05.png",
    )
    done = shell("compress", "model.onnx", "-o", "out.onnx", *HALF, "--data", "images", "--report", "r.json")
    assert done.code == 0, done.err
    warnings = json.loads(Path("r.json").read_text(encoding="utf-8"))["warnings"]
    assert [warnings.count(sentence) for sentence in said] == [1, 1]
    Path("budget.toml").write_text("[budget]\nparity = 10.0\n", encoding="utf-8")
    pair = ("out.onnx", "--against", "model.onnx", "--data", "images", "--preprocess", "model")
    done = shell("check", *pair, "--budget", "budget.toml")
    assert done.code == 0, done.err
    for sentence in said:
        assert sentence in " ".join(done.err.split())
    for option, code in (("nowhere.json", 3), ("colourful", 2)):
        assert shell("check", *pair, "--budget", "budget.toml", "--preprocess", option).code == code
