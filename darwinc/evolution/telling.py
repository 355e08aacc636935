"""The report of a run that is still going on, or was stopped: what its folder tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darwinc.errors import InputError
from darwinc.evolution import journal
from darwinc.evolution.lineage import MODEL, Archive
from darwinc.evolution.pareto import pareto
from darwinc.evolution_schema import Evolution, Individual
from darwinc.report_schema import Report

ANCESTOR = "ancestor"


def has_run(folder: Path) -> bool:
    """Is there a run in this folder?"""
    return (folder / journal.NAME).is_file()


def is_open(folder: Path) -> bool:
    """Is this the folder of a run that has not ended, or was stopped before its report was written?

    Raises:
        InputError: its journal is damaged.
    """
    if not has_run(folder):
        return False
    return Archive.view(folder).end is None or not (folder / "report.json").is_file()


def told(folder: Path) -> Report:
    """The report of such a run, without what is only known in the end.

    Raises:
        InputError: its journal is damaged, or it has no ancestor yet.
    """
    archive = Archive.view(folder)
    first = archive.known(ANCESTOR)
    if first is None:
        raise InputError(f"The run in {folder} has not begun to raise networks; look again in a minute.")
    identity: dict[str, Any] = dict(archive.identity)
    generations = archive.generations()
    offspring = [each for each in archive.individuals() if each.kind == "offspring"]
    evolution = Evolution(
        metric=str(identity.get("metric")),
        samples=int(identity.get("samples") or 0),
        ancestor=first,
        winner=generations[-1].survivor if generations else None,
        pareto=pareto([first, *offspring]),
        controls=[each for each in archive.individuals() if each.kind == "control"],
        options=dict(identity.get("evolution") or {}),
        run_dir=str(folder),
    )
    path = archive.path(ANCESTOR, MODEL)
    return Report.model_validate(
        {
            "schema": "darwinc.report/1",
            "tool": _tool(str(identity.get("device", "cpu"))),
            "command": [],
            "seed": identity.get("seed"),
            "mode": "unlabelled" if identity.get("metric") == "agreement" else "labelled",
            "input": {"path": str(path), "sha256": first.sha256, "bytes": first.bytes},
            "target": {"kind": identity.get("target"), "asked": identity.get("amount")},
            "before": _counts(first),
            "evolution": evolution.model_dump(),
            "generations": [generation.model_dump() for generation in generations],
            "warnings": ["The run has not ended: this is what its folder tells so far."],
        }
    )


def _counts(first: Individual) -> dict[str, int | None]:
    return {name: getattr(first, name) for name in ("parameters", "macs", "bytes", "channels", "kernels", "synapses")}


def _tool(device: str) -> dict[str, str | None]:
    from darwinc.report import tool_info  # here, because a report is read by way of this module

    return tool_info(device)
