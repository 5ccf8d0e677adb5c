"""The tasks of an inner loop in groups: how many run at the same time, and a gradient group by group."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.core.episode import Episode
from quickstudy.core.kernels.per_task import has_forward_per_task
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.switch import kernels_enabled
from quickstudy.core.kernels.threads import in_threads


@dataclass(frozen=True)
class GroupLimits:
    """How the tasks of an episode may be divided.

    Args:
        tasks: The most tasks that run at the same time, those of all threads together.
        threads: The most groups that run at the same time, each in a thread.
    """

    tasks: int
    threads: int


_SHARES = {
    # (runs side by side itself, first order): the share of `group_support_numbers` that it may take.
    (True, True): 1.0,
    (True, False): 1 / 2,  # second order keeps the inner steps' activations for the backward pass
    (False, True): 1 / 2,  # torch's layers keep more than ours
    (False, False): 1 / 8,  # and much more where they are differentiated twice
}


def group_limits(model: nn.Module, first_order: bool, chunk_size: int | None, *items: Tensor) -> GroupLimits:
    """How many tasks of such items run at the same time, and in how many threads.

    A thread for each core, for few pictures and models that run tasks side by side themselves.

    Args:
        model: The model that is adapted.
        first_order: Whether the inner gradients are constants.
        chunk_size: The number of tasks asked for; by default it follows from `Sizes`.
        items: [T, B, ...] items of the support, then those of the queries.
    """
    size = sizes_on(items[0].device.type)
    ours = all(map(has_forward_per_task, (model, getattr(model, "encoder", model))))
    few = all(x.ndim == 5 and x[0].numel() < size.threaded_task_numbers for x in items)
    threads = torch.get_num_threads() if ours and few else 1
    if chunk_size:
        return GroupLimits(chunk_size, threads)
    most = size.group_numbers if ours else size.group_numbers // 2
    n = most // max(1, *(x[0].numel() for x in items))
    if items[0].ndim == 5:
        most = int(size.group_support_numbers * _SHARES[ours, first_order])
        n = min(n, most // max(1, items[0][0].numel()))
    return GroupLimits(max(1, n), threads)


def sum_over_groups(
    loss: Callable[[Episode], Tensor], episode: Episode, learned: Sequence[Tensor], limits: GroupLimits
) -> Tensor:
    """`loss(episode)` of a loss that is a sum over tasks, computed group of tasks by group.

    Where there are several groups the gradient is computed group by group in forward, and returned by
    backward: so the memory is that of the groups that run at the same time.

    Args:
        loss: From some of the tasks to their loss, a scalar.
        episode: All the tasks.
        learned: Parameters that the loss is differentiated with respect to.
        limits: How many tasks and groups run at the same time.
    """
    if not kernels_enabled():
        return torch.stack([loss(episode[t : t + 1]) for t in range(episode.tasks)]).sum()
    # items that need a gradient get it through the graph of all groups
    leaves = episode.support.x, episode.query_x
    by_group = torch.is_grad_enabled() and bool(learned) and not any(x.requires_grad for x in leaves)
    n = min(limits.tasks, episode.tasks)
    threads = min(limits.threads, n) if by_group else 1
    rounds = 1 if n == episode.tasks else math.ceil(episode.tasks / (n // threads * threads))
    n = math.ceil(
        episode.tasks / (rounds * threads)
    )  # no more than asked for at once, in groups of equal size
    groups = [episode[i : i + n] for i in range(0, episode.tasks, n)]
    if len(groups) == 1 or not by_group:
        return torch.stack([loss(group) for group in groups]).sum()

    def gradient(group: Episode) -> tuple[Tensor, Sequence[Tensor]]:
        value = loss(group)
        by_parameter = torch.autograd.grad(value, learned, allow_unused=True, materialize_grads=True)
        return value.detach(), by_parameter

    total, gradients = torch.zeros((), device=learned[0].device), list[Tensor]()
    # `adapt` sets it, for the whole process: threads would undo each other's
    with sdpa_kernel(SDPBackend.MATH) if threads > 1 else nullcontext():
        for value, new in in_threads(gradient, groups, threads):
            total = total + value
            gradients = [a + b for a, b in zip(gradients, new, strict=True)] if gradients else list(new)
    y: Any = _PrecomputedGradient.apply(total, gradients, *learned)
    return y


class _PrecomputedGradient(Function):
    """A scalar whose gradient is known already; backward only scales it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator's type)
        ctx: Any, *grad_outputs: Tensor
    ) -> Any:
        return None, None, *(grad_outputs[0] * gradient for gradient in ctx.gradients)


def repeated(parameter: Tensor, tasks: int) -> Tensor:
    """A parameter as T tasks begin with it, [T, ...], by views.

    Flat in the order of its memory in between, so that its gradient is a sum of rows; torch takes ten times
    as long for that of channels-last filters.
    """
    if parameter.is_contiguous():
        return parameter.expand(tasks, *parameter.shape)
    order = sorted(range(parameter.ndim), key=parameter.stride, reverse=True)
    lying = parameter.permute(order)
    back = [0, *(1 + order.index(i) for i in range(parameter.ndim))]
    return lying.flatten().expand(tasks, -1).view(tasks, *lying.shape).permute(back)
