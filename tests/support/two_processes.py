"""Run by test_fit.py: a short training on the number of processes asked for."""

import json
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from tests.support.pools import noisy_pool


def main(devices: int, out: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=devices)
    fabric.launch()
    torch.manual_seed(0)
    learner = Prototypical(nn.Sequential(Conv4(1, 8)))
    pool = noisy_pool()
    fit(
        learner,
        Episodes(pool, Setting(5, 1, 3), 4),
        6,
        optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),  # Adam would magnify rounding
        validation=Episodes(pool, Setting(5, 1, 3), 3, 1),
        validation_episodes=7,
        every=2,
        ema_decay=0.5,  # each process has an average of its own, and they must not part
        fabric=fabric,
        out=out,
    )
    score = evaluate(learner, Episodes(pool, Setting(5, 1, 3), 3, 2), 11, fabric=fabric)
    if fabric.global_rank == 0:
        (out / "score.json").write_text(json.dumps(score.as_dict()))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
