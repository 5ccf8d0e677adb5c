"""Episode and Support: mistakes are named, slices are views."""

import pytest
import torch
from torch import Tensor

from quickstudy.core.episode import Episode, Support

Y = torch.tensor([[0, 1, 1], [1, 0, 0]])


def support(**changes: Tensor | int) -> Support:
    return Support(**({"x": torch.zeros(2, 3, 4), "y": Y, "ways": 2} | changes))  # pyright: ignore


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"y": Y[:, :2]}, r"labels have shape \[2, 2\] but the items \[2, 3, 4\].*\[T, S\]", id="items"
        ),
        pytest.param({"y": Y[:1]}, r"labels have shape \[1, 3\]", id="tasks"),
        pytest.param({"y": Y.flatten()}, r"labels have shape \[6\]", id="flat"),
        pytest.param({"y": Y.int()}, r"labels are torch\.int32: convert them with y\.long\(\)", id="int32"),
        pytest.param({"y": Y.float()}, r"labels are torch\.float32: convert", id="float"),
        pytest.param({"y": Y + 1}, r"label 2 is outside 0 … 1.*count the 2 classes.*from 0", id="from-1"),
        pytest.param({"y": Y - 1}, r"label -1 is outside 0 … 1", id="negative"),
        pytest.param(
            {"y": torch.tensor([[0, 1, 1], [0, 0, 0]])},
            r"class 1 of task 1 has no support item: every class needs at least one",
            id="empty-class",
        ),
        pytest.param({"ways": 3}, r"class 2 of task 0 has no support item", id="too-many-ways"),
        pytest.param({"x": torch.zeros(2, 0, 4), "y": Y[:, :0]}, r"class 0 of task 0 has no", id="no-items"),
        pytest.param(
            {"unlabelled": torch.zeros(1, 5, 4)},
            r"unlabelled items have shape \[1, 5, 4\] but the support \[2, 3, 4\].*second dimension only",
            id="unlabelled-tasks",
        ),
        pytest.param(
            {"unlabelled": torch.zeros(2, 5, 3)}, r"unlabelled .* \[2, 5, 3\]", id="unlabelled-shape"
        ),
    ],
)
def test_support_errors_name_the_thing_and_the_fix(changes: dict[str, Tensor | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        support(**changes)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param((2, 5, 4), (2, 4), id="labels"),
        pytest.param((1, 5, 4), (1, 5), id="tasks"),
        pytest.param((2, 5, 3), (2, 5), id="item-shape"),
        pytest.param((2, 5, 4, 1), (2, 5), id="item-dimensions"),
        pytest.param((2, 5, 4), (10,), id="flat-labels"),
    ],
)
def test_episode_errors_name_the_shapes(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"query items \[.*\] and labels \[.*\].*\[2, 3, 4\].*\[T, Q, \.\.\.\]"
    ):
        Episode(support(), torch.zeros(x), torch.zeros(y, dtype=torch.int64))


def test_there_are_no_unlabelled_items_by_default() -> None:
    s = support(x=torch.zeros(2, 3, 4, dtype=torch.float64))
    assert s.unlabelled.shape == (2, 0, 4)
    assert s.unlabelled.dtype == torch.float64


def test_unlabelled_items_may_be_any_number() -> None:
    assert support(unlabelled=torch.zeros(2, 7, 4)).unlabelled.shape == (2, 7, 4)
    assert support(unlabelled=torch.zeros(2, 0, 4)).unlabelled.shape == (2, 0, 4)


def test_sizes() -> None:
    e = Episode(support(), torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64))
    assert (e.tasks, e.ways, e.shots) == (2, 2, 1.5)


@pytest.mark.parametrize("unlabelled", [0, 3])
def test_a_slice_is_a_view_of_those_tasks(unlabelled: int) -> None:
    s = Support(torch.rand(3, 2, 4), torch.tensor([[0, 1], [1, 0], [1, 0]]), 2, torch.rand(3, unlabelled, 4))
    e = Episode(s, torch.rand(3, 5, 4), torch.randint(2, (3, 5)))
    part = e[1:]
    assert (part.tasks, part.ways) == (2, 2)
    for ours, whole in (
        (part.support.x, s.x),
        (part.support.y, s.y),
        (part.support.unlabelled, s.unlabelled),
        (part.query_x, e.query_x),
        (part.query_y, e.query_y),
    ):
        assert torch.equal(ours, whole[1:])
    part.query_x.zero_()
    assert e.query_x[1:].abs().sum() == 0
    assert e[::2].tasks == 2
