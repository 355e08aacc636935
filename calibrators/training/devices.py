"""Devices and precision of a training run, by Lightning Fabric: one device, or every process that torchrun started."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Literal

import torch
from lightning_fabric import Fabric

from darwinc.errors import UsageError
from darwinc.training import Training

Plugin = Literal["32-true", "bf16-mixed", "16-mixed"]
PLUGINS: dict[str, Plugin] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision_of(device: torch.device, training: Training) -> str:
    """fp32, bf16 or fp16: what `auto` stands for on this device.

    Raises:
        UsageError: fp16 without a CUDA GPU.
    """
    if training.precision == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 takes a CUDA GPU; use bf16 or fp32 here.")
    if training.precision != "auto":
        return training.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def make_fabric(device: torch.device, training: Training) -> Fabric:
    """Fabric, launched: on the one device, or as this process's part where torchrun (or a cluster) started several.

    Raises:
        UsageError: a precision that the device doesn't have.
    """
    # It says which precision it uses, and that it starts; both are said by us where they matter.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    plugin = PLUGINS[precision_of(device, training)]
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if world > 1:
            nodes = world // local
            fabric = Fabric(accelerator=device.type, devices=local, num_nodes=nodes, strategy="ddp", precision=plugin)
        else:
            devices = [device.index or 0] if device.type == "cuda" else 1
            fabric = Fabric(accelerator=device.type, devices=devices, precision=plugin)
        fabric.launch()
    return fabric
