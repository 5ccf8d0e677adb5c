"""Scores of pairs against literal loops, and intervals against what they must cover."""

import math

import numpy as np
import pytest

from quickstudy.recognition import pairs as module
from quickstudy.recognition.pairs import draw_enrollment, pooled_scores, score_pairs, share_interval
from tests.support.clouds import cloud, energy_of


def literal_score(energy: str, pooling: str, samples, probe) -> float:
    """The score of one probe against the samples of one name, as the docstring says."""
    if pooling == "centroid":
        if energy == "cosine":
            samples = [s / math.sqrt(sum(x * x for x in s)) for s in samples]
        return -energy_of(energy, sum(samples) / len(samples), probe)
    energies = sorted(energy_of(energy, s, probe) for s in samples)
    if pooling == "nearest":
        return -energies[0]
    best = energies[:3]
    if energy == "euclidean":
        return -math.sqrt(sum(e * e for e in best) / len(best))
    return -sum(best) / len(best)


# Scores


@pytest.mark.parametrize("energy", ["cosine", "euclidean"])
@pytest.mark.parametrize("pooling", ["centroid", "nearest", "top"])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_scores_are_the_literal_ones(energy, pooling, samples: int) -> None:
    rng = np.random.default_rng(1)
    gallery, probes = rng.normal(size=(4, samples, 3)), rng.normal(size=(6, 3))
    expected = [[literal_score(energy, pooling, name, probe) for name in gallery] for probe in probes]
    np.testing.assert_allclose(pooled_scores(energy, pooling)(gallery, probes), expected, atol=1e-12)


@pytest.mark.parametrize("energy", ["cosine", "euclidean"])
def test_with_one_sample_all_poolings_are_the_same(energy) -> None:
    rng = np.random.default_rng(2)
    gallery, probes = rng.normal(size=(5, 1, 4)), rng.normal(size=(3, 4))
    centroid, nearest, top = (
        pooled_scores(energy, p)(gallery, probes) for p in ("centroid", "nearest", "top")
    )
    np.testing.assert_allclose(nearest, centroid, atol=1e-12)
    np.testing.assert_allclose(top, centroid, atol=1e-12)


def test_probes_in_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    gallery = np.broadcast_to(rng.normal(size=(2000, 1, 2)), (2000, 4, 2))
    probes = rng.normal(size=(1300, 2))  # more than go into ten million energies
    whole = pooled_scores("euclidean", "nearest")(gallery, probes)
    some = pooled_scores("euclidean", "nearest")(gallery, probes[1240:1260])
    np.testing.assert_allclose(whole[1240:1260], some, atol=1e-9)


def test_an_embedding_of_nothing_has_a_cosine_of_nought() -> None:
    assert pooled_scores("cosine")(np.zeros((1, 2, 3)), np.ones((1, 3))).tolist() == [[-1.0]]


@pytest.mark.parametrize(("energy", "pooling"), [("manhattan", "top"), ("cosine", "median")])
def test_unknown_energies_and_poolings(energy, pooling) -> None:
    with pytest.raises(ValueError, match=f"energy is '{energy}' and pooling '{pooling}'"):
        pooled_scores(energy, pooling)


# Pairs


def test_with_one_sample_the_pairs_are_all_pairs_of_different_items() -> None:
    z, who = cloud(3, 4)
    who = np.array(["b", "a", "c"])[who]
    pairs = score_pairs(z, who, pooled_scores())
    expected = [
        (-energy_of("euclidean", z[i], z[j]), "abc".index(who[i]), "abc".index(who[j]))
        for i in range(12)
        for j in range(i + 1, 12)
    ]
    assert (pairs.genuine, pairs.impostor) == (3 * 6, 66 - 18)
    np.testing.assert_allclose(pairs.scores, [e[0] for e in expected], atol=1e-9)
    assert pairs.identities.tolist() == [list(e[1:]) for e in expected]
    assert pairs.same.sum() == 18


def test_probes_are_never_enrolled_and_single_items_are_impostors_only() -> None:
    counts = [5, 3, 2, 1]
    who = np.repeat(np.arange(4), counts)
    seen: list[tuple[set[int], set[int]]] = []

    def spy(gallery, probes):
        seen.append((set(gallery[..., 0].ravel().tolist()), set(probes[:, 0].tolist())))
        assert gallery.shape == (2, 2, 1), "of the two identities with more than two items, two items each"
        return np.zeros((len(probes), len(gallery)))

    pairs = score_pairs(np.arange(11.0)[:, None], who, spy, samples=2)
    assert len(seen) == module.MOST_DRAWS
    assert len({frozenset(enrolled) for enrolled, _ in seen}) > 10
    for enrolled, probes in seen:
        assert len(enrolled) == 4
        assert not enrolled & probes
        assert enrolled | probes == set(range(11))
    # 8 items are of the two names, and each of the 11 items may be tried against both
    assert (pairs.genuine, pairs.impostor) == (8, 2 * 11 - 8)
    assert set(pairs.identities[:, 1].tolist()) == {0, 1}
    assert set(pairs.identities[:, 0].tolist()) == {0, 1, 2, 3}
    assert pairs.same.sum() == module.MOST_DRAWS * 4


@pytest.mark.parametrize("samples", [1, 2])
def test_with_sources_no_probe_meets_a_sample_of_its_own_source(samples: int) -> None:
    who, source = np.repeat(np.arange(3), 8), np.tile([0, 0, 1, 1, 2, 2, 3, 3], 3)
    met: set[tuple[int, int]] = set()

    def spy(gallery, probes):
        """The place of a probe and of a name's first and last sample, as one number."""
        parts = [probes[:, 0][:, None], gallery[:, 0, 0][None], gallery[:, -1, 0][None]]
        probe, first, last = np.broadcast_arrays(*parts)
        return (probe * 10_000 + first * 100 + last).astype(float)

    pairs = score_pairs(np.arange(24.0)[:, None], who, spy, samples, sources=source)
    for score, (i, j) in zip(pairs.scores.astype(int).tolist(), pairs.identities.tolist(), strict=True):
        probe, enrolled = score // 10_000, (score // 100 % 100, score % 100)
        assert (who[probe] == i and who[enrolled[0]] == j) or samples == 1
        assert all(source[probe] != source[e] for e in enrolled)
        met.add((probe, j))
    if samples == 1:
        apart = [(i, j) for i in range(24) for j in range(i) if source[i] != source[j]]
        assert len(pairs.scores) == len(apart)
        assert pairs.genuine == sum(who[i] == who[j] for i, j in apart) == pairs.same.sum()
        assert pairs.impostor == len(apart) - pairs.genuine
    else:
        assert (pairs.genuine, pairs.impostor) == (
            sum(who[probe] == j for probe, j in met),
            sum(who[probe] != j for probe, j in met),
        )


def test_draws_are_repeatable_and_differ_by_the_seed() -> None:
    z, who = cloud(4, 6)
    one, same, other = (score_pairs(z, who, pooled_scores(), 3, seed).scores for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_every_item_is_as_likely_to_be_enrolled() -> None:
    labels, rng = np.array([0, 1, 0, 1, 0, 1, 0, 1]), np.random.default_rng(0)
    times = np.zeros(8)
    for _ in range(2000):
        enrolled, left = draw_enrollment(labels, np.array([0, 1]), 2, rng)
        assert (labels[enrolled] == [[0, 0], [1, 1]]).all()
        assert sorted([*enrolled.ravel(), *left]) == list(range(8))
        times[enrolled.ravel()] += 1
    assert np.abs(times - 1000).max() < 5 * math.sqrt(2000 / 4)


@pytest.mark.parametrize("samples", [1, 2])
def test_many_items_are_thinned_but_identities_stay_whole(
    monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    monkeypatch.setattr(module, "MOST_ITEMS", 40)
    who = np.repeat(np.arange(32), [30, 20] + [3] * 10 + [1] * 20)
    pairs = score_pairs(np.arange(len(who))[:, None], who, pooled_scores(), samples)
    items = np.bincount(pairs.identities[pairs.same][:, 0], minlength=32)[:12]
    assert (items > 0).all(), "every identity that can have genuine pairs has some"
    assert pairs.genuine < 60
    if samples == 1:
        assert len(pairs.scores) == 40 * 39 // 2


def test_too_few_items_for_so_many_samples() -> None:
    with pytest.raises(ValueError, match="0 identities have more than 4 items"):
        score_pairs(*cloud(3, 4), pooled_scores(), 4)


# Intervals


def literal_shares(hits, pairs, drawn) -> list[float]:
    """Of each resample, pair by pair."""
    shares = []
    for c in drawn:
        hit = total = 0.0
        for h, (i, j) in zip(hits, pairs, strict=True):
            weight = c[i] if i == j else c[i] * c[j]
            hit, total = hit + weight * h, total + weight
        if total:
            shares.append(hit / total)
    return shares


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_the_literal_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 5, (30, 2))
    hits = rng.random(30) < 0.4
    k = len(np.unique(pairs))
    drawn = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), module.RESAMPLES)
    compact = np.unique(pairs, return_inverse=True)[1].reshape(-1, 2)
    expected = np.quantile(literal_shares(hits, compact, drawn), [0.025, 0.975])
    np.testing.assert_allclose(share_interval(hits, pairs, seed), expected, atol=1e-6)


def test_the_interval_covers_the_truth_though_pairs_depend_on_each_other() -> None:
    """Of twenty identities' pairs as if they were independent, the interval would be far too short."""
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(20, 1)
    pairs = np.stack([first, second], 1)
    covered = short = 0
    for i in range(100):
        alike = rng.normal(size=20)
        hits = alike[first] + alike[second] > 0  # true in half of all cases
        low, high = share_interval(hits, pairs, i)
        covered += low <= 0.5 <= high
        half = 1.96 * math.sqrt(0.25 / len(pairs))
        short += abs(hits.mean() - 0.5) <= half
    assert covered >= 88
    assert short < 60


def test_nothing_and_everything_have_an_interval_too() -> None:
    pairs = [[0, 1], [1, 0], [0, 2], [2, 1], [1, 2], [3, 0]]
    assert share_interval([False] * 6, pairs) == (0.0, 3 / 4)
    assert share_interval([True] * 6, pairs) == (1 - 3 / 4, 1.0)
    assert share_interval([False] * 2, [[0, 0], [1, 1]]) == (0.0, 1.0)


def test_many_identities_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    z, who = cloud(80, 4)
    pairs = score_pairs(z, who, pooled_scores())
    hits = pairs.scores[~pairs.same] > np.quantile(pairs.scores[~pairs.same], 0.95)
    whole = share_interval(hits, pairs.identities[~pairs.same])
    monkeypatch.setattr(module, "BLOCKS", 40)
    blocks = share_interval(hits, pairs.identities[~pairs.same])
    assert blocks != whole
    np.testing.assert_allclose(blocks, whole, atol=0.01)
