"""What it is worth that every head gives up dimensions of its own: the table in docs/figures.md.

    MODELS=... DATA=... python -m tests.benchmarks.own_order [0.5 0.7]

The vision transformer `vnn23_vit_ibp_3_3_8` on CIFAR-10 loses a share of the dimensions of its heads, and nothing else:
once the same dimension of every head goes, once every head gives up one of its own. Calibration: 1,024 random training
images, no labels; accuracy and the change of the logits (their squared difference over their variance) are those on the
last 5,000 training images and the 1,000 test images.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from darwinc import Settings, Target, compress
from darwinc.channels import Channels, analyse
from darwinc.cost import CostModel, count_parameters
from darwinc.matching import find_blocks
from tests.benchmarks.cifar_resnet import prepared, read

NAME = "vnn23_vit_ibp_3_3_8"
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
MATCHED = "darwinc.passes.cull.matched"


def tied(channels: Channels, losses: npt.NDArray[np.float64]) -> Channels:
    """What `matched` would be if every head had to give up the same dimension."""
    del losses
    return channels


def answers(path: Path, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logits of a model for inputs [N, 3, 32, 32]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: part})[0] for part in np.split(inputs, len(inputs) // 500)])


def main() -> None:
    amounts = [float(word) for word in sys.argv[1:]] or [0.5, 0.7]
    model = Path(os.environ["MODELS"]) / f"{NAME}.onnx"
    images, labels = read(Path(os.environ["DATA"]) / "cifar10")
    judged, truth = prepared(images[45000:], MEAN, DEVIATION), labels[45000:]
    channels = analyse(loaded := ir.load(model))
    units = np.concatenate([blocks.units for blocks in find_blocks(channels)])
    chosen = tuple(group.id for group in channels.groups if np.isin(group.units, units).all())
    costs, dead = CostModel(channels), channels.nobody()
    dead[units] = True
    share = (costs.parameters(channels.nobody()) - costs.parameters(dead)) / count_parameters(loaded)
    before = answers(model, judged)
    print(f"original: {np.mean(before.argmax(1) == truth):.4f}; dimensions of heads hold {share:.3f} of the parameters")
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.npy", Path(folder) / "out.onnx"
        np.save(data, prepared(images[np.random.default_rng(0).choice(45000, 1024, replace=False)], MEAN, DEVIATION))
        for amount in amounts:
            for fitness in ("l2", "taylor", "darwin"):
                for recover in ("none", "inherit"):
                    for way, replaced in (("same", tied), ("own", None)):
                        settings = Settings(
                            data=str(data),
                            fitness=fitness,
                            recover=(recover,),
                            only=chosen,
                            align=1,
                            max_share=1.0,
                            bench_seconds=0,
                        )
                        with mock.patch(MATCHED, replaced) if replaced else tempfile.TemporaryDirectory():
                            compress(model, target=Target("sparsity", amount * share), output=out, settings=settings)
                        after = answers(out, judged)
                        changed = np.square(after - before).mean() / before.var()
                        accuracy = np.mean(after.argmax(1) == truth)
                        row = (amount, fitness, recover, way, f"{accuracy:.4f}", f"{changed:.4f}")
                        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
