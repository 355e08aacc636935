"""Commands run in this process, in a folder that holds a model and data for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from darwinc.cli import main
from tests.small_models import CLASSIFIER, build, images, save, save_data

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
