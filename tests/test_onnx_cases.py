"""The twin passes the operator tests of the onnx package, but for the few that `KNOWN` lists."""

from __future__ import annotations

import pytest

from tests.node_cases import KNOWN, complaint, node_cases, settled


@pytest.fixture(scope="module")
def complaints() -> dict[str, str]:
    """What is wrong with each case in scope, by its name; nothing where it passes."""
    return {case.name: complaint(case) for case in node_cases() if settled(case) and not case.out_of_scope}


def test_every_case_in_scope_passes_but_those_known_not_to(complaints: dict[str, str]) -> None:
    wrong = {name: reason for name, reason in complaints.items() if reason and name.split("_expanded")[0] not in KNOWN}
    assert wrong == {}


def test_a_case_known_not_to_pass_does_not(complaints: dict[str, str]) -> None:
    assert [name for name in KNOWN if complaints.get(name) == ""] == []


def test_nearly_all_cases_pass(complaints: dict[str, str]) -> None:
    counted = [case.name for case in node_cases() if case.name in complaints and not case.is_duplicate]
    passed = [name for name in counted if not complaints[name]]
    assert len(counted) > 900
    assert len(passed) >= 0.98 * len(counted)
