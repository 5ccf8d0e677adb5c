"""Model-agnostic meta-learning.

Chelsea Finn, Pieter Abbeel, Sergey Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017.
"""

from functools import partial

from torch import nn

from quickstudy.core.adapt import Rule
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.update_rules import sgd


@rebuildable
class MAML(InnerLoop):
    r"""MAML: an initialisation from which a few gradient steps suffice.

    $$\theta_i' = \theta - \alpha \nabla_\theta \mathcal{L}_{\mathcal{T}_i}(f_\theta) \tag{1}$$

    (one step; with more, each starts from the last), on the support of task i. The meta-loss is that of the
    queries, and its gradient goes through the inner steps:

    $$\min_\theta \sum_{\mathcal{T}_i \sim p(\mathcal{T})}
    \mathcal{L}_{\mathcal{T}_i}(f_{\theta_i'}) \tag{2}$$

    The loss is cross-entropy, or the mean squared error where tasks are regressions (ways = 0).

    Args:
        model: $f_\theta$, any module from [B, ...] to [B, N], such as `Classifier`. Parameters that don't
            require a gradient are neither adapted nor learned.
        lr: α.
        steps: inner steps in training.
        test_steps: inner steps in evaluation; as many as in training by default.
        first_order: FOMAML: take $\nabla\nabla\mathcal{L}$ for 0 (§5.2 of the paper). It is cheaper.
        chunk_size: Tasks that run at the same time, as in `InnerLoop`; so are the errors and what batch norm
            does. The paper's figures are transductive.

    Departures: the mean over tasks stands for the sum, so that the learning rate does not depend on their
    number.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.4,
        steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(model, steps, test_steps, first_order, chunk_size)
        self.lr = lr

    def rule(self) -> Rule:
        """The inner step, equation 1."""
        return sgd(self.lr)


FOMAML = partial(MAML, first_order=True)
"""MAML whose meta-gradient takes the inner gradients for constants (§5.2 of the paper)."""
