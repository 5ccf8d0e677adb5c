"""Base class of the learners with an inner loop, such as MAML: adaptation, scores, meta-loss."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import Adapted, Rule, Tensors, adapt
from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.per_task import check_batch_norm, per_task
from quickstudy.core.kernels.task_groups import GroupLimits, group_limits, repeated, sum_over_groups
from quickstudy.core.kernels.task_norm import Statistics, TaskNorm
from quickstudy.core.kernels.torch_private import BatchNorm
from quickstudy.core.learner import Learner, evaluation_mode

Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Function from the number of an inner step to the items [T, B, ...] and labels [T, B] of its mini-batch."""
TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""Loss of one task: function from scores [B, N] and labels [B] to a scalar, such as `F.cross_entropy`.

For regression, from predictions [B, ...] and values [B, ...]. A loss that is an `nn.Module` is a part of the
learner: its parameters are learned with the others.
"""


class InnerLoopOptions(TypedDict, total=False):
    """Options that learners hand on to `InnerLoop`, which says what each of them does."""

    loss: TaskLoss | None
    outer_loss: TaskLoss | None


class InnerLoop(Learner):
    """A learner that adapts a model to each task by several steps of an update rule, set by the subclass.

    Args:
        model: Any module from [B, ...] to [B, N] scores, or to predictions for regression. Parameters that
            don't require a gradient are neither adapted nor learned.
        steps: Number of inner steps in training, at least 0.
        test_steps: Number of inner steps in evaluation; the same as in training by default.
        first_order: Whether to treat the inner gradients as constants.
        chunk_size: Number of tasks that run at the same time, which changes memory and speed but not the
            result. By default it is chosen from the size of a task.
        loss: Loss of one task, which the inner steps lower, and which the queries are judged by as well; by
            default mean cross-entropy, or mean squared error for regression.
        outer_loss: Loss of one task that the queries are judged by in place of `loss`.

    Raises:
        ValueError: If a number is out of range, batch norm keeps running statistics, or no parameter requires
            a gradient.

    Batch norm uses batch statistics. In the inner steps they are those of the support. For the queries they
    are those of the queries in training and in transductive evaluation, and in inductive evaluation those of
    the support under the adapted weights.

    To train with a loss of your own, give it as `loss`. A subclass that overrides `forward` changes the outer
    loss alone: its inner steps go on lowering `loss`.
    """

    loss: TaskLoss | None
    outer_loss: TaskLoss | None

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        test_steps: int | None,
        first_order: bool,
        chunk_size: int | None,
        *,
        loss: TaskLoss | None = None,
        outer_loss: TaskLoss | None = None,
    ) -> None:
        super().__init__()
        test_steps = steps if test_steps is None else test_steps
        if steps < 0 or test_steps < 0 or (chunk_size is not None and chunk_size < 1):
            raise ValueError(
                f"steps is {steps}, test_steps {test_steps}, chunk_size {chunk_size}: "
                "steps must be at least 0, chunk_size at least 1"
            )
        check_batch_norm(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("no parameter of the model requires a gradient: there is nothing to adapt")
        self.model, self.steps, self.test_steps = model, steps, test_steps
        self.first_order, self.chunk_size = first_order, chunk_size
        self.loss, self.outer_loss = loss, outer_loss

    @abstractmethod
    def rule(self) -> Rule:
        """Update rule of the inner steps."""

    def adapt(self, support: Support) -> Adapted:
        """Adapt the model to the support sets of T tasks.

        Args:
            support: Labelled items of T tasks.

        Returns:
            All parameters [T, ...] by name, also those that are not adapted, and the losses [steps, T].
        """
        return self._adapt_to(lambda step: (support.x, support.y), support.ways, len(support.x))

    def _adapt_to(self, batch: Batch, ways: int, tasks: int) -> Adapted:
        """`adapt` with a mini-batch for each step; ways is N, tasks is T."""
        everything = self.starting_parameters(tasks)

        def loss(parameters: Tensors, step: int) -> Tensor:
            x, y = batch(step)
            return task_losses(per_task(self.model, everything | parameters, x), y, ways, self.loss)

        with TaskNorm():
            adapted = adapt(loss, trainable(everything), self.rule(), self.steps_now, self.first_order)
        return replace(adapted, parameters=everything | adapted.parameters)

    def starting_parameters(self, tasks: int) -> Tensors:
        """Parameters [T, ...] before the first inner step, by name: the model's own, once per task."""
        return {k: repeated(p, tasks) for k, p in self.model.named_parameters()}

    @property
    def steps_now(self) -> int:
        """Number of inner steps in the present mode: `steps` in training, `test_steps` in evaluation."""
        return self.steps if self.training else self.test_steps

    def scores(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores [T, Q, N] of the queries after adapting to the support, with all tasks in one batch.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] query items.
        """
        parameters = self.adapt(support).parameters
        statistics: list[Statistics] | None = None
        if not uses_batch_statistics(self.model):
            statistics = []
            with TaskNorm(keep=statistics):
                per_task(self.model, parameters, support.x)
        with TaskNorm(use=statistics):
            return first_ways(per_task(self.model, parameters, query_x), support.ways)

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries after adapting to the support.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] query items.

        Returns:
            [T, Q, N] scores, higher is likelier; [T, Q, ...] predictions for regression.
        """
        n = self.limits(support.x, query_x).tasks
        chunks = zip(split_support(support, n), query_x.split(n), strict=True)
        return torch.cat([self.scores(*chunk) for chunk in chunks])

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss, a scalar: the loss of the queries after adaptation, averaged over the tasks.

        Args:
            episode: Support and query sets of T tasks.
        """
        judge = self.loss if self.outer_loss is None else self.outer_loss

        def share(some: Episode) -> Tensor:
            scores = self.scores(some.support, some.query_x)
            return task_losses(scores, some.query_y, some.ways, judge).sum() / episode.tasks

        learned = [p for p in self.parameters() if p.requires_grad]
        return sum_over_groups(share, episode, learned, self.limits(episode.support.x, episode.query_x))

    def limits(self, *items: Tensor) -> GroupLimits:
        """Limits on the number of tasks and threads that run at the same time.

        Args:
            items: [T, B, ...] items of the support, then those of the queries.
        """
        return group_limits(self.model, self.first_order, self.chunk_size, *items)

    def adapted(self, support: Support) -> nn.Module:
        """A copy of the model with weights adapted to one task, as an ordinary module in evaluation mode.

        It has taken `test_steps` steps. The running statistics of its batch norm are those of the support, so
        it classifies each query by itself, as inductive prediction does. Only for Reptile the results differ,
        because Reptile's prediction includes each query in the statistics. The `state_dict` holds all of it.

        Args:
            support: Labelled items of one task.

        Raises:
            ValueError: If the support holds several tasks.
        """
        if len(support.x) != 1:
            raise ValueError(f"the support holds {len(support.x)} tasks: adapt to one at a time")
        with torch.no_grad():
            with evaluation_mode(self):
                parameters = {k: p[0].clone() for k, p in self.adapt(support).parameters.items()}
            model = copy.deepcopy(self.model)
            model.load_state_dict(parameters, strict=False)
            return with_statistics_of(model, support.x[0])


def task_losses(scores: Tensor, y: Tensor, ways: int, loss: TaskLoss | None = None) -> Tensor:
    """Loss of each task: by default mean cross-entropy in nats, or mean squared error for regression.

    Args:
        scores: [T, B, ≥ N] scores; for regression, [T, B, ...] predictions.
        y: [T, B] labels; for regression, [T, B, ...] target values.
        ways: Number N of classes in each task; 0 for regression.
        loss: Loss of one task, called once for each; it gets scores in float32 where the model runs in a
            lower precision.

    Returns:
        [T] losses.

    Raises:
        ValueError: If there are fewer scores than classes, or the shapes of values and predictions differ, or
            a loss is not a scalar.
    """
    if loss is not None:
        exact = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
        return torch.stack([
            _scalar(loss(*task)) for task in zip(first_ways(exact, ways).unbind(), y.unbind(), strict=True)
        ])  # fmt: skip
    if not ways:
        if scores.shape != y.shape:
            raise ValueError(
                f"the model predicts {list(scores.shape)} but the values are {list(y.shape)}: "
                "give them the shape of the predictions (y.unsqueeze(-1)?)"
            )
        exact = scores if scores.dtype == y.dtype else scores.float()
        return (exact - y).square().mean(tuple(range(1, y.ndim)))
    rows = first_ways(scores, ways).flatten(0, 1)
    rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    return F.cross_entropy(rows, y.flatten(), reduction="none").view_as(y).mean(1)


def _scalar(loss: Tensor) -> Tensor:
    if loss.ndim:
        raise ValueError(
            f"the loss of a task is {list(loss.shape)} numbers: give a loss that returns one, as their mean"
        )
    return loss


def first_ways(scores: Tensor, ways: int) -> Tensor:
    """Scores [..., N] of the first N classes; all scores for regression.

    Args:
        scores: [..., ≥ N] scores.
        ways: Number N of classes in each task; 0 for regression.

    Raises:
        ValueError: If there are fewer scores than classes.
    """
    if scores.shape[-1] < ways:
        raise ValueError(
            f"the model distinguishes {scores.shape[-1]} classes but a task has {ways}: "
            f"train one with at least {ways} ways"
        )
    return scores[..., :ways] if ways else scores


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether queries are normalized by their own batch statistics, as in training and `batch_statistics`.

    True for a model without batch norm, too.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    return not norms or any(m.training for m in norms)


def split_support(support: Support, n: int) -> list[Support]:
    """A support divided into chunks of n tasks."""
    parts = [t.split(n) for t in (support.x, support.y, support.unlabelled)]
    return [Support(x, y, support.ways, u) for x, y, u in zip(*parts, strict=True)]


def trainable(parameters: Tensors) -> Tensors:
    """The parameters that require a gradient, by name."""
    return {k: p for k, p in parameters.items() if p.requires_grad}


def with_statistics_of(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in evaluation mode, with a batch's statistics as the running statistics of its batch norm.

    Args:
        model: Model with or without batch norm; it is changed in place and returned.
        x: [B, ...] items, which pass through the model once.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]

    def remember(m: Any, taken: tuple[Tensor], _: Tensor) -> None:
        # the biased variance, with which batch norm normalizes the batch itself
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
