"""Groups of tasks in threads: the same results, whatever torch and we keep by thread or by process."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.core.episode import Episode
from quickstudy.core.kernels import task_groups
from quickstudy.core.kernels.per_task import per_task
from quickstudy.core.kernels.sizes import sizes, sizes_on
from quickstudy.core.kernels.switch import kernels, kernels_enabled
from quickstudy.core.kernels.task_norm import Statistics, TaskNorm, is_active, record_statistics
from quickstudy.core.kernels.threads import in_threads
from quickstudy.initialization.maml import MAML
from tests.initialization.test_initialization import LEARNERS
from tests.support.small_models import distance, gradients_of, network, pictures


@pytest.fixture
def three_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_and_the_cores_are_divided(threads: int) -> None:
    barrier = threading.Barrier(threads)

    def work(i: int) -> tuple[int, int, int]:
        barrier.wait(10)  # so many are at work at the same time
        time.sleep(0.01 * (6 - i))  # the last is the first to be done
        return i, torch.get_num_threads(), threading.get_ident()

    found = list(in_threads(work, range(6), threads))
    assert [i for i, _, _ in found] == list(range(6))
    assert {cores for _, cores, _ in found} == {3 // threads}
    at_work = {thread for _, _, thread in found}
    assert len(at_work) == threads
    assert threading.get_ident() in at_work
    assert torch.get_num_threads() == 3
    assert not any(t.name.startswith("tasks") for t in threading.enumerate())


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("whose", ["the caller's", "another's"])
def test_an_error_ends_it_and_gives_the_cores_back(whose: str) -> None:
    caller, barrier = threading.get_ident(), threading.Barrier(2)
    done: list[int] = []

    def work(i: int) -> int:
        if i < 2:
            barrier.wait(10)  # both are at work
        if (threading.get_ident() == caller) == (whose == "the caller's"):
            raise ValueError(whose)
        time.sleep(0.1)
        done.append(i)
        return i

    with pytest.raises(ValueError, match=whose):
        in_threads(work, range(9), 2)
    assert torch.get_num_threads() == 3
    assert not any(t.name.startswith("tasks") for t in threading.enumerate())
    if whose == "the caller's":
        assert len(done) == 1  # what had not begun does not begin


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_grad_mode_and_autocast_go_along(wanted: bool, lower: bool) -> None:
    def work(x: Tensor) -> Tensor:
        return x @ x

    items = [torch.eye(3, requires_grad=True) for _ in range(3)]
    with torch.set_grad_enabled(wanted), torch.autocast("cpu", torch.bfloat16, enabled=lower):
        results = list(in_threads(work, items, 3))
    assert {y.requires_grad for y in results} == {wanted}
    assert {y.dtype for y in results} == {torch.bfloat16 if lower else torch.float32}


@pytest.mark.usefixtures("three_cores")
def test_each_thread_has_a_batch_norm_of_its_own() -> None:
    barrier = threading.Barrier(3)

    def work(i: int) -> list[float]:
        kept: list[Statistics] = []
        with TaskNorm(keep=kept):
            barrier.wait(10)
            for k in range(3):
                record_statistics(torch.tensor(10.0 * i + k), torch.tensor(1.0))
                barrier.wait(10)
        return [mean.item() for mean, _ in kept]

    with TaskNorm(keep=(callers := [])):
        found = list(in_threads(work, range(3), 3))
        assert is_active()
    assert callers == []
    assert found == [[10.0 * i + k for k in range(3)] for i in range(3)]


@pytest.mark.usefixtures("three_cores")
def test_the_switch_and_sizes_go_along() -> None:
    barrier = threading.Barrier(3)

    def work(_: int) -> tuple[bool, int]:
        barrier.wait(10)
        return kernels_enabled(), sizes_on().encoded_items

    with kernels(enabled=False), sizes(encoded_items=7):
        assert list(in_threads(work, range(3), 3)) == [(False, 7)] * 3
    assert kernels_enabled()


@pytest.mark.medium
@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("chunk_size", [None, 2, 3, 4])
@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "reptile"])
def test_threads_change_nothing(name: str, chunk_size: int | None) -> None:
    make, e = LEARNERS[name], pictures(tasks=5)
    torch.set_num_threads(1)
    alone = make(network(), chunk_size=5)
    expected = alone(e)
    torch.set_num_threads(3)
    beside = make(network(), chunk_size=chunk_size)
    assert beside.limits(e.support.x, e.query_x).threads == 3
    found = beside(e)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert distance(gradients_of(found, beside), gradients_of(expected, alone)) < 1e-10
    assert torch.get_num_threads() == 3
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.math_sdp_enabled()


@pytest.mark.medium
@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("tasks", [2, 5, 7, 8])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 5, 7, 100])
def test_no_more_tasks_run_at_once_than_asked_for(
    tasks: int, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, list[int]]] = []

    def watched(function: Callable[[Episode], Any], parts: list[Episode], threads: int) -> Iterable[Any]:
        ran.append((threads, [part.tasks for part in parts]))
        return in_threads(function, parts, threads)

    monkeypatch.setattr(task_groups, "in_threads", watched)
    MAML(network(), chunk_size=chunk_size)(pictures(tasks=tasks))
    for threads, groups in ran:
        assert sum(groups) == tasks
        assert sum(groups[:threads]) <= chunk_size  # the first are the largest
        assert max(groups) == groups[0]
    assert ran


@pytest.mark.usefixtures("three_cores")
def test_another_attention_is_left_as_it_was() -> None:
    learner, e = MAML(network()), pictures(tasks=3)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for _ in range(5):
            learner(e).backward()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.math_sdp_enabled()


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_items_that_need_a_gradient_get_it(chunk_size: int | None) -> None:
    learner, e = MAML(network(), steps=2, chunk_size=chunk_size), pictures(tasks=3)
    whole, at = MAML(network(), steps=2, chunk_size=3), pictures(tasks=3)
    for episode in (e, at):
        episode.query_x.requires_grad_()
        episode.support.x.requires_grad_()
    torch.set_num_threads(1)
    whole(at).backward()
    torch.set_num_threads(3)
    learner(e).backward()
    for found, expected in ((e.query_x, at.query_x), (e.support.x, at.support.x)):
        assert found.grad is not None
        assert found.grad.abs().sum() > 0
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("three_cores")
def test_only_our_networks_of_few_pictures_get_threads() -> None:
    few, many = (
        torch.zeros(3, 5, 1, 28, 28),
        torch.zeros(3, sizes_on().threaded_task_numbers // 784 + 1, 1, 28, 28),
    )
    assert MAML(network()).limits(few, few).threads == 3
    assert MAML(network()).limits(few, many).threads == 1
    assert MAML(network("own-encoder")).limits(few, few).threads == 1
    assert MAML(network("own-classifier")).limits(few, few).threads == 1
    assert MAML(network()).limits(torch.zeros(3, 5, 8), torch.zeros(3, 5, 8)).threads == 1


class Slow(nn.Module):
    """Lets other threads in between taking its weight and using it again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        before = self.weight
        time.sleep(0.002)
        return before * x.sum((1, 2, 3)) + self.weight


def test_a_module_is_one_threads_at_a_time() -> None:
    """Its parameters are put into it for each call: threads would see each other's."""
    module, x = Slow(), torch.ones(2, 3, 1, 4, 4)

    def work(i: int) -> Tensor:
        return per_task(module, {"weight": torch.tensor([1.0, 2.0]) * i}, x)

    for i, y in enumerate(in_threads(work, range(1, 5), 4), 1):
        torch.testing.assert_close(y, torch.tensor([[17.0] * 3, [34.0] * 3]) * i)
