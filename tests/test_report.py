"""report.json and its page: the schema, what may be missing, and names that try to break out of Markdown."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pydantic
import pytest
from markdown_it import MarkdownIt

from darwinc.errors import InputError, OutputError
from darwinc.pages.questions import merge_barriers, most_shrunk, points
from darwinc.pages.texts import (
    MET_WITHIN,
    code_text,
    count_text,
    fence_text,
    percent_text,
    plain_text,
    size_text,
    target_text,
)
from darwinc.report import build_report, file_info, load_report, to_markdown, tool_info, write_json, write_text
from darwinc.report_schema import Barrier, Group, Quality, Target, json_schema
from darwinc.selection import SHORTFALL

RAISED = {"id": "c", "kind": "offspring", "generation": 1, "parents": ["a", "b"], "genome": "ee" * 32, "survived": True}
SCHEMA_FILE = Path(__file__).parents[1] / "darwinc" / "report.schema.json"


def smallest() -> dict[str, Any]:
    """What every run knows."""
    return {
        "tool": {"python": "3.11.9", "device": "cpu"},
        "command": ["darwinc", "compress", "my model.onnx", "-o", "out.onnx", "--target-sparsity", "0.5"],
        "mode": "data-free",
        "input": {"path": "my model.onnx", "sha256": "ab" * 32, "bytes": 4000},
        "target": {"kind": "sparsity", "asked": 0.5},
        "before": {"parameters": 1000},
    }


def full() -> dict[str, Any]:
    """What a run knows that measured everything; with NumPy values, as they come out of the work."""
    return smallest() | {
        "seed": np.int64(3),
        "mode": "unlabelled",
        "statistics": "data",
        "output": {"path": Path("out.onnx"), "sha256": "cd" * 32, "bytes": 2100},
        "target": {"kind": "sparsity", "asked": 0.5, "achieved": np.float32(0.503)},
        "before": {"parameters": 1000, "macs": 8000, "bytes": 4000, "channels": 64, "kernels": 90, "synapses": 900},
        "after": {"parameters": 497, "macs": 4000, "bytes": 2100, "channels": 40, "kernels": 30, "synapses": 450},
        "groups": [
            {
                "id": "first",
                "channels_before": 32,
                "channels_after": 8,
                "members": [{"tensor": "conv.weight", "axis": 0}, {"tensor": "conv.bias", "axis": 0}],
                "scores": {"least": np.float64(0.25)},
            },
            {"id": "second", "channels_before": 32, "channels_after": 32, "members": []},
        ],
        "alignment": {"default": 8, "finer": [{"group": "first", "multiple": 4, "why": "narrow"}]},
        "kept": {"conv.weight": {"0": np.arange(8)}, "grouped.weight": {"1": [np.arange(2), np.array([1, 3])]}},
        "copies": {"ones__1": "ones"},
        "barriers": [{"node": "head", "op_type": "Gemm", "reason": "channels reach the graph output"}],
        "verify": {
            "method": "zeroed-original",
            "inputs": 4,
            "max_abs_error": 1e-6,
            "max_rel_error": 2e-6,
            "passed": True,
            "twin": {"inputs": 4, "max_abs_error": 1e-6, "max_rel_error": 3e-6, "passed": True},
        },
        "parity": {"relative_error": 0.04, "samples": 4},
        "quality": {"metric": "agreement", "before": 1.0, "after": 0.97, "samples": 1000, "split": "held-out"},
        "latency": {
            "before_ms": 3.2,
            "after_ms": 1.6,
            "speedup": 2.0,
            "ci95": [1.9, 2.1],
            "noise_floor": 0.01,
            "verdict": "faster",
            "provider": "CPUExecutionProvider",
            "threads": 1,
            "optimization_level": "all",
            "cpu_flags": ["avx2"],
        },
        "recovery": [{"name": "inherit", "accepted": True, "error_before": 0.2, "error_after": 0.05, "seconds": 1.5}],
        "generations": [
            {"generation": 1, "parents": ["a", "b"], "offspring": [RAISED], "survivor": "c", "fitness": 0.9}
        ],
        "passes": [{"name": "cull", "options": {"align": 8}, "changed": True, "seconds": 0.1, "skipped": []}],
        "time": {"calibrate": 2.5},
        "peak_memory_bytes": 10**9,
        "warnings": ["one input was made up"],
    }


@pytest.mark.parametrize("values", [smallest(), full()], ids=["smallest", "full"])
def test_what_is_written_follows_the_shipped_schema_and_reads_back(values: dict[str, Any], tmp_path: Path) -> None:
    report = build_report(values)
    write_json(report, tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))).validate(written)
    assert written["schema"] == "darwinc.report/1"
    assert load_report(tmp_path / "report.json") == report
    assert load_report(tmp_path) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def plain(schema: Any, names: bool = False) -> Any:
    """A JSON Schema without what versions of pydantic word differently; `names` where keys are names of fields."""
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: part
        for key, part in schema.items()
        if names or (key not in ("title", "description", "default") and (key, part) != ("additionalProperties", True))
    }
    return {key: plain(part, names=not names and key in ("properties", "$defs")) for key, part in kept.items()}


def test_the_shipped_schema_is_the_models() -> None:
    shipped = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(shipped)
    refresh = "write json.dumps(darwinc.report_schema.json_schema(), indent=2) into darwinc/report.schema.json"
    assert plain(shipped) == plain(json_schema()), refresh


def test_the_schema_has_every_key_of_the_contract() -> None:
    top = (
        "schema tool command seed mode input output target before after efficiency groups kept copies barriers verify "
        "quality latency generations passes warnings"
    )
    properties = json_schema()["properties"]
    assert set(top.split()) <= set(properties)
    latency = json_schema()["$defs"]["Latency"]["properties"]
    assert {"before_ms", "after_ms", "speedup", "ci95", "noise_floor", "verdict", "provider", "threads"} <= set(latency)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "darwinc.report/2"),
        (("mode",), "guessed"),
        (("kept",), {"w": {"first": [1]}}),
        (("before", "parameters"), "many"),
        (("latency",), {"verdict": "maybe"}),
    ],
)
def test_the_schema_and_the_models_refuse_the_same(path: tuple[str, ...], value: object) -> None:
    values = json.loads(build_report(full()).model_dump_json(by_alias=True))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(values)
    with pytest.raises(pydantic.ValidationError):
        build_report(values)


def test_numpy_values_become_plain_and_lists_of_indices_stay_on_a_line(tmp_path: Path) -> None:
    write_json(build_report(full()), tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert written["kept"] == {"conv.weight": {"0": list(range(8))}, "grouped.weight": {"1": [[0, 1], [1, 3]]}}
    assert written["seed"] == 3
    assert "[ 0, 1, 2, 3, 4, 5, 6, 7 ]" in text


def test_efficiency_is_before_over_after_and_absent_where_it_does_not_exist() -> None:
    report = build_report(full())
    assert report.efficiency is not None
    assert report.efficiency.parameters == 1000 / 497
    assert (report.efficiency.synaptic, report.efficiency.cluster) == (2.0, 3.0)
    values = full()
    values["after"] = {"parameters": 0, "bytes": 2000}
    efficiency = build_report(values).efficiency
    assert efficiency is not None
    assert (efficiency.parameters, efficiency.macs, efficiency.bytes) == (None, None, 2.0)


def test_not_a_number_becomes_null_not_invalid_json(tmp_path: Path) -> None:
    values = full()
    values["quality"]["after"] = math.nan
    values["groups"][0]["scores"] = {"least": math.inf}
    write_json(build_report(values), tmp_path / "r.json")

    def refuse(word: str) -> float:
        raise ValueError(word)

    written = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert written["quality"]["after"] is None
    assert load_report(tmp_path / "r.json").quality is not None


def test_fields_of_a_later_version_are_kept() -> None:
    report = build_report(full() | {"from_the_future": {"x": 1}})
    written = json.loads(report.model_dump_json(by_alias=True))
    assert written["from_the_future"] == {"x": 1}
    assert written["latency"]["cpu_flags"] == ["avx2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[1, 2]", "object"),
        (b'{"schema": "somebody.else/7"}', "darwinc.report/1"),
        (b'{"schema": "darwinc.report/1"}', "required"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused_in_one_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_report(tmp_path / "r.json")
    assert "\n" not in str(caught.value)
    assert "r.json" in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json can't be read"):
        load_report(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"report\.json can't be read"):
        load_report(tmp_path)
    with pytest.raises(InputError, match=r"absent\.onnx can't be read"):
        file_info(tmp_path / "absent.onnx")


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        write_text("x", tmp_path / "nowhere" / "r.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="can't be written"):
        write_text("x", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_file_info(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc" * 1000)
    assert file_info(path) == {"path": str(path), "sha256": hashlib.sha256(b"abc" * 1000).hexdigest(), "bytes": 3000}


def test_tool_info_knows_torch_without_importing_it() -> None:
    code = (
        "import sys; from darwinc.report import tool_info; info = tool_info('cpu'); "
        "assert info['torch'] and info['onnxruntime'] and info['darwinc'], info; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SCHEMA_FILE.parents[1])
    assert set(tool_info("cuda:0")) == {"darwinc", "onnx", "onnxruntime", "torch", "python", "device", "cpu"}
    assert tool_info("cuda:0")["device"] == "cuda:0"


def test_points_takes_rates_for_fractions_unless_told() -> None:
    assert points(Quality(metric="top1", before=0.926, after=0.9)) == pytest.approx((92.6, 90.0))
    assert points(Quality(metric="top1", before=92.6, after=90.0)) == (92.6, 90.0)
    assert points(Quality(metric="top1", before=0.9, after=0.4, scale="points")) == (0.9, 0.4)
    assert points(Quality(metric="top1", before=92.6, after=0.5)) == (92.6, 0.5)
    assert points(Quality(metric="top1", before=None, after=0.5)) == (None, 50.0)


def test_barriers_are_merged_by_reason_and_groups_sorted_by_what_they_lost() -> None:
    barriers = [Barrier(node=f"n{i}", op_type="LSTM" if i else "GRU", reason="no rule") for i in range(3)]
    merged = merge_barriers([Barrier(node="head", op_type="Gemm", reason="output"), *barriers])
    assert [(row.reason, row.count, row.op_types) for row in merged] == [
        ("no rule", 3, ("GRU", "LSTM")),
        ("output", 1, ("Gemm",)),
    ]
    sizes = {"whole": (8, 8), "half": (16, 8), "quarter": (32, 8), "wide half": (64, 32)}
    groups = [Group(id=name, channels_before=old, channels_after=new) for name, (old, new) in sizes.items()]
    assert [group.id for group in most_shrunk(groups)] == ["quarter", "wide half", "half"]
    assert len(most_shrunk(groups, limit=1)) == 1


def test_figures_as_text() -> None:
    assert [count_text(count) for count in (None, 0, 999, 25_557_032, 4_089_184_256)] == [
        "not measured",
        "0",
        "999",
        "25.56 M",
        "4.09 G",
    ]
    assert (size_text(2_500_000), percent_text(0.503), percent_text(None)) == ("2.5 MB", "50.3 %", "not measured")


def test_the_page_says_what_an_engineer_asks() -> None:
    page = to_markdown(build_report(full()))
    for words in (
        "**50.3 % of the parameters removed** (50 % asked), **faster** in ONNX Runtime (2x), verified",
        "| parameters | 1.00 k | 497 | 0.497 |",
        "| latency | 3.2 ms | 1.6 ms | 0.5 |",
        "95 % interval 1.9 to 2.1",
        "largest error 2e-06 relative",
        "agreement: 100 before, 97 after, in points, on 1000 samples (split: held-out)",
        "| `first` | 32 | 8 (25 %) | 2 |",
        "channels reach the graph output | 1 | Gemm | `head`",
        "darwinc compress 'my model.onnx' -o out.onnx --target-sparsity 0.5",
        "peak memory: 1.0 GB",
        "Warning: one input was made up",
    ):
        assert words in page


@pytest.mark.parametrize(
    ("target", "achieved", "asked"),
    [
        (Target(kind="macs", asked=0.5, achieved=0.503), "50.3 % of the MACs removed", "50 % asked"),
        (
            Target(kind="sparsity", asked=0.5, achieved=0.493),
            "49.3 % of the parameters removed",
            "50 % asked, met to within 1 %",
        ),
        (Target(kind="sparsity", asked=0.5, achieved=0.48), "48 % of the parameters removed", "50 % asked"),
        (Target(kind="sparsity", asked=0.5, achieved=0.49999), "50 % of the parameters removed", "50 % asked"),
        (Target(kind="bytes", asked=250_000, achieved=248_123), "a file of 248.1 kB", "250.0 kB asked"),
        (Target(kind="bytes", asked=250_000), "a file of 250.0 kB asked for", ""),
        (Target(kind="sparsity", asked=0.5), "50 % of the parameters asked for", ""),
        (
            Target(kind="latency", asked=0.5, achieved=0.495),
            "49.5 % of the latency removed",
            "50 % asked, met to within 1 %",
        ),
        (Target(kind="latency", asked=0.5), "50 % of the latency asked for", ""),
        (
            Target(kind="max-drop", asked=0.5, achieved=0.4),
            "the metric fell by 0.4 points",
            "a drop of at most 0.5 points",
        ),
        (
            Target(kind="max-drop", asked=2, achieved=-0.1),
            "the metric rose by 0.1 points",
            "a drop of at most 2 points",
        ),
        (Target(kind="max-drop", asked=2), "a drop of at most 2 points asked for", ""),
    ],
)
def test_the_target_as_words(target: Target, achieved: str, asked: str) -> None:
    assert target_text(build_report(smallest() | {"target": target.model_dump()})) == (achieved, asked)
    assert MET_WITHIN == SHORTFALL


def test_the_page_of_a_plan_invents_nothing() -> None:
    page = to_markdown(build_report(smallest()))
    assert "**50 % of the parameters asked for**, nothing written" in page
    assert "Latency was not measured." in page
    assert "The rewrite was not verified." in page
    assert "Quality was not measured: no data was given." in page
    assert "None" not in page
    assert "nan" not in page


def test_a_failed_verification_and_an_unmeasured_figure_are_said() -> None:
    values = full()
    values["verify"]["passed"] = False
    values["latency"] = {"before_ms": 3.0, "verdict": None}
    page = to_markdown(build_report(values))
    assert "**not right: verification failed**" in page
    assert "| latency | 3 ms | not measured | - |" in page


@pytest.mark.parametrize(
    "name", ["a|b", "a`b``c", "<script>alert(1)</script>", "[x](http://y)", "a\n\n# b", "", "*a*_b_\\", "x\\|y"]
)
def test_names_from_a_model_cannot_break_the_page(name: str) -> None:
    values = full()
    values["groups"][0]["id"] = name
    values["barriers"] = [{"node": name, "op_type": name, "reason": f"because {name}"}]
    values["warnings"] = [name]
    values["command"] = ["darwinc", f"```{name}"]
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(to_markdown(build_report(values)))
    tame = parser.parse(to_markdown(build_report(full())))
    blocks = [token.type for token in tokens]
    assert [kind for kind in blocks if kind in ("heading_open", "table_open", "fence")] == [
        token.type for token in tame if token.type in ("heading_open", "table_open", "fence")
    ]
    assert blocks.count("td_open") == [token.type for token in tame].count("td_open")
    children = [child.type for token in tokens for child in token.children or ()]
    assert not {"html_inline", "link_open", "em_open"} & set(children)
    assert "html_block" not in blocks


def test_escapes_are_undone_by_a_markdown_reader() -> None:
    parser = MarkdownIt("commonmark").enable("table")
    for name in ("a_b*c", "x[0]", "#1", "a<b>", "back\\slash"):
        [paragraph] = [token for token in parser.parse(plain_text(name)) if token.type == "inline"]
        assert "".join(child.content for child in paragraph.children or ()) == name
    [inline] = [token for token in parser.parse(code_text("a`b")) if token.type == "inline"]
    assert [(child.type, child.content) for child in inline.children or ()] == [("code_inline", "a`b")]
    [fence] = parser.parse(fence_text("```\nx"))
    assert fence.content == "```\nx\n"
