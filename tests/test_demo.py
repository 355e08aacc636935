"""The demo's files fit together: the model answers, in ONNX Runtime, for the data beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darwinc import graph, runtime
from darwinc.demo import train_demo_model
from darwinc.errors import OutputError

pytest.importorskip("sklearn")


def test_a_short_training_writes_a_model_and_data_that_fit(tmp_path: Path) -> None:
    lines: list[str] = []
    files = train_demo_model(tmp_path, seed=0, progress=lines.append, epochs=3)
    assert {path.name for path in tmp_path.iterdir()} == {files.model.name, files.calibration.name, files.test.name}
    model = graph.load_model(files.model)
    (name,) = (value.name for value in model.graph.inputs)
    calibration, test = np.load(files.calibration), np.load(files.test)
    assert set(calibration) == {name}
    assert set(test) == {name, "y"}
    session = runtime.open_session(files.model)
    logits = next(iter(runtime.run(session, {str(name): test[name]}).values()))
    accuracy = (logits.argmax(1) == test["y"]).mean()
    assert accuracy > 0.5
    assert f"accuracy on {len(test['y'])} test digits: {100 * accuracy:.1f} %" in lines


def test_a_missing_folder_is_refused_before_training(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(OutputError, match="doesn't exist"):
        train_demo_model(tmp_path / "nowhere", seed=0, progress=lines.append)
    assert lines == []
