"""`darwinc inspect`: its figures against closed forms, its words, and what it makes of patterns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from darwinc.console import Terminal
from darwinc.inspection import Inspection, inspect_model
from darwinc.inspection_page import headline, listings, share_text, some
from tests.shell import Shell
from tests.small_models import CLASSIFIER, build, floats_in, save

FIRST = 3 * 9 + 1 + 16 * 9
"""A channel of the first Conv: its filter, its bias, and the plane that every filter of the second reads it with."""
SECOND = 16 * 9 + 4 + 10
TOTAL = 16 * 27 + 16 + 16 * 16 * 9 + 4 * 16 + 10 * 16 + 10


def inspected(folder: Path, text: str = CLASSIFIER, **patterns: tuple[str, ...]) -> Inspection:
    return inspect_model(save(build(text), folder / "model.onnx"), **patterns)


def as_json(shell: Shell, *options: str) -> dict[str, Any]:
    done = shell("inspect", "model.onnx", "--json", "facts.json", *options)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(Path("facts.json").read_text(encoding="utf-8"))
    return found


def left(first: int, second: int) -> int:
    """Parameters of the classifier with so many channels in its groups."""
    return first * 28 + first * second * 9 + 4 * second + 10 * second + 10


def test_inspect_as_json(shell: Shell) -> None:
    found = as_json(shell)
    assert found["schema"] == "darwinc.inspect/1"
    assert found["cost"]["parameters"] == floats_in(onnx.load("model.onnx")) == TOTAL
    assert [group["channels"] for group in found["groups"]] == [16, 16]
    first, second = found["groups"]
    assert (first["parameters_per_channel"], second["parameters_per_channel"]) == (FIRST, SECOND)
    assert first["macs_per_channel"] == 64 * (3 * 9 + 16 * 9)
    assert first["parameters"] == 16 * 28 + 16 * 16 * 9
    assert second["parameters_share"] == pytest.approx((16 * 16 * 9 + 4 * 16 + 10 * 16) / TOTAL)
    assert second["macs"] == 64 * 16 * 16 * 9 + 10 * 16
    assert first["nodes"] == [{"node": "Conv_0", "op_type": "Conv"}, {"node": "Conv_2", "op_type": "Conv"}]
    assert [node["op_type"] for node in second["nodes"]] == ["Conv", "BatchNormalization", "Gemm"]
    assert second["tensors"] == ["w2", "scale", "shift", "mean", "var", "w3"]
    # At most 90 % of 16 channels: 2 stay in either group.
    assert found["reachable_sparsity"] == pytest.approx(1 - left(2, 2) / TOTAL)
    assert found["prunable_sparsity"] == pytest.approx(1 - left(1, 1) / TOTAL)
    # All but the bias of the classifier lies on a channel of one of the groups.
    assert found["prunable_share"] == pytest.approx(1 - 10 / TOTAL)
    assert found["held_parameters"] == 10
    [holder] = found["held"]
    assert (holder["op_type"], holder["parameters"], holder["parameters_alone"]) == ("Gemm", 10, 10)
    assert "class scores" in holder["why"]
    last, image = found["barriers"]
    assert (last["node"], last["reason"], last["parameters"]) == ("Gemm_7", "reaches a graph output", 10)
    assert (image["node"], image["why"]) == ("Conv_0", "meets the graph's input, which keeps its shape")
    assert image["parameters"] == 0


def test_patterns_leave_what_compress_would_leave(shell: Shell) -> None:
    for options in (["--protect", "w1"], ["--only", "BatchNorm*"], ["--protect", "g0"]):
        found = as_json(shell, *options)
        assert [group["may_lose"] for group in found["groups"]] == [False, True]
        assert found["prunable_sparsity"] == pytest.approx(1 - left(16, 1) / TOTAL)
        assert found["held_parameters"] == 16 * 28 + 10
        assert {row["why"]: row["parameters"] for row in found["held"]}["kept by --protect or --only"] == 16 * 28
        done = shell("compress", "model.onnx", "--target-sparsity", "0.99", "--dry-run", *options)
        assert f"{found['reachable_sparsity']:.3f}" in done.err
    assert shell("inspect", "model.onnx", "--only", "nothing").code == 2
    told = shell("inspect", "model.onnx", "--protect", "g0").out
    assert "g0 (stays whole): 16 channels" in told
    assert "16 channels in 1 group (of 2; " in told
    # The filters of the first Conv: one axis kept by the option, the other by the image, each alone.
    assert "  432 parameters (14.5 %, 432 alone): Conv_0 (Conv): meets the graph's input" in told
    assert "alone: this is all that keeps them along one of their axes" in told


def test_off_a_terminal_every_row_is_a_line(shell: Shell) -> None:
    lines = shell("inspect", "model.onnx").out.splitlines()
    assert lines[0].startswith(f"model.onnx: opset 17, 8 nodes, {TOTAL:,} parameters")
    assert lines[1].startswith("prunable: 99.7 % of the parameters")
    assert "held: 0.335 %, 10 parameters" in lines
    [group] = [line for line in lines if line.startswith("  g1: ")]
    assert group.endswith("Conv_2 (Conv), BatchNormalization_3 (BatchNormalization), Gemm_7 (Gemm)")
    assert any(line.startswith("  10 parameters (0.335 %, 10 alone): Gemm_7 (Gemm): makes") for line in lines)
    assert "tensors w2, scale" in shell("inspect", "model.onnx", "--all").out
    assert (
        "0 parameters (0 alone): Conv_0 (Conv): meets the graph's input"
        in shell("inspect", "model.onnx", "--verbose").out
    )
    assert shell("inspect", "model.onnx", "--quiet").out == ""


def chain(layers: int) -> str:
    """Convolutions one after the other, each with a group of its own."""
    weights = ", ".join(f"float[4,4,1,1] w{number}" for number in range(layers))
    steps = "\n".join(f"h{number + 1} = Conv(h{number}, w{number})" for number in range(1, layers - 1))
    return (
        f"(float[N,4,2,2] x, {weights}) => (float[N,4,2,2] y) {{\n"
        f"h1 = Conv(x, w0)\n{steps}\ny = Conv(h{layers - 1}, w{layers - 1})\n}}"
    )


def test_long_lists_are_shortened_and_say_so(tmp_path: Path) -> None:
    found = inspected(tmp_path, chain(20))
    short, full = list(listings(found, everything=False)), list(listings(found, everything=True))
    assert (len(short[0].rows), short[0].more) == (12, "… and 7 more groups (see --all or --json)")
    assert (len(full[0].rows), full[0].more) == (19, "")
    assert some(["a", "b", "c", "d"], 2) == "a, b … and 2 more"
    assert some(["a", "b", "c"], 2) == "a, b, c"


def test_on_a_terminal_lists_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    results = io.StringIO()
    terminal = Terminal(results=results, progress=io.StringIO())
    for listing in listings(inspected(tmp_path, chain(20)), everything=False):
        terminal.show_list(listing)
    text = results.getvalue()
    assert "┃" in text
    assert "and 7 more groups" in text


def test_a_model_without_groups_says_why(tmp_path: Path) -> None:
    found = inspected(tmp_path, "(float[N,4] x, float[4,4] w) => (float[N,4] y) { y = MatMul(x, w) }")
    assert found.groups == []
    assert found.held_parameters == 16
    assert "no channel can be removed: channels are held by MatMul" in headline(found)
    assert {row.why: (row.parameters, row.parameters_alone) for row in found.held} == {
        "makes the graph's output, such as class scores, which keeps its shape": (16, 16),
        "meets the graph's input, which keeps its shape": (16, 16),
    }


def test_weights_that_only_a_body_reads_are_told_apart(tmp_path: Path) -> None:
    text = """(float[N,4] x, bool c, float[4,4] w) => (float[N,4] y) {
        y = If(c) <
            then_branch = a () => (float[N,4] p) { p = MatMul(x, w) },
            else_branch = b () => (float[N,4] q) { q = Identity(x) }
        >
    }"""
    [holder] = inspected(tmp_path, text).held
    assert (holder.parameters, holder.nodes) == (16, 0)
    assert "bodies of If" in holder.why


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1e-9, "<0.1 %"), (0.503, "50.3 %"), (0.99999, ">99.9 %"), (1, "100 %")]
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float, text: str) -> None:
    assert share_text(share) == text
