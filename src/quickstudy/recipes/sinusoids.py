"""Sinusoid regression, MAML's first experiment: how fast each method learns a sine from a few points."""

from collections.abc import Callable, Sequence
from copy import copy
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
from quickstudy.training.schedules import MakeOptimizer, Schedule, cosine_schedule, linear_decay

SINUSOID_TEST_SEED = 10_000
"""Seed of the test tasks: far from the seeds that people train with."""


@dataclass(frozen=True)
class Contestant:
    """A method that is compared in learning sinusoids.

    Args:
        learner: Function that makes the learner, with the paper's network.
        optimizer: Function that makes the optimizer of the outer loop.
        schedule: Function from the number of steps to the learning-rate schedule.
    """

    learner: Callable[[], InnerLoop]
    optimizer: MakeOptimizer
    schedule: Callable[[int], Schedule]


def network() -> MLP:
    """The paper's network: two hidden layers of 40 units with ReLU, from [B, 1] to [B, 1]."""
    return MLP(1, (40, 40), 1)


CONTESTANTS = {
    "MAML": Contestant(
        lambda: MAML(network(), lr=0.01, steps=1),
        partial(torch.optim.Adam, lr=3e-3),
        partial(cosine_schedule, warmup=100),
    ),
    "Meta-SGD": Contestant(
        lambda: MetaSGD(network()), partial(torch.optim.Adam, lr=3e-3), partial(cosine_schedule, warmup=100)
    ),
    "Reptile": Contestant(
        lambda: Reptile(network(), lr=0.02, steps=10), partial(torch.optim.SGD, lr=1.0), linear_decay
    ),
    # no inner step in training: one network for all tasks, fine-tuned to each task in testing
    "pre-trained": Contestant(
        lambda: MAML(network(), lr=0.02, steps=0),
        partial(torch.optim.Adam, lr=1e-3),
        partial(cosine_schedule, warmup=100),
    ),
}
"""The methods compared, by name: MAML; Meta-SGD (its rates are learned for one step and may be too high for
more); Reptile; and the baseline of MAML's authors, a network trained on all tasks at once and fine-tuned at
their rate."""


def train(
    name: str, shots: int = 10, steps: int = 10_000, seed: int = 0, report: Reporter | None = None
) -> InnerLoop:
    """Train a contestant on meta-batches of 25 sinusoids.

    Args:
        name: Name of the method, a key of `CONTESTANTS`.
        shots: Points in the support of a task, and also the number of its queries.
        steps: Number of meta-batches.
        seed: Seed of the initial weights and of the tasks.
        report: Called with the progress of the training, as in `fit`.

    Returns:
        The trained learner.
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
    """Predictions of a learner after given numbers of inner steps.

    Args:
        learner: The trained learner; it is not changed.
        task: Batch of T tasks; the learner adapts to the support of each.
        x: [B] points at which the predictions are made.
        steps: K numbers of inner steps, each 0 or more.

    Returns:
        [K, T, B, 1] predictions.
    """
    points = x[None, :, None].expand(task.tasks, -1, -1)
    trial = copy(learner)  # shares the weights, but has a `test_steps` of its own
    made: list[Tensor] = []
    with evaluation_mode(trial):
        for k in steps:
            trial.test_steps = k
            made.append(trial.predict(task.support, points))
    return torch.stack(made)


def errors(learner: InnerLoop, shots: int = 10, tasks: int = 600, steps: int = 10) -> Tensor:
    """Mean squared errors on unseen sinusoids after 0, 1, …, `steps` inner steps.

    They are taken over 100 points evenly spaced in [−5, 5], not only near the support.

    Args:
        learner: The trained learner; it is not changed.
        shots: Points in the support of a task.
        tasks: T, the number of sinusoids.
        steps: Largest number of inner steps.

    Returns:
        [steps + 1, T] mean squared errors.
    """
    sinusoids = Sinusoids(shots, 1, tasks, SINUSOID_TEST_SEED)
    x = torch.linspace(-5, 5, 100)
    predictions = fits(learner, sinusoids[0], x, range(steps + 1))
    return (predictions.squeeze(-1) - sinusoids.curves(0, x)).square().mean(-1)
