"""Drawing episodes: uniform, repeatable, and never a query among the support."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import Learner
from quickstudy.data.augment.images import Augment
from quickstudy.data.draws import apportioned, distinct, of_least
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import LabelFraction, Setting, Size
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from tests.support.pools import coded_pool, noisy_pool


@st.composite
def bounds_and_number(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Unequal bounds of one or two dimensions, the least of them often m itself."""
    m = draw(st.integers(0, 6))
    shape = draw(st.sampled_from([(1,), (4,), (2, 3)]))
    size = int(np.prod(shape))
    n = draw(st.lists(st.integers(max(m, 1), max(m, 1) + 300), min_size=size, max_size=size))
    if draw(st.booleans()):
        n[0] = max(m, 1)
    return np.asarray(n).reshape(shape), m


@given(bounds_and_number(), st.integers(0, 2**32))
def test_drawn_numbers_are_distinct_and_in_range(sizes: tuple[np.ndarray, int], seed: int) -> None:
    n, m = sizes
    drawn = distinct(np.random.default_rng(seed), n, m)
    assert drawn.shape == (*n.shape, m)
    assert drawn.dtype == np.int64
    assert (drawn >= 0).all()
    assert (drawn < n[..., None]).all()
    assert all(len(set(row)) == m for row in drawn.reshape(n.size, m).tolist())


@given(st.integers(1, 8), st.integers(0, 100))
def test_all_of_them_is_a_permutation(m: int, seed: int) -> None:
    drawn = distinct(np.random.default_rng(seed), np.array([m, m]), m)
    np.testing.assert_array_equal(np.sort(drawn), [range(m)] * 2)


class Spy:
    """A random generator that remembers which of its methods were called."""

    def __init__(self, seed: int) -> None:
        self.rng, self.called = np.random.default_rng(seed), set[str]()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.rng, name)


@pytest.mark.parametrize(
    ("n", "m", "branch"),
    [(5, 3, "random"), (4, 4, "random"), (7, 1, "integers"), (17, 2, "integers")],
)
def test_every_ordered_choice_is_equally_likely(n: int, m: int, branch: str) -> None:
    """Chi-square over all n! / (n − m)! of them; 5 standard deviations, at a fixed seed."""
    outcomes = list(itertools.permutations(range(n), m))
    draws = 200 * len(outcomes)
    spy = Spy(0)
    drawn = distinct(spy, np.full(draws, n), m)  # pyright: ignore[reportArgumentType]
    assert spy.called == {branch}
    seen = Counter(map(tuple, drawn.tolist()))
    statistic = sum((seen[o] - 200) ** 2 / 200 for o in outcomes)
    freedom = len(outcomes) - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("values", [2**24, 200, 3])
def test_the_least_keys_are_found_as_ever(values: int) -> None:
    """As by argpartition, which tasks were drawn by from the first, also where keys are equal."""
    rng = np.random.default_rng(values)
    for shape, m in (((3, 40), 5), ((2, 4, 600), 16), ((1, 9), 1)):
        keys = (rng.integers(0, values, shape) / values).astype(np.float32)
        least = np.argpartition(keys, m - 1, axis=-1)[..., :m]
        order = np.argsort(np.take_along_axis(keys, least, -1), axis=-1)
        np.testing.assert_array_equal(of_least(keys, m), np.take_along_axis(least, order, -1))


@pytest.mark.parametrize("n", [(3, 6), (20, 40)])
def test_unequal_bounds_are_each_drawn_uniformly(n: tuple[int, int]) -> None:
    """On either branch: the smaller bound must not thin out the larger's numbers."""
    drawn = distinct(np.random.default_rng(1), np.tile(n, (200_000, 1)), 2)
    for column, bound in enumerate(n):
        counts = np.bincount(drawn[:, column].ravel(), minlength=bound)
        expected = 400_000 / bound
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert abs(statistic - (bound - 1)) < 5 * np.sqrt(2 * (bound - 1))


SETTING = Setting(4, 2, 3, 1)


def tensors(e: Episode) -> tuple[Tensor, ...]:
    return (e.support.x, e.support.y, e.support.unlabelled, e.query_x, e.query_y)


def same(a: Episode, b: Episode) -> bool:
    return all(torch.equal(p, q) for p, q in zip(tensors(a), tensors(b), strict=True))


def codes(x: Tensor) -> list[list[tuple[int, int]]]:
    """(class, item) of each picture of each task; see coded_pool."""
    corner = (x[:, :, 0, 0] * 255).round().int()
    return [[(c, j) for c, j in task] for task in corner.tolist()]


def test_shapes_and_labels(pool: ClassPool) -> None:
    e = Episodes(pool, SETTING, tasks=3)[0]
    assert e.support.x.shape == (3, 8, 1, 2, 2)
    assert e.support.unlabelled.shape == (3, 4, 1, 2, 2)
    assert e.query_x.shape == (3, 12, 1, 2, 2)
    assert e.support.y.sort().values.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 3
    assert e.query_y.sort().values.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]] * 3
    assert (e.tasks, e.ways, e.shots) == (3, 4, 2)


@given(
    ways=st.integers(2, 12),
    shots=st.integers(1, 3),
    queries=st.integers(1, 4),
    unlabelled=st.integers(0, 2),
    seed=st.integers(0, 2**40),
    i=st.integers(0, 2**20),
)
def test_nothing_overlaps_and_all_is_of_its_class(
    ways: int, shots: int, queries: int, unlabelled: int, seed: int, i: int
) -> None:
    pool = coded_pool([9, 10, 11, 12, 13, 14] * 2)
    e = Episodes(pool, Setting(ways, shots, queries, unlabelled), tasks=2, seed=seed)[i]
    support, query, extra = codes(e.support.x), codes(e.query_x), codes(e.support.unlabelled)
    for t in range(2):
        together = support[t] + query[t] + extra[t]
        assert len(set(together)) == len(together) == ways * (shots + queries + unlabelled)
        class_of = dict(zip(e.support.y[t].tolist(), [c for c, _ in support[t]], strict=True))
        assert len(set(class_of.values())) == ways
        assert [c for c, _ in support[t]] == [class_of[y] for y in e.support.y[t].tolist()]
        assert [c for c, _ in query[t]] == [class_of[y] for y in e.query_y[t].tolist()]
        assert sorted(c for c, _ in extra[t]) == sorted([*class_of.values()] * unlabelled)
        assert all(item < pool.counts[c] for c, item in together)


def test_values_are_the_bytes_over_255() -> None:
    items = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), dtype=np.uint8)
    items[0, 0, 0, :2] = 0, 255
    pool = ClassPool.from_grouped(items, ["a", "b"], [4, 4])
    episodes = Episodes(pool, Setting(2, 1, 3), tasks=2)
    e, index = episodes[0], episodes.indices(0)
    assert e.query_x.dtype == torch.float32
    everything = torch.cat([e.support.x, e.query_x], 1)
    assert (everything.min(), everything.max()) == (0, 1)
    for ours, part in ((e.support.x, index[..., :1]), (e.query_x, index[..., 1:])):
        for task, drawn in zip(ours.double(), part.reshape(2, -1), strict=True):
            expected = torch.from_numpy(items[drawn].astype(np.float64) / 255)
            off = torch.cdist(task.flatten(1), expected.flatten(1))
            assert sorted(off.argmin(1).tolist()) == list(range(len(drawn)))
            torch.testing.assert_close(task, expected[off.argmin(1)], rtol=1e-6, atol=0)


def test_the_pool_stays_as_it_was(pool: ClassPool) -> None:
    before = pool.items.copy()
    e = Episodes(pool, SETTING)[0]
    e.query_x.zero_()
    e.support.x.zero_()
    np.testing.assert_array_equal(pool.items, before)


def test_a_meta_batch_depends_on_seed_and_number_only(pool: ClassPool) -> None:
    episodes = Episodes(pool, SETTING, tasks=2, seed=5)
    forward = [episodes[i] for i in range(4)]
    np.random.seed(0)  # noqa: NPY002 (global state must not matter)
    torch.manual_seed(0)
    backward = [Episodes(pool, SETTING, tasks=2, seed=5)[i] for i in reversed(range(4))][::-1]
    assert all(map(same, forward, backward))
    assert not any(same(a, b) for a, b in itertools.combinations(forward, 2))


def test_seeds_differ(pool: ClassPool) -> None:
    drawn = [Episodes(pool, SETTING, seed=s).indices(i) for s in range(4) for i in range(4)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_large_seeds_differ_from_small_ones(pool: ClassPool) -> None:
    large, small = (Episodes(pool, SETTING, tasks=4, seed=s) for s in (1 + 3 * 2**32, 1))
    assert not np.array_equal(large.indices(0), small.indices(3))


@pytest.mark.medium
def test_another_process_draws_the_same(pool: ClassPool) -> None:
    script = (
        "from tests.support.pools import coded_pool\n"
        "from quickstudy.data.episodes import Episodes; from quickstudy.data.setting import Setting\n"
        "e = Episodes(coded_pool([9, 10, 11, 12, 13, 14] * 2), Setting(4, 2, 3, 1), 2, 7)\n"
        "print(e.indices(11).tolist(), e[11].query_x.flatten().tolist())\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    other = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "123"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    e = Episodes(pool, SETTING, 2, 7)
    assert other.stdout.strip() == f"{e.indices(11).tolist()} {e[11].query_x.flatten().tolist()}"


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_out_the_tasks(pool: ClassPool, world: int) -> None:
    episodes = Episodes(pool, SETTING, tasks=6, seed=1)
    whole = episodes[2]
    for rank in range(world):
        part = episodes.part(2, rank, world)
        assert part.tasks == 6 // world
        assert same(part, whole[slice(rank, None, world)])


def test_tasks_that_cannot_be_shared_equally(pool: ClassPool) -> None:
    episodes = Episodes(pool, SETTING, tasks=5)
    assert [episodes.part(0, rank, 3).tasks for rank in range(3)] == [2, 2, 1]
    for rank in range(3):
        assert same(episodes.part(0, rank, 3), episodes[0][slice(rank, None, 3)])


def test_more_processes_than_tasks(pool: ClassPool) -> None:
    assert Episodes(pool, SETTING, tasks=1).part(0, 1, 2).tasks == 0


def test_on_another_device_is_the_same_episodes(pool: ClassPool) -> None:
    episodes = Episodes(pool, SETTING, tasks=2, seed=3)
    moved = episodes.on(torch.device("meta"))
    assert (moved.seed, moved.tasks, moved.setting) == (3, 2, SETTING)
    assert moved[0].query_x.device.type == "meta"
    assert same(episodes.on("cpu")[1], episodes[1])


def test_all_classes_and_items_come_up(pool: ClassPool) -> None:
    episodes = Episodes(pool, SETTING, tasks=20)
    drawn = np.concatenate([episodes.indices(i).ravel() for i in range(10)])
    assert set(drawn.tolist()) == set(range(len(pool.items)))


def test_a_pool_of_just_enough(pool: ClassPool) -> None:
    exact = coded_pool([3, 3])
    e = Episodes(exact, Setting(2, 1, 2), tasks=4)[0]
    together = [sorted(s + q) for s, q in zip(codes(e.support.x), codes(e.query_x), strict=True)]
    assert together == [[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]] * 4


def test_a_subset_draws_its_own_classes_only(pool: ClassPool) -> None:
    e = Episodes(pool.subset([10, 1, 4]), Setting(3, 1, 2), tasks=5)[0]
    assert {c for task in codes(e.query_x) for c, _ in task} == {1, 4, 10}


def test_too_many_ways(pool: ClassPool) -> None:
    with pytest.raises(ValueError, match=r"13 ways, but coded has 12 classes: ask for at most 12 ways"):
        Episodes(pool, Setting(13, 1))


def test_too_small_classes_are_named_with_their_counts() -> None:
    pool = coded_pool([9, 4, 9, 5])
    message = (
        r"2 of 4 classes of coded have fewer than the 6 items that 2 shots \+ 3 queries \+ 1 unlabelled "
        r"take: 'class1' \(4\), 'class3' \(5\); lower shots or queries"
    )
    with pytest.raises(ValueError, match=message):
        Episodes(pool, Setting(2, 2, 3, 1))
    Episodes(pool, Setting(2, 1, 3))[0]


def test_only_some_of_many_small_classes_are_named() -> None:
    with pytest.raises(ValueError, match=r"8 of 8 classes .*'class4' \(1\) and 3 more;"):
        Episodes(coded_pool([1] * 8), Setting(2, 1, 1))


@pytest.mark.parametrize("arguments", [{"tasks": 0}, {"seed": -1}])
def test_bad_arguments_are_named(pool: ClassPool, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="tasks must be at least 1, seed at least 0"):
        Episodes(pool, SETTING, **arguments)


@pytest.mark.parametrize(("name", "value"), [("ways", 1), ("shots", 0), ("queries", 0), ("unlabelled", -1)])
def test_setting_errors_name_the_argument(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}: it must be at least {value + 1}"):
        Setting(**({"ways": 5, "shots": 1} | {name: value}))


def test_setting() -> None:
    assert str(Setting(20, 5)) == "20w5s"
    assert Setting(5, 1, 15).items == 16
    assert Setting(5, 2, 3, 4).items == 9


DRAWN = Setting(3, (1, 4), together=6)
"""Six items of each class, of which one to four are support."""


def test_a_setting_that_draws_its_sizes_is_named_and_stated() -> None:
    assert str(DRAWN) == "3w1-4s"
    assert DRAWN.items == 6
    assert (DRAWN.queries, DRAWN.drawn, Setting(5, 1).drawn) == ((2, 5), True, False)
    assert replace(DRAWN, ways=4) == Setting(4, (1, 4), together=6)
    free = Setting(ways=(5, 20), shots=(1, 10), queries=[2, 5])  # pyright: ignore[reportArgumentType]
    assert str(free) == "5-20w1-10s"
    assert free.items == 15
    assert (free.least, free.most) == (Size(5, 1, 2), Size(20, 10, 5))
    assert Setting((5, 5), (1, 1), (3, 3)) == Setting(5, 1, 3)
    for setting in (DRAWN, free, Setting(5, 1)):
        assert Setting.from_dict(json.loads(json.dumps(setting.as_dict()))) == setting
    assert Setting.from_dict({"ways": 3, "shots": 1, "queries": 5, "most_shots": 4}) == DRAWN, "as once"
    assert Setting(5, 1).as_dict() == {
        "ways": 5, "shots": 1, "queries": 15, "unlabelled": 0, "distractors": 0
    }, "as in the manifests there are"  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shots": (1, 4), "together": 4},
            "together is 4: it must leave a query of each class beside 4 shots",
        ),
        (
            {"shots": 2, "together": 4},
            "together is 4 and shots 2: it is for shots that are drawn; give queries",
        ),
        ({"shots": (1, 4), "queries": 3, "together": 6}, "queries is 3 and together 6: give one of them"),
        ({"shots": (4, 1)}, r"shots is \(4, 1\): the least comes first, \(1, 4\)"),
        ({"shots": (1, 2, 3)}, r"shots is \(1, 2, 3\): give a number, or the least and the largest, such as"),
        ({"shots": (0, 3)}, "shots is 0: it must be at least 1"),
        ({"ways": (1, 3)}, "ways is 1: it must be at least 2"),
        ({"queries": (1.5, 3)}, "queries is 1.5: it must be a whole number"),
        ({"shots": "1-4"}, "shots is '1-4': it must be a whole number"),
    ],
)
def test_wrong_ranges(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Setting(**({"ways": 3, "shots": 1} | arguments))


def test_ways_shots_and_queries_are_drawn_for_each_meta_batch_with_equal_chances() -> None:
    pool = coded_pool([9, 10, 11, 12, 13])
    episodes = Episodes(pool, Setting((2, 5), (1, 4), (2, 3)), tasks=3, seed=1)
    drawn = [Counter[int](), Counter[int](), Counter[int]()]
    for i in range(400):
        s = episodes.size(i)
        for counter, number in zip(drawn, (s.ways, s.shots, s.queries), strict=True):
            counter[number] += 1
    for counter, numbers in zip(drawn, ((2, 3, 4, 5), (1, 2, 3, 4), (2, 3)), strict=True):
        assert set(counter) == set(numbers)
        assert all(abs(n - 400 / len(numbers)) < 50 for n in counter.values())
    for i in range(12):
        e, s = episodes[i], episodes.size(i)
        assert (e.ways, e.shots) == (s.ways, s.shots)
        assert e.query_y.shape == (3, s.ways * s.queries)
        assert torch.equal(e.query_y.sort(1).values[0], torch.arange(s.ways).repeat_interleave(s.queries))
        for t in range(3):
            seen = codes(e.support.x)[t] + codes(e.query_x)[t]
            assert len(set(seen)) == s.ways * (s.shots + s.queries)
            assert len({c for c, _ in seen}) == s.ways
    with pytest.raises(ValueError, match=r"^6 ways, but coded has 5 classes"):
        Episodes(pool, Setting((2, 6), 1, 1))
    with pytest.raises(ValueError, match=r"fewer than the 12 items that 8 shots \+ 4 queries take: 'class0'"):
        Episodes(pool, Setting(2, (1, 8), (1, 4)))


def test_drawn_ways_go_with_groups_and_only_those_that_have_enough() -> None:
    pool = coded_pool([5] * 9)
    episodes = Episodes(pool, Setting((2, 4), 1, 1), 4, group=lambda name: "ab"[int(name[-1]) < 3])
    for i in range(20):
        e = episodes[i]
        assert all(c >= 3 for of_task in codes(e.support.x) for c, _ in of_task)


def test_drawn_sizes_are_trained_on_and_evaluated() -> None:
    pool = noisy_pool()
    episodes = Episodes(pool, Setting((3, 6), (1, 3), (1, 4)), tasks=2)
    torch.manual_seed(0)
    learner = qs.Prototypical(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8)))
    qs.fit(learner, episodes, 12, validation=episodes.on("cpu"), validation_episodes=9, every=6)
    score = qs.evaluate(learner, episodes, 9)
    right: list[float] = []
    hits, of = 0, 0
    for i in range(5):
        e = episodes[i][: 9 - 2 * i]
        found = learner.predict(e.support, e.query_x).argmax(-1) == e.query_y
        right += found.float().mean(1).tolist()
        hits, of = hits + int(found.sum()), of + found.numel()
    assert score.accuracies == pytest.approx(right)
    assert score.setting == "3-6w1-3s"
    assert score.data95
    assert score.data95[0] < hits / of < score.data95[1]


def test_a_model_with_too_few_outputs_is_refused_before_training() -> None:
    episodes = Episodes(noisy_pool(), Setting((2, 6), 1, 1))

    def maml(outputs: int) -> qs.MAML:
        return qs.MAML(torch.nn.Sequential(torch.nn.Flatten(), qs.MLP(256, (8,), outputs)))

    for work in (lambda: qs.fit(maml(5), episodes, 1), lambda: qs.evaluate(maml(5), episodes, 1)):
        with pytest.raises(
            ValueError,
            match=r"^the model of MAML distinguishes 5 classes and tasks of 2-6w1s have up to 6: give it as "
            r"many outputs, or ask for ways=\(2, 5\)$",
        ):
            work()
    qs.fit(maml(6), episodes, 8)


def test_drawn_shots_are_equally_likely_and_the_rest_are_queries() -> None:
    episodes = Episodes(coded_pool([6, 7, 8, 9]), DRAWN, tasks=2, seed=5)
    drawn = Counter[int]()
    for i in range(400):
        size = episodes.size(i)
        assert size == Size(3, size.shots, 6 - size.shots)
        drawn[size.shots] += 1
    assert set(drawn) == {1, 2, 3, 4}
    assert all(abs(n - 100) < 5 * 75**0.5 for n in drawn.values())
    for i in range(8):
        e, s = episodes[i], episodes.size(i)
        assert e.support.y.shape == (2, 3 * s.shots)
        assert e.query_y.shape == (2, 3 * s.queries)
        for of_task in (*e.support.y, *e.query_y):
            assert len(set(of_task.bincount(minlength=3).tolist())) == 1
        for t in range(2):  # the support is of the first items of `indices`
            first = {x for row in episodes.indices(i)[t, :, : s.shots].tolist() for x in row}
            pool = episodes.pool
            seen = {tuple((255 * x).round().int().flatten().tolist()) for x in e.support.x[t]}
            assert seen == {tuple(pool.items[x].flatten().tolist()) for x in first}


def test_drawn_shots_depend_on_the_seed_and_the_step_and_are_the_same_for_every_process() -> None:
    pool = coded_pool([6, 7, 8, 9])
    episodes = Episodes(pool, DRAWN, tasks=4, seed=5)
    again = Episodes(pool, DRAWN, tasks=4, seed=5).on("cpu")
    assert [again.size(i) for i in range(9)] == [episodes.size(i) for i in range(9)]
    other = Episodes(pool, DRAWN, tasks=4, seed=6)
    assert [other.size(i) for i in range(9)] != [episodes.size(i) for i in range(9)]
    assert (
        episodes.summary() == again.summary() != Episodes(pool, Setting(3, 1, 5), tasks=4, seed=5).summary()
    )
    for i in range(4):
        whole, part = episodes[i], episodes.part(i, 1, 2)
        assert torch.equal(part.support.x, whole.support.x[1::2])
        assert torch.equal(part.query_y, whole.query_y[1::2])


def test_drawn_shots_go_with_labels_and_other_classes_but_not_across_sources() -> None:
    pool = coded_pool([30, 30, 30, 30])
    labels = LabelFraction(0.5)
    setting = Setting(3, (1, 4), together=6, unlabelled=2)
    same = Episodes(pool, setting, tasks=2, labels=labels, augment_classes=lambda x, rng: x)
    plain = Episodes(pool, setting, tasks=2, labels=labels)
    for i in range(4):
        assert torch.equal(same[i].support.x, plain[i].support.x)
        assert torch.equal(same[i].query_x, plain[i].query_x)
    with pytest.raises(ValueError, match="cross_source does not go with labels, group, unlabelled items"):
        Episodes(pool, DRAWN, cross_source=True)


LABELLED = LabelFraction(0.3, seed=2)


def test_support_and_queries_bear_labels_and_unlabelled_items_do_not(pool: ClassPool) -> None:
    episodes = Episodes(pool, Setting(4, 1, 2, unlabelled=3, distractors=2), 2, labels=LABELLED)
    labelled, without = set[tuple[int, int]](), set[tuple[int, int]]()
    for i in range(150):
        e = episodes[i]
        for t in range(2):
            seen = codes(e.support.x)[t] + codes(e.query_x)[t]
            extra = codes(e.support.unlabelled)[t]
            assert len(set(seen)) == 4 * 3
            assert len(set(extra)) == len(extra) == (4 + 2) * 3
            classes = {c for c, _ in seen}
            others = Counter(c for c, _ in extra if c not in classes)
            assert sorted(others.values()) == [3, 3]
            labelled.update(seen)
            without.update(extra)
    assert not labelled & without
    assert len(labelled) + len(without) == pool.counts.sum()
    counts = Counter(c for c, _ in labelled)
    assert [counts[c] for c in range(len(pool))] == np.ceil(0.3 * pool.counts).tolist()


def test_another_seed_labels_other_items_and_the_same_seed_the_same(pool: ClassPool) -> None:
    def labelled(seed: int, draws: int) -> set[tuple[int, int]]:
        episodes = Episodes(pool, Setting(5, 1, 2), seed=draws, labels=LabelFraction(0.3, seed))
        return {code for i in range(200) for code in codes(episodes[i].support.x)[0]}

    assert labelled(0, 0) == labelled(0, 1)
    assert labelled(0, 0) != labelled(1, 0)


def test_labels_travel_to_another_device(pool: ClassPool) -> None:
    episodes = Episodes(pool, Setting(3, 1, 2, 2), labels=LABELLED)
    assert torch.equal(episodes.on("cpu")[3].support.unlabelled, episodes[3].support.unlabelled)


def test_distractors_leave_the_task_as_it_was_but_for_its_classes(pool: ClassPool) -> None:
    e = Episodes(pool, Setting(3, 1, 2, unlabelled=2, distractors=4), tasks=3)[0]
    assert e.support.unlabelled.shape[1] == 2 * (3 + 4)
    assert e.ways == 3
    assert int(e.query_y.max()) == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            Setting(5, 3, 2),
            r"fewer than the 5 items with labels that 3 shots \+ 2 queries take: 'class0' \(3\)",
        ),
        (Setting(5, 1, 1, 8), r"fewer than the 8 items without labels"),
        (Setting(10, 1, 1, 1, 3), r"10 ways and 3 distractors, but coded has 12 classes"),
    ],
)
def test_too_few_items_with_and_without_labels_are_said(
    pool: ClassPool, setting: Setting, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Episodes(pool, setting, labels=LABELLED)


def test_a_whole_number_of_labels_is_not_rounded_up() -> None:
    _, labelled = LabelFraction(0.07).order(np.array([100, 101, 1]))
    assert labelled.tolist() == [7, 8, 1]


@pytest.mark.parametrize(("fraction", "seed"), [(0.0, 0), (1.0, 0), (0.1, -1)])
def test_labels_out_of_range_are_said(fraction: float, seed: int) -> None:
    with pytest.raises(ValueError, match=rf"fraction is {fraction} and seed {seed}"):
        LabelFraction(fraction, seed)


def test_distractors_without_unlabelled_items_are_said() -> None:
    with pytest.raises(ValueError, match="2 distractors without unlabelled items"):
        Setting(5, 1, 1, distractors=2)


def letter(name: str) -> str:
    return name[0]


def grouped(sizes: dict[str, int]) -> ClassPool:
    """So many classes of each letter: A0, A1, …, B0, …."""
    coded = coded_pool([4] * sum(sizes.values()))
    return replace(coded, classes=tuple(f"{group}{i}" for group, n in sizes.items() for i in range(n)))


def test_classes_of_a_task_are_of_one_group_and_large_groups_come_up_more_often() -> None:
    pool = grouped({"A": 4, "B": 3, "C": 8, "D": 2})
    episodes = Episodes(pool, Setting(3, 1, 1), tasks=400, seed=1, group=letter).on("cpu")
    classes = episodes.indices(0)[..., 0] // 4
    names = [[pool.classes[c] for c in task] for task in classes.tolist()]
    assert all(len({letter(name) for name in task}) == 1 and len(set(task)) == 3 for task in names)
    counts = Counter(letter(task[0]) for task in names)
    assert set(counts) == {"A", "B", "C"}  # D has too few
    assert counts["C"] / 400 == pytest.approx(8 / 15, abs=0.08)
    assert {name for task in names for name in task} == set(pool.classes) - {"D0", "D1"}
    assert np.array_equal(
        episodes.indices(5), Episodes(pool, Setting(3, 1, 1), 400, 1, group=letter).indices(5)
    )


def test_groups_that_are_all_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no group of coded has the 5 classes .* largest, 'B', has 4"):
        Episodes(grouped({"A": 3, "B": 4}), Setting(3, 1, 1, 1, distractors=2), group=letter)


# Support and queries from different sources


def of_sources(table: list[list[int]], seed: int = 0) -> ClassPool:
    """So many items of each class (row) from each source (column), in any order."""
    rng = np.random.default_rng(seed)
    sources = [rng.permutation(np.repeat(np.arange(len(row)), row)) for row in table]
    coded = coded_pool([sum(row) for row in table])
    names = tuple(f"speaker{s}" for s in range(len(table[0])))
    return replace(coded, sources=np.concatenate(sources), source_names=names)


SPOKEN = st.integers(2, 5).flatmap(
    lambda sources: st.lists(
        st.lists(st.integers(0, 6), min_size=sources, max_size=sources).filter(sum), min_size=3, max_size=6
    )
)


@given(SPOKEN, st.integers(2, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**40))
def test_queries_are_of_one_source_and_support_of_others(
    table: list[list[int]], ways: int, shots: int, queries: int, seed: int
) -> None:
    pool = of_sources(table, seed % 7)
    fit = [
        [c for c, row in enumerate(table) if row[q] >= queries and sum(row) - row[q] >= shots]
        for q in range(len(table[0]))
    ]
    if not any(len(classes) >= ways for classes in fit):
        with pytest.raises(ValueError, match=r"coded can't be kept apart by its \d sources"):
            Episodes(pool, Setting(ways, shots, queries), cross_source=True)
        return
    episodes = Episodes(pool, Setting(ways, shots, queries), tasks=5, seed=seed, cross_source=True)
    index = episodes.indices(1)
    assert index.shape == (5, ways, shots + queries)
    assert pool.sources is not None
    class_of = np.repeat(np.arange(len(pool)), pool.counts)
    for task in index:
        classes = class_of[task]
        assert (classes == classes[:, :1]).all()
        assert len({*classes[:, 0].tolist()}) == ways
        assert len({*task.ravel().tolist()}) == task.size
        (asked,) = {*pool.sources[task[:, shots:]].ravel().tolist()}
        assert asked not in pool.sources[task[:, :shots]]
        assert {*classes[:, 0].tolist()} <= {*fit[asked]}
    again = Episodes(pool, Setting(ways, shots, queries), 5, seed, cross_source=True).on("cpu")
    np.testing.assert_array_equal(again.indices(1), index)
    assert same(again[1], episodes[1])


def test_sources_classes_and_items_are_drawn_evenly() -> None:
    """Speaker 3 has two classes only and comes up as often as the others; speaker 4 has too few."""
    table = [[4, 4, 4, 4, 1], [4, 4, 4, 4, 0], [4, 4, 4, 0, 0], [4, 4, 4, 1, 0]]
    pool = of_sources(table)
    assert pool.sources is not None
    index = Episodes(pool, Setting(2, 1, 2), tasks=6000, cross_source=True).indices(0)
    asked = pool.sources[index[:, 0, 1]]
    shares = np.bincount(asked, minlength=5) / 6000
    assert shares == pytest.approx([0.25, 0.25, 0.25, 0.25, 0], abs=0.03)
    class_of = np.repeat(np.arange(4), pool.counts)[index[:, :, 0]]
    for source, classes in ((0, 4), (3, 2)):
        drawn = np.bincount(class_of[asked == source].ravel(), minlength=4)[:classes]
        assert drawn / drawn.sum() == pytest.approx([1 / classes] * classes, abs=0.03)
    of_first = (asked == 0)[:, None] & (class_of == 2)  # twelve items, four of them its own
    support = Counter(index[..., 0][of_first].tolist())
    queries = Counter(index[..., 1:][of_first].ravel().tolist())
    assert len(support) == 8
    assert len(queries) == 4
    for drawn in (support, queries):
        share = np.array([*drawn.values()]) / drawn.total()
        assert share == pytest.approx(1 / len(drawn), abs=0.05)


def test_a_split_keeps_its_sources_apart() -> None:
    pool = of_sources([[3, 3], [3, 3], [3, 0], [3, 3]])
    half = replace(pool, splits={"test": np.array([3, 1])}).split("test")
    index = Episodes(half, Setting(2, 1, 1), 20, cross_source=True).indices(0)
    assert {*np.unique(index)} <= {*range(6, 12), *range(15, 21)}


SETTING_1 = Setting(2, 1, 1)


def test_what_cannot_be_kept_apart_is_said(pool: ClassPool) -> None:
    with pytest.raises(ValueError, match="coded does not say what its items come from"):
        Episodes(pool, SETTING_1, cross_source=True)
    one = of_sources([[5, 0], [5, 0]])
    with pytest.raises(ValueError, match=r"by its 1 source \(speaker0\): none has 1 query of 2 classes"):
        Episodes(one, SETTING_1, cross_source=True)
    two = of_sources([[5, 5], [5, 5]])
    for rest in ({"labels": LABELLED}, {"group": letter}, {"setting": Setting(2, 1, 1, 1)}):
        with pytest.raises(ValueError, match="cross_source does not go with labels, group, unlabelled"):
            Episodes(two, **({"setting": SETTING_1, "cross_source": True} | rest))  # pyright: ignore


# What an item's position tells


class ByPosition(Learner):
    """Looks at nothing but where a query stands in its task."""

    def __init__(self, queries: int, ways: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(queries, ways))

    def predict(self, support: Support, query_x: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(query_x), -1, -1)


@pytest.mark.parametrize("cross_source", [False, True])
def test_a_learner_that_knows_positions_only_is_at_chance(cross_source: bool) -> None:
    pool = of_sources([[4, 4, 4]] * 8) if cross_source else coded_pool([12] * 12)
    setting = Setting(3, 1, 2) if cross_source else Setting(4, 1, 5)
    learner = ByPosition(setting.ways * setting.queries, setting.ways)
    make = partial(Episodes, pool, setting, 16, cross_source=cross_source)
    fit(learner, make(seed=0), 60, optimizer=partial(torch.optim.Adam, lr=0.1))
    score = evaluate(learner, make(seed=1), 1600)
    assert abs(score.accuracy - 1 / setting.ways) < 0.02


@pytest.mark.parametrize("change", [None, lambda x, rng: x])
def test_no_position_is_of_one_class(change: Augment | None) -> None:
    """Of the support, the queries, the unlabelled items and the distractors among them."""
    episodes = Episodes(
        coded_pool([12] * 12), Setting(3, 2, 2, 2, distractors=1), 3000, augment_classes=change
    )
    e = episodes[0]
    extra = episodes.unlabelled_y(0)
    for y, classes in ((e.support.y, 3), (e.query_y, 3), (extra, 4)):
        shares = F.one_hot(y, classes).double().mean(0)
        assert (shares - 1 / classes).abs().max() < 0.04
        assert (y[:, 1:] == y[:, :-1]).double().mean() == pytest.approx(1 / (2 * classes - 1), abs=0.03)


@pytest.mark.parametrize("change", [None, lambda x, rng: x])
def test_items_keep_their_labels_whatever_their_order(change: Augment | None) -> None:
    episodes = Episodes(coded_pool([12] * 12), Setting(3, 2, 2, 2, distractors=1), 4, augment_classes=change)
    e, extra = episodes[0], episodes.unlabelled_y(0)
    drawn = episodes.indices(0)[..., 0] // 12
    for t in range(4):
        for x, y in ((e.support.x, e.support.y), (e.query_x, e.query_y), (e.support.unlabelled, extra)):
            for (c, _), label in zip(codes(x)[t], y[t].tolist(), strict=True):
                assert label == 3 or drawn[t, label] == c


def test_the_order_is_the_same_whoever_draws() -> None:
    episodes = Episodes(coded_pool([12] * 12), Setting(3, 2, 2, 2), 4, seed=3)
    whole = episodes[5]
    for rank in range(2):
        part = episodes.part(5, rank, 2)
        assert torch.equal(part.query_y, whole.query_y[rank::2])
        assert torch.equal(part.support.y, whole.support.y[rank::2])
        assert torch.equal(part.support.unlabelled, whole.support.unlabelled[rank::2])


# Unequally many queries


def rounded_as_the_authors_do(shares: np.ndarray, total: int) -> list[int]:
    """Veilleux et al. 2021: round, then move what is nearest to a half up or down until the sum is right."""
    parts = [total * float(share) for share in shares]
    while sum(round(p) for p in parts) != total:
        nearest = min(range(len(parts)), key=lambda k: abs(parts[k] % 1 - 0.5))
        up = sum(round(p) for p in parts) < total
        parts[nearest] = float(np.ceil(parts[nearest]) if up else np.floor(parts[nearest]))
    return [round(p) for p in parts]


@pytest.mark.parametrize("alpha", [0.3, 2.0, 20.0])
def test_numbers_of_queries_are_the_authors(alpha: float) -> None:
    shares = np.random.default_rng(0).dirichlet([alpha] * 5, 500)
    found = apportioned(shares, 75, np.full((500, 5), 1000))
    assert found.tolist() == [rounded_as_the_authors_do(row, 75) for row in shares]


def test_a_class_gives_no_more_than_it_has() -> None:
    rng = np.random.default_rng(1)
    shares, most = rng.dirichlet([0.5] * 4, 300), rng.integers(3, 12, (300, 4))
    found = apportioned(shares, 12, most)
    assert (found.sum(1) == 12).all()
    assert ((found >= 0) & (found <= most)).all()
    assert (found == most).any()
    assert apportioned(np.array([[1.0, 0.0, 0.0]]), 6, np.array([[2, 2, 2]])).tolist() == [[2, 2, 2]]


def test_queries_are_dirichlet_distributed() -> None:
    """The moments of 75 times the shares, which a χ² of two thousand tasks would miss by no more."""
    pool = coded_pool([80] * 8)
    episodes = Episodes(pool, Setting(5, 1, 15, dirichlet=2.0), tasks=2000, seed=3)
    counts = torch.nn.functional.one_hot(episodes[0].query_y, 5).sum(1).double()
    assert counts.shape == (2000, 5)
    assert (counts.sum(1) == 75).all()
    spread = 75 * (0.2 * 0.8 / (5 * 2 + 1)) ** 0.5  # of a share, in queries
    near = 4 * spread / 2000**0.5
    torch.testing.assert_close(counts.mean(0), torch.full((5,), 15.0).double(), rtol=0, atol=near)
    torch.testing.assert_close(counts.std(0), torch.full((5,), spread).double(), rtol=0.06, atol=0)
    correlation = torch.corrcoef(counts.T)[~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(correlation.mean(), torch.tensor(-1 / 4).double(), rtol=0, atol=0.02)
    assert (counts == 0).any()
    more = Episodes(pool, Setting(5, 1, 15, dirichlet=0.2), tasks=500, seed=3)[0]
    assert torch.nn.functional.one_hot(more.query_y, 5).sum(1).double().std() > 1.5 * spread


def test_unequal_queries_are_distinct_and_bear_their_classes() -> None:
    pool = coded_pool([14, 9, 30, 7, 12, 6])
    episodes = Episodes(pool, Setting(3, 2, 4, dirichlet=0.5), tasks=200, seed=5)
    e, items = episodes[4], episodes.query_items(4)
    of = np.repeat(np.arange(6), pool.counts)
    assert items.shape == (200, 12)
    for t in range(200):
        support = {tuple(x.flatten().tolist()) for x in e.support.x[t]}
        asked = {tuple(x.flatten().tolist()) for x in e.query_x[t]}
        assert len(asked) == 12
        assert not asked & support
        assert e.support.names is not None
        named = e.support.names[t]
        assert [pool.classes[c] for c in of[items[t]]] == [named[k] for k in e.query_y[t].tolist()]
    torch.testing.assert_close(torch.from_numpy(pool.items[items]), (e.query_x * 255).round().to(torch.uint8))
    parts = [episodes.part(4, rank, 3) for rank in range(3)]
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part.query_x, e.query_x[rank::3])
        torch.testing.assert_close(part.query_y, e.query_y[rank::3])
    assert episodes.indices(4).shape[:2] == (200, 3)
    again = Episodes(pool, Setting.from_dict(episodes.setting.as_dict()), tasks=200, seed=5)
    torch.testing.assert_close(again[4].query_x, e.query_x)


def test_settings_with_unequal_queries_say_so_and_refuse_what_makes_no_sense() -> None:
    assert str(Setting(5, 1, 15, dirichlet=2.0)) == "5w1s Dirichlet(2)"
    assert "dirichlet" not in Setting(5, 1).as_dict()
    with pytest.raises(ValueError, match=r"dirichlet is -1.0: it must be above 0; Veilleux et al. take 2"):
        Setting(5, 1, dirichlet=-1.0)
    with pytest.raises(
        ValueError, match=r"dirichlet is 2, which does not go with unlabelled items: leave out"
    ):
        Setting(5, 1, unlabelled=3, dirichlet=2.0)
    with pytest.raises(ValueError, match=r"dirichlet is 2, which does not go with together: leave out one"):
        Setting(5, (1, 3), together=12, dirichlet=2.0)
    pool = coded_pool([20] * 6)
    for how in (
        {"labels": LabelFraction(0.5)},
        {"cross_source": True},
        {"augment_classes": lambda x, rng: x},
    ):
        with pytest.raises(
            ValueError, match=r"dirichlet is 2, which does not go with cross_source, labels or"
        ):
            Episodes(pool, Setting(5, 1, 2, dirichlet=2.0), **how)  # pyright: ignore[reportArgumentType]


# Clips


def test_samples_become_floats_below_1_and_keep_their_shape() -> None:
    items = np.random.default_rng(0).integers(-32768, 32768, (8, 30)).astype(np.int16)
    items[:, 0], items[:, 1] = -32768, 32767
    pool = ClassPool.from_grouped(items, ["a", "b"], [4, 4])
    episodes = Episodes(pool, Setting(2, 1, 3), tasks=2)
    e, index = episodes[0], episodes.indices(0)
    assert e.support.x.shape == (2, 2, 30)
    assert e.query_x.dtype == torch.float32
    expected = items[index[..., 1:].reshape(2, -1)].astype(np.float64) / 32768
    for ours, task in zip(e.query_x.double().tolist(), expected.tolist(), strict=True):
        assert sorted(ours) == sorted(task)
    assert (e.query_x.min(), e.query_x.max()) == (-1, 32767 / 32768)
