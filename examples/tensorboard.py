"""Figures of a training in TensorBoard, by `report=`: three lines (pip install tensorboard)."""

from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

import quickstudy as qs

pool = qs.glyphs()
learner = qs.Prototypical(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32)))
writer = SummaryWriter("runs/tensorboard")


def report(step: int, news: dict[str, Any]) -> None:
    """Loss, tasks a second and, after a validation, its figures."""
    score = news.get("validation")
    for name, value in {**news, **(score.to_log() if score else {})}.items():
        writer.add_scalar(name, value, step)


validation = qs.Episodes(pool.split("validation"), qs.Setting(5, 1, 5), tasks=10)
episodes = qs.Episodes(pool.split("train"), qs.Setting(5, 1, 5))
qs.fit(learner, episodes, 20, validation=validation, validation_episodes=20, every=10, report=report)
writer.close()
