"""Episodes of small random items, and small encoders of them, for the tests of learners of a metric."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import Learner

ITEM = (2, 3)


def small_encoder() -> nn.Module:
    """Smooth, so that finite differences mean something; small, so that no exp(−d) underflows."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def of_one(encoder: nn.Module, item: Tensor) -> Tensor:
    """The embedding of one item."""
    return encoder(item.unsqueeze(0)).squeeze(0)


def random_episode(
    shots: Sequence[int],
    queries: int,
    tasks: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    unlabelled: int = 0,
) -> Episode:
    """Every task in its own order of the support, queries of random classes."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    y = torch.stack([labels[torch.randperm(len(labels), generator=rng)] for _ in range(tasks)])
    x = torch.randn(tasks, len(labels), *ITEM, generator=rng, dtype=dtype)
    query_x = torch.randn(tasks, queries, *ITEM, generator=rng, dtype=dtype)
    query_y = torch.randint(len(shots), (tasks, queries), generator=rng)
    others = torch.randn(tasks, unlabelled, *ITEM, generator=rng, dtype=dtype)
    return Episode(Support(x, y, len(shots), others), query_x, query_y)


def random_sizes(seed: int) -> tuple[list[int], int, int]:
    """Shots of each class, queries, tasks."""
    rng = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=rng))

    return [draw(1, 5) for _ in range(draw(2, 6))], draw(1, 6), draw(1, 4)


def assert_finite(learner: Learner, e: Episode, low: bool) -> None:
    """Scores, loss and gradients, in float32 or under bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        scores, loss = learner.predict(e.support, e.query_x), learner(e)
    assert scores.isfinite().all()
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
