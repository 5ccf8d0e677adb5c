"""Heads that fit a linear classifier to the support: by ridge regression, by logistic regression."""

import torch.nn.functional as F
from torch import Tensor

from quickstudy.metric.distances import membership
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import logistic_regression
from quickstudy.metric.ridge import ridge_regression


def ridge_classifier(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, penalty: float = 1.0, scale: float = 10.0
) -> Tensor:
    r"""Ridge regression of the labels, one-hot, on features of unit length (inductive).

    $$W = \arg\min_W \lVert X W - Y \rVert^2 + \lambda \lVert W \rVert^2, \qquad
    \text{scores} = \alpha X' W$$

    where the rows of X and X' are the features of support and queries, each with a 1 behind it.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        penalty: λ > 0.
        scale: Factor α > 0 from the regression's outputs, about 0 … 1, to scores.

    Returns:
        [T, Q, N] scores.

    Raises:
        ValueError: If the penalty isn't positive.

    Reference: Bertinetto et al. 2019, whose `R2D2` learns through this solver; α = 10 is its value at the
    start of training.

    Departures: features of unit length and λ = 1, as nothing was learned for the head.
    """
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}: it must be above 0")
    x = F.pad(unit(shots), (0, 1), value=1.0)
    w = ridge_regression(x, membership(y, ways, x.dtype).mT, penalty)
    return scale * (F.pad(unit(queries), (0, 1), value=1.0) @ w)


def unit_logistic_regression(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, inverse_penalty: float = 1.0
) -> Tensor:
    """Logistic regression on features of unit length, one task after the other (inductive).

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1; each class has an item.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        inverse_penalty: C, above 0; the greater it is, the closer the fit.

    Returns:
        [T, Q, N] log-probabilities ≤ 0, without gradient.

    Reference: Tian et al. 2020; see `logistic_regression`, which takes the features as they are.
    """
    return logistic_regression(unit(shots), y, ways, unit(queries), inverse_penalty=inverse_penalty)
