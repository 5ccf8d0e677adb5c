"""What the learners of an initialisation share: adapting to T tasks, scores, and the meta-loss."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
"""Function from the number of an inner step to the items [T, B, ...] and labels [T, B] of its loss."""


class InnerLoop(Learner):
    """A learner that adapts a model to each task by some steps of a rule. Subclasses say which rule.

    Args:
        model: Any module from [B, ...] to [B, N] scores, or to predictions for regression. Parameters that
            don't require a gradient are neither adapted nor learned.
        steps: Inner steps in training.
        test_steps: Inner steps in evaluation; as many as in training by default.
        first_order: Take the inner gradients for constants.
        chunk_size: Tasks that run at the same time. More take more memory, and the result is the same.
            By default it is chosen from the size of a task.

    Raises:
        ValueError: If a number is out of range, batch norm keeps running statistics, or no parameter requires
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
        chunk_size: int | None,
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
        everything = self.starting_parameters(tasks)

        def loss(parameters: Tensors, step: int) -> Tensor:
            x, y = batch(step)
            return task_losses(per_task(self.model, everything | parameters, x), y, ways)

        with TaskNorm():
            adapted = adapt(loss, trainable(everything), self.rule(), self.steps_now, self.first_order)
        return replace(adapted, parameters=everything | adapted.parameters)

    def starting_parameters(self, tasks: int) -> Tensors:
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
            return first_ways(per_task(self.model, parameters, query_x), support.ways)

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores [T, Q, N] of the queries after adapting to the support; predictions for a regression."""
        n = self.limits(support.x, query_x).tasks
        chunks = zip(split_support(support, n), query_x.split(n), strict=True)
        return torch.cat([self.scores(*chunk) for chunk in chunks])

    def forward(self, episode: Episode) -> Tensor:
        """The meta-loss, a scalar: the mean over the tasks of the queries' loss after adapting."""

        def share(some: Episode) -> Tensor:
            scores = self.scores(some.support, some.query_x)
            return task_losses(scores, some.query_y, some.ways).sum() / episode.tasks

        learned = [p for p in self.parameters() if p.requires_grad]
        return sum_over_groups(share, episode, learned, self.limits(episode.support.x, episode.query_x))

    def limits(self, *items: Tensor) -> GroupLimits:
        """How many tasks of such items, first those of the support, run at the same time."""
        return group_limits(self.model, self.first_order, self.chunk_size, *items)

    def adapted(self, support: Support) -> nn.Module:
        """An ordinary module with the weights adapted to one task, in evaluation mode.

        It has taken as many steps as in evaluation. Its batch norm keeps, as running statistics, those of the
        support, so it tells each query by itself, as inductive prediction does; but for Reptile, whose
        prediction takes each query into the statistics. Its `state_dict` holds all of it.

        Args:
            support: The labelled items of one task.

        Raises:
            ValueError: If the support is of several tasks.
        """
        if len(support.x) != 1:
            raise ValueError(f"the support is of {len(support.x)} tasks: adapt to one at a time")
        with torch.no_grad():
            with evaluation_mode(self):
                parameters = {k: p[0].clone() for k, p in self.adapt(support).parameters.items()}
            model = copy.deepcopy(self.model)
            model.load_state_dict(parameters, strict=False)
            return with_statistics_of(model, support.x[0])


def task_losses(scores: Tensor, y: Tensor, ways: int) -> Tensor:
    """[T] losses: mean cross-entropy in nats, or the mean squared error of a regression (ways = 0).

    Args:
        scores: [T, B, ≥ N] scores, or predictions [T, B, ...].
        y: [T, B] labels, or values [T, B, ...].
        ways: N, the number of classes, or 0.

    Raises:
        ValueError: If there are fewer scores than classes, or values are not of the predictions' shape.
    """
    if not ways:
        if scores.shape != y.shape:
            raise ValueError(
                f"the model predicts {list(scores.shape)} and the values are {list(y.shape)}: "
                "give them the shape of the predictions (y.unsqueeze(-1)?)"
            )
        exact = scores if scores.dtype == y.dtype else scores.float()
        return (exact - y).square().mean(tuple(range(1, y.ndim)))
    rows = first_ways(scores, ways).flatten(0, 1)
    rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    return F.cross_entropy(rows, y.flatten(), reduction="none").view_as(y).mean(1)


def first_ways(scores: Tensor, ways: int) -> Tensor:
    """The scores of the first `ways` classes; all of them for a regression.

    Raises:
        ValueError: If there are fewer.
    """
    if scores.shape[-1] < ways:
        raise ValueError(
            f"the model tells {scores.shape[-1]} classes and a task has {ways}: "
            f"train one with at least {ways} ways"
        )
    return scores[..., :ways] if ways else scores


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether queries are normalized by each other: in training, by `batch_statistics`, or if not at all."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    return not norms or any(m.training for m in norms)


def split_support(support: Support, n: int) -> list[Support]:
    """A support in chunks of n tasks."""
    parts = [t.split(n) for t in (support.x, support.y, support.unlabelled)]
    return [Support(x, y, support.ways, u) for x, y, u in zip(*parts, strict=True)]


def trainable(parameters: Tensors) -> Tensors:
    """The parameters that require a gradient."""
    return {k: p for k, p in parameters.items() if p.requires_grad}


def with_statistics_of(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in evaluation mode, with the statistics of a batch as its batch norm's running ones."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]

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
