"""Seconds for analysis, choice and rewrite of graphs of 100 to 20,000 nodes; prints a Markdown table.

    python tests/benchmarks/scale.py [NODES ...]

The graphs are chains of blocks as networks have them: residual, depthwise, concatenating and attention.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import measure
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job

SIZES = (100, 300, 1_000, 3_000, 10_000, 20_000)
WIDTH, STAGE, HEADS, SIDE = 32, 60, 4, 4
"""Channels; nodes after which a convolution starts a new residual stream, as stages of networks do."""


class Chain:
    """A graph that grows block by block; `stream` is the value [N, WIDTH, SIDE, SIDE] at its end."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.stream = "x"
        self._random = np.random.default_rng(0)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node; the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n{len(self.nodes)}", **attributes))
        return name

    def weight(self, *sizes: int) -> str:
        """A new random weight."""
        array = self._random.standard_normal(sizes).astype(np.float32) / np.sqrt(np.prod(sizes[1:]))
        return self.store(array.astype(np.float32))

    def store(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        """A new constant."""
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def convolution(self, value: str, inputs: int, outputs: int, group: int = 1) -> str:
        """3 x 3, of the same side."""
        weight = self.weight(outputs, inputs // group, 3, 3)
        return self.add("Conv", value, weight, self.weight(outputs), pads=[1, 1, 1, 1], group=group)

    def new_stream(self) -> None:
        self.stream = self.add("Relu", self.convolution(self.stream, WIDTH, WIDTH))

    def residual(self) -> None:
        inner = self.add("Relu", self.convolution(self.stream, WIDTH, WIDTH))
        self.stream = self.add("Add", self.stream, self.convolution(inner, WIDTH, WIDTH))

    def depthwise(self) -> None:
        wide = self.add("Clip", self.convolution(self.stream, WIDTH, 2 * WIDTH))
        deep = self.add("Sigmoid", self.convolution(wide, 2 * WIDTH, 2 * WIDTH, group=2 * WIDTH))
        self.stream = self.add("Add", self.stream, self.convolution(deep, 2 * WIDTH, WIDTH))

    def concatenating(self) -> None:
        parts = [self.stream]
        for _ in range(3):
            parts.append(self.add("Relu", self.convolution(parts[-1], WIDTH, WIDTH)))
        self.stream = self.convolution(self.add("Concat", *parts, axis=1), 4 * WIDTH, WIDTH)

    def attention(self) -> None:
        flat = self.add("Flatten", self.add("GlobalAveragePool", self.stream))
        tokens = self.add("Transpose", self.reshaped(self.stream, 0, WIDTH, -1), perm=[0, 2, 1])
        query, key, value = (self.heads(tokens) for _ in range(3))
        weights = self.add("Softmax", self.add("MatMul", query, self.add("Transpose", key, perm=[0, 1, 3, 2])), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        joined = self.add("MatMul", self.reshaped(mixed, 0, -1, WIDTH), self.weight(WIDTH, WIDTH))
        image = self.reshaped(self.add("Transpose", joined, perm=[0, 2, 1]), 0, WIDTH, SIDE, SIDE)
        gate = self.reshaped(self.add("Gemm", flat, self.weight(WIDTH, WIDTH)), 0, WIDTH, 1, 1)
        self.stream = self.add("Add", self.stream, self.add("Mul", image, gate))

    def heads(self, tokens: str) -> str:
        split = self.reshaped(self.add("MatMul", tokens, self.weight(WIDTH, WIDTH)), 0, -1, HEADS, WIDTH // HEADS)
        return self.add("Transpose", split, perm=[0, 2, 1, 3])

    def reshaped(self, value: str, *sizes: int) -> str:
        return self.add("Reshape", value, self.store(np.asarray(sizes, np.int64)))

    def model(self) -> onnx.ModelProto:
        """The whole, with a classifier at its end."""
        flat = self.add("Flatten", self.add("GlobalAveragePool", self.stream))
        answer = self.add("Gemm", flat, self.weight(WIDTH, 10))
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH, SIDE, SIDE])],
            [helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["N", 10])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(nodes: int) -> onnx.ModelProto:
    """A graph of about so many nodes."""
    made, stage = Chain(), 0
    blocks: tuple[Callable[[], None], ...] = (made.residual, made.depthwise, made.concatenating, made.attention)
    number = 0
    while len(made.nodes) < nodes - 3:
        if len(made.nodes) // STAGE >= stage:
            made.new_stream()
            stage = len(made.nodes) // STAGE + 1
        blocks[number % len(blocks)]()
        number += 1
    return made.model()


def lap(nodes: int) -> tuple[int, int, list[float]]:
    """Nodes, groups, and the seconds of analysis, counting, choice and rewrite."""
    model = ir.from_proto(chain(nodes))
    times = [time.perf_counter()]
    channels = analyse(model)
    times.append(time.perf_counter())
    measure(model, channels)
    times.append(time.perf_counter())
    job = Job(model, channels, Terminal(quiet=True))
    with job.terminal.stage("scale") as stage:
        Cull(amount=0.3, fitness="l2").run(job, stage)
        times.append(time.perf_counter())
        Excise().run(job, stage)
    times.append(time.perf_counter())
    return (
        len(channels.nodes),
        len(channels.groups),
        [after - before for before, after in itertools.pairwise(times)],
    )


def main(sizes: list[int]) -> None:
    print("| nodes | groups | analyse (s) | count (s) | choose (s) | rewrite (s) | ms per node |")
    print("|" + " ---: |" * 7)
    for size in sizes:
        nodes, groups, seconds = lap(size)
        told = " | ".join(f"{part:.2f}" for part in seconds)
        print(f"| {nodes:,} | {groups:,} | {told} | {1000 * sum(seconds) / nodes:.2f} |", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or list(SIZES))
