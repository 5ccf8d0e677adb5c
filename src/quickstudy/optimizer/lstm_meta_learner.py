"""The LSTM meta-learner.

Sachin Ravi, Hugo Larochelle: "Optimization as a Model for Few-Shot Learning", ICLR 2017.
"""

from typing import Unpack

from torch import nn

from quickstudy.core.adapt import Rule
from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import InnerLoop, InnerLoopOptions
from quickstudy.optimizer.rules.cell_state import CellStateRule


@rebuildable
class LSTMMetaLearner(InnerLoop):
    r"""The LSTM meta-learner: an LSTM trains a network on the support, with the weights as its cell state.

    $$\theta_t = f_t \circ \theta_{t-1} - i_t \circ \nabla_{\theta_{t-1}} \mathcal{L}_t, \qquad
    t = 1 \ldots T \tag{2}$$

    on the support of a task, with the gates f and i of `CellStateRule`. The meta-loss is the loss of the
    queries at $\theta_T$. Both the gates and the initial state $\theta_0$, the weights of the model, are
    learned (Algorithm 1).

    Args:
        model: The network to train, any module from [B, ...] to [B, N], such as `Classifier`.
        rule: Update rule with the gates; by default `CellStateRule()`, learned gates as in the paper.
        steps: T, the inner steps in training, each on the whole support; in the paper 12 for 1-shot and 5 for
            5-shot.
        test_steps: Inner steps in evaluation; as many as in training by default.
        first_order: Treat gradients and losses as constants, as the paper does; the meta-gradient then flows
            only through f, i and $\theta_{t-1}$ of equation 2.
        chunk_size: Tasks that run at the same time, as in `MAML`.
        options: Options of `InnerLoop` by name, such as `loss`, a loss of your own for both loops.

    Raises:
        ValueError: For the reasons of `MAML`.

    The paper's batch norm is that of `InnerLoop`: the statistics are the task's own, those of the batch in
    training, and in testing those of the support are used for the queries (inductive).

    Departures: the meta-loss is a mean over tasks; the paper takes one task a step. In inductive evaluation
    the statistics are those of the adapted weights on the support; the authors take a running mean over the
    inner steps, of the weights before each. The authors' release goes through the support of 5-shot tasks in
    one batch of 25, 8 times, which is `steps=8`.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: CellStateRule | None = None,
        steps: int = 12,
        test_steps: int | None = None,
        first_order: bool = True,
        chunk_size: int | None = None,
        **options: Unpack[InnerLoopOptions],
    ) -> None:
        check_whole(1, steps=steps)
        super().__init__(model, steps, test_steps, first_order, chunk_size, **options)
        self.cell = CellStateRule() if rule is None else rule

    def rule(self) -> Rule:
        """Update rule of the inner steps (equation 2)."""
        return self.cell
