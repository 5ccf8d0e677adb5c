"""Processes, devices and precision: how a training is launched, and what shows it."""

import atexit
import logging
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from quickstudy.core.kernels.torch_private import cpu_has_bfloat16
from quickstudy.data.formats.images import Progress as Decoding
from quickstudy.training.fit import Reporter


class Display(Protocol):
    """Where progress is shown; each method opens a bar for as long as its block lasts."""

    def counting(self, what: str) -> AbstractContextManager[Decoding]:
        """Of so many things done of so many."""
        ...

    def training(self, steps: int) -> AbstractContextManager[Reporter]:
        """Of a training."""
        ...


def launch(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Devices, processes and precision: all of it is Fabric's business.

    Args:
        accelerator: auto, cpu, cuda, mps.
        devices: processes or cards.
        precision: as Fabric names it; bf16-mixed falls back to 32-true on a CPU without bfloat16.

    Raises:
        ValueError: if the machine has no such accelerator or precision.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and precision == "bf16-mixed" and not cpu_has_bfloat16():
        precision = "32-true"
    wanted: Any = precision
    try:
        fabric = Fabric(accelerator="cpu" if on_cpu else accelerator, devices=devices, precision=wanted)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ValueError(f"can't use {devices} × {accelerator} in {precision}: {error}") from None
    fabric.launch()
    if torch.distributed.is_initialized():  # gloo's threads, left alone, may abort the process as it ends
        atexit.register(torch.distributed.destroy_process_group)
    return fabric
