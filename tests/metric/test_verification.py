"""Verification figures by hand, against a literal computation in fractions, and from a Siamese network."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import verification, verify
from tests.support.pools import coded_pool


def literal(scores: list[float], genuine: list[int], far: float) -> tuple[float, float, float]:
    """AUC, EER and TAR at FAR, pair by pair and threshold by threshold."""
    same = [s for s, g in zip(scores, genuine, strict=True) if g]
    other = [s for s, g in zip(scores, genuine, strict=True) if not g]
    wins = sum(Fraction(2 if a > b else a == b) for a in same for b in other) / 2
    points = [
        (Fraction(sum(b >= t for b in other), len(other)), Fraction(sum(a >= t for a in same), len(same)))
        for t in [math.inf, *sorted(set(scores), reverse=True)]
    ]
    for (x0, y0), (x1, y1) in pairwise(points):
        # where the line between the two points meets y = 1 − x
        w = (1 - x0 - y0) / (x1 - x0 + y1 - y0)
        if 0 <= w <= 1:
            eer = x0 + w * (x1 - x0)
            break
    tar = max(y for x, y in points if float(x) <= far)
    return float(wins / len(same) / len(other)), float(eer), float(tar)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Of both kinds, with ties."""
    genuine = draw(st.permutations([0, 1, *draw(st.lists(st.integers(0, 1), max_size=25))]))
    score = st.one_of(st.integers(-4, 4).map(float), st.floats(-100, 100))
    return draw(st.lists(score, min_size=len(genuine), max_size=len(genuine))), genuine


# By hand


def test_perfectly_told() -> None:
    v = verification([4.0, 3.0, 2.0, 1.0], [1, 1, 0, 0])
    assert (v.auc, v.eer, v.threshold, v.tar) == (1.0, 0.0, 3.0, {0.01: 1.0, 0.001: 1.0})
    assert (v.genuine, v.impostor) == (2, 2)


def test_perfectly_wrong() -> None:
    v = verification([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0])
    assert (v.auc, v.eer, v.tar[0.01]) == (0.0, 1.0, 0.0)


def test_a_constant_score_is_worth_nothing() -> None:
    v = verification(torch.full((10,), -0.3), torch.arange(10) < 4)
    assert (v.auc, v.eer, v.tar) == (0.5, 0.5, {0.01: 0.0, 0.001: 0.0})
    assert v.threshold == pytest.approx(-0.3)


def test_the_equal_error_rate_lies_between_two_points() -> None:
    """Points (0, 0), (0, 1/2), (1/3, 1/2), (1/3, 1), …: 1 − TAR falls from 1/2 to 0 where FAR is 1/3."""
    v = verification([9.0, 5.0, 7.0, 2.0, 1.0], [1, 1, 0, 0, 0])
    assert v.eer == pytest.approx(1 / 3)
    assert v.threshold == pytest.approx(7 + (5 - 7) / 3)
    assert v.auc == pytest.approx(5 / 6)


def test_a_tie_of_both_kinds_is_one_step() -> None:
    """Points (0, 0), (1/2, 1/2), (1, 1) and not the corners that an order of the ties would make."""
    v = verification([1.0, 0.0, 1.0, 0.0], [1, 1, 0, 0], fars=[0.0, 0.4999, 0.5, 1.0])
    assert (v.auc, v.eer, v.threshold) == (0.5, 0.5, 1.0)
    assert v.tar == {0.0: 0.0, 0.4999: 0.0, 0.5: 0.5, 1.0: 1.0}
    np.testing.assert_array_equal(v.curve, [[0, 0.5, 1], [0, 0.5, 1]])


def test_tar_at_far_is_not_interpolated() -> None:
    """One impostor pair in a hundred scores high: FAR 1 % lets it in, anything below lets in none."""
    scores = [3.0, 1.0, *[2.0], *[0.0] * 99]
    genuine = [1, 1, *[0] * 100]
    v = verification(scores, genuine, fars=[0.01, 0.0099, 0.001])
    assert v.tar == {0.01: 1.0, 0.0099: 0.5, 0.001: 0.5}


# Against the literal computation


@given(pairs(), st.sampled_from([0.0, 0.001, 0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_agrees_with_the_literal_computation(drawn: tuple[list[float], list[int]], far: float) -> None:
    v = verification(*drawn, fars=[far])
    assert (v.auc, v.eer, v.tar[far]) == pytest.approx(literal(*drawn, far), abs=1e-12)


@pytest.mark.slow
@given(pairs())
def test_the_threshold_lies_between_the_two_operating_points(drawn: tuple[list[float], list[int]]) -> None:
    scores, genuine = (np.array(a) for a in drawn)
    v = verification(*drawn)

    def errors(accepted: np.ndarray) -> tuple[float, float]:
        return accepted[genuine == 0].mean(), 1 - accepted[genuine == 1].mean()

    (far0, frr0), (far1, frr1) = errors(scores > v.threshold), errors(scores >= v.threshold)
    lower = scores[scores < v.threshold]
    if len(lower):
        far1, frr1 = errors(scores >= lower.max())
    assert far0 - 1e-12 <= v.eer <= far1 + 1e-12
    assert frr1 - 1e-12 <= v.eer <= frr0 + 1e-12


@given(pairs())
def test_the_curve_rises_and_so_does_tar(drawn: tuple[list[float], list[int]]) -> None:
    v = verification(*drawn, fars=np.linspace(0, 1, 21).tolist())
    far, tar = v.curve
    assert (np.diff(far) >= 0).all()
    assert (np.diff(tar) >= 0).all()
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert (np.diff(list(v.tar.values())) >= 0).all()


@given(pairs(), st.randoms(use_true_random=False))
def test_only_the_order_of_the_scores_counts(drawn: tuple[list[float], list[int]], random) -> None:
    scores, genuine = drawn
    v, unit = verification(scores, genuine), {s: float(i) for i, s in enumerate(sorted(set(scores)))}
    assert replace(verification([unit[s] ** 3 - 7 for s in scores], genuine), threshold=v.threshold) == v
    order = random.sample(range(len(scores)), len(scores))
    assert verification([scores[i] for i in order], [genuine[i] for i in order]) == v


@given(pairs())
def test_kinds_exchanged_and_scores_negated(drawn: tuple[list[float], list[int]]) -> None:
    scores, genuine = drawn
    v, w = verification(scores, genuine), verification([-s for s in scores], [1 - g for g in genuine])
    assert (w.auc, w.eer) == pytest.approx((v.auc, v.eer), abs=1e-12)


# What it says, and what it refuses


def test_a_line_and_what_goes_into_a_log() -> None:
    v = verification([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0], fars=[0.01])
    assert str(v) == "EER 50.00 %, AUC 0.7500, TAR 50.00 % at FAR 1 % (2 genuine + 2 impostor pairs)"
    v = replace(v, episodes=7, seed=3, setting="5w1s", mode="inductive")
    assert str(v).endswith("(2 genuine + 2 impostor pairs, 5w1s, inductive, 7 episodes, seed 3)")
    assert json.loads(json.dumps(v.as_dict())) == {
        "auc": 0.75,
        "eer": 0.5,
        "threshold": 3.0,
        "tar": {"0.01": 0.5},
        "genuine": 2,
        "impostor": 2,
        "episodes": 7,
        "seed": 3,
        "setting": "5w1s",
        "mode": "inductive",
    }


@pytest.mark.parametrize(
    ("scores", "genuine", "message"),
    [
        ([], [], "there are 0 genuine and 0 impostor pairs: it takes some of each"),
        ([1.0, 2.0], [1, 1], "there are 2 genuine and 0 impostor pairs"),
        ([1.0, 2.0], [False, False], "there are 0 genuine and 2 impostor pairs"),
        ([1.0, math.nan], [1, 0], "score 1 is nan: scores must be finite"),
        ([-math.inf, 1.0], [1, 0], "score 0 is -inf"),
        ([1.0, 2.0], [1], r"scores have shape \[2\], genuine \[1\]: both must be \[B\]"),
        ([[1.0, 2.0]], [[1, 0]], r"scores have shape \[1, 2\]"),
        ([1.0, 2.0], [1, 2], "genuine holds 2: it must be 1"),
    ],
)
def test_what_does_not_fit_is_said(scores: list, genuine: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verification(scores, genuine)


def test_a_far_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"FAR 10 is not in \[0, 1\]: it is a share, 0.01 is 1 %"):
        verification([1.0, 2.0], [0, 1], fars=[10])


# Of a network


def of_class(classes: int = 8, items: int = 9) -> Episodes:
    """Pictures whose first pixel is the class."""
    return Episodes(coded_pool([items] * classes), Setting(4, 2, 3), tasks=3, seed=5)


class Pixel(nn.Module):
    """Embeds a picture as one of its pixels: the first says the class, the second the item."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, x):
        return 255 * x.flatten(1)[:, self.which : self.which + 1]


class Constant(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 2)


def test_a_network_that_sees_the_class_makes_no_error() -> None:
    v = verify(Siamese(Pixel(0)), of_class(), 7)
    each = 4 * 5 * 4 // 2  # 4 classes of 5 items
    assert (v.genuine, v.impostor) == (7 * each, 7 * each)
    assert (v.auc, v.eer, v.tar) == (1.0, 0.0, {0.01: 1.0, 0.001: 1.0})
    assert -1 <= v.threshold <= 0
    assert (v.episodes, v.seed, v.setting, v.mode) == (7, 5, "4w2s", "inductive")


def test_a_constant_network_is_at_chance() -> None:
    v = verify(Siamese(Constant()), of_class(), 4)
    assert (v.auc, v.eer, v.tar) == (0.5, 0.5, {0.01: 0.0, 0.001: 0.0})


def test_pairs_are_those_of_the_first_tasks_and_the_draw_is_repeatable() -> None:
    learner, episodes = Siamese(Pixel(1)), of_class()
    v = verify(learner, episodes, 4)
    assert verify(learner, episodes, 4) == v
    other = Episodes(episodes.pool, episodes.setting, episodes.tasks, seed=6)
    assert not np.array_equal(verify(learner, other, 4).curve, v.curve)
    (energies, genuine), (last, last_genuine) = learner.pairs(episodes[0]), learner.pairs(episodes[1][:1])
    scores = -torch.cat([energies[genuine], last[last_genuine]]).double()
    shares = {(scores >= t).double().mean().item() for t in scores.tolist()}
    assert v.genuine == len(scores)
    assert shares <= set(v.curve[1].tolist()), "all genuine pairs of the first four tasks, and no others"
    assert len(set(v.curve[1].tolist())) == len(shares) + 1


@pytest.mark.parametrize("mode", ["inductive", "transductive"])
@pytest.mark.parametrize("training", [True, False])
def test_the_learner_is_left_as_it_was(mode, training: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    learner = Siamese(nn.Sequential(nn.Flatten(), norm, nn.Linear(4, 3))).train(training)
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    v = verify(learner, of_class(), 5, mode)
    assert v.mode == mode
    assert (learner.training, norm.training, norm.track_running_stats) == (training, training, True)
    assert all(torch.equal(v, before[k]) for k, v in learner.state_dict().items())


def test_transductive_is_another_figure() -> None:
    torch.manual_seed(0)
    learner = Siamese(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    thresholds = {verify(learner, of_class(), 5, mode).threshold for mode in ("inductive", "transductive")}
    assert len(thresholds) == 2


@pytest.mark.parametrize(("count", "mode"), [(0, "inductive"), (3, "psychic")])
def test_count_and_mode_are_checked(count: int, mode) -> None:
    with pytest.raises(ValueError, match=f"count is {count} and mode '{mode}'"):
        verify(Siamese(Pixel(0)), of_class(), count, mode)


def test_it_is_frozen() -> None:
    v = verification([1.0, 2.0], [0, 1])
    with pytest.raises(AttributeError):
        v.eer = 0.0  # pyright: ignore[reportAttributeAccessIssue]
