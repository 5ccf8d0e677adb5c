"""LaplacianShot: near queries get the same class.

Imtiaz Masud Ziko, Jose Dolz, Eric Granger, Ismail Ben Ayed: "Laplacian Regularized Few-Shot Learning", ICML
2020.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.arguments import check_whole
from quickstudy.metric.distances import cosines, prototypes, squared_distances
from quickstudy.metric.features.normalization import Mean, centered
from quickstudy.metric.heads import transductive

SHARPNESS = 10.0
"""Factor of the cosines by which class means are rectified."""
TOLERANCE, MOST = 1e-6, 20
"""The assignments have converged when their bound changes by no larger share; so many updates at most."""


@transductive
def laplacian_shot(
    shots: Tensor,
    y: Tensor,
    ways: int,
    queries: Tensor,
    *,
    mean: Mean | None = None,
    neighbors: int = 2,
    smoothness: float = 0.7,
) -> Tensor:
    r"""LaplacianShot: assignments to class means that change little between near queries (transductive).

    Features are centered and of unit length, as in `simple_shot_cl2n`, and class means $m_k$ are rectified by
    the queries, nearly as in `bd_cspn`: the queries are moved by the difference of the means of support and
    queries; each item is given to the nearest class by its cosine, and a class mean becomes the mean of its
    items x, each times its share $\operatorname{softmax}_k(10 \cos(x, m_k))$. With $w_{qp}$ 1 if p is among
    the nearest queries of q, else 0, the assignments begin as
    $y_q = \operatorname{softmax}_k(-\lVert x_q - m_k \rVert^2)$ and are updated by

    $$y_{qk} \propto \exp\left(-\lVert x_q - m_k \rVert^2 + \lambda \sum_p w_{qp} y_{pk}\right)$$

    until their bound, $\sum_{qk} y_{qk} (\log y_{qk} + \lVert x_q - m_k \rVert^2 - \lambda \sum_p w_{qp}
    y_{pk})$, changes by no more than 1e-6 of it, at most 20 times.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        mean: [D] mean of the features of the training classes, `mean_of(pool)`; None for that of the task's
            support, where no training classes are known.
        neighbors: Number of nearest queries of a query, at least 1; where there are fewer, all.
        smoothness: λ ≥ 0.

    Returns:
        [T, Q, N] log-probabilities.

    Raises:
        ValueError: If there are no neighbors, or the mean has another length than the features.

    Reference: Ziko et al. 2020, algorithm 1; the rectification and 2 neighbors (3 with the query itself) as
    in the authors' code.

    Departures: the authors choose λ on validation classes, from 0.1 up; here it is 0.7, as in easyfsl 1.5,
    which rectifies means as its BD-CSPN does, and leaves features as they are. A class whose items are all
    given to others keeps its mean.
    """
    z, q = centered(shots, queries, mean)
    means, moved = _rectified(z, y, ways, q)
    return smoothed(squared_distances(moved, means), moved, neighbors, smoothness)


def _rectified(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Class means [T, N, D] that take in queries, and the queries [T, Q, D] as they were moved."""
    means = prototypes(shots, y, ways)
    moved = queries + (shots.mean(1, keepdim=True) - queries.mean(1, keepdim=True))
    items = torch.cat([shots, moved], 1)
    near = cosines(items, means)
    given = F.one_hot(near.argmax(-1), ways).to(items.dtype)
    weights = (given * (SHARPNESS * near).softmax(-1)).mT
    number = given.sum(1).unsqueeze(2)
    return torch.where(number > 0, weights @ items / number.clamp_min(1), means), moved


def smoothed(cost: Tensor, queries: Tensor, neighbors: int, smoothness: float) -> Tensor:
    """Log-probabilities [T, Q, N] after the updates of the assignments.

    Args:
        cost: [T, Q, N] squared distances of the queries to the class means.
        queries: [T, Q, D] features of the queries, by which neighbors are told.
        neighbors: Number of nearest queries of a query.
        smoothness: λ ≥ 0.
    """
    check_whole(1, neighbors=neighbors)
    affinity = _affinity(queries, neighbors)
    found = (-cost).log_softmax(-1)
    bound = torch.full_like(cost[:, :1, :1], torch.inf)
    done = torch.zeros_like(bound, dtype=torch.bool)
    for i in range(MOST):
        found = torch.where(done, found, (smoothness * (affinity @ found.exp()) - cost).log_softmax(-1))
        p = found.exp()
        before, bound = bound, (p * (found + cost - smoothness * (affinity @ p))).sum((1, 2), keepdim=True)
        if i > 1:
            done = done | ((bound - before).abs() <= TOLERANCE * before.abs())
        if done.all():
            break
    return found


def _affinity(queries: Tensor, neighbors: int) -> Tensor:
    """[T, Q, Q] 1 where query p is among the nearest of q, else 0."""
    away = squared_distances(queries, queries)
    away = away + torch.diag_embed(torch.full_like(away[:, 0], torch.inf))
    near = away.topk(min(neighbors, away.shape[1] - 1), -1, largest=False).indices
    return torch.zeros_like(away).scatter_(-1, near, 1.0)
