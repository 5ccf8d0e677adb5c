"""Tasks of one's own: a simulator of damped oscillators, whose score is a mean squared error."""

import torch

import quickstudy as qs


def oscillators(i: int) -> qs.Episode:
    """The user's own: eight oscillators, each seen at ten times and asked for at twenty."""
    rate, damping, t = torch.rand(8, 1, 1) * 3, torch.rand(8, 1, 1), torch.rand(8, 30, 1) * 4
    y = torch.exp(-damping * t) * torch.cos(rate * t)
    return qs.Episode(qs.Support(t[:, :10], y[:, :10], ways=0), t[:, 10:], y[:, 10:])


learner = qs.MAML(qs.MLP(1, (40, 40), 1), lr=0.01, steps=3)
qs.fit(learner, oscillators, 100, validation=oscillators, validation_episodes=40, every=50)
print(qs.evaluate(learner, oscillators, 80))
