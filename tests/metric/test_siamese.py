"""Siamese networks against the papers' equations."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.metric.distances import cosine_distance, euclidean_distance
from quickstudy.metric.pairs import draw_pairs
from quickstudy.metric.siamese import Siamese, WeightedL1, contrastive_loss, cross_entropy
from tests.metric.oracle_siamese import balanced, hadsell_energy, hadsell_loss, koch_probability
from tests.support.episodes import ITEM, of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([2, 1], 2, 1, id="smallest"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(
        pytest.param([2, *sizes[0]], *sizes[1:], id=f"random{s}")
        for s in range(4)
        for sizes in [random_sizes(s)]
    ),
]


def by_energy(margin: float, a: Tensor, b: Tensor, genuine: bool) -> Tensor:
    return hadsell_loss(hadsell_energy(a, b), genuine, margin)


def by_probability(head: WeightedL1, a: Tensor, b: Tensor, genuine: bool) -> Tensor:
    p = koch_probability(head.weight, head.bias, a, b)
    return -torch.log(p if genuine else 1 - p)


def same_as(learner: Siamese, e: Episode, pair_loss: partial[Tensor]) -> None:
    losses = []
    for t in range(e.tasks):
        items = [of_one(learner.encoder, x) for x in (*e.support.x[t], *e.query_x[t])]
        losses.append(balanced(items, [*e.support.y[t].tolist(), *e.query_y[t].tolist()], pair_loss))
    loss = sum(losses[1:], losses[0]) / len(losses)
    torch.testing.assert_close(learner(e), loss, rtol=1e-9, atol=1e-9)
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(learner(e), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(loss, parameters), rtol=1e-7, atol=1e-8)
    assert any(g.abs().max() > 1e-4 for g in ours)


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_contrastive_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    torch.manual_seed(1)
    learner = Siamese(small_encoder(), loss=partial(contrastive_loss, margin=0.7))
    same_as(learner, random_episode(shots, queries, tasks, seed=queries), partial(by_energy, 0.7))


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_kochs_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    torch.manual_seed(2)
    head = WeightedL1(4).double()
    nn.init.uniform_(head.weight, -1, 1)  # of both signs
    learner = Siamese(small_encoder(), head, cross_entropy)
    same_as(learner, random_episode(shots, queries, tasks, seed=queries), partial(by_probability, head))


def test_vectors_of_the_contrastive_loss() -> None:
    """Y = 1 is genuine, the hinge is squared, no factor ½."""
    energy = torch.tensor([0.5, 0.5, 2.0, 2.0, 0.0])
    genuine = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    each = [contrastive_loss(e, g).item() for e, g in zip(energy.split(1), genuine.split(1), strict=True)]
    assert each == [0.25, 0.25, 4.0, 0.0, 1.0]
    assert contrastive_loss(energy, genuine).item() == pytest.approx(5.5 / 5)
    assert contrastive_loss(energy, genuine, margin=3).item() == pytest.approx((0.25 + 6.25 + 4 + 1 + 9) / 5)


def test_genuine_and_impostor_pairs_count_half_each() -> None:
    """One genuine pair at energy 1 among 14 impostor pairs at more than the margin: its loss is not 1/15."""
    x = torch.zeros(1, 5, 5)
    x[0, torch.arange(5), torch.arange(5)] = 10
    query = x[:, :1].clone()
    query[0, 0, 1] = 1
    e = Episode(Support(x, torch.arange(5).unsqueeze(0), 5), query, torch.zeros(1, 1, dtype=torch.int64))
    assert Siamese(nn.Flatten())(e).item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("energy", [euclidean_distance, cosine_distance])
def test_the_class_of_least_energy_wins(energy) -> None:
    torch.manual_seed(3)
    e = random_episode([1, 1, 1], 6, 2)
    learner = Siamese(small_encoder(), energy)
    z = learner.encoder(torch.cat([e.support.x, e.query_x], 1).flatten(0, 1)).unflatten(0, (2, -1))
    s, q = z[:, :3], z[:, 3:]
    scores = learner.predict(e.support, e.query_x)
    for t in range(2):
        for j in range(6):
            for i in range(3):
                a, b = q[t, j], s[t, i]
                expected = (
                    (a - b).norm() if energy is euclidean_distance else 1 - (a @ b) / a.norm() / b.norm()
                )
                assert scores[t, j, e.support.y[t, i]].item() == pytest.approx(-expected.item(), abs=1e-6)


def test_how_several_items_of_a_class_are_pooled() -> None:
    x = torch.tensor([[[0.0], [4.0], [9.0]]])
    support, query = Support(x, torch.tensor([[0, 0, 1]]), 2), torch.tensor([[[1.0]]])
    expected = {"prototype": [-1.0, -8.0], "mean": [-2.0, -8.0], "nearest": [-1.0, -8.0]}
    for pooling, scores in expected.items():
        learner = Siamese(nn.Flatten(), pooling=pooling)
        assert learner.predict(support, query)[0, 0].tolist() == pytest.approx(scores, abs=1e-5)
    far = torch.tensor([[[2.0]]])
    assert Siamese(nn.Flatten()).predict(support, far)[0, 0, 0].item() == pytest.approx(0, abs=1e-5)
    assert Siamese(nn.Flatten(), pooling="nearest").predict(support, far)[0, 0, 0].item() == pytest.approx(-2)


def test_a_pair_of_equal_items_has_a_finite_gradient() -> None:
    x = torch.ones(1, 2, 3, requires_grad=True)
    euclidean_distance(x, x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert math.isclose(euclidean_distance(x, x).max().item(), 0, abs_tol=1e-5)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="pooling is 'median'"):
        Siamese(small_encoder(), pooling="median")  # pyright: ignore[reportArgumentType]
    e = random_episode([1, 1, 1], 1)
    lone = Episode(e.support, e.query_x[:, :0], e.query_y[:, :0])
    with pytest.raises(ValueError, match="no genuine pair: ask for more shots or queries"):
        Siamese(small_encoder())(lone)


# Pairs


def test_all_pairs_of_a_task() -> None:
    torch.manual_seed(4)
    e = random_episode([2, 1, 1], 3, 2)
    learner = Siamese(small_encoder())
    energies, genuine = learner.pairs(e)
    assert energies.shape == genuine.shape == (2, 7 * 6 // 2)
    for t in range(2):
        z = [of_one(learner.encoder, x) for x in (*e.support.x[t], *e.query_x[t])]
        y = [*e.support.y[t].tolist(), *e.query_y[t].tolist()]
        both = [(i, j) for i in range(7) for j in range(i + 1, 7)]
        expected = torch.stack([hadsell_energy(z[i], z[j]) for i, j in both])
        torch.testing.assert_close(energies[t], expected, rtol=1e-9, atol=1e-9)
        assert genuine[t].tolist() == [y[i] == y[j] for i, j in both]


def test_drawn_pairs_are_balanced_different_and_of_the_task() -> None:
    e = random_episode([3, 2, 2], 5, 3)
    x1, x2, y = draw_pairs(e, 10, seed=7)
    assert x1.shape == x2.shape == (3, 10, *ITEM)
    assert (y.shape, y.dtype) == ((3, 10), e.query_x.dtype)
    for t in range(3):
        label = {
            tuple(x.flatten().tolist()): int(k) for x, k in zip(e.support.x[t], e.support.y[t], strict=True)
        }
        label |= {
            tuple(x.flatten().tolist()): int(k) for x, k in zip(e.query_x[t], e.query_y[t], strict=True)
        }
        drawn = [
            (tuple(a.flatten().tolist()), tuple(b.flatten().tolist()))
            for a, b in zip(x1[t], x2[t], strict=True)
        ]
        assert all(a != b for a, b in drawn)
        assert len({frozenset(pair) for pair in drawn}) == 10, "none twice"
        assert y[t].tolist() == [float(label[a] == label[b]) for a, b in drawn]
        assert y[t].sum() == 5
    assert not torch.equal(y[0], y[1]), "in random order"
    for a, b in zip(draw_pairs(e, 10, seed=7), (x1, x2, y), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(draw_pairs(e, 10, seed=8)[0], x1)


def test_the_mean_over_draws_is_the_meta_loss() -> None:
    torch.manual_seed(5)
    e = random_episode([2, 2], 2)
    learner = Siamese(small_encoder())
    losses = []
    for seed in range(300):
        x1, x2, y = (part.flatten(0, 1) for part in draw_pairs(e, 2, seed))
        losses.append(contrastive_loss((learner.encoder(x1) - learner.encoder(x2)).norm(dim=1), y).item())
    error = torch.tensor(losses).std().item() / 300**0.5
    assert sum(losses) / 300 == pytest.approx(learner(e).item(), abs=4 * error)


@pytest.mark.parametrize("count", [0, 3, -2])
def test_an_odd_or_empty_draw_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}: it must be even"):
        draw_pairs(random_episode([2, 2], 2), count)


def test_more_pairs_than_there_are() -> None:
    e = random_episode([1, 1, 1], 1)
    with pytest.raises(
        ValueError, match="1 genuine and 5 impostor pairs, not 2 of each: ask for at most 1 of each"
    ):
        draw_pairs(e, 4)
    assert draw_pairs(e, 2)[2].sum() == 1
