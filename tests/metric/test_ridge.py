"""R2-D2 against the paper's equations, solved in the primal, and against what must not change an answer."""

import json
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.core.episode import Episode, Support
from quickstudy.encoders import Conv4
from quickstudy.metric import R2D2
from quickstudy.metric.ridge import ridge_regression
from tests.metric.oracle_ridge import bertinetto
from tests.support.episodes import of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([1, 1, 1, 1, 1], 5, 3, id="one-shot"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]
EPISODES = st.builds(
    random_episode,
    st.lists(st.integers(1, 3), min_size=2, max_size=4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 1000),
)


def made(seed: int = 1) -> R2D2:
    """In float64, with λ, α and β that are not their first values."""
    torch.manual_seed(seed)
    learner = R2D2(small_encoder(), penalty=0.3, scale=4.0, learn_penalty=True).double()
    with torch.no_grad():
        learner.bias.fill_(0.7)
    return learner


def oracle(learner: R2D2, e: Episode) -> tuple[Tensor, Tensor]:
    return bertinetto(
        partial(of_one, learner.encoder),
        e.support.x, e.support.y, e.support.ways, e.query_x, e.query_y,
        learner.log_penalty.exp(), learner.scale, learner.bias,
    )  # fmt: skip


same = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    learner = made()
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    scores, loss = oracle(learner, e)
    same(learner.predict(e.support, e.query_x), scores)
    same(learner(e), loss)
    parameters = list(learner.parameters())
    theirs = torch.autograd.grad(loss, parameters, retain_graph=True)
    same(torch.autograd.grad(learner(e), parameters), theirs)
    weights = torch.randn(scores.shape, dtype=torch.float64)  # of the scores themselves, so that β counts
    ours = torch.autograd.grad((weights * learner.predict(e.support, e.query_x)).sum(), parameters)
    same(ours, torch.autograd.grad((weights * scores).sum(), parameters))
    assert all(g.abs().max() > 1e-5 for g in ours)


def test_gradients_are_the_finite_differences_of_the_papers_loss() -> None:
    learner, e, step = made(2), random_episode([2, 1, 3], 4, 2), 1e-5
    learner(e).backward()
    for parameter in learner.parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for i in {0, len(flat) // 2, len(flat) - 1}:
            start = flat[i].item()
            losses = []
            for shifted in (start + step, start - step):
                flat[i] = shifted
                losses.append(oracle(learner, e)[1].item())
            flat[i] = start
            assert gradient[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize(("items", "dimensions"), [(3, 5), (6, 2)])
def test_gradients_flow_through_the_solve(items: int, dimensions: int) -> None:
    """First and second derivatives, with fewer and with more items than dimensions."""
    torch.manual_seed(3)
    x, y = torch.randn(2, items, dimensions).double(), torch.randn(2, items, 3).double()
    inputs = tuple(v.requires_grad_() for v in (x, y, torch.tensor(0.5).double()))
    assert torch.autograd.gradcheck(ridge_regression, inputs)
    assert torch.autograd.gradgradcheck(ridge_regression, inputs)


@given(EPISODES, st.integers(0, 1000))
def test_the_order_of_items_and_tasks_makes_no_difference(e: Episode, seed: int) -> None:
    learner, rng = made(), torch.Generator().manual_seed(seed)
    tasks, items, queries = (
        torch.randperm(n, generator=rng) for n in (*e.support.x.shape[:2], e.query_x.shape[1])
    )
    support = Support(e.support.x[tasks][:, items], e.support.y[tasks][:, items], e.ways)
    expected = learner.predict(e.support, e.query_x)[tasks][:, queries]
    same(learner.predict(support, e.query_x[tasks][:, queries]), expected)


@given(EPISODES, st.integers(0, 1000))
def test_relabelling_the_classes_relabels_the_scores(e: Episode, seed: int) -> None:
    learner = made()
    new_name = torch.randperm(e.ways, generator=torch.Generator().manual_seed(seed))
    renamed = Support(e.support.x, new_name[e.support.y], e.ways)
    same(learner.predict(renamed, e.query_x)[..., new_name], learner.predict(e.support, e.query_x))


@given(EPISODES)
def test_the_loss_of_several_tasks_is_the_mean_of_theirs(e: Episode) -> None:
    learner = made()
    losses = [learner(e[t : t + 1]) for t in range(len(e.query_x))]
    same(learner(e), torch.stack(losses).mean())


def test_by_hand() -> None:
    """Two items [1, 0] and [0, 1], λ = 1: the weights of a class are [4, −1, 3] / 15, the 3 of the ones."""
    x = torch.eye(2).unsqueeze(0)
    learner = R2D2(nn.Flatten(), penalty=1.0, scale=3.0)
    scores = learner.predict(Support(x, torch.tensor([[0, 1]]), 2), torch.tensor([[[2.0, 0.0]]]))
    assert scores.flatten().tolist() == pytest.approx([3 * 11 / 15, 3 * 1 / 15])


def test_the_bias_changes_no_probability_and_gets_no_gradient() -> None:
    learner, e = made(), random_episode([2, 1], 3)
    learner(e).backward()
    assert learner.bias.grad is not None
    assert learner.bias.grad.abs() < 1e-12


def test_the_smaller_of_the_two_systems_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many unknowns as items or, where these are more, as dimensions with the column of ones."""
    sizes: list[int] = []
    solve = torch.linalg.solve_ex

    def seen(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(a.shape[-1])
        return solve(a, b)

    monkeypatch.setattr(torch.linalg, "solve_ex", seen)
    for shots in ([1, 1], [2, 3], [3, 3], [9, 9]):  # D + 1 is 5
        made()(random_episode(shots, 2))
    assert sizes == [2, 5, 5, 5]


def test_the_penalty_is_learned_only_if_asked_for() -> None:
    fixed = R2D2(nn.Flatten())
    assert {name for name, _ in fixed.named_parameters()} == {"scale", "bias"}
    assert fixed.log_penalty.exp().item() == pytest.approx(50)
    assert R2D2(nn.Flatten(), learn_penalty=True).state_dict().keys() == fixed.state_dict().keys()


def test_a_great_penalty_leaves_nothing_and_more_shots_make_it_smaller() -> None:
    """A class of n items at one place, along an axis of its own: the weight is n / (n + λ)."""
    for shots, penalty in ((1, 1.0), (5, 1.0), (1, 1e9)):
        x = torch.eye(2).repeat_interleave(shots, 0).unsqueeze(0)
        w = ridge_regression(x, x, torch.tensor(penalty))
        torch.testing.assert_close(w[0], torch.eye(2) * shots / (shots + penalty))


@pytest.mark.parametrize("dimensions", [4, 8])
def test_items_that_are_nearly_equal_and_large_keep_the_answer(dimensions: int) -> None:
    """In float32 λ would be lost beside the 10⁸ of XXᵀ."""
    torch.manual_seed(4)
    x, y = 1e4 + torch.randn(1, 6, dimensions), torch.eye(3).repeat(2, 1).unsqueeze(0)
    exact = x.double()
    expected = torch.linalg.inv(exact.mT @ exact + torch.eye(dimensions)) @ exact.mT @ y.double()
    torch.testing.assert_close(
        ridge_regression(x, y, torch.tensor(1.0)), expected.float(), rtol=1e-4, atol=1e-5
    )


def test_what_is_not_finite_is_seen_in_the_loss() -> None:
    """And not by an error of the solver, so that training can say which step it was."""
    e = random_episode([2, 1], 3, dtype=torch.float32)
    e.support.x[0, 0] = torch.nan
    assert R2D2(nn.Flatten())(e).isnan()


def test_autocast_lowers_the_encoder_only() -> None:
    torch.manual_seed(5)
    learner = R2D2(small_encoder().float())
    e = random_episode([2, 3, 1], 5, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores, loss = learner.predict(e.support, e.query_x), learner(e)
        z = learner.encoder(torch.cat([e.support.x, e.query_x], 1).flatten(0, 1))
    assert z.dtype == torch.bfloat16
    assert scores.dtype == loss.dtype == torch.float32
    z = z.float().unflatten(0, (2, -1))
    embedded = Episode(Support(z[:, :6], e.support.y, 3), z[:, 6:], e.query_y)
    exact = R2D2(nn.Flatten()).predict(embedded.support, embedded.query_x)
    torch.testing.assert_close(scores, exact, rtol=1e-6, atol=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in learner.parameters())


def test_a_checkpoint_builds_it_again() -> None:
    learner = R2D2(Conv4(1, 4), penalty=0.5, scale=2.0, learn_penalty=True)
    plan = json.loads(json.dumps(blueprint(learner)))
    again = rebuilt(plan, {"R2D2": R2D2, "Conv4": Conv4}.__getitem__)
    assert blueprint(again) == plan
    assert again.log_penalty.exp().item() == pytest.approx(0.5)
    assert again.scale.item() == 2.0
    again.load_state_dict(learner.state_dict())


def test_a_penalty_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="penalty is 0: it must be positive"):
        R2D2(nn.Flatten(), penalty=0)
