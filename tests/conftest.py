"""Fixtures that several files use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from darwinc.gate import SUMMARY_FILES
from tests.shell import Shell

# As the command line does, before torch reads it: threads that spin while they wait slow down whatever else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says nothing on a machine that others use as well.
settings.register_profile("darwinc", deadline=None)
settings.load_profile("darwinc")


@pytest.fixture(autouse=True, scope="session")
def _measurements_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was measured on this machine before says nothing, and isn't touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DARWINC_CACHE", str(tmp_path_factory.mktemp("measurements")))
        yield


@pytest.fixture
def few_made_up_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data-free mode with fewer samples than it takes where time is no matter."""
    monkeypatch.setattr("darwinc.calibrators.calibration.MOST_SYNTHETIC", 96)


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, few_made_up_samples: None
) -> Iterator[Shell]:
    """A shell in a folder of its own; what commands change in this process is undone."""
    for name in (*SUMMARY_FILES, "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield Shell(tmp_path, capsys)
    signal.signal(signal.SIGTERM, handler)
