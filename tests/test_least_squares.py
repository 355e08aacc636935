"""Ridge least squares against numpy, and with a rectifier behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from darwinc.calibrators.least_squares import RIDGES, LayerFit, Rows, Solution
from tests.small_models import Array


def rows(seed: int, *, offset: bool = True, noise: float = 0.0) -> tuple[Rows, Rows, Array, Array]:
    """Rows of a linear map, to fit on and to judge by, with its weights [6, 3] and offset [3]."""
    random = np.random.default_rng(seed)
    weight, constant = random.standard_normal((6, 3)), random.standard_normal(3) if offset else np.zeros(3)
    x = random.standard_normal((1, 400, 6)) + 0.5
    t = x @ weight + constant + noise * random.standard_normal((1, 400, 3))
    parts = [
        Rows(torch.from_numpy(x[:, part]), torch.from_numpy(t[:, part])) for part in (slice(300), slice(300, None))
    ]
    return parts[0], parts[1], weight, constant


@pytest.mark.parametrize("offset", [True, False])
def test_a_fit_is_numpys_least_squares(offset: bool) -> None:
    seen, held, weight, _ = rows(0, offset=offset, noise=0.3)
    start = torch.from_numpy(weight[None] + 0.5)
    fit = LayerFit(seen, held, start, torch.zeros(1, 3, dtype=torch.float64) if offset else None)
    best, found = fit.best(), fit._solve(seen.t, 1e-9)
    x, t = seen.x[0].numpy(), seen.t[0].numpy()
    design, judged = (np.hstack([part, np.ones((len(part), 1))]) for part in (x, held.x[0].numpy()))
    wanted, *_ = np.linalg.lstsq(design if offset else x, t, rcond=None)
    assert found is not None
    np.testing.assert_allclose(found.weight[0].numpy(), wanted[:6], rtol=1e-6)
    if found.offset is not None:
        np.testing.assert_allclose(found.offset[0].numpy(), wanted[6], rtol=1e-6)
    residual = held.t[0].numpy() - judged[:, : len(wanted)] @ wanted
    spread = np.square(held.t[0].numpy() - held.t[0].numpy().mean(0)).sum()
    assert found.error == pytest.approx(np.square(residual).sum() / spread, rel=1e-5)
    assert best.ridge in RIDGES
    assert best.error <= found.error * (1 + 1e-4)


def test_without_noise_the_fit_is_exact() -> None:
    seen, held, weight, constant = rows(1)
    found = LayerFit(
        seen, held, torch.zeros(1, 6, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    ).best()
    np.testing.assert_allclose(found.weight[0].numpy(), weight, atol=1e-5)
    assert found.offset is not None
    np.testing.assert_allclose(found.offset[0].numpy(), constant, atol=1e-5)
    assert found.error < 1e-10


def test_the_ridge_pulls_towards_the_present_weights() -> None:
    """W = W0 + (M + r D)^-1 (X'T / R - M W0), by numpy."""
    seen, held, *_ = rows(2, offset=False, noise=0.5)
    start = np.random.default_rng(9).standard_normal((6, 3))
    fit = LayerFit(seen, held, torch.from_numpy(start)[None], None)
    fit.best()
    x, t = seen.x[0].numpy(), seen.t[0].numpy()
    moment = x.T @ x / len(x)
    for ridge in (1e-3, 1e-1):
        solved = fit._solve(seen.t, ridge)
        assert solved is not None
        step = np.linalg.solve(moment + ridge * np.diag(np.diag(moment)), x.T @ t / len(x) - moment @ start)
        np.testing.assert_allclose(solved.weight[0].numpy(), start + step, rtol=1e-8)


def test_what_is_right_already_is_left_alone() -> None:
    seen, held, weight, constant = rows(3)
    fit = LayerFit(seen, held, torch.from_numpy(weight)[None], torch.from_numpy(constant)[None])
    assert fit.best() is fit.current
    assert fit.best().ridge is None


def rectified(seed: int) -> tuple[LayerFit, Solution]:
    """A fit of three inputs to what five made, with a rectifier behind it."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((1, 400, 5))
    t = x @ random.standard_normal((5, 4)) - 0.7
    low, high = torch.zeros(1, 1, 4, dtype=torch.float64), torch.full((1, 1, 4), torch.inf, dtype=torch.float64)
    seen, held = (
        Rows(torch.from_numpy(x[:, part, :3]), torch.from_numpy(t[:, part]), low, high)
        for part in (slice(300), slice(300, None))
    )
    start = torch.from_numpy(random.standard_normal((1, 3, 4)))
    fit = LayerFit(seen, held, start, torch.zeros(1, 4, dtype=torch.float64))
    return fit, fit.best()


@pytest.mark.parametrize("seed", range(8))
def test_knowing_the_rectifier_is_never_worse_on_held_out_rows(seed: int) -> None:
    fit, best = rectified(seed)
    linear = [fit._solve(fit.seen.t, ridge) for ridge in RIDGES]
    assert best.error <= min(solution.error for solution in linear if solution is not None)
    assert best.error <= fit.current.error
    assert best.weight is not fit.current.weight
    # The reported error is that of the rectified answers.
    assert best.offset is not None
    answer = (fit.held.x @ best.weight + best.offset.unsqueeze(1)).clamp_min(0)
    wanted = fit.held.t.clamp_min(0)
    spread = (wanted - wanted.mean(1, keepdim=True)).square().sum()
    assert best.error == pytest.approx(float((answer - wanted).square().sum() / spread))


def test_knowing_the_rectifier_mostly_helps() -> None:
    better = 0
    for seed in range(8):
        fit, best = rectified(seed)
        linear = fit._solve(fit.seen.t, 1e-3)
        assert linear is not None
        better += best.error < 0.98 * linear.error
    assert better >= 6


def test_a_gain_weighs_outputs_by_what_the_network_makes_of_them() -> None:
    random = np.random.default_rng(4)
    x, t = torch.from_numpy(random.standard_normal((1, 50, 3))), torch.from_numpy(random.standard_normal((1, 50, 2)))
    gain = torch.tensor([[[2.0, 0.5]]], dtype=torch.float64)
    plain, weighed = Rows(x, t), Rows(x, t, gain=gain)
    torch.testing.assert_close(weighed.clipped(t), plain.clipped(t) * gain)
