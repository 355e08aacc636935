"""The archive holds exactly those whom nobody beats in everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from darwinc.evolution.pareto import pareto
from darwinc.evolution_schema import Individual


def one(name: str, quality: float | None, parameters: int, macs: int, latency: float | None = None) -> Individual:
    return Individual(
        id=name,
        kind="offspring",
        generation=1,
        genome=name,
        quality=quality,
        parameters=parameters,
        macs=macs,
        latency_ms=latency,
    )


def test_by_hand() -> None:
    records = [
        one("best", 0.9, 100, 100, 1.0),
        one("small", 0.8, 50, 90, 1.0),
        one("beaten", 0.7, 60, 95, 1.0),
        one("fast", 0.7, 60, 95, 0.5),
        one("equal", 0.8, 50, 90, 1.0),
        one("untold", None, 1, 1, 0.1),
    ]
    assert pareto(records) == ["best", "small", "fast", "equal"]
    assert pareto([*records[:3], one("unmeasured", 0.6, 60, 95)]) == ["best", "small"]
    assert pareto([]) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=25))
@settings(max_examples=80, deadline=None)
def test_nobody_is_beaten_and_everybody_else_is(numbers: list[tuple[int, int, int]]) -> None:
    records = [one(str(place), quality / 4, size, macs) for place, (quality, size, macs) in enumerate(numbers)]
    kept = set(pareto(records))
    for place, (quality, size, macs) in enumerate(numbers):
        beaten = any(
            other[0] >= quality and other[1] <= size and other[2] <= macs and other != (quality, size, macs)
            for other in numbers
        )
        assert (str(place) in kept) != beaten
