"""Base class of the learners with an inner loop, such as MAML: adaptation, scores, meta-loss."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import Adapted, Loss, Rule, Tensors, adapt
from quickstudy.core.arguments import check_whole
from quickstudy.core.episode import Episode, Support
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.kernels.per_task import check_batch_norm, in_turn, per_task
from quickstudy.core.kernels.switch import PARAMETER_SWAP_LOCK
from quickstudy.core.kernels.task_groups import GroupLimits, group_limits, repeated, sum_over_groups
from quickstudy.core.kernels.task_norm import Statistics, TaskNorm
from quickstudy.core.kernels.torch_private import BatchNorm
from quickstudy.core.learner import Learner
from quickstudy.core.per_step import PerStepNorm, multi_step_weights

Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Function from the number of an inner step to the items [T, B, ...] and labels [T, B] of its mini-batch."""
TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""Loss of one task: function from scores [B, N] and labels [B] to a scalar, such as `F.cross_entropy`.

For regression, from predictions [B, ...] and values [B, ...]. A loss that is an `nn.Module` is a part of the
learner: its parameters are learned with the others.
"""


ROUNDING = 0.05
"""Largest difference that rounding makes between two computations, as a fraction of the largest score.

In bfloat16 it is about a hundredth; layers of dropout make a difference of several tenths.
"""


class InnerLoopOptions(TypedDict, total=False):
    """Options that learners hand on to `InnerLoop`, which says what each of them does."""

    loss: TaskLoss | None
    outer_loss: TaskLoss | None
    multi_step_until: int
    first_order_until: int
    per_step_norm: bool


class InnerLoop(Learner):
    r"""A learner that adapts a model to each task by several steps of an update rule, set by the subclass.

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
        multi_step_until: Number of meta-steps during which the meta-loss is a sum over the inner steps k,
            $\sum_k w_k \mathcal{L}^{\text{query}}(\theta_k)$, with the weights of `multi_step_weights`, the
            same for all at first, and nearly 1 for the last step in the end; it is the last step's loss
            alone afterwards, which is cheaper.
        first_order_until: Number of meta-steps during which the inner gradients are constants; from then on
            the gradient is of second order, unless `first_order`.
        per_step_norm: Whether batch norm has its own $\gamma_k, \beta_k$ for each inner step k of training,
            learned by the meta-loss and not adapted. The queries after step k have those of step k, further
            steps those of the last. The statistics of each step are those of its batch.

    Raises:
        ValueError: If a number is out of range, batch norm in training mode keeps running statistics, no
            parameter requires a gradient, or there is no batch norm to learn for each step.

    Meta-steps are the calls of `forward` in training that take gradients. They are counted in the buffer
    `meta_steps`, which goes into checkpoints, so that a training goes on where it stopped.

    Batch norm uses batch statistics. In the inner steps they are those of the support. For the queries they
    are those of the queries in training and in transductive evaluation, and in inductive evaluation those of
    the support under the adapted weights. A frozen encoder, `encoder.eval().requires_grad_(False)`, may have
    running statistics: in evaluation mode they are constants, in the inner steps too.

    `predict` and `adapted` may be called by many threads at once. `Conv4` and `MLP` run side by side, other
    models take turns.

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
        multi_step_until: int = 0,
        first_order_until: int = 0,
        per_step_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole(0, steps=steps, test_steps=test_steps, multi_step_until=multi_step_until)
        check_whole(0, first_order_until=first_order_until)
        check_whole(1, chunk_size=chunk_size)
        if isinstance(model, Learner) or not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongTypeError(
                f"the model is a {type(model).__name__}: give a network from items [B, ...] to scores, such "
                "as Classifier(encoder, ways)"
            )
        test_steps = steps if test_steps is None else test_steps
        check_batch_norm(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("no parameter of the model requires a gradient: there is nothing to adapt")
        self.model, self.steps, self.test_steps = model, steps, test_steps
        self.first_order, self.chunk_size = first_order, chunk_size
        self.loss, self.outer_loss = loss, outer_loss
        self.multi_step_until, self.first_order_until = multi_step_until, first_order_until
        self.norms = PerStepNorm(model, steps) if per_step_norm else None
        self._counted = bool(multi_step_until or first_order_until)
        if self._counted:
            self.register_buffer("meta_steps", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def rule(self) -> Rule:
        """Update rule of the inner steps."""

    def adapt(self, support: Support, path: list[Tensors] | None = None) -> Adapted:
        """Adapt the model to the support sets of T tasks.

        Args:
            support: Labelled items of T tasks.
            path: List to which all parameters after each step are appended, or those before the first if
                there are no steps.

        Returns:
            All parameters [T, ...] by name, also those that are not adapted, and the losses [steps, T].
        """
        return self._adapt_to(lambda step: (support.x, support.y), support.ways, len(support.x), path)

    def _adapt_to(self, batch: Batch, ways: int, tasks: int, path: list[Tensors] | None = None) -> Adapted:
        """`adapt` with a mini-batch for each step; ways is N, tasks is T."""
        everything = self.starting_parameters(tasks)

        def at(parameters: Tensors, step: int) -> Tensors:
            norms = {} if self.norms is None else self.norms.at(max(0, step), self.model, tasks)
            return everything | parameters | norms

        def loss(parameters: Tensors, step: int) -> Tensor:
            x, y = batch(step)
            return task_losses(per_task(self.model, at(parameters, step), x), y, ways, self.loss)

        with TaskNorm():
            return self._stepped(everything, loss, at, path)

    def _stepped(
        self,
        everything: Tensors,
        loss: Loss,
        at: Callable[[Tensors, int], Tensors],
        path: list[Tensors] | None,
    ) -> Adapted:
        """Take the inner steps; `at` completes the adapted parameters after a step, given its number."""

        def watch(step: int, parameters: Tensors, *_: object) -> None:
            if step and path is not None:
                path.append(at(parameters, step - 1))

        adapted = adapt(
            loss,
            self.adaptable(everything),
            self.rule(),
            self.steps_now,
            self.first_order_now,
            watch=None if path is None else watch,
        )
        last = at(adapted.parameters, self.steps_now - 1)
        if path is not None:
            path.append(last)
        return replace(adapted, parameters=last)

    def starting_parameters(self, tasks: int) -> Tensors:
        """Parameters [T, ...] before the first inner step, by name: the model's own, once per task.

        Raises:
            ValueError: If batch norm in training mode keeps running statistics.
        """
        with PARAMETER_SWAP_LOCK:
            check_batch_norm(self.model)
            return {k: repeated(p, tasks) for k, p in self.model.named_parameters()}

    def adaptable(self, parameters: Tensors) -> Tensors:
        """Those of the model's parameters that the inner steps change, by name.

        Args:
            parameters: Parameters of the model, by name.
        """
        kept = () if self.norms is None else self.norms.names
        return {k: p for k, p in trainable(parameters).items() if k not in kept}

    @property
    def steps_now(self) -> int:
        """Number of inner steps in the present mode: `steps` in training, `test_steps` in evaluation."""
        return self.steps if self.training else self.test_steps

    @property
    def first_order_now(self) -> bool:
        """Whether the inner gradients are constants in the present meta-step."""
        return self.first_order or (self.training and self._meta_step() < self.first_order_until)

    def query_weights(self) -> list[float] | None:
        """Weight of the query loss after each inner step in this meta-step; None if the last has all."""
        if not self.training or self.steps < 2 or self._meta_step() >= self.multi_step_until:
            return None
        return multi_step_weights(self.steps, self._meta_step() / self.multi_step_until)

    def _meta_step(self) -> int:
        return int(self.get_buffer("meta_steps").item()) if self._counted else 0

    def scores(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores [T, Q, N] of the queries after adapting to the support, with all tasks in one batch.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] query items.
        """
        return self._scores_with(self.adapt(support).parameters, support, query_x)

    def scores_by_step(self, support: Support, query_x: Tensor) -> list[Tensor]:
        """Scores [T, Q, N] of the queries after each inner step, with all tasks in one batch.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] query items.
        """
        path: list[Tensors] = []
        self.adapt(support, path)
        return [self._scores_with(parameters, support, query_x) for parameters in path]

    def _scores_with(self, parameters: Tensors, support: Support, query_x: Tensor) -> Tensor:
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
        with in_turn(self.model):
            n = self.limits(support.x, query_x).tasks
            chunks = zip(split_support(support, n), query_x.split(n), strict=True)
            return torch.cat([self.scores(*chunk) for chunk in chunks])

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss, a scalar: the loss of the queries after adaptation, averaged over the tasks.

        Args:
            episode: Support and query sets of T tasks.
        """
        with in_turn(self.model):
            return self._meta_loss(episode)

    def _meta_loss(self, episode: Episode) -> Tensor:
        judge = self.loss if self.outer_loss is None else self.outer_loss
        weights = self.query_weights()

        def total(scores: Tensor, some: Episode) -> Tensor:
            return task_losses(scores, some.query_y, some.ways, judge).sum() / episode.tasks

        def share(some: Episode) -> Tensor:
            if weights is None:
                return total(self.scores(some.support, some.query_x), some)
            after = self.scores_by_step(some.support, some.query_x)
            return torch.stack([w * total(z, some) for w, z in zip(weights, after, strict=True)]).sum()

        learned = [p for p in self.parameters() if p.requires_grad]
        loss = sum_over_groups(share, episode, learned, self.limits(episode.support.x, episode.query_x))
        if self._counted and self.training and torch.is_grad_enabled():
            self.get_buffer("meta_steps").add_(1)
        return loss

    def limits(self, *items: Tensor) -> GroupLimits:
        """Limits on the number of tasks and threads that run at the same time.

        Args:
            items: [T, B, ...] items of the support, then those of the queries.
        """
        return group_limits(self.model, self.first_order_now, self.chunk_size, *items)

    def adapted(self, support: Support) -> nn.Module:
        """A copy of the model with weights adapted to one task, as an ordinary module in evaluation mode.

        Whatever the learner's own mode, which it keeps, the copy answers as `predict` does in evaluation
        mode, to rounding. It has taken `test_steps` steps. The running statistics of its batch norm are
        those of the support, so it classifies each query by itself, as inductive prediction does. Only for
        Reptile the results differ, because Reptile's prediction includes each query in the statistics. The
        `state_dict` holds all of it.

        Args:
            support: Labelled items of one task.

        Raises:
            ValueError: If the support holds several tasks, or a copy can't answer as the learner does: where
                the model is random even in evaluation mode, or applies one layer of batch norm twice.
        """
        if len(support.x) != 1:
            raise ValueError(f"the support holds {len(support.x)} tasks: adapt to one at a time")
        with in_turn(self.model):
            own = copy.deepcopy(self).eval()  # other threads may ask this learner meanwhile
        with torch.no_grad():
            parameters = own.adapt(support).parameters
            expected = own._scores_with(parameters, support, support.x)[0]
            own.model.load_state_dict({k: p[0] for k, p in parameters.items()}, strict=False)
            model = with_statistics_of(own.model, support.x[0])
            found = first_ways(model(support.x[0]), support.ways)
        away = (found - expected).abs().max().item()
        if not away <= ROUNDING * expected.abs().max().item():  # nor if it is NaN
            raise ValueError(
                f"the adapted copy differs from the learner by up to {away:.2g} on the support: the model "
                "must not be random in evaluation mode, nor apply one layer of batch norm twice"
            )
        return model


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

    True for a model without batch norm, or with frozen batch norm only, too.
    """
    norms = [
        m for m in model.modules() if isinstance(m, BatchNorm) and (m.training or m.running_mean is None)
    ]
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

    Batch norm that has running statistics keeps them.

    Args:
        model: Model with or without batch norm; it is changed in place and returned.
        x: [B, ...] items, which pass through the model once.
    """
    model.eval()  # first: dropout would be random, and its noise would go into the statistics
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is None]

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
    return model
