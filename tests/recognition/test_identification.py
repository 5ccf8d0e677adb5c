"""Identification and verification figures against literal loops."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickstudy.recognition.pairs import pooled_scores, share_interval, shown
from quickstudy.recognition.report.error_rates import achieved, lfw_view2, min_dcf, per_group
from quickstudy.recognition.report.identification import closed_set, enrollment_draws, open_set


@st.composite
def identified(draw: st.DrawFn, unknown: bool = False):
    """Scores [B][M] with ties, and the column of each probe, or −1."""
    names = draw(st.integers(2, 6))
    columns = draw(st.lists(st.integers(-1 if unknown else 0, names - 1), min_size=1, max_size=20))
    if unknown:
        columns = draw(st.permutations([*columns, -1, 0]))
    score = st.one_of(st.integers(-2, 2).map(float), st.floats(-10, 10))
    rows = st.lists(score, min_size=names, max_size=names)
    return draw(st.lists(rows, min_size=len(columns), max_size=len(columns))), columns


def literal_rank(row: list[float], own: int) -> int:
    return 1 + sum(score >= row[own] for j, score in enumerate(row) if j != own)


# Closed set


@given(identified())
def test_cmc_is_the_literal_one(drawn) -> None:
    scores, columns = drawn
    ranks = [literal_rank(row, own) for row, own in zip(scores, columns, strict=True)]
    found = closed_set(scores, columns)
    expected = [sum(r <= k for r in ranks) / len(ranks) for k in range(1, len(scores[0]) + 1)]
    np.testing.assert_allclose(found.cmc, expected)
    assert found.rank1 == pytest.approx(expected[0])
    assert (found.probes, found.names) == (len(scores), len(scores[0]))
    assert found.cmc[-1] == pytest.approx(1)
    hits = [r == 1 for r in ranks]
    assert found.rank1_95 == share_interval(hits, [[c, c] for c in columns])


@given(identified(), st.floats(0.1, 10), st.floats(-5, 5))
def test_ranks_don_t_depend_on_units(drawn, scale: float, shift: float) -> None:
    scores = np.round(np.array(drawn[0]), 3)  # so that what differs still does
    one, other = closed_set(scores, drawn[1]), closed_set(np.exp(scores / 10) * scale + shift, drawn[1])
    np.testing.assert_array_equal(one.cmc, other.cmc)


@given(identified(), st.randoms(use_true_random=False))
def test_the_order_of_the_names_makes_no_difference(drawn, random) -> None:
    scores, columns = np.array(drawn[0]), np.array(drawn[1])
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    names = np.array([f"name {c}" for c in range(len(order))])
    one = closed_set(scores, names[columns], names)
    other = closed_set(scores[:, order], names[columns], names[order])
    np.testing.assert_array_equal(one.cmc, other.cmc)
    np.testing.assert_array_equal(one.cmc, closed_set(scores, columns).cmc)


def test_a_constant_score_names_nobody() -> None:
    found = closed_set(np.zeros((3, 4)), [0, 1, 2])
    np.testing.assert_array_equal(found.cmc, [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("scores", "labels", "names", "message"),
    [
        ([[1.0, 2.0]], [2], None, "probe 0 is of no enrolled name"),
        ([[1.0, 2.0], [1.0, 2.0]], [7, 8], [7, 9], "probe 1 is of no enrolled name"),
        ([[1.0, 2.0]], [7], [7, 7], "two columns are named 7"),
        ([[1.0, math.inf]], [0], None, "the score of probe 0 for name 1 is inf"),
        ([[1.0, 2.0]], [0, 1], None, r"scores have shape \[1, 2\], labels \[2\]"),
        ([[1.0, 2.0]], [0], [1, 2, 3], r"names \[3\]"),
        (np.empty((0, 3)), [], None, r"scores have shape \[0, 3\]"),
    ],
)
def test_what_cannot_be_identified(scores, labels, names, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        closed_set(scores, labels, names)


# Open set


def literal_open(scores, columns, threshold: float) -> tuple[float, float]:
    """DIR and FPIR at a threshold, probe by probe."""
    right = known = wrong = unknown = 0
    for row, own in zip(scores, columns, strict=True):
        if own < 0:
            unknown += 1
            wrong += max(row) >= threshold
        else:
            known += 1
            right += literal_rank(row, own) == 1 and row[own] >= threshold
    return right / known, wrong / unknown


@given(identified(unknown=True), st.sampled_from([0.0, 0.01, 0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_dir_at_fpir_is_the_literal_one(drawn, fpir: float) -> None:
    scores, columns = drawn
    found = open_set(scores, columns, [fpir])
    thresholds = sorted({s for row in scores for s in row} | {math.inf})
    rates = [literal_open(scores, columns, t) for t in thresholds]
    assert found.dir == {fpir: pytest.approx(max(d for d, f in rates if f <= fpir))}
    for t, (d, f) in zip(thresholds, rates, strict=True):
        assert found.at(t) == pytest.approx((d, f))
    assert (found.known, found.unknown) == (sum(c >= 0 for c in columns), sum(c < 0 for c in columns))
    fpirs, dirs, _ = found.curve
    assert (np.diff(fpirs) >= 0).all()
    assert (np.diff(dirs) >= 0).all()


def test_nobody_unknown_or_nobody_known() -> None:
    with pytest.raises(ValueError, match="2 known and 0 unknown"):
        open_set([[1.0, 2.0], [0.0, 1.0]], [0, 1])
    with pytest.raises(ValueError, match="0 known and 1 unknown"):
        open_set([[1.0, 2.0]], [-1])
    with pytest.raises(ValueError, match=r"FPIR 1\.5"):
        open_set([[1.0, 2.0], [0.0, 1.0]], [0, -1], [1.5])


def test_names_that_are_not_enrolled_are_unknown() -> None:
    scores = [[3.0, 1.0], [1.0, 2.0], [2.5, 0.0]]
    by_name = open_set(scores, ["ann", "bob", "eve"], names=["ann", "bob"])
    assert by_name == open_set(scores, [0, 1, -1])
    assert by_name.dir == {0.01: 0.5, 0.1: 0.5}


# Costs


@given(
    st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-9, 9)), min_size=2, max_size=30),
    st.sampled_from([0.01, 0.1, 0.5, 0.9]),
    st.sampled_from([(1.0, 1.0), (10.0, 1.0), (1.0, 5.0)]),
    st.integers(0, 10**6),
)
def test_min_dcf_is_the_literal_one(scores, prior: float, costs, seed: int) -> None:
    genuine = np.random.default_rng(seed).permutation(np.arange(len(scores)) % 2)
    accept, reject = costs
    least = math.inf
    for t in [*scores, math.inf]:
        far = sum(s >= t for s, g in zip(scores, genuine, strict=True) if not g) / (genuine == 0).sum()
        frr = sum(s < t for s, g in zip(scores, genuine, strict=True) if g) / (genuine == 1).sum()
        least = min(least, reject * prior * frr + accept * (1 - prior) * far)
    expected = least / min(reject * prior, accept * (1 - prior))
    found = min_dcf(scores, genuine, prior, accept, reject)
    assert found == pytest.approx(expected)
    assert 0 <= found <= 1 + 1e-12


@pytest.mark.parametrize("arguments", [{"prior": 0.0}, {"prior": 1.0}, {"false_accept": 0.0}])
def test_costs_are_checked(arguments) -> None:
    with pytest.raises(ValueError, match="the prior must be between 0 and 1, costs positive"):
        min_dcf([1.0, 0.0], [1, 0], **arguments)


# At a threshold


@given(
    st.lists(
        st.tuples(st.integers(-3, 3).map(float), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=30,
    ),
    st.floats(-4, 4),
)
def test_achieved_is_the_literal_one(drawn, threshold: float) -> None:
    scores, pairs = [s for s, _, _ in drawn], [(i, j) for _, i, j in drawn]
    a = achieved(scores, pairs, threshold)
    same = [s for s, i, j in drawn if i == j]
    other = [s for s, i, j in drawn if i != j]
    assert (a.genuine, a.impostor) == (len(same), len(other))
    assert a.identities == len({i for p in pairs for i in p})
    if other:
        assert a.far == pytest.approx(sum(s >= threshold for s in other) / len(other))
        assert 0 <= a.far95[0] <= a.far95[1] <= 1
    else:
        assert math.isnan(a.far)
        assert "far" not in a.as_dict()
    if same:
        assert a.frr == pytest.approx(sum(s < threshold for s in same) / len(same))
    else:
        assert str(a).count("–") == 1 + (not other)
    json.dumps(a.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("scores", "pairs", "threshold", "message"),
    [
        ([1.0], [[0, 1], [1, 1]], 0.0, r"scores have shape \[1\], identities \[2, 2\]"),
        ([], np.empty((0, 2)), 0.0, r"scores have shape \[0\]"),
        ([math.nan], [[0, 1]], 0.0, "must be numbers"),
        ([1.0], [[0, 1]], math.nan, "must be numbers"),
    ],
)
def test_what_achieves_nothing(scores, pairs, threshold, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        achieved(scores, pairs, threshold)


def test_groups_are_measured_within_themselves() -> None:
    pairs = [[0, 0], [1, 1], [2, 2], [0, 1], [0, 2], [1, 2], [3, 3], [4, 4], [3, 0]]
    scores = [5.0, 1.0, 5.0, 5.0, 5.0, 0.0, 5.0, 0.0, 5.0]
    groups = per_group(scores, pairs, 3.0, ["young", "young", "old", "old", ""])
    assert list(groups) == ["old", "young"]
    young, old = groups["young"], groups["old"]
    assert (young.far, young.frr, young.genuine, young.impostor) == (1.0, 0.5, 2, 1)
    assert (old.frr, old.genuine, old.impostor) == (0.0, 2, 0)
    assert math.isnan(old.far)
    with pytest.raises(ValueError, match="identity 4 has no group: groups are of 4 identities"):
        per_group(scores, pairs, 3.0, ["young"] * 4)


def test_shares_are_shown_with_their_interval() -> None:
    assert shown(0.012, (0.006, 0.021)) == "1.20 % (0.60 … 2.10)"
    assert shown(math.nan, (math.nan, math.nan)) == "–"


# LFW


def best_accuracy(scores, same, threshold: float) -> float:
    return sum((s >= threshold) == g for s, g in zip(scores, same, strict=True)) / len(scores)


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 12), st.booleans())
def test_view2_is_the_literal_one(seed: int, folds: int, pairs: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    same = rng.integers(0, 2, (folds, pairs)).astype(bool)
    scores = rng.normal(size=(folds, pairs)) + same
    scores = scores.round() if ties else scores
    found = lfw_view2(scores, same)
    for f in range(folds):
        rest = [g for g in range(folds) if g != f]
        s, g = scores[rest].ravel().tolist(), same[rest].ravel().tolist()
        best = max(best_accuracy(s, g, t) for t in [*s, math.inf])
        assert best_accuracy(s, g, found.thresholds[f]) == pytest.approx(best)
        assert found.accuracies[f] == best_accuracy(scores[f], same[f], found.thresholds[f])
    assert found.mean == pytest.approx(sum(found.accuracies) / folds)
    spread = math.sqrt(sum((a - found.mean) ** 2 for a in found.accuracies) / (folds - 1))
    assert found.error == pytest.approx(spread / math.sqrt(folds))


def test_a_threshold_of_one_fold_for_others() -> None:
    scores = np.array([[4.0, 0.0], [3.0, 2.0], [9.0, 1.0], [2.0, 1.9]])
    same = np.array([[1, 0]] * 4)
    found = lfw_view2(scores, same, tuned_on=[0], tested_on=[1, 3])
    assert found.thresholds.tolist() == [2.0, 2.0]
    assert found.accuracies.tolist() == [0.5, 1.0]
    assert str(found) == "75.00 ± 25.00 % (2 folds, mean ± standard error)"
    assert lfw_view2(scores, same, tuned_on=[0]).accuracies.tolist() == [0.5, 1.0, 1.0]
    assert math.isnan(lfw_view2(scores, same, [0], [1]).error)
    with pytest.raises(ValueError, match=r"folds \[0\] tune and \[0, 1\] test"):
        lfw_view2(scores, same, [0], [0, 1])
    with pytest.raises(ValueError, match=r"folds \[7\] tune"):
        lfw_view2(scores, same, [7])
    with pytest.raises(ValueError, match=r"both must be \[F, P\]"):
        lfw_view2(scores[0], same[0])


def test_the_threshold_never_sees_its_own_fold() -> None:
    rng = np.random.default_rng(0)
    scores, same = rng.normal(size=(4, 30)), rng.integers(0, 2, (4, 30))
    one = lfw_view2(scores, same)
    changed = scores.copy()
    changed[2] = rng.normal(size=30)
    other = lfw_view2(changed, same)
    assert other.thresholds[2] == one.thresholds[2]


# Draws


def spy_on(calls: list):
    def scorer(gallery, probes):
        calls.append((gallery[..., 0].astype(int), probes[:, 0].astype(int)))
        return pooled_scores()(gallery, probes)

    return scorer


def test_draws_enroll_some_and_try_all_others() -> None:
    who = np.repeat([3, 5, 9], [4, 4, 2])
    items, calls = np.arange(10.0)[:, None], []
    found = enrollment_draws(items, who, spy_on(calls), shots=2, draws=30)
    assert (found.ways, found.shots, found.draws) == (2, 2, 30), "the third name has no item left to try"
    for enrolled, probes in calls:
        assert enrolled.shape == (2, 2)
        assert (who[enrolled] == [[3, 3], [5, 5]]).all()
        assert set(enrolled.ravel()) | set(probes) == set(range(8))
        assert not set(enrolled.ravel()) & set(probes)
    rights = []
    for enrolled, probes in calls:
        means = [sum(map(float, row)) / 2 for row in enrolled]
        own = [0 if who[p] == 3 else 1 for p in probes]
        rights.append(
            sum(abs(p - means[o]) < abs(p - means[1 - o]) for p, o in zip(probes, own, strict=True)) / 4
        )
    assert found.accuracy == pytest.approx(sum(rights) / 30)
    assert found.ci95 == pytest.approx(2.045230 * float(np.std(rights, ddof=1)) / math.sqrt(30))


def test_ways_are_drawn_anew() -> None:
    who = np.repeat(np.arange(6), 3)
    calls: list = []
    enrollment_draws(np.arange(18.0)[:, None], who, spy_on(calls), 1, draws=40, ways=3)
    drawn = {tuple(sorted(who[enrolled].ravel())) for enrolled, _ in calls}
    assert len(drawn) > 10
    for enrolled, probes in calls:
        assert set(who[probes]) == set(who[enrolled].ravel())
        assert len(probes) == 6


def test_probes_are_of_a_source_that_nothing_enrolled_is_of() -> None:
    rng = np.random.default_rng(1)
    who, sources = rng.integers(0, 4, 80), rng.integers(0, 5, 80)
    calls: list = []
    found = enrollment_draws(np.arange(80.0)[:, None], who, spy_on(calls), 3, 50, ways=3, sources=sources)
    assert found.cross_source
    assert "sources apart" in str(found)
    asked = set()
    for enrolled, probes in calls:
        (source,) = set(sources[probes])
        asked.add(source)
        assert source not in sources[enrolled]
        names = who[enrolled][:, 0]
        assert (who[enrolled] == names[:, None]).all()
        expected = np.flatnonzero(np.isin(who, names) & (sources == source))
        assert sorted(probes) == expected.tolist()
    assert asked == set(range(5))


def test_a_tie_is_an_error_and_a_constant_scorer_is_never_right() -> None:
    found = enrollment_draws(np.ones((6, 2)), [0, 0, 0, 1, 1, 1], pooled_scores(), 1, draws=3)
    assert (found.accuracy, found.ci95) == (0.0, 0.0)


def test_draws_are_repeatable_and_more_shots_help() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(10), 8)
    z = rng.normal(size=(10, 6))[who] + 0.9 * rng.normal(size=(80, 6))
    rates = []
    for shots in (1, 3, 6):
        found = enrollment_draws(z, who, pooled_scores(), shots, draws=40, seed=4)
        assert enrollment_draws(z, who, pooled_scores(), shots, draws=40, seed=4) == found
        assert enrollment_draws(z, who, pooled_scores(), shots, draws=40, seed=5) != found
        rates.append(found.accuracy)
    assert rates == sorted(rates)
    assert rates[2] - rates[0] > 2 * found.ci95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 4}, "0 of 2 names have items enough for 4 shots"),
        ({"shots": 1, "ways": 3}, "2 of 2 names have items enough for 1 shots and a probe: 3 must"),
        ({"shots": 0}, "shots is 0"),
        ({"shots": 1, "draws": 1}, "draws 1"),
        ({"shots": 1, "sources": [0, 1]}, r"sources \[2\]"),
        ({"shots": 1, "sources": [0] * 8}, "0 of 2 names"),
    ],
)
def test_what_cannot_be_drawn(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enrollment_draws(np.ones((8, 2)), [0] * 4 + [1] * 4, pooled_scores(), **options)


def test_figures_can_be_logged() -> None:
    scores = [[3.0, 1.0], [1.0, 2.0], [2.5, 0.0]]
    for figures in (
        closed_set(scores[:2], [0, 1]),
        open_set(scores, [0, 1, -1]),
        lfw_view2([[1.0, 0.0]] * 3, [[1, 0]] * 3),
        enrollment_draws(np.eye(3)[[0, 0, 1, 1]], [0, 0, 1, 1], pooled_scores(), 1, 2),
    ):
        assert json.loads(json.dumps(figures.as_dict(), allow_nan=False))
        assert "nan" not in str(figures)
