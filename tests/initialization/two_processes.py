"""Run by test_maml_plus_plus.py: a short training of MAML++ on the number of processes asked for."""

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

import quickstudy as qs
from tests.support.pools import noisy_pool


def main(devices: int, chunk_size: int, out: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=devices)
    fabric.launch()
    torch.manual_seed(0)
    model = qs.Classifier(qs.Conv4(1, 8, running_statistics=False), 5, 8)
    learner = qs.MAMLPlusPlus(model, steps=3, chunk_size=chunk_size, multi_step_until=2, first_order_until=4)
    qs.fit(
        learner,
        qs.Episodes(noisy_pool(), qs.Setting(5, 1, 2), 4),
        6,
        optimizer=lambda p: torch.optim.SGD(p, 0.1),  # Adam would magnify rounding
        fabric=fabric,
        out=out,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
