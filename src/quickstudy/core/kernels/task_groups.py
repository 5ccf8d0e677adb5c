"""Groups of tasks in an inner loop: how many run at the same time, and the gradient group by group."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from quickstudy.core.episode import Episode
from quickstudy.core.kernels.per_task import runs_at_once
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.switch import kernels_enabled
from quickstudy.core.kernels.threads import in_threads
from quickstudy.core.process import math_attention


@dataclass(frozen=True)
class GroupLimits:
    """Limits on the tasks of an episode that run at the same time.

    Args:
        tasks: Largest number of tasks that run at the same time, in all threads together.
        threads: Largest number of groups that run at the same time, each in its own thread.
    """

    tasks: int
    threads: int


_SHARES = {
    # (model has forward_per_task, first order): fraction of `group_support_numbers` that a batch may take
    (True, True): 1.0,
    (True, False): 1 / 2,  # second order keeps the inner steps' activations for the backward pass
    (False, True): 1 / 2,  # torch's layers keep more activations than the kernels
    (False, False): 1 / 8,  # and many more if they are differentiated twice
}


def group_limits(model: nn.Module, first_order: bool, chunk_size: int | None, *items: Tensor) -> GroupLimits:
    """Limits on the number of tasks and threads that run at the same time, by the size of a task.

    There is one thread per core if tasks have few pictures and the model has `forward_per_task`, else one.

    Args:
        model: Model that the inner loop adapts.
        first_order: Whether the inner gradients are treated as constants.
        chunk_size: Number of tasks chosen by the user; by default it follows from `Sizes`.
        items: [T, B, ...] items of the support, then those of the queries.
    """
    size = sizes_on(items[0].device.type)
    ours = runs_at_once(model)
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
    """`loss(episode)` for a loss that is a sum over tasks, computed group by group of tasks.

    With several groups, the gradient is computed group by group in forward and returned by backward. So
    memory is needed only for the groups that run at the same time.

    Args:
        loss: Function from an episode with some of the tasks to the sum of their losses, a scalar.
        episode: Episode with all the tasks.
        learned: Parameters with respect to which the loss is differentiated.
        limits: Limits on the number of tasks and groups that run at the same time.

    Returns:
        Sum of the losses of all tasks, a scalar.
    """
    if not kernels_enabled():
        return torch.stack([loss(episode[t : t + 1]) for t in range(episode.tasks)]).sum()
    # if the items need a gradient, all groups stay in one graph, through which they get it
    leaves = episode.support.x, episode.query_x
    by_group = torch.is_grad_enabled() and bool(learned) and not any(x.requires_grad for x in leaves)
    n = min(limits.tasks, episode.tasks)
    threads = min(limits.threads, n) if by_group else 1
    rounds = 1 if n == episode.tasks else math.ceil(episode.tasks / (n // threads * threads))
    n = math.ceil(episode.tasks / (rounds * threads))  # groups of equal size, within the limits
    groups = [episode[i : i + n] for i in range(0, episode.tasks, n)]
    if len(groups) == 1 or not by_group:
        return torch.stack([loss(group) for group in groups]).sum()

    def gradient(group: Episode) -> tuple[Tensor, Sequence[Tensor]]:
        value = loss(group)
        by_parameter = torch.autograd.grad(value, learned, allow_unused=True, materialize_grads=True)
        return value.detach(), by_parameter

    total, gradients = torch.zeros((), device=learned[0].device), list[Tensor]()
    with math_attention() if threads > 1 else nullcontext():  # once for all, not once a step
        for value, new in in_threads(gradient, groups, threads):
            total = total + value
            gradients = [a + b for a, b in zip(gradients, new, strict=True)] if gradients else list(new)
    y: Any = _PrecomputedGradient.apply(total, gradients, *learned)
    return y


class _PrecomputedGradient(Function):
    """A scalar with a gradient that was computed in forward; backward returns it, scaled."""

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
    """A parameter repeated for T tasks, [T, ...], as a view.

    It is flattened in memory order before it is expanded, so that its gradient is a sum of rows. For
    channels-last filters, torch takes ten times as long for the gradient of a plain `expand`.

    Args:
        parameter: Parameter of any shape.
        tasks: Number T of tasks.
    """
    if parameter.is_contiguous():
        return parameter.expand(tasks, *parameter.shape)
    order = sorted(range(parameter.ndim), key=parameter.stride, reverse=True)
    lying = parameter.permute(order)
    back = [0, *(1 + order.index(i) for i in range(parameter.ndim))]
    return lying.flatten().expand(tasks, -1).view(tasks, *lying.shape).permute(back)
