"""Redundancy that was planted is found, and chance follows the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest

from tests.small_models import CLASSIFIER, build, floats_in, images
from tests.test_compression import QUICK, answers, recovered, squeezed

pytestmark = pytest.mark.usefixtures("few_made_up_samples")


def planted(copies: int) -> tuple[onnx.ModelProto, int]:
    """A network whose channels all exist `copies` times, with readers that share the weight, and its true size."""
    random = np.random.default_rng(3)
    narrow = {
        "w1": random.standard_normal((8, 3, 3, 3)) / 5,
        "b1": random.standard_normal(8) / 5,
        "w2": random.standard_normal((8, 8, 3, 3)) / 8,
        "w3": random.standard_normal((10, 8)),
    }
    shares = random.dirichlet(np.full(copies, 3.0), 8)
    order = random.permutation(8 * copies)
    origin, share = np.repeat(np.arange(8), copies)[order], shares.reshape(-1)[order]
    wide = {
        "w1": narrow["w1"][origin],
        "b1": narrow["b1"][origin],
        "w2": narrow["w2"][origin][:, origin] * share[:, None, None],
        "w3": narrow["w3"][:, origin] * share,
    }
    count = 8 * copies
    text = f"""(float[N,3,8,8] x, float[{count},3,3,3] w1, float[{count}] b1, float[{count},{count},3,3] w2,
        float[10,{count}] w3, float[10] b3) => (float[N,10] y) {{
        a = Conv(x, w1, b1)
        r = Relu(a)
        c = Conv(r, w2)
        s = Relu(c)
        g = GlobalAveragePool(s)
        f = Flatten(g)
        y = Gemm<transB = 1>(f, w3, b3)
    }}
    """
    return build(text, given=wide), sum(array.size for array in narrow.values()) + 10


@pytest.mark.parametrize("with_data", [False, True])
def test_planted_redundancy_is_found_and_removed_without_loss(tmp_path: Path, with_data: bool) -> None:
    model, true_size = planted(copies=3)
    before = floats_in(model)
    data = {"x": images(256, 3, 8, 8, seed=5)} if with_data else {}
    settings = replace(QUICK, recover=("inherit",), align=1)
    result, after = squeezed(tmp_path, model, 1 - true_size / before, settings, data=data)
    assert floats_in(after) == true_size
    assert recovered(result)["inherit"]
    x = images(32, 3, 8, 8, seed=9)
    (want,), (got,) = answers(model, x=x), answers(after, x=x)
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("fitness", ["darwin", "taylor", "random"])
def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, fitness: str) -> None:
    written = []
    for _ in range(2):
        settings = replace(QUICK, fitness=fitness, seed=7)
        squeezed(tmp_path, build(CLASSIFIER), settings=settings, data={"x": images(64, 3, 8, 8)})
        written.append((tmp_path / "out.onnx").read_bytes())
    assert written[0] == written[1]


def test_another_seed_may_choose_others(tmp_path: Path) -> None:
    kept = []
    for seed in (0, 1):
        settings = replace(QUICK, fitness="random", seed=seed)
        kept.append(squeezed(tmp_path, build(CLASSIFIER), settings=settings)[0].report.kept)
    assert kept[0] != kept[1]
