"""Processes, devices and precision of a training run, and the display of its progress."""

import atexit
import logging
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from quickstudy.core.kernels.torch_private import cpu_has_bfloat16
from quickstudy.core.progress import ProgressCallback, Reporter


class Display(Protocol):
    """Display of progress; each method shows a progress bar until its block ends."""

    def counting(self, what: str) -> AbstractContextManager[ProgressCallback]:
        """Progress bar of counted things, updated by (done, total).

        Args:
            what: Text beside the bar.
        """
        ...

    def training(self, steps: int) -> AbstractContextManager[Reporter]:
        """Progress bar of a training run.

        Args:
            steps: Number of steps of the run.
        """
        ...


def launch(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Launch the processes of a training run, by Lightning Fabric.

    Args:
        accelerator: Kind of device: "auto", "cpu", "cuda" or "mps".
        devices: Number of devices, or of processes on a CPU.
        precision: Precision as Fabric names it; "bf16-mixed" becomes "32-true" on a CPU without bfloat16.

    Returns:
        Fabric that runs in every process.

    Raises:
        ValueError: If the machine lacks the accelerator or the precision.
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
    if torch.distributed.is_initialized():  # otherwise gloo's threads may abort the process at exit
        atexit.register(torch.distributed.destroy_process_group)
    return fabric
