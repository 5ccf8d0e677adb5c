"""Gaussian prototypical networks against the paper's equations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quickstudy.core.episode import Support
from quickstudy.data.datasets.glyphs import glyphs
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.metric import gaussian
from quickstudy.metric.gaussian import GaussianPrototypical, Gaussians, LearnedSoftplus, gaussian_encoder
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes.weights import load_learner
from tests.metric.oracle_gaussian import fort
from tests.support.episodes import of_one, random_episode, random_sizes

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]
WAYS = {
    "softplus": (gaussian.one_plus_softplus, lambda v: 1 + (1 + v.exp()).log()),
    "sigmoid": (gaussian.one_plus_sigmoid, lambda v: 1 + 1 / (1 + (-v).exp())),
    "four-sigmoids": (gaussian.one_plus_four_sigmoids, lambda v: 1 + 4 / (1 + (-v).exp())),
}


def encoder_of(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("covariance", "outputs"), [("radius", 5), ("diagonal", 8)])
@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(
    shots: list[int], queries: int, tasks: int, covariance: gaussian.Covariance, outputs: int, way: str
) -> None:
    torch.manual_seed(1)
    ours, literal = WAYS[way]
    learner = GaussianPrototypical(encoder_of(outputs), covariance, ours)
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    distances = []
    for t in range(tasks):
        z = [of_one(learner.encoder, item) for item in e.support.x[t]]
        x, s = [v[:4] for v in z], [literal(v[4:]) for v in z]
        rows = [
            fort(x, s, e.support.y[t].tolist(), e.ways, of_one(learner.encoder, q)[:4]) for q in e.query_x[t]
        ]
        distances.append(torch.stack([torch.stack(row) for row in rows]))
    expected = torch.stack(distances)
    torch.testing.assert_close(-learner.predict(e.support, e.query_x), expected, rtol=1e-9, atol=1e-9)
    loss = (
        expected.exp().reciprocal().sum(-1).log() + expected.gather(2, e.query_y[..., None])[..., 0]
    ).mean()
    torch.testing.assert_close(learner(e), loss, rtol=1e-9, atol=1e-9)
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(learner(e), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(loss, parameters), rtol=1e-7, atol=1e-9)
    assert all(g.abs().max() > 1e-5 for g in gradients)


def test_the_fourth_way_is_learned_and_begins_as_the_first() -> None:
    torch.manual_seed(2)
    learner = GaussianPrototypical(encoder_of(5), inverse_variance=LearnedSoftplus().double())
    first = GaussianPrototypical(learner.encoder)
    e = random_episode([2, 1, 3], 4, 2)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), first.predict(e.support, e.query_x))
    learner(e).backward()
    assert all(p.grad is not None and p.grad.abs() > 1e-6 for p in learner.inverse_variance.parameters())
    with torch.no_grad():
        for p, value in zip(learner.inverse_variance.parameters(), (0.5, 2.0, 4.0), strict=True):
            p.copy_(value)
    v = torch.tensor([-1.0, 0.0, 3.0]).double()
    torch.testing.assert_close(learner.inverse_variance(v), 0.5 + 2 * F.softplus(v / 4))


def test_where_all_are_equally_sure_the_prototypes_are_the_means() -> None:
    torch.manual_seed(3)
    e = random_episode([2, 3, 1], 4, 2)
    encoder = encoder_of(5)
    learner = GaussianPrototypical(encoder, inverse_variance=torch.ones_like)
    plain = Prototypical(nn.Sequential(encoder, nn.Unflatten(1, (1, 5)), First()))
    shots = torch.tensor([2.0, 3.0, 1.0])
    scores = learner.predict(e.support, e.query_x).square() / shots
    torch.testing.assert_close(scores, -plain.predict(e.support, e.query_x), check_dtype=False)


class First(nn.Module):
    """All numbers of an embedding but the last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, :-1]


def test_an_unsure_item_moves_its_prototype_less_and_an_unsure_class_is_wider() -> None:
    """By hand: items 0 and 4 with s = 3 and 1 → p = 1, S = 4; the distance of 2 is √(4 · 1²)."""
    x, s = torch.tensor([[[0.0], [4.0], [6.0]]]), torch.tensor([[[3.0], [1.0], [0.25]]])
    classes = gaussian.gaussians(x, s, torch.tensor([[0, 0, 1]]), 2)
    assert classes.mean.flatten().tolist() == [1.0, 6.0]
    assert classes.inverse_variance.flatten().tolist() == [4.0, 0.25]
    d = gaussian.distances(torch.tensor([[[2.0]]]), classes)
    assert d.flatten().tolist() == pytest.approx([2.0, 2.0])


def test_the_querys_variance_plays_no_part() -> None:
    e = random_episode([1, 2], 2)
    learner = GaussianPrototypical(nn.Flatten())
    other = e.query_x.clone()
    other[..., -1, -1] += 3  # the last number of an item is its variance
    torch.testing.assert_close(learner.predict(e.support, other), learner.predict(e.support, e.query_x))


def test_equal_items_and_items_far_out_have_finite_scores_and_gradients() -> None:
    for offset in (0.0, 1e4):
        x = torch.full((1, 4, 5), offset, requires_grad=True)
        support = Support(x[:, :2], torch.tensor([[0, 1]]), 2)
        scores = GaussianPrototypical(nn.Flatten()).predict(support, x[:, 2:])
        assert scores.abs().max() < 1e-2
        scores.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_distances_do_not_cancel_far_out() -> None:
    x, q = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[[0.0, 0.0]]])
    classes = Gaussians(x + 4096, torch.ones(1, 2, 1))
    assert gaussian.distances(q + 4096, classes).flatten().tolist() == pytest.approx([0, 5], abs=1e-5)


def test_the_papers_encoder_fits_both_kinds() -> None:
    x = torch.rand(3, 1, 28, 28)
    assert gaussian_encoder()(x).shape == (3, 65)
    assert gaussian_encoder(outputs=128)(x).shape == (3, 128)
    assert gaussian_encoder(outputs=128)(x).min() < 0


@pytest.mark.slow
def test_the_shipped_network_is_not_equally_sure_of_everything() -> None:
    """With ReLU before batch norm the filter that tells the variance died, and s was the same for all."""
    learner, _ = load_learner("gaussian-omniglot")
    assert isinstance(learner, GaussianPrototypical)
    letters = Episodes(glyphs().split("test"), Setting(20, 1, 1))[0].support.x
    noise = torch.randn(letters.shape, generator=torch.Generator().manual_seed(0)).abs()
    with torch.no_grad():
        sureness = learner.embed(letters)[1]
        noisy = learner.embed((letters + 0.5 * noise).clamp(0, 1))[1]
    assert sureness.std() / sureness.mean() > 0.02
    assert noisy.mean() < 0.7 * sureness.mean()


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="covariance is 'full'"):
        GaussianPrototypical(encoder_of(5), "full")  # pyright: ignore[reportArgumentType]
    e = random_episode([1, 1], 2)
    with pytest.raises(ValueError, match=r"gives 5 numbers an item: diagonal takes an even number"):
        GaussianPrototypical(encoder_of(5), "diagonal").predict(e.support, e.query_x)
    with pytest.raises(ValueError, match=r"gives 1 numbers an item: radius takes D \+ 1, at least 2"):
        GaussianPrototypical(encoder_of(1)).predict(e.support, e.query_x)
