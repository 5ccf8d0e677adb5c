"""What the learners of an initialisation share: adapting to T tasks, scores, and the meta-loss."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from quickstudy.adapt import Adapted, Rule, Tensors, adapt
from quickstudy.batchnorm import Statistics, TaskNorm
from quickstudy.episode import Episode, Support
from quickstudy.learner import Learner, evaluation_mode
from quickstudy.per_task import check_batch_norm, per_task, runs_tasks
from quickstudy.threads import in_threads

FLOATS_AT_ONCE = {"cpu": 2**19}
"""Numbers in the items of the tasks that are run side by side, by device: few enough that on a CPU the
activations stay near its caches, and on any device in its memory; half as many of a module not ours."""
OTHER_FLOATS_AT_ONCE = 2**22
SUPPORT_AT_ONCE = {"cpu": 2**17}
"""The same of the support alone, if of pictures; measured on two cores. Half as many in second order or of a
module that is not ours, an eighth in second order of such a module: they keep more for the way back."""
PICTURES_IN_THREADS = 2**15
"""Numbers in the pictures of a task, from which on all cores are as fast at one group after the other
(measured on two cores)."""


Batch = Callable[[int], tuple[Tensor, Tensor]]
"""From the number of an inner step to the items [T, B, ...] and labels [T, B] that its loss is of."""


class InnerLoop(Learner):
    """A learner that adapts a model to each task by some steps of a rule. Subclasses say which rule.

    Args:
        model: any module from [B, ...] to [B, N] scores, or to predictions for regression. Parameters that
            don't require a gradient are neither adapted nor learned.
        steps: inner steps in training.
        test_steps: and in evaluation; as many as in training by default.
        first_order: take the inner gradients for constants.
        tasks_at_once: how many tasks run at the same time. More take more memory, and the result is the same.
            By default it is chosen from the size of a task.

    Raises:
        ValueError: if a number is out of range, batch norm keeps running statistics, or no parameter requires
            a gradient.

    Batch norm uses batch statistics: of the support in the inner steps; for the queries those of the queries
    in training and in transductive evaluation; those of the support, with the adapted weights, in inductive
    evaluation.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        test_steps: int | None,
        first_order: bool,
        tasks_at_once: int | None,
    ) -> None:
        super().__init__()
        test_steps = steps if test_steps is None else test_steps
        if steps < 0 or test_steps < 0 or (tasks_at_once is not None and tasks_at_once < 1):
            raise ValueError(
                f"steps is {steps}, test_steps {test_steps}, tasks_at_once {tasks_at_once}: "
                "steps must be at least 0, tasks_at_once at least 1"
            )
        check_batch_norm(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("no parameter of the model requires a gradient: there is nothing to adapt")
        self.model, self.steps, self.test_steps = model, steps, test_steps
        self.first_order, self.tasks_at_once = first_order, tasks_at_once

    @abstractmethod
    def rule(self) -> Rule:
        """The rule of the inner steps."""

    def adapt(self, support: Support) -> Adapted:
        """Adapt to the support of T tasks.

        Returns:
            Parameters [T, ...] by name, those that are not adapted included, and the losses [steps, T].
        """
        return self._adapt_to(lambda step: (support.x, support.y), support.ways, len(support.x))

    def _adapt_to(self, batch: Batch, ways: int, tasks: int) -> Adapted:
        """Adapt to the items that each step is given."""
        everything = self.side_by_side(tasks)

        def loss(parameters: Tensors, step: int) -> Tensor:
            x, y = batch(step)
            return task_losses(per_task(self.model, everything | parameters, x), y, ways)

        with TaskNorm():
            adapted = adapt(loss, trainable(everything), self.rule(), self.steps_now, self.first_order)
        return replace(adapted, parameters=everything | adapted.parameters)

    def side_by_side(self, tasks: int) -> Tensors:
        """The model's parameters as every task begins with them, [T, ...]."""
        return {k: repeated(p, tasks) for k, p in self.model.named_parameters()}

    @property
    def steps_now(self) -> int:
        """Inner steps in the state, training or not, that the learner is in."""
        return self.steps if self.training else self.test_steps

    def scores(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores [T, Q, N] of the queries after adapting to the support, all tasks at once."""
        parameters = self.adapt(support).parameters
        statistics: list[Statistics] | None = None
        if not uses_batch_statistics(self.model):
            statistics = []
            with TaskNorm(keep=statistics):
                per_task(self.model, parameters, support.x)
        with TaskNorm(use=statistics):
            return cut(per_task(self.model, parameters, query_x), support.ways)

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores [T, Q, N] of the queries after adapting to the support; predictions for a regression."""
        n = self.at_once(support.x, query_x)
        parts = zip(split(support, n), query_x.split(n), strict=True)
        return torch.cat([self.scores(*part) for part in parts])

    def forward(self, episode: Episode) -> Tensor:
        """The meta-loss, a scalar: mean loss of the queries over the tasks.

        Where not all tasks are of one group, its gradient is taken group by group, so that the memory is that
        of those that run at the same time; `backward` hands it out.
        """
        items = episode.support.x, episode.query_x
        wanted = [p for p in self.parameters() if p.requires_grad]
        # items that need a gradient get it through the graph of all groups
        by_group = torch.is_grad_enabled() and bool(wanted) and not any(x.requires_grad for x in items)
        n = min(self.at_once(*items), episode.tasks)
        threads = min(self.threads(*items), n) if by_group else 1
        rounds = 1 if n == episode.tasks else math.ceil(episode.tasks / (n // threads * threads))
        n = math.ceil(episode.tasks / (rounds * threads))  # no more than asked for at once, and alike in size
        parts = [episode[i : i + n] for i in range(0, episode.tasks, n)]

        def loss(part: Episode) -> Tensor:
            scores = self.scores(part.support, part.query_x)
            return task_losses(scores, part.query_y, part.ways).sum() / episode.tasks

        def gradient(part: Episode) -> tuple[Tensor, Sequence[Tensor]]:
            value = loss(part)
            by_parameter = torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)
            return value.detach(), by_parameter

        if len(parts) == 1 or not by_group:
            return torch.stack([loss(part) for part in parts]).sum()
        total, gradients = torch.zeros((), device=self.device), list[Tensor]()
        # `adapt` sets it, for the whole process: threads would undo each other's
        with sdpa_kernel(SDPBackend.MATH) if threads > 1 else nullcontext():
            for value, new in in_threads(gradient, parts, threads):
                total = total + value
                gradients = [a + b for a, b in zip(gradients, new, strict=True)] if gradients else list(new)
        handed: Any = _Handed.apply(total, gradients, *wanted)
        return handed

    @property
    def is_ours(self) -> bool:
        """Whether the model runs tasks side by side itself, and so does its encoder where it has one."""
        return all(map(runs_tasks, (self.model, getattr(self.model, "encoder", self.model))))

    def threads(self, *items: Tensor) -> int:
        """How many groups of such items run at the same time: one a core, of our networks, few pictures."""
        few = all(x.ndim == 5 and x.is_cpu and x[0].numel() < PICTURES_IN_THREADS for x in items)
        return torch.get_num_threads() if self.is_ours and few else 1

    def at_once(self, *items: Tensor) -> int:
        """How many tasks of such items, first those of the support, run side by side."""
        if self.tasks_at_once:
            return self.tasks_at_once
        device, other = items[0].device.type, not self.is_ours
        most = FLOATS_AT_ONCE.get(device, OTHER_FLOATS_AT_ONCE) // (1 + other)
        n = most // max(1, *(x[0].numel() for x in items))
        if items[0].ndim == 5:
            keeps_more = (not self.first_order) + other
            most = SUPPORT_AT_ONCE.get(device, OTHER_FLOATS_AT_ONCE) // (1, 2, 8)[keeps_more]
            n = min(n, most // max(1, items[0][0].numel()))
        return max(1, n)

    def adapted(self, support: Support) -> nn.Module:
        """An ordinary module with the weights adapted to one task, in evaluation mode.

        It has taken as many steps as in evaluation. Its batch norm keeps, as running statistics, those of the
        support, so it tells each query by itself, as inductive prediction does; but for Reptile, whose
        prediction takes each query into the statistics. Its `state_dict` holds all of it.

        Args:
            support: of one task.

        Raises:
            ValueError: if the support is of several tasks.
        """
        if len(support.x) != 1:
            raise ValueError(f"the support is of {len(support.x)} tasks: adapt to one at a time")
        with torch.no_grad():
            with evaluation_mode(self):
                parameters = {k: p[0].clone() for k, p in self.adapt(support).parameters.items()}
            model = copy.deepcopy(self.model)
            model.load_state_dict(parameters, strict=False)
            return with_statistics_of(model, support.x[0])


class _Handed(Function):
    """A scalar with a gradient that is known already."""

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

    Flat in the order of its memory in between, so that its gradient is a sum of rows; that of channels-last
    filters would take torch ten times as long.
    """
    if parameter.is_contiguous():
        return parameter.expand(tasks, *parameter.shape)
    order = sorted(range(parameter.ndim), key=parameter.stride, reverse=True)
    lying = parameter.permute(order)
    back = [0, *(1 + order.index(i) for i in range(parameter.ndim))]
    return lying.flatten().expand(tasks, -1).view(tasks, *lying.shape).permute(back)


def task_losses(scores: Tensor, y: Tensor, ways: int) -> Tensor:
    """[T] losses: mean cross-entropy in nats, or the mean squared error of a regression (ways = 0).

    Args:
        scores: [T, B, ≥ N], or predictions [T, B, ...].
        y: [T, B] labels, or values [T, B, ...].
        ways: N.

    Raises:
        ValueError: if there are fewer scores than classes, or values are not of the predictions' shape.
    """
    if not ways:
        if scores.shape != y.shape:
            raise ValueError(
                f"the model predicts {list(scores.shape)} and the values are {list(y.shape)}: "
                "give them the shape of the predictions (y.unsqueeze(-1)?)"
            )
        exact = scores if scores.dtype == y.dtype else scores.float()
        return (exact - y).square().mean(tuple(range(1, y.ndim)))
    rows = cut(scores, ways).flatten(0, 1)
    rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    return F.cross_entropy(rows, y.flatten(), reduction="none").view_as(y).mean(1)


def cut(scores: Tensor, ways: int) -> Tensor:
    """The scores of the first `ways` classes, all of them for a regression.

    Raises:
        ValueError: if there are fewer.
    """
    if scores.shape[-1] < ways:
        raise ValueError(
            f"the model tells {scores.shape[-1]} classes and a task has {ways}: "
            f"train one with at least {ways} ways"
        )
    return scores[..., :ways] if ways else scores


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether batch norm normalises queries by each other (in training, or made transductive)."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return not norms or any(m.training for m in norms)


def split(support: Support, n: int) -> list[Support]:
    """The supports of n tasks at a time."""
    parts = [t.split(n) for t in (support.x, support.y, support.unlabelled)]
    return [Support(x, y, support.ways, u) for x, y, u in zip(*parts, strict=True)]


def trainable(parameters: Tensors) -> Tensors:
    """Those that require a gradient."""
    return {k: p for k, p in parameters.items() if p.requires_grad}


def with_statistics_of(model: nn.Module, x: Tensor) -> nn.Module:
    """Give a model's batch norm the statistics of a batch as its running ones, for evaluation."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]

    def remember(m: Any, taken: tuple[Tensor], _: Tensor) -> None:
        # the biased variance, by which the batch itself is normalised
        variance, mean = torch.var_mean(taken[0].transpose(0, 1).flatten(1), 1, correction=0)
        m.register_buffer("running_mean", mean)
        m.register_buffer("running_var", variance)
        m.register_buffer("num_batches_tracked", torch.ones((), dtype=torch.long, device=mean.device))

    hooks = [m.register_forward_hook(remember) for m in norms]
    model(x)
    for hook in hooks:
        hook.remove()
    for m in norms:
        m.track_running_stats = True
    return model.eval()
