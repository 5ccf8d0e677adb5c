"""Leave-one-out accuracy, its interval and the option to reject, against plain loops and known shares."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner
from quickstudy.data.formats.images import ImageFormat
from quickstudy.encoders.classifier import MLP
from quickstudy.initialization.maml import MAML
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.leave_one_out import (
    FOLDS,
    clustered_interval,
    expected_accuracy,
    is_right,
    leave_one_out,
    margins,
    reject_below,
)
from tests.metric.test_metric_learners import LEARNERS
from tests.support.episodes import random_episode


def labelled(shots: list[int], seed: int = 0) -> Support:
    return random_episode(shots, 1, 1, seed, torch.float32).support


def by_loops(learner: Learner, support: Support) -> dict[int, Tensor]:
    """One item of each class left out at a time, each task learned by itself, from the items."""
    y, ways = support.y[0], support.ways
    of = [(y == c).nonzero()[:, 0].tolist() for c in range(ways)]
    scores: dict[int, Tensor] = {}
    for fold in range(max(map(len, of))):
        out = [items[fold % len(items)] for items in of if len(items) > 1]
        stay = [i for i in range(len(y)) if i not in out]
        task = Support(support.x[:, stay], support.y[:, stay], ways)
        for i, row in zip(out, learner.predict(task, support.x[:, out])[0], strict=True):
            scores.setdefault(i, row)
    return scores


@pytest.mark.parametrize("name", LEARNERS)
def test_it_is_what_a_loop_gives_for_every_learner_of_a_metric(name: str) -> None:
    torch.manual_seed(1)
    learner = LEARNERS[name]().eval()
    support = labelled([3, 1, 4, 2])
    which, scores = leave_one_out(learner, support)
    with torch.no_grad():
        expected = by_loops(learner, support)
    assert which.tolist() == sorted(expected), "all but the single one, each once"
    torch.testing.assert_close(
        scores, torch.stack([expected[i] for i in which.tolist()]), rtol=1e-3, atol=1e-3
    )


def test_it_is_what_a_loop_gives_for_an_inner_loop() -> None:
    torch.manual_seed(1)
    learner = MAML(nn.Sequential(nn.Flatten(), MLP(6, (8,), 3)), lr=0.1, steps=2).eval()
    support = labelled([3, 3, 3])
    which, scores = leave_one_out(learner, support)
    expected = by_loops(learner, support)
    torch.testing.assert_close(scores, torch.stack([expected[i] for i in which.tolist()]).detach())


class Brightness(Prototypical):
    """A learner that looks at more than embeddings."""

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        bright = query_x.flatten(2).sum(2)
        return super().predict(support, query_x) + bright[..., None] * torch.arange(support.ways)


def test_a_learner_of_ones_own_that_looks_at_the_items_themselves() -> None:
    torch.manual_seed(1)
    learner, support = Brightness(nn.Sequential(nn.Flatten(), nn.Linear(6, 4))), labelled([2, 2])
    which, scores = leave_one_out(learner, support)
    with torch.no_grad():
        expected = by_loops(learner, support)
    torch.testing.assert_close(scores, torch.stack([expected[i] for i in which.tolist()]))


def test_large_classes_are_left_out_in_tenths_and_every_item_once() -> None:
    learner = Prototypical(nn.Flatten())
    support = labelled([3 * FOLDS + 1, 2, 1])
    which, scores = leave_one_out(learner, support)
    assert which.tolist() == (support.y[0] < 2).nonzero()[:, 0].tolist()
    assert scores.shape == (3 * FOLDS + 3, 3)
    assert learner.training, "the mode is restored"


def test_nothing_can_be_left_out_of_single_items() -> None:
    with pytest.raises(ValueError, match="no class has two labelled items"):
        leave_one_out(Prototypical(nn.Flatten()), labelled([1, 1]))


def test_it_is_unbiased_where_classes_are_alike() -> None:
    """Leaving out one item in all would give far less than chance here, as its class alone has fewer left."""
    found = []
    for seed in range(60):
        support = Support(
            torch.randn(1, 16, 200, generator=torch.Generator().manual_seed(seed)),
            torch.arange(8).repeat_interleave(2)[None],
            8,
        )
        which, scores = leave_one_out(Prototypical(nn.Flatten()), support)
        found.append(expected_accuracy(which, scores, support).accuracy)
    assert np.mean(found) == pytest.approx(1 / 8, abs=0.035)


def test_the_interval_covers_classes_and_items() -> None:
    """Of the same classes, and of others, whose shares of right answers differ."""
    rng = np.random.default_rng(0)
    for classes, items in ((2, 5), (3, 5), (12, 5), (12, 2), (30, 10)):
        for share, alike in ((0.3, 0.1), (0.8, 0.02), (0.8, 0.2), (0.97, 0.1)):
            of = rng.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), (400, classes))
            hits = rng.binomial(items, of)
            ends = [clustered_interval(torch.tensor(h), torch.full((classes,), items)) for h in hits]
            low, high = np.array(ends).T
            for truth in (of.mean(1), share):
                assert np.mean((low <= truth) & (truth <= high)) >= 0.92, (classes, items, share, alike)


def test_the_interval_at_the_ends() -> None:
    low, high = clustered_interval(torch.full((12,), 5), torch.full((12,), 5))
    assert (0.85 < low < 0.9, high) == (True, 1.0)
    low, high = clustered_interval(torch.zeros(12), torch.full((12,), 5))
    assert (low, 0.1 < high < 0.15) == (0.0, True)
    assert clustered_interval(torch.tensor([3]), torch.tensor([3]))[0] < 0.5, "of one class"
    # one class that fails as a whole weighs more than as many errors here and there
    spread = clustered_interval(torch.full((10,), 4), torch.full((10,), 5))
    one = clustered_interval(torch.tensor([5] * 8 + [0] * 2), torch.full((10,), 5))
    assert one[0] < spread[0] < spread[1] < one[1]


def test_chance_is_said() -> None:
    torch.manual_seed(0)
    noise = Support(torch.randn(1, 20, 30), torch.arange(4).repeat_interleave(5)[None], 4)
    expected = expected_accuracy(*leave_one_out(Prototypical(nn.Flatten()), noise), noise)
    assert not expected.above_chance
    assert "isn't above chance" in expected.warning
    far = Support(noise.x + 9 * noise.y[..., None], noise.y, 4)
    expected = expected_accuracy(*leave_one_out(Prototypical(nn.Flatten()), far), far)
    assert expected.above_chance
    assert str(expected).startswith("expect 100.0 % right (")
    assert "20 labelled, learned from 4 each; chance is 25.0 %" in str(expected)


def test_ties_are_errors() -> None:
    assert is_right(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1])).tolist() == [False, True]


def test_the_threshold_lets_in_as_many_as_keep_the_promise() -> None:
    lead = torch.arange(100, 0, -1).float()
    scores = torch.stack([lead, torch.zeros(100)], 1)
    y = torch.zeros(100, dtype=torch.long)
    y[60:] = 1  # all below a lead of 41 are wrong
    found = reject_below(scores, y, 0.05)
    # 60 right and w wrong: (1 + w) / (61 + w) ≤ 0.05 up to w = 2
    assert (found.margin, found.answered) == (39.0, 0.62)
    assert "answers about 62 %" in str(found)
    assert margins(scores[:1]).item() == 100.0


def test_too_few_for_an_answer() -> None:
    scores = torch.tensor([[3.0, 0.0]]).repeat(18, 1) + torch.arange(18)[:, None] * torch.tensor([[1.0, 0.0]])
    y = torch.zeros(18, dtype=torch.long)
    assert reject_below(scores, y, 0.05).margin == math.inf
    assert "too few" in str(reject_below(scores, y, 0.05))
    assert (
        reject_below(torch.cat([scores, scores[:1]]), torch.zeros(19, dtype=torch.long), 0.05).answered == 1
    )
    with pytest.raises(ValueError, match=r"reject is 5: it is a share"):
        reject_below(scores, y, 5)


def test_a_loaded_learner_embeds_each_item_once() -> None:
    """Whose items have a format, which embeddings don't have."""

    class Counting(nn.Flatten):
        items = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.items += len(x)
            return super().forward(x)

    learner = Prototypical(Counting()).eval()
    learner.item_format = ImageFormat(8)
    support = Support(torch.rand(1, 12, 1, 8, 8), torch.arange(12)[None] % 3, 3)
    leave_one_out(learner, support)
    assert Counting.items == 12
