"""Reptile.

Alex Nichol, Joshua Achiam, John Schulman: "On First-Order Meta-Learning Algorithms", 2018.
"""

import math

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import FunctionalRule, Rule, RuleState, Tensors
from quickstudy.core.arguments import check_finite, check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Episode, Support
from quickstudy.core.inner_loop import (
    Batch,
    InnerLoop,
    TaskLoss,
    first_ways,
    trainable,
    uses_batch_statistics,
)
from quickstudy.core.kernels.per_task import in_turn, per_task
from quickstudy.core.kernels.task_norm import TaskNorm
from quickstudy.core.update_rules import adam


@rebuildable
class Reptile(InnerLoop):
    r"""Reptile: moves the initialisation towards the weights that training on each task leads to.

    $$\phi \leftarrow \phi + \epsilon \frac{1}{n} \sum_{i=1}^{n} (\tilde\phi_i - \phi), \qquad
    \tilde\phi_i = U^k_{\tau_i}(\phi) \tag{1}$$

    (Algorithm 2, batched; with one task in a meta-batch it is Algorithm 1, serial), where U is a step of Adam
    with β₁ = 0 on a minibatch of the task. `forward` is the surrogate

    $$\mathcal{L}(\phi) = \frac{1}{n} \sum_{i=1}^{n}
    \tfrac12 \lVert \phi - \text{stopgrad}(\tilde\phi_i) \rVert^2$$

    with the gradient φ minus the mean of φ̃: gradient descent on it with rate ε is equation 1, and any other
    optimizer may be used. A task is trained on all items of its episode, support and queries.

    Args:
        model: Any module from [B, ...] to [B, N], such as `Classifier`.
        lr: Learning rate of the inner Adam.
        steps: Inner steps k in training.
        batch: Items in a minibatch in training, at least 1; drawn without replacement until all have been.
        test_steps: Inner steps in evaluation, each on the whole support.
        chunk_size: Tasks that run at the same time, as in `MAML`.
        loss: Loss of one task that the inner steps lower, as in `InnerLoop`; there is no outer loss.

    Raises:
        ValueError: If `batch` is less than 1, or for the reasons of `MAML`.

    In inductive evaluation each query goes through the network in one batch with the support, apart from the
    other queries, as in the authors' code; in transductive evaluation all queries go in one batch.

    As in the authors' code, a task starts with Adam's second moments of earlier tasks (buffers of the
    learner); with a fresh Adam, the first step would move every weight by the full rate.

    Departures: the second moments of the tasks of a meta-batch are averaged; in the authors' code tasks run
    one after the other. In evaluation the authors draw minibatches of the support where it has more than 5 or
    10 items.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        steps: int = 5,
        batch: int = 10,
        test_steps: int = 50,
        chunk_size: int | None = None,
        loss: TaskLoss | None = None,
    ) -> None:
        super().__init__(model, steps, test_steps, True, chunk_size, loss=loss)
        check_whole(1, steps=steps, batch=batch)
        check_finite(0, lr=lr)
        self.lr, self.batch = lr, batch
        wanted = trainable(dict(model.named_parameters()))
        self.names = list(wanted)
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))
        for i, p in enumerate(wanted.values()):
            self.register_buffer(f"second{i}", torch.zeros_like(p))

    def rule(self) -> Rule:
        """Update rule of the inner steps: Adam with β₁ = 0 and the second moments of earlier tasks."""
        fresh = adam(self.lr, beta1=0.0)

        def init(parameters: Tensors) -> RuleState:
            seconds = {
                k: self.get_buffer(f"second{i}").expand_as(parameters[k]) for i, k in enumerate(self.names)
            }
            return self.get_buffer("taken").item(), {}, seconds

        return FunctionalRule(init, fresh.update)

    def scores(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries after adapting to the support, all tasks at once.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores, or predictions for a regression.
        """
        parameters = self.adapt(support).parameters
        with TaskNorm():
            if uses_batch_statistics(self.model):
                return first_ways(per_task(self.model, parameters, query_x), support.ways)
            each = [
                per_task(self.model, parameters, torch.cat([support.x, query], 1))[:, -1]
                for query in query_x.split(1, 1)
            ]
        return first_ways(torch.stack(each, 1), support.ways)

    def forward(self, episode: Episode) -> Tensor:
        """Surrogate meta-loss: half the mean squared distance to the adapted weights.

        In training it also updates Adam's second moments, kept in buffers.

        Args:
            episode: Labelled items of T tasks.

        Returns:
            The surrogate ≥ 0, a scalar; its gradient is φ minus the mean of φ̃.
        """
        support = episode.support
        x, y = torch.cat([support.x, episode.query_x], 1), torch.cat([support.y, episode.query_y], 1)
        with in_turn(self.model):
            return self._surrogate(x, y, episode)

    def _surrogate(self, x: Tensor, y: Tensor, episode: Episode) -> Tensor:
        n = self.limits(x[:, : self.batch]).tasks
        wanted = trainable(dict(self.model.named_parameters()))
        with torch.no_grad():
            means = {k: torch.zeros_like(p) for k, p in wanted.items()}
            seconds = {k: torch.zeros_like(p) for k, p in wanted.items()}
            spread = torch.zeros((), device=x.device)
            for items, labels in zip(x.split(n), y.split(n), strict=True):
                adapted = self._adapt_to(self._minibatches(items, labels), episode.ways, len(items))
                after, (_, _, second) = adapted.parameters, adapted.state
                for k, p in wanted.items():
                    means[k] += after[k].sum(0) / episode.tasks
                    seconds[k] += second[k].sum(0) / episode.tasks
                    spread += (after[k] - p).square().sum() / episode.tasks
            if self.training:
                self.get_buffer("taken").add_(self.steps)
                for i, k in enumerate(self.names):
                    self.get_buffer(f"second{i}").copy_(seconds[k])
            # ½ mean ‖φ − φ̃‖² = ½ ‖φ − mean φ̃‖² + a constant
            constant = spread - sum((p - means[k]).square().sum() for k, p in wanted.items())
        return 0.5 * (
            torch.stack([(p - means[k]).square().sum() for k, p in wanted.items()]).sum() + constant
        )

    def _minibatches(self, x: Tensor, y: Tensor) -> Batch:
        """Minibatches of the inner steps: consecutive parts of shuffled orders of each task's items."""
        tasks, items = y.shape[:2]
        size = min(self.batch, items)
        rounds = math.ceil(self.steps_now * size / items)
        order = torch.cat(
            [torch.rand(tasks, items, device=x.device).argsort(1) for _ in range(max(1, rounds))], 1
        )
        task = torch.arange(tasks, device=x.device).unsqueeze(1)

        def at(step: int) -> tuple[Tensor, Tensor]:
            chosen = order[:, step * size : (step + 1) * size]
            return x[task, chosen], y[task, chosen]

        return at
