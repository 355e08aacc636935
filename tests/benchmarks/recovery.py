"""What each recovery is worth without labels: the table in docs/figures.md.

    MODELS=... DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/recovery.py [NAME ...] [0.3 0.5 0.7]

`$MODELS` holds the ONNX files, `$DATA` the data sets (SOURCES.md). Every run removes that share of the parameters, is
given samples without labels, and is measured on other samples. `distill` gets five minutes of one processor's time.
One JSON line per run goes to standard output, and to `$OUT` where that is set.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from PIL import Image, ImageDraw, ImageFont

from darwinc import Settings, graph
from darwinc.calibrators.training import trainer
from darwinc.channels import analyse
from darwinc.console import Terminal
from darwinc.cost import measure as measure_cost
from darwinc.data import open_data
from darwinc.passes.cull import Cull
from darwinc.passes.excise import Excise
from darwinc.pipeline import Job, Pass, run_passes
from darwinc.preprocess import parse
from darwinc.quality import Overlap, classes_of
from darwinc.runtime import inputs_of, open_session, run
from darwinc.settings import recovery_passes
from darwinc.training import Training
from tests.benchmarks.cifar_resnet import DEVIATION, MEAN, prepared, read

Array = np.ndarray[Any, Any]
MINUTES = 5.0
RECOVERIES = ("none", "inherit", "inherit,recalibrate", "inherit,distill")


@dataclass(frozen=True)
class Samples:
    """Arrays for the model's input: to calibrate and train on, and to measure on, with labels there or None."""

    given: Array
    measured: Array
    labels: Array | None = None


def cifar(mean: tuple[float, ...] = MEAN, deviation: tuple[float, ...] = DEVIATION) -> Samples:
    """All training images; the 1,000 test images."""
    images, labels = read(Path(os.environ["DATA"]) / "cifar10")
    numbers = prepared(images, mean, deviation)
    return Samples(numbers[:50000], numbers[50000:], labels[50000:].astype(np.int64))


def mnist() -> Samples:
    """All training images; the 10,000 test images."""

    def idx(name: str, head: int) -> Array:
        content = gzip.decompress((Path(os.environ["DATA"]) / "mnist" / name).read_bytes())
        return np.frombuffer(content, np.uint8, offset=head)

    def numbers(name: str) -> Array:
        pixels = idx(name, 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
        return (pixels - np.float32(0.1307)) / np.float32(0.3081)

    labels = idx("t10k-labels-idx1-ubyte.gz", 8).astype(np.int64)
    return Samples(numbers("train-images-idx3-ubyte.gz"), numbers("t10k-images-idx3-ubyte.gz"), labels)


def photos(folder: str, size: int, spec: str, *, given: int, most: int = 10**6, labelled: bool = False) -> Samples:
    """Photographs in a random order, `given` of them to train on; those of ImageNet carry their class in their name."""
    paths = sorted((Path(os.environ["DATA"]) / folder).glob("*.jpg"))
    paths = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))[:most]]
    steps = parse(spec)
    numbers = np.stack([_prepared(Image.open(path).convert("RGB"), size, steps) for path in paths])
    labels = np.array([int(path.name.split("_")[0]) for path in paths[given:]], np.int64) if labelled else None
    return Samples(numbers[:given], numbers[given:], labels)


def _prepared(image: Image.Image, size: int, steps: Any) -> Array:
    shorter = round(size * steps.margin)
    scale = max(shorter / min(image.size), size / image.width, size / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32)
    pixels = pixels[..., ::-1] if steps.order == "bgr" else pixels
    pixels = pixels * np.float32((steps.high - steps.low) / 255) + np.float32(steps.low)
    pixels = pixels - np.asarray(steps.mean or 0.0, np.float32)
    return np.ascontiguousarray((pixels / np.asarray(steps.std or 1.0, np.float32)).transpose(2, 0, 1))


def written(size: int, given: int, measured: int) -> Samples:
    """Photographs with lines of random letters and digits drawn on them, for detectors of text."""
    random = np.random.default_rng(0)
    paths = sorted((Path(os.environ["DATA"]) / "imagenet_samples").glob("*.jpg"))
    steps = parse("imagenet,margin=1")
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
    numbers = []
    for place in random.permutation(len(paths))[: given + measured]:
        image = Image.open(paths[place]).convert("RGB").resize((size, size))
        draw = ImageDraw.Draw(image)
        for _ in range(int(random.integers(2, 7))):
            words = " ".join("".join(random.choice(letters, random.integers(3, 9))) for _ in range(2))
            spot = tuple(random.integers(0, size - 60, 2).tolist())
            colour = tuple(random.integers(0, 256, 3).tolist())
            draw.text(spot, words, colour, ImageFont.load_default(int(random.integers(14, 36))))
        numbers.append(_prepared(image, size, steps))
    return Samples(np.stack(numbers[:given]), np.stack(numbers[given:]))


def accuracy(wanted: list[Array], got: list[Array], labels: Array | None) -> float:
    """Per cent of the labels that are met."""
    del wanted
    return float((got[0].reshape(len(got[0]), -1).argmax(1) == labels).mean() * 100)


def closeness(wanted: list[Array], got: list[Array], labels: Array | None) -> float:
    """Agreement of raw outputs: 100 (1 - RMS of the difference / deviation), mean over outputs; 0 is a constant."""
    del labels
    found = [
        1 - np.sqrt(np.square(one - two).mean((0, *range(1, one.ndim - 1)))).mean() / max(_deviation(one), 1e-12)
        for one, two in zip(wanted, got, strict=True)
    ]
    return float(np.mean(found) * 100)


def _deviation(output: Array) -> float:
    return float(output.std((0, *range(1, output.ndim - 1))).mean())


def overlap(wanted: list[Array], got: list[Array], labels: Array | None) -> float:
    """Mean intersection over union with the original's own map, in per cent."""
    del labels
    metric = Overlap()
    metric.add(got[0], classes_of(wanted[0]))
    return metric.value * 100


@dataclass(frozen=True)
class Case:
    """A file, its samples, and how its answers are judged."""

    samples: Callable[[], Samples]
    judge: Callable[[list[Array], list[Array], Array | None], float]
    unit: str
    amounts: tuple[float, ...] = (0.5,)


CASES = {
    "cifar10_resnet20": Case(cifar, accuracy, "top-1", (0.3, 0.5, 0.7)),
    "cifar10_resnet56": Case(cifar, accuracy, "top-1", (0.3, 0.5, 0.7)),
    "mnist_burn": Case(mnist, accuracy, "top-1"),
    "vnn22_cifar10_sri_resnet_3b2_bn": Case(
        lambda: cifar((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)), accuracy, "top-1"
    ),
    "squeezenet1.0_fp16_imagenet": Case(
        lambda: photos("imagenet_samples", 224, "caffe", given=500, labelled=True), accuracy, "top-1"
    ),
    "yolox_nano_416": Case(lambda: photos("coco64", 416, "none,order=bgr", given=32), closeness, "agreement"),
    "nanodet_m_320": Case(
        lambda: photos("coco64", 320, "none,order=bgr,mean=103.53/116.28/123.675,std=57.375/57.12/58.395", given=32),
        closeness,
        "agreement",
    ),
    "pan_mobilenetv3_small": Case(
        lambda: photos("imagenet_samples", 512, "imagenet,margin=1", given=200, most=232), overlap, "IoU"
    ),
    "ppocrv3_det_ch": Case(lambda: written(320, 400, 64), overlap, "IoU"),
}


def measure(model: Path, inputs: Array, batch: int) -> list[Array]:
    """All outputs of all samples, in ONNX Runtime."""
    session = open_session(model, threads=1)
    name, dtype = session.get_inputs()[0].name, np.float16 if "16" in session.get_inputs()[0].type else np.float32
    found = [
        list(run(session, {name: inputs[start : start + batch].astype(dtype)}).values())
        for start in range(0, len(inputs), batch)
    ]
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*found, strict=True)]


def prepared_job(model: ir.Model, samples: Path) -> Job:
    """What the passes work on: the model, its analysis, and all samples, 2,048 of them to calibrate on."""
    job = Job(model, analyse(model), Terminal(quiet=True))
    job.lessons = open_data(str(samples), inputs_of(model))
    order = np.random.default_rng(0).permutation(len(job.lessons))
    job.samples = job.lessons.take(np.sort(order[:2048]))
    return job


def answers_of(model: ir.Model, inputs: Array, folder: Path, batch: int) -> list[Array]:
    path = folder / "out.onnx"
    graph.save_model(model, path)
    return measure(path, inputs, batch)


def run_case(name: str, amounts: Sequence[float], tell: Callable[[dict[str, Any]], None]) -> None:
    """One cut for each amount, which all recoveries of that amount start from."""
    case, path = CASES[name], Path(os.environ["MODELS"]) / f"{name}.onnx"
    samples, entry = case.samples(), open_session(path).get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 64
    wanted = measure(path, samples.measured, batch)
    tell({"file": name, "unit": case.unit, "original": case.judge(wanted, wanted, samples.labels)})
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "given.npz"
        given = {entry.name: samples.given.astype(np.float16 if "16" in entry.type else np.float32)}
        np.savez(data, **given)  # type: ignore[arg-type]
        for amount in amounts or case.amounts:
            model = graph.load_model(path)
            graph.release_initializer_inputs(model)
            job = prepared_job(model, data)
            before = measure_cost(job.original, job.channels).macs
            done: dict[tuple[str, ...], Job] = {}
            for recovery in RECOVERIES:
                start, names = time.perf_counter(), tuple(recovery.split(","))
                current = copy.copy(done.get(names[:-1], done.get(("none",), job)))
                current.recovery, current.warnings = [], []
                steps: list[Pass] = [Cull("sparsity", amount), Excise()] if names == ("none",) else []
                settings = Settings(training=Training(minutes=MINUTES))
                steps += recovery_passes(settings, names[-1:])
                run_passes(steps, current)
                done[names] = current
                got = answers_of(current.model, samples.measured, Path(folder), batch)
                entries = current.recovery
                tell({
                    "file": name,
                    "amount": amount,
                    "recovery": recovery,
                    "quality": case.judge(wanted, got, samples.labels),
                    "seconds": round(time.perf_counter() - start),
                    "kept": [entry["name"] for entry in entries if entry["accepted"]],
                    "errors": [(entry["error_before"], entry["error_after"]) for entry in entries],
                    "steps": entries[-1]["training"]["steps"] if entries and "training" in entries[-1] else None,
                    "macs_left": measure_cost(current.model).macs / before,
                    "warnings": current.warnings,
                })  # fmt: skip


def main() -> None:
    words = sys.argv[1:]
    names = [word for word in words if word in CASES] or list(CASES)
    amounts = [float(word) for word in words if word[0].isdigit()]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # What other work the machine has must not count against a budget of processor time.
    vars(trainer)["time"] = SimpleNamespace(monotonic=time.process_time)

    def tell(entry: dict[str, Any]) -> None:
        print(json.dumps(entry), flush=True)
        if "OUT" in os.environ:
            with Path(os.environ["OUT"]).open("a") as opened:
                opened.write(json.dumps(entry) + "\n")

    for name in names:
        run_case(name, amounts, tell)


if __name__ == "__main__":
    main()
