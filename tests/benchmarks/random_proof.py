"""The random-graph proof, long: many graphs by number, so that several processes can share them.

    python -m tests.benchmarks.random_proof FIRST COUNT [--moves 3]

Graph number n is the same on every machine. Each one loses random channels, and its rewrite has to be valid and to
answer like the original with those channels zeroed, in ONNX Runtime (`tests/test_random_graphs.py`). Prints one line
per failure and a count every thousand graphs; the exit code is 1 if any failed.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.random_graphs.models import build
from tests.test_random_graphs import chance, prove


def main() -> int:
    """Prove the graphs that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--moves", type=int, default=3)
    asked = parser.parse_args()
    failed, start = 0, time.perf_counter()
    for done, number in enumerate(range(asked.first, asked.first + asked.count), 1):
        proto = build(chance(number), asked.moves)
        try:
            prove(proto, number)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a graph is the finding
            failed += 1
            said = (str(error).splitlines() or ["a claim doesn't hold"])[0]
            print(f"graph {number}: {type(error).__name__}: {said[:200]}", flush=True)
        if done % 1000 == 0 or done == asked.count:
            print(f"{done} graphs, {failed} failed, {time.perf_counter() - start:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
