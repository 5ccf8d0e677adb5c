import pytest
import torch
from torch import nn

from quickstudy.core.episode import Episode
from quickstudy.metric.distances import cosine_distance
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.supervised_contrastive import SupervisedContrastive, supervised_contrastive_loss
from tests.metric.oracle_supervised_contrastive import khosla
from tests.support.episodes import random_episode


def items(tasks: int, counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    z = torch.randn(tasks, len(y), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z, y.expand(tasks, -1)


@pytest.mark.parametrize("counts", [[2, 2], [3, 2, 4]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_and_its_gradient_are_the_paper_s(counts: list[int], temperature: float) -> None:
    z, y = items(3, counts)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = supervised_contrastive_loss(ours, y, temperature)
    expected = torch.stack([khosla(t, of, temperature) for t, of in zip(theirs, y, strict=True)]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_learner_takes_support_and_queries_alike() -> None:
    e = random_episode([2, 2, 2], 6, 2, dtype=torch.float64)
    learner = SupervisedContrastive(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double(), temperature=0.5)
    x, y = torch.cat([e.support.x, e.query_x], 1), torch.cat([e.support.y, e.query_y], 1)
    z = learner.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    expected = torch.stack([khosla(t, of, 0.5) for t, of in zip(z, y, strict=True)]).mean()
    torch.testing.assert_close(learner(e), expected)
    siamese = Siamese(learner.encoder, cosine_distance)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), siamese.predict(e.support, e.query_x))


def test_an_item_alone_in_its_class_is_an_error() -> None:
    z, y = items(1, [2, 1])
    with pytest.raises(ValueError, match="alone in its class"):
        supervised_contrastive_loss(z, y)
    with pytest.raises(ValueError, match="temperature is 0"):
        SupervisedContrastive(nn.Flatten(), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e15])
def test_extremes_give_finite_losses_and_gradients(dtype: torch.dtype, scale: float) -> None:
    _, y = items(2, [2, 3])
    z = torch.full((2, 5, 4), scale, dtype=dtype, requires_grad=True)
    loss = supervised_contrastive_loss(z, y)
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_the_loss_of_tasks_is_the_mean_of_their_losses() -> None:
    e: Episode = random_episode([2, 2], 4, 3, dtype=torch.float64)
    learner = SupervisedContrastive(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double())
    torch.testing.assert_close(learner(e), torch.stack([learner(e[t : t + 1]) for t in range(3)]).mean())
