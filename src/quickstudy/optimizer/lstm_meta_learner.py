"""The LSTM meta-learner.

Sachin Ravi, Hugo Larochelle: "Optimization as a Model for Few-Shot Learning", ICLR 2017.
"""

from torch import nn

from quickstudy.core.adapt import Rule
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.optimizer.rules.cell_state import CellStateRule


@rebuildable
class LSTMMetaLearner(InnerLoop):
    r"""An LSTM that trains a network on the support: the network's weights are its cell state.

    $$\theta_t = f_t \circ \theta_{t-1} - i_t \circ \nabla_{\theta_{t-1}} \mathcal{L}_t, \qquad
    t = 1 \ldots T \tag{2}$$

    on the support of a task, with gates f and i as `CellStateRule` has them. The meta-loss is that of the
    queries at $\theta_T$; learned are the gates and the initial state $\theta_0$, the model's own weights
    (Algorithm 1).

    Args:
        model: as in `MAML`.
        rule: the gates; learned ones as in the paper by default.
        steps: T, each on the whole support; in the paper 12 for 1-shot and 5 for 5-shot.
        test_steps: as in `MAML`.
        first_order: take gradients and losses for constants, as the paper does; what is left is the way
            through f, i and $\theta_{t-1}$ of equation 2.
        chunk_size: Tasks that run at the same time, as in `MAML`.

    Raises:
        ValueError: as in `MAML`.

    The paper's batch norm is what `InnerLoop` does: statistics are the task's own, of the batch in training;
    and in testing the queries are told by those of the support (inductive).

    Departures: the mean over tasks stands for one task a step. In inductive evaluation the statistics are
    those that the adapted weights have on the support; the authors' are a running mean over the inner steps,
    of the weights before each. The authors' release goes through the support of 5-shot tasks in one batch
    of 25, 8 times, which is `steps=8`.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: CellStateRule | None = None,
        steps: int = 12,
        test_steps: int | None = None,
        first_order: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(model, steps, test_steps, first_order, chunk_size)
        self.cell = CellStateRule() if rule is None else rule

    def rule(self) -> Rule:
        """The inner step, equation 2."""
        return self.cell
