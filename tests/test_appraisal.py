"""What a network says of its channels and weights: against the greedy path, closed forms and finite differences."""

from __future__ import annotations

from darwinc.data import Samples
from tests.small_models import Array

FORK = """(float[N,6] x, float[6,9] m1, float[9,3] m2) => (float[N,3] y) {
    h = MatMul(x, m1)
    r = Relu(h)
    y = MatMul(r, m2)
}
"""
"""One hidden layer, of which each unit may feed a class of its own."""


def samples(tmp_path, x: Array, labels: Array | None = None) -> Samples: ...
