"""The twin's gradients are derivatives: every operator of the onnx package's cases, against finite differences."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.node_cases import NodeCase, node_cases
from tests.node_gradients import NOT_DIFFERENTIABLE, differentiable, gradient_complaint

MOST = 6
"""Cases of each operator, spread over all that it has."""


@pytest.fixture(scope="module")
def chosen() -> dict[str, list[NodeCase]]:
    """A few cases of each operator that takes floats and gives floats."""
    found: dict[str, list[NodeCase]] = defaultdict(list)
    for case in node_cases():
        if differentiable(case):
            found[case.operator].append(case)
    return {operator: cases[:: -(-len(cases) // MOST)] for operator, cases in found.items()}


def test_gradients_are_derivatives(chosen: dict[str, list[NodeCase]]) -> None:
    cases = [case for operator, some in chosen.items() if operator not in NOT_DIFFERENTIABLE for case in some]
    complaints = {case.name: gradient_complaint(case) for case in cases}
    assert {name: reason for name, reason in complaints.items() if reason} == {}
    assert len(chosen) > 100


def test_what_is_listed_as_not_differentiable_is_not(chosen: dict[str, list[NodeCase]]) -> None:
    listed = [case for operator in NOT_DIFFERENTIABLE for case in chosen.get(operator, ())]
    assert [case.name for case in listed if not gradient_complaint(case)] == []
