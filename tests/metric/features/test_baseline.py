"""Baseline and Baseline++ against torch's own layers and optimizer, task by task."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.core.episode import LabelledBatch
from quickstudy.encoders import Conv4
from quickstudy.metric import PlainClassifier, baseline, baseline_plus_plus, features
from quickstudy.metric.features.baseline import CosineLinear, sharpness
from tests.metric.features.oracle_baseline import Cosines, chen
from tests.support.episodes import random_sizes

HEADS: dict[str, Callable[..., Tensor]] = {"baseline": baseline, "baseline-plus-plus": baseline_plus_plus}
of_both = pytest.mark.parametrize("name", HEADS)


def task(shots: list[int], queries: int, tasks: int, seed: int = 0) -> tuple[Tensor, Tensor, int, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    y = torch.stack([labels[torch.randperm(len(labels), generator=rng)] for _ in range(tasks)])
    means = 3 * torch.randn(tasks, len(shots), 6, generator=rng, dtype=torch.float64)
    z = means.gather(1, y[..., None].expand(-1, -1, 6))
    z = z + torch.randn(z.shape, generator=rng, dtype=torch.float64)
    return z, y, len(shots), torch.randn(tasks, queries, 6, generator=rng, dtype=torch.float64)


@of_both
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_the_oracles(name: str, seed: int) -> None:
    z, y, ways, queries = task(*random_sizes(seed), seed=seed)
    scores = HEADS[name](z, y, ways, queries, epochs=20, seed=seed)
    for t in range(len(z)):
        expected = chen(z[t], y[t], ways, queries[t], name != "baseline", 20, seed)
        torch.testing.assert_close(scores[t], expected, rtol=1e-10, atol=1e-10)


@of_both
def test_after_all_epochs_of_the_authors(name: str) -> None:
    z, y, ways, queries = task([2, 1, 3], 4, 1)
    expected = chen(z[0], y[0], ways, queries[0], name != "baseline", 100, 0)
    torch.testing.assert_close(HEADS[name](z, y, ways, queries)[0], expected, rtol=1e-10, atol=1e-10)


@of_both
def test_a_task_stands_for_itself_and_draws_are_repeated(name: str) -> None:
    z, y, ways, queries = task([2, 1, 3], 4, 3)
    head = HEADS[name]
    scores = head(z, y, ways, queries)
    assert torch.equal(head(z, y, ways, queries), scores)
    for t in range(3):
        one = slice(t, t + 1)
        torch.testing.assert_close(head(z[one], y[one], ways, queries[one]), scores[one])
        torch.testing.assert_close(head(z, y, ways, queries[:, :1]), scores[:, :1])
    assert not torch.allclose(head(z, y, ways, queries, seed=1), scores)


@of_both
def test_it_tells_classes_apart_in_float32_and_leaves_no_gradient(name: str) -> None:
    z, y, ways, _ = task([5, 5, 5], 1, 4)
    low = z.float().requires_grad_()
    scores = HEADS[name](low, y, ways, low)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert (scores.argmax(-1) == y).float().mean() > 0.95
    torch.testing.assert_close(scores, HEADS[name](z, y, ways, z).float(), rtol=1e-3, atol=1e-3)


@of_both
@pytest.mark.parametrize("constant", [0.0, 1e-20, 1e4])
def test_extremes_stay_finite(name: str, constant: float) -> None:
    z = torch.full((1, 4, 6), constant)
    assert HEADS[name](z, torch.arange(4)[None], 4, -z).isfinite().all()


def test_the_factor_is_that_of_the_authors() -> None:
    assert (sharpness(5), sharpness(200), sharpness(201)) == (2, 2, 10)


def test_the_layer_of_cosines_is_the_oracles() -> None:
    torch.manual_seed(0)
    layer = CosineLinear(5, 3).double()
    with torch.no_grad():
        layer.length.mul_(torch.tensor([[0.5], [1.0], [2.0]]))
    theirs = Cosines(torch.nn.Linear(5, 3, bias=False).double())
    with torch.no_grad():
        theirs.linear.parametrizations.weight.original0.copy_(layer.length)
        theirs.linear.parametrizations.weight.original1.copy_(layer.direction)
    z = torch.randn(4, 5).double()
    torch.testing.assert_close(layer(z), theirs(z), rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(layer(z).square().sum(), list(layer.parameters()))
    expected = torch.autograd.grad(theirs(z).square().sum(), list(theirs.parameters()))
    torch.testing.assert_close(ours, expected[::-1], rtol=1e-10, atol=1e-10)


def test_the_plain_classifier_trains_with_cosines_and_is_built_again() -> None:
    torch.manual_seed(0)
    learner = PlainClassifier(Conv4(1, 4), 3, 4, cosine=True, head=partial(baseline_plus_plus, epochs=10))
    assert isinstance(learner.linear, CosineLinear)
    assert learner.classes == 3
    batch = LabelledBatch(torch.randn(6, 1, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2]), 3)
    with torch.autocast("cpu", torch.bfloat16):
        low = learner.train()(batch)
    assert low.dtype == torch.float32
    optimizer = torch.optim.SGD(learner.parameters(), 0.5)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = learner(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    logits = learner.linear(learner.encoder(batch.x))
    torch.testing.assert_close(learner(batch), F.cross_entropy(logits, batch.y))
    found = {"PlainClassifier": PlainClassifier, "Conv4": Conv4, "baseline_plus_plus": baseline_plus_plus}
    again = rebuilt(blueprint(learner), found.__getitem__)
    again.load_state_dict(learner.state_dict())
    assert again.head.keywords == {"epochs": 10}


def test_the_packages_face() -> None:
    assert features.baseline is baseline
