"""Every head in HEADS: against its oracle, and what all heads keep, on every kind of pool."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.episode import Support
from quickstudy.encoders import AveragedConv4, Conv4
from quickstudy.metric import HEADS, Head, PlainClassifier, PretrainedFeatures, is_transductive, mean_of
from quickstudy.metric.features.bd_cspn import bd_cspn
from quickstudy.metric.features.catalogue import named_head
from quickstudy.metric.features.laplacian_shot import laplacian_shot
from quickstudy.metric.features.neighbors import nearest_neighbors
from quickstudy.metric.features.pt_map import log_plan
from quickstudy.metric.features.simple_shot import simple_shot_cl2n
from quickstudy.metric.features.soft_k_means import soft_k_means
from quickstudy.metric.features.tim import tim
from quickstudy.metric.heads import transductive
from quickstudy.training.leave_one_out import leave_one_out
from tests.metric.features import (
    oracle_bd_cspn,
    oracle_laplacian_shot,
    oracle_neighbors,
    oracle_pt_map,
    oracle_ridge,
    oracle_simple_shot,
    oracle_soft_k_means,
    oracle_tim,
    oracle_transductive_fine_tuning,
)
from tests.support.pools import noisy_pool

TRANSDUCTIVE = {"bd-cspn", "laplacianshot", "tim", "pt-map", "transductive-fine-tuning", "soft-k-means"}
QUICK: dict[str, Head] = HEADS | {"tim": partial(tim, steps=30)}
MEAN = np.full(6, 0.3)
ORACLES: list[tuple[Head, Callable[..., np.ndarray], dict[str, Any]]] = [
    (HEADS["simpleshot-un"], oracle_simple_shot.un, {}),
    (HEADS["simpleshot-l2n"], oracle_simple_shot.l2n, {}),
    (simple_shot_cl2n, oracle_simple_shot.cl2n, {}),
    (partial(simple_shot_cl2n, mean=torch.from_numpy(MEAN)), oracle_simple_shot.cl2n, {"mean": MEAN}),
    (HEADS["cosine"], oracle_simple_shot.cosine, {}),
    (HEADS["ridge"], oracle_ridge.scores, {}),
    (nearest_neighbors, oracle_neighbors.scores, {}),
    (partial(nearest_neighbors, neighbors=2), oracle_neighbors.scores, {"neighbors": 2}),
    (bd_cspn, oracle_bd_cspn.scores, {}),
    (partial(bd_cspn, confident=2), oracle_bd_cspn.scores, {"confident": 2}),
    (partial(bd_cspn, sharpness=1.0, confident=None), oracle_bd_cspn.scores,
     {"sharpness": 1.0, "confident": None}),
    (HEADS["pt-map"], oracle_pt_map.scores, {}),
    (partial(tim, steps=60), oracle_tim.scores, {"steps": 60}),
    (HEADS["transductive-fine-tuning"], oracle_transductive_fine_tuning.scores, {}),
    (laplacian_shot, oracle_laplacian_shot.scores, {}),
    (partial(laplacian_shot, mean=tuple(MEAN), neighbors=3, smoothness=1.5), oracle_laplacian_shot.scores,
     {"mean": MEAN, "neighbors": 3, "smoothness": 1.5}),
    (soft_k_means, oracle_soft_k_means.scores, {}),
    (partial(soft_k_means, steps=3), oracle_soft_k_means.scores, {"steps": 3}),
]  # fmt: skip


def features(shots: list[int], queries: int, tasks: int, seed: int, dimensions: int = 6) -> tuple[Any, ...]:
    """Clouds of features ≥ 0 in float64, of classes with these numbers of shots; support, labels, queries."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    y = torch.stack([y[torch.randperm(len(y), generator=g)] for _ in range(tasks)])
    asked = torch.randint(len(shots), (tasks, queries), generator=g)
    middles = torch.rand(tasks, len(shots), dimensions, generator=g, dtype=torch.float64)

    def around(labels: Tensor) -> Tensor:
        z = middles[torch.arange(tasks)[:, None], labels]
        return (z + 0.2 * torch.randn(z.shape, generator=g, dtype=torch.float64)).clamp_min(0) + 0.01

    return around(y), y, around(asked)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("head", "oracle", "options"), ORACLES)
def test_the_scores_are_the_oracles(head: Head, oracle: Any, options: dict[str, Any], seed: int) -> None:
    shots = ([1, 1, 1], [2, 1, 3, 2], [5, 5])[seed]
    z, y, q = features(shots, 11, 2, seed)
    scores = head(z, y, len(shots), q)
    for t in range(2):
        expected = oracle(z[t].numpy(), y[t].numpy(), len(shots), q[t].numpy(), **options)
        torch.testing.assert_close(scores[t], torch.from_numpy(expected), rtol=0, atol=1e-10)


def test_the_whole_of_tim_is_the_oracles() -> None:
    z, y, q = features([1, 1], 4, 1, 0, 3)
    expected = oracle_tim.scores(z[0].numpy(), y[0].numpy(), 2, q[0].numpy())
    torch.testing.assert_close(HEADS["tim"](z, y, 2, q)[0], torch.from_numpy(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sharpness", [1.0, 10.0, 100.0])
def test_the_plan_gives_each_query_one_and_each_class_its_share(sharpness: float) -> None:
    cost = torch.rand(5, 12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = log_plan(cost, sharpness).exp()
    torch.testing.assert_close(plan.sum(2), torch.ones(5, 12).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(plan.sum(1), torch.full((5, 4), 3.0).double(), rtol=0, atol=1e-10)


def feature_pool() -> qs.ClassPool:
    z, y, _ = features([26] * 9, 1, 1, 7, 16)
    return qs.ClassPool.from_arrays(z[0].float(), y[0])


def unequal_pool() -> qs.ClassPool:
    z, y, _ = features([26] * 7 + [60], 1, 1, 8, 16)
    return qs.ClassPool.from_arrays(z[0].float(), y[0])


KINDS: dict[str, Callable[[], tuple[qs.ClassPool, nn.Module]]] = {
    "features": lambda: (feature_pool(), nn.Identity()),
    "pictures": lambda: (noisy_pool(), nn.Sequential(Conv4(1, 8))),
    "classes of unequal size": lambda: (unequal_pool(), nn.Identity()),
}


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HEADS)
def test_what_every_head_keeps(name: str, kind: str, shots: int) -> None:
    pool, encoder = KINDS[kind]()
    learner = PretrainedFeatures(encoder, QUICK[name], unit=False).eval().double()
    queries = min(6, int(pool.counts.min()) - shots)
    e = qs.Episodes(pool, qs.Setting(5, shots, queries), 3)[0]
    x, y, q = e.support.x.double(), e.support.y, e.query_x.double()
    scores = learner.predict(Support(x, y, 5), q)
    assert scores.shape == (3, 5 * queries, 5)
    assert scores.dtype == torch.float64
    assert scores.isfinite().all()
    if name in ("pt-map", "laplacianshot", "knn", "logistic-regression"):
        torch.testing.assert_close(
            scores.exp().sum(-1), torch.ones(3, 5 * queries).double(), rtol=0, atol=1e-6
        )
    for t in range(3):  # each task stands for itself
        alone = learner.predict(Support(x[t : t + 1], y[t : t + 1], 5), q[t : t + 1])
        torch.testing.assert_close(alone[0], scores[t], rtol=0, atol=1e-8)
    moved = q.clone()
    moved[:, 1:] = moved[:, 1:].flip(1) * 1.3 + 0.1  # all queries but the first are others
    same = torch.allclose(learner.predict(Support(x, y, 5), moved)[:, 0], scores[:, 0], rtol=0, atol=1e-9)
    assert learner.transductive == (name in TRANSDUCTIVE) == (not same)
    # logistic regression is as near as L-BFGS comes
    near = 2e-3 if name == "logistic-regression" else 1e-8
    if name.startswith("baseline"):
        return  # begins with weights that are drawn, and takes the items in an order that is
    renamed = torch.tensor([2, 0, 3, 1, 4])
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    other = learner.predict(Support(x[:, order], renamed[y[:, order]], 5), q)[..., renamed]
    torch.testing.assert_close(other, scores, rtol=0, atol=near)
    turned = torch.randperm(q.shape[1], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        learner.predict(Support(x, y, 5), q[:, turned]), scores[:, turned], rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_better_than_guessing_in_float32(name: str) -> None:
    e = qs.Episodes(feature_pool(), qs.Setting(5, 5, 10), 4)[0]
    scores = PretrainedFeatures(nn.Identity(), QUICK[name], unit=False).predict(e.support, e.query_x)
    assert scores.dtype == torch.float32
    assert (scores.argmax(-1) == e.query_y).float().mean() > 0.5


@pytest.mark.parametrize("name", HEADS)
def test_one_query_and_zeros_are_classified_too(name: str) -> None:
    z, y, q = features([2, 2], 1, 2, 5)
    z[0, 0], q[1] = 0, 0
    assert QUICK[name](z, y, 2, q).isfinite().all()


def test_a_transductive_score_is_named_so() -> None:
    episodes = qs.Episodes(feature_pool(), qs.Setting(5, 1, 5), 4)
    inductive = PretrainedFeatures(nn.Identity(), HEADS["cosine"], unit=False)
    assert qs.evaluate(inductive, episodes, 8).mode == "inductive"
    assert qs.evaluate(inductive, episodes, 8, "transductive").mode == "transductive"
    head = partial(HEADS["pt-map"], steps=2)
    assert is_transductive(partial(head, rate=0.5))
    assert (
        qs.evaluate(PretrainedFeatures(nn.Identity(), head, unit=False), episodes, 8).mode == "transductive"
    )
    assert PlainClassifier(nn.Identity(), 3, 16, head=head).transductive
    assert not PlainClassifier(nn.Identity(), 3, 16).transductive


def test_a_head_is_kept_in_a_checkpoint(tmp_path: Any) -> None:
    head = partial(simple_shot_cl2n, mean=[0.5] * 16)
    encoder = AveragedConv4(1, 16)
    pool, setting = noisy_pool(), qs.Setting(3, 1, 2)
    learner = PretrainedFeatures(encoder, head, unit=False)
    qs.fit(learner, qs.Episodes(pool, setting), 1, out=tmp_path)
    loaded, _ = qs.load_learner(tmp_path)
    assert isinstance(loaded, PretrainedFeatures)
    assert loaded.unit is False
    assert isinstance(loaded.head, partial)
    assert loaded.head.func is simple_shot_cl2n
    e = qs.Episodes(pool, setting)[0]
    torch.testing.assert_close(
        loaded.predict(e.support, e.query_x), learner.eval().predict(e.support, e.query_x)
    )


def test_a_head_that_asks_for_names_gets_them() -> None:
    seen: list[Any] = []

    @transductive
    def by_name(shots: Tensor, y: Tensor, ways: int, queries: Tensor, names: Any = None) -> Tensor:
        seen.append(names)
        marks = torch.tensor([[float(len(str(name))) for name in task] for task in names])
        return marks.unsqueeze(1).expand(-1, queries.shape[1], -1).contiguous()

    pool = qs.ClassPool.from_arrays(torch.randn(60, 4), np.repeat([f"c{'o' * i}w" for i in range(6)], 10))
    episodes = qs.Episodes(pool, qs.Setting(3, 1, 2), 4)
    e = episodes[0]
    scores = PretrainedFeatures(nn.Identity(), by_name).predict(e.support, e.query_x)
    assert seen[0].shape == (4, 3)
    of = {
        tuple(item.tolist()): name for name in pool.classes for item in torch.from_numpy(pool.of_class(name))
    }
    for t in range(4):
        for item, k in zip(e.support.x[t], e.support.y[t].tolist(), strict=True):
            assert seen[0][t, k] == of[tuple(item.tolist())]
        assert scores[t, 0].tolist() == [float(len(name)) for name in seen[0][t]]
    assert (e[1:3].support.names == e.support.names[1:3]).all()
    assert (episodes.part(0, 1, 2).support.names == e.support.names[1::2]).all()
    own = qs.OwnTasks([e]).on("meta")[0]
    assert (own.support.names == e.support.names).all()
    seen.clear()
    one = Support(e.support.x[:1].repeat(1, 2, 1), e.support.y[:1].repeat(1, 2), 3, names=e.support.names[:1])
    leave_one_out(PretrainedFeatures(nn.Identity(), by_name), one)
    assert all((names == e.support.names[0]).all() for names in seen), "those left out have them, too"
    fixed = partial(by_name, names=[["a", "bb", "ccc"]] * 4)
    assert PretrainedFeatures(nn.Identity(), fixed).predict(e.support, e.query_x)[0, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"names of classes are \[3\]: they must be \[4, 3\]"):
        Support(e.support.x, e.support.y, 3, names=np.array(["a", "b", "c"]))


def test_the_mean_is_that_of_all_features() -> None:
    pool = feature_pool()
    torch.testing.assert_close(mean_of(pool), torch.from_numpy(pool.items).mean(0))
    with pytest.raises(ValueError, match=r"holds no features: give pool.embedded\(encoder\)"):
        mean_of(noisy_pool())


def test_what_does_not_fit_is_refused() -> None:
    z, y, q = features([1, 1], 3, 1, 0)
    with pytest.raises(ValueError, match=r"the mean is \[5\] and features have 6 numbers: give the mean of"):
        simple_shot_cl2n(z, y, 2, q, mean=torch.zeros(5))
    with pytest.raises(ValueError, match="there is no head 'ptmap': did you mean pt-map"):
        named_head("ptmap")
    for head in (partial(nearest_neighbors, neighbors=0), partial(laplacian_shot, neighbors=0)):
        with pytest.raises(ValueError, match="neighbors is 0: it must be at least 1"):
            head(z, y, 2, q)
    with pytest.raises(ValueError, match="confident is 0"):
        bd_cspn(z, y, 2, q, confident=0)
    with pytest.raises(ValueError, match="classifier is 'l1': it must be 'distance' or 'cosine'"):
        tim(z, y, 2, q, classifier="l1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"penalty is 0\.0: it must be above 0"):
        HEADS["ridge"](z, y, 2, q, penalty=0.0)  # pyright: ignore[reportCallIssue]
