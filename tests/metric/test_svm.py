"""MetaOptNet against its machine solved by projected gradient steps, and what must not change an answer."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.core.episode import Episode, Support
from quickstudy.encoders import Conv4
from quickstudy.metric import MetaOptNet
from quickstudy.metric.svm import support_vectors
from tests.metric.oracle_svm import dual, lee
from tests.support.episodes import of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([1, 1, 1, 1, 1], 5, 3, id="one-shot"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]
same = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def made(seed: int = 1, cost: float = 0.5, ridge: float = 0.3) -> MetaOptNet:
    """In float64; some of the α are at their bounds and some are not."""
    torch.manual_seed(seed)
    return MetaOptNet(small_encoder(), cost, ridge, scale=4.0).double()


def oracle(learner: MetaOptNet, e: Episode) -> tuple[Tensor, float]:
    return lee(
        partial(of_one, learner.encoder),
        e.support.x, e.support.y, e.support.ways, e.query_x, e.query_y,
        learner.cost, learner.ridge, learner.scale.item(),
    )  # fmt: skip


@pytest.mark.parametrize("cost", [0.1, 0.5, 10.0])
@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_and_loss_are_the_papers(shots: list[int], queries: int, tasks: int, cost: float) -> None:
    learner = made(cost=cost)
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    scores, loss = oracle(learner, e)
    same(learner.predict(e.support, e.query_x), scores)
    assert learner(e).item() == pytest.approx(loss, abs=1e-10)


@pytest.mark.parametrize("cost", [0.1, 0.5, 10.0])
def test_gradients_are_the_finite_differences_of_the_papers_loss(cost: float) -> None:
    learner, e, step = made(2, cost), random_episode([2, 1, 3], 4, 2), 1e-5
    learner(e).backward()
    for parameter in learner.parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for i in {0, len(flat) // 2, len(flat) - 1}:
            start = flat[i].item()
            losses = []
            for shifted in (start + step, start - step):
                flat[i] = shifted
                losses.append(oracle(learner, e)[1])
            flat[i] = start
            assert gradient[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


@pytest.mark.medium
@pytest.mark.parametrize("cost", [0.05, 0.5, 50.0])
def test_gradients_flow_through_the_solution(cost: float) -> None:
    """First and second derivatives, with few, some and all of the α below their bounds."""
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2, 6, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 2, 1]])
    solve = partial(support_vectors, y=y, ways=3, cost=cost, ridge=0.3)
    assert torch.autograd.gradcheck(solve, (x,))
    assert torch.autograd.gradgradcheck(solve, (x,))


@pytest.mark.parametrize("seed", range(12))
def test_machines_of_all_sizes_scales_and_costs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ways, items, dimensions = rng.integers(2, 6), rng.integers(8, 20), rng.integers(2, 9)
    x = 10 ** rng.uniform(-1, 1) * rng.standard_normal((2, items, dimensions))
    y = np.stack([rng.permutation(np.arange(items) % ways) for _ in range(2)])
    cost = 10 ** rng.uniform(-2, 1)
    alpha = support_vectors(torch.from_numpy(x), torch.from_numpy(y), int(ways), cost, 1.0)
    for t in range(2):
        expected = dual(x[t], y[t], int(ways), cost, 1.0)
        torch.testing.assert_close(alpha[t] / cost, torch.from_numpy(expected) / cost, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e3])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("cost", [1e-4, 0.1, 1e4])
def test_extreme_machines_fulfill_the_conditions_of_the_optimum(
    scale: float, alike: bool, cost: float
) -> None:
    """Also where many solutions are near, and where no α, or every one, is at its bound."""
    x = scale * torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(1)).double()
    x, y = (x[:, :1].expand(1, 12, 5) if alike else x), torch.arange(4).repeat(1, 3)
    alpha, own = support_vectors(x, y, 4, cost, 1.0), F.one_hot(y, 4).double()
    slope = (x @ x.mT + torch.eye(12)) @ alpha - own
    near = 1e-6 if scale == 1e3 else 1e-9
    assert (alpha.sum(-1) / cost).abs().max() < near
    assert ((alpha - cost * own) / cost).max() < near
    free = alpha < cost * (own - 1e-7)
    multiplier = torch.where(free, -slope, -torch.inf).amax(-1, keepdim=True)
    off = torch.where(free, (multiplier + slope).abs(), (multiplier + slope).clamp_min(0)).max()
    assert off < near * (1 + cost * scale**2)


def test_by_hand() -> None:
    """Items [1, 0] and [0, 1]: α is ±min(C, 1 / (2 (1 + ρ))), and a weight of class 0 [α, −α]."""
    x, y = torch.eye(2).unsqueeze(0), torch.tensor([[0, 1]])
    for cost, ridge, expected in ((0.1, 1.0, 0.1), (5.0, 1.0, 0.25), (5.0, 4.0, 0.1)):
        alpha = support_vectors(x, y, 2, cost, ridge)
        torch.testing.assert_close(alpha[0], expected * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        scores = MetaOptNet(nn.Flatten(), cost, ridge, scale=3.0).predict(
            Support(x, y, 2), torch.tensor([[[2.0, 0.0]]])
        )
        torch.testing.assert_close(scores.flatten(), 3 * expected * torch.tensor([2.0, -2.0]))


def test_all_items_count_alike_where_the_cost_is_small_and_none_is_held_where_it_is_great() -> None:
    rng = torch.Generator().manual_seed(4)
    x, y = torch.randn(1, 9, 4, generator=rng).double(), torch.arange(3).repeat(1, 3)
    own = [support_vectors(x, y, 3, cost).gather(-1, y[..., None]).flatten() for cost in (1e-3, 1e3)]
    torch.testing.assert_close(own[0], torch.full((9,), 1e-3).double())
    assert (own[1] < 1).all()


def test_scores_add_up_to_0_and_equal_items_share_alike() -> None:
    learner, e = made(), random_episode([3, 1, 2], 4, 2)
    same(learner.predict(e.support, e.query_x).sum(-1), torch.zeros(2, 4).double())
    x = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [-1.0, 0.0]]]).double()
    alpha = support_vectors(x, torch.tensor([[0, 0, 1]]), 2, cost=5.0)
    same(alpha[0, 0], alpha[0, 1])


def test_a_task_is_solved_as_if_it_were_alone() -> None:
    """To the last digit, though the tasks of a call need different numbers of rounds."""
    rng = torch.Generator().manual_seed(2)
    sizes = torch.tensor([0.01, 1.0, 30.0])[:, None, None]
    x, y = sizes * torch.randn(3, 10, 4, generator=rng).double(), torch.arange(5).repeat(3, 2)
    together = support_vectors(x, y, 5)
    alone = torch.cat([support_vectors(x[t : t + 1], y[t : t + 1], 5) for t in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)


def test_float32_is_as_near_as_it_can_be() -> None:
    learner, e = made(), random_episode([3, 2, 3], 4, 2)
    exact = learner.predict(e.support, e.query_x)
    low = Support(e.support.x.float(), e.support.y, 3)
    torch.testing.assert_close(
        learner.float().predict(low, e.query_x.float()), exact.float(), rtol=1e-4, atol=1e-5
    )


def test_what_is_not_finite_is_seen_in_the_loss() -> None:
    """And not by an error of the solver, so that training can say which step it was."""
    e = random_episode([2, 1], 3, dtype=torch.float32)
    e.support.x[0, 0] = torch.nan
    assert MetaOptNet(nn.Flatten())(e).isnan()


def test_autocast_lowers_the_encoder_only() -> None:
    torch.manual_seed(5)
    learner = MetaOptNet(small_encoder().float())
    e = random_episode([2, 3, 1], 5, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores, loss = learner.predict(e.support, e.query_x), learner(e)
        z = learner.encoder(torch.cat([e.support.x, e.query_x], 1).flatten(0, 1))
    assert scores.dtype == loss.dtype == torch.float32
    z = z.float().unflatten(0, (2, -1))
    exact = MetaOptNet(nn.Flatten()).predict(Support(z[:, :6], e.support.y, 3), z[:, 6:])
    torch.testing.assert_close(scores, exact, rtol=1e-6, atol=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in learner.parameters())


def test_a_checkpoint_builds_it_again() -> None:
    learner = MetaOptNet(Conv4(1, 4), cost=0.5, ridge=0.2, scale=2.0)
    plan = json.loads(json.dumps(blueprint(learner)))
    again = rebuilt(plan, {"MetaOptNet": MetaOptNet, "Conv4": Conv4}.__getitem__)
    assert blueprint(again) == plan
    assert (again.cost, again.ridge, again.scale.item()) == (0.5, 0.2, 2.0)
    again.load_state_dict(learner.state_dict())


def test_what_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cost is 0.0 and ridge 1.0: both must be positive"):
        MetaOptNet(nn.Flatten(), cost=0.0)
    with pytest.raises(ValueError, match=r"cost is 0.1 and ridge -1.0: both must be positive"):
        MetaOptNet(nn.Flatten(), ridge=-1.0)
