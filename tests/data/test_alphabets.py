"""One-shot trials within alphabets: who drew what, and that nothing is got right for free."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.data.datasets.alphabets import WithinAlphabets, alphabet_of
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.pool import ClassPool
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import verify
from quickstudy.training.evaluate import evaluate


def alphabets(sizes: Sequence[int] = (20, 23, 31), drawers: int = 5) -> ClassPool:
    """The picture of character c of alphabet a by drawer d is [[a, c, d]]."""
    items = [[[[a, c, d]]] for a, n in enumerate(sizes) for c in range(n) for d in range(drawers)]
    names = [f"alphabet{a}/character{c:02}" for a, n in enumerate(sizes) for c in range(n)]
    return ClassPool.from_grouped(np.array(items, np.uint8), names, [drawers] * len(names), name="coded")


def codes(x: torch.Tensor) -> torch.Tensor:
    """[T, 20, 3] alphabet, character and drawer of each item."""
    return (255 * x).round().long().flatten(2)


class Code(nn.Module):
    """Embeds a picture as some of alphabet, character and drawer."""

    def __init__(self, *which: int) -> None:
        super().__init__()
        self.which = list(which)

    def forward(self, x):
        return 255 * x.flatten(1)[:, self.which]


def test_a_run_is_of_one_alphabet_and_two_drawers() -> None:
    runs = WithinAlphabets(alphabets(), tasks=9)
    e = runs[0]
    support, query = codes(e.support.x), codes(e.query_x)
    assert support.shape == query.shape == (9, 20, 3)
    assert support[:, :, 0].tolist() == query[:, :, 0].tolist() == [[run % 3] * 20 for run in range(9)]
    assert not torch.equal(e.support.y, e.query_y), "in an order of their own"
    for run in range(9):
        told = dict(zip(e.support.y[run].tolist(), support[run, :, 1].tolist(), strict=True))
        assert [told[y] for y in e.query_y[run].tolist()] == query[run, :, 1].tolist()
        assert len(set(support[run, :, 1].tolist())) == 20
        one, other = set(support[run, :, 2].tolist()), set(query[run, :, 2].tolist())
        assert len(one) == len(other) == 1
        assert one != other


def test_drawers_and_characters_are_all_drawn() -> None:
    runs = WithinAlphabets(alphabets([24]), tasks=200)
    support, query = codes(runs[0].support.x), codes(runs[0].query_x)
    drawn = set(zip(support[:, 0, 2].tolist(), query[:, 0, 2].tolist(), strict=True))
    assert drawn == {(a, b) for a in range(5) for b in range(5) if a != b}
    often = torch.bincount(support[:, :, 1].flatten(), minlength=24) / 200
    assert (often - 20 / 24).abs().max() < 0.12


def test_runs_are_repeatable_and_new_each_time_round() -> None:
    pool = alphabets()
    runs, again, other = WithinAlphabets(pool), WithinAlphabets(pool, tasks=4), WithinAlphabets(pool, seed=1)
    assert runs.seed == 0
    for run in range(12):
        np.testing.assert_array_equal(runs.indices(run), again.indices(run))
        assert not np.array_equal(runs.indices(run), other.indices(run))
        assert not np.array_equal(runs.indices(run), runs.indices(run + 3))
        one = again[run // 4][run % 4 : run % 4 + 1]
        assert torch.equal(runs[run].support.x, one.support.x), "however many runs are a meta-batch"
        assert torch.equal(runs[run].query_x, one.query_x)


def test_processes_share_the_runs() -> None:
    runs = WithinAlphabets(alphabets(), tasks=5)
    whole = runs[1].query_x
    for rank in range(2):
        assert torch.equal(runs.part(1, rank, 2).query_x, whole[rank::2])
    assert WithinAlphabets(alphabets()).part(0, 1, 2).tasks == 0


def test_evaluated_over_all_alphabets() -> None:
    runs = WithinAlphabets(alphabets([20] * 20))
    score = evaluate(Prototypical(Code(1)), runs, 20)
    assert (score.accuracy, score.ci95, score.episodes) == (1.0, 0.0, 20)
    assert score.setting == "20w1s within alphabets"
    assert (
        str(score)
        == "100.00 ± 0.00 % over draws (20w1s within alphabets of coded, inductive, 20 episodes, seed 0)"
    )
    assert evaluate(Prototypical(Code(1)), WithinAlphabets(alphabets(), tasks=7), 10).accuracy == 1.0


@pytest.mark.parametrize("make", [Prototypical, Siamese])
@pytest.mark.parametrize("which", [0, 2])
def test_what_is_the_same_for_all_characters_gets_nothing_right(make: type[Learner], which: int) -> None:
    """An embedding of the alphabet, or of the drawer, is constant within a run: all is tied."""
    score = evaluate(make(Code(which)), WithinAlphabets(alphabets()), 6)
    assert (score.accuracy, score.ci95) == (0.0, 0.0)


def test_pairs_within_alphabets_can_be_verified() -> None:
    assert verify(Siamese(Code(1)), WithinAlphabets(alphabets()), 6).eer == 0
    v = verify(Siamese(Code(0)), WithinAlphabets(alphabets()), 6)
    assert (v.eer, v.auc, v.setting) == (0.5, 0.5, "20w1s within alphabets")
    assert (v.genuine, v.impostor) == (6 * 20, 6 * 20)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (alphabets([20, 19]), "alphabet 'alphabet1' of coded has 19 characters, and a run takes 20: leave"),
        (alphabets([20], drawers=1), "the classes of coded have 1 items: it takes two drawers"),
        (alphabets([20]).subset([]), "coded has no classes"),
        (
            ClassPool(
                np.zeros((9, 1, 1, 1), np.uint8),
                tuple(f"a/{i}" for i in range(20)),
                np.zeros(20, np.int64),
                np.array([4] * 10 + [3] * 10),
            ),
            "class 'a/10' of pool has 3 items and 'a/0' 4: item j must be by drawer j",
        ),
        (
            ClassPool.from_grouped(np.zeros((2, 1, 1, 1), np.uint8), ["a"], [2]),
            "class 'a' of pool is not named ALPHABET/CHARACTER: load Omniglot with split='lake'",
        ),
        (
            ClassPool.from_grouped(np.zeros((2, 1, 1, 1), np.uint8), ["a/character01/rot090"], [2]),
            "class 'a/character01/rot090' of pool is not named ALPHABET/CHARACTER",
        ),
    ],
)
def test_what_does_not_fit_is_said(pool: ClassPool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WithinAlphabets(pool)


@pytest.mark.parametrize(("tasks", "seed"), [(0, 0), (1, -1)])
def test_tasks_and_seed_are_checked(tasks: int, seed: int) -> None:
    with pytest.raises(ValueError, match=f"tasks is {tasks} and seed {seed}"):
        WithinAlphabets(alphabets(), tasks, seed)


def test_on_the_real_omniglot(
    real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = real_data("omniglot/images_background.zip")
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path))
    pool = omniglot(root, split="lake", rotations=False).split("test")
    runs = WithinAlphabets(pool)
    found = [{pool.classes[i // 20].split("/")[0] for i in _local(pool, runs.indices(k))} for k in range(20)]
    assert all(len(alphabet) == 1 for alphabet in found)
    assert len(set.union(*found)) == 20, "one run for each of the evaluation alphabets"
    score = evaluate(Prototypical(nn.Flatten()), runs, 20)
    # nearest neighbour by pixels: far better than chance, 5 %, far worse than a network
    assert 0.1 < score.accuracy < 0.6
    assert score.episodes == 20


def _local(pool: ClassPool, indices: np.ndarray) -> list[int]:
    """Indices as if the pool's classes lay one after the other, 20 items each."""
    place = {int(start): 20 * i for i, start in enumerate(pool.starts)}
    return [place[int(i) - int(i) % 20] + int(i) % 20 for i in indices.flatten()]


def test_letters_turned_alike_are_a_group() -> None:
    assert alphabet_of("Greek/character07") == "Greek"
    assert alphabet_of("Greek/character07/rot090") == "Greek/rot090"
