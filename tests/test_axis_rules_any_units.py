"""Whatever units go from the graphs of all families: the rewrite answers like the zeroed original."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from darwinc.channels import Channels, Mask, analyse
from darwinc.passes.excise import excise
from tests import (
    test_axis_rules_attention,
    test_axis_rules_einsum,
    test_axis_rules_elementwise,
    test_axis_rules_fused,
    test_axis_rules_indexing,
    test_axis_rules_layout,
    test_axis_rules_quantised,
    test_axis_rules_recurrent,
    test_axis_rules_reshape,
    test_axis_rules_sizes,
    test_axis_rules_weighted,
)
from tests.axis_cases import Case, build
from tests.surgery import assert_same_answers

CASES = [
    *test_axis_rules_attention.CASES,
    *test_axis_rules_einsum.CASES,
    *test_axis_rules_elementwise.PER_CHANNEL,
    *test_axis_rules_fused.CASES,
    *test_axis_rules_indexing.CASES,
    *test_axis_rules_layout.MOVING,
    *test_axis_rules_quantised.CASES,
    *test_axis_rules_recurrent.CASES,
    *test_axis_rules_reshape.RESHAPING,
    *test_axis_rules_sizes.SIZES,
    *test_axis_rules_weighted.CONVOLUTIONS,
    *test_axis_rules_weighted.MATRICES,
]


def some_units(channels: Channels, seed: int) -> Mask:
    """Some units of every group, but never all of one."""
    random, dead = np.random.default_rng(seed), channels.nobody()
    for group in channels.groups:
        count = random.integers(0, len(group))
        dead[random.choice(group.units, count, replace=False)] = True
    return dead


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_any_units_may_go(case: Case) -> None:
    model = ir.from_proto(build(case))
    channels = analyse(model)
    assert channels.groups
    for seed in range(4):
        dead = some_units(channels, seed)
        rewritten, _ = excise(model, channels, dead)
        zeroed, _ = excise(model, channels, dead, zero=True)
        onnx.checker.check_model(ir.to_proto(rewritten), full_check=True)
        assert_same_answers(ir.to_proto(zeroed), ir.to_proto(rewritten))
