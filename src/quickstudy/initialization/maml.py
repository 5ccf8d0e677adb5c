"""Model-agnostic meta-learning.

Chelsea Finn, Pieter Abbeel, Sergey Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017.
"""

from typing import Unpack

from torch import nn

from quickstudy.core.adapt import Rule
from quickstudy.core.arguments import check_finite
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import InnerLoop, InnerLoopOptions
from quickstudy.core.per_step import StepRates
from quickstudy.core.update_rules import sgd


@rebuildable
class MAML(InnerLoop):
    r"""MAML: learns an initialisation from which a few gradient steps suffice.

    $$\theta_i' = \theta - \alpha \nabla_\theta \mathcal{L}_{\mathcal{T}_i}(f_\theta) \tag{1}$$

    on the support of task i (one step; further steps start where the last one ended). The meta-loss is the
    loss of the queries, differentiated through the inner steps:

    $$\min_\theta \sum_{\mathcal{T}_i \sim p(\mathcal{T})}
    \mathcal{L}_{\mathcal{T}_i}(f_{\theta_i'}) \tag{2}$$

    The loss is cross-entropy, or the mean squared error where tasks are regressions (ways = 0).

    Args:
        model: $f_\theta$, any module from [B, ...] to [B, N], such as `Classifier`. Parameters that do not
            require a gradient are neither adapted nor learned.
        lr: Inner learning rate α.
        steps: Inner steps in training.
        test_steps: Inner steps in evaluation; as many as in training by default.
        first_order: Use first-order MAML (FOMAML): treat the inner gradients as constants,
            $\nabla\nabla\mathcal{L} = 0$ (§5.2 of the paper). It is cheaper.
        chunk_size: Tasks that run at the same time. More take more memory, and the result is the same. By
            default it is chosen from the size of a task.
        learned_rates: Learn a rate for each tensor of weights and inner step (LSLR),
            $\theta_{k+1} = \theta_k - \alpha_k \nabla \mathcal{L}(\theta_k)$, all of which begin as `lr`.
            Further steps in evaluation take the rates of the last.
        options: Options of `InnerLoop` by name, such as `loss`, a loss of your own for both loops.

    Raises:
        ValueError: If a number is out of range, batch norm keeps running statistics, or no parameter requires
            a gradient.

    Batch norm behaves as `InnerLoop` describes. The paper's figures are transductive.

    Departures: the meta-loss is the mean over tasks, not the sum, so that the learning rate does not depend
    on their number.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.4,
        steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        chunk_size: int | None = None,
        learned_rates: bool = False,
        **options: Unpack[InnerLoopOptions],
    ) -> None:
        super().__init__(model, steps, test_steps, first_order, chunk_size, **options)
        check_finite(0, lr=lr)
        self.lr = lr
        self.rates = (
            StepRates(self.adaptable(dict(model.named_parameters())), steps, lr) if learned_rates else None
        )

    def rule(self) -> Rule:
        """Update rule of the inner steps (equation 1)."""
        return sgd(self.lr) if self.rates is None else self.rates


def fomaml(
    model: nn.Module,
    lr: float = 0.4,
    steps: int = 1,
    test_steps: int | None = None,
    chunk_size: int | None = None,
    **options: Unpack[InnerLoopOptions],
) -> MAML:
    """First-order MAML, `MAML(…, first_order=True)`: inner gradients count as constants (§5.2 of the paper).

    Args:
        model: Any module from [B, ...] to [B, N], such as `Classifier`.
        lr: Inner learning rate α.
        steps: Inner steps in training.
        test_steps: Inner steps in evaluation; as many as in training by default.
        chunk_size: Tasks that run at the same time, as in `MAML`.
        options: Options of `InnerLoop` by name, as in `MAML`.

    Returns:
        The learner.

    Raises:
        ValueError: For the reasons of `MAML`.
    """
    return MAML(model, lr, steps, test_steps, first_order=True, chunk_size=chunk_size, **options)
