"""What a run found, as the plain values of its report, and as provenance in the emitted file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.channels import ChannelGroup, Channels, barriers
from darwinc.cost import Cost
from darwinc.equivalence import Agreement
from darwinc.fitness.statistics import Death
from darwinc.passes.cull import AUTO_ALIGN, WHY_FINER
from darwinc.pipeline import Job
from darwinc.preprocess_notes import PREPROCESS_KEY
from darwinc.report import tool_info
from darwinc.searching.latency import foreseen


def describe(
    job: Job, before: Cost, after: Cost, target: Mapping[str, Any], proof: Agreement, twin: Agreement | None
) -> dict[str, Any]:
    """Everything about the rewrite itself; sizes of files, quality and latency come later."""
    calibration, excision = job.calibration, job.excision
    return {
        "tool": tool_info(job.device),
        "mode": mode_of(job),
        "statistics": None if calibration is None else calibration.rung,
        "target": {"kind": target["kind"], "asked": target["amount"], "achieved": None},
        "before": before.as_dict(),
        "after": after.as_dict(),
        "groups": group_rows(job.channels, job),
        "alignment": _alignment(job),
        "kept": {} if excision is None else excision.kept,
        "copies": {} if excision is None else excision.copies,
        "barriers": barrier_rows(job.channels),
        "verify": {"method": "zeroed-original", **proof.as_dict(), "twin": None if twin is None else twin.as_dict()},
        "recovery": job.recovery,
        "search": job.search,
        "latency_model": foreseen(job),
        "dynamics": job.dynamics,
    }


def mode_of(job: Job) -> str:
    """data-free, unlabelled or labelled."""
    if job.samples is None:
        return "data-free"
    return "unlabelled" if job.samples.labels is None else "labelled"


def settle_target(values: dict[str, Any], drop: float | None = None) -> None:
    """What was achieved of what was asked, counted on the outcome itself; `drop` is that of the metric, in points."""
    before, after, target = values["before"], values["after"], values["target"]
    if target["kind"] == "sparsity":
        target["achieved"] = 1 - after["parameters"] / max(before["parameters"], 1)
    elif target["kind"] in ("macs", "synapses"):
        target["achieved"] = 1 - after[target["kind"]] / max(before[target["kind"]], 1)
    elif target["kind"] == "latency":
        target["achieved"] = _latency_removed(values)
    elif target["kind"] == "max-drop":
        target["achieved"] = drop
    else:
        target["achieved"] = after["bytes"]


def _latency_removed(values: Mapping[str, Any]) -> float | None:
    """As measured at the end, or else in the search, or else as foreseen for the winner; None where nothing was."""
    speedup = values.get("latency", {}).get("speedup")
    if speedup:
        return float(1 - 1 / speedup)
    found = [float(row["achieved"]) for row in values["search"]]
    if values.get("evolution") and values.get("latency_model"):
        found = [1 - float(values["latency_model"]["after_ms"]) / float(values["latency_model"]["before_ms"])]
    return min(found, key=lambda share: abs(share - values["target"]["asked"]), default=None)


def group_rows(channels: Channels, job: Job | None = None) -> list[dict[str, Any]]:
    """The report's `groups`."""
    rows = []
    died = {} if job is None or job.selection is None else {death.unit: death for death in job.selection.deaths}
    for group in channels.groups:
        left = len(group) if job is None else int(np.count_nonzero(~job.dead[group.units]))
        members = [{"tensor": member.tensor, "axis": member.axis} for member in group.members]
        # Nobody foretells the loss of what dies over generations.
        foretold = None if job is None or job.evolution is not None else job.selection
        scores = {} if foretold is None else {"loss": foretold.losses.get(group.id, 0.0)}
        rows.append(
            {
                "id": group.id,
                "channels_before": len(group),
                "channels_after": left,
                "members": members,
                "scores": scores,
                **_deaths(group, died),
            }
        )
    return rows


def _deaths(group: ChannelGroup, died: Mapping[int, Death]) -> dict[str, Any]:
    """Why the group's units died, by their places in it."""
    place = {unit: number for number, unit in enumerate(group.units.tolist())}
    found = [died[unit] for unit in place if unit in died]
    return {
        "causes": dict(Counter(death.cause for death in found)),
        "deaths": [
            {
                "unit": place[death.unit],
                "cause": death.cause,
                "peers": [(place[unit], share) for unit, share in death.peers if unit in place],
            }
            for death in found
        ],
    }


def barrier_rows(channels: Channels) -> list[dict[str, str]]:
    """The report's `barriers`."""
    return [
        {
            "node": graph.label(barrier.node) if barrier.node is not None else "",
            "op_type": barrier.node.op_type if barrier.node is not None else "",
            "reason": barrier.reason,
        }
        for barrier in barriers(channels)
    ]


def _alignment(job: Job) -> dict[str, Any]:
    align = AUTO_ALIGN if job.selection is None else job.selection.align
    finer = {} if job.selection is None else job.selection.finer
    narrow = {} if job.selection is None else job.selection.narrow
    entries = [
        {"group": group, "multiple": multiple, "why": "the group is narrow"}
        for group, multiple in narrow.items()
        if group not in finer
    ]
    entries += [{"group": group, "multiple": multiple, "why": WHY_FINER} for group, multiple in finer.items()]
    return {"default": align, "multiples": job.multiples, "finer": entries}


def stamp(model: ir.Model, values: Mapping[str, Any], preprocess: str | None = None) -> None:
    """Provenance in the file: which darwinc made it, from which model, and by how much; and how images are prepared."""
    if preprocess:
        model.metadata_props[PREPROCESS_KEY] = preprocess
    model.metadata_props["darwinc.version"] = str(values["tool"]["darwinc"])
    model.metadata_props["darwinc.source_sha256"] = str(values["input"]["sha256"])
    model.metadata_props["darwinc.target"] = f"{values['target']['kind']}={values['target']['asked']:g}"
    model.metadata_props["darwinc.parameters"] = f"{values['before']['parameters']} -> {values['after']['parameters']}"


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None where the system doesn't say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
