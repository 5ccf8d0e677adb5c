"""What every learner of a metric must do, whatever its equations."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import Learner
from quickstudy.metric.distances import cosine_distance
from quickstudy.metric.feat import FEAT
from quickstudy.metric.gaussian import GaussianPrototypical
from quickstudy.metric.matching import FullContext, Matching
from quickstudy.metric.meta_baseline import MetaBaseline
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation
from quickstudy.metric.ridge import R2D2
from quickstudy.metric.siamese import Siamese, WeightedL1, cross_entropy
from quickstudy.metric.supervised_contrastive import SupervisedContrastive
from quickstudy.metric.svm import MetaOptNet
from tests.support.episodes import ITEM, assert_finite, random_episode


def linear(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, outputs))


def relation(**options: str) -> Relation:
    return Relation(linear(32), Comparison(4, 2, 5), **options)


LEARNERS: dict[str, Callable[[], Learner]] = {
    "prototypical": lambda: Prototypical(linear(4)),
    "gaussian-radius": lambda: GaussianPrototypical(linear(5)),
    "gaussian-diagonal": lambda: GaussianPrototypical(linear(8), "diagonal"),
    "matching": lambda: Matching(linear(4)),
    "matching-fce": lambda: Matching(linear(4), FullContext(4)),
    "relation": relation,
    "relation-cross-entropy": partial(relation, loss="cross-entropy", pooling="mean"),
    "siamese": lambda: Siamese(linear(4)),
    "siamese-cosine": lambda: Siamese(linear(4), cosine_distance, pooling="mean"),
    "siamese-nearest": lambda: Siamese(linear(4), pooling="nearest"),
    "supervised-contrastive": lambda: SupervisedContrastive(linear(4)),
    "siamese-koch": lambda: Siamese(linear(4), WeightedL1(4), cross_entropy),
    "r2d2": lambda: R2D2(linear(4), penalty=0.1),
    "metaoptnet": lambda: MetaOptNet(linear(4)),
    "feat": lambda: FEAT(linear(4), 4, 1.0, 1.0, balance=0.1, dropout=0.1),
    "meta-baseline": lambda: MetaBaseline(linear(4)),
}
of_all = pytest.mark.parametrize("name", LEARNERS)


def made(name: str, training: bool = False) -> Learner:
    torch.manual_seed(1)
    return LEARNERS[name]().train(training)


@of_all
def test_the_order_of_the_support_does_not_matter(name: str) -> None:
    if name == "matching-fce":
        pytest.skip("full-context embeddings depend on it, as test_matching shows")
    learner, e = made(name), random_episode([3, 1, 2], 4, 2, dtype=torch.float32)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    shuffled = Support(e.support.x[:, order], e.support.y[:, order], 3)
    torch.testing.assert_close(learner.predict(shuffled, e.query_x), learner.predict(e.support, e.query_x))


@of_all
def test_renaming_the_classes_permutes_the_scores(name: str) -> None:
    learner, e = made(name), random_episode([3, 1, 2, 1], 5, 2, dtype=torch.float32)
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = Support(e.support.x, new_name[e.support.y], 4)
    torch.testing.assert_close(
        learner.predict(renamed, e.query_x)[..., new_name], learner.predict(e.support, e.query_x)
    )


@of_all
def test_the_loss_of_several_tasks_is_the_mean_of_theirs(name: str) -> None:
    learner, e = made(name), random_episode([3, 1, 2], 4, 3, dtype=torch.float32)
    each = [learner(e[t : t + 1]) for t in range(3)]
    torch.testing.assert_close(learner(e), sum(each) / 3)


@of_all
def test_ways_and_shots_at_test_may_differ_from_those_in_training(name: str) -> None:
    learner = made(name, training=True)
    optimizer = torch.optim.SGD(learner.parameters(), 0.01)
    for seed in range(3):
        optimizer.zero_grad()
        learner(random_episode([2, 2, 2], 4, 2, seed, torch.float32)).backward()
        optimizer.step()
    learner.eval()
    e = random_episode([2, 1, 1, 3, 1, 2, 1], 3, dtype=torch.float32)
    assert learner.predict(e.support, e.query_x).shape == (1, 3, 7)
    assert learner.predict(e.support, e.query_x[:, :1]).isfinite().all()


@pytest.mark.medium
@of_all
def test_it_learns(name: str) -> None:
    learner = made(name, training=True)
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    e = random_episode([3, 3, 3], 6, 2, dtype=torch.float32)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = learner(e)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@of_all
def test_bfloat16_gives_float32_scores_near_those_of_float32(name: str) -> None:
    learner, e = made(name), random_episode([2, 1, 2], 4, 2, dtype=torch.float32)
    exact = learner.predict(e.support, e.query_x)
    with torch.autocast("cpu", torch.bfloat16):
        scores = learner.predict(e.support, e.query_x)
    assert scores.dtype == torch.float32
    assert (scores - exact).abs().max() < 0.1 * (1 + exact.abs().max())


CONSTANTS = st.sampled_from([0.0, 1.0, -1.0, 1e-20, 1e4, -1e4])


@pytest.mark.slow
@of_all
@given(
    shots=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    constants=st.lists(CONSTANTS, min_size=2, max_size=2),
    low=st.booleans(),
    training=st.booleans(),
)
def test_extremes_stay_finite(
    name: str, shots: list[int], constants: list[float], low: bool, training: bool
) -> None:
    """All items equal, zero, or far away from the queries; in float32 and under bfloat16."""
    learner = made(name, training)
    items = sum(shots)
    y = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots)).unsqueeze(0)
    x = torch.full((1, items, *ITEM), constants[0])
    query_x = torch.full((1, len(shots), *ITEM), constants[1])
    e = Episode(Support(x, y, len(shots)), query_x, torch.arange(len(shots)).unsqueeze(0))
    assert_finite(learner, e, low)
