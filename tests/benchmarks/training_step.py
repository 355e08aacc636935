"""How fast the torch twin trains, against the torchvision module that its file was exported from.

    python -m tests.benchmarks.training_step --models resnet50 mobilenet_v2 efficientnet_b0 vit_b_16 --batch 8
    python -m tests.benchmarks.training_step --device cuda --precision bf16 --channels-last --compile --batch 128

Both sides start from the same weights and take the same steps: forward, cross entropy, backward, SGD with momentum, in
training mode. Dropout and stochastic depth are taken out of the module before it is exported, so that both sides have
none. The files differ in what the exporter left of the graph:

    kept-ts       TorchScript's exporter, BatchNormalization kept, nothing folded
    kept-dynamo   the new exporter, BatchNormalization kept
    ts, dynamo    as the exporters write them by default, BatchNormalization folded into the convolutions

Where BatchNormalization is kept, loss and gradients of the twin are compared with the module's on one batch first, in
float32. Steps are timed in turn (on one thread by the processor's clock), in random order within a round. The ratio is
the module's seconds over the twin's (above 1 the twin is faster), the median over rounds, with a 95 % bootstrap
interval.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.ops import StochasticDepth

from darwinc.benchmark import ratio
from darwinc.graph import load_model
from darwinc.torch_compile import Forward, compiled
from darwinc.torch_graph import TorchGraph

MODELS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16")
FILES = ("kept-ts", "kept-dynamo", "ts", "dynamo")
PRECISIONS = ("fp32", "bf16")
CLASSES = 1000
LEARNING_RATE, MOMENTUM = 1e-4, 0.9
LEAST_SCALE = 1e-3
"""Of a gradient, as a share of the largest one."""
Step = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """Under what both sides train."""

    device: torch.device
    precision: str
    channels_last: bool
    compile: bool
    fused: bool
    batch: int
    side: int
    rounds: int
    steps: int

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def clock(self) -> float:
        """Seconds; of one thread on a processor those that it worked, which other programs disturb less."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield


@dataclass(frozen=True)
class Batch:
    """Images [N, 3, side, side] and their classes [N]."""

    images: torch.Tensor
    labels: torch.Tensor


def module_of(name: str, side: int) -> nn.Module:
    """The network with random weights, none of which equals another, without what drops at random; in eval mode."""
    torch.manual_seed(0)
    options = {"image_size": side} if name.startswith("vit") else {}
    module: nn.Module = models.get_model(name, weights=None, **options)
    for parent in list(module.modules()):
        for key, child in parent.named_children():
            if isinstance(child, nn.Dropout | StochasticDepth):
                setattr(parent, key, nn.Identity())
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.ndim and bool((tensor == tensor.flatten()[0]).all()):
                tensor.add_(torch.empty_like(tensor).uniform_(0.0, 0.1))
    return module.eval()


def export(module: nn.Module, side: int, file: str, path: Path) -> None:
    """One of FILES."""
    example = torch.randn(2, 3, side, side)
    kept = file.startswith("kept")
    if file.endswith("ts"):
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
            training=torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL,
            do_constant_folding=not kept,
        )
        return
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        optimize=not kept,
        verbose=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim("N", min=2)},),
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    if kept:
        import onnxscript

        onnxscript.optimizer.fold_constants(program.model)
        onnxscript.optimizer.remove_unused_nodes(program.model)
    program.save(str(path))


def twin_of(module: nn.Module, name: str, file: str, setting: Setting, keep: Path) -> TorchGraph:
    """The twin of the file, which is exported where it isn't there yet."""
    path = keep / f"{name}@{setting.side}.{file}.onnx"
    if not path.exists():
        export(module, setting.side, file, path)
    model: ir.Model = load_model(path)
    twin = TorchGraph(model, device=setting.device, fused=setting.fused)
    return twin.train().to(memory_format=setting.memory_format)


def pairs(module: nn.Module, twin: TorchGraph) -> dict[str, tuple[nn.Parameter, nn.Parameter, bool]]:
    """The module's parameters and the twin's that hold the same numbers, and whether the twin's is transposed."""
    by_name = twin.weights()
    by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for weight in by_name.values():
        by_shape.setdefault(tuple(weight.shape), []).append(weight)
    found = {}
    for name, parameter in module.named_parameters():
        straight = [by_name[name]] if name in by_name else by_shape.get(tuple(parameter.shape), [])
        turned = by_shape.get(tuple(reversed(parameter.shape)), []) if parameter.ndim == 2 else []
        same = [(parameter, weight, False) for weight in straight if torch.equal(weight, parameter)]
        same += [(parameter, weight, True) for weight in turned if torch.equal(weight.t(), parameter)]
        if same:
            found[name] = same[0]
    return found


def difference(module: nn.Module, twin: TorchGraph, batch: Batch) -> tuple[float, float, int]:
    """Of the losses, of the gradients (the largest over the scale of its tensor), and how many have no partner.

    A bias that a normalization takes off again has a gradient of nothing but rounding: scales have a floor.
    """
    matched = pairs(module, twin)
    state = copy.deepcopy(module.state_dict())
    held = {name: weight.detach().clone() for name, weight in twin.weights().items()}
    wanted, found = F.cross_entropy(module(batch.images), batch.labels), _twin_loss(twin, batch)
    torch.autograd.backward([wanted, found])
    gradients = [(native.grad, borrowed.grad, turned) for native, borrowed, turned in matched.values()]
    least = LEAST_SCALE * max(float(wanted.abs().max()) for wanted, _, _ in gradients if wanted is not None)
    worst = 0.0
    for native, borrowed, turned in gradients:
        if native is None or borrowed is None:
            raise RuntimeError("a parameter got no gradient")
        gap = float((native - (borrowed.t() if turned else borrowed)).abs().max())
        worst = max(worst, gap / max(float(native.abs().max()), least))
    module.zero_grad()
    twin.zero_grad()
    module.load_state_dict(state)
    with torch.no_grad():
        for name, weight in twin.weights().items():
            weight.copy_(held[name])
    return abs(float(wanted.detach() - found.detach())), worst, len(list(module.parameters())) - len(matched)


def _twin_loss(twin: TorchGraph, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(next(iter(twin({twin.inputs[0]: batch.images}).values())), batch.labels)


def steps(module: nn.Module, twin: TorchGraph, batch: Batch, setting: Setting) -> tuple[Step, Step, str | None]:
    """One training step of the module, one of the twin, and why the twin isn't compiled where it should be."""
    (source,), (answer,) = twin.inputs, twin.outputs
    native: Callable[[torch.Tensor], torch.Tensor] = torch.compile(module) if setting.compile else module
    quick: Forward = twin
    warning = None
    if setting.compile:
        with setting.autocast():
            quick, warning = compiled(twin, {source: batch.images})

    def mine(images: torch.Tensor) -> torch.Tensor:
        return quick({source: images})[answer]

    native_step = _step(native, list(module.parameters()), batch, setting)
    trained = [weight for weight in twin.weights().values() if weight.requires_grad]
    return native_step, _step(mine, trained, batch, setting), warning


def _step(
    forward: Callable[[torch.Tensor], torch.Tensor], weights: list[nn.Parameter], batch: Batch, setting: Setting
) -> Step:
    optimizer = torch.optim.SGD(weights, lr=LEARNING_RATE, momentum=MOMENTUM)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with setting.autocast():
            loss = F.cross_entropy(forward(batch.images), batch.labels)
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


def seconds(sides: tuple[Step, Step], setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Per step, by round [R], of both sides in turn; the first of them in random order."""
    order = random.Random(0)
    for step in sides * 2:
        step()
    taken = np.zeros((2, setting.rounds))
    for turn in range(setting.rounds):
        for side in order.sample((0, 1), 2):
            _settle(setting)
            start = setting.clock()
            for _ in range(setting.steps):
                sides[side]()
            _settle(setting)
            taken[side, turn] = (setting.clock() - start) / setting.steps
    return taken[0], taken[1]


def _settle(setting: Setting) -> None:
    if setting.device.type == "cuda":
        torch.cuda.synchronize()


def row(name: str, file: str, setting: Setting, keep: Path) -> str:
    """One line of the table."""
    module = module_of(name, setting.side)
    twin = twin_of(module, name, file, setting, keep)
    module = module.train().to(setting.device).to(memory_format=setting.memory_format)
    torch.manual_seed(1)
    images = torch.randn(setting.batch, 3, setting.side, setting.side, device=setting.device)
    labels = torch.randint(CLASSES, (setting.batch,), device=setting.device)
    batch = Batch(images.contiguous(memory_format=setting.memory_format), labels)
    equal = "folded"
    if file.startswith("kept") or name.startswith("vit"):
        loss, gradient, missing = difference(module, twin, batch)
        equal = f"{loss:.1e}, {gradient:.1e}" + (f", {missing} unpaired" if missing else "")
    native_step, twin_step, warning = steps(module, twin, batch, setting)
    first, second = seconds((native_step, twin_step), setting)
    middle, low, high = ratio(first, second)
    cells = [name, file, equal, *(f"{np.median(took) * 1e3:.1f}" for took in (first, second))]
    cells.append(f"{middle:.3f} [{low:.3f}, {high:.3f}]" + (f" ({warning})" if warning else ""))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--files", nargs="+", default=["kept-ts", "kept-dynamo"], choices=FILES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="both sides by torch.compile")
    parser.add_argument("--unfused", action="store_true", help="the twin as calibrators see it")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=1, help="in a row, per side and round")
    parser.add_argument("--keep", type=Path, help="a folder for the exported files, which are made once")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    setting = Setting(
        torch.device(chosen.device),
        chosen.precision,
        chosen.channels_last,
        chosen.compile,
        not chosen.unfused,
        chosen.batch,
        chosen.side,
        chosen.rounds,
        chosen.steps,
    )
    if setting.device.type == "cuda" and not torch.cuda.is_available():
        print(f"There is no CUDA GPU here: nothing is measured on {chosen.device}.")
        return
    print(f"torch {torch.__version__}, {setting}, {chosen.threads} threads\n")
    print("| model | file | difference (loss, gradients) | module, ms | twin, ms | module / twin |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        keep = Path(temporary) if chosen.keep is None else chosen.keep
        keep.mkdir(parents=True, exist_ok=True)
        for name in chosen.models:
            for file in chosen.files:
                print(row(name, file, setting, keep), flush=True)


if __name__ == "__main__":
    main()
