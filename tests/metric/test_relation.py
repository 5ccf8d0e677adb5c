"""Relation networks against the paper's equations."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from tests.metric.oracle_relation import sung, sung_loss
from tests.support.episodes import of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]
MAPS = (2, 4, 4)


def literal(comparison: Comparison, both: Tensor) -> Tensor:
    """g of one concatenated pair, through the same layers."""
    joined = both.unflatten(0, (2 * MAPS[0], *MAPS[1:])).unsqueeze(0)
    return comparison.rest(comparison.join(joined)).squeeze()


def learner_of(**options: str) -> Relation:
    """Batch norm with statistics of its own, which leave each item to itself."""
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 32), nn.Tanh())
    learner = Relation(encoder, Comparison(4, 2, 5), **options).double().eval()
    for m in learner.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.01, 0.1)
            nn.init.uniform_(m.bias, -0.1, 0.5)
    return learner


def oracle(learner: Relation, e: Episode) -> Tensor:
    g = partial(literal, learner.comparison)
    f = partial(of_one, learner.encoder)
    s = e.support
    return torch.stack([sung(f, g, s.x[t], s.y[t], s.ways, e.query_x[t]) for t in range(e.tasks)])


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    learner = learner_of()
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    relations = oracle(learner, e)
    scores = learner.predict(e.support, e.query_x)
    torch.testing.assert_close(scores.sigmoid(), relations, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # task by task
        torch.testing.assert_close(learner.predict(e.support, e.query_x), scores, rtol=1e-12, atol=1e-12)
    loss = sum(sung_loss(r, y) for r, y in zip(relations, e.query_y, strict=True)) / tasks
    torch.testing.assert_close(learner(e), loss, rtol=1e-10, atol=1e-10)
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(learner(e), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(loss, parameters), rtol=1e-9, atol=1e-12)
    assert any(g.abs().max() > 1e-4 for g in ours)


def test_cross_entropy_is_that_of_the_logits() -> None:
    learner = learner_of(loss="cross-entropy")
    e = random_episode([2, 1, 2], 4, 2)
    logits = oracle(learner, e).logit()
    expected = -logits.log_softmax(-1).gather(2, e.query_y.unsqueeze(2)).mean()
    torch.testing.assert_close(learner(e), expected)


def test_items_of_a_class_are_summed_or_averaged() -> None:
    """Of equal items the mean is one of them, and the sum is not."""
    e = random_episode([1, 1], 3)
    twice = Support(e.support.x.repeat(1, 2, 1, 1), e.support.y.repeat(1, 2), 2)
    for pooling, same in (("mean", True), ("sum", False)):
        learner = learner_of(pooling=pooling)
        change = learner.predict(twice, e.query_x) - learner.predict(e.support, e.query_x)
        assert (change.abs().max() < 1e-12) == same


@pytest.mark.parametrize("tasks", [1, 2])
def test_batch_norm_of_pairs_sees_one_task(tasks: int) -> None:
    torch.manual_seed(2)
    learner = Relation(relation_encoder(1, 4), Comparison(5, 4))
    x = torch.rand(tasks, 3, 1, 28, 28)
    support = Support(x, torch.tensor([[0, 1, 2]] * tasks), 3)
    queries = torch.rand(tasks, 4, 1, 28, 28)
    together = learner.predict(support, queries)
    assert together.shape == (tasks, 4, 3)
    for t in range(tasks):
        one = Support(x[t : t + 1], support.y[t : t + 1], 3)
        torch.testing.assert_close(
            learner.predict(one, queries[t : t + 1])[0], together[t], rtol=1e-4, atol=1e-5
        )


def test_pairs_are_compared_as_if_concatenated_in_training_too() -> None:
    torch.manual_seed(3)
    comparison = Comparison(4, 2).double()
    a, b = torch.randn(1, 3, 32).double(), torch.randn(1, 5, 32).double()
    pairs = [torch.cat([a[0, n].view(MAPS), b[0, q].view(MAPS)]) for q in range(5) for n in range(3)]
    expected = comparison.rest(comparison.join(torch.stack(pairs))).view(1, 5, 3)
    torch.testing.assert_close(comparison(a, b), expected)


def test_the_encoders_maps_are_those_of_the_authors() -> None:
    for size, side in ((28, 5), (84, 19)):
        assert relation_encoder(1, 8)(torch.rand(1, 1, size, size)).shape == (1, 8 * side**2)


def test_any_network_may_compare() -> None:
    class Dot(nn.Module):
        def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
            return queries @ classes.mT

    e = random_episode([1, 2], 3, 2)
    assert Relation(small_encoder(), Dot()).predict(e.support, e.query_x).shape == (2, 3, 2)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match=r"loss is 'hinge'.*'mse' or 'cross-entropy'"):
        Relation(small_encoder(), Comparison(), loss="hinge")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="side is 3"):
        Comparison(3)
    e = random_episode([1, 1], 2)
    with pytest.raises(ValueError, match=r"the encoder gives 4 numbers an item.* 64 × 5 × 5"):
        Relation(small_encoder(), Comparison()).predict(e.support, e.query_x)
