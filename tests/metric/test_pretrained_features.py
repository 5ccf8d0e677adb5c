"""The head with probabilities that the support sets, and the learner of features."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import quickstudy as qs
from quickstudy.metric.heads import PENALTY, SPREAD, USUAL_SHARPNESS, calibrated_ridge, nearest_prototype


def clouds(
    ways: int, each: int, noise: float, seed: int, tasks: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors [T, N × each, D] around as many middles, and their labels."""
    g = torch.Generator().manual_seed(seed)
    middles = F.normalize(torch.randn(tasks, ways, 1, 64, generator=g), dim=-1)
    z = middles + noise * torch.randn(tasks, ways, each, 64, generator=g) / 8
    y = torch.arange(ways)[:, None].expand(ways, each).flatten().expand(tasks, -1)
    return F.normalize(z, dim=-1).flatten(1, 2), y


def weights_of(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """W by least squares: the penalty is D more items, at the root of it on each axis, with target 0."""
    a = torch.cat([w.sqrt()[:, None] * x, math.sqrt(PENALTY) * torch.eye(x.shape[1], dtype=x.dtype)])
    targets = F.one_hot(y, 3).to(x) - 1 / 3
    b = torch.cat([w.sqrt()[:, None] * targets, torch.zeros(x.shape[1], 3, dtype=x.dtype)])
    return torch.linalg.lstsq(a, b).solution


@pytest.mark.parametrize("dimensions", [64, 4])
def test_scores_and_sharpness_are_those_of_the_equations(dimensions: int) -> None:
    """With fewer items than dimensions and more; each item's answer by a regression without it."""
    z, _ = clouds(3, 4, 1.5, 0)
    z, y = z[:, [0, 4, 5, 8, 9, 10, 11], :dimensions].double(), torch.tensor([0, 1, 1, 2, 2, 2, 2])
    queries = z[:, :2] + 0.1
    scores = calibrated_ridge(z, y[None], 3, queries)[0]
    counts = torch.tensor([1, 2, 4])
    x, w = z[0], (7 / 3 / counts[y]).double()
    middle = torch.stack([x[y == k].mean(0) for k in range(3)]).mean(0)
    scale = ((w * (x - middle).square().sum(1)).sum() / 7).sqrt()
    x = (x - middle) / scale
    plain = (queries[0] - middle) / scale @ weights_of(x, y, w)
    found = scores / plain
    torch.testing.assert_close(found, found[:1, :1].expand_as(found))
    without = [x[i] @ weights_of(x[kept], y[kept], w[kept]) for i, kept in others(7)]
    weights: dict[float, float] = {}
    for step in range(-24, 25):
        factor = 2 ** (step / 8)
        tau = factor * USUAL_SHARPNESS * (7 / 3) ** -0.25
        value = -0.5 * (math.log2(factor) / SPREAD) ** 2
        for told, k in zip(without, y.tolist(), strict=True):
            if counts[k] > 1:
                value += (tau * told).log_softmax(0)[k].item()
        weights[math.log(tau)] = math.exp(value)
    mean = sum(log * weight for log, weight in weights.items()) / sum(weights.values())
    torch.testing.assert_close(found[0, 0].item(), math.exp(mean))


def others(items: int) -> list[tuple[int, list[int]]]:
    return [(i, [j for j in range(items) if j != i]) for i in range(items)]


@pytest.mark.parametrize("noise", [0.8, 1.6, 3.0])
def test_what_it_is_sure_of_is_right_as_often(noise: float) -> None:
    """Within seven points, where the plain distances are off by twenty or more."""
    z, y = clouds(8, 5 + 20, noise, 1, tasks=40)
    of = z.unflatten(1, (8, 25))
    shots, queries = of[:, :, :5].flatten(1, 2), of[:, :, 5:].flatten(1, 2)
    y = y.unflatten(1, (8, 25))
    few, asked = y[:, :, :5].flatten(1), y[:, :, 5:].flatten(1)
    sure, plain = (
        head(shots, few, 8, queries).softmax(-1).max(-1) for head in (calibrated_ridge, nearest_prototype)
    )
    right = (sure.indices == asked).float().mean()
    assert right > (plain.indices == asked).float().mean() - 0.02  # the best for round clouds
    assert abs(sure.values.mean() - right) < 0.07
    assert abs(plain.values.mean() - right) > 0.2


def test_each_task_stands_for_itself_and_single_items_do() -> None:
    z, y = clouds(4, 1, 1.0, 2, tasks=3)
    queries = F.normalize(torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(3)), dim=-1)
    together = calibrated_ridge(z, y, 4, queries)
    for i in range(3):
        alone = calibrated_ridge(z[i : i + 1], y[i : i + 1], 4, queries[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    with pytest.raises(ValueError, match="penalty is 0"):
        calibrated_ridge(z, y, 4, queries, penalty=0.0)


def test_classes_count_alike_however_many_items_they_have() -> None:
    """Items that are there three times are as those that are there once; only the sharpness differs."""
    z, y = clouds(4, 1, 1.0, 2)
    queries = F.normalize(torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(3)), dim=-1)
    once = calibrated_ridge(z, y, 4, queries)
    more = calibrated_ridge(
        torch.cat([z, z[:, :1], z[:, :1]], 1), torch.cat([y, y[:, :1], y[:, :1]], 1), 4, queries
    )
    ratio = more / once
    assert ratio.std() < 0.35 * ratio.mean()
    assert (more.argmax(-1) == once.argmax(-1)).all()


def test_gradients_flow_through_the_regression() -> None:
    z, y = clouds(3, 2, 1.0, 4)
    z, queries = z.double()[:, :, :5].requires_grad_(), torch.randn(1, 2, 5, dtype=torch.float64)
    (slope,) = torch.autograd.grad(calibrated_ridge(z, y, 3, queries).log_softmax(-1)[..., 0].sum(), z)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


def test_the_learner_takes_features_of_unit_length() -> None:
    learner = qs.PretrainedFeatures(nn.Flatten()).eval()
    x, y = torch.rand(1, 6, 3, 4), torch.tensor([[0, 0, 1, 1, 2, 2]])
    queries = torch.rand(1, 4, 3, 4)
    scores = learner.predict(qs.Support(x, y, 3), queries)
    torch.testing.assert_close(learner.predict(qs.Support(5 * x, y, 3), 7 * queries), scores)
    assert learner.distance.name == "cosine"
