"""R2-D2, a head of ridge regression.

Luca Bertinetto, João Henriques, Philip Torr, Andrea Vedaldi: "Meta-learning with differentiable closed-form
solvers", ICLR 2019.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import membership


@rebuildable
class R2D2(Learner):
    r"""R2-D2: a linear head on the embeddings, fitted to the support of each task by ridge regression.

    The rows of $X$ [S, D + 1] are the embeddings of the support, each with a 1 behind it, those of $Y$ [S, N]
    its labels, one-hot, both divided by $\sqrt S$:

    $$W = \arg\min_W \lVert X W - Y \rVert^2 + \lambda \lVert W \rVert^2
    = (X^\top X + \lambda I)^{-1} X^\top Y \tag{1}$$

    $$W = X^\top (X X^\top + \lambda I)^{-1} Y \tag{2}$$

    $$\hat Y = \alpha X' W + \beta \tag{3}$$

    with $X'$ [Q, D + 1] the embeddings of the queries, each with a 1 behind it and not divided. Equation 2,
    by Woodbury's identity, has S unknowns and not D + 1; of the two, that with fewer is solved. The meta-loss
    is the cross-entropy of $\mathrm{softmax}(\hat Y)$, averaged over the queries; its gradient flows through
    the solution. α and β are learned with the encoder. The numbers of the equations are ours.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        penalty: λ > 0, the weight of ‖W‖² beside the squared errors.
        scale: α, the factor from the regression's outputs, about 0 … 1, to scores, at the start of training.
        learn_penalty: Whether λ is learned too, by its logarithm, from `penalty` on.

    Raises:
        ValueError: If `penalty` is not positive.

    Example:
        >>> from quickstudy.encoders import R2D2Encoder
        >>> R2D2(R2D2Encoder(), scale=5.0).scale.item()
        5.0

    Reference: Bertinetto, Henriques, Torr, Vedaldi: "Meta-learning with differentiable closed-form solvers",
    ICLR 2019.

    Departures: none from the authors' code, where λ = 50 is fixed unless told otherwise; the paper allows for
    learning it. If it is learned, then by its logarithm, so that it stays positive.
    """

    log_penalty: Tensor

    def __init__(
        self, encoder: nn.Module, penalty: float = 50.0, scale: float = 10.0, learn_penalty: bool = False
    ) -> None:
        super().__init__()
        if not penalty > 0:
            raise ValueError(f"penalty is {penalty}: it must be positive")
        self.encoder = encoder
        logarithm = torch.tensor(math.log(penalty))
        if learn_penalty:
            self.log_penalty = nn.Parameter(logarithm)
        else:
            self.register_buffer("log_penalty", logarithm)
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.bias = nn.Parameter(torch.zeros(()))

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries (equation 3).

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores; their differences are α at most where the fit is good and λ small.
        """
        x, queries = embed_together(self.encoder, support.x, query_x)
        y = membership(support.y, support.ways, x.dtype).mT
        with torch.autocast(x.device.type, enabled=False):
            root = math.sqrt(x.shape[1])
            w = ridge_regression(F.pad(x, (0, 1), value=1.0) / root, y / root, self.log_penalty.exp())
            return self.scale * (queries @ w[:, :-1] + w[:, -1:]) + self.bias


def ridge_regression(x: Tensor, y: Tensor, penalty: Tensor | float) -> Tensor:
    """Weights of ridge regression, differentiable in all arguments.

    By equation 2 of `R2D2` if there are no more items than dimensions, else by equation 1. Solved in float64
    where the device has it: XXᵀ squares the range of the embeddings, and where items are nearly equal only
    the penalty keeps the system solvable, which float32 would round away.

    Args:
        x: [T, S, D] embeddings of the support.
        y: [T, S, N] targets.
        penalty: λ > 0, a number or a scalar.

    Returns:
        [T, D, N] weights, in the type of `x`; not finite where the embeddings are not.
    """
    with torch.autocast(x.device.type, enabled=False):
        exact = x if x.device.type == "mps" else x.double()
        targets = y.to(exact.dtype)
        # solve_ex, as solve raises where an embedding is NaN, and waits for a GPU to know it
        if x.shape[1] <= x.shape[2]:
            w = exact.mT @ torch.linalg.solve_ex(_ridge(exact @ exact.mT, penalty), targets)[0]
        else:
            w = torch.linalg.solve_ex(_ridge(exact.mT @ exact, penalty), exact.mT @ targets)[0]
        return w.to(x.dtype)


def _ridge(gram: Tensor, penalty: Tensor | float) -> Tensor:
    return gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
