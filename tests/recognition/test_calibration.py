"""Thresholds against literal loops, and what calibrations refuse."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quickstudy.metric.verification import verification
from quickstudy.recognition.calibration import Calibration, ThresholdTable, calibrate, least_threshold
from quickstudy.recognition.pairs import jackknife_interval, pooled_scores, score_pairs
from quickstudy.recognition.pooling_choice import Poolings, compare_poolings
from quickstudy.recognition.report.error_rates import achieved
from tests.support.clouds import cloud, energy_of


def literal_threshold_is_least(impostor, far: float, threshold: float) -> bool:
    """The share accepted is at most FAR, and it would not be at the next lower score."""
    accepted = sum(s >= threshold for s in impostor) / len(impostor)
    lower = max((s for s in impostor if s < threshold), default=None)
    return accepted <= far and (lower is None or sum(s >= lower for s in impostor) / len(impostor) > far)


# Thresholds


def test_words_are_calibrated_across_speakers() -> None:
    """What a speaker's clips share makes other words alike as well as the same."""
    rng = np.random.default_rng(0)
    who, source = (a.ravel() for a in np.mgrid[:12, :4].repeat(3, 2))
    z = rng.normal(size=(12, 8))[who] + rng.normal(0, 0.7, (4, 8))[source] + rng.normal(0, 0.2, (len(who), 8))
    mixed, apart = (calibrate(z, who, pooled_scores(), 0.05, sources=s) for s in (None, source))
    scores = {
        same: [
            -energy_of("euclidean", z[i], z[j])
            for i in range(len(who))
            for j in range(i)
            if (who[i] == who[j]) == same and source[i] != source[j]
        ]
        for same in (True, False)
    }
    point = apart.tables[0].point
    assert point.threshold == pytest.approx(np.quantile(scores[False], 0.95), abs=0.02)
    assert point.frr == np.mean(np.asarray(scores[True]) < point.threshold)
    assert abs(point.threshold - mixed.tables[0].point.threshold) > 0.1
    assert [t.samples for t in mixed.tables] == [1, 2, 3, 5, 10]
    assert [t.samples for t in apart.tables] == [1, 2, 3, 5], "ten samples of twelve are of all four speakers"
    with pytest.raises(ValueError, match="come from different sources"):
        calibrate(z, who, pooled_scores(), sources=np.zeros(len(who), int))
    with pytest.raises(ValueError, match="one of each item"):
        calibrate(z, who, pooled_scores(), sources=source[1:])


@given(
    st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10)), min_size=1, max_size=60),
    st.floats(0.001, 0.5),
)
def test_the_threshold_is_the_least(scores: list[float], far: float) -> None:
    impostor = np.sort(scores)[::-1]
    assert literal_threshold_is_least(scores, far, least_threshold(impostor, far))


@pytest.mark.parametrize("k", range(1, 51))
def test_a_share_that_is_exactly_allowed_is_used_up(k: int) -> None:
    """0.29 · 100 is 28.999999999999996 in floating point."""
    impostor = np.arange(100.0)[::-1]
    assert (impostor >= least_threshold(impostor, k / 100)).sum() == k


def test_ties_are_accepted_or_rejected_as_one() -> None:
    impostor = np.array([5.0] * 3 + [1.0] * 7)
    assert (impostor >= least_threshold(impostor, 0.2)).sum() == 0
    assert (impostor >= least_threshold(impostor, 0.3)).sum() == 3


@pytest.mark.parametrize("samples", [1, 3])
def test_a_table_says_what_its_thresholds_do_to_the_pairs(samples: int) -> None:
    z, who = cloud(12, 6)
    table = calibrate(z, who, pooled_scores(), 0.03, samples=[samples]).tables[0]
    pairs = score_pairs(z, who, pooled_scores(), samples)
    impostor, genuine = pairs.scores[~pairs.same].tolist(), pairs.scores[pairs.same].tolist()
    assert (table.far, table.samples, table.identities) == (0.03, samples, 12)
    assert 0.03 in {p.far for p in table.points}
    assert [p.far for p in table.points] == sorted((p.far for p in table.points), reverse=True)
    for point in table.points:
        assert point.far == 0 or point.far * table.impostor >= 3, "three accepted pairs are behind each"
        assert literal_threshold_is_least(impostor, point.far, point.threshold)
        assert point.frr == sum(s < point.threshold for s in genuine) / len(genuine)
        a = achieved(pairs.scores, pairs.identities, point.threshold)
        assert point.far95 == a.far95
    assert table.points[-1].far == 0
    assert table.points[-1].threshold > max(impostor)


@pytest.fixture(scope="module")
def made() -> Calibration:
    return calibrate(*cloud(30, 8), pooled_scores(), 0.01, samples=(1, 3, 5))


@given(
    st.floats(1e-6, 0.5),
    st.floats(1e-6, 0.5),
    st.integers(1, 12),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
)
def test_less_far_or_more_names_is_a_higher_threshold(made, f, g, samples, m, n) -> None:
    strict, lax = sorted((f, g))
    assert made.threshold(samples, m, strict) >= made.threshold(samples, m, lax)
    assert made.threshold(samples, max(m, n), f) >= made.threshold(samples, min(m, n), f)
    assert made.support(samples, min(m, n), lax) >= made.support(samples, max(m, n), strict)


def test_between_points_thresholds_are_straight_over_the_logarithm(made: Calibration) -> None:
    table = made.tables[0]
    points = {p.far: p.threshold for p in table.points}
    assert made.threshold(far=0.02) == pytest.approx(points[0.02])
    half = made.threshold(far=math.sqrt(0.02 * 0.05))
    assert half == pytest.approx((points[0.02] + points[0.05]) / 2)


def test_a_name_among_many_gets_its_share_of_the_rate(made: Calibration) -> None:
    share = 1 - (1 - 0.2) ** (1 / 7)
    assert made.threshold(names=7, far=0.2) == pytest.approx(made.threshold(far=share))
    assert made.threshold(names=1) == made.threshold(far=0.01) == made.tables[0].point.threshold


def test_between_tables_the_stricter_counts_and_beyond_the_last(made: Calibration) -> None:
    of = {t.samples: t.threshold(0.01) for t in made.tables}
    assert list(of) == [1, 3, 5]
    assert made.threshold(2) == max(of[1], of[3])
    assert made.threshold(4) == max(of[3], of[5])
    assert made.threshold(9) == of[5]
    assert made.probability(-2.0, 4) == min(made.probability(-2.0, n) for n in (3, 5))


def test_names_that_are_independent_are_taken_for_as_often_as_asked() -> None:
    """Of independent scores, the best of ten exceeds the threshold for ten names as often as was asked."""
    z, who = cloud(60, 10, noise=0.5, dimensions=16)
    made = calibrate(z, who, lambda g, p: _random_scores(len(g), len(p)), 0.1, samples=[2])
    strangers = np.random.default_rng(9).normal(size=(20_000, 10)).max(1)
    assert (strangers >= made.threshold(2, 10)).mean() == pytest.approx(0.1, abs=0.01)


def _random_scores(names: int, probes: int):
    """Normal, but far higher in one of sixty columns."""
    rng = np.random.default_rng(names * probes)
    scores = rng.normal(size=(probes, names))
    own = np.repeat(np.arange(names), probes // names)
    scores[np.arange(probes), own] += 5
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
def test_the_rate_holds_for_other_identities(samples: int) -> None:
    """The end of it all: calibrated on some, tried on others that are like them, it is right on average.

    By its own 95 % interval it is right in fewer than 95 of 100 cases, as the threshold has its chance too.
    """
    rates, within = [], 0
    for seed in range(16):
        z, who = cloud(100, 6, seed)
        made = calibrate(z[who < 60], who[who < 60], pooled_scores(), 0.01, samples=[samples])
        pairs = score_pairs(z[who >= 60], who[who >= 60], pooled_scores(), samples)
        a = achieved(pairs.scores, pairs.identities, made.threshold(samples))
        rates.append(a.far)
        within += a.far95[0] <= 0.01 <= a.far95[1]
    assert np.mean(rates) == pytest.approx(0.01, abs=0.002)
    assert within >= 11


# Costs


@pytest.mark.parametrize("cost", [(1.0, 1.0, 0.5), (10.0, 1.0, 0.5), (1.0, 10.0, 0.1)])
def test_the_cost_is_least(cost) -> None:
    z, who = cloud(12, 5)
    made = calibrate(z, who, pooled_scores(), cost=cost, samples=[1])
    pairs = score_pairs(z, who, pooled_scores())
    same, other = pairs.scores[pairs.same], pairs.scores[~pairs.same]

    def expected(t: float) -> float:
        return cost[1] * cost[2] * (same < t).mean() + cost[0] * (1 - cost[2]) * (other >= t).mean()

    least = min(expected(t) for t in [*pairs.scores, math.inf])
    assert made.cost == cost
    assert made.tables[0].supports(made.far)
    assert expected(made.threshold()) == pytest.approx(least)


def test_dearer_strangers_are_kept_out() -> None:
    z, who = cloud(20, 5)
    cheap, dear = (
        calibrate(z, who, pooled_scores(), cost=(c, 1.0, 0.5), samples=[1, 2]) for c in (1.0, 20.0)
    )
    for samples in (1, 2):
        assert dear.threshold(samples) > cheap.threshold(samples)


# Probabilities


def test_probabilities_are_right_as_often_as_they_say() -> None:
    """Normal scores of equal spread have a logistic posterior, of slope 2 and intercept 0."""

    def scorer(gallery, probes):
        rng = np.random.default_rng(5)
        mine = gallery[:, 0] == probes.T
        return (rng.normal(size=mine.shape) + np.where(mine, 1, -1)).T

    who = np.repeat(np.arange(40), 40)
    made = calibrate(who[:, None].astype(float), who, scorer, samples=[1])
    (table,) = made.tables
    assert table.slope == pytest.approx(2, rel=0.05)
    assert table.intercept == pytest.approx(0, abs=0.1)
    expected = 1 / (1 + math.exp(-table.slope * 0.7 - table.intercept))
    assert made.probability(0.7) == pytest.approx(expected)
    assert made.probability([[0.0, 1e6], [-1e6, 3.0]]).shape == (2, 2)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.integers(1, 12))
def test_probabilities_rise_with_the_score(made, scores, samples) -> None:
    p = made.probability(sorted(scores), samples)
    assert (np.diff(p) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()


def test_scores_the_wrong_way_round_are_refused() -> None:
    z, who = cloud(10, 4, noise=0.1)
    with pytest.raises(ValueError, match="scores don't separate"):
        calibrate(z, who, lambda g, p: -pooled_scores()(g, p))


def test_constant_scores_are_refused() -> None:
    z, who = cloud(10, 4)
    with pytest.raises(ValueError, match="scores don't separate"):
        calibrate(z, who, lambda g, p: np.zeros((len(p), len(g))))


# Warnings


def test_a_rate_that_the_pairs_cannot_support() -> None:
    z, who = cloud(6, 5)
    made = calibrate(z, who, pooled_scores(), 0.001, samples=[1, 2])
    assert [w.split(":")[0] for w in made.warnings] == [
        "375 impostor pairs of 6 identities (1 sample) can't support a FAR of 0.1 %",
        "150 impostor pairs of 6 identities (2 samples) can't support a FAR of 0.1 %",
    ]
    pairs = score_pairs(z, who, pooled_scores())
    assert made.threshold() > pairs.scores[~pairs.same].max()
    assert not made.support()
    assert made.support(far=0.1)
    assert not made.support(names=10_000, far=0.1)


def test_an_uncertain_rate() -> None:
    made = calibrate(*cloud(6, 10), pooled_scores(), 0.02, samples=[1])
    low, high = made.tables[0].point.far95
    assert made.warnings == (
        "1500 impostor pairs of 6 identities (1 sample) leave the FAR uncertain: 2 % is aimed at, the 95 % "
        f"interval is {100 * low:.2g} … {100 * high:.2g} %; bring more identities",
    )


def test_enough_identities_need_no_warning() -> None:
    assert calibrate(*cloud(80, 3), pooled_scores(), 0.02, samples=[1]).warnings == ()


def test_tables_go_as_far_as_the_data() -> None:
    z, who = cloud(6, 6)
    assert [t.samples for t in calibrate(z, who, pooled_scores()).tables] == [1, 2, 3, 5]
    assert [t.samples for t in calibrate(z[:-1], who[:-1], pooled_scores()).tables] == [1, 2, 3, 5]
    kept = np.concatenate([np.arange(8), [12, 18]])  # of 6, 2, 1 and 1 items
    assert [t.samples for t in calibrate(z[kept], who[kept], pooled_scores()).tables] == [1]


# Poolings


@pytest.mark.parametrize("sources", [False, True])
def test_the_pooling_with_the_least_eer_in_the_mean_is_chosen(sources: bool) -> None:
    z, who = cloud(12, 7, noise=1.0)
    source = np.tile(np.arange(7), 12) if sources else None
    found = compare_poolings(z, who, "cosine", samples=(1, 2, 5), seed=3, sources=source)
    expected: dict[int, dict[str, float]] = {}
    for n in (2, 5):
        expected[n] = {}
        for pooling in ("centroid", "nearest", "top"):
            pairs = score_pairs(z, who, pooled_scores("cosine", pooling), n, 3, source)
            expected[n][pooling] = verification(pairs.scores, pairs.same).eer
    assert found.eers == expected
    means = {p: (expected[2][p] + expected[5][p]) / 2 for p in expected[2]}
    assert found.means == pytest.approx(means)
    assert found.chosen == min(means, key=means.__getitem__)
    assert found.as_dict() == {"pooling": found.chosen, "eers": {str(n): expected[n] for n in (2, 5)}}
    assert str(found).startswith(f"pooling {found.chosen} (EER with 2, 5 samples, mean: centroid ")


def test_names_of_several_looks_are_best_taken_by_the_nearest_sample() -> None:
    """As people with and without glasses: the mean of both looks like neither."""
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(40, 2, 8))
    z = (looks[:, None] + 0.1 * rng.normal(size=(40, 6, 2, 8))).reshape(-1, 8)
    found = compare_poolings(z, np.repeat(np.arange(40), 12), "euclidean", samples=(5, 10))
    assert found.chosen == "nearest"
    assert found.means["nearest"] < 0.7 * found.means["centroid"]


def test_identities_that_have_genuine_pairs_are_counted() -> None:
    z, who = cloud(12, 6, noise=1.0)
    source = np.where(who < 3, np.tile(np.arange(6), 12), 0)  # all samples of nine names are of one source
    found = compare_poolings(z, who, "euclidean", samples=(2,), sources=source)
    assert found.identities == {2: 3}
    assert found.counted == []
    assert compare_poolings(z, who, "euclidean", samples=(2,)).identities == {2: 12}


def test_beyond_the_last_table_more_samples_are_more_chances_unless_their_mean_counts() -> None:
    made = calibrate(*cloud(40, 6), pooled_scores(), 0.05, samples=(1, 4))
    assert made.threshold(20) == made.threshold(4)
    nearest = replace(made, pooling="nearest")
    assert nearest.threshold(4) == made.threshold(4)
    assert nearest.threshold(20) == made.threshold(4, names=5) > made.threshold(4)
    assert nearest.threshold(20, names=2) == made.threshold(4, names=10)
    assert nearest.support(20) == made.support(4, names=5)
    assert Calibration.from_dict(json.loads(json.dumps(nearest.as_dict()))) == nearest
    older = {k: v for k, v in made.as_dict().items() if k != "pooling"}
    assert Calibration.from_dict(older) == made


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(3))
def test_the_far_holds_for_names_with_more_samples_than_the_last_table(seed: int) -> None:
    z, who = cloud(60, 22, seed)
    scorer = pooled_scores("euclidean", "nearest")
    made = replace(calibrate(z, who, scorer, 0.02, samples=(1, 5)), pooling="nearest")
    pairs = score_pairs(z, who, scorer, 20)
    far = (pairs.scores[~pairs.same] >= made.threshold(20)).mean()
    assert far < 0.03, "as asked, or stricter"
    assert (pairs.scores[~pairs.same] >= made.tables[-1].point.threshold).mean() > far


def test_few_identities_are_no_reason_to_leave_the_centroid() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(9, 2, 8))[:, None] + 0.1 * rng.normal(size=(9, 6, 2, 8))
    found = compare_poolings(z.reshape(-1, 8), np.repeat(np.arange(9), 12), "euclidean", samples=(5,))
    assert found.means["nearest"] < found.means["centroid"]
    assert found.chosen == "centroid"
    assert str(found).startswith("pooling centroid (fewer than 10 names are too few to choose by; EER with 5")
    level = dict.fromkeys(("centroid", "nearest", "top"), 0.2)
    some = Poolings({2: level | {"top": 0.1}, 5: level | {"nearest": 0.0}}, {2: 10, 5: 9})
    assert (some.chosen, some.counted) == ("top", [2])
    assert Poolings({2: level}, {2: 10}).chosen == "centroid"


def test_all_is_100_percent_and_not_1e_02() -> None:
    made = calibrate(*cloud(2, 2), pooled_scores(), 0.3)
    assert made.tables[0].point.far95[1] == 1
    assert "… 100 %)" in str(made)


def test_without_several_samples_the_pooling_is_the_centroid_unless_another_is_asked_for() -> None:
    found = compare_poolings(*cloud(12, 2), "euclidean")
    assert (found.chosen, found.eers, found.means) == ("centroid", {}, {})
    assert str(found) == "pooling centroid (too few samples to compare)"
    assert str(Poolings({}, {}, "top")) == "pooling top (as asked)"


# Errors


@pytest.mark.parametrize(
    ("z", "who", "options", "message"),
    [
        (np.ones((4, 2)), [0, 0, 0, 0], {}, "4 items of 1 identities"),
        (np.ones((4, 2)), [0, 1, 2, 3], {}, "4 items of 4 identities"),
        (np.ones((4, 2)), [0, 0, 1], {}, r"shape \[4, 2\], labels \[3\]"),
        (np.ones(4), [0, 0, 1, 1], {}, r"shape \[4\]"),
        ([[0.0], [1.0], [math.nan], [2.0]], [0, 0, 1, 1], {}, "embedding 2 isn't finite"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"far": 0.0}, "far is 0.0"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"far": 0.51}, "far is 0.51"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"far": math.nan}, "far is nan"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"cost": (1.0, 0.0, 0.5)}, "cost is"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"cost": (1.0, 1.0, 1.0)}, "cost is"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"samples": [2, 5]}, r"samples \[2, 5\]: the largest have 2 and 2"),
    ],
)
def test_what_cannot_be_calibrated(z, who, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(z, who, pooled_scores(), **options)


def test_a_scorer_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"the scorer gave \[6, 5\] .* it must give \[6, 6\]"):
        calibrate(*cloud(3, 2), lambda g, p: np.zeros((len(p), len(g) - 1)))


def test_asking_for_what_is_out_of_range(made: Calibration) -> None:
    for arguments, message in (
        ({"samples": 0}, "samples is 0"),
        ({"names": 0}, "names is 0"),
        ({"far": 0.0}, "far is 0"),
        ({"far": 0.7}, "far is 0.7"),
    ):
        with pytest.raises(ValueError, match=message):
            made.threshold(**arguments)


# In a manifest


@pytest.mark.parametrize("cost", [None, (1.0, 2.0, 0.1)])
def test_there_and_back(cost) -> None:
    made = calibrate(*cloud(8, 4), pooled_scores(), cost=cost, seed=3)
    text = json.dumps(made.as_dict(), indent=2, allow_nan=False)
    back = Calibration.from_dict(json.loads(text))
    assert back == made
    assert back.threshold(2, 5) == made.threshold(2, 5)


@pytest.mark.parametrize("missing", ["far", "cost", "tables", "warnings", "seed"])
def test_what_is_no_calibration(made: Calibration, missing: str) -> None:
    parts = made.as_dict()
    del parts[missing]
    with pytest.raises(ValueError, match="no calibration"):
        Calibration.from_dict(parts)


def test_a_damaged_table(made: Calibration) -> None:
    parts = json.loads(json.dumps(made.as_dict()))
    del parts["tables"][1]["points"][0]["frr"]
    with pytest.raises(ValueError, match="no calibration"):
        Calibration.from_dict(parts)


def test_it_reads_as_a_sentence(made: Calibration) -> None:
    first, *rest = str(made).split("\n")
    assert len(rest) == 2
    assert first.startswith(f"threshold {made.threshold():.4g} for FAR 1 % (95 %: ")
    assert first.endswith("(1 sample, 840 genuine + 27840 impostor pairs of 30 identities)")


def test_a_gallery_of_unequal_numbers_is_calibrated_likewise() -> None:
    z, who = cloud(20, 8)
    kept = np.flatnonzero(np.arange(160) % 8 <= who % 8)
    made = calibrate(z[kept], who[kept], pooled_scores("cosine", "top"), 0.05)
    assert [t.samples for t in made.tables] == [1, 2, 3, 5]
    pairs = score_pairs(z[kept], who[kept], pooled_scores("cosine", "top"), 5)
    assert (pairs.scores[~pairs.same] >= made.threshold(5)).mean() <= 0.05


@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=8, deadline=None)
def test_another_unit_of_the_scores_is_another_unit_of_the_thresholds(seed, scale, shift) -> None:
    z, who = cloud(8, 3, seed)
    scorer = pooled_scores()
    one = calibrate(z, who, scorer, 0.05, samples=[1])
    other = calibrate(z, who, lambda g, p: scale * scorer(g, p) + shift, 0.05, samples=[1])
    assert other.threshold() == pytest.approx(scale * one.threshold() + shift, rel=1e-6, abs=1e-6)
    assert other.probability(scale * -2 + shift) == pytest.approx(one.probability(-2.0), abs=1e-3)


# Real faces


def test_orl_by_its_pixels(real_data: Callable[[str], Path]) -> None:
    """Twenty people calibrate, ten others try, over and over with others: on average the rate holds.

    The intervals of both must meet; of any ten people the rate may be far off, by their own interval too.
    """
    root = real_data("orl_faces") / "orl_faces"
    faces = []
    for person in range(1, 41):
        for k in range(1, 11):
            with Image.open(root / f"s{person}" / f"{k}.pgm") as image:
                faces.append(np.asarray(image.resize((23, 28)), np.float64).ravel() / 255)
    x, who, scorer = np.stack(faces), np.repeat(np.arange(40), 10), pooled_scores("cosine")
    x -= x.mean(1, keepdims=True)
    rng, rates = np.random.default_rng(0), []
    for _ in range(20):
        people = rng.permutation(40)
        development, test = np.isin(who, people[:20]), np.isin(who, people[20:30])
        made = calibrate(x[development], who[development], scorer, 0.01, samples=[1])
        pairs = score_pairs(x[test], who[test], scorer)
        assert (pairs.genuine, pairs.impostor) == (450, 4500)
        a = achieved(pairs.scores, pairs.identities, made.threshold())
        low, high = made.tables[0].point.far95
        assert low <= a.far95[1]
        assert a.far95[0] <= high
        rates.append(a.far)
    assert np.mean(rates) == pytest.approx(0.01, abs=0.007)


def test_a_table_is_what_from_dict_makes(made: Calibration) -> None:
    table = made.as_dict()["tables"][1]
    assert ThresholdTable.from_dict(table) == made.tables[1]


def test_three_accepted_pairs_are_enough_and_two_are_not() -> None:
    z, who = cloud(3, 10)
    for far, enough in ((0.01, True), (0.0099, False)):
        made = calibrate(z, who, pooled_scores(), far, samples=[1])
        assert made.tables[0].impostor == 300
        assert made.tables[0].supports(far) is enough
        assert made.support() is enough


def test_the_interval_of_a_jackknife_holds_for_few_identities() -> None:
    """Of pairs that are hits with probability .2, by the identities that they have in common."""
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(5, 1)
    covered = []
    for _ in range(300):
        likely = rng.beta(2, 2, 5)
        hits = rng.random((10, 40)) < (0.8 * likely[first] * likely[second])[:, None]
        pairs = np.stack([first, second], 1).repeat(40, 0)
        low, high = jackknife_interval(hits.ravel(), pairs)
        covered.append(low <= 0.2 <= high)
    assert np.mean(covered) > 0.9
    assert jackknife_interval(np.ones(3, bool), np.array([[0, 1], [0, 2], [1, 2]])) == (1, 1)
    low, high = jackknife_interval(np.array([True, False, False]), np.array([[0, 1], [0, 2], [1, 2]]))
    assert (low, high) == (0, 1)
