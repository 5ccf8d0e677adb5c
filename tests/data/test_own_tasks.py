"""Tasks of one's own: trained on, evaluated and resumed like any others, or refused in a line."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core.scores import mean_ci95
from quickstudy.data import Sinusoids
from quickstudy.data.own_tasks import OwnTasks, TaskSource


def lines(i: int) -> qs.Episode:
    """Three regressions of a line through 0, drawn from torch's global generator."""
    slopes, x = torch.randn(3, 1, 1), torch.randn(3, 9, 1)
    y = slopes * x
    return qs.Episode(qs.Support(x[:, :4], y[:, :4], 0), x[:, 4:], y[:, 4:])


def clouds(i: int) -> qs.Episode:
    """Two tasks of two, three or four classes, by a generator of their own; queries differ in number too."""
    rng, ways = torch.Generator().manual_seed(i), 2 + i % 3
    y = torch.arange(ways).repeat(2, 3)
    x = 3 * torch.randn(2, ways, 5, generator=rng)[torch.arange(2)[:, None], y]
    x = x + torch.randn(x.shape, generator=rng)
    return qs.Episode(qs.Support(x[:, :ways], y[:, :ways], ways), x[:, ways:], y[:, ways:])


def endless() -> Iterator[qs.Episode]:
    while True:
        yield lines(0)


def same(a: qs.Episode, b: qs.Episode) -> bool:
    return torch.equal(a.support.x, b.support.x) and torch.equal(a.query_y, b.query_y)


def maml() -> qs.MAML:
    torch.manual_seed(0)
    return qs.MAML(qs.MLP(1, (8,), 1), lr=0.01)


def prototypical() -> qs.Prototypical:
    torch.manual_seed(0)
    return qs.Prototypical(nn.Linear(5, 4))


def weights_of(learner: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def test_a_function_gives_the_same_tasks_whenever_it_is_asked_and_leaves_the_generators_alone() -> None:
    def drawn(i: int) -> qs.Episode:
        e = lines(i)
        return qs.Episode(e.support, e.query_x + random.random() + float(np.random.rand()), e.query_y)  # noqa: NPY002

    one, again, other = OwnTasks(drawn), OwnTasks(drawn), OwnTasks(drawn, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same(one[3], again[3])
    assert torch.equal(one[3].query_x, again[3].query_x)
    assert not same(one[3], one[4])
    assert not same(one[3], other[3])
    assert torch.equal(torch.get_rng_state(), before)
    assert one.tasks == 3
    assert torch.equal(one.part(2, 1, 2).query_x, one[2].query_x[1::2])
    assert one.summary() == again.summary() != other.summary()


@pytest.mark.parametrize("source", [lines, [lines(i) for i in range(12)], endless(), endless])
def test_all_kinds_of_sources_are_trained_on(source: TaskSource) -> None:
    learner = maml()
    before = weights_of(learner)
    assert qs.fit(learner, source, 12).step == 12
    assert not torch.equal(weights_of(learner), before)


def test_classes_and_queries_may_differ_in_number_from_meta_batch_to_meta_batch() -> None:
    learner = prototypical()
    qs.fit(learner, clouds, 30, validation=clouds, validation_episodes=10, every=10)
    score = qs.evaluate(learner, clouds, 7)
    assert isinstance(score, qs.Score)
    right: list[float] = []
    for i in range(4):
        e = clouds(i)
        found = learner.predict(e.support, e.query_x).argmax(-1)
        right += (found == e.query_y).float().mean(1).tolist()
    assert score.accuracies == pytest.approx(right[:7])
    assert score.setting == "own tasks"
    assert score.data95 is None
    assert score.compare(qs.evaluate(learner, clouds, 7)).difference == 0


def test_the_score_of_regressions_is_the_mean_squared_error_with_its_interval() -> None:
    learner, tasks = maml().eval(), OwnTasks(lines, seed=4, setting="lines")
    score = qs.evaluate(learner, tasks, 20)
    assert isinstance(score, qs.ErrorScore)
    each: list[float] = []
    for i in range(7):
        e = tasks[i]
        each += (learner.predict(e.support, e.query_x) - e.query_y).square().mean((1, 2)).tolist()
    assert score.errors == pytest.approx(each[:20])
    mean, ci95 = mean_ci95(torch.tensor(each[:20]))
    assert (score.error, score.ci95) == pytest.approx((mean, ci95))
    assert score.objective == -score.error
    assert str(score).startswith(f"mean squared error {score.error:.4g} ± ")
    assert str(score).endswith("over draws (lines, inductive, 20 episodes, seed 4)")
    assert isinstance(qs.evaluate(learner, Sinusoids(), 5), qs.ErrorScore)


def test_the_best_validation_of_regressions_is_the_least_error(tmp_path: Path) -> None:
    learner = maml()
    progress = qs.fit(
        learner, Sinusoids(), 40, validation=Sinusoids(seed=1), validation_episodes=25, every=10, out=tmp_path
    )
    logged = [line["validation"] for line in qs.training.read_log(tmp_path / "log.jsonl")]
    assert len(logged) == 4
    best = qs.evaluate(learner, Sinusoids(seed=1), 25)
    assert isinstance(best, qs.ErrorScore)
    assert best.error == pytest.approx(min(logged))
    assert progress.best_step == 10 * (1 + logged.index(min(logged)))


@pytest.mark.parametrize("source", [lines, endless, [lines(i) for i in range(12)]])
def test_a_resumed_training_is_the_one_without_a_stop(source: TaskSource, tmp_path: Path) -> None:
    whole, halves = maml(), maml()
    qs.fit(whole, source, 12, every=4, out=tmp_path / "whole")

    def stop(step: int, news: dict[str, Any]) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qs.fit(halves, source, 12, every=4, out=tmp_path / "halves", report=stop)
    qs.fit(halves, source, 12, every=4, out=tmp_path / "halves", resume=True)
    assert torch.equal(weights_of(whole), weights_of(halves))


def test_a_generator_goes_on_where_a_training_is_resumed_and_says_so(tmp_path: Path) -> None:
    def stop(step: int, news: dict[str, Any]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    given = endless()
    with pytest.raises(KeyboardInterrupt):
        qs.fit(maml(), given, 8, every=4, out=tmp_path, report=stop)
    with pytest.warns(UserWarning, match=r"^a generator can't be resumed at meta-batch 4, so it goes"):
        assert qs.fit(maml(), given, 8, every=4, out=tmp_path, resume=True).step == 8


def test_a_simulator_that_has_changed_is_not_resumed(tmp_path: Path) -> None:
    qs.fit(prototypical(), [clouds(0)] * 4, 2, out=tmp_path)
    with pytest.raises(ValueError, match=r"holds a training run with train.first .*resume it with the same"):
        qs.fit(prototypical(), [clouds(1)] * 4, 2, out=tmp_path, resume=True)


def test_validation_of_a_generator_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"^a generator can't give the same tasks in each validation: give"):
        qs.fit(maml(), lines, 10, validation=endless())
    qs.fit(maml(), lines, 4, validation=endless, every=2, validation_episodes=3)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (
            [lines(0)] * 3,
            ValueError,
            r"^the list has 3 meta-batches of tasks, and 5 are asked for: give",
        ),
        ((lines(i) for i in range(3)), ValueError, r"^the generator ends after 3 meta-batches, and one more"),
        (
            lambda i: (1, 2),
            TypeError,
            r"^meta-batch 0 of the tasks is a tuple: give an Episode, Epis",
        ),
        (lambda i: lines(i)[: 3 - i], ValueError, r"^meta-batch 1 has 2 tasks and the first 3: give each as"),
        (
            {"a": 1},
            TypeError,
            r"^episodes is a dict: .*for tasks of your own a function from i to an Epis",
        ),
        ("tasks", TypeError, r"^episodes is a str: .*for tasks of your own a function from i to an Episode"),
    ],
)
def test_wrong_sources_are_told_in_a_line(source: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as told:
        qs.fit(maml(), source, 5)
    assert "\n" not in str(told.value)


def test_labels_out_of_range_are_told() -> None:
    def wrong(i: int) -> qs.Episode:
        e = clouds(0)
        return qs.Episode(qs.Support(e.support.x, e.support.y, 2), e.query_x, e.query_y + 5)

    with pytest.raises(ValueError, match=r"^query label 5 is outside 0 … 1: labels count the 2 classes"):
        qs.fit(prototypical(), wrong, 2)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^tasks are given by a int: give a function from i to an Episode"):
        OwnTasks(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="seed is -1"):
        OwnTasks(lines, seed=-1)
    mixed = [lines(0), clouds(0)[:1]]
    with pytest.raises(ValueError, match=r"^meta-batch 1 has 1 task and the first 3"):
        OwnTasks(mixed)[1]

    class Any0(qs.Learner):
        def predict(self, support: qs.Support, query_x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*query_x.shape[:2], support.ways or 1)

    both = [lines(0)[:2], clouds(0)]
    with pytest.raises(ValueError, match=r"^some tasks are regressions \(ways = 0\) and others have classes"):
        qs.evaluate(Any0(), both, 4)
    with pytest.raises(ValueError, match=r"^the list has 2 meta-batches of tasks, and 500 are asked for"):
        qs.evaluate(Any0(), both)
    assert math.isnan(qs.evaluate(Any0(), both, 1).ci95)
