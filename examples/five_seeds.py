"""A figure over five seeds: five trainings, tested on the same tasks."""

import torch

import quickstudy as qs
from quickstudy.core.scores import mean_ci95

pool = qs.glyphs()
test = qs.Episodes(pool.split("test"), qs.Setting(5, 1, 5), tasks=10)


def trained(seed: int) -> qs.Learner:
    """The user's own."""
    torch.manual_seed(seed)
    learner = qs.Prototypical(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32)))
    qs.fit(learner, qs.Episodes(pool.split("train"), qs.Setting(5, 1, 5), seed=seed), 20)
    return learner


scores = [qs.evaluate(trained(seed), test, 50).accuracy for seed in range(5)]
mean, ci95 = mean_ci95(torch.tensor(scores))
print(f"{mean:.1%} ± {ci95:.1%} over 5 seeds")
