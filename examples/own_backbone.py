"""A backbone of one's own, with two learning rates and its first layers frozen."""

import torch
from torch import nn

import quickstudy as qs

body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten())
backbone = nn.Sequential(body, nn.LazyLinear(32))
backbone(torch.zeros(1, 1, 28, 28))

pool = qs.glyphs()
body[0].requires_grad_(False)
groups = [{"params": body[2].parameters(), "lr": 1e-4}, {"params": backbone[1].parameters(), "lr": 1e-3}]
learner, episodes = qs.Prototypical(backbone), qs.Episodes(pool.split("train"), qs.Setting(5, 1, 5))
qs.fit(learner, episodes, 20, optimizer=lambda _: torch.optim.AdamW(groups))
print(qs.evaluate(learner, qs.Episodes(pool.split("test"), qs.Setting(5, 1, 5)), 20))
