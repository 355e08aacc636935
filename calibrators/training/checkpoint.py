"""Where a training run is kept: one safetensors file, written whole or not at all; no pickle is ever read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from darwinc.errors import InputError, OutputError

FORMAT = "darwinc.training/1"
SECTIONS = ("weights", "average", "best", "optimizer", "population")


@dataclass
class Checkpoint:
    """Everything that training needs to go on as if it had never stopped.

    Attributes:
        weights, average, best: the network's tensors by ONNX name: as they are trained, their running average, and the
            state that did best on the validation samples.
        optimizer: the optimiser's tensors, by `KEY/ONNX name`.
        population: what competes (`companion.Companion`), where anything does.
        notes: numbers and texts: step, seconds, scores, and what the run was asked to do.
    """

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, torch.Tensor] = field(default_factory=dict)
    population: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it beside the old one, then in its place.

        Raises:
            OutputError: the file can't be written.
        """
        tensors = {
            f"{section}:{name}": tensor.detach().cpu().contiguous().clone()
            for section in SECTIONS
            for name, tensor in getattr(self, section).items()
        }
        temporary = path.with_name(path.name + f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"format": FORMAT, "notes": json.dumps(self.notes)})
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink()
            raise OutputError(f"The checkpoint {path} can't be written: {error}.") from error

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Checkpoint:
        """Read what `save` wrote.

        Raises:
            InputError: there is no checkpoint, or it is damaged or of another kind.
        """
        found = cls()
        try:
            with safe_open(path, framework="pt", device=str(device)) as opened:
                metadata: Mapping[str, str] = opened.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(f"{path} is no checkpoint of darwinc's; name the folder of an earlier run.")
                found.notes = json.loads(metadata.get("notes", "{}"))
                for key in opened.keys():  # noqa: SIM118 - it is no mapping
                    section, _, name = key.partition(":")
                    if section in SECTIONS:
                        getattr(found, section)[name] = opened.get_tensor(key)
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"The checkpoint {path} can't be read: {error}.") from error
        return found
