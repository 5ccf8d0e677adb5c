"""Transforms of embeddings against literal equations, and how they are fitted."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy.data.pool import ClassPool
from quickstudy.encoders.postprocess import WCCN, CohortNorm, ConcatFeatures, Embedding
from quickstudy.encoders.resnet import ResNet, WithFeatures
from quickstudy.encoders.test_time import FlipTTA
from quickstudy.metric.supervised_contrastive import SupervisedContrastive
from quickstudy.training.evaluate import fit_transforms


def literal_covariance(z: np.ndarray, y: np.ndarray, shrinkage: float) -> np.ndarray:
    """Within classes, item by item: what distances are to be measured by."""
    d, classes = z.shape[1], sorted({*y.tolist()})
    within = np.zeros((d, d))
    for k in classes:
        own = [row for row, of in zip(z, y, strict=True) if of == k]
        middle = sum(own) / len(own)
        for row in own:
            within += np.outer(row - middle, row - middle)
    n = len(z) - len(classes)
    within /= n
    return within + (shrinkage + d / n) * np.trace(within) / d * np.eye(d)


@pytest.mark.parametrize(
    ("shrinkage", "centered", "unit"),
    [(0.0, False, False), (0.3, True, False), (5.0, False, True), (0.1, True, True)],
)
def test_wccn_measures_by_the_covariance_within_classes(shrinkage: float, centered: bool, unit: bool) -> None:
    rng = np.random.default_rng(3)
    y = rng.permutation(np.repeat([7, 2, 40, 5], [9, 12, 1, 8]))
    z = rng.normal(size=(50, 4))[y] + rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
    net = WCCN(4, shrinkage, centered, unit).double()
    probes = torch.from_numpy(rng.normal(size=(6, 4)))
    scaled = probes.numpy()
    if unit:
        z, scaled = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, scaled))
    np.testing.assert_allclose(net(probes), scaled, err_msg="nothing is fitted yet")
    net.fit(torch.from_numpy(z), torch.from_numpy(y))
    inverse = np.linalg.inv(literal_covariance(z, y, shrinkage))
    made, mean = net(probes), z.mean(0) * centered
    for i in range(6):
        for j in range(6):
            a, b = (scaled[k] - mean for k in (i, j))
            assert float(made[i] @ made[j]) == pytest.approx(a @ inverse @ b)


def test_of_many_items_every_direction_varies_alike_within_classes_and_of_few_little_is_done() -> None:
    rng = np.random.default_rng(0)

    def whitened(items: int) -> np.ndarray:
        y = np.arange(items) % 2
        z = rng.normal(size=(items, 3)) * [1, 10, 100] + 1000 * y[:, None]
        net = WCCN(3, 0.0)
        net.fit(torch.from_numpy(z), torch.from_numpy(y))
        fresh = torch.from_numpy(rng.normal(size=(4000, 3)) * [1, 10, 100]).float()
        return net(fresh).std(0).numpy()

    np.testing.assert_allclose(whitened(40_000), [0.89, 1, 1], atol=0.03)
    few = whitened(4)
    assert few[0] < 0.1 * few[2]


@pytest.mark.parametrize("z", [torch.arange(9.0).view(3, 3), torch.ones(3, 3)])
def test_where_nothing_differs_within_a_class_nothing_is_whitened(z: torch.Tensor) -> None:
    net = WCCN(3)
    net.fit(z, torch.arange(3))
    torch.testing.assert_close(net(z), z)


@pytest.mark.parametrize("unit", [False, True])
def test_wccn_leaves_numbers_beyond_its_dimensions_alone(unit: bool) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(40, 7), torch.arange(40) % 5
    some, all_ = WCCN(4, unit=unit), WCCN(4, unit=unit)
    some.fit(z, y)
    all_.fit(z[:, :4], y)
    torch.testing.assert_close(some(z), torch.cat([all_(z[:, :4]), z[:, 4:]], 1))


def test_wccn_takes_no_negative_shrinkage() -> None:
    with pytest.raises(ValueError, match="shrinkage is -1"):
        WCCN(3, -1)


def pictures(side: int) -> tuple[ClassPool, torch.Tensor, torch.Tensor]:
    """Ten classes of four; their items as an encoder gets them, and their classes."""
    items = np.random.default_rng(0).integers(0, 256, (40, 1, side, side)).astype(np.uint8)
    pool = ClassPool.from_grouped(items, [str(i) for i in range(10)], [4] * 10)
    return pool, torch.from_numpy(items) / 255.0, torch.arange(10).repeat_interleave(4)


def states(module: nn.Module) -> list[bool]:
    return [m.training for m in module.modules()]


def test_transforms_are_fitted_and_the_learner_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    pool, x, y = pictures(8)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5))
    whitening = WCCN(3)
    learner = SupervisedContrastive(Embedding(bare, [whitening]))
    weights = [p.clone() for p in learner.parameters()]
    learner.train()
    bare[0].eval()
    before = states(learner)
    fit_transforms(learner, pool)
    assert states(learner) == before
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters(), weights, strict=True))
    bare.eval()
    expected = WCCN(3)
    expected.fit(bare(x), y)
    torch.testing.assert_close(whitening.whitening, expected.whitening)
    assert not torch.equal(whitening.whitening, torch.eye(3))


def test_an_embedding_by_itself_is_fitted_as_within_a_learner() -> None:
    pool, _, _ = pictures(3)
    alone, within = Embedding(nn.Flatten(), [WCCN(9)]), Embedding(nn.Flatten(), [WCCN(9)])
    fit_transforms(alone, pool)
    fit_transforms(SupervisedContrastive(within), pool)
    assert all(torch.equal(p, q) for p, q in zip(alone.buffers(), within.buffers(), strict=True))


class Drawing(nn.Module):
    """An encoder that draws from all global generators, whatever the mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = random.random() + np.random.rand()  # noqa: NPY002
        return x.flatten(1) + torch.rand(len(x), 1) + noise


def test_fitting_leaves_the_global_generators_alone() -> None:
    pool, _, _ = pictures(3)

    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002

    found: list[tuple[float, float, float]] = []
    for fits in (False, True):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        if fits:
            fit_transforms(Embedding(Drawing(), [WCCN(9), CohortNorm(9)]), pool)
        found.append(draws())
    assert found[0] == found[1]


def test_of_many_classes_a_draw_is_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, _, _ = pictures(2)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(WCCN, "fit", lambda _, z, y, sources: seen.append(z))
    learner = SupervisedContrastive(Embedding(nn.Flatten(), [WCCN(4)]))
    for seed in (0, 0, 1):
        fit_transforms(learner, pool, seed, items=11)
    assert [len(z) for z in seen] == [12] * 3
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_features_beside_an_embedding_make_the_mean_of_two_cosines() -> None:
    rng = np.random.default_rng(0)
    z, f, known = rng.normal(size=(6, 3)), rng.normal(size=(6, 5)) + 2, rng.normal(size=(20, 5)) + 2
    net = ConcatFeatures(3, 5).double()
    net.fit(torch.from_numpy(np.hstack([np.ones((20, 3)), known])), torch.zeros(20))
    both = torch.from_numpy(np.hstack([z, f]))
    made = net(both)
    mean = sum(known) / 20
    for i in range(6):
        for j in range(6):
            expected = (cosine(z[i], z[j]) + cosine(f[i] - mean, f[j] - mean)) / 2
            assert float(made[i] @ made[j]) == pytest.approx(expected)


def test_an_encoder_without_features_is_named() -> None:
    for call in (ConcatFeatures(3, 24), lambda z: ConcatFeatures(3, 24).fit(z, torch.zeros(2))):
        with pytest.raises(ValueError, match=r"has 3 numbers, not 3 \+ 24: .*WithFeatures"):
            call(torch.rand(2, 3))


def test_features_are_joined_to_the_whitened_embedding() -> None:
    torch.manual_seed(0)
    pool, x, y = pictures(16)
    net = ResNet(1, (4, 6), dimensions=3, grid=(2, 2), dropout=0.5)
    embedding = Embedding(WithFeatures(net), [WCCN(3), ConcatFeatures(3, 24)])
    fit_transforms(embedding, pool)
    embedding.eval()
    z, f = net(x, return_features=True).split([3, 24], 1)
    white = WCCN(3)
    white.fit(z, y)
    apart = f - f.mean(0)
    expected = [part / part.norm(dim=1, keepdim=True) / 2**0.5 for part in (white(z), apart)]
    torch.testing.assert_close(embedding(x), torch.cat(expected, 1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(x @ x)


def literal_cohort(
    z: np.ndarray, y: np.ndarray, sources: np.ndarray, size: int
) -> tuple[list[np.ndarray], list[set[int]]]:
    """The centers, and the classes of each: item by item, from the words in `CohortNorm`."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).tolist()
    centers: list[np.ndarray] = []
    classes: list[set[int]] = []
    for i in range(size):
        members = [order[i % len(z)]]
        while len(members) < 5:
            free = [
                j
                for j in range(len(z))
                if y[j] not in [y[k] for k in members] and sources[j] not in [sources[k] for k in members]
            ]
            members.append(max(free, key=lambda j: cosine(z[j], z[members[0]])))
        centers.append(sum(unit(z[j]) for j in members) / 5)
        classes.append({int(y[j]) for j in members})
    return centers, classes


def literal_coordinate(
    probes: np.ndarray, z: np.ndarray, y: np.ndarray, sources: np.ndarray, size: int, kappa: float
) -> list[float]:
    """γ of each probe, from the equation in `CohortNorm` fitted to z."""
    centers, classes = literal_cohort(z, y, sources, size)

    def resemblance(u: np.ndarray, others: list[np.ndarray]) -> float:
        n = size // 10
        return sum(sorted([cosine(u, other) for other in others], reverse=True)[:n]) / n

    own = [
        resemblance(u, [c for c, held in zip(centers, classes, strict=True) if k not in held])
        for u, k in zip(z, y.tolist(), strict=True)
    ]
    middle = sum(own) / len(own)
    sigma = np.sqrt(sum((m - middle) ** 2 for m in own) / (len(own) - 1))
    return [1 - kappa * (resemblance(u, centers) - middle) / sigma for u in probes]


@pytest.mark.parametrize("known", [False, True])
def test_cohort_norm_adds_the_coordinate_of_its_equation(known: bool) -> None:
    rng = np.random.default_rng(2)
    y = rng.permutation(np.repeat(np.arange(12) * 3, 6))
    z, probes = rng.normal(size=(40, 4))[y] + rng.normal(size=(72, 4)), rng.normal(size=(5, 4))
    sources = rng.integers(8, size=72)
    net = CohortNorm(4, size=60, strength=0.3).double()
    net.fit(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(sources) if known else None)
    made = net(torch.from_numpy(probes)).numpy()
    units = probes / np.linalg.norm(probes, axis=1, keepdims=True)
    np.testing.assert_allclose(made[:, :4], units)
    expected = literal_coordinate(probes, z, y, sources if known else np.arange(72), 60, 0.3)
    np.testing.assert_allclose(made[:, 4], expected)


@pytest.mark.parametrize("few", ["classes", "sources"])
def test_of_fewer_than_five_people_no_cohort_is_kept(few: str) -> None:
    torch.manual_seed(0)
    z, four, many = torch.randn(80, 6), torch.arange(80) % 4, torch.arange(80) % 20
    net = CohortNorm(6, size=20)
    net.fit(z, many)
    assert net.slope > 0
    y, sources = (four, many) if few == "classes" else (many, four)
    net.fit(z, y, sources)
    assert not net.cohort.any(), "nor that of before"
    assert not net.slope.any()


def test_no_center_is_near_to_an_item_or_to_the_mean_of_a_person() -> None:
    torch.manual_seed(0)
    y = torch.arange(300) % 30
    z = torch.randn(30, 32)[y] + 0.4 * torch.randn(300, 32)
    net = CohortNorm(32, size=100)
    net.fit(z, y)
    means = torch.stack([z[y == k].mean(0) for k in range(30)])
    people = torch.nn.functional.normalize(torch.cat([z, means]), dim=1)
    assert (net.cohort @ people.T).max() < 0.95


def test_cohort_norm_is_to_first_order_what_is_subtracted_from_scores() -> None:
    rng = np.random.default_rng(4)
    y, z = np.arange(60) % 12, rng.normal(size=(60, 5)) + 0.6
    net = CohortNorm(5, size=60, strength=1e-4).double()
    net.fit(torch.from_numpy(z), torch.from_numpy(y))
    a, b = (torch.from_numpy(rng.normal(size=(40, 5))) for _ in range(2))
    cosines, made = torch.cosine_similarity(a, b), torch.cosine_similarity(net(a), net(b))
    excess = 2 - net(a)[:, -1] - net(b)[:, -1]  # κ (m(u) + m(v) − 2 m̄) / σ
    expected = (1 + cosines - (1 - cosines) * excess / 2) / 2
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-7)
    assert (made - (1 + cosines) / 2).abs().max() > 1e-5


@pytest.mark.parametrize(
    "z", [torch.ones(20, 3), torch.zeros(20, 3), torch.eye(3)[[0]], torch.randn(1, 3).expand(20, 3)]
)
def test_where_nothing_differs_from_its_cohort_the_order_of_cosines_stays(z: torch.Tensor) -> None:
    torch.manual_seed(1)
    net = CohortNorm(3, size=20)
    x = torch.randn(30, 3)
    before = torch.cosine_similarity(x[:15], x[15:])
    for _ in range(2):
        after = net(x)
        torch.testing.assert_close(torch.cosine_similarity(after[:15], after[15:]), (1 + before) / 2)
        net.fit(z, torch.arange(len(z)) % 10)


def test_a_class_that_is_almost_all_there_is_leaves_a_finite_norm() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(100, 3), (torch.arange(100) > 96).long()
    for labels in (y, torch.zeros(100)):
        net = CohortNorm(3, size=100)
        net.fit(z, labels)
        assert net(z).isfinite().all()


def test_what_resembles_everybody_scores_less_with_strangers() -> None:
    torch.manual_seed(0)
    y, vague = torch.arange(400) // 10, torch.arange(400) % 2 == 0
    # half of everybody's items are near to the middle of all
    own = torch.where(vague[:, None], 0.3, 1.0) * torch.randn(40, 16)[y]
    z = own + 0.7 * torch.randn(16) + 0.2 * torch.randn(400, 16)
    net = CohortNorm(16, size=100, strength=0.3)
    net.fit(z[:200], y[:200])

    def gap(x: torch.Tensor) -> float:
        """How far strangers' scores of vague items are above those of clear ones, in standard deviations."""
        u = torch.nn.functional.normalize(x[200:], dim=1)
        scores, strangers, v = u @ u.T, y[200:, None] != y[200:], vague[200:]
        high, low = (scores[strangers & kind[:, None] & kind] for kind in (v, ~v))
        return float((high.mean() - low.mean()) / scores[strangers].std())

    assert gap(net(z)) < 0.8 * gap(z)


def test_where_the_cohort_hardly_differs_the_coordinate_is_bounded() -> None:
    torch.manual_seed(0)
    z = torch.randn(200, 24).double()  # in so many dimensions all are about as near to others
    net = CohortNorm(24, size=20, strength=0.5).double()
    net.fit(z, torch.arange(200) % 20)
    assert float(net.slope) == pytest.approx(1 / (1 - float(net.mean)))
    made = net(torch.cat([z, net.cohort, -net.cohort]))[:, -1]
    assert made.min() > -1e-9
    assert made.max() <= 2 / (1 - float(net.mean))


@pytest.mark.parametrize(("size", "strength"), [(9, 0.1), (100, -0.1)])
def test_cohort_norm_names_a_wrong_argument(size: int, strength: float) -> None:
    with pytest.raises(ValueError, match=f"size is {size} and strength {strength}"):
        CohortNorm(3, size, strength)


def test_transforms_are_fitted_in_their_order_on_what_those_before_them_make() -> None:
    """The mean over variants, whitened within classes, with the coordinate of the cohort: item by item."""
    torch.manual_seed(0)
    pool, x, y = pictures(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))
    net(x)  # statistics of its own
    transforms = [WCCN(5, 0.3, centered=True), CohortNorm(5, size=40, strength=0.02)]
    embedding = Embedding(FlipTTA(net), transforms)
    fit_transforms(embedding, pool)
    embedding.eval()
    z = ((net(x) + net(x.flip(3))) / 2).detach().double().numpy()
    within = literal_covariance(z, y.numpy(), 0.3)
    white = (z - sum(z) / 40) @ np.linalg.inv(np.linalg.cholesky(within)).T
    last = literal_coordinate(white, white, y.numpy(), np.arange(40), 40, 0.02)
    units = white / np.linalg.norm(white, axis=1, keepdims=True)
    made = embedding(x).detach().numpy()
    np.testing.assert_allclose(made, np.column_stack([units, last]), rtol=1e-4, atol=1e-5)


def test_an_embedding_within_another_is_fitted_first() -> None:
    pool, x, y = pictures(3)
    inner, outer = Embedding(nn.Flatten(), [WCCN(9)]), CohortNorm(9, size=40)
    fit_transforms(Embedding(inner, [outer]), pool)
    first, second = WCCN(9), CohortNorm(9, size=40)
    first.fit(x.flatten(1), y)
    second.fit(first(x.flatten(1)), y)
    torch.testing.assert_close(outer(inner(x)), second(first(x.flatten(1))))
