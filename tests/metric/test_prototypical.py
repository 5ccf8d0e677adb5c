"""Prototypical networks against the paper's equations and against what must not change an answer."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.metric.distances import prototypes, squared_distances
from quickstudy.metric.prototypical import Prototypical
from tests.metric.oracle_prototypical import snell
from tests.support.episodes import ITEM, of_one, random_episode, random_sizes, small_encoder


def oracle(encoder: nn.Module, e: Episode) -> tuple[Tensor, Tensor, Tensor]:
    return snell(
        partial(of_one, encoder),
        e.support.x, e.support.y, e.support.ways, e.query_x, e.query_y,
    )  # fmt: skip


CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([1, 1, 1, 1, 1], 5, 3, id="one-shot"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(6)),
]


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    torch.manual_seed(1)
    learner = Prototypical(small_encoder())
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    distances, log_probabilities, loss = oracle(learner.encoder, e)
    scores = learner.predict(e.support, e.query_x)
    assert scores.shape == (tasks, queries, len(shots))
    torch.testing.assert_close(scores, -distances, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scores.log_softmax(-1), log_probabilities, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(learner(e), loss, rtol=1e-10, atol=1e-10)
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(learner(e), parameters)
    theirs = torch.autograd.grad(loss, parameters)
    assert any(g.abs().max() > 1e-3 for g in ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_are_the_finite_differences_of_the_papers_loss() -> None:
    torch.manual_seed(2)
    learner = Prototypical(small_encoder())
    e = random_episode([2, 1, 3], 4, 2)
    learner(e).backward()
    step = 1e-5
    for parameter in learner.parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for i in (0, len(flat) // 2, len(flat) - 1):
            start = flat[i].item()
            losses = []
            for shifted in (start + step, start - step):
                flat[i] = shifted
                losses.append(oracle(learner.encoder, e)[2].item())
            flat[i] = start
            assert gradient[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


def test_ways_at_test_may_differ_from_ways_in_training() -> None:
    torch.manual_seed(3)
    learner = Prototypical(small_encoder())
    optimizer = torch.optim.SGD(learner.parameters(), 0.01)
    before = learner.encoder[1].weight.detach().clone()
    for seed in range(3):
        optimizer.zero_grad()
        learner(random_episode([1, 2, 1], 4, 2, seed)).backward()
        optimizer.step()
    assert not torch.equal(before, learner.encoder[1].weight)
    learner.eval()
    e = random_episode([2, 1, 1, 3, 1, 2, 1], 3)
    distances, _, loss = oracle(learner.encoder, e)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), -distances, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(learner(e), loss, rtol=1e-10, atol=1e-10)


def test_the_order_of_the_support_does_not_matter() -> None:
    learner = Prototypical(small_encoder())
    e = random_episode([3, 1, 2], 4, 2)
    s = e.support
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    shuffled = Support(s.x[:, order], s.y[:, order], s.ways)
    assert not torch.equal(s.y, shuffled.y)
    torch.testing.assert_close(
        learner.predict(shuffled, e.query_x), learner.predict(s, e.query_x), rtol=1e-12, atol=1e-12
    )


def test_renaming_the_classes_permutes_the_scores() -> None:
    learner = Prototypical(small_encoder())
    e = random_episode([3, 1, 2, 1], 5, 2)
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = Support(e.support.x, new_name[e.support.y], 4)
    torch.testing.assert_close(
        learner.predict(renamed, e.query_x)[..., new_name],
        learner.predict(e.support, e.query_x),
        rtol=1e-12, atol=1e-12,
    )  # fmt: skip


def test_the_distance_is_squared_and_summed() -> None:
    """3-4-5 triangle: unsquared it would be 5, averaged over dimensions 12.5."""
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    scores = Prototypical(nn.Flatten()).predict(Support(x, torch.tensor([[0, 1]]), 2), x[:, :1])
    assert scores.tolist() == [[[0.0, -25.0]]]


def test_a_prototype_is_the_mean_of_its_own_items_only() -> None:
    z = torch.tensor([[[1.0], [10.0], [3.0], [8.0]]])
    assert prototypes(z, torch.tensor([[0, 1, 0, 0]]), 2).tolist() == [[[4.0], [10.0]]]


def test_embeddings_far_out_keep_the_answer() -> None:
    """‖a‖² + ‖b‖² − 2 a·b without moving the origin is off by about 50 here.

    All numbers are multiples of 1/64, so that moving them loses nothing of them.
    """
    rng = torch.Generator().manual_seed(0)
    y = torch.tensor([[0, 1, 1, 2, 2, 2, 2, 3]] * 2)
    x = torch.randint(-64, 65, (2, 8, 16), generator=rng).float() / 64
    query_x = torch.randint(-64, 65, (2, 5, 16), generator=rng).float() / 64
    query_y = torch.randint(4, (2, 5), generator=rng)
    learner = Prototypical(nn.Flatten())
    near_x, far_x = query_x.clone().requires_grad_(), (query_x + 1e4).requires_grad_()
    near, far = Support(x, y, 4), Support(x + 1e4, y, 4)
    torch.testing.assert_close(
        learner.predict(far, far_x), learner.predict(near, near_x), rtol=1e-5, atol=1e-3
    )
    learner(Episode(near, near_x, query_y)).backward()
    learner(Episode(far, far_x, query_y)).backward()
    torch.testing.assert_close(far_x.grad, near_x.grad, rtol=1e-4, atol=1e-5)


def test_distances_are_never_negative() -> None:
    rng = torch.Generator().manual_seed(0)
    b = torch.randn(3, 4, 64, generator=rng) * 100
    a = b[:, [0, 1, 2, 3, 0]] + 1e-4 * torch.randn(3, 5, 64, generator=rng)
    assert squared_distances(a, b).min() >= 0


def test_identical_items_give_finite_scores_and_gradients() -> None:
    """An unsquared distance would have an infinite derivative here."""
    learner = Prototypical(small_encoder())
    x = torch.ones(2, 3, *ITEM, dtype=torch.float64)
    e = Episode(Support(x, torch.tensor([[0, 1, 2]] * 2), 3), x.clone(), torch.tensor([[0, 1, 2]] * 2))
    assert learner.predict(e.support, e.query_x).abs().max() < 1e-12
    loss = learner(e)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(3.0, dtype=torch.float64)).item())
    loss.backward()
    for parameter in learner.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_autocast_lowers_the_encoder_only() -> None:
    torch.manual_seed(4)
    learner = Prototypical(small_encoder().float())
    e = random_episode([2, 3, 1], 5, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores, loss = learner.predict(e.support, e.query_x), learner(e)
        z = learner.encoder(torch.cat([e.support.x, e.query_x], 1).flatten(0, 1))
    assert z.dtype == torch.bfloat16
    assert scores.dtype == loss.dtype == torch.float32
    z = z.double().unflatten(0, (2, -1))
    centres = torch.stack([
        torch.stack([z[t, :6][e.support.y[t] == k].mean(0) for k in range(3)]) for t in range(2)
    ])  # fmt: skip
    exact = -torch.cdist(z[:, 6:], centres, compute_mode="donot_use_mm_for_euclid_dist").square()
    # bfloat16 arithmetic after the encoder would be off by up to a percent
    torch.testing.assert_close(scores, exact.float(), rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in learner.parameters())


def test_a_bfloat16_encoder_gives_float32_scores() -> None:
    learner = Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).bfloat16())
    e = random_episode([1, 1], 2, dtype=torch.bfloat16)
    assert learner.predict(e.support, e.query_x).dtype == torch.float32


ENCODERS = {
    "flatten": nn.Flatten,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4)),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Dropout(0.5)),
    "batch-norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("tasks", [1, 2])
def test_any_encoder_does(name: str, tasks: int) -> None:
    torch.manual_seed(5)
    learner = Prototypical(ENCODERS[name]())
    e = random_episode([2, 1, 1], 3, tasks, dtype=torch.float32)
    for training in (True, False):
        learner.train(training)
        scores = learner.predict(e.support, e.query_x)
        assert scores.shape == (tasks, 3, 3)
        assert scores.isfinite().all()
        assert learner(e).isfinite()


@pytest.mark.parametrize("name", [n for n in ENCODERS if n != "flatten"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_any_encoder_trains(name: str, tasks: int) -> None:
    torch.manual_seed(6)
    learner = Prototypical(ENCODERS[name]())
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    e = random_episode([2, 2, 2], 6, tasks, dtype=torch.float32)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = learner(e)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_an_unflattened_encoder_is_told_what_to_do() -> None:
    learner = Prototypical(nn.Conv2d(1, 3, 1))
    x = torch.zeros(1, 2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\[B, D\].*nn\.Flatten\(\)"):
        learner.predict(Support(x, torch.tensor([[0, 1]]), 2), x)
