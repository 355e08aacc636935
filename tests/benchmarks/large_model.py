"""The memory and time that a run over a model of more than 2 GB takes; prints a Markdown table.

    python tests/benchmarks/large_model.py [FOLDER]

The model, residual blocks of two Gemms with 2.7 GB of external data, is made in FOLDER (by default a temporary one),
and compressed in a process of its own without recovery and latency. Resident memory counts mapped weights too, which
the system may drop at any time; memory of its own is what it may not.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from darwinc.compression import Settings, Target, compress
from darwinc.outcome import peak_memory

WIDTH, INNER, BLOCKS = 2048, 8192, 20
GIGABYTE = 1e9


def make(path: Path) -> int:
    """Write the model; the bytes of its weights."""
    random = np.random.default_rng(0)
    nodes, weights, stream = [], [], "x"
    beside = path.with_suffix(".data")
    with beside.open("wb") as file:

        def weight(name: str, *sizes: int) -> str:
            array = random.standard_normal(sizes, np.float32) * np.float32(sizes[0] ** -0.5)
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=sizes, data_location=TensorProto.EXTERNAL)
            for key, text in (("location", beside.name), ("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(text))
            array.tofile(file)
            weights.append(tensor)
            return name

        for block in range(BLOCKS):
            up = [stream, weight(f"up{block}", WIDTH, INNER), weight(f"up_bias{block}", INNER)]
            down = [f"r{block}", weight(f"down{block}", INNER, WIDTH), weight(f"down_bias{block}", WIDTH)]
            nodes.append(helper.make_node("Gemm", up, [f"u{block}"]))
            nodes.append(helper.make_node("Relu", [f"u{block}"], [f"r{block}"]))
            nodes.append(helper.make_node("Gemm", down, [f"d{block}"]))
            nodes.append(helper.make_node("Add", [stream, f"d{block}"], [f"s{block}"]))
            stream = f"s{block}"
        size = file.tell()
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", stream)]
    graph = helper.make_graph(nodes, "large", value[:1], value[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return size


class Watch:
    """The most memory of its own that this process has held, in bytes; Linux only."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            self.most = max(self.most, 1024 * int(found[1]) if found else 0)
            time.sleep(0.01)


def lap(model: Path) -> None:
    """Compress in this process and print what it took, as JSON."""
    watch, start = Watch(), time.perf_counter()
    settings = Settings(recover=("none",), fitness="l2", bench_seconds=0)
    result = compress(model, target=Target("sparsity", 0.5), output=model.with_name("out.onnx"), settings=settings)
    seconds = time.perf_counter() - start
    assert result.report.verify is not None
    print(json.dumps([seconds, peak_memory(), watch.most, result.report.verify.passed]))


def main(folder: Path) -> None:
    model = folder / "large.onnx"
    size = make(model)
    told = subprocess.run([sys.executable, __file__, "--lap", model], check=True, capture_output=True, text=True)
    seconds, resident, own, passed = json.loads(told.stdout.splitlines()[-1])
    print("| weights | resident at most | of its own at most | seconds | proven |\n| ---: | ---: | ---: | ---: | --- |")
    print(
        f"| {size / GIGABYTE:.2f} GB | {resident / GIGABYTE:.2f} GB ({resident / size:.2f} x) "
        f"| {own / GIGABYTE:.2f} GB | {seconds:.1f} | {'yes' if passed else 'no'} |"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--lap"]:
        lap(Path(sys.argv[2]))
    elif len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
