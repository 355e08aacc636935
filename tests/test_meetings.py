"""What each position contributes where two computed tensors meet in a sum: queries and keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from darwinc.calibrators.meetings import Meeting, alike


def test_contributions_are_those_of_the_formula() -> None:
    """1/2 E[t_d^2] with t_d the sum over everything but the sample of x_d times its gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 6, generator=generator)
    gradient = torch.randn(4, 3, 5, 6, generator=generator)
    meeting = Meeting(0, 3, np.arange(1, 7)[None], x=x)
    meeting.add(gradient)
    (found,) = meeting.conclude(4)
    by_sample = (x * gradient).double().sum((1, 2)).numpy()
    np.testing.assert_allclose(np.diag(found.gram), np.square(by_sample).mean(0), rtol=1e-5)
    assert found.taylor is not None
    np.testing.assert_allclose(found.taylor, np.abs(by_sample).mean(0), rtol=1e-5)
    np.testing.assert_array_equal(found.covariance, np.eye(6))


@pytest.mark.parametrize("rows", [None, 1])
def test_feature_maps_are_those_of_each_block(rows: int | None) -> None:
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    meeting = Meeting(0, 3, np.arange(1, 7)[None] if rows is None else np.arange(1, 19).reshape(3, 6), rows)
    found = list(meeting.maps(x))
    wanted = [x.reshape(4, 15, 6)] if rows is None else [x[:, row] for row in range(3)]
    for (maps, components), whole, own in zip(found, wanted, meeting.components, strict=True):
        np.testing.assert_array_equal(maps.numpy(), whole.numpy())
        np.testing.assert_array_equal(components, own)


def test_batches_add_up() -> None:
    x = torch.ones(2, 3, 4)
    once, twice = Meeting(0, 2, np.arange(1, 5)[None], x=x), Meeting(0, 2, np.arange(1, 5)[None], x=x)
    once.add(x)
    for _ in range(2):
        twice.x = x
        twice.add(x)
    np.testing.assert_allclose(once.conclude(2)[0].gram, twice.conclude(4)[0].gram)


@pytest.mark.parametrize("count", [1, 8])
def test_what_was_not_measured_counts_alike(count: int) -> None:
    found = alike(np.arange(1, count + 1), count, np.zeros(0, np.int64))
    assert np.trace(found.gram) == pytest.approx(1.0)
    assert found.taylor is None
