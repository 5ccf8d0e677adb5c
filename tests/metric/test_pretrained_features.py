"""The head with probabilities that the support sets, and the learner of features."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import quickstudy as qs
from quickstudy.metric.heads import SPREAD, USUAL_SHARPNESS, calibrated_prototype, nearest_prototype


def clouds(
    ways: int, each: int, noise: float, seed: int, tasks: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors [T, N × each, D] around as many middles, and their labels."""
    g = torch.Generator().manual_seed(seed)
    middles = F.normalize(torch.randn(tasks, ways, 1, 64, generator=g), dim=-1)
    z = middles + noise * torch.randn(tasks, ways, each, 64, generator=g) / 8
    y = torch.arange(ways)[:, None].expand(ways, each).flatten().expand(tasks, -1)
    return F.normalize(z, dim=-1).flatten(1, 2), y


def test_the_sharpness_is_that_of_the_equations() -> None:
    """Over a grid of τ by loops, for classes of 1, 2 and 4 items."""
    z, _ = clouds(3, 4, 1.5, 0)
    z, y = z[:, [0, 4, 5, 8, 9, 10, 11]].double(), torch.tensor([[0, 1, 1, 2, 2, 2, 2]])
    queries = z[:, :2] + 0.1
    scores = calibrated_prototype(z, y, 3, queries)[0]
    found = (scores / nearest_prototype(z, y, 3, queries)[0]).unique()
    means = [z[0, y[0] == k].mean(0) for k in range(3)]
    counts = [1, 2, 4]
    weights: dict[float, float] = {}
    for step in range(-24, 25):
        factor = 2 ** (step / 8)
        tau = factor * USUAL_SHARPNESS * (7 / 3) / (7 / 3 + 2)
        value = -0.5 * (math.log2(factor) / SPREAD) ** 2
        for item, k in zip(z[0], y[0].tolist(), strict=True):
            n = counts[k]
            if n > 1:
                d = [float((item - m).square().sum()) for m in means]
                d[k] *= (n + 1) / (n - 1)
                value += -tau * d[k] - math.log(sum(math.exp(-tau * other) for other in d))
        weights[math.log(tau)] = math.exp(value)
    mean = sum(log * weight for log, weight in weights.items()) / sum(weights.values())
    torch.testing.assert_close(found, torch.full_like(found, math.exp(mean)))


def test_an_own_distance_is_enlarged_to_what_that_of_a_fresh_item_is() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 5, 16, generator=g)
    fresh = torch.randn(4000, 16, generator=g)
    means = z.mean(1)
    own = (z - means[:, None]).square().sum(-1).mean() * (5 + 1) / (5 - 1)
    assert own.item() == pytest.approx((fresh - means).square().sum(-1).mean().item(), rel=0.02)


@pytest.mark.parametrize("noise", [0.8, 1.6, 3.0])
def test_what_it_is_sure_of_is_right_as_often(noise: float) -> None:
    """Within five points, where the plain distances are off by twenty or more."""
    z, y = clouds(8, 5 + 20, noise, 1, tasks=40)
    of = z.unflatten(1, (8, 25))
    shots, queries = of[:, :, :5].flatten(1, 2), of[:, :, 5:].flatten(1, 2)
    y = y.unflatten(1, (8, 25))
    few, asked = y[:, :, :5].flatten(1), y[:, :, 5:].flatten(1)
    sure, plain = (
        head(shots, few, 8, queries).softmax(-1).max(-1) for head in (calibrated_prototype, nearest_prototype)
    )
    right = (sure.indices == asked).float().mean()
    assert (sure.indices == plain.indices).float().mean() > 0.999
    assert abs(sure.values.mean() - right) < 0.05
    assert abs(plain.values.mean() - right) > 0.2


def test_each_task_stands_for_itself_and_single_items_do() -> None:
    z, y = clouds(4, 1, 1.0, 2, tasks=3)
    queries = F.normalize(torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(3)), dim=-1)
    together = calibrated_prototype(z, y, 4, queries)
    for i in range(3):
        alone = calibrated_prototype(z[i : i + 1], y[i : i + 1], 4, queries[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    usual = USUAL_SHARPNESS / 3
    torch.testing.assert_close(together, usual * nearest_prototype(z, y, 4, queries))
    with pytest.raises(ValueError, match="usual is 0"):
        calibrated_prototype(z, y, 4, queries, usual=0.0)


def test_the_learner_takes_features_of_unit_length() -> None:
    learner = qs.PretrainedFeatures(nn.Flatten()).eval()
    x, y = torch.rand(1, 6, 3, 4), torch.tensor([[0, 0, 1, 1, 2, 2]])
    queries = torch.rand(1, 4, 3, 4)
    scores = learner.predict(qs.Support(x, y, 3), queries)
    torch.testing.assert_close(learner.predict(qs.Support(5 * x, y, 3), 7 * queries), scores)
    assert learner.distance.name == "cosine"
