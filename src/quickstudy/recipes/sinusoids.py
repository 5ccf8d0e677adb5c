"""Sinusoid regression, MAML's first experiment: who learns a sine from a few points, and how fast."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from quickstudy.core.episode import Episode
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.learner import evaluation_mode
from quickstudy.core.seeds import generators_kept
from quickstudy.data.datasets.sinusoids import Sinusoids
from quickstudy.encoders.classifier import MLP
from quickstudy.initialization.maml import MAML
from quickstudy.initialization.meta_sgd import MetaSGD
from quickstudy.initialization.reptile import Reptile
from quickstudy.training.fit import Reporter, fit
from quickstudy.training.schedules import MakeOptimizer, Schedule, adam, cosine, linear, sgd

TEST_SEED = 10_000
"""Test tasks are drawn from this seed: far from the seeds that people train with."""


@dataclass(frozen=True)
class Contestant:
    """A way to learn sinusoids.

    Args:
        learner: makes one; all with the network of the paper, 1-40-40-1 with ReLU.
        optimizer: of the outer loop.
        schedule: from the number of steps.
    """

    learner: Callable[[], InnerLoop]
    optimizer: MakeOptimizer
    schedule: Callable[[int], Schedule]


def network() -> MLP:
    """The paper's network."""
    return MLP(1, (40, 40), 1)


CONTESTANTS = {
    "MAML": Contestant(lambda: MAML(network(), lr=0.01, steps=1), adam(3e-3), partial(cosine, warmup=100)),
    "Meta-SGD": Contestant(lambda: MetaSGD(network()), adam(3e-3), partial(cosine, warmup=100)),
    "Reptile": Contestant(lambda: Reptile(network(), lr=0.02, steps=10), sgd(1.0), linear),
    # no inner step in training: one network for all tasks, fine-tuned to each in testing
    "pre-trained": Contestant(
        lambda: MAML(network(), lr=0.02, steps=0), adam(1e-3), partial(cosine, warmup=100)
    ),
}
"""MAML; Meta-SGD, whose rates are learned for one step and may be too high for more; Reptile; and the
baseline of MAML's authors, a network trained on all tasks at once and fine-tuned at their rate."""


def train(
    name: str, shots: int = 10, steps: int = 10_000, seed: int = 0, report: Reporter | None = None
) -> InnerLoop:
    """Train a contestant on meta-batches of 25 sinusoids.

    Args:
        name: a key of `CONTESTANTS`.
        shots: K.
        steps: meta-batches.
        seed: of weights and tasks.
        report: as in `fit`.
    """
    contestant = CONTESTANTS[name]
    with generators_kept(seed):
        learner = contestant.learner()
    fit(
        learner,
        Sinusoids(shots, shots, 25, seed),
        steps,
        optimizer=contestant.optimizer,
        schedule=contestant.schedule(steps),
        every=steps,
        report=report,
    )
    return learner


@torch.no_grad()
def fits(learner: InnerLoop, task: Episode, x: Tensor, steps: Sequence[int]) -> Tensor:
    """Predictions [steps, T, B, 1] at the points x [B], after each number of inner steps on the support."""
    before, learner.test_steps = learner.test_steps, 0
    points = x[None, :, None].expand(task.tasks, -1, -1)
    made: list[Tensor] = []
    try:
        for learner.test_steps in steps:
            with evaluation_mode(learner):
                made.append(learner.predict(task.support, points))
    finally:
        learner.test_steps = before
    return torch.stack(made)


def errors(learner: InnerLoop, shots: int = 10, tasks: int = 600, steps: int = 10) -> Tensor:
    """Mean squared errors [steps + 1, tasks] on unseen sinusoids, after 0, 1, …, `steps` inner steps.

    Over 100 points evenly spaced in [−5, 5], not only those near the support.
    """
    sinusoids = Sinusoids(shots, 1, tasks, TEST_SEED)
    x = torch.linspace(-5, 5, 100)
    predictions = fits(learner, sinusoids[0], x, range(steps + 1))
    return (predictions.squeeze(-1) - sinusoids.curves(0, x)).square().mean(-1)
