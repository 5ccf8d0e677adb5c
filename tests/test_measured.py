"""Embeddings changed once an encoder is trained: WCCN and cohort normalisation, against literal equations."""

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy.data.pool import ClassPool
from quickstudy.encoders import ResNet
from quickstudy.learners.supervised_contrastive import SupervisedContrastive
from quickstudy.measured import WCCN, CohortNorm, FeaturesBeside, measure_embeddings


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
    ("shrinkage", "centred", "unit"),
    [(0.0, False, False), (0.3, True, False), (5.0, False, True), (0.1, True, True)],
)
def test_wccn_measures_by_the_covariance_within_classes(shrinkage: float, centred: bool, unit: bool) -> None:
    rng = np.random.default_rng(3)
    y = rng.permutation(np.repeat([7, 2, 40, 5], [9, 12, 1, 8]))
    z = rng.normal(size=(50, 4))[y] + rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
    net = WCCN(nn.Identity(), 4, shrinkage, centred, unit).double()
    probes = torch.from_numpy(rng.normal(size=(6, 4)))
    scaled = probes.numpy()
    if unit:
        z, scaled = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, scaled))
    np.testing.assert_allclose(net.eval()(probes), scaled, err_msg="nothing is measured yet")
    net.measure(torch.from_numpy(z), torch.from_numpy(y))
    inverse = np.linalg.inv(literal_covariance(z, y, shrinkage))
    made, mean = net(probes), z.mean(0) * centred
    for i in range(6):
        for j in range(6):
            a, b = (scaled[k] - mean for k in (i, j))
            assert float(made[i] @ made[j]) == pytest.approx(a @ inverse @ b)
    net.train()
    assert torch.equal(net(probes), probes), "training sees nothing of it"


def test_of_many_items_every_direction_varies_alike_within_classes_and_of_few_little_is_done() -> None:
    rng = np.random.default_rng(0)

    def whitened(items: int) -> np.ndarray:
        y = np.arange(items) % 2
        z = rng.normal(size=(items, 3)) * [1, 10, 100] + 1000 * y[:, None]
        net = WCCN(nn.Identity(), 3, 0.0).eval()
        net.measure(torch.from_numpy(z), torch.from_numpy(y))
        fresh = torch.from_numpy(rng.normal(size=(4000, 3)) * [1, 10, 100]).float()
        return net(fresh).std(0).numpy()

    np.testing.assert_allclose(whitened(40_000), [0.89, 1, 1], atol=0.03)
    few = whitened(4)
    assert few[0] < 0.1 * few[2]


@pytest.mark.parametrize("z", [torch.arange(9.0).view(3, 3), torch.ones(3, 3)])
def test_where_nothing_differs_within_a_class_nothing_is_whitened(z: torch.Tensor) -> None:
    net = WCCN(nn.Identity(), 3).eval()
    net.measure(z, torch.arange(3))
    torch.testing.assert_close(net(z), z)


@pytest.mark.parametrize("unit", [False, True])
def test_wccn_leaves_numbers_beyond_its_dimensions_alone(unit: bool) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(40, 7), torch.arange(40) % 5
    some, all_ = WCCN(nn.Identity(), 4, unit=unit).eval(), WCCN(nn.Identity(), 4, unit=unit).eval()
    some.measure(z, y)
    all_.measure(z[:, :4], y)
    torch.testing.assert_close(some(z), torch.cat([all_(z[:, :4]), z[:, 4:]], 1))


def test_wccn_takes_no_negative_shrinkage() -> None:
    with pytest.raises(ValueError, match="shrinkage is -1"):
        WCCN(nn.Identity(), 3, -1)


def test_a_learner_is_whitened_on_its_pool_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    items = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    pool = ClassPool.from_arrays(items, [str(i) for i in range(10)], [4] * 10)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5))
    learner = SupervisedContrastive(WCCN(bare, 3))
    weights = [p.clone() for p in learner.parameters()]
    learner.train()
    measure_embeddings(learner, pool)
    assert learner.training
    assert bare[2].training
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters(), weights, strict=True))
    bare.eval()
    expected = WCCN(nn.Identity(), 3)
    expected.measure(bare(torch.from_numpy(items) / 255.0), torch.arange(10).repeat_interleave(4))
    made = learner.encoder
    assert isinstance(made, WCCN)
    torch.testing.assert_close(made.whitening, expected.whitening)


def test_of_many_classes_a_draw_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quickstudy.measured.MEASURED", 11)
    items = np.random.default_rng(0).integers(0, 256, (40, 1, 2, 2)).astype(np.uint8)
    pool = ClassPool.from_arrays(items, [str(i) for i in range(10)], [4] * 10)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(WCCN, "measure", lambda _, z, y: seen.append(z))
    learner = SupervisedContrastive(WCCN(nn.Flatten(), 4))
    for seed in (0, 0, 1):
        measure_embeddings(learner, pool, seed)
    assert [len(z) for z in seen] == [12] * 3
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_features_beside_an_embedding_make_the_mean_of_two_cosines() -> None:
    rng = np.random.default_rng(0)
    z, f, known = rng.normal(size=(6, 3)), rng.normal(size=(6, 5)) + 2, rng.normal(size=(20, 5)) + 2
    net = FeaturesBeside(nn.Identity(), 3, 5).double()
    net.measure(torch.from_numpy(np.hstack([np.ones((20, 3)), known])), torch.zeros(20))
    both = torch.from_numpy(np.hstack([z, f]))
    made = net.eval()(both)
    mean = sum(known) / 20
    for i in range(6):
        for j in range(6):
            expected = (cosine(z[i], z[j]) + cosine(f[i] - mean, f[j] - mean)) / 2
            assert float(made[i] @ made[j]) == pytest.approx(expected)
    assert torch.equal(net.train()(both[:, :3]), both[:, :3]), "training sees nothing of it"


def test_an_encoder_without_features_is_named() -> None:
    net = FeaturesBeside(ResNet(1, (4, 6), 3, (2, 2)), 3, 24)
    with pytest.raises(ValueError, match=r"makes 3 numbers of an item, not 3 \+ 24: .*beside=True"):
        net.eval()(torch.rand(2, 1, 16, 16))


def test_a_residual_network_gives_features_once_trained_and_all_that_follows_is_measured() -> None:
    torch.manual_seed(0)
    items = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16)).astype(np.uint8)
    pool = ClassPool.from_arrays(items, [str(i) for i in range(10)], [4] * 10)
    net = ResNet(1, (4, 6), dimensions=3, grid=(2, 2), dropout=0.5, beside=True)
    encoder = FeaturesBeside(WCCN(net, 3), 3, 24)
    learner = SupervisedContrastive(encoder)
    x = torch.from_numpy(items) / 255.0
    assert learner.train().encoder(x).shape == (40, 3)
    measure_embeddings(learner, pool)
    learner.eval()
    z, f = net(x).split([3, 24], 1)
    torch.testing.assert_close(z, net.last_norm(net.last(f)), msg="f is what the last layer is given")
    white = WCCN(nn.Identity(), 3).eval()
    white.measure(z, torch.arange(10).repeat_interleave(4))
    apart = f - f.mean(0)
    expected = [part / part.norm(dim=1, keepdim=True) / 2**0.5 for part in (white(z), apart)]
    torch.testing.assert_close(encoder(x), torch.cat(expected, 1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def literal_coordinate(z: np.ndarray, cohort: np.ndarray, y: np.ndarray, kappa: float) -> list[float]:
    """γ of each row of z: item by item, from the equation in `CohortNorm`."""
    n = len(cohort) // 10

    def resemblance(u: np.ndarray, others: np.ndarray) -> float:
        return sum(sorted([cosine(u, other) for other in others], reverse=True)[:n]) / n

    own = [resemblance(c, cohort[y != of]) for c, of in zip(cohort, y, strict=True)]
    middle = sum(own) / len(own)
    sigma = np.sqrt(sum((m - middle) ** 2 for m in own) / (len(own) - 1))
    return [1 - kappa * (resemblance(u, cohort) - middle) / sigma for u in z]


def test_cohort_norm_adds_the_coordinate_of_its_equation() -> None:
    rng = np.random.default_rng(2)
    y = rng.permutation(np.repeat([3, 0, 8], [12, 10, 8]))
    z, probes = rng.normal(size=(9, 4))[y] + rng.normal(size=(30, 4)), rng.normal(size=(5, 4))
    net = CohortNorm(nn.Identity(), 4, size=30, strength=0.3).double()
    net.measure(torch.from_numpy(z), torch.from_numpy(y))
    made = net.eval()(torch.from_numpy(probes)).numpy()
    units = probes / np.linalg.norm(probes, axis=1, keepdims=True)
    np.testing.assert_allclose(made[:, :4], units)
    np.testing.assert_allclose(made[:, 4], literal_coordinate(probes, z, y, 0.3))
    net.train()
    assert torch.equal(net(torch.from_numpy(probes)), torch.from_numpy(probes)), "training sees nothing of it"


def test_cohort_norm_is_to_first_order_what_is_subtracted_from_scores() -> None:
    rng = np.random.default_rng(4)
    y, z = np.arange(60) % 6, rng.normal(size=(60, 5)) + 0.6
    net = CohortNorm(nn.Identity(), 5, size=60, strength=1e-4).double().eval()
    net.measure(torch.from_numpy(z), torch.from_numpy(y))
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
    net = CohortNorm(nn.Identity(), 3, size=20).eval()
    x = torch.randn(30, 3)
    before = torch.cosine_similarity(x[:15], x[15:])
    for _ in range(2):
        after = net(x)
        torch.testing.assert_close(torch.cosine_similarity(after[:15], after[15:]), (1 + before) / 2)
        net.measure(z, torch.arange(len(z)) % 4)


def test_a_class_that_is_almost_all_there_is_leaves_a_finite_norm() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(100, 3), (torch.arange(100) > 96).long()
    for labels in (y, torch.zeros(100)):
        net = CohortNorm(nn.Identity(), 3, size=100).eval()
        net.measure(z, labels)
        assert net(z).isfinite().all()


def test_what_resembles_everybody_scores_less_with_strangers() -> None:
    torch.manual_seed(0)
    y, vague = torch.arange(400) // 10, torch.arange(400) % 2 == 0
    # half of everybody's items are near to the middle of all
    own = torch.where(vague[:, None], 0.3, 1.0) * torch.randn(40, 16)[y]
    z = own + 0.7 * torch.randn(16) + 0.2 * torch.randn(400, 16)
    net = CohortNorm(nn.Identity(), 16, size=100, strength=0.3).eval()
    net.measure(z[:200], y[:200])

    def gap(x: torch.Tensor) -> float:
        """How far strangers' scores of vague items are above those of clear ones, in standard deviations."""
        u = torch.nn.functional.normalize(x[200:], dim=1)
        scores, strangers, v = u @ u.T, y[200:, None] != y[200:], vague[200:]
        high, low = (scores[strangers & kind[:, None] & kind] for kind in (v, ~v))
        return float((high.mean() - low.mean()) / scores[strangers].std())

    assert gap(net(z)) < 0.8 * gap(z)


def test_where_the_cohort_hardly_differs_the_coordinate_is_bounded() -> None:
    angles = torch.tensor([0.0, 0.01, 1.0, 1.0101])  # each is as near to the other class, but for a little
    z = torch.stack([angles.cos(), angles.sin()], 1).double()
    net = CohortNorm(nn.Identity(), 2, size=20, strength=0.5).double().eval()
    net.measure(z, torch.tensor([0, 0, 1, 1]))
    assert float(net.slope) == pytest.approx(1 / (1 - float(net.mean)))
    around = torch.linspace(0, 2 * torch.pi, 100).double()
    made = net(torch.stack([around.cos(), around.sin()], 1))[:, -1]
    assert made.min() > -1e-9
    assert made.max() <= 2 / (1 - float(net.mean))


@pytest.mark.parametrize(("size", "strength"), [(9, 0.1), (100, -0.1)])
def test_cohort_norm_names_a_wrong_argument(size: int, strength: float) -> None:
    with pytest.raises(ValueError, match=f"size is {size} and strength {strength}"):
        CohortNorm(nn.Identity(), 3, size, strength)


def test_what_is_nested_is_measured_from_within() -> None:
    torch.manual_seed(0)
    items = np.random.default_rng(0).integers(0, 256, (40, 1, 3, 3)).astype(np.uint8)
    pool = ClassPool.from_arrays(items, [str(i) for i in range(10)], [4] * 10)
    learner = SupervisedContrastive(CohortNorm(WCCN(nn.Flatten(), 9), 9, size=40))
    measure_embeddings(learner, pool)
    x, y = torch.from_numpy(items).flatten(1) / 255.0, torch.arange(10).repeat_interleave(4)
    inner, outer = WCCN(nn.Identity(), 9).eval(), CohortNorm(nn.Identity(), 9, size=40).eval()
    inner.measure(x, y)
    outer.measure(inner(x), y)
    torch.testing.assert_close(learner.encoder.eval()(torch.from_numpy(items) / 255.0), outer(inner(x)))
