"""What a score may claim: of which data, how sure over draws and over data, and by how much it differs."""

import math

import pytest
import torch
from scipy import stats

from quickstudy.core.scores import Score, data_interval
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.items import floats
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.evaluate import evaluate
from tests.support.pools import noisy_pool


def learner(seed: int) -> Prototypical:
    torch.manual_seed(seed)
    return Prototypical(Conv4(1, 4))


def score(accuracies: list[float], **other) -> Score:
    facts = {"seed": 0, "setting": "5w1s", "mode": "inductive", "pool": "p.test", "tasks": "t"} | other
    values = tuple(accuracies)
    return Score(sum(values) / len(values), 0.1, len(values), accuracies=values, **facts)


def test_a_score_names_its_pool_and_keeps_the_accuracy_of_each_task() -> None:
    episodes = Episodes(noisy_pool(), Setting(5, 1, 3), 4, 1)
    found = evaluate(learner(0), episodes, 10)
    assert found.pool == episodes.pool.name
    assert f"5w1s of {found.pool}, " in str(found)
    assert "over draws" in str(found)
    assert "over classes and items" in str(found)
    assert len(found.accuracies) == 10
    assert found.accuracy == pytest.approx(sum(found.accuracies) / 10)
    assert "accuracies" not in found.as_dict()
    assert len(repr(found)) < 400


def test_the_items_of_queries_are_in_the_order_of_the_queries() -> None:
    pool = noisy_pool()
    pool = pool.subset([7, 2, 9, 1, 0, 4])
    episodes = Episodes(pool, Setting(3, 2, 4), 2, 5)
    items = floats(torch.from_numpy(pool.items)[torch.from_numpy(episodes.query_items(3))])
    assert torch.equal(items, episodes[3].query_x)


def test_a_comparison_is_the_paired_t_test() -> None:
    a, b = [0.8, 0.6, 0.9, 0.7, 0.75], [0.7, 0.6, 0.7, 0.65, 0.7]
    found, wanted = score(a).compare(score(b)), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(wanted.pvalue)
    low, high = wanted.confidence_interval()
    assert (found.difference, found.ci95) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert str(found) == f"+8.00 ± {100 * found.ci95:.2f} % over draws, p = {found.p:.2g} (5 tasks, paired)"
    assert score(a).compare(score(a)).p == 1.0
    assert score([1.0, 1.0]).compare(score([0.5, 0.5])).p == 0.0


@pytest.mark.parametrize(
    "other", [{"pool": "p.train"}, {"seed": 1}, {"setting": "5w5s"}, {"tasks": "u"}, {"accuracies": 3}]
)
def test_scores_of_other_tasks_are_not_compared(other: dict) -> None:
    values = [0.5] * other.pop("accuracies", 2)
    with pytest.raises(ValueError, match=r"different tasks .*evaluate both on the same episodes"):
        score([0.5, 0.6]).compare(score(values, **other))
    with pytest.raises(ValueError, match="accuracies of 0 and 0 tasks"):
        Score(0.5, 0.1, 2, 0, "5w1s", "inductive").compare(Score(0.6, 0.1, 2, 0, "5w1s", "inductive"))


def test_two_learners_are_compared_on_what_they_were_evaluated_on() -> None:
    episodes = Episodes(noisy_pool(), Setting(5, 1, 3), 4, 1)
    same, others = (Episodes(noisy_pool(seed=s), Setting(5, 1, 3), 4, 1) for s in (0, 5))
    first = evaluate(learner(0), episodes, 10)
    assert first.compare(evaluate(learner(0), same, 10)).difference == 0
    with pytest.raises(ValueError, match="other items or draws"):
        first.compare(evaluate(learner(1), others, 10))


def test_the_interval_over_data_holds_the_truth_and_does_not_shrink_with_draws() -> None:
    """Classes of different difficulty, items of their own; 95 % intervals hold the truth about that often."""
    generator = torch.Generator().manual_seed(0)
    held, widths = [], dict[int, list[float]]()
    for trial in range(200):
        difficulty = torch.rand(20, generator=generator)  # of mean 1/2, the truth
        chance = (difficulty[:, None] + 0.2 * torch.randn(20, 10, generator=generator)).clamp(0, 1)
        for draws in (500, 5000):
            items = torch.randint(0, 200, (draws,), generator=generator)
            right = torch.rand(draws, generator=generator) < chance.flatten()[items]
            low, high = data_interval(right, items, items // 10, seed=trial)
            widths.setdefault(draws, []).append(high - low)
        held.append(low <= 0.5 <= high)
    assert 0.9 <= sum(held) / len(held) <= 0.99
    few, many = (sum(w) / len(w) for w in widths.values())
    assert many > 0.7 * few
    assert many > 10 / math.sqrt(5000) * 0.5 * 1.96 / 5


def test_the_interval_of_all_right_or_none_is_not_empty() -> None:
    items = torch.arange(30)
    assert data_interval(torch.ones(30), items, items // 10) == pytest.approx((0.9, 1.0))
    assert data_interval(torch.zeros(30), items, items // 10) == pytest.approx((0.0, 0.1))


def test_a_validation_in_a_training_can_not_be_compared() -> None:
    """It leaves out what takes time: the digest of the tasks, and the interval over classes and items."""
    episodes = Episodes(noisy_pool(), Setting(3, 1, 2), 2)
    quick = evaluate(learner(0), episodes, 4, comparable=False)
    whole = evaluate(learner(0), episodes, 4)
    assert (quick.accuracy, quick.ci95, quick.accuracies) == (whole.accuracy, whole.ci95, whole.accuracies)
    assert (quick.tasks, quick.data95) == ("", None)
    assert whole.tasks
    with pytest.raises(ValueError, match="comparable=True"):
        quick.compare(quick)
