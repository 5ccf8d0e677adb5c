"""Matching networks against the paper's equations, with and without full-context embeddings."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.metric.distances import cosines
from quickstudy.metric.matching import FullContext, Matching, sum_by_class
from tests.metric.oracle_matching import vinyals_probabilities, vinyals_query, vinyals_support
from tests.support.episodes import of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]


def oracle(learner: Matching, e: Episode) -> tuple[Tensor, Tensor]:
    """Log-probabilities [T, Q, N] and the mean loss."""
    f, tasks, losses = partial(of_one, learner.encoder), [], []
    for t in range(e.tasks):
        g, queries = [f(x) for x in e.support.x[t]], [f(x) for x in e.query_x[t]]
        if learner.context is not None:
            g = vinyals_support(dict(learner.context.of_support.named_parameters()), g)
            weights = dict(learner.context.of_query.named_parameters())
            queries = [vinyals_query(weights, q, g, learner.context.steps) for q in queries]
        y, scale = e.support.y[t].tolist(), torch.exp(learner.log_scale)
        rows = [torch.stack(vinyals_probabilities(q, g, y, e.ways, scale)) for q in queries]
        tasks.append(torch.stack(rows))
        losses += [-torch.log(row[int(k)]) for row, k in zip(rows, e.query_y[t], strict=True)]
    return torch.stack(tasks).log(), sum(losses[1:], losses[0]) / len(losses)


def learner_with(steps: int) -> Matching:
    torch.manual_seed(1)
    context = FullContext(4, steps) if steps else None
    return Matching(small_encoder(), context).double()


@pytest.mark.medium
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(
    shots: list[int], queries: int, tasks: int, steps: int
) -> None:
    learner = learner_with(steps)
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    log_probabilities, loss = oracle(learner, e)
    scores = learner.predict(e.support, e.query_x)
    torch.testing.assert_close(scores, log_probabilities, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(tasks, queries, dtype=torch.float64))
    torch.testing.assert_close(learner(e), loss, rtol=1e-10, atol=1e-10)
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(learner(e), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(loss, parameters), rtol=1e-9, atol=1e-10)
    if steps != 1:  # in whose one step h = 0 leaves the recurrent weights without a gradient
        assert all(g.abs().max() > 1e-7 for g in ours)


def test_full_context_depends_on_the_order_of_the_support_and_plain_matching_does_not() -> None:
    e = random_episode([2, 1, 2], 4, 2)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = Support(e.support.x[:, order], e.support.y[:, order], 3)
    for steps, depends in ((0, False), (2, True)):
        learner = learner_with(steps)
        change = learner.predict(shuffled, e.query_x) - learner.predict(e.support, e.query_x)
        assert (change.abs().max() > 1e-4) == depends


def test_the_tasks_of_a_batch_do_not_see_each_other() -> None:
    learner = learner_with(2)
    e = random_episode([2, 1, 2], 4, 3)
    together = learner.predict(e.support, e.query_x)
    for t in range(3):
        alone = e[t : t + 1]
        torch.testing.assert_close(learner.predict(alone.support, alone.query_x)[0], together[t])


def test_queries_do_not_see_each_other() -> None:
    learner = learner_with(2)
    e = random_episode([2, 1, 2], 4)
    together = learner.predict(e.support, e.query_x)
    torch.testing.assert_close(learner.predict(e.support, e.query_x[:, 1:2]), together[:, 1:2])


def test_without_a_scale_the_attention_is_nearly_uniform() -> None:
    """Why there is one: the query is a support item itself and all others point the other way."""
    x = -torch.ones(1, 20, 2)
    x[0, 0] = 1
    support = Support(x, torch.arange(20).unsqueeze(0), 20)
    plain = Matching(nn.Flatten(), scale=1, learn_scale=False).predict(support, x[:, :1])
    assert plain.exp()[0, 0, 0] == pytest.approx(0.2800, abs=1e-4)
    assert Matching(nn.Flatten(), scale=10).predict(support, x[:, :1]).exp()[0, 0, 0] > 0.999


def test_the_scale_is_learned_unless_it_is_fixed() -> None:
    e = random_episode([1, 1], 2)
    assert not Matching(small_encoder(), learn_scale=False).log_scale.requires_grad
    learner = learner_with(0)
    learner(e).backward()
    assert learner.log_scale.grad is not None
    assert learner.log_scale.grad != 0


def test_a_class_without_mass_still_has_a_finite_logarithm() -> None:
    log_mass = torch.tensor([[[0.0, -500.0, -501.0]]], requires_grad=True)
    summed = sum_by_class(log_mass, torch.tensor([[0, 1, 1]]), 2)
    torch.testing.assert_close(summed, torch.tensor([[[0.0, -500 + 0.31326]]]))
    summed.sum().backward()
    assert log_mass.grad is not None
    torch.testing.assert_close(log_mass.grad, torch.tensor([[[1.0, 0.73106, 0.26894]]]))


def test_the_zero_vector_is_at_right_angles_to_everything() -> None:
    a = torch.zeros(1, 1, 3, requires_grad=True)
    cos = cosines(a, torch.ones(1, 2, 3))
    assert cos.tolist() == [[[0.0, 0.0]]]
    cos.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="scale is 0: it must be positive"):
        Matching(small_encoder(), scale=0)
    with pytest.raises(ValueError, match="steps is 0"):
        FullContext(4, 0)
    e = random_episode([1, 1], 2)
    with pytest.raises(ValueError, match=r"4 dimensions but FullContext 64.*dimensions=4"):
        Matching(small_encoder(), FullContext()).predict(e.support, e.query_x)
