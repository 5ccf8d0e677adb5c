"""MAML++.

Antreas Antoniou, Harrison Edwards, Amos Storkey: "How to train your MAML", ICLR 2019.
"""

from torch import nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import TaskLoss
from quickstudy.initialization.maml import MAML


@rebuildable
class MAMLPlusPlus(MAML):
    r"""MAML++: MAML with learned rates, a loss after every step, and batch norm of its own for each step.

    $$\theta^i_{k+1} = \theta^i_k - \alpha_k \circ \nabla_\theta
    \mathcal{L}_{S_i}(f_{\theta^i_k, \gamma_k, \beta_k}), \qquad
    \min_{\theta, \alpha, \gamma, \beta} \sum_i \sum_k w_k
    \mathcal{L}_{Q_i}(f_{\theta^i_{k+1}, \gamma_k, \beta_k})$$

    with a rate for each tensor of weights and step (LSLR), the weights $w_k$ of `multi_step_weights` (MSL),
    and γ and β of batch norm that are learned for each step and not adapted (BNWB). It is `MAML` with other
    defaults: each part is an option there, and so of other learners.

    The outer learning rate is the training's: the paper's Adam falls from 1e-3 to 1e-5 along a cosine, which
    is `cosine_schedule(steps, floor=0.01)`.

    Args:
        model: $f_\theta$, any module from [B, ...] to [B, N], such as `Classifier`.
        lr: Rate that all learned rates begin with.
        steps: Inner steps in training.
        test_steps: Inner steps in evaluation; as many as in training by default.
        first_order: Treat the inner gradients as constants.
        chunk_size: Tasks that run at the same time, as in `MAML`.
        learned_rates: Learn a rate for each tensor of weights and inner step.
        multi_step_until: Meta-steps during which the meta-loss is a sum over the inner steps: the first tenth
            of the paper's 50,000. Where you train for fewer, give a tenth of them.
        first_order_until: Meta-steps during which the inner gradients are constants (DA); none in the
            authors' settings for Omniglot, half of all in the paper's text.
        per_step_norm: Learn γ and β of batch norm for each inner step; leave it out for a model without.
        loss: Loss of one task, in both loops; by default cross-entropy, as in `InnerLoop`.
        outer_loss: Loss of one task that the queries are judged by in place of `loss`.

    Raises:
        ValueError: For the reasons of `MAML`, or if the model has no batch norm.

    The paper's figures are of an ensemble of the five checkpoints that were best in validation; this is one
    learner.

    Departures: the statistics of batch norm are those of each step's batch, as `InnerLoop` describes. The
    paper keeps running statistics for each step; in the authors' code they are written and never used, since
    batch norm takes the batch's in training and in testing. The weights of the steps' losses change with each
    meta-step, not with each epoch of 500. The authors' network has leaky ReLU, `Conv4` has ReLU.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.1,
        steps: int = 5,
        test_steps: int | None = None,
        first_order: bool = False,
        chunk_size: int | None = None,
        learned_rates: bool = True,
        multi_step_until: int = 5_000,
        first_order_until: int = 0,
        per_step_norm: bool = True,
        loss: TaskLoss | None = None,
        outer_loss: TaskLoss | None = None,
    ) -> None:
        super().__init__(
            model,
            lr,
            steps,
            test_steps,
            first_order,
            chunk_size,
            learned_rates,
            loss=loss,
            outer_loss=outer_loss,
            multi_step_until=multi_step_until,
            first_order_until=first_order_until,
            per_step_norm=per_step_norm,
        )
