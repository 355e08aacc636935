"""Train the ResNet-56 that the figures of fine-tuning start from, on 44,000 images of CIFAR-10, and write it as ONNX.

    DATA=... python tests/benchmarks/base_resnet.py FOLDER [EPOCHS]     # FOLDER/resnet56.onnx

`$DATA/cifar10` holds the sheets and labels (SOURCES.md). Trained on train[:44000]; nothing is selected: the last epoch
counts. Accuracy is read on train[45000:50000] and the 1,000 test images. An interrupted run goes on from its last
epoch. Computed in bfloat16, with channels last; the learning rate follows one cycle.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from darwinc.models.cifar_resnet import CifarResNet
from tests.benchmarks.cifar_resnet import prepared, read

BATCH, PEAK, DECAY = 128, 0.4, 5e-4


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images [N, 3, 32, 32], each moved by up to 4 pixels and mirrored or not."""
    padded = F.pad(images, (4, 4, 4, 4))
    count = len(images)
    top, left = torch.randint(9, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(32), left + torch.arange(32)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(3)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def accuracy(network: CifarResNet, images: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    with torch.no_grad():
        right = [
            (network(part).argmax(1) == wanted).sum()
            for part, wanted in zip(torch.split(images, 250), torch.split(labels, 250), strict=True)
        ]
    return float(torch.stack(right).sum() / len(labels) * 100)


def main() -> None:
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels, known = read(Path(os.environ["DATA"]) / "cifar10")
    labels = torch.from_numpy(known.astype(np.int64))
    images = torch.from_numpy(prepared(pixels))
    torch.manual_seed(0)
    network = CifarResNet(56).to(device).to(memory_format=torch.channels_last)
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        0.1,
        momentum=0.9,
        nesterov=True,
    )
    steps = 44000 // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=epochs * steps, pct_start=0.25)
    first = 0
    state = folder / "state.pt"
    folder.mkdir(parents=True, exist_ok=True)
    if state.exists():
        found = torch.load(state, weights_only=True)
        network.load_state_dict(found["network"])
        optimizer.load_state_dict(found["optimizer"])
        schedule.load_state_dict(found["schedule"])
        first = found["epoch"]
    for epoch in range(first, epochs):
        start, generator = time.perf_counter(), torch.Generator().manual_seed(epoch)
        order = torch.randperm(44000, generator=generator)
        network.train()
        total = 0.0
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = augmented(images[chosen], generator).to(device, memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16):
                scores = network(batch)
            loss = F.cross_entropy(scores.float(), labels[chosen].to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            if step % 50 == 0:
                print(f"epoch {epoch} step {step} loss {total / (step + 1):.3f}", flush=True)
        torch.save(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch + 1,
            },
            state,
        )
        seconds, test = time.perf_counter() - start, accuracy(network, images[50000:], labels[50000:])
        print(f"epoch {epoch + 1} loss {total / steps:.3f} seconds {seconds:.0f} test {test:.1f}", flush=True)
    print(f"held-out accuracy {accuracy(network, images[45000:], labels[45000:]):.2f}", flush=True)
    write(network.cpu(), folder / "resnet56.onnx")


def write(network: CifarResNet, path: Path) -> None:
    """The network as ONNX, BatchNormalization kept, with a free batch."""
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, 32, 32),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes={"input": {0: "N"}, "scores": {0: "N"}},
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )


if __name__ == "__main__":
    main()
