"""Figures: ties are errors, and the interval is the usual one."""

import math

import numpy as np
import pytest
import torch

from quickstudy.core.scores import Score, accuracies, mean_ci95


def test_accuracy_per_task() -> None:
    scores = torch.tensor([[[3.0, 1, 2], [0, 5, 1]], [[1, 2, 3], [9, 8, 7]]])
    y = torch.tensor([[0, 0], [2, 0]])
    assert accuracies(scores, y).tolist() == [0.5, 1.0]


def test_accuracy_agrees_with_argmax_where_nothing_ties() -> None:
    rng = torch.Generator().manual_seed(0)
    scores, y = torch.randn(4, 50, 5, generator=rng), torch.randint(5, (4, 50), generator=rng)
    torch.testing.assert_close(accuracies(scores, y), (scores.argmax(-1) == y).float().mean(-1))


@pytest.mark.parametrize("y", [0, 1, 2])
def test_a_tie_is_an_error_wherever_the_class_stands(y: int) -> None:
    scores = torch.tensor([[[1.0, 1.0, 1.0]]])
    assert accuracies(scores, torch.tensor([[y]])).tolist() == [0.0]
    scores[..., (y + 1) % 3] = 0
    assert accuracies(scores, torch.tensor([[y]])).tolist() == [0.0]
    scores[..., (y + 2) % 3] = 0
    assert accuracies(scores, torch.tensor([[y]])).tolist() == [1.0]


@pytest.mark.parametrize("value", [0.0, -3.5, math.nan, math.inf, -math.inf])
def test_constant_scores_get_nothing_right(value: float) -> None:
    y = torch.tensor([[0, 1, 2, 3, 4]] * 2)
    assert accuracies(torch.full((2, 5, 5), value), y).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("place", [0, 1])
def test_one_nan_spoils_its_query_only(place: int) -> None:
    scores = torch.tensor([[[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]])
    scores[0, 0, place] = math.nan
    assert accuracies(scores, torch.tensor([[0, 0]])).tolist() == [0.5]


def test_mean_and_interval_against_numpy() -> None:
    values = torch.rand(37, generator=torch.Generator().manual_seed(0))
    mean, ci95 = mean_ci95(values)
    exact = values.numpy().astype(np.float64)
    assert mean == pytest.approx(exact.mean(), rel=1e-12)
    assert ci95 == pytest.approx(2.028094 * exact.std(ddof=1) / np.sqrt(37), rel=1e-6)


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (1000, 1.962)])
def test_the_interval_of_few_values_is_students(n: int, t: float) -> None:
    """Of three values the normal one is less than half as wide as it should be. From tables of t."""
    values = torch.rand(n, generator=torch.Generator().manual_seed(n)).double()
    assert mean_ci95(values)[1] == pytest.approx(t * float(values.std()) / n**0.5, rel=1e-3)


def test_mean_of_many_single_precision_values_is_exact() -> None:
    """Summed in float32, a hundred thousand times 0.1 is off in the fourth digit or so."""
    mean, ci95 = mean_ci95(torch.full((100_000,), 0.1))
    assert mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert ci95 == pytest.approx(0, abs=1e-12)


def test_one_value_has_no_interval() -> None:
    mean, ci95 = mean_ci95(torch.tensor([0.25]))
    assert mean == 0.25
    assert math.isnan(ci95)


def test_a_score_says_all_it_takes_to_repeat_it() -> None:
    score = Score(0.97912, 0.00284, 600, 3, "5w1s", "inductive")
    assert str(score) == "97.91 ± 0.28 % over draws (5w1s, inductive, 600 episodes, seed 3)"
    assert Score(**score.as_dict()) == score
